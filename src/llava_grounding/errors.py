"""Every exception this package raises on purpose, and what its messages are made with: values cut short, near names.

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

Each message is one plain sentence: what was expected, what came, what to do; no value makes it long.
Knows of the command line no more than its exit codes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any, ClassVar

NEAREST_CUTOFF = 0.6
"""How alike two names must be, in [0, 1], before one is offered for the other."""
NEAREST_LENGTH = 200
"""Characters beyond which a name is like no other."""
MAX_VALUE = 60
"""Characters a message shows of a value."""
MAX_MESSAGE = 2000
"""Characters of a whole message."""
STAND_IN = "\ufffd"
"""What is printed in place of a character that is not shown."""
VALUE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What taking a parsed value apart raises where it is of another form, or one of its numbers beyond floating point."""


class LlavaGroundingError(Exception):
    """Anything this package raises on purpose; its text may be shown to the person who made the call.

    A text of more than `MAX_MESSAGE` characters loses its middle, whatever it quotes.
    """

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 2 when the caller gave something wrong, 1 otherwise."""

    def __init__(self, *given: object) -> None:
        super().__init__(*(cut_short(one, MAX_MESSAGE) if isinstance(one, str) else one for one in given))


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


def cut_short(text: str, length: int) -> str:
    """The text with its beginning and its end in at most `length` characters."""
    if len(text) <= length:
        return text
    end = (length - 3) // 3
    return f"{text[: length - 3 - end]}...{text[len(text) - end :]}"


def shown(value: object, length: int = MAX_VALUE) -> str:
    """A value in a message, as Python writes it, cut after `length` characters; takes as long as these, however large
    or deep the value is. What could steer a terminal is escaped."""
    text = ""
    for piece in _written(value, length):
        text += piece
        if len(text) > length:
            return f"{text[: length - 3]}..."
    return text


def one_line(error: object, length: int | None = None) -> str:
    """What an error says, without line breaks; its kind where it says nothing.

    Args:
        length: characters it has at most; None = all.
    """
    return (" ".join(str(error).split()) or type(error).__name__)[:length]


def quoted(value: object, length: int = MAX_VALUE) -> str:
    """A value in backticks, for a message: text as it is but for what cannot be printed, lists as by `shown`."""
    if isinstance(value, Mapping | list | tuple | bytes | bytearray):
        return f"`{shown(value, length)}`"
    text = value if isinstance(value, str) else _in_words(value, str)
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    return f"`{''.join(one if one.isprintable() else repr(one)[1:-1] for one in text)}`"


def printable_character(character: str) -> str:
    """The character itself; of a control or a separator but a line end a blank, or a stand-in."""
    if character == "\n" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp"):
        return character
    return " " if character.isspace() else STAND_IN


def _written(value: object, length: int) -> Iterator[str]:
    """`repr` in pieces; whoever takes them may stop after `length` characters, which bounds how deep it goes."""
    if isinstance(value, Mapping):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _written(key, length)
            yield ": "
            yield from _written(item, length)
        yield "}"
    elif isinstance(value, list | tuple):
        brackets = "[]" if isinstance(value, list) else "()"
        yield brackets[0]
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _written(item, length)
        yield "," + brackets[1] if brackets[0] == "(" and len(value) == 1 else brackets[1]
    elif isinstance(value, str | bytes | bytearray):
        yield repr(value if len(value) <= length else value[: length + 1])
    elif hasattr(value, "tolist") and hasattr(value, "shape"):
        yield from _written_array(value, length)
    else:
        yield _in_words(value, repr)


def _written_array(value: Any, length: int) -> Iterator[str]:
    """An array as the list that was probably given; one of more than two axes or of wide rows as numpy shows it."""
    if len(value.shape) < 3 and all(side <= length for side in value.shape[1:]):
        yield from _written((value[:length] if value.shape else value).tolist(), length)
    else:
        yield " ".join(repr(value).split())


def _in_words(value: object, how: Callable[[object], str]) -> str:
    try:
        return how(value)
    except Exception:  # noqa: BLE001  a number of thousands of digits, or a type whose own description fails
        return f"{type(value).__name__} too large to show"


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, upper and lower case aside; None if none is alike. The first wins a tie."""
    if len(name) > NEAREST_LENGTH:
        return None
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
