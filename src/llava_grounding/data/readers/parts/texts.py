"""Texts that can be learnt from: valid, not too long, and without tokens that mean something to a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llava_grounding.data.plain_files import is_unicode
from llava_grounding.data.readers.parts.numbers import (
    EntryError,
)
from llava_grounding.data.readers.parts.placeholders import find_placeholder, may_be_plain
from llava_grounding.errors import shown
from llava_grounding.markup import SPECIAL_TOKENS, format_markup

PLACEHOLDER = "placeholder of another model's file"
"""Reason for which a text is left out that is not words alone."""
IMAGE_TOKEN = "<image>"
OBJECT_TOKEN = "<obj>"
MAX_TEXT = 2**16
"""Characters of a question, an answer or a caption."""
assert all(token.startswith("<") for token in (*SPECIAL_TOKENS, IMAGE_TOKEN, OBJECT_TOKEN))
_RESERVED = re.compile("|".join(map(re.escape, (*SPECIAL_TOKENS, IMAGE_TOKEN, OBJECT_TOKEN))), re.IGNORECASE)


def words_of(value: Any, what: str, allowed: Iterable[str] = ()) -> str:
    """The value as text that can be learnt from, without white space around it.

    Args:
        what: what the text is, for the message.
        allowed: tokens that it may hold, written exactly so.

    Raises:
        EntryError: if it is no text, empty, not valid Unicode, or holds a token that means something to this model, in
            capital or small letters (what is put in lower case later must not become one), or to another one.
    """
    plain = type(value) is str and value.isascii() and len(value) <= MAX_TEXT and may_be_plain(value)
    if plain and (words := value.strip()):
        return str(words)  # as nearly every text of millions
    if not isinstance(value, str):
        raise EntryError("not text", f"{what} must be text, got {shown(value)}")
    if not value.isascii() and not is_unicode(value):
        raise EntryError("not valid Unicode", f"{what} must be valid Unicode, got {shown(value)}")
    if not value.strip():
        raise EntryError("empty text", f"{what} must not be empty")
    if len(value) > MAX_TEXT:
        raise EntryError("text too long", f"{what} must have at most {MAX_TEXT} characters, got {len(value)}")
    reserved = _RESERVED.finditer(value) if "<" in value else ()
    found = next((match[0] for match in reserved if match[0] not in allowed), None)
    if found is not None:
        raise EntryError("special token in the text", f"{what} must not hold `{found}`, got {shown(value)}")
    foreign = find_placeholder(value)
    if foreign is not None:
        token, owner = foreign
        raise EntryError(
            PLACEHOLDER,
            f"{what} must be words, but holds {shown(token)} as files of {owner} do, which are not read here",
        )
    return value.strip()


def plain_text(value: Any, what: str) -> str:
    """What `words_of` takes, as one line with single blanks."""
    return " ".join(words_of(value, what).split())


def spans_as_markup(
    text: str, targets: Mapping[tuple[int, int], tuple[int, ...] | None]
) -> tuple[str, tuple[tuple[int, ...] | None, ...], list[tuple[int, int]]]:
    """A caption with its spans as phrases, less the white space around them, and their targets in reading order.

    Returns:
        Canonical markup, one target per phrase, and the spans left out: they hold nothing but white space, or overlap a
        phrase before them.
    """
    trimmed: dict[tuple[int, int], tuple[int, ...] | None] = {}
    for (start, end), rows in targets.items():
        words = text[start:end]
        span = start + len(words) - len(words.lstrip()), start + len(words.rstrip())
        before = trimmed.get(span)
        trimmed[span] = rows if before is None else tuple(dict.fromkeys((*before, *(rows or ()))))
    targets = trimmed
    kept: list[tuple[int, int]] = []
    overlapping = []
    for span in sorted(targets, key=lambda span: (span[0], -span[1])):
        if span[0] >= span[1] or (kept and span[0] < kept[-1][1]):
            overlapping.append(span)
        else:
            kept.append(span)
    return format_markup(text, kept), tuple(targets[span] for span in kept), overlapping
