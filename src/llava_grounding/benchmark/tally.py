"""Collects what one system answered, image by image, and turns it into metrics with intervals.

Knows the judge and the metrics; knows no model and asks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from llava_grounding.benchmark.calibration import calibration
from llava_grounding.benchmark.captions import ObjectCounts, cider_d
from llava_grounding.benchmark.metrics import (
    bootstrap_interval,
    count_yes_no,
    cumulative_iou,
    grounding_statistics,
    mean_iou,
    parse_yes_no,
    share_statistic,
)
from llava_grounding.benchmark.report import Metric, SystemResult
from llava_grounding.matching import GroundingCounts


@dataclass
class ImageTally:
    """What one system got right on one image; lists are per question or phrase.

    Args:
        grounding: regions of the description, judged by box.
        grounding_by_mask: the same judged by mask; None where an instance has no mask.
        mask_ious: mask overlap of the description's right regions.
        unjudged: its regions that nobody could judge.
        source: where the image is from; empty where all are from one place.
        sizes: per labelled instance its box's share of the image, and whether the description found it.
        scores: per judged region of the description its score, whether its phrase is doubtful, whether it is right.
        doubtful: whether the description says of itself that it is doubtful.
        description, references: text, and sentences by people; both empty where there are none.
        plain_description: the description that was asked for without regions.
        objects: categories the description speaks of.
        hits: per referring phrase, whether its best box is right.
        overlaps: per referring phrase whose instance has a mask, pixels in both and in either.
        short: by kind of question, whether each short answer is right.
        yes_no: by name of the test, answers with their truths.
        right, right_plain: whether each answer to a question in words is right, asked with and without regions.
        seconds: per description.
    """

    grounding: GroundingCounts | None = None
    grounding_by_mask: GroundingCounts | None = None
    mask_ious: tuple[float, ...] = ()
    unjudged: int = 0
    source: str = ""
    sizes: list[tuple[float, bool]] = field(default_factory=list)
    scores: list[tuple[float, bool, bool]] = field(default_factory=list)
    doubtful: bool = False
    description: str = ""
    references: tuple[str, ...] = ()
    plain_description: str = ""
    objects: ObjectCounts = field(default_factory=ObjectCounts)
    hits: list[bool] = field(default_factory=list)
    overlaps: list[tuple[int, int]] = field(default_factory=list)
    short: dict[str, list[bool]] = field(default_factory=dict)
    yes_no: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    right: list[bool] = field(default_factory=list)
    right_plain: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    unparsable: int = 0


def summarise(system: str, images: Sequence[ImageTally], seed: int) -> SystemResult:
    """All metrics of one system; those without a single question are left out."""
    metrics = [
        *_grounding_metrics([i.grounding for i in images], "box", seed),
        *_grounding_metrics([i.grounding_by_mask for i in images], "mask", seed),
        *_source_metrics(images, seed),
        *_size_metrics(images, seed),
        *_region_metrics(images, seed),
        *_doubt_metrics(images, seed),
        *_referring_metrics(images, seed),
        *_text_metrics(images, seed),
        *_short_metrics(images, seed),
    ]
    seconds = [value for image in images for value in image.seconds]
    if seconds:
        mean = Metric("seconds per description", float(np.mean(seconds)), len(seconds), None, False, "s")
        metrics.append(mean)
    asked, answered, unparsable = (
        sum(getattr(image, name) for image in images) for name in ("asked", "answered", "unparsable")
    )
    measured = calibration((score, right) for image in images for score, _, right in image.scores)
    return SystemResult(system, asked, answered, unparsable, tuple(metrics), measured if measured.regions else None)


def _grounding_metrics(counts: Sequence[GroundingCounts | None], by: str, seed: int) -> list[Metric]:
    known = [count for count in counts if count is not None]
    if not known:
        return []
    total = sum(known, GroundingCounts())
    rows = np.array([count.row() for count in known], dtype=float)

    def metric(name: str, value: float | None, count: int, part: int) -> Metric:
        interval = bootstrap_interval(rows, lambda sums: grounding_statistics(sums)[part], seed)
        return Metric(f"grounded {name} ({by} IoU 0.5)", value, count, interval if value is not None else None)

    return [
        metric("precision", total.precision, total.num_predicted, 0),
        metric("recall", total.recall, total.num_truths, 1),
        metric("F1", total.f1, total.num_truths, 2),
    ]


def _source_metrics(images: Sequence[ImageTally], seed: int) -> list[Metric]:
    """The F1 by box of each source, where there are several."""
    sources = sorted({image.source for image in images if image.grounding is not None})
    if len(sources) < 2:
        return []
    found = []
    for source in sources:
        counts = [image.grounding for image in images if image.source == source]
        f1 = _grounding_metrics(counts, "box", seed)[-1]
        found.append(replace(f1, name=f"grounded F1 of {source or 'no source'}"))
    return found


SIZES = (("small", 0.0, 0.01), ("medium", 0.01, 0.1), ("large", 0.1, np.inf))
"""Names of things by their box's share of the image, from and below."""


def _size_metrics(images: Sequence[ImageTally], seed: int) -> list[Metric]:
    found = []
    for name, low, high in SIZES:
        values = [[float(right) for share, right in image.sizes if low <= share < high] for image in images]
        found.append(_mean(f"grounded recall of {name} things", values, seed))
    return [metric for metric in found if metric is not None]


def _doubt_metrics(images: Sequence[ImageTally], seed: int) -> list[Metric]:
    """What the model's own doubt says: of regions, and of whole descriptions, counted right where any region is."""
    if not any(doubt for image in images for _, doubt, _ in image.scores):
        return []
    found = []
    for name, wanted in (("doubtful", True), ("other", False)):
        values = [[float(right) for _, doubt, right in image.scores if doubt is wanted] for image in images]
        found.append(_mean(f"precision of {name} regions", values, seed))
        some = [
            [float(any(right for _, _, right in image.scores))]
            for image in images
            if image.scores and image.doubtful is wanted
        ]
        found.append(_mean(f"{name} descriptions with a right region", some, seed))
    return [metric for metric in found if metric is not None]


def _region_metrics(images: Sequence[ImageTally], seed: int) -> list[Metric]:
    ious = [image.mask_ious for image in images]
    metrics = [_mean("mask IoU of right regions", ious, seed)]
    unjudged = sum(image.unjudged for image in images)
    if unjudged:
        metrics.append(Metric("regions not judged", float(unjudged), unjudged, None, False, "regions"))
    return [metric for metric in metrics if metric is not None]


def _referring_metrics(images: Sequence[ImageTally], seed: int) -> list[Metric]:
    overlaps = [image.overlaps for image in images]
    flat = [pair for pairs in overlaps for pair in pairs]
    metrics = [
        _mean("referring box acc@0.5", [image.hits for image in images], seed),
        _mean("referring mask mIoU", [[mean_iou([pair]) or 0.0 for pair in pairs] for pairs in overlaps], seed),
    ]
    if flat:
        metrics.append(Metric("referring mask cIoU", cumulative_iou(flat), len(flat)))
    return [metric for metric in metrics if metric is not None]


def _text_metrics(images: Sequence[ImageTally], seed: int) -> list[Metric]:
    metrics = []
    described = [image for image in images if image.references]
    if described:
        references = [image.references for image in described]
        for name, texts in (
            ("CIDEr-D", [image.description for image in described]),
            ("CIDEr-D, without regions", [image.plain_description for image in described]),
        ):
            metrics.append(_mean(name, [[score] for score in cider_d(texts, references)], seed))
    total = sum((image.objects for image in images), ObjectCounts())
    rows = np.array(
        [(i.objects.num_right, i.objects.num_mentioned, i.objects.num_present) for i in images], dtype=float
    )
    if total.num_present:
        precision, recall = rows[:, [0, 1]], rows[:, [0, 2]]
        metrics += [
            _share("objects named: precision", total.precision, total.num_mentioned, precision, seed),
            _share("objects named: recall", total.recall, total.num_present, recall, seed),
        ]
    return [metric for metric in metrics if metric is not None]


def _short_metrics(images: Sequence[ImageTally], seed: int) -> list[Metric]:
    metrics: list[Metric | None] = [
        _mean("answers in words right", [image.right for image in images], seed),
        _mean("answers in words right, without regions", [image.right_plain for image in images], seed),
    ]
    for kind in sorted({kind for image in images for kind in image.short}):
        metrics.append(_mean(f"{kind} accuracy", [image.short.get(kind, []) for image in images], seed))
    for test in sorted({test for image in images for test in image.yes_no}):
        pairs = [image.yes_no.get(test, []) for image in images]
        flat = [pair for row in pairs for pair in row]
        counts = count_yes_no([answer for answer, _ in flat], [truth for _, truth in flat])
        right = [[parse_yes_no(answer) is truth for answer, truth in row] for row in pairs]
        metrics += [
            _mean(f"{test} accuracy", right, seed),
            Metric(f"{test} F1", counts.f1, counts.total),
            Metric(f"{test} share of yes", counts.yes_share, counts.total),
        ]
    return [metric for metric in metrics if metric is not None]


def _mean(name: str, values: Sequence[Sequence[float]], seed: int) -> Metric | None:
    """Mean over all values, resampled by image; None when there are none."""
    rows = np.array([(sum(row), len(row)) for row in values if len(row)], dtype=float)
    if not len(rows):
        return None
    total, count = rows.sum(axis=0)
    return _share(name, total / count, int(count), rows, seed)


def _share(name: str, value: float | None, count: int, rows: np.ndarray, seed: int) -> Metric:
    statistic: Callable[[np.ndarray], np.ndarray] = share_statistic
    return Metric(name, value, count, bootstrap_interval(rows, statistic, seed) if value is not None else None)
