"""`--model builtin`: phrases tied to instances by words alone, without a language model.

Head nouns, plurals, counts, synonyms, and positions where boxes decide. It leaves open what the words leave open, so it
is precise and finds less than a model does. Reads no pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from llava_grounding.annotate.marked import Marked, MarkedPhrase
from llava_grounding.annotate.tasks import AnnotationTask, Numbered
from llava_grounding.data.grounded_captions import box_area_of
from llava_grounding.language.nouns import Mention, is_plural_name, lexicon_with

NAME = "builtin"
VERSION = "2"
"""Changes when it may match otherwise."""
_DOMINANT_AREA = 4.0  # one thing is meant without saying which, if it is this many times larger than the next
_APART = 0.1  # of the image, by which middles must differ before one of two is the left one
_SIDES = {"left": (0, False), "right": (0, True), "top": (1, False), "bottom": (1, True)}
_INDEFINITE = frozenset({"a", "an", "one", "another"})


def match(task: AnnotationTask) -> Marked:
    """Which phrases of the task's texts name which of its instances."""
    groups = _by_category(task)
    words = lexicon_with(groups)
    return Marked({label: _match_text(text, words.find(text), groups, task) for label, text in task.texts.items()})


def _by_category(task: AnnotationTask) -> dict[str, list[Numbered]]:
    groups: dict[str, list[Numbered]] = defaultdict(list)
    for one in task.numbered:
        groups[one.name].append(one)
    return groups


def _match_text(
    text: str, mentions: Sequence[Mention], groups: dict[str, list[Numbered]], task: AnnotationTask
) -> tuple[MarkedPhrase, ...]:
    there = [(mention, [name for name in mention.categories if name in groups]) for mention in mentions]
    said = defaultdict(list)
    for mention, names in there:
        for name in names:
            said[name].append(mention)
    phrases = []
    for mention, names in there:
        if len(names) != 1:  # none is there, or the word may mean things of several categories
            continue
        numbers = _meant(text, mention, said[names[0]], groups[names[0]], task)
        if numbers:
            phrases.append(MarkedPhrase(mention.span, numbers))
    return tuple(phrases)


def _meant(
    text: str, mention: Mention, said: Sequence[Mention], things: Sequence[Numbered], task: AnnotationTask
) -> tuple[int, ...]:
    """Numbers of the instances that one mention of a category means; none where that is left open."""
    if mention.vague or not _one_referent(text, said):
        return ()
    name = things[0].name
    category = things[0].instance.category
    # Crowds, and labels that cannot be named for want of an id, are there all the same.
    hidden = sum(one.category == category for one in task.record.instances) != len(things)
    if hidden:
        return ()
    complete = category in task.record.exhaustive
    if mention.plural and not is_plural_name(name):
        if mention.number == len(things) or (mention.number is None and complete and len(things) > 1):
            return tuple(one.number for one in things)
        return ()
    if mention.number not in (None, 1) and mention.number != len(things):
        return ()
    if is_plural_name(name) and len(things) > 1 and mention.plural and complete:
        return tuple(one.number for one in things) if mention.number in (None, len(things)) else ()
    if len(things) == 1:
        return (things[0].number,)
    return _chosen(text, mention, things, task)


def _one_referent(text: str, said: Sequence[Mention]) -> bool:
    """Whether all mentions of a category are of the same things: "a dog ... the dog", not "a man ... a boy"."""
    if len(said) == 1:
        return True
    heads = {text[slice(*mention.head_span)].lower() for mention in said}
    later = [text[slice(*mention.span)].split()[0].lower() for mention in said[1:]]
    return len(heads) == 1 and len({mention.plural for mention in said}) == 1 and all(word == "the" for word in later)


def _chosen(text: str, mention: Mention, things: Sequence[Numbered], task: AnnotationTask) -> tuple[int, ...]:
    """The one of several that a singular means: by its side, else because it is by far the largest."""
    side = _side(text, mention)
    if side is not None and task.record.image_size_wh is not None:
        axis, last = side
        length = task.record.image_size_wh[axis]
        middles = sorted(
            ((one.instance.box_xyxy[axis] + one.instance.box_xyxy[axis + 2]) / 2 / length, one.number) for one in things
        )
        if last:
            middles = [(1 - middle, number) for middle, number in reversed(middles)]
        if middles[0][0] < 0.5 and middles[1][0] - middles[0][0] >= _APART:
            return (middles[0][1],)
        return ()
    areas = sorted(((box_area_of(one.instance), one.number) for one in things), reverse=True)
    return (areas[0][1],) if areas[0][0] >= _DOMINANT_AREA * areas[1][0] else ()


def _side(text: str, mention: Mention) -> tuple[int, bool] | None:
    """Axis, and whether the far end of it: for "the left dog", and "the dog on the left" where nothing follows."""
    before = text[mention.span[0] : mention.head_span[0]].lower().split()
    found = [_SIDES[word] for word in before if word in _SIDES]
    after = text[mention.span[1] :].lower().lstrip()
    for word, side in _SIDES.items():
        for phrase in (f"on the {word}", f"to the {word}", f"at the {word}"):
            if after.startswith(phrase) and after[len(phrase) :].lstrip()[:2] not in ("of", "si"):
                found.append(side)
    return found[0] if len(found) == 1 else None
