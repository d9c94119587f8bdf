"""Runs: resumed at the sample, shared by processes and a cluster, and always the identical report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from llava_grounding.benchmark import systems
from llava_grounding.benchmark.baselines import CentreBoxBaseline
from llava_grounding.benchmark.building import BuildInputs
from llava_grounding.benchmark.runs import ClusterPiece, Rank, Run, answer_piece
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, SampleSet
from llava_grounding.benchmark.systems import ChatSystem, EndpointSystem, SystemSpec
from llava_grounding.benchmark.tasks import TASKS, Ask, find_task
from llava_grounding.cli.benchmark_tasks import benchmarks
from llava_grounding.data.images import open_images
from llava_grounding.endpoints.client import BusyError, Reply
from llava_grounding.errors import DataError, UsageError
from llava_grounding.scenes.synthetic import draw_scene
from llava_grounding.structures import GroundedAnswer

REPORTS = ("report.json", "report.md", "report.html")


class Killed(BaseException):
    """Ends a run where it stands, as a signal would."""


class DyingSystem:
    """Answers as another does, so often, and then ends the process."""

    def __init__(self, system: ChatSystem, answers: int) -> None:
        self._system, self._left = system, answers

    def answer(self, block: Sequence[tuple[object, Ask]]) -> list[object]:
        if not self._left:
            raise Killed
        self._left -= 1
        return self._system.answer(block)


@pytest.fixture(scope="module")
def blind() -> CentreBoxBaseline:
    return CentreBoxBaseline([draw_scene(seed) for seed in range(3)])


@pytest.fixture
def system(blind: CentreBoxBaseline, mini_pack_root: Path) -> ChatSystem:
    return ChatSystem(blind, open_images(mini_pack_root))


@pytest.fixture(scope="module")
def samples(mini_pack_root: Path) -> SampleSet:
    return find_task("grounding-bench").build(BuildInputs(data=mini_pack_root))


@pytest.fixture
def spec(mini_pack_root: Path) -> SystemSpec:
    return SystemSpec("model", "blind", "00", images=str(mini_pack_root))


def command(*arguments: object) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(benchmarks, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def reports(folder: Path, samples: SampleSet) -> list[bytes]:
    file = folder.parent / "set.jsonl"
    samples.write(file)
    command("grounding-bench", "score", "--set", file, "--out", folder)
    return [(folder / name).read_bytes() for name in (*REPORTS, "predictions.jsonl", "scores.jsonl")]


def test_a_run_that_was_killed_anywhere_ends_in_the_identical_report(
    system: ChatSystem, samples: SampleSet, spec: SystemSpec, tmp_path: Path
) -> None:
    whole = Run(tmp_path / "whole", samples, spec)
    assert whole.work(system)
    assert not list((tmp_path / "whole/parts").iterdir())
    wanted = reports(tmp_path / "whole", samples)
    for answers in range(len(samples.samples)):
        folder = tmp_path / f"killed{answers}"
        with pytest.raises(Killed):
            Run(folder, samples, spec).work(DyingSystem(system, answers))
        part = folder / "parts/shard-0.jsonl"
        with part.open("ab") as stream:
            stream.write(b'{"block": 0, "predic')  # torn in the middle of a line
        assert len(Run(folder, samples, spec).missing()) == len(samples.samples) - answers
        assert Run(folder, samples, spec).work(system)
        assert (folder / "predictions.jsonl").read_bytes() == wanted[3]
    assert reports(folder, samples) == wanted
    assert json.loads(wanted[0])["results"][0]["counts"]["asked"] == len(samples.samples)


def test_two_processes_share_the_work_in_blocks(
    system: ChatSystem, samples: SampleSet, spec: SystemSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shared = Run(tmp_path / "whole", samples, spec, 2), Run(tmp_path / "shared", samples, spec, 2)
    whole.work(system)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Rank.of_launcher() == Rank(1, 2)
    assert not shared.work(system, Rank.of_launcher())
    assert shared.work(system, Rank(0, 2))
    one, two = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "shared"))
    assert one == two
    with pytest.raises(UsageError, match="block_size was 2, is 1"):
        Run(tmp_path / "whole", samples, spec, 1)
    with pytest.raises(UsageError, match="holds a run of another configuration"):
        Run(tmp_path / "whole", samples, SystemSpec("model", "other"), 2)


def test_what_fails_costs_no_other_sample(blind: CentreBoxBaseline, samples: SampleSet, tmp_path: Path) -> None:
    class Fails:
        def ask_batch(self, requests: Sequence[object], **_more: object) -> object:
            if len(requests) > 1 or requests[0][0].shape[0] == 60:
                raise DataError("out of memory")
            return blind.ask_batch(requests)

        def ground(self, image: object, phrases: Sequence[str]) -> object:
            raise DataError("no grounder")

    from PIL import Image

    for name in {one.image for one in samples.samples}:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    task = find_task("grounding-bench")
    block = [(one, task.ask(one)) for one in samples.samples]
    missing = ChatSystem(Fails(), open_images(tmp_path)).answer(block)
    assert all(one.error for one in missing)
    for name in {one.image for one in samples.samples}:
        Image.new("RGB", (80, 60)).save(tmp_path / name)
    failed = ChatSystem(Fails(), open_images(tmp_path)).answer(block)
    assert {one.error for one in failed} == {"out of memory", "no grounder"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
def test_a_cluster_gives_the_same_bytes(
    system: ChatSystem, samples: SampleSet, spec: SystemSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    whole = Run(tmp_path / "whole", samples, spec)
    whole.work(system)
    monkeypatch.setattr(systems, "load_system", lambda *_given: system)
    monkeypatch.setattr("llava_grounding.benchmark.runs.load_system", lambda *_given: system)
    first = ClusterPiece(spec, samples.task, (samples.samples[0].to_dict(),))
    assert answer_piece(first)[0]["id"] == samples.samples[0].id

    # Workers that are threads of this process; `tests/cluster` has processes, and kills one.
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp"
    ) as cluster:
        run = Run(tmp_path / "cluster", samples, spec)
        assert run.work_on_cluster(cluster.scheduler_address)
    one, two = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "cluster"))
    assert one == two


def test_a_picture_is_asked_about_as_its_labels_see_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    seen = []

    class Looks(CentreBoxBaseline):
        def ask(self, image: np.ndarray, *rest: Any) -> GroundedAnswer:
            seen.append(image.shape[:2])
            return super().ask(image, *rest)

    things = (LabelledInstance("dog", (0, 0, 10, 10)),)
    asked = [BenchmarkSample(str(wh), "a.jpg", wh, question="What?", instances=things) for wh in ((40, 20), (20, 40))]
    system = ChatSystem(Looks([draw_scene(0)]), open_images(tmp_path))
    answers = system.answer([(one, Ask(one.question)) for one in asked])
    assert [one.error for one in answers] == [None, None]
    assert seen == [(20, 40), (40, 20)]


def test_every_task_of_the_registry_is_one_and_an_unknown_one_offers_the_nearest() -> None:
    tasks = [find_task(name) for name in TASKS]
    assert [task.name for task in tasks] == list(TASKS)
    assert all(task.rules and task.title for task in tasks)
    with pytest.raises(UsageError, match="did you mean `pope`"):
        find_task("popes")


def test_predictions_of_others_are_scored_by_one_command_and_two_systems_compared(
    samples: SampleSet, tmp_path: Path
) -> None:
    file = tmp_path / "set.jsonl"
    samples.write(file)
    dogs = samples.samples[0]
    width, height = dogs.image_size_wh
    x0, y0, x1, y1 = dogs.instances[0].box_xyxy
    words = "a dog<script>alert(1)</script>"
    regions = [{"box": [x0, y0, x1, y1], "score": 0.7}]
    plain = [json.dumps({"id": dogs.id, "text": words, "phrases": [{"text": "a dog", "regions": regions}]}), "{broken"]
    mille = [round(1000 * side / size) for side, size in zip((x0, y0, x1, y1), (width, height) * 2, strict=True)]
    box = f"({mille[0]},{mille[1]}),({mille[2]},{mille[3]})"
    qwen = [
        json.dumps({"id": dogs.id, "text": f"<ref>a dog</ref><box>{box}</box> and <ref>a car</ref><box>{box}</box>"})
    ]
    shares = f"[{x0 / width:.3f},{y0 / height:.3f},{x1 / width:.3f},{y1 / height:.3f}]"
    original = [json.dumps({"question_id": dogs.id, "text": "A dog.", "text_boxes": f"A dog{shares}."})]
    found = {}
    for name, lines in (("plain", plain), ("qwen-vl", qwen), ("original", original)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        out = tmp_path / name
        said = command("grounding-bench", "score", "--set", file, "--out", out, "--predictions",
                       tmp_path / f"{name}.jsonl", "--format", name, "--name", name)  # fmt: skip
        assert "grounded F1 (box IoU 0.5)" in said
        found[name] = json.loads((out / "report.json").read_text())
    precision = {name: one["results"][0]["metrics"][0]["value"] for name, one in found.items()}
    assert precision == {"plain": 1.0, "qwen-vl": 0.5, "original": 1.0}
    counts = found["plain"]["results"][0]["counts"]
    assert (counts["answered"], counts["missing"]) == (1, len(samples.samples) - 1)
    assert found["plain"]["problems"] == {"no_json": 1}
    assert found["plain"]["published"][0]["table"] == "4"
    page, text = ((tmp_path / "plain" / name).read_text() for name in ("report.html", "report.md"))
    assert "<script" not in page
    assert "line 2: no JSON" in page
    assert "| grounded precision (box IoU 0.5) ↑ | 1.000 [1.000, 1.000] | 1 |" in text
    assert "| missing |" in text
    assert "| no JSON | 1 |" in text
    compared = json.loads(command("compare", tmp_path / "plain", tmp_path / "qwen-vl", "--json"))
    assert compared["differences"][0]["difference"] == -0.5
    assert (compared["about"]["first"], compared["about"]["second"]) == ("plain", "qwen-vl")
    assert "| grounded precision (box IoU 0.5) ↑ | 1.000 | 0.500 | -0.500 |" in command(
        "compare", tmp_path / "plain", tmp_path / "qwen-vl"
    )
    again = json.loads(command("grounding-bench", "report", tmp_path / "plain", "--json"))
    assert again == found["plain"]
    with pytest.raises(UsageError, match="holds scores of grounding-bench, not of pope"):
        command("pope", "report", tmp_path / "plain")
    with pytest.raises(UsageError, match="is a set of grounding-bench, not of vsr"):
        command("vsr", "score", "--set", file, "--out", tmp_path / "vsr")
    with pytest.raises(UsageError, match="finish `run`, or give --predictions"):
        command("grounding-bench", "score", "--set", file, "--out", tmp_path / "none")
    given = ("--predictions", tmp_path / "plain.jsonl", "--judge", "gpt")
    with pytest.raises(UsageError, match="needs --judge-url"):
        command("grounding-bench", "score", "--set", file, "--out", tmp_path / "plain", *given)
    with pytest.raises(UsageError, match="'x' is not one of 'scenes', 'photos', 'grounding-bench'"):
        command("x")


def test_an_endpoint_with_our_grounding_is_a_system(samples: SampleSet, mini_pack_root: Path) -> None:
    task = find_task("grounding-bench")
    calls = []
    answer = {"version": 1, "text": "a dog", "image_size": [80, 60], "raw": "", "model": "m",
              "usage": {"prompt_tokens": 1, "completion_tokens": 1},
              "phrases": [{"id": 0, "text": "a dog", "span": [0, 5], "score": 0.5,
                           "regions": [{"box": [1, 2, 30, 40], "score": 0.5, "area": 9, "mask": None}]}]}  # fmt: skip

    class Server:
        async def complete(self, body: dict[str, object]) -> Reply:
            calls.append(body)
            if len(calls) == 1:
                raise BusyError("wait", pause=0.0)
            return Reply("a dog", 1, 1, {"grounding": answer} if body["grounding"]["mode"] == "auto" else {})

        async def post(self, path: str, body: dict[str, object]) -> object:
            calls.append(path)
            return {"phrases": [{"text": one, "regions": answer["phrases"][0]["regions"]} for one in body["phrases"]]}

        async def close(self) -> None:
            """Nothing is open."""

    spec = SystemSpec("endpoint", "m", base_url="http://127.0.0.1:1/v1", images=str(mini_pack_root))
    system = EndpointSystem(spec, open_images(mini_pack_root), Server, first_wait=0.0)
    block = [(one, task.ask(one)) for one in samples.samples]
    answers = system.answer(block)
    assert all(one.error is None for one in answers), answers
    assert {tuple(one.phrases[0].regions[0].box_xyxy) for one in answers} == {(1, 2, 30, 40)}
    assert "/ground" in calls
    assert calls[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
