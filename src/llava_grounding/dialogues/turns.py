"""Turns about one record, kind by kind: what is asked, what is answered, and which things its phrases mean.

Nothing is said that labels cannot answer: all of a category, or that there is none, only where the category is labelled
exhaustively.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np

from llava_grounding.data.grounded_captions import tidy_caption
from llava_grounding.data.readers.parts.exhaustive import exhaustive_names, missing_names
from llava_grounding.data.record import Expression, Record, RecordedTurn
from llava_grounding.dialogues.answers import denial_draft, find_draft, group_phrases, list_draft, name_draft, said_name
from llava_grounding.dialogues.drafts import Draft, grounded_draft
from llava_grounding.dialogues.facts import Facts
from llava_grounding.dialogues.settings import DialogueSettings
from llava_grounding.dialogues.templates import (
    BRIEF_DESCRIPTIONS,
    GROUNDING_SUFFIXES,
    LISTING_REQUESTS,
    REFERRING_REQUESTS,
    REGION_CAPTIONS,
    REGION_NAMES,
)
from llava_grounding.language.nouns import is_plural_name, spoken_name
from llava_grounding.markup import REGION, strip_markup

_T = TypeVar("_T")


def captions(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """One caption, as it is."""
    caption = tidy_caption(pick(facts.captions, rng))
    return [Draft(pick(BRIEF_DESCRIPTIONS, rng), caption, kind="describe_plain")]


def grounded_captions(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """One caption with its phrases."""
    caption = pick(facts.grounded_captions, rng)
    targets = tuple(facts.rows_of(target) for target in caption.targets)
    question = pick(BRIEF_DESCRIPTIONS, rng)
    return [Draft(_with_suffix(question, settings, rng), caption.text, targets, grounded=True, kind="describe")]


def referring(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """Some expressions, one question each, or the names of categories where there are none."""
    said: dict[str, set[tuple[int, ...] | None]] = {}
    for expression in facts.expressions:
        said.setdefault(_phrase(expression.text), set()).add(facts.rows_of(expression.targets))
    # Words said of this and of that tell them not apart.
    sure = [(phrase, rows) for phrase, (rows, *others) in said.items() if phrase and not others]
    known = [(phrase, rows) for phrase, rows in sure if rows is not None]
    if not known:
        known = [(f"the {said_name(facts, name)}", rows) for name, rows in facts.complete.items()]
    return [_referring(phrase, rows, rng) for phrase, rows in some(known, settings.max_expressions, rng)]


def absent(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """Categories that are not there, asked for as if they were."""
    drafts = []
    for name in some(facts.absent, settings.max_expressions, rng):
        question = pick(REFERRING_REQUESTS, rng).format(f"the {name}")
        drafts.append(denial_draft("absent", question, name, is_plural_name(name)))
    return drafts


def categories(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """The names of all categories, the largest first."""
    names = facts.largest(settings.max_listed)
    if not names:
        return []
    question = _with_suffix(pick(LISTING_REQUESTS, rng), settings, rng)
    return [list_draft("list", question, *group_phrases(facts, names))]


def region_captions(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """Expressions that mean one thing, as answers to what it is that the question points at."""
    found: list[tuple[int, Expression]] = []
    for expression in facts.expressions:
        rows = facts.rows_of(expression.targets) if len(expression.targets) == 1 else None
        if rows and facts.can_point(rows[0]) and _plain(expression.text):
            found.append((rows[0], expression))
    return [
        Draft(pick(REGION_CAPTIONS, rng), tidy_caption(_plain(said.text)), regions=(row,), kind="region_caption")
        for row, said in some(found, settings.max_expressions, rng)
    ]


def region_names(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """The category of a region, with or without the region itself."""
    drafts = []
    for row in some(facts.pointable, settings.max_expressions, rng):
        grounded = rng.random() < settings.grounded_names
        draft = name_draft(pick(REGION_NAMES, rng), facts, row)
        drafts.append(draft if grounded else draft.plain())
    return drafts


def dialogues(facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """One recorded dialogue, up to a question that points at what cannot be pointed at."""
    drafts: list[Draft] = []
    for turn in pick(facts.dialogues, rng):
        rows = [facts.rows.get(index) for index in turn.regions]
        regions = tuple(row for row in rows if row is not None and facts.can_point(row))
        if len(regions) < len(rows):
            break
        drafts.append(_recorded(turn, regions, facts, settings, rng, "followup" if drafts else "dialogue"))
    return drafts


MAKERS: dict[str, Callable[[Facts, DialogueSettings, np.random.Generator], list[Draft]]] = {
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
        "region_captions": [one for one in record.expressions if len(one.targets) == 1],
        "region_names": [one for one in record.instances if one.kind != "crowd" and spoken_name(one.category)],
        "dialogues": record.dialogues,
    }
    return tuple(kind for kind, found in material.items() if found and getattr(settings, kind) > 0)


def pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def some(options: Sequence[_T], most: int, rng: np.random.Generator) -> list[_T]:
    """One to `most` of the options in random order, none twice; nothing of nothing."""
    if not options:
        return []
    count = min(int(rng.integers(1, most + 1)), len(options))
    return [options[index] for index in rng.permutation(len(options))[:count]]


def _referring(phrase: str, rows: tuple[int, ...], rng: np.random.Generator) -> Draft:
    """The phrase is asked for and said again, tied to its things; expressions of nothing get a plain no."""
    question = pick(REFERRING_REQUESTS, rng).format(phrase)
    if not rows:
        return grounded_draft("absent", question, "There is nothing like that in the image.")
    return find_draft(question, (phrase, rows))


def _recorded(
    turn: RecordedTurn,
    regions: tuple[int, ...],
    facts: Facts,
    settings: DialogueSettings,
    rng: np.random.Generator,
    kind: str,
) -> Draft:
    targets = tuple(facts.rows_of(target) for target in turn.targets)
    question = _with_suffix(turn.question, settings, rng) if turn.grounded else turn.question
    return Draft(question, turn.answer, targets, regions, turn.grounded, kind, turn.in_loss)


def _with_suffix(question: str, settings: DialogueSettings, rng: np.random.Generator) -> str:
    if rng.random() >= settings.suffix_share:
        return question
    return f"{question} {pick(GROUNDING_SUFFIXES, rng)}"


def _plain(text: str) -> str:
    """Words alone: no markup of ours, no full stop at the end."""
    return " ".join(strip_markup(text).replace(REGION, " ").split()).rstrip(" .")


def _phrase(text: str) -> str:
    """An expression as it is asked for: in lower case, without what ends a sentence."""
    return _plain(text).lower().rstrip("?!,;: .")
