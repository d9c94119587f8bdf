"""Metrics as pure functions of counts, overlaps and short texts, with bootstrap intervals over images.

Knows no model, no data set and no files; what counts as right is decided in `judge.py`. Captions are in `captions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llava_grounding.geometry import box_iou
from llava_grounding.language.nouns import parse_number
from llava_grounding.matching import harmonic_mean, hits, ratio

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ARTICLES = frozenset({"a", "an", "the"})


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


def box_hits_at_50(predicted_xyxy: Sequence[np.ndarray | None], truths_xyxy: Sequence[np.ndarray]) -> list[bool]:
    """Per phrase, whether its one predicted box overlaps one of the true boxes (k, 4) by more than half; None misses.

    The mean is REC's acc@0.5. A box at exactly half misses, unlike in the R@k of phrase grounding.
    """
    right = []
    for predicted, truth in zip(predicted_xyxy, truths_xyxy, strict=True):
        boxes = np.asarray(truth, dtype=np.float64).reshape(-1, 4)
        if predicted is None or not len(boxes):
            right.append(False)
            continue
        overlaps = box_iou(np.asarray(predicted, dtype=np.float64).reshape(1, 4), boxes)
        right.append(bool(hits(overlaps.max(), strict=True)))
    return right


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
    values = np.asarray(statistic(bootstrap_weights(len(rows), seed, draws) @ rows))
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache(maxsize=2)
def bootstrap_weights(count: int, seed: int = 0, draws: int = 1000) -> np.ndarray:
    """How often each of so many images is in each draw, (draws, count) float64: the same for all statistics."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    weights.setflags(write=False)
    return weights


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
