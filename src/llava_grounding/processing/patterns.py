"""Regular expressions of a tokenizer: whether what they try at one place of a text stays in proportion to its length.

Oniguruma gives up after ten million tries at one place, and the library around it then writes a report to stderr that
nobody can hold back; so an expression that could come to that is refused before it is compiled. Knows no tokenizer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_PATTERN = 2_000
"""Characters of an expression."""
_MAX_WAYS = 100  # to match at one place, repetitions without a bound aside
_MAX_REPEATS = 2
_FEW = 8  # times; what may be repeated more often counts as without a bound
# All that is read: what is not, such as comments, conditions and calls, could hide the rest of an expression.
_GROUP = re.compile(r"\((?:\?(?:i?:|(?P<looks>[=!]|<[=!])|>|<[A-Za-z_]\w*>)|(?![?*]))")
_CHARACTER = re.compile(
    r"\\(?:[pP]\{\^?[A-Za-z_]+\}|x\{[0-9A-Fa-f]{1,8}\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}"
    r"|[AbBdDefhHnrsStvwWzZ]|[^A-Za-z0-9])|[^\\\[\]()|*+?{]|\{(?!\d*,?\d*\})",
    re.DOTALL,
)
_SET_OPENS = re.compile(r"\[\^?(?![\]:])")  # where `[]` ends depends on the dialect
_NAMED_SET = re.compile(
    r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)
_QUANTIFIER = re.compile(r"(?:(?P<sign>[*+?])|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\})")


class _NotBoundedError(ValueError):
    """The expression may try too much, or has something in it that is not read."""


@dataclass
class _Sequence:
    """Items one behind the other, and the alternatives to them that were read before.

    Attributes:
        before: repetitions without a bound that stand before the group.
        repeats: those and the ones of this alternative.
        ways: to match this alternative.
        fails: whether something may fail behind the last repetition that is allowed: then all ways in which the
            repetitions can share a text are tried.
    """

    before: int = 0
    looks: bool = False
    ways: int = 1
    fails: bool = False
    repeats: int = field(init=False)
    _ways_before: int = 0
    _most_repeats: int = 0

    def __post_init__(self) -> None:
        self.repeats = self.before

    def begin_alternative(self) -> None:
        self._ways_before, self._most_repeats = self.all_ways, self.most_repeats
        self.ways, self.repeats = 1, self.before

    @property
    def all_ways(self) -> int:
        return self._ways_before + self.ways

    @property
    def most_repeats(self) -> int:
        return max(self._most_repeats, self.repeats)

    def add(self, ways: int, optional: bool, repeated: bool = False) -> None:
        self.fails |= self.repeats >= _MAX_REPEATS and not optional
        self.ways *= ways
        self.repeats += repeated
        if self.all_ways > _MAX_WAYS or self.repeats > _MAX_REPEATS:
            raise _NotBoundedError


def is_bounded(pattern: str) -> bool:
    """Whether an expression tries at one place at most some hundred times as much as the text is long."""
    if len(pattern) > MAX_PATTERN:
        return False
    try:
        return not _read(pattern.removeprefix("(?i)")).fails
    except _NotBoundedError:
        return False


def _read(pattern: str) -> _Sequence:
    groups, place = [_Sequence()], 0
    while place < len(pattern):
        current = groups[-1]
        if pattern[place] == "|":
            current.begin_alternative()
            place += 1
        elif pattern[place] == "(":
            opened = _matched(_GROUP, pattern, place)
            groups.append(_Sequence(current.repeats, looks=opened["looks"] is not None))
            place = opened.end()
        elif pattern[place] == ")" and len(groups) > 1:
            place = _close(groups, pattern, place + 1)
        else:
            place = _end_of_set(pattern, place) if pattern[place] == "[" else _matched(_CHARACTER, pattern, place).end()
            place = _add_character(current, pattern, place)
    if len(groups) > 1:
        raise _NotBoundedError
    return groups[0]


def _matched(what: re.Pattern[str], pattern: str, place: int) -> re.Match[str]:
    match = what.match(pattern, place)
    if match is None:
        raise _NotBoundedError
    return match


def _end_of_set(pattern: str, place: int) -> int:
    """Where a set in brackets ends; there may be others in it."""
    depth = 0
    while True:
        if named := _NAMED_SET.match(pattern, place) if depth else None:
            place = named.end()
        elif pattern[place : place + 1] == "[":
            place, depth = _matched(_SET_OPENS, pattern, place).end(), depth + 1
        elif pattern[place : place + 1] == "]":
            place, depth = place + 1, depth - 1
            if not depth:
                return place
        elif pattern[place : place + 1] == "\\":
            place = _matched(_CHARACTER, pattern, place).end()
        elif place < len(pattern):
            place += 1
        else:
            raise _NotBoundedError


def _add_character(sequence: _Sequence, pattern: str, place: int) -> int:
    """Add a character with what says how often; where that ends."""
    quantifier = _QUANTIFIER.match(pattern, place)
    if quantifier is None:
        sequence.add(1, optional=False)
        return place
    sign, least = quantifier["sign"], int(quantifier["least"] or 0)
    most = int(quantifier["most"]) if quantifier["most"] else least if not quantifier["comma"] else None
    if sign == "?":
        sequence.add(2, optional=True)
    elif sign or most is None or (most > _FEW and most != least):
        sequence.add(1, optional=sign != "+" and not least, repeated=True)
    else:
        sequence.add(abs(most - least) + 1, optional=not min(least, most))
    return _end_of_manner(pattern, quantifier)


def _close(groups: list[_Sequence], pattern: str, place: int) -> int:
    """End a group, which may be there or not, but no more than once; where what says so ends."""
    group, quantifier = groups.pop(), _QUANTIFIER.match(pattern, place)
    optional = quantifier is not None
    if quantifier is not None and quantifier["sign"] != "?":
        raise _NotBoundedError
    outer = groups[-1]
    # What may fail in an optional group costs nothing that stands before the group.
    outer.fails |= group.fails and not (optional and group.before >= _MAX_REPEATS)
    outer.add(group.all_ways + optional, optional or not group.looks)
    outer.repeats = group.most_repeats
    return place if quantifier is None else _end_of_manner(pattern, quantifier)


def _end_of_manner(pattern: str, quantifier: re.Match[str]) -> int:
    """Where `?` or `+` behind a quantifier ends, which says whether it takes little, or gives nothing back.

    Only behind a sign or a range: else they say how often.
    """
    manner = pattern[quantifier.end() : quantifier.end() + 1]
    if manner in ("?", "+") and not (quantifier["sign"] or (manner == "?" and quantifier["comma"])):
        raise _NotBoundedError
    return quantifier.end() + (manner in ("?", "+"))
