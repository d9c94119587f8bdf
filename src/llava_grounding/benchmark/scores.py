"""From scores of samples to numbers: statistics of summed counts, bootstrap intervals over images, differences.

A task gives every sample rows of counts under a name; a `Statistic` says what the sum of such rows means. So a report,
an interval and a comparison are written once. Knows no task, no model and no files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from llava_grounding.benchmark.metrics import (
    YesNoCounts,
    bootstrap_interval,
    bootstrap_weights,
    f1_statistic,
    grounding_statistics,
    share_statistic,
)
from llava_grounding.benchmark.report import Metric
from llava_grounding.errors import VALUE_ERRORS, DataError, shown

State = Literal["answered", "empty", "unparsable", "not_judged", "failed", "missing", "not_applicable"]
"""What became of a sample: `empty`: nothing was said or pointed at; `unparsable`: no metric can read it; `failed`: the
system gave an error; `missing`: there is no prediction; `not_applicable`: its labels do not allow the metric."""

Rows = Mapping[str, tuple[float, ...]]
_LARGEST = 1e7  # pixels
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SampleScore:
    """What the answer to one sample is worth.

    Args:
        id, image, kind: of the sample.
        state: what became of it.
        rows: counts by key, in snake case; a sample that a metric does not judge has no row for it.
        regions: score and rightness of every region with a score, for calibration.
        quality: 0 to 1, by which worst and best cases are found; None where it cannot be said.
        detail: what a reader wants to see of the case.
        questions: put for it; phrases count one by one, and a question once more where it is asked without regions.
    """

    id: str
    image: str
    kind: str = ""
    state: State = "answered"
    rows: Rows = field(default_factory=dict)
    regions: tuple[tuple[float, bool], ...] = ()
    quality: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    questions: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = {
            "id": self.id,
            "image": self.image,
            "kind": self.kind,
            "state": self.state,
            "rows": {name: list(row) for name, row in self.rows.items()},
            "regions": [[score, right] for score, right in self.regions],
            "quality": self.quality,
            "detail": dict(self.detail),
        }
        return data if self.questions == 1 else {**data, "questions": self.questions}

    @classmethod
    def from_dict(cls, data: Any) -> SampleScore:
        """Read what `to_dict` wrote.

        Raises:
            DataError: if it is something else.
        """
        try:
            if data["state"] not in get_args(State):
                raise DataError(f"a state is one of {', '.join(get_args(State))}, got {shown(data['state'])}")
            quality = data["quality"]
            found = cls(
                _text(data["id"], "id"),
                _text(data["image"], "image"),
                _text(data["kind"], "kind"),
                data["state"],
                {name: tuple(map(float, row)) for name, row in data["rows"].items()},
                tuple((float(score), bool(right)) for score, right in data["regions"]),
                None if quality is None else float(quality),
                _detail(data["detail"]),
                int(data.get("questions", 1)),
            )
            shares = [*(score for score, _ in found.regions), *([] if quality is None else [float(quality)])]
            if not all(-_ROUNDING <= one <= 1 + _ROUNDING for one in shares):  # NaN is not
                raise DataError(f"scores and quality must be in 0 to 1, got {shown(shares)}")
            return found
        except VALUE_ERRORS as error:
            raise DataError(f"not the score of a sample: {error}") from error


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"`{what}` must be a text, got {shown(value)}")
    return value


def _detail(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is shown of a case: what is drawn must be numbers.

    Raises:
        DataError: if it is not; or what Python raises for what is not there.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"`detail` must be an object, got {shown(value)}")
    if "image_size" in value:
        width, height = value["image_size"]
        drawn = [*value.get("truths", ()), *value.get("regions", ())]
        numbers = [width, height, *(side for one in drawn for side in one["box"])]
        boxes = all(len(one["box"]) == 4 and "text" in one for one in drawn)
        if not boxes or not all(isinstance(one, int | float) and abs(one) < _LARGEST for one in numbers):
            raise DataError(f"`detail` must have boxes of numbers, got {shown(value)}")
        if min(width, height) <= 0 or not all("right" in one for one in value.get("regions", ())):
            raise DataError(f"`detail` must have a size and regions that are right or not, got {shown(value)}")
    return value


@dataclass(frozen=True)
class Statistic:
    """A number made of summed rows.

    Args:
        name: as printed.
        row: under which key samples have its counts.
        of: sums (draws, k) to values (draws,).
        count: which column says over how many it is taken, unless `count_all`.
        higher_is_better: direction.
        unit: empty for shares in [0, 1].
        has_interval: whether one is drawn.
        count_all: whether it is taken over the sum of all columns.
        what: which of the numbers of its row it is, where there are several.
    """

    name: str
    row: str
    of: Callable[[np.ndarray], np.ndarray]
    count: int = 1
    higher_is_better: bool = True
    unit: str = ""
    has_interval: bool = True
    count_all: bool = False
    what: str = ""

    @property
    def key(self) -> str:
        """Its key in files, whatever is printed."""
        return f"{self.row}_{self.what}" if self.what else self.row


def share(name: str, row: str, higher_is_better: bool = True) -> Statistic:
    """First column over second."""
    return Statistic(name, row, share_statistic, 1, higher_is_better)


def level_row(what: str, level: float) -> str:
    """Key of the row of what is right at an IoU of this level or more, as `box_at_50`."""
    return f"{what}_at_{100 * level:.0f}"


def grounding_counts(how: str, row: str) -> list[Statistic]:
    """Precision, recall and F1 of rows that are `GroundingCounts`."""
    return [
        Statistic(f"grounded precision ({how})", row, lambda sums: grounding_statistics(sums)[0], 0, what="precision"),
        Statistic(f"grounded recall ({how})", row, lambda sums: grounding_statistics(sums)[1], 1, what="recall"),
        Statistic(f"grounded F1 ({how})", row, lambda sums: grounding_statistics(sums)[2], 1, what="f1"),
    ]


def yes_no(name: str, row: str) -> list[Statistic]:
    """Accuracy, precision, recall and F1 of the answer yes, and how often it is yes, of rows that are `YesNoCounts`.

    F1 is of the answer `yes`, as in POPE (arXiv:2305.10355). A share of yes far from the truth's shows a bias.
    """

    def over(
        part: Callable[[YesNoCounts], float], whole: Callable[[YesNoCounts], float]
    ) -> Callable[[np.ndarray], np.ndarray]:
        def of(sums: np.ndarray) -> np.ndarray:
            counts = YesNoCounts(*sums.T)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(part(counts) / whole(counts))

        return of

    precision = over(lambda c: c.true_yes, lambda c: c.true_yes + c.false_yes)
    recall = over(lambda c: c.true_yes, lambda c: c.true_yes + c.false_no + c.unparsable_yes)
    found = {
        "accuracy": over(lambda c: c.true_yes + c.true_no, lambda c: c.asked),
        "precision": precision,
        "recall": recall,
        "F1": lambda sums: f1_statistic(precision(sums), recall(sums)),
        "share of yes": over(lambda c: c.true_yes + c.false_yes, lambda c: c.asked),
    }
    return [
        Statistic(f"{name} {what}", row, of, count_all=True, what=what.lower().replace(" ", "_"))
        for what, of in found.items()
    ]


def by_image(scores: Sequence[SampleScore], row: str) -> dict[str, np.ndarray]:
    """Summed rows of each image that has one, in the order of first sight."""
    sums: dict[str, np.ndarray] = {}
    for score in scores:
        if row in score.rows:
            counts = np.array(score.rows[row], dtype=np.float64)
            sums[score.image] = sums[score.image] + counts if score.image in sums else counts
    return sums


def metrics_of(scores: Sequence[SampleScore], statistics: Sequence[Statistic], seed: int = 0) -> list[Metric]:
    """The numbers, with intervals that resample images; a statistic of which no sample has a row is left out."""
    metrics = []
    tables: dict[str, np.ndarray] = {}
    for one in statistics:
        if one.row not in tables:
            found = by_image(scores, one.row)
            # In an order of their own, so that the order of samples changes no interval.
            tables[one.row] = np.array([found[image] for image in sorted(found)])
        rows = tables[one.row]
        if not len(rows):
            continue
        total = rows.sum(axis=0, keepdims=True)
        value = float(one.of(total)[0])
        count = int(total.sum() if one.count_all else total[0, one.count])
        defined = bool(np.isfinite(value))
        interval = bootstrap_interval(rows, one.of, seed) if defined and one.has_interval else None
        shown_value = value if defined else None
        metrics.append(Metric(one.name, shown_value, count, interval, one.higher_is_better, one.unit, one.key))
    return metrics


def state_counts(scores: Sequence[SampleScore]) -> dict[str, int]:
    """How many samples were asked, and how many are in each state."""
    counts: dict[str, int] = defaultdict(int)
    for score in scores:
        counts[score.state] += 1
    return {"asked": len(scores), **{state: counts[state] for state in get_args(State)}}


@dataclass(frozen=True)
class Difference:
    """One statistic of two systems on the same images, resampled together.

    Args:
        first, second: values; None where undefined.
        difference: second - first.
        low, high: its 95 % bootstrap interval.
        share_better: of the draws in which the second is better, ties counted half.
        images: that both were scored on.
        key: as of the statistic.
    """

    name: str
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    share_better: float | None
    images: int
    higher_is_better: bool = True
    key: str = ""


def compare(
    first: Sequence[SampleScore],
    second: Sequence[SampleScore],
    statistics: Sequence[Statistic],
    seed: int = 0,
    draws: int = 1000,
) -> list[Difference]:
    """Paired bootstrap over the images that both have a row for."""
    found = []
    for one in statistics:
        mine, theirs = by_image(first, one.row), by_image(second, one.row)
        common = sorted(mine.keys() & theirs.keys())
        if not common:
            continue
        rows = np.array([np.stack((mine[image], theirs[image])) for image in common])  # images, 2, k
        sums = np.einsum("di,isk->sdk", bootstrap_weights(len(rows), seed, draws), rows)
        values = [float(one.of(rows[:, side].sum(axis=0, keepdims=True))[0]) for side in (0, 1)]
        change = one.of(sums[1]) - one.of(sums[0])
        change = change[np.isfinite(change)]
        known = len(change) > 0 and bool(np.isfinite(values).all())
        low, high = np.quantile(change, [0.025, 0.975]) if known else (np.nan, np.nan)
        better = np.sign(change) * (1 if one.higher_is_better else -1)
        first_value, second_value = (value if np.isfinite(value) else None for value in values)
        found.append(
            Difference(
                one.name,
                first_value,
                second_value,
                values[1] - values[0] if known else None,
                float(low) if known else None,
                float(high) if known else None,
                float(np.mean((better + 1) / 2)) if known else None,
                len(common),
                one.higher_is_better,
                one.key,
            )
        )
    return found
