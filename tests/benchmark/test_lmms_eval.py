"""The adapter for lmms-eval, against the interface it publishes; lmms-eval itself is not needed."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import yaml
from PIL import Image

from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, SampleSet
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region

ADAPTER = Path(__file__).resolve().parents[2] / "examples" / "lmms_eval_adapter.py"
METHODS = ("generate_until", "loglikelihood", "generate_until_multi_round")


class Instance(NamedTuple):
    """As lmms-eval hands out requests: `args` of a request to generate."""

    args: tuple[str, dict[str, Any], Callable[[Any], list[Image.Image]], int, str, str]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The folder that the script writes, and the names of its `utils.py`."""
    dog = LabelledInstance("dog", (0.0, 0.0, 40.0, 40.0))
    sample = BenchmarkSample("1", "1.png", (80, 60), "detail", "Describe the image.", instances=(dog,))
    SampleSet("grounding-bench", "one", (sample,)).write(tmp_path / "set.jsonl")
    Image.new("RGB", (80, 60)).save(tmp_path / "1.png")
    monkeypatch.setattr("sys.argv", [str(ADAPTER), str(tmp_path / "set.jsonl"), str(tmp_path / "task"), str(tmp_path)])
    runpy.run_path(str(ADAPTER), run_name="__main__")
    return runpy.run_path(str(tmp_path / "task/utils.py"), run_name="utils") | {"folder": tmp_path / "task"}


def test_the_task_file_names_functions_that_there_are(made: dict[str, Any]) -> None:
    class Loader(yaml.SafeLoader):
        """Reads `!function` as lmms-eval does: a name in a file beside the YAML."""

    Loader.add_constructor("!function", lambda _loader, node: made[node.value.removeprefix("utils.")])
    task = yaml.load((made["folder"] / "llava_grounding.yaml").read_text(), Loader)
    (doc,) = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    assert task["output_type"] == "generate_until"
    assert task["doc_to_text"](doc, {"post_prompt": " Briefly."}) == "Describe the image. Briefly."
    assert task["doc_to_visual"](doc)[0].size == (80, 60)
    answer = {"text": "a dog", "phrases": [{"text": "a dog", "regions": [{"box": [0, 0, 40, 40]}]}]}
    items = [task["process_results"](doc, [text])["llava_grounding"] for text in (json.dumps(answer), "words alone")]
    numbers = task["metric_list"][0]["aggregation"](items)
    assert numbers["answers"] == 2
    assert (numbers["grounded precision (box IoU 0.5)"], numbers["grounded recall (box IoU 0.5)"]) == (1.0, 0.5)


def test_the_model_answers_words_and_where_asked_regions(made: dict[str, Any]) -> None:
    assert all(callable(getattr(made["LlavaGrounding"], name)) for name in METHODS)
    region = Region([0, 0, 40, 40], 0.5)
    answer = GroundedAnswer("a dog", (GroundedPhrase(0, "a dog", (0, 5), (region,), 0.5),), (80, 60), "", "m", 1, 1)
    model = object.__new__(made["LlavaGrounding"])
    model.chat = SimpleNamespace(ask=lambda _image, _question, grounded, max_new_tokens: answer)
    doc = json.loads((made["folder"] / "docs.jsonl").read_text())
    model.task_dict = {"llava_grounding": {"test": [doc]}}
    requests = [
        Instance(("Describe.", arguments, made["doc_to_visual"], 0, "llava_grounding", "test"))
        for arguments in ({"max_new_tokens": 16}, {"grounding": True})
    ]
    words, regions = model.generate_until(requests)
    assert words == "a dog"
    score = made["process_results"](doc, [regions])["llava_grounding"]["score"]
    assert score["rows"]["box_at_50"] == [1.0, 1.0, 1.0, 1.0]
