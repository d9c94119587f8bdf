"""A phrase as somebody types it, worded as phrases are in a sentence: with an article, in lower case, without a stop.

Models learn phrases from sentences ("Find the sun."), people type names ("sun", "Dogs", "RED BALL"). No parser and no
list of nouns: "the" fits singular, plural and mass nouns alike, and closed word classes tell what has no need of it.
"""

from __future__ import annotations

import re

from llava_grounding.language.synonyms import (
    DETERMINERS,
    MANY_WORDS,
    NEGATIONS,
    NUMBER_WORDS,
    PHRASE_ENDS,
    VAGUE_WORDS,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PRONOUNS = _words(
    "i me you he him she it we us they them who whom what which whose where there here everything something "
    "anything nothing everyone everybody someone somebody anyone anybody everywhere"
)
# Behind these no article is missing. "Other" and "different" want one; a participle begins a phrase as an adjective.
_COMPLETE = (
    DETERMINERS
    | (MANY_WORDS - {"other", "different"})
    | VAGUE_WORDS
    | NEGATIONS
    | frozenset(NUMBER_WORDS)
    | frozenset(word for word in PHRASE_ENDS if not word.endswith("ing"))
    | _PRONOUNS
)
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*(?:(?<=s)['’](?=\s))?")  # as "boys'" before "hats"
_LATIN = re.compile(r"[a-zA-Z]")
_CLOSING = ".,;:!?…"


def as_spoken(phrase: str) -> str:
    """The phrase with an article if it lacks one, and in lower case where its capitals say nothing.

    `sun` -> `the sun`, `Dogs.` -> `the dogs`, `RED BALL` -> `the red ball`, `two cats` and `a sun` as they are. Names
    within a phrase keep their capitals; a phrase without a Latin letter is only trimmed.
    """
    words = " ".join(phrase.split())
    words = words.rstrip(_CLOSING + " ") or words
    if not _LATIN.search(words):
        return words
    words = _uncapitalised(words)
    first = _WORD.match(words)
    if first is None or first[0].isdigit():
        return words
    start = first[0].lower().replace("’", "'")
    return words if start in _COMPLETE or start.endswith(("'s", "s'")) else f"the {words}"


def _uncapitalised(words: str) -> str:
    """In lower case, if all of it is written large, or each word of it begins so; else its first word, if alone."""
    found = [match[0] for match in _WORD.finditer(words)]
    if words.upper() == words or all(word[0].isupper() and word[1:] == word[1:].lower() for word in found):
        return words.lower()
    if found and found[0][1:] == found[0][1:].lower() and words.startswith(found[0]):
        return words[0].lower() + words[1:]
    return words
