"""Which labelled things the noun phrases of a text mean: by number, plural, side, and size where boxes decide.

Leaves open what the words or the labels leave open. Knows names and boxes; no files, no pixels and no markup.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

from llava_grounding.geometry import box_area
from llava_grounding.language.nouns import Mention, is_plural_name, lexicon_with

DOMINANT_AREA = 4.0
"""A singular means one of several without saying which, if that is this many times larger than the next."""
_APART = 0.1  # of the image, by which middles must differ before one of two is the left one
_AFTER = 100  # characters behind a mention in which its side is looked for
_SIDES = {"left": (0, False), "right": (0, True), "top": (1, False), "bottom": (1, True)}


class Labelled(NamedTuple):
    """A thing that a text may speak of."""

    name: str
    """Name of the thing's category."""
    box_xyxy: Sequence[float] | np.ndarray
    """Its box, in pixels."""

    @property
    def area(self) -> float:
        """Square pixels of its box."""
        return float(box_area(np.asarray(self.box_xyxy, dtype=np.float64)))


class Referents(NamedTuple):
    """A mention with the things that it means."""

    mention: Mention
    rows: tuple[int, ...] | None
    """Indices of things; None where that is left open."""


def find_referents(
    text: str,
    things: Sequence[Labelled],
    complete: Container[str] | None = None,
    hidden: Container[str] = (),
    image_size_wh: tuple[int, int] | None = None,
    dominant_area: float = DOMINANT_AREA,
) -> list[Referents]:
    """The mentions of what is there, in the order of the text; without any things, those of every known category.

    A plural means all things of its category, a number only as many as it says, a singular the only one, the one on the
    side that it names, or the one that dominates by area. A word that may mean things of several categories means none.

    Args:
        complete: names of which everything visible is among the things; None = all.
        hidden: names of which more is known to be there than is among the things: no phrase about them means any.
        image_size_wh: in pixels; None leaves words of sides aside.
        dominant_area: how many times larger than the next the one must be that a singular means.
    """
    groups: dict[str, list[int]] = {}
    for row, thing in enumerate(things):
        groups.setdefault(thing.name, []).append(row)
    there = [
        (mention, [name for name in mention.categories if name in groups])
        for mention in lexicon_with(groups).find(text)
        if not things or any(name in groups for name in mention.categories)
    ]
    by_name: dict[str, list[Mention]] = {}
    for mention, names in there:
        for name in names:
            by_name.setdefault(name, []).append(mention)
    same = {name for name, mentions in by_name.items() if _same_things(text, mentions)}
    found = []
    for mention, names in there:
        rows = None
        if len(names) == 1 and names[0] not in hidden and not mention.vague:
            (name,) = names
            if name in same:
                whole = complete is None or name in complete
                rows = _meant(text, mention, groups[name], things, whole, image_size_wh, dominant_area)
        found.append(Referents(mention, rows))
    return found


def _same_things(text: str, mentions: Sequence[Mention]) -> bool:
    """Whether all mentions of a category are of the same things: "a dog ... the dog", not "a man ... a boy"."""
    heads = {text[slice(*mention.head_span)].lower() for mention in mentions}
    later = [text[slice(*mention.span)].split()[0].lower() for mention in mentions[1:]]
    return not later or (
        len(heads) == 1 and len({mention.plural for mention in mentions}) == 1 and all(word == "the" for word in later)
    )


def _meant(
    text: str,
    mention: Mention,
    rows: Sequence[int],
    things: Sequence[Labelled],
    complete: bool,
    image_size_wh: tuple[int, int] | None,
    dominant_area: float,
) -> tuple[int, ...] | None:
    """Which of the things of its category a mention means."""
    count, said = len(rows), mention.number
    if mention.plural and not is_plural_name(things[rows[0]].name):
        return tuple(rows) if said == count or (said is None and complete and count > 1) else None
    if said not in (None, 1, count):
        return None
    if mention.plural and complete and count > 1:
        return tuple(rows) if said in (None, count) else None
    return (rows[0],) if count == 1 else _one_of(text, mention, rows, things, image_size_wh, dominant_area)


def _one_of(
    text: str,
    mention: Mention,
    rows: Sequence[int],
    things: Sequence[Labelled],
    image_size_wh: tuple[int, int] | None,
    dominant_area: float,
) -> tuple[int, ...] | None:
    """The one of several that a singular means: by its side, else because it is by far the largest."""
    side = _side(text, mention)
    if side is not None and image_size_wh is not None:
        axis, last = side
        boxes = [(things[row].box_xyxy, row) for row in rows]
        middles = sorted(((box[axis] + box[axis + 2]) / 2 / image_size_wh[axis], row) for box, row in boxes)
        if last:
            middles = [(1 - middle, row) for middle, row in reversed(middles)]
        is_first = middles[0][0] < 0.5 and middles[1][0] - middles[0][0] >= _APART
        return (middles[0][1],) if is_first else None
    areas = sorted(((things[row].area, row) for row in rows), reverse=True)
    return (areas[0][1],) if areas[0][0] >= dominant_area * areas[1][0] else None


def _side(text: str, mention: Mention) -> tuple[int, bool] | None:
    """Axis, and whether the far end of it: for "the left dog", and "the dog on the left" where nothing follows."""
    before = text[mention.span[0] : mention.head_span[0]].lower().split()
    found = [_SIDES[word] for word in before if word in _SIDES]
    after = text[mention.span[1] : mention.span[1] + _AFTER].lower().lstrip()
    for word, side in _SIDES.items():
        for phrase in (f"on the {word}", f"to the {word}", f"at the {word}"):
            if after.startswith(phrase) and after[len(phrase) :].lstrip()[:2] not in ("of", "si"):
                found.append(side)
    return found[0] if len(found) == 1 else None
