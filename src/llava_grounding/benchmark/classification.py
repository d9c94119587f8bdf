"""Naming what a prompt points at: click, box, scribble and mask on labelled things (table 7 has click and box).

Knows no model; a name counts by the table of synonyms.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np

from llava_grounding.benchmark.building import (
    Building,
    BuildInputs,
    labelled,
    photo_records,
    rows_without_crowds,
    sized,
)
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet, prompt_value
from llava_grounding.benchmark.scores import SampleScore, State, Statistic, share
from llava_grounding.benchmark.tasks import Ask, Task
from llava_grounding.data.record import Record
from llava_grounding.dialogues.prompts import can_point_at, sample_prompt
from llava_grounding.dialogues.settings import PromptSettings
from llava_grounding.language.nouns import lexicon_with, spoken_name
from llava_grounding.visual_prompts import PROMPT_KINDS, PromptKind, VisualPrompt

QUESTION = "What is <region>?"
_MOST_THINGS = 4  # of one image
_NONE = {"clicks": 0.0, "boxes": 0.0, "jittered_boxes": 0.0, "scribbles": 0.0, "masks": 0.0}
_ONLY: dict[PromptKind, PromptSettings] = {
    "click": PromptSettings(**{**_NONE, "clicks": 1.0}),
    "box": PromptSettings(**{**_NONE, "boxes": 1.0}),
    "scribble": PromptSettings(**{**_NONE, "scribbles": 1.0}),
    "mask": PromptSettings(**{**_NONE, "masks": 1.0}),
}


class Classification(Task):
    """The task `classification`; the module says what it asks and counts."""

    name: ClassVar[str] = "classification"
    title: ClassVar[str] = "Object classification by prompt"
    table: ClassVar[str] = "7"
    rules: ClassVar[str] = (
        "Right if the first thing the answer names is of the category that was pointed at, by name or synonym; an "
        "answer that names none of the known categories is unparsable, and wrong."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["data"], ["instances"])
        building = Building(inputs, self.name)
        records = photo_records(inputs)
        for record, size_wh in sized(records, building):
            row_of, things = rows_without_crowds(record), labelled(record, size_wh)
            chosen = [i for i in row_of if record.instances[i].kind == "thing" and record.instances[i].category]
            for index in chosen[:_MOST_THINGS]:
                for kind, prompt in _prompts(record, index, size_wh, inputs.seed):
                    thing = things[row_of[index]]
                    building.samples.append(
                        BenchmarkSample(
                            f"{record.id}#{row_of[index]}.{kind}",
                            record.image_name or record.id,
                            size_wh,
                            kind,
                            QUESTION,
                            (prompt_value(prompt),),
                            answer=spoken_name(thing.category),
                            split=inputs.split,
                        )
                    )
        return building.finish(f"{records.name}, what prompts point at")

    def ask(self, sample: BenchmarkSample) -> Ask:
        return Ask(sample.question, sample.visual_prompts(), grounded=False)

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        words = lexicon_with([sample.answer])
        mentions = words.find(prediction.text)
        named = mentions[0].categories if mentions else ()
        right = sample.answer in named
        rows = {"all": (float(right), 1.0), sample.kind: (float(right), 1.0)}
        state: State = "answered" if named else "unparsable" if prediction.text.strip() else "empty"
        detail = {"question": f"{sample.kind} on {sample.answer}", "text": prediction.text[:200]}
        return SampleScore(
            sample.id, sample.image, sample.kind, state=state, rows=rows, quality=float(right), detail=detail
        )

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        return [share("accuracy", "all"), *(share(f"accuracy, {kind}", kind) for kind in PROMPT_KINDS)]


def _prompts(record: Record, index: int, size_wh: tuple[int, int], seed: int) -> list[tuple[PromptKind, VisualPrompt]]:
    """A prompt of each kind on one thing; of a thing without a mask, a click in the middle of its box and the box."""
    x0, y0, x1, y1 = record.instances[index].box_xyxy
    mask = record.load_mask(index, size_wh)
    if mask is None or not mask.any():
        middle = VisualPrompt.click((x0 + x1) / 2, (y0 + y1) / 2)
        return [("click", middle), ("box", VisualPrompt.box(x0, y0, x1, y1))] if x1 > x0 and y1 > y0 else []
    if not can_point_at(mask, np.array([x0, y0, x1, y1])):
        return []
    rng = np.random.default_rng([seed, record.seed, index])
    found: list[tuple[PromptKind, VisualPrompt]] = []
    for kind, settings in _ONLY.items():
        found.append((kind, sample_prompt(mask, np.array([x0, y0, x1, y1]), rng, settings)))
    return found
