"""Metrics as pure functions of counts, overlaps and short texts, with bootstrap intervals over images.

Knows no model, no data set and no files; what counts as right is decided in `judge.py`. Captions are in `captions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from llava_grounding.geometry import box_iou
from llava_grounding.language.nouns import parse_number

IOU_THRESHOLD = 0.5
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ARTICLES = frozenset({"a", "an", "the"})


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


@dataclass(frozen=True)
class YesNoCounts:
    """Answers to yes/no questions; what is neither yes nor no is wrong, and counted."""

    true_yes: int = 0
    false_yes: int = 0
    true_no: int = 0
    false_no: int = 0
    unparsable: int = 0
    unparsable_yes: int = 0

    @property
    def total(self) -> int:
        return self.true_yes + self.false_yes + self.true_no + self.false_no + self.unparsable

    @property
    def accuracy(self) -> float | None:
        return ratio(self.true_yes + self.true_no, self.total)

    @property
    def precision(self) -> float | None:
        return ratio(self.true_yes, self.true_yes + self.false_yes)

    @property
    def recall(self) -> float | None:
        return ratio(self.true_yes, self.true_yes + self.false_no + self.unparsable_yes)

    @property
    def f1(self) -> float:
        """Of the answer `yes`, as in POPE (arXiv:2305.10355)."""
        return harmonic_mean(self.precision, self.recall)

    @property
    def yes_share(self) -> float | None:
        """How often the answer is yes; far from the truth's share shows a bias."""
        return ratio(self.true_yes + self.false_yes, self.total)


@dataclass(frozen=True)
class Interval:
    """Percentile bootstrap interval."""

    low: float
    high: float


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
    gain = np.where(overlaps >= threshold, overlaps + min(overlaps.shape) + 1, 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if overlaps[r, c] >= threshold]


def box_hits_at_50(predicted_xyxy: Sequence[np.ndarray | None], truths_xyxy: Sequence[np.ndarray]) -> list[bool]:
    """Per phrase, whether its one predicted box overlaps one of the true boxes (k, 4) by more than half; None misses.

    The mean is REC's acc@0.5, and Flickr30K's R@1 with "any box".
    """
    hits = []
    for predicted, truth in zip(predicted_xyxy, truths_xyxy, strict=True):
        boxes = np.asarray(truth, dtype=np.float64).reshape(-1, 4)
        if predicted is None or not len(boxes):
            hits.append(False)
            continue
        overlaps = box_iou(np.asarray(predicted, dtype=np.float64).reshape(1, 4), boxes)
        hits.append(bool(overlaps.max() > IOU_THRESHOLD))
    return hits


def mask_overlap(predicted: np.ndarray | None, truth: np.ndarray) -> tuple[int, int]:
    """Pixels in both and in either of two (H, W) masks; None is an empty mask."""
    if predicted is None:
        return 0, int(np.count_nonzero(truth))
    return int(np.count_nonzero(predicted & truth)), int(np.count_nonzero(predicted | truth))


def mean_iou(overlaps: Sequence[tuple[int, int]]) -> float | None:
    """Mean over phrases of intersection / union; two empty masks agree."""
    if not overlaps:
        return None
    return float(np.mean([both / either if either else 1.0 for both, either in overlaps]))


def cumulative_iou(overlaps: Sequence[tuple[int, int]]) -> float | None:
    """Sum of the intersections / sum of the unions: large things weigh more."""
    return ratio(sum(both for both, _ in overlaps), sum(either for _, either in overlaps))


def parse_yes_no(answer: str) -> bool | None:
    """True for yes, False for no, by the first of the two words; None when the answer has neither."""
    match = _YES_NO.search(answer)
    return None if match is None else match.group(1).lower() == "yes"


def count_yes_no(answers: Sequence[str], truths: Sequence[bool]) -> YesNoCounts:
    """Counts of free-text answers against the truth."""
    said = [parse_yes_no(answer) for answer in answers]
    pairs = list(zip(said, truths, strict=True))
    return YesNoCounts(
        true_yes=sum(s is True and t for s, t in pairs),
        false_yes=sum(s is True and not t for s, t in pairs),
        true_no=sum(s is False and not t for s, t in pairs),
        false_no=sum(s is False and t for s, t in pairs),
        unparsable=sum(s is None for s, _ in pairs),
        unparsable_yes=sum(s is None and t for s, t in pairs),
    )


def normalise_answer(text: str) -> str:
    """Lower case, single spaces, no punctuation and no articles."""
    words = (match.group(0).lower().replace("’", "'") for match in _WORD.finditer(text))
    return " ".join(word for word in words if word not in _ARTICLES)


def exact_match(answer: str, truth: str) -> bool:
    """Whether two short answers are the same words."""
    return normalise_answer(answer) == normalise_answer(truth)


def first_number(text: str) -> int | None:
    """The first number of a text in digits or words; "no" counts as 0; None when there is none."""
    for word in normalise_answer(text).split():
        if word in ("no", "none"):
            return 0
        if (value := parse_number(word)) is not None:
            return value
    return None


def words_among(text: str, vocabulary: frozenset[str]) -> frozenset[str]:
    """The words of a text that belong to a vocabulary, such as colours."""
    return frozenset(normalise_answer(text).split()) & vocabulary


def bootstrap_interval(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    draws: int = 1000,
    level: float = 0.95,
) -> Interval | None:
    """Interval of a statistic of summed rows, resampling images with replacement; None without images.

    Args:
        rows: (n, k), the counts of one image each. To compare systems, put their counts of one image side by side in
            one row and let the statistic return the difference: then both are resampled together.
        statistic: maps sums (draws, k) to values (draws,); values that are not finite are left out.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        return None
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=draws)
    values = np.asarray(statistic(weights @ rows))
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def grounding_statistics(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of summed `GroundingCounts.row()`s (draws, 4), for `bootstrap_interval`."""
    predicted, truths, tp_predicted, tp_truths = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = tp_predicted / predicted, tp_truths / truths
        p, r = np.nan_to_num(precision), np.nan_to_num(recall)
        f1 = np.where(p + r > 0, 2 * p * r / (p + r), 0.0)
    return precision, recall, f1


def share_statistic(sums: np.ndarray) -> np.ndarray:
    """First column over second, for shares and means under `bootstrap_interval`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])
