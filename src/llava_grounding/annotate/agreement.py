"""How far two models agree on what phrases name. Pure; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_grounding.annotate.marked import Marked, MarkedPhrase
from llava_grounding.errors import shown


class Agreement:
    """Counts over samples that both models have answered.

    Two phrases are about the same words if their spans overlap; they agree if they then name the same instances.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about
        self._samples = self._first = self._second = self._common = self._same = 0
        self._shared = 0.0

    def add(self, first: Marked, second: Marked) -> None:
        """Count one sample."""
        self._samples += 1
        for label in {*first.phrases, *second.phrases}:
            ones, others = first.phrases.get(label, ()), second.phrases.get(label, ())
            self._first += len(ones)
            self._second += len(others)
            for one in ones:
                other = _counterpart(one, others)
                if other is not None:
                    numbers, theirs = set(one.numbers), set(other.numbers)
                    self._common += 1
                    self._same += numbers == theirs
                    self._shared += len(numbers & theirs) / len(numbers | theirs)

    def to_dict(self) -> dict[str, Any]:
        """The counts as a manifest has them.

        `agreement`: of the phrases both have marked, the share that name the same instances; `f1`: of all phrases of
        both; `jaccard`: mean of shared over all instances of a phrase both have.
        """
        total = self._first + self._second
        return {
            "with": dict(self._about),
            "samples": self._samples,
            "phrases": [self._first, self._second],
            "in_both": self._common,
            "same_instances": self._same,
            "agreement": _share(self._same, self._common),
            "f1": _share(2 * self._same, total),
            "jaccard": _share(self._shared, self._common),
        }


def _counterpart(one: MarkedPhrase, others: tuple[MarkedPhrase, ...]) -> MarkedPhrase | None:
    """The phrase that shares most characters."""

    def common(other: MarkedPhrase) -> int:
        return min(one.span[1], other.span[1]) - max(one.span[0], other.span[0])

    best = max(others, key=common, default=None)
    return best if best is not None and common(best) > 0 else None


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def describe(agreement: Mapping[str, Any]) -> str:
    """One line for a person."""
    return (
        f"{shown(agreement['with'].get('model'))} marks {agreement['phrases'][1]} phrases against "
        f"{agreement['phrases'][0]}; of {agreement['in_both']} that both mark, {agreement['same_instances']} name the "
        f"same instances (agreement {agreement['agreement']}, F1 {agreement['f1']}, Jaccard {agreement['jaccard']})"
    )
