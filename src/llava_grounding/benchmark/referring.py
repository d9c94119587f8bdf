"""REC and RES: one expression, one thing. Box accuracy and mask overlap on RefCOCO, RefCOCO+ and RefCOCOg (table 5).

The best region of the expression counts, others do not. Knows no chat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

import numpy as np

from llava_grounding.benchmark.building import (
    Building,
    BuildInputs,
    labelled,
    photo_records,
    referring_phrases,
    rows_without_crowds,
    sized,
)
from llava_grounding.benchmark.metrics import overlap_iou
from llava_grounding.benchmark.predictions import PredictedPhrase, Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, LabelledPhrase, Rle, SampleSet
from llava_grounding.benchmark.scores import SampleScore, State, Statistic, level_row, share
from llava_grounding.benchmark.tasks import Task
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.readers.refcoco import RefCoco, read_refs
from llava_grounding.data.record import Dataset, Record
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.geometry import box_iou
from llava_grounding.masks import MaskRuns, decode_rle
from llava_grounding.matching import hits

BOX_LEVELS = (0.5, 0.75, 0.9)


class Referring(Task):
    """The task of referring expressions; the module says what it asks and counts."""

    name: ClassVar[str] = "referring"
    title: ClassVar[str] = "Referring expressions"
    table: ClassVar[str] = "5"
    rules: ClassVar[str] = (
        "The best region of the expression against its thing: a hit if the IoU of the boxes, or masks, is over the "
        "level; mIoU is the mean over expressions, cIoU all shared pixels over all joined ones. No region is a miss "
        "and an IoU of 0."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["refs"], ["data"])
        building = Building(inputs, self.name)
        if inputs.refs is None:
            records = photo_records(inputs)
            for record, size_wh in sized(records, building):
                building.samples += of_photo(record, size_wh, inputs)
            return building.finish(
                f"{records.name}, one thing by its words", ["Expressions are made from the labels, not by people."]
            )
        records = read_expressions(inputs)
        for record, size_wh in sized(records, building):
            building.samples += of_expressions(record, size_wh, inputs.split, only_one=True)
        return building.finish(records.name)

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        (phrase,) = sample.phrases
        truth = sample.instances[phrase.targets[0]]
        best = prediction.phrases[0].regions[0] if prediction.phrases and prediction.phrases[0].regions else None
        overlap = 0.0
        if best is not None:
            overlap = float(np.asarray(box_iou(np.array([best.box_xyxy]), np.array([truth.box_xyxy])))[0, 0])
        rows = {level_row("box", level): (float(hits(overlap, level, strict=True)), 1.0) for level in BOX_LEVELS}
        right = bool(hits(overlap, strict=True))
        masks = _mask_rows(prediction.phrases, truth)
        state: State = "empty" if best is None else "answered"
        detail = {
            "question": phrase.text,
            "image_size": list(sample.image_size_wh),
            "truths": [{"box": list(truth.box_xyxy), "text": phrase.text}],
            "regions": [] if best is None else [{"box": list(best.box_xyxy), "text": phrase.text, "right": right}],
        }
        regions = () if best is None or best.score is None else ((best.score, right),)
        return SampleScore(
            sample.id,
            sample.image,
            sample.kind,
            state=state,
            rows={**rows, **masks},
            regions=regions,
            quality=overlap,
            detail=detail,
        )

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        boxes = [share(f"box acc@{level:g}", level_row("box", level)) for level in BOX_LEVELS]
        masks = [share(f"mask acc@{level:g}", level_row("mask", level)) for level in BOX_LEVELS]
        return [*boxes, *masks, share("mask mIoU", "mask_mean_iou"), share("mask cIoU", "mask_cumulative_iou")]


def _mask_rows(phrases: tuple[PredictedPhrase, ...], truth: LabelledInstance) -> dict[str, tuple[float, ...]]:
    """Overlap of the best region's mask; no rows where the truth, or the answer, has boxes alone."""
    regions = phrases[0].regions if phrases else ()
    if truth.mask is None or (regions and regions[0].mask is None):
        return {}
    codes = [region.mask for region in regions[:1] if region.mask is not None]
    return mask_rows(codes, [truth.mask])


def mask_rows(predicted: Sequence[Rle], truths: Sequence[Rle]) -> dict[str, tuple[float, ...]]:
    """Rows of joined masks: IoU, hits at each level, shared and joined pixels. Two empty ones agree."""
    shared, joined = joined_pixels(predicted, truths)
    overlap = overlap_iou(shared, joined)
    right = {level_row("mask", level): (float(hits(overlap, level, strict=True)), 1.0) for level in BOX_LEVELS}
    return {"mask_mean_iou": (overlap, 1.0), "mask_cumulative_iou": (float(shared), float(joined)), **right}


def joined_pixels(predicted: Sequence[Rle], truths: Sequence[Rle]) -> tuple[int, int]:
    """Pixels in both and in either of two sets of run-length codes, each joined into one mask."""
    if len(predicted) <= 1 and len(truths) <= 1:
        runs = MaskRuns([*predicted, *truths])  # read together, which takes hardly longer than one of them
        areas = int(runs.areas.sum())
        if len(runs) < 2:
            return 0, areas
        overlap = float(runs.pair_iou(runs, np.array([[0, 1]]))[0])
        shared = round(overlap * areas / (1 + overlap))
        return shared, areas - shared
    first, second = (
        np.any([decode_rle(code) for code in codes], axis=0) if codes else np.zeros((1, 1), dtype=bool)
        for codes in (predicted, truths)
    )
    return int(np.count_nonzero(first & second)), int(np.count_nonzero(first | second))


def read_expressions(inputs: BuildInputs) -> Dataset:
    """Records of the files of the refer release, or of a COCO file with sentences."""
    assert inputs.refs is not None
    stem = inputs.refs.parent.name if inputs.refs.suffix == ".p" and inputs.refs.parent.name else inputs.refs.stem
    labels = None if inputs.instances is None else read_json(inputs.instances)
    with naming(inputs.refs):
        return RefCoco(
            read_refs(inputs.refs),
            inputs.pictures(),
            labels,
            inputs.split,
            all_instances=True,
            name=f"{stem}_{inputs.split}",
        )


def of_expressions(record: Record, size_wh: tuple[int, int], split: str, only_one: bool) -> Iterator[BenchmarkSample]:
    """A sample per expression, with the things it means."""
    things, row_of = labelled(record, size_wh), rows_without_crowds(record)
    image = record.image_name or record.id
    for number, expression in enumerate(record.expressions):
        targets = tuple(row_of[index] for index in expression.targets if index in row_of)
        if only_one and len(targets) != 1:
            continue
        meant = tuple(things[target] for target in targets)
        phrase = LabelledPhrase(expression.text, tuple(range(len(meant))))
        yield BenchmarkSample(f"{image}#{number}", image, size_wh, phrases=(phrase,), instances=meant, split=split)


def of_photo(record: Record, size_wh: tuple[int, int], inputs: BuildInputs) -> Iterator[BenchmarkSample]:
    """Things that words made from the labels tell apart."""
    if not any(one.kind == "thing" for one in record.instances):
        return
    sample = photo_sample(record, np.random.default_rng([inputs.seed, record.seed]))
    things = labelled(record, size_wh)
    said: dict[str, int] = {}
    for words, index in referring_phrases(sample.turns):
        said.setdefault(words, index)
    image = record.image_name or record.id
    for number, (words, index) in enumerate(said.items()):
        yield BenchmarkSample(
            f"{image}#{number}",
            image,
            size_wh,
            phrases=(LabelledPhrase(words, (0,)),),
            instances=(things[index],),
            split=inputs.split,
        )
