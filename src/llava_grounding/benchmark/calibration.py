"""How far the scores of regions can be trusted: reliability curve, risk against coverage.

Knows no model, no task and no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """How far the scores of regions can be trusted.

    Args:
        bins: (mean score, share right, regions) of ten equal parts of [0, 1]; empty ones left out.
        error: expected calibration error: mean distance of score and share, weighted by regions.
        risk: (coverage, share wrong) when only the surest regions are kept.
        regions: with a score.
    """

    bins: tuple[tuple[float, float, int], ...]
    error: float | None
    risk: tuple[tuple[float, float], ...]
    regions: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The calibration of which `data` are the fields, as JSON has them."""
        bins, risk = (tuple(map(tuple, data[name])) for name in ("bins", "risk"))
        return cls(bins, data["error"], risk, data["regions"])

    def to_markdown(self) -> list[str]:
        """Lines of both curves as tables; none where no region has a score."""
        if self.error is None:
            return []
        lines = [f"Expected calibration error {self.error:.3f}.", "", "| mean score | share right | regions |"]
        lines += ["|---|---|---|", *(f"| {mean:.3f} | {right:.3f} | {count} |" for mean, right, count in self.bins)]
        lines += ["", "| coverage | risk |", "|---|---|"]
        return [*lines, *(f"| {kept:.2f} | {risk:.3f} |" for kept, risk in self.risk), ""]


def calibration(regions: Iterable[tuple[float, bool]]) -> Calibration:
    """Reliability curve, and risk against coverage at each tenth; regions with equal scores are kept together.

    Args:
        regions: score, and whether it is right.
    """
    pairs = np.array(list(regions), dtype=np.float64).reshape(-1, 2)
    if not len(pairs):
        return Calibration((), None, (), 0)
    place = np.minimum((pairs[:, 0] * 10).astype(int), 9)
    bins, error = [], 0.0
    for number in range(10):
        inside = pairs[place == number]
        if len(inside):
            mean, right = (float(one) for one in inside.mean(axis=0))
            bins.append((mean, right, len(inside)))
            error += abs(mean - right) * len(inside) / len(pairs)
    ordered = pairs[np.argsort(-pairs[:, 0], kind="stable")]
    wrong = np.cumsum(1 - ordered[:, 1])
    risk = []
    for tenth in range(1, 11):
        threshold = ordered[int(np.ceil(len(pairs) * tenth / 10)) - 1, 0]
        kept = int(np.count_nonzero(pairs[:, 0] >= threshold))
        risk.append((kept / len(pairs), float(wrong[kept - 1]) / kept))
    return Calibration(tuple(bins), error, tuple(risk), len(pairs))
