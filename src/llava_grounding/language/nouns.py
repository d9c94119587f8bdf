"""English noun phrases about labelled things: plurals, articles, and the phrases of a text that name a category.

No parser: closed word classes cut phrases, the last noun before a cut is the head. Knows no images and no questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from llava_grounding.language.synonyms import (
    ADJECTIVES,
    COLLECTIVES,
    COMPOUND_TAILS,
    DETERMINERS,
    GROUP_NOUNS,
    IRREGULAR_PLURALS,
    MANY_WORDS,
    MASS_NOUNS,
    NEGATIONS,
    NUMBER_WORDS,
    PHRASE_ENDS,
    PLURAL_NAMES,
    SYNONYMS,
    VAGUE_WORDS,
)

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_MAX_PREMODIFIERS = 4
_PAIRED = frozenset({"skis", "scissors"})
_TAIL = re.compile(r"(-(other|merged|stuff))+$")


def plural(noun: str) -> str:
    """The plural of a singular noun or noun compound: `bus` -> `buses`, `wine glass` -> `wine glasses`."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    *front, last = noun.split(" ")
    if front:
        return " ".join([*front, plural(last)])
    if noun in PLURAL_NAMES or noun in MASS_NOUNS:
        return noun
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


@lru_cache(maxsize=2**16)
def spoken_name(category: str) -> str:
    """A category's name as a person would say it: `wall-other-merged` is a wall, `mask_(disguise)` a mask."""
    name = category.replace("_", " ").partition("(")[0].partition("/")[0]
    return _TAIL.sub("", " ".join(name.split()).lower())


@lru_cache(maxsize=2**12)
def other_names(name: str) -> frozenset[str]:
    """What else a thing of this name may be called: singular and plural, `puppy` of a `dog` and the reverse."""
    *front, last = name.split(" ")
    tails = {last[:-1], last[:-2], f"{last[:-3]}y", *(one for one, many in IRREGULAR_PLURALS.items() if many == last)}
    singular = {" ".join([*front, tail]) for tail in tails if tail}
    wider = {category for category in SYNONYMS if name in _synonyms(category)}
    return frozenset({plural(name), *_synonyms(name), *wider, *(one for one in singular if plural(one) == name)})


@lru_cache(maxsize=2**10)
def _synonyms(name: str) -> frozenset[str]:
    return frozenset(word.replace("+", " ") for word in SYNONYMS.get(name, "").split())


def is_mass(noun: str) -> bool:
    """Whether the noun is spoken of without number, as `grass`."""
    return noun.split(" ")[-1] in MASS_NOUNS


def is_plural_name(noun: str) -> bool:
    """Whether the category's name is itself a plural, as `skis`."""
    return noun.split(" ")[-1] in PLURAL_NAMES


def is_said_plural(noun: str) -> bool:
    """Whether `with_article` gives a plural: `glasses` are, `a pair of skis` is."""
    return is_plural_name(noun) and noun not in _PAIRED


def with_article(noun: str) -> str:
    """The noun as one thing: `a dog`, `an apple`, `a pair of skis`; mass nouns stay bare."""
    if is_mass(noun):
        return noun
    if is_plural_name(noun):
        return f"a pair of {noun}" if noun in _PAIRED else noun
    an = noun[0] in "aeio" or noun.startswith("umbrella")
    return f"{'an' if an else 'a'} {noun}"


def number_word(number: int) -> str:
    """`three` for 3; digits above twenty."""
    return NUMBER_WORDS[number] if 0 <= number < len(NUMBER_WORDS) else str(number)


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def parse_number(word: str) -> int | None:
    """3 for `three` or `3`; None for other words."""
    word = word.lower()
    if word.isascii() and word.isdigit():
        return int(word)
    return NUMBER_WORDS.index(word) if word in NUMBER_WORDS else None


@dataclass(frozen=True)
class Mention:
    """A noun phrase that names one or several categories.

    Args:
        span: characters of the whole phrase, article and adjectives included.
        head_span: characters of the naming words.
        categories: what the head may stand for, the likeliest first.
        plural: several things are meant.
        number: how many, where the phrase says so.
        vague: `another dog`, `each dog`: one cannot tell which is meant.
    """

    span: tuple[int, int]
    head_span: tuple[int, int]
    categories: tuple[str, ...]
    plural: bool
    number: int | None = None
    vague: bool = False


class _Token(NamedTuple):
    text: str
    start: int
    end: int
    glued: bool  # no punctuation between this word and the one before
    comma: bool  # one comma there and nothing else


class _Term(NamedTuple):
    words: tuple[str, ...]
    categories: tuple[str, ...]
    plural: bool


class _Form(NamedTuple):
    """Words that stand for a category: those of `word`, or its plural."""

    other: bool  # a synonym, not the category's own name
    rank: int  # of the category
    category: str
    word: str
    plural: bool


@lru_cache(maxsize=2**14)
def _spellings(word: str) -> tuple[tuple[tuple[str, ...], bool], ...]:
    """The word and its plural, each as a sequence of words, and whether several things are meant."""
    always = is_plural_name(word)
    several = word + "s" if is_mass(word) else plural(word)  # people do say "three fruits"
    return (tuple(word.split(" ")), always), (tuple(several.split(" ")), always or several != word)


class Lexicon:
    """Words for a set of categories; finds mentions of them in text.

    Args:
        names: category names, singular, lower case. Names with a space win over their parts: with `hot dog` known,
            "a hot dog" names no dog.
        wider: more general words by category, as `animal` for `dog`.
    """

    def __init__(self, names: Iterable[str], wider: Mapping[str, str] | None = None) -> None:
        self.names: tuple[str, ...] = ()
        self.known: frozenset[str] = frozenset()
        self._wider = dict(wider or {})
        self._forms: dict[tuple[str, ...], tuple[_Form, ...]] = {}
        self._terms: dict[tuple[str, ...], _Term] = {}
        self._lengths: dict[str, tuple[int, ...]] = {}
        self._add(names)

    def with_names(self, names: Iterable[str]) -> Lexicon:
        """The lexicon of these names behind its own; it costs what they cost, not what the whole does."""
        more = copy(self)
        more._forms, more._terms, more._lengths = self._forms.copy(), self._terms.copy(), self._lengths.copy()
        more._add(names)
        return more

    def _add(self, names: Iterable[str]) -> None:
        new = tuple(name for name in dict.fromkeys(names) if name not in self.known)
        changed: dict[tuple[str, ...], list[_Form]] = {}
        for rank, name in enumerate(new, start=len(self.names)):
            for number, word in enumerate((name, *self._other_words(name))):
                for words, several in _spellings(word):
                    if words not in changed:
                        changed[words] = list(self._forms.get(words, ()))
                    changed[words].append(_Form(number > 0, rank, name, word, several))
        self.names += new
        self.known |= set(new)
        for words, forms in changed.items():
            forms.sort(key=_own_first)
            self._forms[words] = tuple(forms)
            kept = [form for form in forms if not (form.other and form.word in self.known)]
            if kept:
                categories = dict.fromkeys(form.category for form in kept if form.plural == kept[0].plural)
                self._terms[words] = _Term(words, tuple(categories), kept[0].plural)
                lengths = {len(words), *self._lengths.get(words[0], ())}
                self._lengths[words[0]] = tuple(sorted(lengths, reverse=True))

    def _other_words(self, name: str) -> list[str]:
        words = [word.replace("+", " ") for word in SYNONYMS.get(name, "").split()]
        return [*words, self._wider[name]] if self._wider.get(name) else words

    def find(self, text: str) -> list[Mention]:
        """Mentions in the order of the text; negated ones ("no people") are left out."""
        tokens = _tokens(text)
        found: list[Mention] = []
        index, previous_end, previous_person = 0, 0, False
        while index < len(tokens):
            term = self._term_at(tokens, index)
            if term is None:
                index, previous_person = index + 1, False
                continue
            end = index + len(term.words)
            # "a man skis": right behind a person a naming word is a verb.
            is_verb = previous_person and tokens[index].glued
            if not is_verb and self._is_head(tokens, index, end, term):
                mention = _phrase(tokens, index, end, previous_end, term)
                if mention is not None:
                    found.append(mention)
                previous_end = end
                previous_person = term.categories[0] == "person"
            else:
                previous_person = False
            index = end
        return found

    def categories_of(self, phrase: str) -> tuple[str, ...]:
        """Categories a phrase's head names: the mentions before its first preposition; empty when it names none."""
        tokens = _tokens(phrase)
        cut = next((t.start for t in tokens[1:] if t.text in PHRASE_ENDS - {"and", "or", "front"}), len(phrase))
        found = [mention for mention in self.find(phrase) if mention.head_span[0] < cut]
        return tuple(dict.fromkeys(name for mention in found for name in mention.categories))

    def _term_at(self, tokens: list[_Token], index: int) -> _Term | None:
        for length in self._lengths.get(tokens[index].text, ()):
            words = tokens[index : index + length]
            term = self._terms.get(tuple(t.text for t in words))
            if term is not None and all(t.glued for t in words[1:]):
                return term
        return None

    def _is_head(self, tokens: list[_Token], start: int, end: int, term: _Term) -> bool:
        """Whether the word is the head of its phrase, not a modifier as in "train station" or "orange shirt"."""
        if end >= len(tokens) or not tokens[end].glued:
            return True
        following = tokens[end].text
        word = tokens[end - 1].text
        if word in GROUP_NOUNS and following == "of":
            return False
        if word in ADJECTIVES:
            return following in PHRASE_ENDS
        if term.categories[0] == "person":
            return True
        return following not in COMPOUND_TAILS and self._term_at(tokens, end) is None


def _own_first(form: _Form) -> tuple[bool, int]:
    """A category's own name comes before what is another's synonym."""
    return form.other, form.rank


@lru_cache(maxsize=64)
def lexicon(names: tuple[str, ...]) -> Lexicon:
    """The lexicon of these names, built once; `()` = every category the synonym table knows."""
    return Lexicon(names or tuple(SYNONYMS))


def lexicon_with(names: Iterable[str]) -> Lexicon:
    """Every category the synonym table knows, and these names besides."""
    base = lexicon(())
    extra = {name for name in names if name not in base.known}
    return _extended(tuple(sorted(extra))) if extra else base


@lru_cache(maxsize=64)
def _extended(extra: tuple[str, ...]) -> Lexicon:
    return lexicon(()).with_names(extra)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    last = 0
    curly = "’" in text
    for match in _WORD.finditer(text):
        start, end = match.span()
        between = text[last:start].strip()
        glued, comma = bool(tokens) and not between, bool(tokens) and between == ","
        word = match[0].lower()
        tokens.append(_Token(word.replace("’", "'") if curly else word, start, end, glued, comma))
        last = end
    return tokens


def _phrase(tokens: list[_Token], start: int, end: int, floor: int, term: _Term) -> Mention | None:
    """The mention around the head words [start, end): walks left over adjectives, numbers, article, "a group of"."""
    many, number = term.plural, None
    vague = negated = False
    collective = COLLECTIVES.get(tokens[end - 1].text, 0)
    if collective != 0:
        many, number = True, collective
    first = left = start
    while left > floor and start - left <= _MAX_PREMODIFIERS:
        if not tokens[left].glued and not _is_behind_adjectives(tokens, left, floor):
            break
        word = tokens[left - 1].text
        if word in PHRASE_ENDS and not _joins_adjectives(tokens, left - 1, floor):
            break
        left -= 1
        if word in NEGATIONS:
            negated = True
            break
        if (value := parse_number(word)) is not None:
            first, number = left, value
            many = many or value > 1
        elif word in DETERMINERS:
            first = left
            break
        elif word in VAGUE_WORDS:
            first, vague = left, True
        elif word in MANY_WORDS:
            first = left
            vague = vague or word in ("other", "most")
        elif word in ADJECTIVES:
            first = left
        elif word == "of":
            group = _group_start(tokens, left, floor)
            if group is not None:
                first, said = group
                many, number = True, said if number is None else number
            break
    if negated or (first > floor and tokens[first].glued and tokens[first - 1].text in NEGATIONS):
        return None
    if first > floor + 1 and tokens[first - 1].text == "of":  # "two of the dogs": one cannot tell which
        vague = vague or parse_number(tokens[first - 2].text) is not None
    if is_plural_name(term.categories[0]):
        number = None  # "a pair of skis" is one or two of the labels
    span = (tokens[first].start, tokens[end - 1].end)
    return Mention(span, (tokens[start].start, span[1]), term.categories, many, number, vague)


def _is_behind_adjectives(tokens: list[_Token], index: int, floor: int) -> bool:
    """Whether an adjective stands behind a comma and others with their article or number: "two tall, thin men"."""
    if not tokens[index].comma or tokens[index].text not in ADJECTIVES:
        return False
    first = index
    while first > floor and tokens[first - 1].text in ADJECTIVES and (tokens[first].glued or tokens[first].comma):
        first -= 1
    before = tokens[first - 1].text if first > floor and tokens[first].glued else ""
    return first < index and (before in DETERMINERS or parse_number(before) is not None)


def _joins_adjectives(tokens: list[_Token], index: int, floor: int) -> bool:
    """Whether the word is the "and" of "a red and white bus"."""
    return (
        tokens[index].text == "and"
        and index > floor
        and tokens[index - 1].text in ADJECTIVES
        and tokens[index + 1].text in ADJECTIVES
    )


def _group_start(tokens: list[_Token], of_index: int, floor: int) -> tuple[int, int | None] | None:
    """First word of "a large group" before "of", and the number it says; None when no group noun stands there."""
    noun = of_index - 1
    if noun < floor:
        return None
    word = tokens[noun].text
    if word not in GROUP_NOUNS:
        return None
    first = noun
    while first > floor and tokens[first].glued and tokens[first - 1].text in ADJECTIVES:
        first -= 1
    if first > floor and tokens[first].glued and tokens[first - 1].text in DETERMINERS:
        first -= 1
    return first, 2 if word in ("couple", "pair") else None
