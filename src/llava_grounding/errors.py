"""Every exception this package raises on purpose, and the helper that finds the name somebody meant.

    LlavaGroundingError          exit code 1: something failed
    ├── UsageError               exit code 2: a call, a command or an argument is put together wrongly
    │   ├── ConfigError          unknown key, preset or model; a setting out of range
    │   ├── ImageError           a picture that is missing, damaged, too large or of a kind we do not read
    │   ├── PromptError          a click, box, scribble or mask that fits neither the image nor the question
    │   └── MissingExtraError    a part of the package whose optional dependencies are not installed
    ├── ShapeError               an array of the wrong shape or type
    ├── MarkupError              grounded text whose `<g_s> ... <g_e> <seg>` does not add up
    ├── DataError                a record, a data set or a run-length code that cannot be read
    └── CheckpointError          weights that are damaged or belong to another model

Each message is one plain sentence: what was expected, what came, what to do.
Knows of the command line no more than its exit codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import ClassVar

NEAREST_CUTOFF = 0.6
"""How alike two names must be, in [0, 1], before one is offered for the other."""


class LlavaGroundingError(Exception):
    """Anything this package raises on purpose; its text may be shown to the person who made the call."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 2 when the caller gave something wrong, 1 otherwise."""


class UsageError(LlavaGroundingError):
    """A call, a command or an argument is put together wrongly."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown key, preset or model, or a setting out of its range."""


class ImageError(UsageError):
    """A picture that is missing, damaged, too large or of a kind that is not read."""


class PromptError(UsageError):
    """A click, box, scribble or mask that fits neither the image nor the question."""


class MissingExtraError(UsageError):
    """A part of the package whose optional dependencies are not installed; see `missing_extra`."""


class ShapeError(LlavaGroundingError):
    """An array of the wrong shape or type."""


class MarkupError(LlavaGroundingError):
    """Grounded text whose `<g_s> ... <g_e> <seg>` does not add up."""


class DataError(LlavaGroundingError):
    """A record, a data set or a run-length code that cannot be read."""


class CheckpointError(LlavaGroundingError):
    """Weights that are damaged or belong to another model."""


def missing_extra(extra: str, needed_for: str) -> MissingExtraError:
    """The error that names the line to type, for a part that needs the packages of `extra`."""
    line = f'pip install "llava-grounding[{extra}]"'
    return MissingExtraError(f"{needed_for} needs packages that are not installed; type `{line}`")


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, upper and lower case aside; None if none is alike. The first wins a tie."""
    best, best_ratio = None, NEAREST_CUTOFF
    matcher = SequenceMatcher(b=name.casefold(), autojunk=False)
    for option in options:
        matcher.set_seq1(option.casefold())
        ratio = matcher.ratio()
        if ratio > best_ratio or (best is None and ratio == best_ratio):
            best, best_ratio = option, ratio
    return best


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The tail of a message about an unknown name: "; did you mean `num_queries`?", or nothing."""
    option = nearest(name, options)
    return f"; did you mean `{option}`?" if option is not None else ""
