"""Turns about one record, kind by kind: what is asked, what is answered, and which things its phrases mean.

A draft points at things by their rows; `builder` makes prompts or numbers of that. Nothing is said that labels
cannot answer: all of a category, or that there is none, only where the category is labelled exhaustively.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from llava_grounding.data.grounded_captions import tidy_caption
from llava_grounding.data.readers.exhaustive import exhaustive_names, missing_names
from llava_grounding.data.record import Expression, OpenedRecord, Record, RecordedTurn
from llava_grounding.data.sample import Targets
from llava_grounding.dialogues.prompts import can_point_at
from llava_grounding.dialogues.settings import DialogueSettings
from llava_grounding.dialogues.templates import (
    BRIEF_DESCRIPTIONS,
    GROUNDING_SUFFIXES,
    LISTING_REQUESTS,
    REFERRING_REQUESTS,
    REGION_CAPTIONS,
    REGION_NAMES,
)
from llava_grounding.language.nouns import is_mass, is_plural_name, plural, spoken_name, with_article
from llava_grounding.markup import REGION, format_markup, strip_markup

_T = TypeVar("_T")


@dataclass(frozen=True)
class Draft:
    """One question with its answer, before anything is pointed at.

    Args:
        question: plain text with one `<region>` for each of `regions`.
        answer: canonical markup when `grounded`, else plain text.
        targets: for the k-th `<seg>` the rows of what it means; None = no match is known.
        regions: the row each `<region>` points at.
    """

    question: str
    answer: str
    targets: Targets = ()
    regions: tuple[int, ...] = ()
    grounded: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Material:
    """A record with its pixels, and what can be said of it."""

    record: Record
    opened: OpenedRecord
    settings: DialogueSettings
    complete: dict[str, list[int]] = field(init=False)
    """Spoken name -> rows, of categories that are labelled exhaustively."""
    indices: dict[int, int] = field(init=False)
    """Row -> index in the record."""

    def __post_init__(self) -> None:
        known = exhaustive_names(self.record)
        rows: dict[str, list[int]] = {}
        for row, instance in enumerate(self.opened.instances):
            if (name := spoken_name(instance.category)) in known:
                rows.setdefault(name, []).append(row)
        object.__setattr__(self, "complete", rows)
        object.__setattr__(self, "indices", {row: index for index, row in self.opened.rows.items()})

    def rows_of(self, indices: Sequence[int] | None) -> tuple[int, ...] | None:
        """Rows of annotations; crowds are nobody's target, and a phrase that means nothing else has no known match."""
        if indices is None:
            return None
        rows = tuple(self.opened.rows[index] for index in indices if index in self.opened.rows)
        return rows if rows or not indices else None

    def can_point(self, row: int) -> bool:
        """Whether a question may point at this thing."""
        return can_point_at(self.opened.masks[row], self.opened.instances[row].box_xyxy)


def captions(material: Material, rng: np.random.Generator) -> list[Draft]:
    """One caption, as it is."""
    caption = tidy_caption(pick(material.record.captions, rng))
    return [Draft(pick(BRIEF_DESCRIPTIONS, rng), caption, kind="describe_plain")]


def grounded_captions(material: Material, rng: np.random.Generator) -> list[Draft]:
    """One caption with its phrases."""
    caption = pick(material.record.grounded_captions, rng)
    targets = tuple(material.rows_of(target) for target in caption.targets)
    question = pick(BRIEF_DESCRIPTIONS, rng)
    return [Draft(_with_suffix(question, material, rng), caption.text, targets, grounded=True, kind="describe")]


def referring(material: Material, rng: np.random.Generator) -> list[Draft]:
    """Some expressions, one question each, or the names of categories where there are none."""
    said: dict[str, set[tuple[int, ...] | None]] = {}
    for expression in material.record.expressions:
        said.setdefault(_phrase(expression.text), set()).add(material.rows_of(expression.targets))
    # Words said of this and of that tell them not apart.
    sure = [(phrase, rows) for phrase, (rows, *others) in said.items() if phrase and not others]
    known = [(phrase, rows) for phrase, rows in sure if rows is not None]
    if not known:
        known = [(f"the {_all_of(material, name)}", tuple(rows)) for name, rows in material.complete.items()]
    return [_referring(phrase, rows, rng) for phrase, rows in some(known, material.settings.max_expressions, rng)]


def absent(material: Material, rng: np.random.Generator) -> list[Draft]:
    """Categories that are not there, asked for as if they were."""
    drafts = []
    for name in some(missing_names(material.record), material.settings.max_expressions, rng):
        several = is_plural_name(name)
        question = pick(REFERRING_REQUESTS, rng).format(f"the {name}")
        answer = f"There {'are' if several else 'is'} no {name} in the image."
        drafts.append(Draft(question, answer, grounded=True, kind="absent"))
    return drafts


def categories(material: Material, rng: np.random.Generator) -> list[Draft]:
    """The names of all categories, the largest first."""
    areas = {name: sum(_area(material, row) for row in rows) for name, rows in material.complete.items()}
    names = sorted(areas, key=lambda name: (-areas[name], name))[: material.settings.max_listed]
    if not names:
        return []
    text, spans = "", []
    for number, name in enumerate(names):
        text += "" if number == 0 else " and " if number == len(names) - 1 else ", "
        one = len(material.complete[name]) == 1 and _region_of(material, material.complete[name][0]) == "thing"
        words = with_article(name) if one else _all_of(material, name)
        words = words if number else words[0].upper() + words[1:]
        spans.append((len(text), len(text) + len(words)))
        text += words
    targets = tuple(tuple(material.complete[name]) for name in names)
    question = _with_suffix(pick(LISTING_REQUESTS, rng), material, rng)
    return [Draft(question, format_markup(f"{text}.", spans), targets, grounded=True, kind="list")]


def region_captions(material: Material, rng: np.random.Generator) -> list[Draft]:
    """Expressions that mean one thing, as answers to what it is that the question points at."""
    found: list[tuple[int, Expression]] = []
    for expression in material.record.expressions:
        rows = material.rows_of(expression.targets) if len(expression.targets) == 1 else None
        if rows and material.can_point(rows[0]) and _plain(expression.text):
            found.append((rows[0], expression))
    return [
        Draft(pick(REGION_CAPTIONS, rng), tidy_caption(_plain(said.text)), regions=(row,), kind="region_caption")
        for row, said in some(found, material.settings.max_expressions, rng)
    ]


def region_names(material: Material, rng: np.random.Generator) -> list[Draft]:
    """The category of a region, with or without the region itself."""
    rows = [
        row
        for row, instance in enumerate(material.opened.instances)
        if spoken_name(instance.category) and _region_of(material, row) != "class" and material.can_point(row)
    ]
    drafts = []
    for row in some(rows, material.settings.max_expressions, rng):
        name = spoken_name(material.opened.instances[row].category)
        words = name if _region_of(material, row) == "stuff" else with_article(name)
        several = is_plural_name(name) and not words.startswith("a pair")
        start = "They are " if several else "It is "
        span, text = (len(start), len(start) + len(words)), f"{start}{words}."
        grounded = rng.random() < material.settings.grounded_names
        answer, targets = (format_markup(text, [span]), ((row,),)) if grounded else (text, ())
        drafts.append(Draft(pick(REGION_NAMES, rng), answer, targets, (row,), grounded, "region"))
    return drafts


def dialogues(material: Material, rng: np.random.Generator) -> list[Draft]:
    """One recorded dialogue, up to a question that points at what cannot be pointed at."""
    drafts: list[Draft] = []
    for turn in pick(material.record.dialogues, rng):
        rows = [material.opened.rows.get(index) for index in turn.regions]
        regions = tuple(row for row in rows if row is not None and material.can_point(row))
        if len(regions) < len(rows):
            break
        drafts.append(_recorded(turn, regions, material, rng, "followup" if drafts else "dialogue"))
    return drafts


MAKERS: dict[str, Callable[[Material, np.random.Generator], list[Draft]]] = {
    "captions": captions,
    "grounded_captions": grounded_captions,
    "referring": referring,
    "absent": absent,
    "categories": categories,
    "region_captions": region_captions,
    "region_names": region_names,
    "dialogues": dialogues,
}


def possible_kinds(record: Record, settings: DialogueSettings) -> tuple[str, ...]:
    """Kinds with a weight that the record's labels may have something for; reads no pixels."""
    complete = bool(exhaustive_names(record) & {spoken_name(thing.category) for thing in record.instances})
    material: dict[str, Collection[object] | bool] = {
        "captions": record.captions,
        "grounded_captions": record.grounded_captions,
        "referring": record.expressions or complete,
        "absent": missing_names(record) if settings.absent else (),
        "categories": complete,
        "region_captions": record.expressions,
        "region_names": [thing for thing in record.instances if thing.region != "crowd"],
        "dialogues": record.dialogues,
    }
    return tuple(kind for kind, found in material.items() if found and getattr(settings, kind) > 0)


def pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """One of them."""
    return options[int(rng.integers(len(options)))]


def some(options: Sequence[_T], most: int, rng: np.random.Generator) -> list[_T]:
    """From one to `most` of them in random order, none twice; nothing of nothing."""
    if not options:
        return []
    count = min(int(rng.integers(1, most + 1)), len(options))
    return [options[index] for index in rng.permutation(len(options))[:count]]


def _referring(phrase: str, rows: tuple[int, ...], rng: np.random.Generator) -> Draft:
    """The phrase is asked for and said again, tied to its things; expressions of nothing get a plain no."""
    question = pick(REFERRING_REQUESTS, rng).format(phrase)
    if not rows:
        return Draft(question, "There is nothing like that in the image.", grounded=True, kind="absent")
    said = phrase[0].upper() + phrase[1:]
    return Draft(question, format_markup(f"{said}.", [(0, len(said))]), (rows,), grounded=True, kind="find")


def _recorded(
    turn: RecordedTurn, regions: tuple[int, ...], material: Material, rng: np.random.Generator, kind: str
) -> Draft:
    targets = tuple(material.rows_of(target) for target in turn.targets)
    question = _with_suffix(turn.question, material, rng) if turn.grounded else turn.question
    return Draft(question, turn.answer, targets, regions, turn.grounded, kind)


def _with_suffix(question: str, material: Material, rng: np.random.Generator) -> str:
    if rng.random() >= material.settings.suffix_share:
        return question
    return f"{question} {pick(GROUNDING_SUFFIXES, rng)}"


def _plain(text: str) -> str:
    """Words alone: no markup of ours, no full stop at the end."""
    return " ".join(strip_markup(text).replace(REGION, " ").split()).rstrip(" .")


def _phrase(text: str) -> str:
    """An expression as it is asked for: in lower case, without what ends a sentence."""
    return _plain(text).lower().rstrip("?!,;: .")


def _all_of(material: Material, name: str) -> str:
    """All things of a category in a word."""
    rows = material.complete[name]
    region = _region_of(material, rows[0])
    one = is_mass(name) or region == "stuff" or (len(rows) == 1 and region == "thing")
    return name if one else plural(name)


def _region_of(material: Material, row: int) -> str:
    return material.record.instances[material.indices[row]].region


def _area(material: Material, row: int) -> float:
    x0, y0, x1, y1 = material.opened.instances[row].box_xyxy
    return float((x1 - x0) * (y1 - y0))
