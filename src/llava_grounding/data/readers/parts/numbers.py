"""Numbers and ids as files write them: whole ones as 40.0 or "40", ids of any length and of any letters.

Knows no labels and no pictures; what cannot be used raises `EntryError`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from llava_grounding.data.plain_files import is_unicode
from llava_grounding.errors import DataError, shown
from llava_grounding.typed_values import is_whole

Key = int | str
"""An id: a name that links two rows of a file, and nothing else."""

_HUGE = 1e12  # the numbers of one label together, in pixels; beyond it drawing a polygon may overflow
MAX_ID = 2**64
"""Beyond it an id is kept as text: Python hashes numbers by their remainder by 2^61 - 1, so that of longer ones any
amount could have the same."""
_EXACT = 2.0**53  # beyond it a floating-point number may stand for several whole ones
_LONGEST_KEY = 1000  # characters
_NUMBERS = {int, float}
_DIGITS = re.compile(r"-?[0-9]{1,20}")


class EntryError(DataError):
    """What is wrong with one entry of a file.

    Args:
        reason: a few words, the same for all entries with this fault.
        detail: one sentence about this entry.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


def whole_number(value: Any, what: str = "id") -> int:
    """A size or a count; digits as text count, and 40.0 is 40, as some files write them."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, str) and len(value) <= 40:
        text = value.strip()
        if _DIGITS.fullmatch(text):
            value = int(text)
        elif re.fullmatch(r"-?[0-9]{1,15}\.0*", text):
            value = int(float(text))
    if not is_whole(value):
        raise EntryError(f"{what} that is no whole number", f"{what} must be a whole number, got {shown(value)}")
    if abs(value) >= MAX_ID:
        raise EntryError(f"{what} beyond 64 bits", f"{what} must be a number of at most 64 bits, got {shown(value)}")
    return int(value)


def number_or_none(value: Any) -> int | None:
    """What `whole_number` takes, None for all else."""
    if type(value) is int and -MAX_ID < value < MAX_ID:
        return value
    try:
        return whole_number(value)
    except EntryError:
        return None


def key_of(value: Any, what: str = "id") -> Key:
    """An id. Digits as text and 40.0 are the number; any other text, and a number beyond 64 bits, is a name.

    Raises:
        EntryError: if it is neither a number nor text, or text that no id is.
    """
    if type(value) is int and -MAX_ID < value < MAX_ID:
        return value
    if isinstance(value, str):
        if len(value) <= 40 and (number := number_or_none(value)) is not None:
            return number
        if value.strip() and len(value) <= _LONGEST_KEY and is_unicode(value):
            return value
    elif is_whole(value):
        with suppress(ValueError):  # more digits than Python writes
            return str(value)
    elif isinstance(value, float) and (number := number_or_none(value)) is not None:
        return number
    raise EntryError(
        f"{what} that is neither a number nor text", f"{what} must be a number or text, got {shown(value)}"
    )


def key_or_none(value: Any) -> Key | None:
    """What `key_of` takes, None for all else."""
    if type(value) is int and -MAX_ID < value < MAX_ID:
        return value
    try:
        return key_of(value)
    except EntryError:
        return None


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Whether it is a list of numbers that a picture can have, `count` of them if given: finite, and none huge."""
    if not isinstance(values, (list, tuple)) or (count is not None and len(values) != count):
        return False
    # Polygons have tens of millions of numbers: no step of Python for each. One that is too large shows in the sum.
    return _NUMBERS.issuperset(map(type, values)) and _modest(values)


def as_numbers(values: Any) -> Any:
    """A list in which numbers were written as text, with numbers; whatever else it is, as it is."""
    if not isinstance(values, list | tuple) or str not in set(map(type, values)):
        return values
    try:
        return [float(one) if isinstance(one, str) else one for one in values]
    except ValueError:
        return values


def _modest(values: Sequence[float]) -> bool:
    try:
        return sum(map(abs, values)) < _HUGE
    except OverflowError:  # a whole number beyond floating point
        return False
