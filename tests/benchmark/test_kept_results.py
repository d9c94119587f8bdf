"""What a scored run keeps in files: damaged, of other judges, with names that are markup; and what tells two models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from label_files import write_json
from llava_grounding.benchmark.building import BuildInputs
from llava_grounding.benchmark.comparison import compare_folders
from llava_grounding.benchmark.judging import DeterministicJudge, RecordedJudge
from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction
from llava_grounding.benchmark.report import hash_settings, hash_weights
from llava_grounding.benchmark.results_page import results_page
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, SampleSet
from llava_grounding.benchmark.scored_runs import SCORED, SCORES, read_scored, results_of, score_run, write_scored
from llava_grounding.benchmark.systems import SystemSpec
from llava_grounding.benchmark.tasks import find_task
from llava_grounding.errors import DataError, UsageError

EVIL = "<script>alert(1)</script>|\n\x1b[31m[x](javascript:y)<img src=x onerror=1>"
TASK = find_task("grounding-bench")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scored run whose every name comes from somebody who means no good."""
    things = (LabelledInstance("cat", (0, 0, 10, 10)), LabelledInstance(EVIL, (20, 20, 30, 30)))
    rows = tuple(BenchmarkSample(f"{EVIL}{n}", EVIL, (40, 30), "detail", "What?", instances=things) for n in (0, 1))
    samples = SampleSet(TASK.name, EVIL, rows, {EVIL: "x"}, (EVIL,), {EVIL: 3})
    phrase = PredictedPhrase("a cat", (PredictedRegion((0, 0, 10, 10), 0.9),))
    said = [Prediction(one.id, f"a cat {EVIL}", (phrase,)) for one in rows]
    system = {"kind": "imported", "name": EVIL}
    scored = score_run(samples, {one.id: one for one in said}, DeterministicJudge(), system, {EVIL: 2}, [EVIL])
    write_scored(tmp_path / "run", replace(scored, about=replace(scored.about, versions={EVIL: "1"})))
    (tmp_path / "judged.jsonl").write_text("")
    return tmp_path / "run"


def test_no_name_becomes_markup(folder: Path) -> None:
    results = results_of(folder)
    page, text = results_page(results), results.to_markdown() + compare_folders(folder, folder).to_markdown()
    for form in (page, text):
        assert "<script" not in form
        assert "<img" not in form
        assert "\x1b" not in form
    assert "](javascript" not in text.replace("\\](javascript", "")
    rows = [line for line in results.to_markdown().splitlines() if line.startswith("| grounded")]
    assert rows
    assert {line.count("|") - line.count("\\|") for line in rows} == {4}


def change_about(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / SCORED).read_text())
        about[key] = value
        write_json(folder / SCORED, about)

    return change


def change_score(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        first, *others = (folder / SCORES).read_text().splitlines()
        rows = [json.dumps(json.loads(first) | {key: value}), *others]
        (folder / SCORES).write_text("".join(f"{row}\n" for row in rows))

    return change


DAMAGES = {
    **{f"about {key}": change_about(key, 5) for key in ("set", "task", "system", "judge", "versions", "rules")},
    **{f"about {key}": change_about(key, None) for key in ("problems", "named_problems", "judge_questions", "notes")},
    "about metrics": change_about("extra_metrics", [{"name": 1}]),
    "about set's name": change_about("set", {"count": 2}),
    "about set's count": change_about("set", dict.fromkeys(("name", "split", "sha256"), "x")),
    "quality": change_score("quality", "x"),
    "no number": change_score("quality", float("nan")),
    "id": change_score("id", 5),
    "image": change_score("image", [1]),
    "detail": change_score("detail", 7),
    "size": change_score("detail", {"image_size": ["<", "b"]}),
    "box": change_score("detail", {"image_size": [9, 9], "truths": [{"box": ["<", 0, 1, 1], "text": ""}]}),
    "region": change_score("detail", {"image_size": [9, 9], "regions": [{"box": [0, 0, 1, 1], "text": ""}]}),
    "confidence": change_score("regions", [["nan", True]]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_scored_run_that_is_damaged_is_one_sentence(folder: Path, damage: str) -> None:
    DAMAGES[damage](folder)
    with pytest.raises(DataError, match=r"scored\.json is damaged|scores\.jsonl, line 1"):
        results_page(results_of(folder))


def test_what_a_scored_run_is_about_is_read_as_it_was_written(folder: Path) -> None:
    written = (folder / SCORED).read_bytes()
    run = read_scored(folder)
    assert (run.about.set.count, run.about.set.left_out, run.about.notes) == (2, {EVIL: 3}, (EVIL,))
    write_scored(folder, run)
    assert (folder / SCORED).read_bytes() == written
    assert results_of(folder, seed=3).to_dict().items() >= {**run.about.to_dict(), "seed": 3}.items()
    assert list(results_of(folder).to_dict())[:12] == [
        "report_version", "task", "title", "rules", "rules_version", "set", "notes", "system", "judge", "versions",
        "seed", "data",
    ]  # fmt: skip


def test_a_scored_run_with_labels_for_keys_is_refused_with_the_way_out(folder: Path) -> None:
    change_about("results_version", 1)(folder)
    with pytest.raises(DataError, match=r"scored\.json must be of version 2, got 1; score the run again"):
        results_of(folder)


def test_runs_of_two_judges_are_not_compared(folder: Path) -> None:
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    change_about("judge", {"judge": "recorded"})(other)
    assert compare_folders(folder, other).about.judges[1] == {"judge": "recorded"}
    change_about("judge", {"judge": "endpoint", "model": "some"})(other)
    with pytest.raises(UsageError, match="cannot be compared: their judge differs"):
        compare_folders(folder, other)


@pytest.mark.parametrize("right", [5, [[[0], 0]], [{"a": 1}], [[True, False]], [[0, 0], [0, 0]], ["00"]])
def test_a_recorded_verdict_of_another_form_is_none(folder: Path, right: Any) -> None:
    things = (LabelledInstance("cat", (0, 0, 10, 10)),)
    samples = (BenchmarkSample("a", "a.png", (40, 30), "detail", "What?", instances=things),)
    phrase = PredictedPhrase("a cat", (PredictedRegion((0, 0, 10, 10)),))
    path = folder.with_name("judged.jsonl")
    path.write_text(json.dumps({"sample": "a", "kind": "match", "verdict": {"right": right}}))
    (score,) = TASK.score_all(samples, [Prediction("a", "a cat", (phrase,))], RecordedJudge(path)).scores
    assert score.state == "not_judged"


@pytest.mark.parametrize(
    ("ref", "count"),
    [
        ({"image_id": 1, "sentences": ["nothing here"]}, 1),
        ({"image_id": "1", "sentences": [{"sent": "nothing here"}]}, 1),
        ({"image_id": 1, "sentences": [{"sent": "a <seg> of ours"}]}, 0),
        ({"image_id": 1, "sentences": None}, 0),
        ({"image_id": "a", "sentences": ["it"]}, 0),
        ({"sentences": ["it"]}, 0),
    ],
)
def test_expressions_that_mean_nothing_are_read_like_others(tmp_path: Path, ref: dict[str, Any], count: int) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    thing = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    data = {"images": [image], "annotations": [thing], "categories": [{"id": 1, "name": "dog"}]}
    refs = [{"image_id": 1, "ann_id": [1], "sentences": ["the dog"]}, {"ann_id": [-1], **ref}]
    inputs = BuildInputs(
        instances=write_json(tmp_path / "i.json", data),
        refs=write_json(tmp_path / "r.json", [{"split": "val", **one} for one in refs]),
        images=tmp_path,
    )
    samples = find_task("generalized-referring").build(inputs).samples
    assert [one.kind for one in samples[1:]] == ["no target"] * count


def test_a_model_of_another_threshold_is_another_system(tmp_path: Path) -> None:
    """Weights alone do not decide answers: a run that is resumed with other settings would mix two."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    abouts = []
    for threshold in (0.3, 0.4):
        write_json(tmp_path / "processor_config.json", {"score_threshold": threshold})
        hashes = hash_weights(tmp_path), hash_settings(tmp_path)
        abouts.append(SystemSpec("model", "mine", hashes[0], settings_hash=hashes[1]).about())
    assert abouts[0] != abouts[1]
    assert "settings_hash" not in SystemSpec("endpoint", "other").about()
