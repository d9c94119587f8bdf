"""Expressions that mean several things or none: gRefCOCO's Pr@(F1=1, IoU 0.5), N-acc, T-acc, mask mIoU and cIoU.

Source: GREC (arXiv:2308.16182) and GRES (arXiv:2306.00968). All regions of an answer count,
so a system says what it does not believe in by leaving it out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from llava_grounding.benchmark.building import Building, BuildInputs, sized
from llava_grounding.benchmark.grounding import box_counts
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.referring import mask_rows, of_expressions, read_expressions
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledPhrase, SampleSet
from llava_grounding.benchmark.scores import SampleScore, Statistic, share
from llava_grounding.benchmark.tasks import Task
from llava_grounding.data.readers.parts.numbers import EntryError, key_or_none
from llava_grounding.data.readers.refcoco import expression_of, read_refs


class GeneralizedReferring(Task):
    """The task of expressions that mean any number of things; the module says what it asks and counts."""

    name: ClassVar[str] = "generalized-referring"
    title: ClassVar[str] = "Generalised referring expressions"
    rules: ClassVar[str] = (
        "An expression is right if its regions and things match one to one at IoU 0.5 or more without any left over, "
        "or if it means nothing and nothing is found. N-acc: nothing found of those that mean nothing; T-acc: "
        "something of the others. Masks are joined before they are compared."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["refs", "instances"])
        building = Building(inputs, self.name)
        records = read_expressions(inputs)
        sizes: dict[int | str | None, tuple[str, tuple[int, int]]] = {}
        for record, size_wh in sized(records, building):
            sizes[record.image_id] = (record.image_name or record.id, size_wh)
            building.samples += of_expressions(record, size_wh, inputs.split, only_one=False)
        assert inputs.refs is not None
        building.left_out.pop("ref that means nothing in the image", None)  # they are read here
        for number, row in enumerate(read_refs(inputs.refs)):
            if not isinstance(row, Mapping) or not _means_nothing(row) or row.get("split") != inputs.split:
                continue
            known = sizes.get(key_or_none(row.get("image_id")))
            if known is None:
                building.left_out["expression of an image without others, whose size is not known"] += 1
                continue
            sentences = row.get("sentences")
            for place, sentence in enumerate(sentences if isinstance(sentences, list) else ()):
                try:
                    words = expression_of(sentence)
                except EntryError as why:
                    building.left_out[why.reason] += 1
                else:
                    building.samples.append(
                        BenchmarkSample(
                            f"{known[0]}#none-{number}.{place}",
                            *known,
                            kind="no target",
                            phrases=(LabelledPhrase(words, ()),),
                            split=inputs.split,
                        )
                    )
        return building.finish(records.name)

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        regions = prediction.phrases[0].regions if prediction.phrases else ()
        boxes = np.array([one.box_xyxy for one in regions], dtype=np.float64).reshape(-1, 4)
        predicted, true, matched = box_counts(boxes, sample.boxes_xyxy())
        right = predicted == true == matched
        rows: dict[str, tuple[float, ...]] = {"all_right": (float(right), 1.0)}
        rows["no_target" if not true else "target"] = (float((predicted == 0) == (not true)), 1.0)
        masks = [one.mask for one in regions if one.mask is not None]
        if sample.has_masks and len(masks) == len(regions):
            rows |= mask_rows(masks, [one.mask for one in sample.instances if one.mask is not None])
        quality = 2 * matched / (predicted + true) if predicted + true else 1.0
        detail = {"question": sample.phrases[0].text}
        return SampleScore(
            sample.id, sample.image, sample.kind, state="answered", rows=rows, quality=quality, detail=detail
        )

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        return [
            share("Pr@(F1=1, IoU 0.5)", "all_right"),
            share("N-acc", "no_target"),
            share("T-acc", "target"),
            share("mask mIoU", "mask_mean_iou"),
            share("mask cIoU", "mask_cumulative_iou"),
        ]


def _means_nothing(row: Mapping[str, object]) -> bool:
    ids = row.get("ann_id")
    return bool(row.get("no_target")) or ids in (-1, [-1], [])
