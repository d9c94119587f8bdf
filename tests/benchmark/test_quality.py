"""The quality report, on chats whose score is known beforehand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image
from rich.console import Console

from llava_grounding.benchmark import quality
from llava_grounding.benchmark.adapters import adapter
from llava_grounding.benchmark.baselines import AnsweringSystem, CentreBoxBaseline, MostFrequentAnswerBaseline, Request
from llava_grounding.benchmark.building import BuildInputs
from llava_grounding.benchmark.judging import DeterministicJudge
from llava_grounding.benchmark.predictions import read_predictions
from llava_grounding.benchmark.quality import (
    DESCRIBE,
    FIRST_UNSEEN_SEED,
    _samples,
    evaluate_photos,
    evaluate_scenes,
)
from llava_grounding.benchmark.quality_scores import POPE
from llava_grounding.benchmark.report import hash_weights
from llava_grounding.benchmark.results import SystemResult
from llava_grounding.benchmark.results_page import results_page
from llava_grounding.benchmark.runs import PREDICTIONS, Run
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.scored_runs import results_of, score_run, write_scored
from llava_grounding.benchmark.systems import ChatSystem, SystemSpec
from llava_grounding.benchmark.tasks import find_task
from llava_grounding.data.readers.coco import PhotoPack
from llava_grounding.data.sample import Sample, Turn
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.errors import DataError, ImageError
from llava_grounding.geometry import box_area
from llava_grounding.markup import parse_strict
from llava_grounding.scenes.records import ScenePictures
from llava_grounding.scenes.synthetic import draw_scene
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region, VisualPrompt

NUM_SCENES = 6


class FakeChat:
    """Finds the sample by its pixels and answers with a turn; `answer_of` picks the turn."""

    def __init__(self, samples: Sequence[Sample], answer_of: Callable[[Sample, str], Turn | None]) -> None:
        self.samples = {sample.image.tobytes(): sample for sample in samples}
        self.answer_of = answer_of
        self.asked: list[str] = []

    def ask(
        self, image: np.ndarray, question: str, prompts: Sequence[VisualPrompt] = (), grounded: bool = True
    ) -> GroundedAnswer:
        self.asked.append(question)
        sample = self.samples[image.tobytes()]
        turn = self.answer_of(sample, question)
        if turn is None:
            return GroundedAnswer("", (), sample.image_size_wh, "", "fake", 0, 0)
        parsed = parse_strict(turn.answer)
        phrases = tuple(
            GroundedPhrase(n, phrase.text, phrase.span, regions_of(sample, turn.targets[n] or ()), 1.0)
            for n, phrase in enumerate(parsed.phrases)
        )
        return GroundedAnswer(parsed.text, phrases, sample.image_size_wh, turn.answer, "fake", 0, 0)

    def ask_batch(self, requests: Sequence[Request]) -> list[GroundedAnswer]:
        return [self.ask(*request) for request in requests]

    def ground(self, image: np.ndarray, phrases: Sequence[str]) -> list[GroundedPhrase]:
        sample = self.samples[image.tobytes()]
        found = []
        for number, text in enumerate(phrases):
            turn = self.answer_of(sample, text)
            regions = regions_of(sample, turn.targets[0] or ()) if turn is not None and turn.targets else ()
            found.append(GroundedPhrase(number, text, (0, len(text)), regions, 0.5))
        return found


def regions_of(sample: Sample, rows: Sequence[int]) -> tuple[Region, ...]:
    return tuple(
        Region(sample.instances[i].box_xyxy, 1.0, sample.masks[i] if sample.instances[i].has_mask else None)
        for i in rows
    )


def truth_of(sample: Sample, question: str) -> Turn | None:
    """The turn with this question, or whose first phrase is it."""
    for turn in sample.turns:
        if not turn.grounded:
            continue
        if turn.question == question or (question == DESCRIBE and turn.kind == "describe"):
            return turn
        phrases = parse_strict(turn.answer).phrases
        if turn.kind in ("find", "where") and phrases and phrases[0].text.lower() == question.lower():
            return turn
    return None


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    return [draw_scene(FIRST_UNSEEN_SEED + index) for index in range(NUM_SCENES)]


def scene_result(chat: AnsweringSystem) -> SystemResult:
    return evaluate_scenes(chat, NUM_SCENES, baseline_scenes=0).results[0]


def test_an_oracle_is_right_about_everything_in_scenes(scenes: list[Sample]) -> None:
    result = scene_result(FakeChat(scenes, truth_of))
    ones = [
        "grounded precision (box IoU 0.5)",
        "grounded recall (box IoU 0.5)",
        "grounded F1 (box IoU 0.5)",
        "grounded F1 (mask IoU 0.5)",
        "mask IoU of right regions",
        "referring box acc@0.5",
        "referring mask mIoU",
        "referring mask cIoU",
        "objects named: precision",
        "objects named: recall",
        "count accuracy",
        "region naming accuracy",
        "yes/no accuracy",
        "yes/no F1",
    ]
    assert {name: result[name].value for name in ones} == dict.fromkeys(ones, 1.0)
    assert result.asked == result.answered > 6 * NUM_SCENES
    assert result.unparsable == 0
    assert result["CIDEr-D"].value == pytest.approx(10.0)


def test_silence_finds_nothing_and_has_no_precision(scenes: list[Sample]) -> None:
    result = scene_result(FakeChat(scenes, lambda sample, question: None))
    assert result["grounded precision (box IoU 0.5)"].value is None
    assert str(result["grounded precision (box IoU 0.5)"]) == "–"
    for name in (
        "grounded recall (box IoU 0.5)",
        "grounded F1 (box IoU 0.5)",
        "referring box acc@0.5",
        "count accuracy",
    ):
        assert result[name].value == 0.0
    assert result["referring mask mIoU"].value == 0.0
    assert result.unparsable > 0


def test_right_words_on_the_wrong_things_are_worth_nothing(scenes: list[Sample]) -> None:
    def misplaced(sample: Sample, question: str) -> Turn | None:
        turn = truth_of(sample, question)
        if turn is None:
            return None
        names = [thing.category for thing in sample.instances]
        another = [[k for k, name in enumerate(names) if name != own][:1] for own in names]  # none where all are alike
        return replace(
            turn, targets=tuple(rows and tuple(k for i in rows for k in another[i]) for rows in turn.targets)
        )

    result = scene_result(FakeChat(scenes, misplaced))
    precision = result["grounded precision (box IoU 0.5)"]
    assert precision.value == result["grounded F1 (box IoU 0.5)"].value == 0.0
    assert precision.count > NUM_SCENES
    assert result["objects named: precision"].value == 1.0
    assert result["CIDEr-D"].value == pytest.approx(10.0)


def test_what_is_doubted_and_what_is_small_is_counted_apart(scenes: list[Sample]) -> None:
    """Of a chat that finds only large things, and doubts its last phrase, which it sees in a corner."""
    corner = Region(np.array([0.0, 0.0, 1.0, 1.0]), 0.35)

    class Wavers(FakeChat):
        def ask(
            self, image: np.ndarray, question: str, prompts: Sequence[VisualPrompt] = (), grounded: bool = True
        ) -> GroundedAnswer:
            answer = super().ask(image, question, prompts, grounded)
            if question != DESCRIBE or not grounded:
                return answer
            tenth = image.shape[0] * image.shape[1] / 10
            phrases = [
                replace(one, regions=tuple(region for region in one.regions if box_area(region.box_xyxy) >= tenth))
                for one in answer.phrases
            ]
            phrases[-1] = replace(phrases[-1], regions=(corner,), score=corner.score, doubtful=True)
            return replace(answer, phrases=tuple(phrases))

    report = evaluate_scenes(Wavers(scenes, truth_of), NUM_SCENES, baseline_scenes=0)
    result = report.results[0]
    doubtful, others = result["precision of doubtful regions"], result["precision of other regions"]
    assert (doubtful.value, doubtful.count, others.value) == (0.0, NUM_SCENES, 1.0)
    assert result["grounded recall of medium things"].value == 0.0
    assert 0 < result["grounded recall of large things"].value <= 1
    curve = result.calibration
    assert curve is not None
    assert curve.bins == ((pytest.approx(0.35), 0.0, NUM_SCENES), (1.0, 1.0, curve.regions - NUM_SCENES))
    assert f"| 0.350 | 0.000 | {NUM_SCENES} |" in report.to_markdown()


def test_answers_without_regions_stand_beside_those_with_them(scenes: list[Sample]) -> None:
    class SpeaksWhenNotAskedToPoint(FakeChat):
        def ask(
            self, image: np.ndarray, question: str, prompts: Sequence[VisualPrompt] = (), grounded: bool = True
        ) -> GroundedAnswer:
            answer = super().ask(image, question, prompts, grounded)
            return answer if prompts or not grounded else replace(answer, text="", phrases=())

    result = scene_result(SpeaksWhenNotAskedToPoint(scenes, truth_of))
    assert (result["CIDEr-D"].value, result["CIDEr-D, without regions"].value) == (0.0, pytest.approx(10.0))
    assert result["answers in words right"].value == 0.0
    assert result["answers in words right, without regions"].value == 1.0
    assert result["region naming accuracy"].value == 1.0
    oracle = scene_result(FakeChat(scenes, truth_of))
    assert oracle["answers in words right"].value == oracle["answers in words right, without regions"].value == 1.0


def test_a_chat_that_fails_is_counted_as_not_answering_and_not_as_wrong(scenes: list[Sample]) -> None:
    class Broken(FakeChat):
        def ask(
            self, image: np.ndarray, question: str, prompts: Sequence[VisualPrompt] = (), grounded: bool = True
        ) -> GroundedAnswer:
            if question == DESCRIBE and grounded:
                raise ImageError("no")
            return super().ask(image, question, prompts, grounded)

    result = scene_result(Broken(scenes, truth_of))
    assert result.asked - result.answered == 2 * NUM_SCENES  # with regions, and once more without
    assert result.counts["failed"] == NUM_SCENES
    assert "grounded recall (box IoU 0.5)" not in {metric.name for metric in result.metrics}


def test_the_report_is_the_same_twice_but_for_seconds(scenes: list[Sample]) -> None:
    chat = FakeChat(scenes, truth_of)
    reports = [evaluate_scenes(chat, NUM_SCENES, model="oracle", baseline_scenes=5).to_dict() for _ in range(2)]
    for report in reports:
        for result in report["results"]:
            result["metrics"] = [m for m in result["metrics"] if m["unit"] != "s"]
            for case in (*result["worst"], *result["best"]):
                case["rows"].pop("seconds_per_description", None)
    assert reports[0] == reports[1]


def test_blind_baselines_stand_beside_the_model_and_score_low(scenes: list[Sample]) -> None:
    report = evaluate_scenes(FakeChat(scenes, truth_of), NUM_SCENES, model="oracle", baseline_scenes=20)
    assert [r.system for r in report.results] == ["oracle", "centre box", "most frequent answer"]
    for result in report.results[1:]:
        assert result["grounded F1 (box IoU 0.5)"].value < 0.3
        assert result.answered == result.asked


def test_baselines_say_what_training_says_most(scenes: list[Sample]) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    centre = CentreBoxBaseline(scenes).ask(image, "Describe the image.")
    assert centre.text.startswith("There is a")
    assert centre.phrases[0].regions[0].box_xyxy.tolist() == [15, 10, 45, 30]
    mask = centre.phrases[0].regions[0].mask
    assert mask is not None
    assert mask.sum() == 600
    frequent = MostFrequentAnswerBaseline(scenes)
    counts = [t.answer for s in scenes for t in s.turns if t.question.startswith("How many")]
    assert frequent.raw_answer("How many zebras are there?") == max(sorted(set(counts)), key=counts.count)
    assert frequent.ground(image, ["a", "b"])[1].text == "b"
    with pytest.raises(DataError, match="needs training samples"):
        MostFrequentAnswerBaseline([])
    with pytest.raises(DataError, match="needs training samples"):
        CentreBoxBaseline([])


def test_an_oracle_is_right_about_everything_in_photos(mini_pack_root: Path) -> None:
    pack = PhotoPack(mini_pack_root)
    samples = [photo_sample(r, np.random.default_rng([0, r.image_id])) for r in pack.split("val")]

    def knows(sample: Sample, question: str) -> Turn | None:
        truths = {"Is there a dog in the image?": "Yes.", "Is there a car in the image?": "No."}
        if sample.id == "yard/dogs.jpg" and question in truths:
            return Turn(question, truths[question], kind=POPE)
        return truth_of(sample, question)

    report = evaluate_photos(FakeChat(samples, knows), pack)
    (result,) = report.results
    assert result["POPE accuracy"].value == 1.0
    assert result["POPE accuracy"].count == 2
    assert result["POPE share of yes"].value == 0.5
    assert result["grounded F1 (box IoU 0.5)"].value == 1.0
    assert result["grounded F1 (box IoU 0.5)"].count == 6
    assert result["grounded F1 (mask IoU 0.5)"].count == 5
    assert result["referring box acc@0.5"].value == 1.0
    by_source = {name: result[f"grounded F1 of {name}"] for name in ("street", "yard")}
    assert {name: (one.value, one.count) for name, one in by_source.items()} == {"street": (1.0, 2), "yard": (1.0, 4)}
    assert any("not judged" in note for note in report.about.notes)


def test_what_is_asked_of_a_photo_that_was_made_smaller_is_in_pixels_of_the_photo() -> None:
    small = draw_scene(0)
    width, height = small.image_size_wh
    one, two = (
        list(_samples(small, BenchmarkSample("0", "0.png", (width * k, height * k)), ["A scene."])) for k in (1, 2)
    )
    for before, after in zip(one, two, strict=True):
        assert np.array_equal(2 * before.boxes_xyxy(), after.boxes_xyxy())
        assert all(thing.mask is None or thing.mask["size"] == [2 * height, 2 * width] for thing in after.instances)
        for least, most in zip(before.visual_prompts(), after.visual_prompts(), strict=True):
            if most.mask is not None:
                assert most.mask.shape == (2 * height, 2 * width)
            else:
                numbers = ((one.points_xy if one.box_xyxy is None else one.box_xyxy) for one in (least, most))
                assert np.array_equal(2 * next(numbers), next(numbers))
    assert any(one.prompts for one in two)


def test_pictures_are_those_of_the_evaluation_with_labels(
    mini_pack_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = PhotoPack(mini_pack_root)
    samples = [photo_sample(r, np.random.default_rng([0, r.seed])) for r in pack.split("val")]
    targets = {sample.image.tobytes(): ((0,) if sample.instances else (),) for sample in samples}
    chat = FakeChat(
        samples, lambda sample, question: Turn(question, "<g_s> It <g_e> <seg>", targets[sample.image.tobytes()])
    )
    drawn: dict[str, Image] = {}
    evaluate_photos(chat, pack, baseline_photos=0, on_drawn=drawn.__setitem__)
    once_more = sum(bool(record.captions) for record in pack.split("val"))  # without regions; not to be drawn
    assert chat.asked.count(DESCRIBE) == len(samples) + once_more
    assert list(drawn) == ["0", "1", "3"]  # photo 2 has captions only
    assert np.asarray(drawn["0"].convert("RGB")).std() > 1.5 * samples[0].image.std()  # a box, a mask and a legend
    monkeypatch.setattr(quality, "_MOST_DRAWN", 2)
    drawn.clear()
    evaluate_photos(chat, pack, baseline_photos=0, on_drawn=drawn.__setitem__)
    assert list(drawn) == ["0", "1"]


def test_a_limit_spreads_over_the_split(mini_pack_root: Path) -> None:
    pack = PhotoPack(mini_pack_root)
    samples = [photo_sample(r, np.random.default_rng([0, r.image_id])) for r in pack.split("val")]
    report = evaluate_photos(FakeChat(samples, truth_of), pack, limit=2)
    assert report.results[0].counts["images"] == 2


def test_without_a_number_scenes_are_as_many_as_the_task_says(
    scenes: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "DEFAULT_SCENES", 2)
    chat = FakeChat(scenes, truth_of)
    drawn: dict[str, Image] = {}
    results = evaluate_scenes(chat, baseline_scenes=0, on_drawn=drawn.__setitem__)
    assert results.results[0].counts["images"] == 2
    assert list(drawn) == [str(FIRST_UNSEEN_SEED), str(FIRST_UNSEEN_SEED + 1)]


def test_a_report_of_several_systems_is_json_and_one_table(scenes: list[Sample]) -> None:
    report = evaluate_scenes(
        FakeChat(scenes, truth_of), 2, model="oracle", model_hash="abcdef0123456789", baseline_scenes=3
    )
    value = json.loads(report.to_json())
    about = {name: value[name] for name in ("task", "data", "num_images", "seed", "model", "model_hash")}
    assert about == {"task": "scenes", "data": "unseen drawn scenes", "num_images": 2, "seed": 0, "model": "oracle",
                     "model_hash": "abcdef0123456789"}  # fmt: skip
    assert [key for key in value if key.endswith("_version")] == ["report_version", "rules_version"]
    assert value.keys().isdisjoint(("metrics", "counts", "calibration", "worst", "best"))  # of a system, not of all
    cases = [case for one in value["results"] for case in (*one["worst"], *one["best"])]
    keys = {metric["key"] for one in value["results"] for metric in one["metrics"]}
    keys |= {key for one in (*cases, *({"rows": one["counts"]} for one in value["results"])) for key in one["rows"]}
    assert {"grounded_box_f1", "objects_precision", "yes_no_accuracy", "not_judged", "judge_asked"} <= keys
    assert all(re.fullmatch("[a-z0-9_]+", key) for key in keys)
    assert report["grounded_box_f1"] == report["grounded F1 (box IoU 0.5)"]
    assert [one["system"] for one in value["results"]] == ["oracle", "centre box", "most frequent answer"]
    markdown = report.to_markdown()
    assert "model_hash abcdef0123456789" in markdown
    assert "| metric | oracle | centre box | most frequent answer | n |" in markdown
    assert "| seconds per description ↓ |" in markdown
    assert "| asked |" in markdown
    headings = re.findall("^## (.*)$", markdown, re.MULTILINE)
    assert [one.partition(" (")[0] for one in headings] == [
        "Calibration of oracle",
        "Worst cases of oracle",
        "Best cases of oracle",
    ]
    assert re.findall("<h2>(.*) cases of oracle</h2>", results_page(report)) == ["Worst", "Best"]
    table = report.to_table()
    assert table.row_count == len(report.rows())
    assert len(table.columns) == 5
    printed = StringIO()
    Console(file=printed, width=80).print(report.to_table(80))
    assert max(map(len, printed.getvalue().splitlines())) <= 80
    assert "[" not in "".join(cell.plain for column in report.to_table(80).columns for cell in column.cells)


def test_scenes_are_a_task_whose_steps_give_the_numbers_of_the_whole(scenes: list[Sample], tmp_path: Path) -> None:
    class Doubts(FakeChat):
        def ask(
            self, image: np.ndarray, question: str, prompts: Sequence[VisualPrompt] = (), grounded: bool = True
        ) -> GroundedAnswer:
            answer = super().ask(image, question, prompts, grounded)
            first = [replace(one, doubtful=True) for one in answer.phrases[:1]]
            return replace(answer, phrases=(*first, *answer.phrases[1:]))

    task, chat = find_task("scenes"), Doubts(scenes, truth_of)
    samples = task.build(BuildInputs(limit=2))
    samples.write(tmp_path / "set.jsonl")
    samples = SampleSet.read(tmp_path / "set.jsonl")
    run = Run(tmp_path / "run", samples, SystemSpec("model", "oracle", images=task.pictures))
    assert run.work(ChatSystem(chat, ScenePictures()))
    said = read_predictions(tmp_path / "run" / PREDICTIONS, samples, adapter("plain")).by_id
    write_scored(tmp_path / "run", score_run(samples, said, DeterministicJudge(), run.spec.about()))
    steps, (whole,) = results_of(tmp_path / "run"), evaluate_scenes(chat, 2, baseline_scenes=0).results
    assert steps["precision of doubtful regions"].count > 0
    assert steps.results[0].metrics == tuple(one for one in whole.metrics if one.unit != "s")
    assert (steps.results[0].questions, steps.results[0].counts) == (whole.questions, whole.counts)
    assert whole.counts["images"] == 2
    assert "<svg" in results_page(steps)


def test_the_hash_of_weights_changes_with_them(tmp_path: Path) -> None:
    assert hash_weights(tmp_path) == ""
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = hash_weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert len(first) == 64
    assert hash_weights(tmp_path) != first


def test_progress_is_told_after_every_image(scenes: list[Sample]) -> None:
    seen: list[tuple[int, int]] = []
    chat = FakeChat(scenes, truth_of)
    evaluate_scenes(chat, 3, baseline_scenes=0, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.pack
def test_an_oracle_is_right_about_real_photos(photo_pack_root: Path) -> None:
    pack = PhotoPack(photo_pack_root)
    photos = pack.split("val")
    samples = [photo_sample(photos[i], np.random.default_rng([0, photos[i].image_id])) for i in range(0, 618, 103)]
    report = evaluate_photos(FakeChat(samples, truth_of), pack, limit=6, baseline_photos=20)
    oracle = report.results[0]
    assert oracle["referring box acc@0.5"].value == 1.0
    assert oracle["grounded precision (box IoU 0.5)"].value == 1.0
