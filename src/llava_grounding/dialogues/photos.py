"""Photo records as samples: questions and grounded answers made from boxes, masks, captions and spatial statements.

Nothing is asked that the labels cannot answer: counts and absences only of classes labelled exhaustively.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from llava_grounding.data.grounded_captions import (
    box_area_of,
    ground_caption,
    group_by_category,
    tidy_caption,
)
from llava_grounding.data.readers.exhaustive import missing_names
from llava_grounding.data.record import Annotation, Record, open_record
from llava_grounding.data.sample import Sample, Targets, Turn
from llava_grounding.dialogues.layout import CLEAR_GAP, Layout, PlainNoun, Thing, place_of
from llava_grounding.dialogues.prompts import prompt_inside
from llava_grounding.language.nouns import is_mass, is_plural_name, number_word, plural, with_article
from llava_grounding.markup import REGION, format_markup, strip_markup
from llava_grounding.structures import VisualPrompt

DESCRIBE_QUESTIONS = (
    "Describe the image.",
    "What is in the image?",
    "What do you see?",
    "Describe the picture.",
    "What does the image show?",
)
_LIST_QUESTIONS = ("List everything you see.", "List the things in the image.", "Which things are in the image?")
_COUNT_QUESTIONS = ("How many {} are there?", "How many {} are in the picture?", "Count the {}.")
_WHERE_QUESTIONS = ("Where {} {}?", "Where in the picture {} {}?")
_FIND_QUESTIONS = ("Find {}.", "Show me {}.", "Point to {}.", "Segment {}.", "Locate {}.", "Select {}.", "Mark {}.")
_REGION_QUESTIONS = ("What is {}?", "What is this {}?", "What is at {}?", "Name {}.", "What do you see at {}?")
_PLACES = ("in the image", "in the image", "in the picture")
# A class region is a surface or material here: "the road"; other classes are spoken of in the plural: "cars".
_SURFACES = frozenset({"sky", "road", "sidewalk", "street", "vegetation", "facade", "grass", "sea", "wall", "floor"})
_MAX_COUNT = 12  # more are "many"
_MAX_LISTED = 6
_MAX_REFERRED = 1000  # things of a photo of which single ones are spoken of; each is compared with every other
_MAX_TOLD_APART = 40  # things of one name; each is compared with every other
_COMMON = (
    "person chair car dining+table bottle cup handbag truck backpack book bench dog cat cell+phone bowl couch bus "
    "traffic+light umbrella bicycle"
)
_SHORT_KINDS = frozenset({"count", "where", "region", "absent", "relation"})
_PLAIN_SHARE = 0.25
_T = TypeVar("_T")
_COMMON_NAMES = frozenset(name.replace("+", " ") for name in _COMMON.split())


def photo_sample(record: Record, rng: np.random.Generator, questions: bool = True) -> Sample:
    """The photo with its pixels, masks and one turn of every kind its labels allow; the same for the same `rng` state.

    Without `questions` none are made, which is quicker. Crowd regions are dropped; their category is not exhaustive any
    more.
    """
    opened = open_record(record)
    kept = [
        replace(record.instances[index], box_xyxy=tuple(opened.instances[row].box_xyxy.tolist()))
        for index, row in opened.rows.items()
    ]
    photo = _Photo(record, kept, opened.masks, [instance.has_mask for instance in opened.instances])
    return Sample(
        id=record.id,
        image=opened.image,
        instances=opened.instances,
        masks=opened.masks,
        turns=_turns(photo, rng) if questions else (),
        exhaustive=record.exhaustive,
        source=record.source or "photos",
    )


def _turns(photo: _Photo, rng: np.random.Generator) -> tuple[Turn, ...]:
    return tuple(_sometimes_plain(turn, rng) for make in _KINDS for turn in make(photo, rng))


@dataclass(frozen=True)
class _Photo:
    record: Record
    instances: list[Annotation]
    masks: np.ndarray
    has_mask: list[bool]
    by_category: dict[str, list[int]] = field(init=False)
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_category", group_by_category(self.instances))
        object.__setattr__(self, "layout", _layout(self.instances, (self.masks.shape[2], self.masks.shape[1])))

    def complete(self) -> list[str]:
        """Names of which every visible thing is labelled: those that may be counted or listed."""
        return [name for name in self.by_category if name in self.record.exhaustive]

    def countable(self, category: str) -> bool:
        return all(self.instances[index].region == "thing" for index in self.by_category[category])

    def referable(self) -> list[tuple[str, int]]:
        """Phrases that mean exactly one instance, with its index; only of categories labelled everywhere."""
        found: list[tuple[str, int]] = []
        if len(self.instances) > _MAX_REFERRED:
            return found
        for name, rows in self.by_category.items():
            alone = len(rows) == 1 and (self.countable(name) or name in _SURFACES)
            few = 1 < len(rows) <= _MAX_TOLD_APART
            told_apart = few and self.countable(name) and not is_plural_name(name) and not is_mass(name)
            if name in self.record.exhaustive and (alone or told_apart):
                for index in rows:
                    words = self.layout.single_references(self.layout.things[index])
                    found += [(f"the {reference.words}", index) for reference in words]
        return found


@dataclass
class _Answer:
    """Text with the phrases said so far."""

    text: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)
    targets: list[tuple[int, ...] | None] = field(default_factory=list)

    def say(self, text: str) -> _Answer:
        self.text += text
        return self

    def name(self, phrase: str, target: Iterable[int]) -> _Answer:
        self.spans.append((len(self.text), len(self.text) + len(phrase)))
        self.targets.append(tuple(target))
        return self.say(phrase)

    def turn(self, question: str, kind: str, prompts: tuple[VisualPrompt, ...] = ()) -> Turn:
        return Turn(question, format_markup(self.text, self.spans), tuple(self.targets), prompts, True, kind)


def _describe(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """Grounded caption by a person where one names something labelled, else a list of the labels.

    Without any labels the phrases are marked all the same, with no match known: words are learnt from it, not regions.
    """
    captions = photo.record.captions
    order = rng.permutation(len(captions))
    if captions:
        best: tuple[int, str, Targets] | None = None
        for index in order:
            answer, targets = ground_caption(captions[index], photo.instances, photo.record.exhaustive)
            located = sum(target is not None for target in targets)
            if best is None or located > best[0]:
                best = (located, answer, targets)
        assert best is not None
        if best[0] or (best[2] and not photo.instances):
            return [Turn(_pick(DESCRIBE_QUESTIONS, rng), best[1], best[2], (), True, "describe")]
        return []
    return [_listing(photo).turn(_pick(DESCRIBE_QUESTIONS, rng), "describe")] if photo.complete() else []


def _list(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """What is labelled, as a list, for photos whose description is a caption."""
    if not photo.record.captions or not photo.complete():
        return []
    question = _pick(_LIST_QUESTIONS, rng)
    return [_listing(photo).turn(question, "list")]


def _listing(photo: _Photo) -> _Answer:
    """There are two dogs and a person. Largest categories first, and only those that are labelled exhaustively."""
    area = {name: sum(box_area_of(photo.instances[i]) for i in photo.by_category[name]) for name in photo.complete()}
    names = sorted(area, key=lambda name: (-area[name], name))[:_MAX_LISTED]
    groups = [_group_phrase(photo, name) for name in names]
    answer = _Answer().say("There are " if groups[0][1] else "There is ")
    for position, (name, (phrase, _)) in enumerate(zip(names, groups, strict=True)):
        if position:
            answer.say(" and " if position == len(names) - 1 else ", ")
        answer.name(phrase, photo.by_category[name])
    return answer.say(".")


def _describe_plain(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    if not photo.record.captions:
        return []
    caption = tidy_caption(_pick(photo.record.captions, rng))
    return [Turn(_pick(DESCRIBE_QUESTIONS, rng), caption, (), (), False, "describe_plain")]


def _count(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    names = [
        name
        for name in photo.complete()
        if photo.countable(name) and len(photo.by_category[name]) <= _MAX_COUNT
        if not is_mass(name) and not is_plural_name(name)
    ]
    if not names:
        return []
    name = _pick(names, rng)
    rows = photo.by_category[name]
    question = _pick(_COUNT_QUESTIONS, rng)
    answer = _Answer().say("There is " if len(rows) == 1 else "There are ")
    phrase = f"{number_word(len(rows))} {name if len(rows) == 1 else plural(name)}"
    return [answer.name(phrase, rows).say(".").turn(question.format(plural(name)), "count")]


def _where(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """The part of the photo, and left or right of the nearest thing that has a name of its own."""
    # A phrase that tells the place already would answer itself.
    named = [(phrase, index) for phrase, index in photo.referable() if not _says_place(phrase)]
    if not named:
        return []
    phrase, index = _pick(named, rng)
    thing = photo.layout.things[index]
    answer = _Answer().name(phrase[0].upper() + phrase[1:], (index,)).say(f" {_be(phrase)} {place_of(thing)}")
    others = [(other_phrase, other) for other_phrase, other in named if other != index]
    if others:
        other_phrase, other = min(others, key=lambda entry: _distance(thing, photo.layout.things[entry[1]]))
        side = _side(thing, photo.layout.things[other])
        if side is not None:
            answer.say(f", {side} ").name(other_phrase, (other,))
    return [answer.say(".").turn(_pick(_WHERE_QUESTIONS, rng).format(_be(phrase), phrase), "where")]


def _find(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """One thing, and all things of a category that has several."""
    turns = []
    named = photo.referable()
    if named:
        phrase, index = _pick(named, rng)
        turns.append(_found(phrase, (index,), rng))
    several = [name for name in photo.complete() if len(photo.by_category[name]) > 1 and not is_mass(name)]
    if several:
        name = _pick(several, rng)
        turns.append(_found(f"the {plural(name)}", tuple(photo.by_category[name]), rng))
    return turns


def _found(phrase: str, target: tuple[int, ...], rng: np.random.Generator) -> Turn:
    answer = _Answer().name(phrase[0].upper() + phrase[1:], target).say(".")
    return answer.turn(_pick(_FIND_QUESTIONS, rng).format(phrase), "find")


def _region(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """What is at a box, click, scribble or mask; without a mask only the box is sure to lie on the thing."""
    things = [
        index
        for index, instance in enumerate(photo.instances)
        if instance.category and instance.region in ("thing", "stuff")
    ]
    if not things:
        return []
    index = _pick(things, rng)
    name = photo.instances[index].category
    several = is_plural_name(name) and not with_article(name).startswith("a pair")
    answer = _Answer().say("They are " if several else "It is ").name(_one(name, photo.instances[index]), (index,))
    question = _pick(_REGION_QUESTIONS, rng).format(REGION)
    return [answer.say(".").turn(question, "region", (_prompt(photo, index, rng),))]


def _absent(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """One yes and one no question about presence, worded as object-hallucination tests word them."""
    turns = []
    present = [name for name in photo.complete() if photo.countable(name) and not is_mass(name)]
    if present:
        name = _pick(present, rng)
        phrase, several = _group_phrase(photo, name)
        answer = _Answer().say("Yes, there are " if several else "Yes, there is ")
        turns.append(answer.name(phrase, photo.by_category[name]).say(".").turn(_is_there(name, rng), "absent"))
    missing = [name for name in missing_names(photo.record) if not is_mass(name)]
    common = [name for name in missing if name in _COMMON_NAMES]
    if missing:
        name = _pick(common if common and rng.random() < 0.5 else missing, rng)
        nothing = f"are no {plural(name)}" if is_plural_name(name) else f"is no {name}"
        said = f"No, there {nothing} in the picture."
        turns.append(Turn(_is_there(name, rng), said, (), (), True, "absent"))
    return turns


def _relation(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """A spatial statement as a yes/no question."""
    if not photo.record.statements:
        return []
    statement, true = _pick(photo.record.statements, rng)
    clause = statement[0].lower() + statement[1:].rstrip(". ")
    question = _pick(("Is it true that {}?", "Is this true: {}?"), rng).format(clause)
    if not true:
        return [Turn(question, "No, that is not true.", (), (), True, "relation")]
    answer, targets = ground_caption(f"Yes, {clause}.", photo.instances, photo.record.exhaustive)
    return [Turn(question, answer, targets, (), True, "relation")]


def _sometimes_plain(turn: Turn, rng: np.random.Generator) -> Turn:
    """Short answers come without markup now and then, whatever they say."""
    if turn.kind not in _SHORT_KINDS or rng.random() >= _PLAIN_SHARE:
        return turn
    return replace(turn, answer=strip_markup(turn.answer), targets=(), grounded=False)


_KINDS: tuple[Callable[[_Photo, np.random.Generator], list[Turn]], ...] = (
    _describe,
    _list,
    _describe_plain,
    _count,
    _where,
    _find,
    _region,
    _absent,
    _relation,
)


def _group_phrase(photo: _Photo, name: str) -> tuple[str, bool]:
    """All instances of a category as one phrase, and whether it is plural: `two dogs`, `a cat`, `cars`, `the sky`."""
    rows = photo.by_category[name]
    region = photo.instances[rows[0]].region
    if region != "thing" and name in _SURFACES:
        return f"the {name}", False
    if region == "class":
        return plural(name), not is_mass(name)
    if is_mass(name) or (len(rows) == 1 and is_plural_name(name)):
        return with_article(name), is_plural_name(name) and not with_article(name).startswith("a pair")
    if len(rows) == 1:
        return with_article(name), False
    return f"{number_word(len(rows)) if len(rows) <= _MAX_COUNT else 'many'} {plural(name)}", True


def _one(name: str, instance: Annotation) -> str:
    return f"the {name}" if instance.region == "stuff" and name in _SURFACES else with_article(name)


def _is_there(name: str, rng: np.random.Generator) -> str:
    place = _pick(_PLACES, rng)
    if is_plural_name(name):
        return f"Are there {name} {place}?"
    return f"Is there {with_article(name)} {place}?"


def _be(phrase: str) -> str:
    return "are" if is_plural_name(phrase) else "is"


def _says_place(phrase: str) -> bool:
    return phrase.endswith((" on the left", " on the right", " at the top", " at the bottom"))


def _distance(first: Thing, second: Thing) -> float:
    return (first.x - second.x) ** 2 + (first.y - second.y) ** 2


def _side(first: Thing, second: Thing) -> str | None:
    """Left or right where it is plain; in photos "above" may mean farther away, so it is never said."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) < max(CLEAR_GAP, abs(dy)):
        return None
    return "to the left of" if dx < 0 else "to the right of"


def _prompt(photo: _Photo, index: int, rng: np.random.Generator) -> VisualPrompt:
    if photo.has_mask[index]:
        return prompt_inside(photo.masks[index], random.Random(int(rng.integers(2**32))))
    return VisualPrompt.box(*photo.instances[index].box_xyxy)


def _layout(instances: Sequence[Annotation], size_wh: tuple[int, int]) -> Layout:
    """Where the instances are and which phrases fit only one of them; photos know no colours."""
    things = []
    for index, instance in enumerate(instances):
        x0, y0, x1, y1 = instance.box_xyxy
        x, y = (x0 + x1) / 2 / size_wh[0], (y0 + y1) / 2 / size_wh[1]
        things.append(Thing(index, PlainNoun(instance.category), None, x, y, box_area_of(instance)))
    return Layout(tuple(things))


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]
