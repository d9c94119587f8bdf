"""Kept results, labels and weights of others, in which one value is odd: whichever it is, what comes out is ours.

Each value of a good file is exchanged for ones that JSON can hold and nobody expects, beyond floating point above all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mutated_inputs import CONTEXT, LABELS, SAMPLE, SCORE

from annotate.miniature import write
from llava_grounding.annotate.assemble import MANIFEST
from llava_grounding.annotate.correct import correct
from llava_grounding.annotate.merge import merge
from llava_grounding.annotate.stats import compute_stats
from llava_grounding.annotate.write import RECORDS, REJECTED
from llava_grounding.benchmark.official_bench import _caps_boxes
from llava_grounding.benchmark.report import metric_from
from llava_grounding.benchmark.samples import BenchmarkSample
from llava_grounding.benchmark.scored_runs import _check_kept
from llava_grounding.benchmark.scores import SampleScore
from llava_grounding.cli.annotate_folder import summary
from llava_grounding.cli.main import run
from llava_grounding.errors import DataError, LlavaGroundingError
from llava_grounding.labelling.labels import result_from_dict
from llava_grounding.serve.label_studio import LabellingConfig, Pointing

ODD: tuple[Any, ...] = (
    *(10**400, 2**63, -1, 1e308, float("inf"), float("nan"), True, None, "", "x", "9" * 5000, "\ud800"),
    *([], [[]], [None], [1, 2], {}, {"a": 1}),
)
READERS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "labels": (LABELS, result_from_dict),
    "score": (SCORE, SampleScore.from_dict),
    "sample": (SAMPLE, BenchmarkSample.from_dict),
    "context": (CONTEXT, Pointing.parse),
}
"""A good value, and what reads it."""


def odd_ones(value: Any, values: Sequence[Any] = ODD) -> Iterator[Any]:
    """The value with each of its parts exchanged for each of `values`, and with each of its keys left out."""
    yield from values
    if isinstance(value, dict):
        yield from ({one: inner for one, inner in value.items() if one != key} for key in value)
        for key, inner in value.items():
            yield from ({**value, key: one} for one in odd_ones(inner, values))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ([*value[:place], one, *value[place + 1 :]] for one in odd_ones(inner, values))


def is_refused(read: Callable[[Any], object], value: Any) -> bool:
    """Whether reading the value is an error of ours; any other error fails the test."""
    try:
        read(value)
    except LlavaGroundingError:
        return True
    return False


def share_refused(read: Callable[[Any], object], value: Any) -> float:
    """How many of the odd values of a good one are refused; the good one is read."""
    assert not is_refused(read, value)
    refused = [is_refused(read, one) for one in odd_ones(value)]
    return sum(refused) / len(refused)


@pytest.mark.parametrize("name", READERS)
def test_what_was_kept_or_sent_is_read_or_refused(name: str) -> None:
    value, read = READERS[name]
    assert share_refused(read, value) > 0.5


def test_a_config_with_half_a_character_is_refused() -> None:
    with pytest.raises(DataError, match="must be XML"):
        LabellingConfig.parse("<View>\ud800</View>")


def test_metrics_of_a_scored_run_may_be_of_another_form() -> None:
    about = {
        **dict.fromkeys(("task", "title", "rules", "rules_version"), ""),
        "set": {"name": "a", "split": "a", "sha256": "a", "count": 0, "built_from": {}, "left_out": {}},
        "system": {},
        "judge": {},
        "versions": {},
        "problems": {},
        "named_problems": [],
        "notes": [],
        "judge_questions": 0,
        "judge_answers": 0,
    }
    metrics = [{"key": "a", "name": "a", "value": 1.0, "count": 1, "interval": {"low": 0.0, "high": 1.0}}]

    def read(one: Any) -> None:
        _check_kept({**about, "extra_metrics": one}, Path("scored.json"))
        for metric in one:
            str(metric_from(metric))

    assert share_refused(read, metrics) > 0.5


def test_boxes_beside_captions_may_be_far_out(tmp_path: Path) -> None:
    line = {"id": "000000000001.jpg", "captions": ["a"], "instances": [{"category": "cat", "bbox": [0, 0, 1, 1]}]}

    def read(one: Any) -> None:
        (tmp_path / "caps.jsonl").write_text(f"{json.dumps(one)}\n")
        list(_caps_boxes(tmp_path / "caps.jsonl"))

    assert share_refused(read, line) > 0.5


FEW = (10**400, float("inf"), None, "x", [], {"a": 1})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of annotations in which something was rejected."""
    folder = tmp_path_factory.mktemp("annotated")
    paths = write(folder / "in")
    captions = json.loads(paths["captions"].read_text())
    captions["annotations"].append({"id": 99, "image_id": 1, "caption": ""})
    paths["captions"].write_text(json.dumps(captions))
    given = ["--instances", str(paths["instances"]), "--captions", str(paths["captions"])]
    assert run(["annotate", "run", *given, "--out", str(folder / "out"), "--prompts"]) == 0
    return folder / "out"


def count_refusals(folder: Path, place: Path) -> int:
    """How many of those that read a finished folder without its pictures refuse it."""
    readers: tuple[Callable[[Path], object], ...] = (
        lambda out: list(summary(merge([folder], out))),
        lambda out: compute_stats(folder).to_svg(),
        lambda out: correct(folder, {}, out, place / "work"),
    )
    outs = [place / str(number) for number in range(len(readers))]
    for out in outs:
        out.mkdir()
    return sum(map(is_refused, readers, outs))


@pytest.mark.parametrize("name", [MANIFEST, RECORDS, REJECTED])
def test_a_finished_folder_with_an_odd_value_is_read_or_refused(finished: Path, tmp_path: Path, name: str) -> None:
    if name == MANIFEST:
        value, rest = json.loads((finished / name).read_text()), []
    else:
        first, *rest = (finished / name).read_text().splitlines()
        value = json.loads(first)
    refusals = 0
    for number, one in enumerate(odd_ones(value, FEW)):
        place = tmp_path / str(number)
        shutil.copytree(finished, place / "in", ignore=shutil.ignore_patterns("requests"))
        (place / "in" / name).write_text("\n".join([json.dumps(one), *rest]))
        refusals += count_refusals(place / "in", place)
        shutil.rmtree(place)
    assert refusals > number / 2  # of three readers


def test_a_shard_of_a_trillion_takes_no_memory(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(finished, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    for shard, message in ((f"1/{10**12}", r"shards 2, 3, .*, 11 of 10{12} are missing"), (f"1/{'9' * 5000}", "K/N")):
        (folder / MANIFEST).write_text(json.dumps({**manifest, "shard": shard}))
        with pytest.raises(LlavaGroundingError, match=message):
            merge([folder], tmp_path)
