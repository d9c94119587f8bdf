"""Which predicted regions are right: one-to-one matches by overlap, and their counts. Knows no phrases and no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

IOU_THRESHOLD = 0.5


def hits(iou: np.ndarray | float, level: np.ndarray | float = IOU_THRESHOLD, *, strict: bool) -> np.ndarray:
    """Which overlaps reach a level: those over it if `strict`, else those at it as well; the shape of both together.

    Tasks differ in this, and each says its own in its rules: accuracies of one expression are strict, recalls of
    phrases and matches one to one are not.
    """
    return np.asarray(np.greater(iou, level) if strict else np.greater_equal(iou, level))


@dataclass(frozen=True)
class GroundingCounts:
    """Counts of one or many grounded answers; add them up before taking ratios.

    Args:
        num_predicted: regions the answer points at.
        num_truths: labelled instances.
        tp_predicted: regions that are right.
        tp_truths: distinct instances found; fewer than `tp_predicted` where an answer names one thing twice.

    Source: LLaVA-Grounding (arXiv:2312.02949), Grounding-Bench.
    """

    num_predicted: int = 0
    num_truths: int = 0
    tp_predicted: int = 0
    tp_truths: int = 0

    def __add__(self, other: GroundingCounts) -> GroundingCounts:
        return GroundingCounts(*(a + b for a, b in zip(self.row(), other.row(), strict=True)))

    def row(self) -> tuple[int, int, int, int]:
        """The counts in the order of the fields, for `bootstrap_interval`."""
        return (self.num_predicted, self.num_truths, self.tp_predicted, self.tp_truths)

    @property
    def precision(self) -> float | None:
        """Share of the regions that are right; None when none was predicted."""
        return ratio(self.tp_predicted, self.num_predicted)

    @property
    def recall(self) -> float | None:
        """Share of the instances that were found; None when there are none."""
        return ratio(self.tp_truths, self.num_truths)

    @property
    def f1(self) -> float:
        return harmonic_mean(self.precision, self.recall)


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None where it is undefined."""
    return part / whole if whole else None


def harmonic_mean(precision: float | None, recall: float | None) -> float:
    """F1; an undefined part counts as 0, so silence scores 0."""
    p, r = precision or 0.0, recall or 0.0
    return 2 * p * r / (p + r) if p + r else 0.0


def match_one_to_one(overlaps: np.ndarray, threshold: float = IOU_THRESHOLD) -> list[tuple[int, int]]:
    """Pairs (row, column) with overlap at or above the threshold: as many as possible, then the largest overlaps.

    Args:
        overlaps: (n, m) intersection over union.
    """
    overlaps = np.asarray(overlaps, dtype=np.float64)
    if overlaps.size == 0:
        return []
    # One more pair outweighs any gain in overlap.
    allowed = hits(overlaps, threshold, strict=False)
    gain = np.where(allowed, overlaps + min(overlaps.shape) + 1, 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if allowed[r, c]]
