"""Our model and our tasks inside lmms-eval: `python examples/lmms_eval_adapter.py SET.jsonl FOLDER [IMAGES]`.

Writes a task for lmms-eval into FOLDER: `llava_grounding.yaml`, `docs.jsonl`, and this file as `utils.py`. Then

    python -m lmms_eval --include_path FOLDER --tasks llava_grounding --model MODEL ...

runs any model of lmms-eval on a set that `llava-grounding benchmark TASK build` made. How that model writes boxes says
the environment variable GROUNDING_FORMAT: the name of an adapter (`qwen-vl`, `shikra`, ...; default `plain`: our JSON).

Our model is `--model llava_grounding` once this file is imported by lmms-eval's model registry (copy it to
`lmms_eval/models/simple/llava_grounding.py` and name it there). It answers words to the tasks of lmms-eval, and words
with regions as JSON where the task's `generation_kwargs` have `grounding: true`, as ours does.

Of lmms-eval's published interface it uses: `lmms.generate_until` with `Instance.args` (context, generation arguments,
doc_to_visual, document number, task, split), `task_dict`, `register_model`, and the functions a task's YAML names.
Without lmms-eval the file can be imported all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from llava_grounding.benchmark.adapters import adapter
from llava_grounding.benchmark.judging import DeterministicJudge
from llava_grounding.benchmark.predictions import prediction_from
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.scores import SampleScore, metrics_of
from llava_grounding.benchmark.tasks import find_task
from llava_grounding.errors import DataError

try:
    from lmms_eval.api.model import lmms
    from lmms_eval.api.registry import register_model
except ImportError:
    lmms = object

    def register_model(*_names: str) -> Any:
        """Leaves the class as it is."""
        return lambda kind: kind


YAML = """# Made by examples/lmms_eval_adapter.py of llava-grounding from the set {digest}.
task: llava_grounding
dataset_path: json
dataset_kwargs:
  data_files: {{test: {docs}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: id
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 256
  grounding: true
metric_list:
  - metric: llava_grounding
    aggregation: !function utils.aggregate
    higher_is_better: true
"""


@register_model("llava_grounding")
class LlavaGrounding(lmms):  # type: ignore[misc, valid-type]
    """Our model as lmms-eval asks one.

    Args:
        pretrained: a folder or hub id; the embedded model where it is empty.
        device: as of `GroundedChat.from_pretrained`.
    """

    def __init__(self, pretrained: str = "", device: str | None = None, **_more: Any) -> None:
        super().__init__()
        from llava_grounding import GroundedChat

        self.chat = GroundedChat.from_pretrained(pretrained or None, device)
        self.task_dict: dict[str, Any] = getattr(self, "task_dict", {})

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Greedy answers; with `grounding` in the generation arguments as JSON with regions."""
        answers = []
        for request in requests:
            context, arguments, doc_to_visual, number, task, split = request.args
            (image, *_) = doc_to_visual(self.task_dict[task][split][number])
            grounded = bool(arguments.get("grounding", False))
            most = int(arguments.get("max_new_tokens", 256))
            answer = self.chat.ask(image, context, grounded=grounded, max_new_tokens=most)
            answers.append(json.dumps(answer.to_dict()) if grounded else answer.text)
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not offered: the model is asked in words."""
        raise NotImplementedError("llava_grounding answers generate_until only")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not offered: a task with rounds holds a dialogue of its own."""
        raise NotImplementedError("llava_grounding answers generate_until only")


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The picture of a sample."""
    return [Image.open(Path(doc["images"]) / doc["sample"]["image"]).convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question, or the phrases that are to be found."""
    sample, more = doc["sample"], lmms_eval_specific_kwargs or {}
    phrases = ", ".join(phrase["text"] for phrase in sample.get("phrases", ()))
    return f"{more.get('pre_prompt', '')}{sample.get('question') or f'Find {phrases}.'}{more.get('post_prompt', '')}"


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """The score of one answer; it is kept whole until `aggregate`."""
    sample, form = BenchmarkSample.from_dict(doc["sample"]), os.environ.get("GROUNDING_FORMAT", "plain")
    line: dict[str, Any] = {"text": results[0]}
    if form == "plain" and results[0].lstrip().startswith("{"):
        line = json.loads(results[0])
    try:
        prediction = prediction_from({**line, "id": sample.id}, sample, adapter(form))
    except DataError:
        prediction = None  # counted as missing
    (score,) = find_task(doc["task"]).score_all([sample], [prediction], DeterministicJudge()).scores
    return {"llava_grounding": {"task": doc["task"], "score": score.to_dict()}}


def aggregate(items: list[dict[str, Any]]) -> dict[str, float | None]:
    """All numbers of the task over all answers, with how many there are."""
    task, scores = find_task(items[0]["task"]), [SampleScore.from_dict(item["score"]) for item in items]
    metrics = metrics_of(scores, task.statistics({name for score in scores for name in score.rows}))
    return {"answers": len(scores), **{metric.name: metric.value for metric in metrics}}


if __name__ == "__main__":
    made = SampleSet.read(Path(sys.argv[1]))
    folder, images = Path(sys.argv[2]), str(Path(sys.argv[3] if len(sys.argv) > 3 else ".").resolve())
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": one.id, "task": made.task, "images": images, "sample": one.to_dict()} for one in made.samples]
    (folder / "docs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    docs = json.dumps(str((folder / "docs.jsonl").resolve()))
    (folder / "llava_grounding.yaml").write_text(YAML.format(digest=made.digest[:12], docs=docs), encoding="utf-8")
    shutil.copy(__file__, folder / "utils.py")
