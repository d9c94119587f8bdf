"""What a model or the matcher says of a task: phrases of its texts, each with the numbers of the instances it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Span = tuple[int, int]


@dataclass(frozen=True)
class MarkedPhrase:
    """A phrase that names instances.

    Args:
        span: in its text, half-open, in code points.
        numbers: of the instances, without repeats, in the order said.
    """

    span: Span
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Refused:
    """A phrase that was said to name something, and why that is not taken.

    Args:
        label: of its text, as `A1`.
        phrase: the words.
        reason: a few words, the same for all phrases with this fault.
        detail: for whoever is asked again.
    """

    label: str
    phrase: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Marked:
    """Phrases by the label of their text, in reading order, and those that were refused.

    Args:
        failure: why nothing at all could be read; None if something could.
        repairs: what had to be put right, by kind, with how often.
    """

    phrases: Mapping[str, tuple[MarkedPhrase, ...]]
    refused: tuple[Refused, ...] = ()
    failure: str | None = None
    repairs: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_phrases(self) -> int:
        """Number of phrases in all texts."""
        return sum(map(len, self.phrases.values()))
