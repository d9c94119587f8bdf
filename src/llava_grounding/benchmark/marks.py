"""Marks as grounding: numbers are drawn onto the things of a picture, and the answer says which one is meant (table 6).

Knows no drawing: `systems` draws the marks before it asks.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import ClassVar

from llava_grounding.benchmark.building import Building, BuildInputs, labelled, photo_records, sized
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.referring import of_expressions, of_photo, read_expressions
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.scores import SampleScore, State, Statistic, share
from llava_grounding.benchmark.tasks import Ask, Task
from llava_grounding.data.record import Dataset

_NUMBER = re.compile(r"<?\b(\d{1,3})\b>?")
_MOST_MARKS = 20


class Marks(Task):
    """The task of marks as prompts; the module says what it asks and counts."""

    name: ClassVar[str] = "marks"
    title: ClassVar[str] = "Marks as grounding"
    table: ClassVar[str] = "6"
    rules: ClassVar[str] = (
        "Right if the first number of the answer is that of the thing that the expression means; an answer without a "
        "number is unparsable, and wrong."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["refs"], ["data"])
        building = Building(inputs, self.name)
        records: Dataset = photo_records(inputs) if inputs.refs is None else read_expressions(inputs)
        for record, size_wh in sized(records, building):
            things = labelled(record, size_wh)
            if not 2 <= len(things) <= _MOST_MARKS:
                building.left_out["fewer than two things, or too many for marks"] += 1
                continue
            asked = (
                of_photo(record, size_wh, inputs)
                if inputs.refs is None
                else of_expressions(record, size_wh, inputs.split, only_one=True)
            )
            for one in asked:
                number = things.index(one.instances[0]) + 1
                building.samples.append(
                    BenchmarkSample(
                        one.id,
                        one.image,
                        size_wh,
                        question=f"Which mark is on {one.phrases[0].text}?",
                        instances=things,
                        answer=str(number),
                        marks=tuple(range(len(things))),
                        split=inputs.split,
                    )
                )
        return building.finish(f"{records.name}, with marks")

    def ask(self, sample: BenchmarkSample) -> Ask:
        return Ask(sample.question, grounded=False, marks=sample.marks)

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        said = _NUMBER.search(prediction.text)
        right = said is not None and int(said[1]) == int(sample.answer)
        state: State = "answered" if said else "unparsable" if prediction.text.strip() else "empty"
        detail = {"question": sample.question, "text": prediction.text[:200]}
        return SampleScore(
            sample.id,
            sample.image,
            sample.kind,
            state=state,
            rows={"all": (float(right), 1.0)},
            quality=float(right),
            detail=detail,
        )

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        return [share("accuracy", "all")]
