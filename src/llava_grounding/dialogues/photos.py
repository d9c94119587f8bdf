"""Photos as samples: questions and grounded answers made from boxes, masks, captions and spatial statements.

Nothing is asked that the labels cannot answer: counts and absences only of classes labelled exhaustively.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from llava_grounding.data.grounded_captions import ground_caption, tidy_caption
from llava_grounding.data.record import Record
from llava_grounding.data.sample import Sample, Targets, Turn
from llava_grounding.dialogues.builder import pointed, sample_of
from llava_grounding.dialogues.drafts import Draft, Phrase, grounded_draft
from llava_grounding.dialogues.facts import Facts
from llava_grounding.dialogues.layout import CLEAR_GAP, Layout, Thing, place_of
from llava_grounding.dialogues.turns import pick
from llava_grounding.language.nouns import (
    is_mass,
    is_plural_name,
    listed,
    number_word,
    plural,
    spoken_name,
    with_article,
)
from llava_grounding.markup import REGION, strip_markup

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
_COMMON_NAMES = frozenset(name.replace("+", " ") for name in _COMMON.split())


def photo_sample(record: Record, rng: np.random.Generator, questions: bool = True) -> Sample:
    """The photo with its pixels, masks and one turn of every kind its labels allow; the same for the same `rng` state.

    Without `questions` none are made, which is quicker. Crowd regions are dropped; their category is not exhaustive any
    more.
    """
    facts = Facts.of_record(record)
    drafts = _drafts(_Photo(facts), rng) if questions else ()
    return sample_of(facts, tuple(_sometimes_plain(_turn(draft, facts, rng), rng) for draft in drafts))


def _turn(draft: Draft, facts: Facts, rng: np.random.Generator) -> Turn:
    """Pointed at by a generator of its own, so that how that is done moves no other draw; a box leaves no choice."""
    draws = any(facts.masks[row].any() for row in draft.regions)
    return pointed(draft, facts, np.random.default_rng(int(rng.integers(2**32)) if draws else 0))


def _drafts(photo: _Photo, rng: np.random.Generator) -> Iterator[Draft]:
    """Kind by kind as they are asked for."""
    for make in _KINDS:
        yield from make(photo, rng)


@dataclass(frozen=True)
class _Photo:
    facts: Facts
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        facts = self.facts
        areas = [facts.area(row) for row in range(len(facts.instances))]
        object.__setattr__(self, "layout", Layout.of_instances(facts.instances, areas, facts.image_size_wh))

    def countable(self, name: str) -> bool:
        return all(self.facts.kinds[row] == "thing" for row in self.facts.complete[name])

    def referable(self) -> list[tuple[str, int]]:
        """Phrases that mean exactly one instance, with its row; only of categories labelled everywhere."""
        found: list[tuple[str, int]] = []
        if len(self.facts.instances) > _MAX_REFERRED:
            return found
        for name, rows in self.facts.complete.items():
            alone = len(rows) == 1 and (self.countable(name) or name in _SURFACES)
            few = 1 < len(rows) <= _MAX_TOLD_APART
            told_apart = few and self.countable(name) and not is_plural_name(name) and not is_mass(name)
            if alone or told_apart:
                for row in rows:
                    words = self.layout.single_references(self.layout.things[row])
                    found += [(f"the {reference.words}", row) for reference in words]
        return found


def _describe(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """Grounded caption by a person, with a list of the labels that it leaves out; without captions that list alone.

    Without any labels the phrases are marked all the same, with no match known: words are learnt from it, not regions.
    """
    captions = photo.facts.captions
    order = rng.permutation(len(captions))
    if captions:
        best: tuple[int, str, Targets] | None = None
        for index in order:
            answer, targets = _tied(captions[index], photo.facts)
            located = sum(target is not None for target in targets)
            if best is None or located > best[0]:
                best = (located, answer, targets)
        assert best is not None
        located, answer, targets = best
        rest = _rest(photo, targets)
        if rest is not None:
            answer, targets = f"{answer} {rest.answer}", (*targets, *rest.targets)
        if located or rest is not None or (targets and not photo.facts.instances):
            return [Draft(pick(DESCRIBE_QUESTIONS, rng), answer, targets, (), True, "describe")]
        return []
    return [_listing(photo, pick(DESCRIBE_QUESTIONS, rng), "describe")] if photo.facts.complete else []


def _list(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """What is labelled, as a list, for photos whose description is a caption."""
    if not photo.facts.captions or not photo.facts.complete:
        return []
    return [_listing(photo, pick(_LIST_QUESTIONS, rng), "list")]


def _rest(photo: _Photo, targets: Targets) -> Draft | None:
    """What is labelled and a caption leaves out, wholly or in part, as a list behind it."""
    said = {row for target in targets if target is not None for row in target}
    names = [name for name in photo.facts.largest() if not said.issuperset(photo.facts.complete[name])]
    return _list_of(photo, names[:_MAX_LISTED], "", "describe") if names else None


def _listing(photo: _Photo, question: str, kind: str) -> Draft:
    """There are two dogs and a person. Largest categories first, and only those that are labelled exhaustively."""
    return _list_of(photo, photo.facts.largest(_MAX_LISTED), question, kind)


def _list_of(photo: _Photo, names: Sequence[str], question: str, kind: str) -> Draft:
    phrases: list[Phrase] = [(_group_phrase(photo, name)[0], photo.facts.complete[name]) for name in names]
    verb = "are" if _group_phrase(photo, names[0])[1] else "is"
    return grounded_draft(kind, question, f"There {verb} {listed(['{}'] * len(names))}.", phrases)


def _describe_plain(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """Every caption by a person, for who takes several turns of a photo."""
    captions = photo.facts.captions
    return [
        Draft(pick(DESCRIBE_QUESTIONS, rng), tidy_caption(captions[index]), kind="describe_plain")
        for index in rng.permutation(len(captions))
    ]


def _count(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    names = [
        name
        for name in photo.facts.complete
        if photo.countable(name) and len(photo.facts.complete[name]) <= _MAX_COUNT
        if not is_mass(name) and not is_plural_name(name)
    ]
    if not names:
        return []
    name = pick(names, rng)
    rows = photo.facts.complete[name]
    question = pick(_COUNT_QUESTIONS, rng)
    phrase = f"{number_word(len(rows))} {name if len(rows) == 1 else plural(name)}"
    template = "There is {}." if len(rows) == 1 else "There are {}."
    return [grounded_draft("count", question.format(plural(name)), template, [(phrase, rows)])]


def _where(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """The part of the photo, and left or right of the nearest thing that has a name of its own."""
    # A phrase that tells the place already would answer itself.
    named = [(phrase, index) for phrase, index in photo.referable() if not _says_place(phrase)]
    if not named:
        return []
    phrase, index = pick(named, rng)
    things = photo.layout.things
    template, phrases = "{} " + f"{_be(phrase)} {place_of(things[index])}", [(phrase, (index,))]
    others = [(other_phrase, other) for other_phrase, other in named if other != index]
    if others:
        other_phrase, other = min(others, key=lambda entry: _distance(things[index], things[entry[1]]))
        side = _side(things[index], things[other])
        if side is not None:
            template, phrases = template + f", {side} {{}}", [*phrases, (other_phrase, (other,))]
    return [grounded_draft("where", pick(_WHERE_QUESTIONS, rng).format(_be(phrase), phrase), f"{template}.", phrases)]


def _find(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """One thing, and all things of a category that has several."""
    drafts = []
    named = photo.referable()
    if named:
        phrase, index = pick(named, rng)
        drafts.append(_found(phrase, (index,), rng))
    several = [name for name in photo.facts.complete if len(photo.facts.complete[name]) > 1 and not is_mass(name)]
    if several:
        name = pick(several, rng)
        drafts.append(_found(f"the {plural(name)}", photo.facts.complete[name], rng))
    return drafts


def _found(phrase: str, rows: tuple[int, ...], rng: np.random.Generator) -> Draft:
    return grounded_draft("find", pick(_FIND_QUESTIONS, rng).format(phrase), "{}.", [(phrase, rows)])


def _region(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """What is at a box, click, scribble or mask; without a mask only the box is sure to lie on the thing."""
    facts = photo.facts
    rows = [
        row
        for row, instance in enumerate(facts.instances)
        if spoken_name(instance.category) and facts.kinds[row] in ("thing", "stuff") and facts.can_point(row)
    ]
    if not rows:
        return []
    row = pick(rows, rng)
    name = spoken_name(facts.instances[row].category)
    words = f"the {name}" if facts.kinds[row] == "stuff" and name in _SURFACES else with_article(name)
    several = is_plural_name(name) and not with_article(name).startswith("a pair")
    question = pick(_REGION_QUESTIONS, rng).format(REGION)
    return [grounded_draft("region", question, "They are {}." if several else "It is {}.", [(words, (row,))], [row])]


def _absent(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """One yes and one no question about presence, worded as object-hallucination tests word them."""
    drafts = []
    present = [name for name in photo.facts.complete if photo.countable(name) and not is_mass(name)]
    if present:
        name = pick(present, rng)
        phrase, several = _group_phrase(photo, name)
        template = "Yes, there are {}." if several else "Yes, there is {}."
        drafts.append(grounded_draft("absent", _is_there(name, rng), template, [(phrase, photo.facts.complete[name])]))
    missing = [name for name in photo.facts.absent if not is_mass(name)]
    common = [name for name in missing if name in _COMMON_NAMES]
    if missing:
        name = pick(common if common and rng.random() < 0.5 else missing, rng)
        nothing = f"are no {plural(name)}" if is_plural_name(name) else f"is no {name}"
        drafts.append(grounded_draft("absent", _is_there(name, rng), f"No, there {nothing} in the picture."))
    return drafts


def _corrected(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """A description for somebody who denies a thing: the answer leaves it out, whether it is labelled or not."""
    names = photo.facts.largest(_MAX_LISTED + 1)
    missing = [name for name in photo.facts.absent if not is_mass(name)]
    if missing and names and (len(names) < 2 or rng.random() < 0.5):
        denied = pick(missing, rng)
        several = is_plural_name(denied)
    elif len(names) > 1:
        denied = pick(names, rng)
        several = _group_phrase(photo, denied)[1]
    else:
        return []
    denial = f"There are no {plural(denied)}." if several else f"There is no {denied}."
    left = [name for name in names if name != denied]
    return [_list_of(photo, left[:_MAX_LISTED], f"{denial} {pick(DESCRIBE_QUESTIONS, rng)}", "corrected")]


def _relation(photo: _Photo, rng: np.random.Generator) -> list[Draft]:
    """A spatial statement as a yes/no question."""
    if not photo.facts.statements:
        return []
    statement, true = pick(photo.facts.statements, rng)
    clause = statement[0].lower() + statement[1:].rstrip(". ")
    question = pick(("Is it true that {}?", "Is this true: {}?"), rng).format(clause)
    if not true:
        return [grounded_draft("relation", question, "No, that is not true.")]
    answer, targets = _tied(f"Yes, {clause}.", photo.facts)
    return [Draft(question, answer, targets, (), True, "relation")]


def _tied(caption: str, facts: Facts) -> tuple[str, Targets]:
    """A caption in markup, with what its phrases mean."""
    return ground_caption(caption, facts.instances, facts.exhaustive, facts.image_size_wh)


def _sometimes_plain(turn: Turn, rng: np.random.Generator) -> Turn:
    """Short answers come without markup now and then, whatever they say."""
    if turn.kind not in _SHORT_KINDS or rng.random() >= _PLAIN_SHARE:
        return turn
    return replace(turn, answer=strip_markup(turn.answer), targets=(), grounded=False)


_KINDS: tuple[Callable[[_Photo, np.random.Generator], list[Draft]], ...] = (
    _describe,
    _list,
    _describe_plain,
    _count,
    _where,
    _find,
    _region,
    _absent,
    _relation,
    _corrected,
)


def _group_phrase(photo: _Photo, name: str) -> tuple[str, bool]:
    """All instances of a category as one phrase, and whether it is plural: `two dogs`, `a cat`, `cars`, `the sky`."""
    rows = photo.facts.complete[name]
    kind = photo.facts.kinds[rows[0]]
    if kind != "thing" and name in _SURFACES:
        return f"the {name}", False
    if kind == "class":
        return plural(name), not is_mass(name)
    if is_mass(name) or (len(rows) == 1 and is_plural_name(name)):
        return with_article(name), is_plural_name(name) and not with_article(name).startswith("a pair")
    if len(rows) == 1:
        return with_article(name), False
    return f"{number_word(len(rows)) if len(rows) <= _MAX_COUNT else 'many'} {plural(name)}", True


def _is_there(name: str, rng: np.random.Generator) -> str:
    place = pick(_PLACES, rng)
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
