"""Phrase grounding on Flickr30K Entities: R@1, R@5, R@10 by any box of a phrase and by its boxes merged into one.

Source: the two protocols are those of MDETR (arXiv:2104.12763). A sample is a sentence with its phrases.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np

from llava_grounding.benchmark.building import Building, BuildInputs, labelled, rows_without_crowds, sized
from llava_grounding.benchmark.grounding import union_box
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledPhrase, SampleSet
from llava_grounding.benchmark.scores import SampleScore, State, Statistic, share
from llava_grounding.benchmark.tasks import Task
from llava_grounding.data.readers.flickr30k import Flickr30kEntities, Flickr30kMdetr
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.record import Dataset
from llava_grounding.geometry import box_iou
from llava_grounding.markup import parse_strict
from llava_grounding.matching import hits

RANKS = (1, 5, 10)
PROTOCOLS = ("any", "merged")


class PhraseGrounding(Task):
    """The task of phrase grounding; the module says what it asks and counts."""

    name: ClassVar[str] = "phrase-grounding"
    title: ClassVar[str] = "Phrase grounding"
    table: ClassVar[str] = "5"
    rules: ClassVar[str] = (
        "A phrase is found within k if one of its first k boxes has IoU 0.5 or more with any of its true boxes (any "
        "box), or with the one box around them all (merged). A phrase without a true box is not asked for."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["entities"])
        building = Building(inputs, self.name)
        records = _records(inputs)
        for record, size_wh in sized(records, building):
            things, row_of = labelled(record, size_wh), rows_without_crowds(record)
            image = record.image_name or record.id
            for number, caption in enumerate(record.grounded_captions):
                phrases = []
                for phrase in parse_strict(caption.text).phrases:
                    meant = caption.targets[phrase.seg_index]
                    targets = tuple(row_of[index] for index in meant or () if index in row_of)
                    if targets:
                        phrases.append(LabelledPhrase(phrase.text, targets))
                if phrases:
                    building.samples.append(
                        BenchmarkSample(
                            f"{record.id}#{number}",
                            image,
                            size_wh,
                            phrases=tuple(phrases),
                            instances=things,
                            split=inputs.split,
                        )
                    )
        return building.finish(records.name)

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        truths = sample.boxes_xyxy()
        counts = {(protocol, rank): 0 for protocol in PROTOCOLS for rank in RANKS}
        regions = []
        for asked, found in zip(sample.phrases, prediction.phrases, strict=True):
            own = truths[list(asked.targets)]
            for protocol, boxes in zip(PROTOCOLS, (own, union_box(own)), strict=True):
                place = first_hit(found.boxes_xyxy, boxes)
                for rank in RANKS:
                    counts[protocol, rank] += place is not None and place < rank
                if protocol == "any" and found.regions and found.regions[0].score is not None:
                    regions.append((found.regions[0].score, place == 0))
        total = float(len(sample.phrases))
        rows = {f"{protocol}_at_{rank}": (float(count), total) for (protocol, rank), count in counts.items()}
        state: State = "answered" if any(one.regions for one in prediction.phrases) else "empty"
        quality = counts["any", 1] / total if total else None
        return SampleScore(
            sample.id, sample.image, sample.kind, state=state, rows=rows, regions=tuple(regions), quality=quality
        )

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        names = {"any": "any box", "merged": "merged boxes"}
        return [
            share(f"R@{rank} ({names[protocol]})", f"{protocol}_at_{rank}") for protocol in PROTOCOLS for rank in RANKS
        ]


def first_hit(boxes_xyxy: np.ndarray, truths_xyxy: np.ndarray) -> int | None:
    """The place of the first box that has IoU 0.5 or more with any true one."""
    if not (len(boxes_xyxy) and len(truths_xyxy)):
        return None
    best = np.asarray(box_iou(boxes_xyxy, truths_xyxy)).max(axis=1)
    places = np.flatnonzero(hits(best, strict=False))
    return int(places[0]) if len(places) else None


def _records(inputs: BuildInputs) -> Dataset:
    assert inputs.entities is not None
    if inputs.entities.is_dir():
        images = inputs.images if inputs.images is not None else inputs.entities
        return Flickr30kEntities.from_files(inputs.entities, images, inputs.split)
    with naming(inputs.entities):
        return Flickr30kMdetr(read_json(inputs.entities), inputs.pictures(), name=inputs.entities.stem)
