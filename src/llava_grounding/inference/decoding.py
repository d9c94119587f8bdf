"""How an answer is written: its limit, how its next token is chosen, and what ends it early. Knows no model."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor

from llava_grounding.errors import LlavaGroundingError, UsageError, did_you_mean, shown

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
    """How an answer is written.

    Raises:
        UsageError: if a setting is out of its range.
    """

    max_new_tokens: int = 256
    """Tokens after which the answer is cut."""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher values vary more."""
    seed: int | None = None
    """Makes sampling repeatable, on any device alike; None draws a new one."""

    def __post_init__(self) -> None:
        if not _is_int(self.max_new_tokens) or not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise UsageError(
                f"max_new_tokens must be a whole number from 1 to {MAX_NEW_TOKENS}, got {shown(self.max_new_tokens)}"
            )
        if not _is_number(self.temperature) or not 0 <= self.temperature <= _MAX_TEMPERATURE:
            raise UsageError(
                f"temperature must be a number from 0 to {_MAX_TEMPERATURE:g}, got {shown(self.temperature)}"
            )
        if self.seed is not None and (not _is_int(self.seed) or not 0 <= self.seed < 2**63):
            raise UsageError(f"seed must be a whole number from 0 to 2^63 - 1, got {shown(self.seed)}")
        object.__setattr__(self, "temperature", float(self.temperature))  # of any kind of number


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number or a fraction beyond all floats
        return False


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
