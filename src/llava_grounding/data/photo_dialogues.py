"""Photo records as samples: questions and grounded answers made from boxes, masks, captions and spatial statements.

Nothing is asked that the labels cannot answer: counts and absences only of classes labelled exhaustively.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from llava_grounding.data.coco import PhotoInstance, PhotoRecord
from llava_grounding.data.nouns import (
    Lexicon,
    Mention,
    is_mass,
    is_plural_name,
    lexicon,
    number_word,
    plural,
    with_article,
)
from llava_grounding.data.sample import Instance, Sample, Targets, Turn
from llava_grounding.markup import format_markup
from llava_grounding.structures import VisualPrompt

DESCRIBE_QUESTIONS = (
    "Describe the image.",
    "What is in the image?",
    "What do you see?",
    "Describe the picture.",
    "What does the image show?",
)
_REGION_QUESTIONS = ("What is <region>?", "What is this <region>?", "Name the thing at <region>.")
_FIND_QUESTIONS = ("Find {}.", "Show me {}.", "Point at {}.")
# A class region is a surface or material here: "the road"; other classes are spoken of in the plural: "cars".
_SURFACES = frozenset({"sky", "road", "sidewalk", "street", "vegetation", "facade", "grass", "sea", "wall", "floor"})
_MAX_COUNT = 12  # more are "many"
_MAX_LISTED = 6
_DOMINANT_AREA = 3.0  # a singular noun means the one thing this many times larger than the next
_LARGEST_AREA = 1.6
_APART = 0.12  # of the photo's width, between centres, to speak of left and right
_COMMON = (
    "person chair car dining+table bottle cup handbag truck backpack book bench dog cat cell+phone bowl couch bus "
    "traffic+light umbrella bicycle"
)
_T = TypeVar("_T")
_COMMON_NAMES = frozenset(name.replace("+", " ") for name in _COMMON.split())


def photo_sample(record: PhotoRecord, rng: np.random.Generator) -> Sample:
    """The photo with its pixels, masks and one turn of every kind its labels allow; the same for the same `rng` state.

    Crowd regions are dropped; their category is not exhaustive any more.
    """
    kept = [index for index, instance in enumerate(record.instances) if instance.region != "crowd"]
    width, height = record.image_size_wh
    masks = np.zeros((len(kept), height, width), dtype=bool)
    instances = []
    for row, index in enumerate(kept):
        mask = record.load_mask(index)
        if mask is not None:
            masks[row] = mask
        labelled = record.instances[index]
        has_mask = mask is not None and bool(masks[row].any())
        instances.append(Instance(labelled.category, np.array(labelled.box_xyxy), has_mask))
    photo = _Photo(record, [record.instances[index] for index in kept], masks, [i.has_mask for i in instances])
    return Sample(
        id=record.id,
        image=record.load_image(),
        instances=tuple(instances),
        masks=masks,
        turns=tuple(turn for make in _KINDS for turn in make(photo, rng)),
        exhaustive=record.exhaustive,
        source=record.source or "photos",
    )


def ground_caption(caption: str, instances: Sequence[PhotoInstance]) -> tuple[str, Targets]:
    """Caption in markup, with the instances each phrase names: phrases about categories that are in the photo.

    A plural means all instances of its category, a number only as many as it says, a singular the only one or the one
    that dominates by area; where the words leave it open the target is None.
    """
    caption = tidy_caption(caption)
    by_category = _by_category(instances)
    words = _lexicon(tuple(by_category))
    found: list[tuple[Mention, str]] = []
    for mention in words.find(caption):
        here = [name for name in mention.categories if name in by_category]
        if here:
            found.append((mention, here[0] if len(here) == 1 else ""))
    times = {name: sum(other == name for _, other in found) for _, name in found}
    targets = tuple(
        _target(mention, by_category[name], instances) if name and times[name] == 1 else None for mention, name in found
    )
    return format_markup(caption, [mention.span for mention, _ in found]), targets


def tidy_caption(caption: str) -> str:
    """The caption as one sentence: capital letter, single spaces, a full stop."""
    text = " ".join(caption.split()).rstrip(" .")
    return text[:1].upper() + text[1:] + ("" if text.endswith(("!", "?")) else ".")


@dataclass(frozen=True)
class _Photo:
    record: PhotoRecord
    instances: list[PhotoInstance]
    masks: np.ndarray
    has_mask: list[bool]
    by_category: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_category", _by_category(self.instances))

    def countable(self, category: str) -> bool:
        return all(self.instances[index].region == "thing" for index in self.by_category[category])


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
    """Grounded caption by a person where one names something labelled, else a list of the labels."""
    captions = photo.record.captions
    order = rng.permutation(len(captions))
    if captions:
        best: tuple[int, str, Targets] | None = None
        for index in order:
            answer, targets = ground_caption(captions[index], photo.instances)
            located = sum(target is not None for target in targets)
            if best is None or located > best[0]:
                best = (located, answer, targets)
        assert best is not None
        if best[0]:
            return [Turn(_pick(DESCRIBE_QUESTIONS, rng), best[1], best[2], (), True, "describe")]
        return []
    return [_listing(photo).turn(_pick(DESCRIBE_QUESTIONS, rng), "describe")] if photo.instances else []


def _list(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """What is labelled, as a list, for photos whose description is a caption."""
    if not photo.record.captions or not photo.instances:
        return []
    question = _pick(
        ("List the things in the image.", "Which things are in the image?", "Name everything you see."), rng
    )
    return [_listing(photo).turn(question, "list")]


def _listing(photo: _Photo) -> _Answer:
    """There are two dogs and a person. Largest categories first."""
    area = {name: sum(_area(photo.instances[i]) for i in rows) for name, rows in photo.by_category.items()}
    names = sorted(photo.by_category, key=lambda name: (-area[name], name))[:_MAX_LISTED]
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
        for name, rows in photo.by_category.items()
        if name in photo.record.exhaustive and photo.countable(name) and len(rows) <= _MAX_COUNT
        if not is_mass(name) and not is_plural_name(name)
    ]
    if not names:
        return []
    name = _pick(names, rng)
    rows = photo.by_category[name]
    question = _pick(("How many {} are there?", "How many {} are in the image?", "Count the {}."), rng)
    answer = _Answer().say("There is " if len(rows) == 1 else "There are ")
    phrase = f"{number_word(len(rows))} {name if len(rows) == 1 else plural(name)}"
    return [answer.name(phrase, rows).say(".").turn(question.format(plural(name)), "count")]


def _where(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    referred = _referable(photo)
    if not referred:
        return []
    phrase, index = _pick(referred, rng)
    # A phrase that tells the side already would answer itself.
    if phrase.split()[-1] in ("left", "right") or phrase.startswith(("the leftmost", "the rightmost")):
        return []
    others = [(p, i) for p, i in referred if i != index and not p.endswith(("left", "right"))]
    answer = _Answer().name(phrase[0].upper() + phrase[1:], (index,)).say(f" {_be(phrase)} ")
    relation = None
    if others and rng.random() < 0.5:
        other_phrase, other = _pick(others, rng)
        relation = _side(photo, index, other)
        if relation is not None:
            answer.say(f"to the {relation} of ").name(other_phrase, (other,))
    if relation is None:
        answer.say(_place(photo, index))
    return [answer.say(".").turn(f"Where {_be(phrase)} {phrase}?", "where")]


def _find(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    referred = _referable(photo)
    if not referred:
        return []
    phrase, index = _pick(referred, rng)
    question = _pick(_FIND_QUESTIONS, rng).format(phrase)
    return [_Answer().say(f"Here {_be(phrase)} ").name(phrase, (index,)).say(".").turn(question, "find")]


def _find_all(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    names = [
        name
        for name, rows in photo.by_category.items()
        if len(rows) > 1 and name in photo.record.exhaustive and not is_mass(name)
    ]
    if not names:
        return []
    name = _pick(names, rng)
    phrase = f"the {plural(name)}"
    question = _pick(_FIND_QUESTIONS, rng).format(f"all {phrase}")
    return [_Answer().say("Here are ").name(phrase, photo.by_category[name]).say(".").turn(question, "find_all")]


def _region(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """What is at a box, click, scribble or mask; without a mask only the box is sure to lie on the thing."""
    things = [index for index, instance in enumerate(photo.instances) if instance.region in ("thing", "stuff")]
    if not things:
        return []
    index = _pick(things, rng)
    name = photo.instances[index].category
    several = is_plural_name(name) and not with_article(name).startswith("a pair")
    answer = _Answer().say("They are " if several else "It is ").name(_one(name, photo.instances[index]), (index,))
    return [answer.say(".").turn(_pick(_REGION_QUESTIONS, rng), "region", (_prompt(photo, index, rng),))]


def _absent(photo: _Photo, rng: np.random.Generator) -> list[Turn]:
    """One yes and one no question about presence, worded as object-hallucination tests word them."""
    turns = []
    present = [name for name in photo.by_category if photo.countable(name) and not is_mass(name)]
    if present:
        name = _pick(present, rng)
        phrase, several = _group_phrase(photo, name)
        answer = _Answer().say("Yes, there are " if several else "Yes, there is ")
        turns.append(answer.name(phrase, photo.by_category[name]).say(".").turn(_is_there(name, rng), "present"))
    missing = sorted(photo.record.exhaustive - photo.by_category.keys())
    missing = [name for name in missing if not is_mass(name)]
    common = [name for name in missing if name in _COMMON_NAMES]
    if missing:
        name = _pick(common if common and rng.random() < 0.5 else missing, rng)
        said = f"No, there are no {plural(name)}." if is_plural_name(name) else f"No, there is no {name}."
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
    answer, targets = ground_caption(f"Yes, {clause}.", photo.instances)
    return [Turn(question, answer, targets, (), True, "relation")]


_KINDS: tuple[Callable[[_Photo, np.random.Generator], list[Turn]], ...] = (
    _describe,
    _list,
    _describe_plain,
    _count,
    _where,
    _find,
    _find_all,
    _region,
    _absent,
    _relation,
)


def _referable(photo: _Photo) -> list[tuple[str, int]]:
    """Phrases that mean exactly one instance, with its index."""
    found = []
    for name, rows in photo.by_category.items():
        instances = [photo.instances[index] for index in rows]
        if any(instance.region == "class" for instance in instances) and name not in _SURFACES:
            continue
        if name not in photo.record.exhaustive:
            continue
        if len(rows) == 1:
            found.append((f"the {name}", rows[0]))
        elif not is_plural_name(name) and not is_mass(name):
            found.extend(_distinguished(name, rows, photo))
    return found


def _distinguished(name: str, rows: list[int], photo: _Photo) -> list[tuple[str, int]]:
    """The left, right or largest one among several, where that is plain to see."""
    centres = [(sum(photo.instances[index].box_xyxy[::2]) / 2, index) for index in rows]
    centres.sort()
    gap = _APART * photo.record.image_size_wh[0]
    found = []
    left, right = (
        ("the {} on the left", "the {} on the right") if len(rows) == 2 else ("the leftmost {}", "the rightmost {}")
    )
    if centres[1][0] - centres[0][0] > gap:
        found.append((left.format(name), centres[0][1]))
    if centres[-1][0] - centres[-2][0] > gap:
        found.append((right.format(name), centres[-1][1]))
    by_area = sorted(rows, key=lambda index: -_area(photo.instances[index]))
    if _area(photo.instances[by_area[0]]) > _LARGEST_AREA * _area(photo.instances[by_area[1]]):
        found.append((f"the largest {name}" if len(rows) > 2 else f"the larger {name}", by_area[0]))
    return found


def _target(mention: Mention, rows: list[int], instances: Sequence[PhotoInstance]) -> tuple[int, ...] | None:
    """Instances one mention means, or None when its words leave it open."""
    if mention.vague:
        return None
    if mention.plural or is_plural_name(instances[rows[0]].category):
        return tuple(rows) if mention.number is None or mention.number == len(rows) else None
    if len(rows) == 1:
        return (rows[0],)
    if mention.number is None or mention.number == 1:
        areas = sorted(((_area(instances[index]), index) for index in rows), reverse=True)
        if areas[0][0] >= _DOMINANT_AREA * areas[1][0]:
            return (areas[0][1],)
    return None


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


def _one(name: str, instance: PhotoInstance) -> str:
    return f"the {name}" if instance.region == "stuff" and name in _SURFACES else with_article(name)


def _is_there(name: str, rng: np.random.Generator) -> str:
    place = _pick(("in the image", "in the image", "in the picture"), rng)
    if is_plural_name(name):
        return f"Are there {name} {place}?"
    return f"Is there {with_article(name)} {place}?"


def _be(phrase: str) -> str:
    return "are" if is_plural_name(phrase) else "is"


def _place(photo: _Photo, index: int) -> str:
    """In words, which third of the photo the box's centre lies in."""
    x0, y0, x1, y1 = photo.instances[index].box_xyxy
    width, height = photo.record.image_size_wh
    side = _third((x0 + x1) / 2 / width, ("left", "", "right"))
    level = _third((y0 + y1) / 2 / height, ("top", "", "bottom"))
    if side and level:
        return f"in the {level} {side} corner of the image"
    if side:
        return f"on the {side} side of the image"
    return f"at the {level} of the image" if level else "in the middle of the image"


def _third(position: float, names: tuple[str, str, str]) -> str:
    return names[0] if position < 0.36 else names[2] if position > 0.64 else names[1]


def _side(photo: _Photo, index: int, other: int) -> str | None:
    """`left` or `right` where one box's centre lies clear of the other box; None otherwise."""
    box, base = photo.instances[index].box_xyxy, photo.instances[other].box_xyxy
    gap = _APART * photo.record.image_size_wh[0]
    centre, other_centre = (box[0] + box[2]) / 2, (base[0] + base[2]) / 2
    if centre < min(base[0], other_centre - gap):
        return "left"
    return "right" if centre > max(base[2], other_centre + gap) else None


def _prompt(photo: _Photo, index: int, rng: np.random.Generator) -> VisualPrompt:
    kind = "box" if not photo.has_mask[index] else _pick(("box", "click", "scribble", "mask"), rng)
    mask = photo.masks[index]
    if kind == "mask":
        return VisualPrompt.mask_of(mask)
    if kind == "box":
        return VisualPrompt.box(*photo.instances[index].box_xyxy)
    rows, columns = np.nonzero(mask)
    if kind == "click":
        at = int(rng.integers(len(rows)))
        return VisualPrompt.click(columns[at] + 0.5, rows[at] + 0.5)
    picked = np.sort(rng.integers(len(rows), size=min(6, len(rows))))
    return VisualPrompt.scribble([(columns[at] + 0.5, rows[at] + 0.5) for at in picked])


def _by_category(instances: Sequence[PhotoInstance]) -> dict[str, list[int]]:
    grouped: dict[str, list[int]] = {}
    for index, instance in enumerate(instances):
        grouped.setdefault(instance.category, []).append(index)
    return grouped


def _lexicon(names: tuple[str, ...]) -> Lexicon:
    """All known words, and the photo's own category names."""
    base = lexicon(())
    extra = tuple(sorted(set(names) - set(base.names)))
    return lexicon(base.names + extra) if extra else base


def _area(instance: PhotoInstance) -> float:
    x0, y0, x1, y1 = instance.box_xyxy
    return (x1 - x0) * (y1 - y0)


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]
