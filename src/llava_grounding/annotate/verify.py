"""Whether what was said of a text can be true: spans, ids, number against count, category against head noun, overlap.

Takes marked phrases apart into those that hold and those that are refused, with the reason. Pure; asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llava_grounding.annotate.marked import Marked, MarkedPhrase, Refused
from llava_grounding.annotate.tasks import AnnotationTask, Numbered
from llava_grounding.language.nouns import Lexicon, Mention, is_mass, is_plural_name, lexicon_with, parse_number
from llava_grounding.language.synonyms import COLLECTIVES, GROUP_NOUNS, PHRASE_ENDS

MAX_PHRASE = 120
"""Characters of a phrase; what is longer is a sentence, not the name of something."""
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W_]+")
_CUTS = PHRASE_ENDS - {"and", "or", "front"}


def verify(task: AnnotationTask, marked: Marked) -> Marked:
    """The phrases that hold; the others are among the refused ones."""
    things = {one.number: one for one in task.numbered}
    words = lexicon_with({one.name for one in task.numbered})
    refused = list(marked.refused)
    kept: dict[str, tuple[MarkedPhrase, ...]] = {}
    for label, phrases in marked.phrases.items():
        text, good, end = task.texts[label], [], 0
        for phrase in sorted(phrases, key=lambda one: (one.span[0], -one.span[1])):
            said = text[slice(*phrase.span)]
            fault = _fault(text, phrase, things, words)
            if fault is None and phrase.span[0] < end:
                fault = "phrases overlap", f'"{said}" overlaps the phrase before it'
            if fault is None:
                good.append(phrase)
                end = phrase.span[1]
            else:
                refused.append(Refused(label, said, *fault))
        kept[label] = tuple(good)
    return Marked(kept, tuple(refused), marked.failure, marked.repairs)


def _fault(text: str, phrase: MarkedPhrase, things: Mapping[int, Numbered], words: Lexicon) -> tuple[str, str] | None:
    """Reason and detail, None if the phrase holds."""
    wrong = span_fault(text, phrase.span)
    if wrong is not None:
        return wrong
    said = text[slice(*phrase.span)]
    if not phrase.numbers:
        return "no instance", f'"{said}" has no instance'
    unknown = [number for number in phrase.numbers if number not in things]
    if unknown:
        return "unknown id", f'"{said}" names {unknown[0]}, but instances are 1 to {len(things)}'
    return _number_fault(said, phrase.numbers, things, words)


def span_fault(text: str, span: tuple[int, int]) -> tuple[str, str] | None:
    """Why these characters cannot be a phrase of a text: reason and detail, None if they can."""
    start, end = span
    if not 0 <= start < end <= len(text):
        return "span outside the text", f"[{start}, {end}) lies outside of the text"
    said = text[start:end]
    if said != said.strip() or not _LETTER.search(said):
        return "empty phrase", f'"{said}" is no phrase'
    if len(said) > MAX_PHRASE or "\n" in said:
        return "phrase too long", f'"{said[:MAX_PHRASE]}" is more than a noun phrase'
    if not _ends_at_words(text, span):
        return "phrase cuts a word", f'"{said}" begins or ends within a word'
    return None


def _number_fault(
    said: str, numbers: Sequence[int], things: Mapping[int, Numbered], words: Lexicon
) -> tuple[str, str] | None:
    named = _heads(said, words)
    categories = {name for mention in named for name in mention.categories}
    wrong = next((things[one].name for one in numbers if categories and things[one].name not in categories), None)
    if wrong is not None:
        return "another category", f'"{said}" does not name a {wrong}'
    count = len(numbers)
    if len(named) > 1:  # "a man and his dog"
        return None
    wanted = named[0].number if named else _leading_number(said)
    if wanted is not None and wanted != count:
        return "number against count", f'"{said}" says {wanted}, but has {count} instances'
    if not named or is_plural_name(named[0].categories[0]):
        return None
    head = said[slice(*named[0].head_span)].lower().split()[-1]
    if wanted is not None or is_mass(head) or head in COLLECTIVES:
        return None
    if named[0].plural and count == 1:
        return "plural against one", f'"{said}" is plural, but has one instance'
    if not named[0].plural and count > 1:
        return "singular against several", f'"{said}" is singular, but has {count} instances'
    return None


def _heads(said: str, words: Lexicon) -> list[Mention]:
    """What the phrase names, without what stands behind its first preposition; a negated head is none."""
    found = words.find(said)
    if not found:
        return []
    cut = len(said)
    for match in list(_WORD.finditer(said))[1:]:
        word = match[0].lower()
        behind_group = word == "of" and said[: match.start()].split()[-1].lower() in GROUP_NOUNS
        if word in _CUTS and not behind_group:
            cut = match.start()
            break
    return [mention for mention in found if mention.head_span[0] < cut]


def _leading_number(said: str) -> int | None:
    words = said.lower().split()
    if words[0] in ("the", "these", "those", "all") and len(words) > 2:
        words = words[1:]
    return parse_number(words[0]) if len(words) > 1 else None


def _ends_at_words(text: str, span: tuple[int, int]) -> bool:
    start, end = span
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (after.isalnum() and text[end - 1].isalnum())
