"""What is asked of a photo by its boxes, masks, captions and spatial statements, one turn of every kind.

Nothing is asked that the labels cannot answer: counts and absences only of classes labelled exhaustively.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from llava_grounding.data.grounded_captions import ground_caption, tidy_caption
from llava_grounding.data.record import Record
from llava_grounding.data.sample import Sample, Targets, Turn
from llava_grounding.dialogues import templates
from llava_grounding.dialogues.answers import (
    MAX_COUNT,
    SURFACES,
    absent_draft,
    corrected_draft,
    find_draft,
    group_phrase,
    group_phrases,
    is_or_are,
    list_draft,
    name_draft,
    present_draft,
    said_name,
    where_draft,
)
from llava_grounding.dialogues.builder import pointed, sample_of
from llava_grounding.dialogues.drafts import Draft, grounded_draft
from llava_grounding.dialogues.facts import Facts
from llava_grounding.dialogues.layout import CLEAR_GAP, Thing, place_of
from llava_grounding.dialogues.turns import pick
from llava_grounding.language.nouns import (
    is_mass,
    is_plural_name,
    number_word,
    plural,
    with_article,
)
from llava_grounding.markup import strip_markup

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
    drafts = _drafts(facts, rng) if questions else ()
    return sample_of(facts, tuple(_sometimes_plain(_turn(draft, facts, rng), rng) for draft in drafts))


def _turn(draft: Draft, facts: Facts, rng: np.random.Generator) -> Turn:
    """Pointed at by a generator of its own, so that how that is done moves no other draw; a box leaves no choice."""
    draws = any(facts.masks[row].any() for row in draft.regions)
    return pointed(draft, facts, np.random.default_rng(int(rng.integers(2**32)) if draws else 0))


def _drafts(facts: Facts, rng: np.random.Generator) -> Iterator[Draft]:
    """Kind by kind as they are asked for."""
    for make in _KINDS:
        yield from make(facts, rng)


def _referable(facts: Facts) -> list[tuple[str, int]]:
    """Phrases that mean exactly one instance, with its row; only of categories labelled everywhere."""
    found: list[tuple[str, int]] = []
    if len(facts.instances) > _MAX_REFERRED:
        return found
    for name, rows in facts.complete.items():
        alone = len(rows) == 1 and (facts.countable(name) or name in SURFACES)
        few = 1 < len(rows) <= _MAX_TOLD_APART
        told_apart = few and facts.countable(name) and not is_plural_name(name) and not is_mass(name)
        if alone or told_apart:
            for row in rows:
                words = facts.layout.single_references(facts.layout.things[row])
                found += [(f"the {reference.words}", row) for reference in words]
    return found


def _describe(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """Grounded caption by a person, with a list of the labels that it leaves out; without captions that list alone.

    Without any labels the phrases are marked all the same, with no match known: words are learnt from it, not regions.
    """
    captions = facts.captions
    order = rng.permutation(len(captions))
    if captions:
        best: tuple[int, str, Targets] | None = None
        for index in order:
            answer, targets = _tied(captions[index], facts)
            located = sum(target is not None for target in targets)
            if best is None or located > best[0]:
                best = (located, answer, targets)
        assert best is not None
        located, answer, targets = best
        rest = _rest(facts, targets)
        if rest is not None:
            answer, targets = f"{answer} {rest.answer}", (*targets, *rest.targets)
        if located or rest is not None or (targets and not facts.instances):
            return [Draft(pick(templates.PHOTO_DESCRIBE, rng), answer, targets, (), True, "describe")]
        return []
    return (
        [_listing(facts, facts.largest(_MAX_LISTED), pick(templates.PHOTO_DESCRIBE, rng), "describe")]
        if facts.complete
        else []
    )


def _list(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """What is labelled, as a list, for photos whose description is a caption."""
    if not facts.captions or not facts.complete:
        return []
    return [_listing(facts, facts.largest(_MAX_LISTED), pick(templates.PHOTO_LIST, rng), "list")]


def _rest(facts: Facts, targets: Targets) -> Draft | None:
    """What is labelled and a caption leaves out, wholly or in part, as a list behind it."""
    said = {row for target in targets if target is not None for row in target}
    names = [name for name in facts.largest() if not said.issuperset(facts.complete[name])]
    return _listing(facts, names[:_MAX_LISTED], "", "describe") if names else None


def _listing(facts: Facts, names: Sequence[str], question: str, kind: str) -> Draft:
    """There are two dogs and a person."""
    return list_draft(kind, question, *group_phrases(facts, names))


def _describe_plain(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """Every caption by a person, for who takes several turns of a photo."""
    captions = facts.captions
    return [
        Draft(pick(templates.PHOTO_DESCRIBE, rng), tidy_caption(captions[index]), kind="describe_plain")
        for index in rng.permutation(len(captions))
    ]


def _count(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    names = [
        name
        for name in facts.complete
        if facts.countable(name) and len(facts.complete[name]) <= MAX_COUNT
        if not is_mass(name) and not is_plural_name(name)
    ]
    if not names:
        return []
    name = pick(names, rng)
    rows = facts.complete[name]
    several = len(rows) != 1
    phrase = f"{number_word(len(rows))} {plural(name) if several else name}"
    return [list_draft("count", pick(templates.PHOTO_COUNT, rng).format(plural(name)), [(phrase, rows)], several)]


def _where(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """The part of the photo, and left or right of the nearest thing that has a name of its own."""
    # A phrase that tells the place already would answer itself.
    named = [(phrase, index) for phrase, index in _referable(facts) if not _says_place(phrase)]
    if not named:
        return []
    phrase, index = pick(named, rng)
    things, relation = facts.layout.things, None
    others = [(other_phrase, other) for other_phrase, other in named if other != index]
    if others:
        other_phrase, other = min(others, key=lambda entry: _distance(things[index], things[entry[1]]))
        side = _side(things[index], things[other])
        if side is not None:
            relation = side, (other_phrase, (other,))
    several = is_plural_name(phrase)
    question = pick(templates.PHOTO_WHERE, rng).format(is_or_are(several), phrase)
    return [where_draft(question, (phrase, (index,)), place_of(things[index]), relation, several=several)]


def _find(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """One thing, and all things of a category that has several."""
    drafts = []
    named = _referable(facts)
    if named:
        phrase, index = pick(named, rng)
        drafts.append(_found(phrase, (index,), rng))
    several = [name for name in facts.complete if len(facts.complete[name]) > 1 and not is_mass(name)]
    if several:
        name = pick(several, rng)
        drafts.append(_found(f"the {said_name(facts, name)}", facts.complete[name], rng))
    return drafts


def _found(phrase: str, rows: tuple[int, ...], rng: np.random.Generator) -> Draft:
    return find_draft(pick(templates.PHOTO_FIND, rng).format(phrase), (phrase, rows))


def _region(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """What is at a box, click, scribble or mask; without a mask only the box is sure to lie on the thing."""
    if not facts.pointable:
        return []
    row = pick(facts.pointable, rng)
    return [name_draft(pick(templates.PHOTO_REGION, rng), facts, row)]


def _absent(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """One yes and one no question about presence, worded as object-hallucination tests word them."""
    drafts = []
    present = [name for name in facts.complete if facts.countable(name) and not is_mass(name)]
    if present:
        name = pick(present, rng)
        phrase, several = group_phrase(facts, name)
        drafts.append(present_draft(_is_there(name, rng), (phrase, facts.complete[name]), several))
    missing = [name for name in facts.absent if not is_mass(name)]
    common = [name for name in missing if name in _COMMON_NAMES]
    if missing:
        name = pick(common if common and rng.random() < 0.5 else missing, rng)
        several = is_plural_name(name)
        drafts.append(absent_draft(_is_there(name, rng), plural(name) if several else name, several))
    return drafts


def _corrected(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """A description for somebody who denies a thing: the answer leaves it out, whether it is labelled or not."""
    names = facts.largest(_MAX_LISTED + 1)
    missing = [name for name in facts.absent if not is_mass(name)]
    if missing and names and (len(names) < 2 or rng.random() < 0.5):
        denied = pick(missing, rng)
        several = is_plural_name(denied)
    elif len(names) > 1:
        denied = pick(names, rng)
        several = group_phrase(facts, denied)[1]
    else:
        return []
    left = [name for name in names if name != denied][:_MAX_LISTED]
    denied = plural(denied) if several else denied
    return [corrected_draft(denied, several, pick(templates.PHOTO_DESCRIBE, rng), *group_phrases(facts, left))]


def _relation(facts: Facts, rng: np.random.Generator) -> list[Draft]:
    """A spatial statement as a yes/no question."""
    if not facts.statements:
        return []
    statement, true = pick(facts.statements, rng)
    clause = statement[0].lower() + statement[1:].rstrip(". ")
    question = pick(templates.PHOTO_RELATION, rng).format(clause)
    if not true:
        return [grounded_draft("relation", question, "No, that is not true.")]
    answer, targets = _tied(f"Yes, {clause}.", facts)
    return [Draft(question, answer, targets, (), True, "relation")]


def _tied(caption: str, facts: Facts) -> tuple[str, Targets]:
    """A caption in markup, with what its phrases mean."""
    return ground_caption(caption, facts.instances, facts.exhaustive, facts.image_size_wh)


def _sometimes_plain(turn: Turn, rng: np.random.Generator) -> Turn:
    """Short answers come without markup now and then, whatever they say."""
    if turn.kind not in _SHORT_KINDS or rng.random() >= _PLAIN_SHARE:
        return turn
    return replace(turn, answer=strip_markup(turn.answer), targets=(), grounded=False)


_KINDS: tuple[Callable[[Facts, np.random.Generator], list[Draft]], ...] = (
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


def _is_there(name: str, rng: np.random.Generator) -> str:
    several = is_plural_name(name)
    return pick(templates.PHOTO_IS_THERE, rng).format(
        is_or_are(several).capitalize(), name if several else with_article(name)
    )


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
