"""How an answer is made: its limit, how its next token is chosen, which regions it keeps, what ends it early.

Knows no model.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor

from llava_grounding.errors import LlavaGroundingError, UsageError, did_you_mean, shown
from llava_grounding.typed_values import is_number, is_whole

MAX_NEW_TOKENS = 2000
"""Longest answer that may be asked for."""
_GREEDY_BELOW = 1e-4  # temperatures below this are greedy, as in the original
_MAX_TEMPERATURE = 100.0


@runtime_checkable
class Flag(Protocol):
    """Something like `threading.Event`."""

    def is_set(self) -> bool:
        """True once it has been raised."""


StopSignal = Callable[[], bool] | Flag
"""Asked between tokens; true ends the answer where it stands."""


class GenerationOptions(TypedDict, total=False):
    """Keyword arguments of everything that answers: `ask`, `stream`, `ask_batch`."""

    max_new_tokens: int
    """Where the answer is cut, 1 to 2000; 256 unless told."""
    temperature: float
    """0, the default, always takes the likeliest token; higher values vary more."""
    seed: int | None
    """Makes sampling repeatable."""
    score_threshold: float | None
    """Score above which a region is kept, 0 to 1; None, the default, is the model's own."""
    stop: StopSignal | None
    """A function or `threading.Event` asked between tokens; true ends the answer where it stands."""


def read_options(options: GenerationOptions) -> tuple[Decoding, StopSignal | None]:
    """Options, checked.

    Raises:
        UsageError: if a value is out of its range.
        TypeError: if a name is not known.
    """
    settings = dict(options)
    stop = settings.pop("stop", None)
    if stop is not None and not isinstance(stop, Flag) and not callable(stop):
        raise UsageError(f"stop must be a function or a threading.Event, got {shown(stop)}")
    unknown = settings.keys() - {field.name for field in fields(Decoding)}
    for name in unknown:
        suggestion = did_you_mean(name, GenerationOptions.__annotations__)
        raise TypeError(f"unexpected keyword argument `{name}`{suggestion}")
    return Decoding(**settings), stop  # type: ignore[arg-type]  # whose types it checks itself


@dataclass(frozen=True)
class Decoding:
    """How an answer is made.

    Raises:
        UsageError: if a setting is out of its range.
    """

    max_new_tokens: int = 256
    """Tokens after which the answer is cut."""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher values vary more."""
    seed: int | None = None
    """Makes sampling repeatable, on any device alike; None draws a new one."""
    score_threshold: float | None = None
    """Score above which a region is kept, 0 to 1; None is the model's own."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if not is_whole(self.max_new_tokens) or not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise UsageError(
                f"max_new_tokens must be a whole number from 1 to {MAX_NEW_TOKENS}, got {shown(self.max_new_tokens)}"
            )
        if not is_number(self.temperature) or not 0 <= self.temperature <= _MAX_TEMPERATURE:
            raise UsageError(
                f"temperature must be a number from 0 to {_MAX_TEMPERATURE:g}, got {shown(self.temperature)}"
            )
        if self.seed is not None and (not is_whole(self.seed) or not 0 <= self.seed < 2**63):
            raise UsageError(f"seed must be a whole number from 0 to 2^63 - 1, got {shown(self.seed)}")
        check_threshold(self.score_threshold)
        object.__setattr__(self, "temperature", float(self.temperature))


def check_threshold(score_threshold: object) -> None:
    """Refuse a threshold that no score can be compared with.

    Raises:
        UsageError: if it is neither None nor a number from 0 to 1.
    """
    threshold = _plain(score_threshold)
    if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 1):
        raise UsageError(f"score_threshold must be a number from 0 to 1, got {shown(score_threshold)}")


def _plain(value: object) -> object:
    """A number of any library as one of Python; all else as it is."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool | int | float):
        with suppress(OverflowError):  # a fraction beyond all floats
            return int(value) if isinstance(value, numbers.Integral) else float(value)
    return value


class TokenSampler:
    """Chooses the next token of one answer."""

    def __init__(self, decoding: Decoding) -> None:
        self._temperature = decoding.temperature
        self._generator: torch.Generator | None = None
        if self._temperature >= _GREEDY_BELOW:
            # On the CPU whatever the model runs on: the same seed then draws the same numbers everywhere.
            self._generator = torch.Generator()
            if decoding.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(int(decoding.seed))

    def sample(self, logits: Tensor) -> int:
        """The next token for logits `[V]`.

        Raises:
            LlavaGroundingError: if they are not numbers.
        """
        logits = logits.float()
        best = int(logits.argmax())
        if not math.isfinite(float(logits[best])):
            raise LlavaGroundingError(
                "the model gave a number that is not finite; its weights are damaged, or the dtype is too narrow for "
                "it (try float32)"
            )
        if self._generator is None:
            return best
        probabilities = (logits.cpu() / self._temperature).softmax(dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def stop_requested(stop: StopSignal | None) -> bool:
    """Ask a stop signal of either kind."""
    if stop is None:
        return False
    return stop.is_set() if isinstance(stop, Flag) else bool(stop())
