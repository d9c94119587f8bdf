"""The metric of Grounding-Bench, version 1: regions of phrases against labelled instances, counted per answer.

What the paper leaves open is fixed here; a change of any of these rules is another `RULES_VERSION`.

1. A region overlaps an instance when their IoU (of boxes, or of masks) is at or above the threshold, 0.5.
2. A judge says of each phrase which of the instances that its regions overlap it may mean; it sees none below 0.5.
3. Within a phrase regions and instances are matched one to one: as many pairs as possible, then the largest overlaps.
   So one phrase may be right about many instances, and a second box on one instance is wrong.
4. Another phrase may be right about the same instance again: that adds to `tp_predicted`, not to `tp_truths`.
5. Of equally good instances the one whose box comes first (by x0, y0, x1, y1, category) is taken, so no order of
   phrases, regions or instances changes a count.
6. Precision = tp_predicted / regions, recall = tp_truths / instances, over all answers together; F1 is their harmonic
   mean. An answer without regions counts its instances as missed.
7. By mask, a region without a mask overlaps nothing, and a sample is left out unless each of its instances has a mask.

Source: LLaVA-Grounding (arXiv:2312.02949), section on Grounding-Bench. Knows no judge and no files.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.samples import BenchmarkSample
from llava_grounding.geometry import box_area, box_iou
from llava_grounding.masks import MaskRuns
from llava_grounding.matching import IOU_THRESHOLD, GroundingCounts, hits, match_one_to_one

RULES_VERSION = "1"
IOU_LEVELS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_MOST_THREADS = 8
_MASKED_TOGETHER = 16  # answers whose masks are read at once
_MOST_SHOWN = 400  # characters of an answer in a report

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Which regions of one answer lie on which instances.

    Args:
        table: (regions, instances) IoU, the regions of all phrases one after the other; below 0.5 it may be 0 where it
            was not worth measuring.
        phrases: (regions,) the phrase of each.
    """

    table: np.ndarray
    phrases: np.ndarray

    def candidates(self, threshold: float = IOU_THRESHOLD) -> list[Pair]:
        """(phrase, instance) wherever a region of the phrase overlaps the instance: what a judge is asked about."""
        regions, instances = np.nonzero(hits(self.table, threshold, strict=False))
        pairs = zip(self.phrases[regions].tolist(), instances.tolist(), strict=True)
        return sorted(set(pairs))


@dataclass(frozen=True)
class Matched:
    """What one answer got right.

    Args:
        counts: at the first of the levels, 0.5.
        pairs: (phrase, region of the phrase, instance) of every right region.
        levels: the counts at each level, usually `IOU_LEVELS`.
        left_out: regions of phrases that nobody can judge.
    """

    counts: GroundingCounts
    pairs: tuple[tuple[int, int, int], ...]
    levels: tuple[GroundingCounts, ...]
    left_out: int = 0


def box_overlaps(sample: BenchmarkSample, prediction: Prediction) -> Overlaps:
    """IoU of boxes."""
    boxes = [region.box_xyxy for phrase in prediction.phrases for region in phrase.regions]
    table = np.zeros((len(boxes), len(sample.instances)))
    if table.size:
        table = np.asarray(box_iou(np.array(boxes, dtype=np.float64), sample.boxes_xyxy()))
    return Overlaps(table, _phrase_of_region(prediction))


def _phrase_of_region(prediction: Prediction) -> np.ndarray:
    counts = [len(phrase.regions) for phrase in prediction.phrases]
    return np.repeat(np.arange(len(counts)), np.array(counts, dtype=np.int64))


def mask_overlaps(
    answers: Sequence[tuple[BenchmarkSample, Prediction]], least: float = IOU_THRESHOLD
) -> list[Overlaps]:
    """IoU of masks of many answers, which is many times faster than one by one.

    Args:
        least: pairs that cannot reach it have 0.
    """
    parts = [answers[start : start + _MASKED_TOGETHER] for start in range(0, len(answers), _MASKED_TOGETHER)]
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:  # NumPy lets others run meanwhile
        return [one for part in pool.map(lambda part: _mask_overlaps(part, least), parts) for one in part]


def _mask_overlaps(answers: Sequence[tuple[BenchmarkSample, Prediction]], least: float) -> list[Overlaps]:
    regions = [[r for phrase in one.phrases for r in phrase.regions] for _, one in answers]
    masked = [[index for index, region in enumerate(one) if region.mask is not None] for one in regions]
    codes = [one[index].mask for one, chosen in zip(regions, masked, strict=True) for index in chosen]
    truths = [instance.mask for sample, _ in answers for instance in sample.instances]
    own, other = MaskRuns([c for c in codes if c is not None]), MaskRuns([t for t in truths if t is not None])
    pairs, places = [], []
    begin = begin_truth = 0
    tables = []
    for (sample, _), chosen, one in zip(answers, masked, regions, strict=True):
        rows = np.arange(begin, begin + len(chosen))
        columns = np.arange(begin_truth, begin_truth + len(sample.instances))
        begin, begin_truth = begin + len(chosen), begin_truth + len(sample.instances)
        table = np.zeros((len(one), len(sample.instances)))
        tables.append(table)
        if not (len(rows) and len(columns)):
            continue
        row, column = np.nonzero(_most_overlap(own, other, rows, columns) >= least)
        pairs.append(np.stack((rows[row], columns[column]), axis=1))
        places.append((table, np.array(chosen)[row], column))
    if pairs:
        overlaps = own.pair_iou(other, np.concatenate(pairs))
        done = 0
        for table, row, column in places:
            table[row, column] = overlaps[done : done + len(row)]
            done += len(row)
    return [Overlaps(table, _phrase_of_region(one)) for table, (_, one) in zip(tables, answers, strict=True)]


def _most_overlap(own: MaskRuns, other: MaskRuns, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What the IoU can be at most, (rows, columns): no more pixels are shared than the boxes around the masks share."""
    boxes, truths = own.boxes_xyxy[rows], other.boxes_xyxy[columns]
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas, true_areas = own.areas[rows][:, None].astype(float), other.areas[columns][None].astype(float)
    shared = np.minimum(shared, np.minimum(areas, true_areas))
    return np.asarray(shared / np.maximum(areas + true_areas - shared, 1))


def match_answer(
    sample: BenchmarkSample,
    prediction: Prediction,
    overlaps: Overlaps,
    right: Iterable[Pair],
    left_out: frozenset[int] = frozenset(),
) -> Matched:
    """Count a prediction whose phrases were judged, as `match_regions` does."""
    boxes = np.array([one.box_xyxy for phrase in prediction.phrases for one in phrase.regions]).reshape(-1, 4)
    truths = [(one.box_xyxy, one.category) for one in sample.instances]
    return match_regions(overlaps, boxes, truths, right, left_out)


def match_regions(
    overlaps: Overlaps,
    boxes_xyxy: np.ndarray,
    truths: Sequence[tuple[Sequence[float], str]],
    right: Iterable[Pair],
    left_out: frozenset[int] = frozenset(),
    levels: Sequence[float] = IOU_LEVELS,
) -> Matched:
    """Count the regions of one answer whose phrases were judged.

    Args:
        boxes_xyxy: (regions, 4) of all phrases one after the other.
        truths: box and category of each instance.
        right: (phrase, instance) that the judge accepts; of the candidates, others change nothing.
        left_out: phrases that cannot be judged; their regions are counted nowhere.
        levels: thresholds of the IoU; `counts` and `pairs` are at the first.
    """
    order, num_truths = _canonical(truths), len(truths)
    sizes = np.bincount(overlaps.phrases)
    accepted = _accepted(right, left_out, (len(sizes), num_truths))
    # What a phrase cannot mean does not count as overlapped; instances in an order of their own.
    table = np.where(accepted[overlaps.phrases], overlaps.table, 0.0)[:, order]
    single = np.flatnonzero(sizes[overlaps.phrases] == 1)
    several = [
        rows[_row_order(boxes_xyxy[rows])]
        for number in np.flatnonzero(sizes > 1).tolist()
        if accepted[number].any()
        for rows in [np.flatnonzero(overlaps.phrases == number)]
    ]
    skipped = sum(int(sizes[number]) for number in left_out if number < len(sizes))
    num_predicted = len(overlaps.phrases) - skipped
    best = table[single].argmax(axis=1) if table.size else np.zeros(0, dtype=np.int64)
    value = table[single, best] if table.size else np.zeros(0)
    is_right = hits(value, levels[0], strict=False)
    pairs = list(zip(single[is_right].tolist(), best[is_right].tolist(), strict=True))
    steps = np.array(levels)[:, None]
    tp_predicted = hits(value, steps, strict=False).sum(axis=1).tolist()
    best_on = np.full(num_truths, -np.inf)  # each instance, of regions that are their phrase's only one
    np.maximum.at(best_on, best, value)
    found = hits(best_on, steps, strict=False)  # (levels, instances)
    for rows, (number, level) in product(several, enumerate(levels)):
        matches = match_one_to_one(table[rows], level)
        tp_predicted[number] += len(matches)
        found[number, [column for _, column in matches]] = True
        if number == 0:
            pairs += [(int(rows[row]), column) for row, column in matches]
    tp_truths = found.sum(axis=1).tolist()
    counts = tuple(
        GroundingCounts(num_predicted, num_truths, *right) for right in zip(tp_predicted, tp_truths, strict=True)
    )
    return Matched(counts[0], _triples(pairs, overlaps.phrases, sizes, order), counts, skipped)


def _accepted(right: Iterable[Pair], left_out: frozenset[int], shape: tuple[int, int]) -> np.ndarray:
    """What the judge accepts as (phrases, instances), bool."""
    accepted = np.zeros(shape, dtype=bool)
    pairs = [pair for pair in right if pair[0] not in left_out and pair[0] < shape[0]]
    if pairs:
        accepted[tuple(np.array(pairs).T)] = True
    return accepted


def _triples(
    pairs: Iterable[Pair], phrase_of: np.ndarray, sizes: np.ndarray, order: np.ndarray
) -> tuple[tuple[int, int, int], ...]:
    """Matches of a region and a column as (phrase, region in the phrase, instance), in order."""
    first = (np.cumsum(sizes) - sizes).tolist()
    phrases = phrase_of.tolist()
    return tuple(sorted((phrases[row], row - first[phrases[row]], int(order[column])) for row, column in pairs))


def scored_regions(
    prediction: Prediction, matched: Matched, left_out: Collection[int]
) -> tuple[tuple[float, bool], ...]:
    """Score and rightness of each region with a score, for calibration, but for those of phrases left out."""
    right = {(phrase, region) for phrase, region, _ in matched.pairs}
    return tuple(
        (region.score, (number, place) in right)
        for number, phrase in enumerate(prediction.phrases)
        if number not in left_out
        for place, region in enumerate(phrase.regions)
        if region.score is not None
    )


def shown_case(sample: BenchmarkSample, prediction: Prediction, matched: Matched | None) -> dict[str, Any]:
    """The words and boxes of an answer, as a report shows them."""
    right = set() if matched is None else {(phrase, region) for phrase, region, _ in matched.pairs}
    return {
        "text": prediction.text[:_MOST_SHOWN],
        "image_size": list(sample.image_size_wh),
        "truths": [{"box": list(one.box_xyxy), "text": one.category} for one in sample.instances],
        "regions": [
            {"box": list(region.box_xyxy), "text": phrase.text, "right": (number, place) in right}
            for number, phrase in enumerate(prediction.phrases)
            for place, region in enumerate(phrase.regions)
        ],
    }


def _canonical(truths: Sequence[tuple[Sequence[float], str]]) -> np.ndarray:
    """Indices of the instances in an order that depends on their boxes and categories alone."""
    keys = [(tuple(box), category) for box, category in truths]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _row_order(boxes: np.ndarray) -> np.ndarray:
    return np.lexsort(boxes.T[::-1]) if len(boxes) > 1 else np.arange(len(boxes))


def box_counts(
    predicted_xyxy: np.ndarray, truths_xyxy: np.ndarray, threshold: float = IOU_THRESHOLD
) -> tuple[int, int, int]:
    """Predicted boxes, true boxes, and one-to-one matches between them, of one phrase without a judge."""
    if not (len(predicted_xyxy) and len(truths_xyxy)):
        return len(predicted_xyxy), len(truths_xyxy), 0
    matches = match_one_to_one(np.asarray(box_iou(predicted_xyxy, truths_xyxy)), threshold)
    return len(predicted_xyxy), len(truths_xyxy), len(matches)


def union_box(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(1, 4) the smallest box around all; (0, 4) around none."""
    kept = boxes_xyxy[np.asarray(box_area(boxes_xyxy)) > 0] if len(boxes_xyxy) else boxes_xyxy
    if not len(kept):
        return np.zeros((0, 4))
    return np.concatenate((kept[:, :2].min(axis=0), kept[:, 2:].max(axis=0)))[None]
