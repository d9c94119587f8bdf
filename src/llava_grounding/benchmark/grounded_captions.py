"""Grounded caption generation (GCG, as on GranD-f): AP50, mask mIoU, recall, CIDEr and METEOR of one answer.

Labels are COCO files of masks and captions, as `val_gcg_coco_mask_gt.json` and `val_gcg_coco_caption_gt.json`, whose
`labels` name the masks of an image in order.

Source: GLaMM (arXiv:2311.03356). Its recall compares words by a text encoder; ours asks the judge, so the two numbers
are not the same. METEOR is ours, see `captions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from llava_grounding.benchmark.building import Building, BuildInputs, labelled, photo_records, sized
from llava_grounding.benchmark.captions import cider_d, meteor
from llava_grounding.benchmark.grounding import Overlaps, mask_overlaps, match_answer
from llava_grounding.benchmark.grounding_bench import match_question
from llava_grounding.benchmark.judging import Judge
from llava_grounding.benchmark.metrics import normalise_answer
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.report import Metric
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.scores import SampleScore, Statistic, share
from llava_grounding.benchmark.tasks import Scored, Task, unanswered
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.numbers import key_or_none
from llava_grounding.language.nouns import lexicon
from llava_grounding.matching import IOU_THRESHOLD, hits

QUESTION = "Describe the image, and point at everything you name."
_RECALL_POINTS = np.linspace(0, 1, 101)  # of COCO's average precision
_MOST_REGIONS = 100  # of an image, as COCO counts them


def with_names_and_sizes(labels: Any) -> Any:
    """A parsed COCO file whose images may have an id alone, as GranD-f's: `ID.jpg`, of the size of its masks."""
    images, rows = (labels.get(key) if isinstance(labels, Mapping) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(rows, list):
        return labels
    sizes: dict[str | int, Any] = {}
    for row in rows:
        mask = row.get("segmentation") if isinstance(row, Mapping) else None
        if isinstance(mask, Mapping) and (key := key_or_none(row.get("image_id"))) is not None:
            sizes.setdefault(key, mask.get("size"))
    completed: list[Any] = []
    for image in images:
        key = key_or_none(image.get("id")) if isinstance(image, Mapping) else None
        if key is not None:
            size = sizes.get(key)
            known = dict(zip(("height", "width"), size, strict=False)) if isinstance(size, list) else {}
            image = {"file_name": f"{image['id']}.jpg", **known, **image}
        completed.append(image)
    return {**labels, "images": completed}


def _labels_by_image(captions: Any) -> dict[Any, Sequence[str]]:
    """Words for the masks of an image, of a parsed caption file that has them."""
    rows = captions.get("annotations") if isinstance(captions, Mapping) else None
    return {
        key: words
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, Mapping) and (key := key_or_none(row.get("image_id"))) is not None
        if isinstance(words := row.get("labels"), list) and all(isinstance(one, str) and one.strip() for one in words)
    }


def _category(words: str) -> str:
    """The category that a phrase names, else the phrase itself without its article."""
    named = lexicon(()).categories_of(words)
    return named[0] if named else normalise_answer(words) or words


class GroundedCaptions(Task):
    """The task of grounded captions; the module says what it asks and counts."""

    name: ClassVar[str] = "grounded-captions"
    rules_version: ClassVar[str] = "2"
    title: ClassVar[str] = "Grounded captions (GCG)"
    rules: ClassVar[str] = (
        "AP50: COCO's average precision of all masks as one category, at IoU 0.5 or more. mIoU: over labelled masks, "
        "the IoU of the region matched one to one for the largest sum, 0 where there is none. Recall: labelled masks "
        "found by a region with IoU 0.5 or more whose phrase the judge accepts."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["instances", "captions"], ["data"])
        building = Building(inputs, self.name)
        records = photo_records(inputs, with_names_and_sizes)
        labels = {} if inputs.captions is None else _labels_by_image(read_json(inputs.captions))
        for record, size_wh in sized(records, building):
            things = labelled(record, size_wh)
            said = labels.get(record.image_id, ())
            if len(said) == len(things):
                things = tuple(replace(one, category=_category(words)) for one, words in zip(things, said, strict=True))
            things = tuple(one for one in things if one.mask is not None)
            if not (things and record.captions):
                building.left_out["no masks or no captions"] += 1
                continue
            image = record.image_name or record.id
            building.samples.append(
                BenchmarkSample(
                    image,
                    image,
                    size_wh,
                    question=inputs.question or QUESTION,
                    instances=things,
                    references=record.captions,
                    split=inputs.split,
                )
            )
        return building.finish(f"{records.name}, grounded captions")

    def score_all(
        self, samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None], judge: Judge
    ) -> Scored:
        answered = [(s, p) for s, p in zip(samples, predictions, strict=True) if p is not None and p.error is None]
        overlaps = mask_overlaps(answered, least=0.0)
        questions = [match_question(s, p, one, None) for (s, p), one in zip(answered, overlaps, strict=True)]
        verdicts = judge.judge(questions)
        cider = cider_d([p.text for _, p in answered], [s.references for s, _ in answered])
        scores: dict[str, SampleScore] = {}
        for (sample, prediction), table, verdict, words in zip(answered, overlaps, verdicts, cider, strict=True):
            rows = {
                "mask_mean_iou": (matched_sum(table.table), float(len(sample.instances))),
                "cider_d": (words, 1.0),
                "meteor": (meteor(prediction.text, sample.references), 1.0),
            }
            if verdict is not None:
                found = match_answer(sample, prediction, table, verdict.right)
                rows["recall"] = (float(found.counts.tp_truths), float(len(sample.instances)))
            empty = not any(phrase.regions for phrase in prediction.phrases)
            scores[sample.id] = SampleScore(
                sample.id,
                sample.image,
                sample.kind,
                state="empty" if empty else "answered" if verdict is not None else "not_judged",
                rows=rows,
                quality=rows["mask_mean_iou"][0] / len(sample.instances),
                detail={"text": prediction.text[:400]},
            )
        ordered = [
            scores[s.id] if s.id in scores else unanswered(s, p) for s, p in zip(samples, predictions, strict=True)
        ]
        return Scored(tuple(ordered), tuple(questions), tuple(verdicts))

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        return [
            share("mask mIoU", "mask_mean_iou"),
            share("recall (IoU 0.5, judged)", "recall"),
            share("CIDEr-D", "cider_d"),
            share("METEOR (exact words and plurals)", "meteor"),
        ]

    def extra_metrics(
        self, samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None]
    ) -> list[Metric]:
        answered = [(s, p) for s, p in zip(samples, predictions, strict=True) if p is not None and p.error is None]
        value = average_precision(answered, mask_overlaps(answered))
        count = sum(len(sample.instances) for sample, _ in answered)
        return [Metric("AP50 (masks, one category)", value, count, key="mask_ap_at_50")]


def matched_sum(table: np.ndarray) -> float:
    """The largest sum of IoU over one-to-one matches."""
    if not table.size:
        return 0.0
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum())


def average_precision(
    answers: Sequence[tuple[BenchmarkSample, Prediction]], overlaps: Sequence[Overlaps], iou: float = IOU_THRESHOLD
) -> float | None:
    """COCO's average precision at one IoU, all masks as one category; None without labelled masks.

    Regions without a score have 1; of equal scores the earlier region, and image, comes first.
    """
    scores: list[float] = []
    right: list[bool] = []
    num_truths = 0
    for (sample, prediction), found in zip(answers, overlaps, strict=True):
        num_truths += len(sample.instances)
        own = [1.0 if r.score is None else r.score for phrase in prediction.phrases for r in phrase.regions]
        order = np.argsort(-np.array(own), kind="stable")[:_MOST_REGIONS]
        free = np.ones(len(sample.instances), dtype=bool)
        for region in order:
            row = np.where(free, found.table[region], -1.0)
            # Of equally good ones COCO takes the last.
            best = len(row) - 1 - int(row[::-1].argmax()) if len(row) else -1
            hit = best >= 0 and bool(hits(row[best], iou, strict=False))
            if hit:
                free[best] = False
            scores.append(own[region])
            right.append(hit)
    if not num_truths:
        return None
    found_right = np.array(right, dtype=np.float64)[np.argsort(-np.array(scores), kind="stable")]
    tp = np.cumsum(found_right)
    if not len(tp):
        return 0.0
    recall, precision = tp / num_truths, tp / np.arange(1, len(tp) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, _RECALL_POINTS, side="left")
    return float(np.where(place < len(precision), precision[np.minimum(place, len(precision) - 1)], 0.0).mean())
