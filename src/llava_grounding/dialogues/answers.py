"""The questions that photos, records and drawn scenes all have: one style of answer for each, whoever asks.

A source of facts chooses what it asks about and in which words; what is answered then is written here alone. Draws
nothing at random.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_grounding.dialogues.drafts import Draft, Phrase, grounded_draft
from llava_grounding.language.nouns import listed


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
    return grounded_draft("absent", question, f"No, there {is_or_are(several)} no {name} in the picture.")
