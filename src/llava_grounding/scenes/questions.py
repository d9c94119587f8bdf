"""What is asked of a drawn scene, where all is known: colours, relations and things that are certainly not there.

Knows what is true (`Layout`), and writes drafts; words of questions are in `dialogues.templates`, those of the answers
that photos have too in `dialogues.answers`. Draws nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace

from llava_grounding.data.sample import Sample
from llava_grounding.dialogues import templates
from llava_grounding.dialogues.answers import (
    absent_draft,
    corrected_draft,
    denial_draft,
    find_draft,
    list_draft,
    list_template,
    present_draft,
    region_draft,
    where_draft,
)
from llava_grounding.dialogues.drafts import Draft, Phrase, grounded_draft
from llava_grounding.dialogues.facts import Facts
from llava_grounding.dialogues.layout import (
    CLEAR_RATIO,
    OPPOSITE,
    Layout,
    Reference,
    Thing,
    counted,
    name_of,
    place_of,
)
from llava_grounding.language.nouns import number_word, with_article
from llava_grounding.markup import REGION
from llava_grounding.scenes.categories import CATEGORIES, GROUP_PLURALS, category_named, confusable

_PRONOUNS = {"man": "he", "woman": "she", "child": ""}


def scene_drafts(
    layout: Layout,
    background: str,
    rng: random.Random,
    kinds: Sequence[str] | None = None,
    absent_categories: Sequence[str] = (),
) -> tuple[Draft, ...]:
    """Every kind of question that fits the scene; a `followup` directly follows the draft it refers to.

    Args:
        layout: what is true.
        background: one sentence, or "".
        rng: picks phrasings and what is asked about.
        kinds: the kinds of `QUESTION_KINDS` wanted; None = all.
        absent_categories: names of things to ask about where they are absent; empty = any.
    """
    scene = _Scene(layout, background, rng, tuple(absent_categories) or _CATEGORY_NAMES)
    wanted = QUESTION_KINDS if kinds is None else kinds
    drafts = [draft for kind, ask in _ASKERS.items() if kind in wanted for draft in ask(scene)]
    return tuple(draft for draft in drafts if draft.kind in wanted)


def scene_layout(
    scene: Sample | Facts, stands_on: Mapping[int, int] | None = None, in_front: Sequence[tuple[int, int]] = ()
) -> Layout:
    """Where the things of a scene are, by their visible pixels."""
    areas = scene.masks.sum(axis=(1, 2)).tolist()
    return Layout.of_instances(scene.instances, areas, scene.image_size_wh, category_named, stands_on, in_front)


def scene_phrases(scene: Sample | Facts) -> list[Phrase]:
    """Referring phrases with their exact targets: "the red car", "the dog on the left", "apples"."""
    layout = scene_layout(scene)
    phrases = [(f"the {ref.words}", ref.indices) for thing in layout.things for ref in layout.single_references(thing)]
    return phrases + [(ref.words, ref.indices) for ref in layout.plural_references()]


class _Scene:
    """What is true in one scene, its random generator, and how questions about it are put into words."""

    def __init__(self, layout: Layout, background: str, rng: random.Random, absent_categories: tuple[str, ...]) -> None:
        self.layout, self.background, self.rng, self.absent_categories = layout, background, rng, absent_categories

    def some(self, things: Sequence[Thing], count: int) -> list[Thing]:
        return self.rng.sample(list(things), min(count, len(things)))

    def named(self) -> list[Thing]:
        return [thing for thing in self.layout.things if self.layout.name(thing)]

    def the(self, thing: Thing) -> Phrase:
        name = self.layout.name(thing)
        assert name is not None
        return f"the {name}", (thing.index,)

    def any_name(self, thing: Thing) -> Phrase:
        """One of its names, not always the shortest."""
        return f"the {self.rng.choice(self.layout.single_references(thing)).words}", (thing.index,)

    def ask(self, questions: Sequence[str], *words: str) -> str:
        return self.rng.choice(questions).format(*words)

    def where(self, question: str, thing: Thing, phrase: Phrase, kind: str, regions: Sequence[int] = ()) -> Draft:
        """Where a thing is: its part of the image, and its relation to the nearest other thing."""
        other, relation = self.layout.nearest(thing), None
        if other is not None and other.index != thing.index:
            relation = self.layout.relation(thing, other), self.the(other)
        return where_draft(question, phrase, place_of(thing), relation, kind=kind, regions=regions)


def _describe(scene: _Scene) -> list[Draft]:
    groups = scene.layout.groups()
    phrases, several = _group_phrases(groups)
    template = list_template(len(phrases), several)
    pair = _telling_pair(scene, groups)
    if pair:
        first, second = pair
        template += " {} is " + scene.layout.relation(first, second) + " {}."
        name, indices = scene.the(first)
        phrases += [(name[0].upper() + name[1:], indices), scene.the(second)]
    if scene.background:
        template += f" {scene.background}"
    return [grounded_draft("describe", scene.ask(templates.SCENE_DESCRIBE), template, phrases)]


def _group_phrases(groups: Sequence[Sequence[Thing]]) -> tuple[list[Phrase], bool]:
    """Things alike as one phrase each, and whether the first of them is plural."""
    phrases = [
        (counted(group[0].noun, group[0].said_colour, len(group)), tuple(sorted(thing.index for thing in group)))
        for group in groups
    ]
    return phrases, len(groups[0]) != 1


def _describe_plain(scene: _Scene) -> list[Draft]:
    return [replace(turn.plain(), kind="describe_plain") for turn in _describe(scene)]


def _telling_pair(scene: _Scene, groups: Sequence[Sequence[Thing]]) -> tuple[Thing, Thing] | None:
    """The pair whose relation a description tells: standing on, then in front of, then the first two single things."""
    layout = scene.layout
    for i, j in [*sorted(layout.stands_on.items()), *sorted(layout.in_front)]:
        first, second = layout.things[i], layout.things[j]
        if layout.name(first) and layout.name(second):
            return first, second
    singles = [group[0] for group in groups if len(group) == 1 and layout.name(group[0])]
    return (singles[0], singles[1]) if len(singles) > 1 else None


def _count(scene: _Scene) -> list[Draft]:
    layout, rng, turns = scene.layout, scene.rng, []
    groups = layout.groups()
    asked: list[tuple[str, str, tuple[int, ...]]] = []  # plural words, counted words, who
    for group in rng.sample(groups, min(2, len(groups))):
        thing = group[0]
        colour = thing.said_colour if rng.random() < 0.5 else None
        indices = layout.of_name(thing.noun.name, colour)
        words = number_word(len(indices)) + " " + name_of(thing.noun, colour, len(indices))
        asked.append((name_of(thing.noun, colour, 2), words, indices))
    wider = sorted({thing.noun.group for thing in layout.things} - {""})
    if wider:
        group_name = rng.choice(wider)
        indices = layout.of_group(group_name)
        noun = group_name if len(indices) == 1 else GROUP_PLURALS[group_name]
        asked.append((GROUP_PLURALS[group_name], f"{number_word(len(indices))} {noun}", indices))
    everything = tuple(range(len(layout.things)))
    noun = "thing" if len(everything) == 1 else "things"
    asked.append(("things", f"{number_word(len(everything))} {noun}", everything))
    for plural, words, indices in asked:
        turns.append(
            list_draft("count", scene.ask(templates.SCENE_COUNT, plural), [(words, indices)], len(indices) != 1)
        )
    turns.append(turns[0].plain())
    missing = _absent_category(scene)
    if missing:
        plural = CATEGORIES[missing].plural
        turns.append(denial_draft("count", scene.ask(templates.SCENE_COUNT, plural), plural, True))
    return turns


def _colour(scene: _Scene) -> list[Draft]:
    turns = []
    for thing in scene.some([t for t in scene.named() if t.colour], 2):
        # The question must not give the colour away.
        names = [ref.words for ref in scene.layout.single_references(thing) if not _says_colour(ref, thing)]
        if not names:
            continue
        words = f"the {scene.rng.choice(names)}"
        questions = templates.SCENE_WEARING if thing.noun.worn else templates.SCENE_COLOUR_ONE
        verb = "is wearing" if thing.noun.worn else "is"
        turns.append(
            grounded_draft(
                "colour", scene.ask(questions, words), f"{{}} {verb} {thing.colour}.", [(words, (thing.index,))]
            )
        )
    for group in scene.layout.groups():
        noun, colour = group[0].noun, group[0].colour
        indices = scene.layout.of_name(noun.name)
        if colour and not noun.worn and 1 < len(group) == len(indices):
            words = f"the {noun.plural}"
            turns.append(
                grounded_draft(
                    "colour", scene.ask(templates.SCENE_COLOUR_MANY, words), f"{{}} are {colour}.", [(words, indices)]
                )
            )
    return turns + [turn.plain() for turn in turns[:1]]


def _says_colour(reference: Reference, thing: Thing) -> bool:
    return thing.colour is not None and thing.colour in reference.words.split()


def _where(scene: _Scene) -> list[Draft]:
    turns = []
    for number, thing in enumerate(scene.some(scene.named(), 3)):
        phrase = scene.any_name(thing)
        turn = scene.where(scene.ask(templates.SCENE_WHERE, phrase[0]), thing, phrase, "where")
        turns.append(turn.plain() if number == 2 else turn)
        if number == 0:
            turns += _follow_up(scene, thing, located=True)
    return turns


def _find(scene: _Scene) -> list[Draft]:
    turns = []
    for number, thing in enumerate(scene.some(scene.named(), 3)):
        phrase = scene.any_name(thing)
        turns.append(find_draft(scene.ask(templates.SCENE_FIND, phrase[0]), phrase))
        if number == 0:
            turns += _follow_up(scene, thing, located=False)
    plurals = scene.layout.plural_references()
    for number, reference in enumerate(scene.rng.sample(plurals, min(2, len(plurals)))):
        words = f"the {reference.words}"
        turns.append(find_draft(scene.ask(templates.SCENE_FIND, words), (words, reference.indices)))
        if number == 0:
            how_many = f"{number_word(len(reference.indices))} {reference.words}", reference.indices
            turns.append(list_draft("followup", scene.ask(templates.SCENE_HOW_MANY), [how_many], True))
    return turns


def _follow_up(scene: _Scene, thing: Thing, located: bool) -> list[Draft]:
    """A turn that says "it" for the thing just talked about; `located` = where it is has been said."""
    pronoun = _PRONOUNS.get(thing.noun.name, "it")
    if not pronoun or scene.layout.name(thing) is None:
        return []
    rng, phrase = scene.rng, scene.the(thing)
    options: list[Callable[[], Draft]] = []
    if thing.colour and thing.noun.worn:
        question = scene.ask(templates.SCENE_IT_WEARING, pronoun)
        options.append(lambda: grounded_draft("followup", question, f"{{}} is wearing {thing.colour}.", [phrase]))
    elif thing.colour:
        colour_question = scene.ask(templates.SCENE_IT_COLOUR)
        options.append(lambda: grounded_draft("followup", colour_question, f"{{}} is {thing.colour}.", [phrase]))
    if not located:
        where_question = scene.ask(templates.SCENE_IT_WHERE, pronoun)
        options.append(lambda: scene.where(where_question, thing, phrase, "followup"))
    other = scene.layout.clearly_nearest(thing)
    if other is not None:
        obj = {"he": "him", "she": "her"}.get(pronoun, pronoun)
        near_question = scene.ask(templates.SCENE_IT_NEAREST, obj)
        options.append(
            lambda: grounded_draft("followup", near_question, "{} is nearest to {}.", [scene.the(other), phrase])
        )
    return [rng.choice(options)()] if options else []


def _region(scene: _Scene) -> list[Draft]:
    turns: list[Draft] = []
    layout, rng = scene.layout, scene.rng
    for number, thing in enumerate(scene.some(layout.things, 3)):
        words = with_article(name_of(thing.noun, thing.said_colour))
        turn = region_draft(scene.ask(templates.SCENE_REGION), words, thing.index)
        turns.append(turn.plain() if number == 1 else turn)
        if number == 0 and not thing.noun.worn:
            turns += _follow_up(scene, thing, located=False)
    thing = rng.choice(layout.things)
    if thing.colour and not thing.noun.worn:
        question = scene.ask(templates.SCENE_REGION_COLOUR)
        phrase = f"the {thing.noun.name}", (thing.index,)
        turns.append(grounded_draft("region", question, f"{{}} is {thing.colour}.", [phrase], [thing.index]))
    for thing in scene.some(scene.named(), 1):
        turns.append(
            scene.where(scene.ask(templates.SCENE_REGION_WHERE), thing, scene.the(thing), "region", [thing.index])
        )
    return turns + _region_pair(scene) + _relation_of(scene, region=True)


def _region_pair(scene: _Scene) -> list[Draft]:
    """Two regions in one question."""
    named = scene.named()
    if len(named) < 2:
        return []
    rng = scene.rng
    first, second = rng.sample(named, 2)
    regions = [first.index, second.index]
    phrases = [scene.the(first), scene.the(second)]
    turns = []
    ratio = first.area / second.area
    if not 1 / CLEAR_RATIO < ratio < CLEAR_RATIO:
        bigger_asked = rng.random() < 0.6
        question = scene.ask(templates.SCENE_BIGGER if bigger_asked else templates.SCENE_SMALLER)
        truth = "bigger" if ratio > 1 else "smaller"
        yes = (truth == "bigger") == bigger_asked
        turns.append(
            grounded_draft(
                "region", question, f"{'Yes' if yes else 'No'}, {{}} is {truth} than {{}}.", phrases, regions
            )
        )
    question = scene.ask(templates.SCENE_REGION_PAIR)
    words = [(with_article(name_of(t.noun, t.said_colour)), (t.index,)) for t in (first, second)]
    turns.append(grounded_draft("region", question, "They are {} and {}.", words, regions))
    return turns


def _absent(scene: _Scene) -> list[Draft]:
    """Yes/no about things that are there and things that are not."""
    turns = [_yes(scene, thing) for thing in scene.some(scene.layout.things, 2)]
    missing = _absent_category(scene)
    if missing:
        turns.append(_no(scene, missing, None))
    twin = _absent_colour(scene)
    if twin:
        turns.append(_no(scene, *twin))
    group = scene.rng.choice(tuple(GROUP_PLURALS))
    plural, members = GROUP_PLURALS[group], scene.layout.of_group(group)
    question = scene.ask(templates.SCENE_ARE_THERE, plural)
    if members:
        several = len(members) != 1
        words = f"{number_word(len(members))} {plural if several else group}"
        turns.append(present_draft(question, (words, members), several))
    else:
        turns.append(absent_draft(question, plural, True))
    if scene.rng.random() < 0.5:
        turns.append(scene.rng.choice(turns).plain())
    return turns


def _corrected(scene: _Scene) -> list[Draft]:
    """A description for somebody who denies a thing: the answer leaves it out, whether it is there or not.

    Drawn from a copy of the generator: what is drawn behind it, and with it the benchmark's set, is as it was without.
    """
    scene = _Scene(scene.layout, scene.background, copy(scene.rng), scene.absent_categories)
    groups, missing = scene.layout.groups(), _absent_category(scene)
    denials: list[tuple[str, bool, Sequence[Sequence[Thing]]]] = []
    if len(groups) > 1:
        denied = scene.rng.choice(groups)
        name = name_of(denied[0].noun, denied[0].said_colour, len(denied))
        denials.append((name, len(denied) != 1, [group for group in groups if group is not denied]))
    if missing:
        denials.append((CATEGORIES[missing].name, False, groups))
    return [
        corrected_draft(name, several, scene.ask(templates.SCENE_DESCRIBE), *_group_phrases(left))
        for name, several, left in denials
    ]


def _yes(scene: _Scene, thing: Thing) -> Draft:
    colour = thing.said_colour if scene.rng.random() < 0.5 else None
    indices = scene.layout.of_name(thing.noun.name, colour)
    question = scene.ask(templates.SCENE_IS_THERE, with_article(name_of(thing.noun, colour)))
    if scene.rng.random() < 0.3:
        question = scene.ask(templates.SCENE_ARE_THERE, name_of(thing.noun, colour, 2))
    return present_draft(question, (counted(thing.noun, colour, len(indices)), indices), len(indices) != 1)


def _no(scene: _Scene, category_name: str, colour: str | None) -> Draft:
    category = CATEGORIES[category_name]
    if scene.rng.random() < 0.3:
        plural = name_of(category, colour, 2)
        return absent_draft(scene.ask(templates.SCENE_ARE_THERE, plural), plural, True)
    name = name_of(category, colour)
    return absent_draft(scene.ask(templates.SCENE_IS_THERE, with_article(name)), name, False)


def _absent_category(scene: _Scene) -> str | None:
    present = [thing.noun.name for thing in scene.layout.things]
    candidates = scene.rng.sample(scene.absent_categories, min(12, len(scene.absent_categories)))
    return next((name for name in candidates if not any(confusable(name, other) for other in present)), None)


def _absent_colour(scene: _Scene) -> tuple[str, str] | None:
    """A category that is there, in a colour that it has not."""
    nouns = [thing.noun for thing in scene.layout.things if thing.said_colour]
    if not nouns:
        return None
    name = scene.rng.choice(nouns).name
    free = [colour for colour in category_named(name).colours if not scene.layout.of_name(name, colour)]
    return (name, scene.rng.choice(free)) if free else None


def _relation(scene: _Scene) -> list[Draft]:
    """Yes/no about a relation, and what stands in a relation to a thing."""
    named = scene.named()
    turns = []
    if len(named) > 1:
        first, second = scene.rng.sample(named, 2)
        if scene.layout.relation_is_clear(first, second):
            truth = scene.layout.relation(first, second)
            yes = scene.rng.random() < 0.5
            claim = truth if yes else OPPOSITE[truth]
            phrases = [scene.the(first), scene.the(second)]
            question = f"Is {phrases[0][0]} {claim} {phrases[1][0]}?"
            turns.append(
                grounded_draft("relation", question, f"{'Yes' if yes else 'No'}, {{}} is {truth} {{}}.", phrases)
            )
    return turns + _relation_of(scene, region=False)


def _relation_of(scene: _Scene, region: bool) -> list[Draft]:
    """ "What is to the left of the dog?", where exactly one thing is."""
    layout, rng = scene.layout, scene.rng
    for anchor in scene.some(scene.named(), 2):
        others = [thing for thing in scene.named() if thing is not anchor]
        for thing in scene.some(others, 2):
            relation = layout.relation(thing, anchor)
            rivals = [o for o in layout.things if o not in (thing, anchor) and _may_be(relation, o, anchor, layout)]
            if rivals or not layout.relation_is_clear(thing, anchor):
                continue
            short = relation.replace("to the ", "") if rng.random() < 0.4 else relation
            asked = REGION if region else scene.the(anchor)[0]
            question = scene.ask(templates.SCENE_RELATION, short, asked)
            regions = [anchor.index] if region else []
            phrases = [scene.the(thing), scene.the(anchor)]
            return [
                grounded_draft(
                    "region" if region else "relation", question, f"{{}} is {relation} {{}}.", phrases, regions
                )
            ]
    return []


def _may_be(relation: str, thing: Thing, anchor: Thing, layout: Layout) -> bool:
    """Whether somebody could say that the thing is in this relation to the anchor."""
    margin = {
        "to the left of": anchor.x - thing.x,
        "to the right of": thing.x - anchor.x,
        "above": anchor.y - thing.y,
        "below": thing.y - anchor.y,
    }
    if relation in margin:
        return margin[relation] > 0.03
    return layout.relation(thing, anchor) == relation


_CATEGORY_NAMES = tuple(CATEGORIES)
_ASKERS: dict[str, Callable[[_Scene], list[Draft]]] = {
    "describe": _describe,
    "describe_plain": _describe_plain,
    "count": _count,
    "colour": _colour,
    "where": _where,
    "find": _find,
    "region": _region,
    "absent": _absent,
    "relation": _relation,
    "corrected": _corrected,
}
QUESTION_KINDS: tuple[str, ...] = (*_ASKERS, "followup")
