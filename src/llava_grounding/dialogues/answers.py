"""The questions that photos, records and drawn scenes all have: one style of answer for each, whoever asks.

A source of facts chooses what it asks about and in which words; what is answered then is written here alone, as are the
words for labelled things of photos and records. Draws nothing at random.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_grounding.dialogues.drafts import Draft, Phrase, grounded_draft
from llava_grounding.dialogues.facts import Facts
from llava_grounding.language.nouns import (
    is_mass,
    is_said_plural,
    listed,
    number_word,
    plural,
    spoken_name,
    with_article,
)

# A class region is a surface or material here: "the road"; other classes are spoken of in the plural: "cars".
SURFACES = frozenset({"sky", "road", "sidewalk", "street", "vegetation", "facade", "grass", "sea", "wall", "floor"})
MAX_COUNT = 12
"""Of things that are counted; more are "many"."""


def said_name(facts: Facts, name: str) -> str:
    """What all things of a name of `complete` are called behind "the": `dogs`, `dog` if there is one, `grass`."""
    rows = facts.complete[name]
    one = is_mass(name) or (len(rows) == 1 and facts.kinds[rows[0]] != "class")
    return name if one else plural(name)


def group_phrases(facts: Facts, names: Sequence[str]) -> tuple[list[Phrase], bool]:
    """All things of each name of `complete` as one phrase, and whether the first of them is plural."""
    phrases: list[Phrase] = [(group_phrase(facts, name)[0], facts.complete[name]) for name in names]
    return phrases, group_phrase(facts, names[0])[1]


def group_phrase(facts: Facts, name: str) -> tuple[str, bool]:
    """All things of a name of `complete`, and whether they are plural: `two dogs`, `a cat`, `cars`, `the sky`."""
    rows = facts.complete[name]
    kind = facts.kinds[rows[0]]
    if kind != "thing" and name in SURFACES:
        return f"the {name}", False
    if kind == "class" or (kind == "stuff" and len(rows) > 1):
        return plural(name), not is_mass(name)
    if is_mass(name) or len(rows) == 1:
        return with_article(name), is_said_plural(name)
    return f"{number_word(len(rows)) if len(rows) <= MAX_COUNT else 'many'} {plural(name)}", True


def is_or_are(several: bool) -> str:
    """The verb of one thing or of several."""
    return "are" if several else "is"


def list_template(count: int, several: bool) -> str:
    """ "There are {}, {} and {}.", for so many phrases; `several` = the first of them is plural."""
    return f"There {is_or_are(several)} {listed(['{}'] * count)}."


def list_draft(kind: str, question: str, phrases: Sequence[Phrase], several: bool) -> Draft:
    """ "There are two dogs and a person."; `several` = the first phrase is plural."""
    return grounded_draft(kind, question, list_template(len(phrases), several), phrases)


def corrected_draft(
    denied: str, denied_several: bool, question: str, phrases: Sequence[Phrase], several: bool
) -> Draft:
    """A question for a description that denies something, and a list for its answer, which must leave that out."""
    denial = f"There {is_or_are(denied_several)} no {denied}."
    return list_draft("corrected", f"{denial} {question}", phrases, several)


def find_draft(question: str, phrase: Phrase) -> Draft:
    """The phrase that is looked for, said again and tied to its things."""
    return grounded_draft("find", question, "{}.", [phrase])


def region_draft(question: str, words: str, row: int, several: bool = False) -> Draft:
    """ "It is a dog.", of the thing that the question points at."""
    return grounded_draft("region", question, "They are {}." if several else "It is {}.", [(words, (row,))], [row])


def name_draft(question: str, facts: Facts, row: int) -> Draft:
    """ "It is a dog.", "It is the sky.", of the row that the question points at, by its category."""
    name = spoken_name(facts.instances[row].category)
    words = f"the {name}" if facts.kinds[row] == "stuff" and name in SURFACES else with_article(name)
    return region_draft(question, words, row, is_said_plural(name))


def where_draft(
    question: str,
    phrase: Phrase,
    place: str,
    relation: tuple[str, Phrase] | None = None,
    *,
    several: bool = False,
    kind: str = "where",
    regions: Sequence[int] = (),
) -> Draft:
    """ "The dog is on the left, below the tree."; `relation` = where it is as seen from another thing."""
    template, phrases = f"{{}} {is_or_are(several)} {place}", [phrase]
    if relation is not None:
        side, other = relation
        template, phrases = f"{template}, {side} {{}}", [phrase, other]
    return grounded_draft(kind, question, f"{template}.", phrases, regions)


def present_draft(question: str, phrase: Phrase, several: bool) -> Draft:
    """ "Yes, there is a dog." """
    return grounded_draft("absent", question, f"Yes, there {is_or_are(several)} {{}}.", [phrase])


def absent_draft(question: str, name: str, several: bool) -> Draft:
    """ "No, there is no dog in the picture." """
    return grounded_draft("absent", question, f"No, {_denial(name, several)}")


def denial_draft(kind: str, question: str, name: str, several: bool) -> Draft:
    """ "There is no dog in the picture.", where the question takes it for granted that there is one."""
    return grounded_draft(kind, question, f"T{_denial(name, several)[1:]}")


def _denial(name: str, several: bool) -> str:
    return f"there {is_or_are(several)} no {name} in the picture."
