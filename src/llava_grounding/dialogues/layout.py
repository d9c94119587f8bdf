"""Where the things of an image are, and the exact English names for them: positions, relations, referring phrases.

Knows nouns, colours and boxes; knows neither pixels, nor markup, nor questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from llava_grounding.data.sample import Instance
from llava_grounding.language.nouns import number_word, plural, with_article

# Smallest difference that counts as one, as a fraction of the image's side (places) or a ratio of areas (sizes).
CLEAR_GAP = 0.1
CLEAR_RATIO = 1.6

_PLACES = (
    ("in the top left", "at the top", "in the top right"),
    ("on the left", "in the middle", "on the right"),
    ("in the bottom left", "at the bottom", "in the bottom right"),
)
OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
    "on": "under",
    "under": "on",
    "in front of": "behind",
    "behind": "in front of",
}


class Noun(Protocol):
    """What things of one name are called."""

    @property
    def name(self) -> str:
        """Its name in the singular, in lower case."""

    @property
    def plural(self) -> str:
        """Its name in the plural, in lower case."""

    @property
    def group(self) -> str:
        """The wider word ("animal"), or ""."""

    @property
    def group_plural(self) -> str:
        """Its plural ("animals"), or ""."""

    @property
    def worn(self) -> bool:
        """Whether its colour is that of the clothes: "a woman in red"."""

    @property
    def says_colour(self) -> bool:
        """Whether naming it with its colour tells something."""


@dataclass(frozen=True)
class PlainNoun:
    """The noun of a category of which nothing but the name is known."""

    name: str
    group = group_plural = ""
    worn = says_colour = False

    @property
    def plural(self) -> str:
        """Plural of the name, by the rules of English."""
        return plural(self.name)


@dataclass(frozen=True)
class Thing:
    """One thing of the image; `x` and `y` are its box's centre as fractions of the image, `area` in pixels."""

    index: int
    noun: Noun
    colour: str | None
    x: float
    y: float
    area: float

    @property
    def said_colour(self) -> str | None:
        return self.colour if self.noun.says_colour else None


@dataclass(frozen=True)
class Reference:
    """A phrase without its article that fits exactly the given things: "red car", "dogs on the left"."""

    words: str
    indices: tuple[int, ...]

    @property
    def plural(self) -> bool:
        return len(self.indices) > 1


@dataclass(frozen=True)
class Layout:
    """The things of an image and what holds between them.

    Args:
        things: in the order of the sample's instances.
        stands_on: a thing's index to the index of what it stands on.
        in_front: pairs (front, behind) where the first hides a part of the second.
    """

    things: tuple[Thing, ...]
    stands_on: Mapping[int, int] = field(default_factory=dict)
    in_front: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of_instances(
        cls,
        instances: Sequence[Instance],
        areas: Sequence[float],
        size_wh: tuple[int, int],
        noun_of: Callable[[str], Noun] = PlainNoun,
        stands_on: Mapping[int, int] | None = None,
        in_front: Iterable[tuple[int, int]] = (),
    ) -> Layout:
        """Layout of a sample's instances.

        Args:
            areas: of each in pixels.
            noun_of: a category's name as a noun.
        """
        things = []
        for index, (instance, area) in enumerate(zip(instances, areas, strict=True)):
            x0, y0, x1, y1 = instance.box_xyxy.tolist()
            colour = instance.attributes[0] if instance.attributes else None
            centre = (x0 + x1) / 2 / size_wh[0], (y0 + y1) / 2 / size_wh[1]
            things.append(Thing(index, noun_of(instance.category), colour, *centre, float(area)))
        return cls(tuple(things), stands_on or {}, frozenset(in_front))

    def groups(self) -> list[list[Thing]]:
        """Things that look alike (same name and colour), from left to right."""

        def look(thing: Thing) -> tuple[str, str]:
            return thing.noun.name, thing.said_colour or ""

        alike = [list(members) for _, members in groupby(sorted(self.things, key=look), look)]
        return sorted(alike, key=lambda members: sum(thing.x for thing in members) / len(members))

    def of_name(self, name: str, colour: str | None = None) -> tuple[int, ...]:
        return tuple(t.index for t in self.things if t.noun.name == name and colour in (None, t.colour))

    def of_group(self, group: str) -> tuple[int, ...]:
        return tuple(t.index for t in self.things if t.noun.group == group)

    def relation(self, first: Thing, second: Thing) -> str:
        """Where the first is as seen from the second."""
        if self.stands_on.get(first.index) == second.index:
            return "on"
        if self.stands_on.get(second.index) == first.index:
            return "under"
        if (first.index, second.index) in self.in_front:
            return "in front of"
        if (second.index, first.index) in self.in_front:
            return "behind"
        dx, dy = first.x - second.x, first.y - second.y
        if abs(dx) >= abs(dy):
            return "to the left of" if dx < 0 else "to the right of"
        return "above" if dy < 0 else "below"

    def relation_is_clear(self, first: Thing, second: Thing) -> bool:
        """Whether nobody would name another relation."""
        if self.relation(first, second) in ("on", "under", "in front of", "behind"):
            return True
        dx, dy = abs(first.x - second.x), abs(first.y - second.y)
        return max(dx, dy) >= CLEAR_GAP and max(dx, dy) >= 1.3 * min(dx, dy)

    def nearest(self, thing: Thing) -> Thing | None:
        """The nearest other thing that has a name of its own."""
        others = [other for other in self.things if other is not thing and self.name(other)]
        on = self.stands_on.get(thing.index)
        for other in others:
            if other.index == on:
                return other
        return min(others, key=lambda o: (o.x - thing.x) ** 2 + (o.y - thing.y) ** 2, default=None)

    def clearly_nearest(self, thing: Thing) -> Thing | None:
        """The nearest other thing, if it has a name and the next one is clearly farther away."""

        def distance(other: Thing) -> float:
            return float(((other.x - thing.x) ** 2 + (other.y - thing.y) ** 2) ** 0.5)

        others = sorted((other for other in self.things if other is not thing), key=distance)
        if not others or self.name(others[0]) is None:
            return None
        if len(others) > 1 and distance(others[1]) - distance(others[0]) < CLEAR_GAP:
            return None
        return others[0]

    def name(self, thing: Thing) -> str | None:
        """The shortest words, without article, that fit only this thing; None if there are none."""
        for reference in self.single_references(thing):
            return reference.words
        return None

    def single_references(self, thing: Thing) -> list[Reference]:
        """Phrases that fit only this thing, the shortest first."""
        noun, colour, found = thing.noun, thing.said_colour, []
        same_name = self.of_name(noun.name)
        alike = self.of_name(noun.name, thing.colour)
        if len(same_name) == 1:
            found.append(noun.name)
        if colour and len(alike) == 1:
            found.append(name_of(noun, colour))
        if len(same_name) > 1:
            found += _placed(thing, [self.things[i] for i in same_name], noun.name)
        if colour and 1 < len(alike) < len(same_name):
            found += _placed(thing, [self.things[i] for i in alike], name_of(noun, colour))
        return [Reference(words, (thing.index,)) for words in found]

    def plural_references(self) -> list[Reference]:
        """Phrases that fit two or more things: names, names with a colour, and wider words."""
        found: dict[str, tuple[int, ...]] = {}
        for thing in self.things:
            found[thing.noun.plural] = self.of_name(thing.noun.name)
            if thing.said_colour:
                found[name_of(thing.noun, thing.said_colour, 2)] = self.of_name(thing.noun.name, thing.colour)
            if thing.noun.group:
                found[thing.noun.group_plural] = self.of_group(thing.noun.group)
        return [Reference(words, indices) for words, indices in found.items() if len(indices) > 1]


def _placed(thing: Thing, rivals: Sequence[Thing], noun: str) -> Iterable[str]:
    """Words that tell the thing from its rivals by place or size."""
    others = [other for other in rivals if other is not thing]
    if all(other.x - thing.x >= CLEAR_GAP for other in others):
        yield f"{noun} on the left"
    elif all(thing.x - other.x >= CLEAR_GAP for other in others):
        yield f"{noun} on the right"
    if all(other.y - thing.y >= CLEAR_GAP for other in others):
        yield f"{noun} at the top"
    elif all(thing.y - other.y >= CLEAR_GAP for other in others):
        yield f"{noun} at the bottom"
    if all(thing.area >= CLEAR_RATIO * other.area for other in others):
        yield f"largest {noun}"
    elif all(thing.area * CLEAR_RATIO <= other.area for other in others):
        yield f"smallest {noun}"


def name_of(noun: Noun, colour: str | None = None, count: int = 1) -> str:
    """Name and colour in words, without article or number: "red car", "men in blue"."""
    name = noun.name if count == 1 else noun.plural
    if colour is None:
        return name
    return f"{name} in {colour}" if noun.worn else f"{colour} {name}"


def counted(noun: Noun, colour: str | None, count: int) -> str:
    """ "a red car", "two red cars"."""
    words = name_of(noun, colour, count)
    return with_article(words) if count == 1 else f"{number_word(count)} {words}"


def place_of(thing: Thing) -> str:
    """Which ninth of the image its centre is in."""
    return _PLACES[min(2, int(thing.y * 3))][min(2, int(thing.x * 3))]
