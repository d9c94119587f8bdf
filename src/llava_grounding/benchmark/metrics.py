"""Metrics as pure functions of counts, overlaps and short texts, with bootstrap intervals over images.

Knows no model, no data set and no files; what counts as right is decided in `grounding.py`. Captions: `captions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llava_grounding.geometry import box_iou
from llava_grounding.language.nouns import parse_number
from llava_grounding.matching import hits

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ARTICLES = frozenset({"a", "an", "the"})


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


def overlap_iou(both: int, either: int) -> float:
    """Intersection over union of pixels in both and in either of two masks; two empty ones agree."""
    return both / either if either else 1.0


def parse_yes_no(answer: str) -> bool | None:
    """True for yes, False for no, by the first of the two words; None when the answer has neither."""
    match = _YES_NO.search(answer)
    return None if match is None else match.group(1).lower() == "yes"


class YesNoCounts(NamedTuple):
    """How many answers said what of which truth; of several sums arrays.

    Args:
        true_yes, false_yes: said yes, where the truth is yes or no.
        true_no, false_no: said no, where the truth is no or yes.
        unparsable_no, unparsable_yes: said neither, by the truth.
    """

    true_yes: float = 0.0
    false_yes: float = 0.0
    true_no: float = 0.0
    false_no: float = 0.0
    unparsable_no: float = 0.0
    unparsable_yes: float = 0.0

    @property
    def asked(self) -> float:
        """How many questions were put."""
        truth_is_yes = self.true_yes + self.false_no + self.unparsable_yes
        return truth_is_yes + self.false_yes + self.true_no + self.unparsable_no


def yes_no_row(said: bool | None, truth: bool) -> YesNoCounts:
    """The counts of one answer; None is unparsable."""
    if said is None:
        return YesNoCounts(unparsable_yes=1.0) if truth else YesNoCounts(unparsable_no=1.0)
    if said:
        return YesNoCounts(true_yes=1.0) if truth else YesNoCounts(false_yes=1.0)
    return YesNoCounts(false_no=1.0) if truth else YesNoCounts(true_no=1.0)


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
    values = np.asarray(statistic(_drawn_sums(rows.tobytes(), rows.shape, seed, draws)))
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache(maxsize=2)
def _drawn_sums(rows: bytes, shape: tuple[int, int], seed: int, draws: int) -> np.ndarray:
    """Sums (draws, k) of resampled rows (n, k) of float64: several statistics are often made of the same ones."""
    sums = bootstrap_weights(shape[0], seed, draws) @ np.frombuffer(rows).reshape(shape)
    sums.setflags(write=False)
    return np.asarray(sums)


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
    return precision, recall, f1_statistic(precision, recall)


def f1_statistic(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean of both (draws,); an undefined part counts as 0, so silence scores 0."""
    p, r = np.nan_to_num(precision), np.nan_to_num(recall)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p + r > 0, 2 * p * r / (p + r), 0.0)


def share_statistic(sums: np.ndarray) -> np.ndarray:
    """First column over second, for shares and means under `bootstrap_interval`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])
