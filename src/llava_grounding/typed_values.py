"""Plain values of YAML or JSON held to the types that the fields of a dataclass declare. Knows no field by name."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin, get_type_hints

from llava_grounding.errors import ConfigError, did_you_mean, quoted

MAX_INT = 2**32 - 1
"""Largest whole number of a field, up or down: the largest seed of numpy, and more than any step or size."""
_WORDS = {
    str: "text",
    Path: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}
_LARGEST: dict[type, float] = {int: MAX_INT, float: sys.float_info.max}
_NOTHING = object()  # in place of a value that is not of its type


class Typed(NamedTuple):
    """A plain value as its type. Where there are problems, only those say something."""

    value: Any
    problems: list[str]
    """A sentence for every unknown key and every value of another type or out of its range."""


class TypedFields(NamedTuple):
    """The fields of a dataclass among plain values."""

    values: dict[str, Any]
    """Values of the fields without a problem."""
    problems: list[str]
    """A sentence for every problem, as in `Typed`."""


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number, finite or not; true and false are none."""
    return is_whole(value) or isinstance(value, float)


def typed_fields(
    kind: type, values: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]] | None = None
) -> TypedFields:
    """Plain values as the types of a dataclass's fields; not all fields need to be among them.

    Args:
        ranges: the least and the largest value by the name of a field; of one further inside by its whole name, as
            `lora.rank`.
    """
    return _TypedReader(ranges or {}).read_fields(kind, values)


def as_type(value: Any, hint: Any, name: str, of: str = "") -> Typed:
    """A plain value as an annotation says, one of plain types, dataclasses, and mappings, tuples and unions of these.

    Args:
        name: how problems name it.
        of: what it belongs to, said after the name, such as ` of a source`.
    """
    return _TypedReader({}, of).read(value, hint, name)


@dataclass(frozen=True)
class _TypedReader:
    ranges: Mapping[str, tuple[float, float]]
    of: str = ""

    def read_fields(self, kind: type, values: Mapping[str, Any], prefix: str = "") -> TypedFields:
        hints = get_type_hints(kind)
        found = TypedFields({}, [])
        for key, value in values.items():
            if key not in hints:
                hint = did_you_mean(key, hints) if isinstance(key, str) else ""
                found.problems.append(f"unknown key {quoted(prefix + key if isinstance(key, str) else key)}{hint}")
                continue
            typed = self.read(value, hints[key], f"{prefix}{key}")
            found.problems.extend(typed.problems)
            if not typed.problems:
                found.values[key] = typed.value
        return found

    def read(self, value: Any, hint: Any, name: str) -> Typed:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            return self._one_of(value, hint, name)
        if hint in (int, float):
            return self._number(value, hint, name)
        if origin is tuple and isinstance(value, list | tuple):
            return self._items(value, hint, name)
        if is_dataclass(hint) and isinstance(value, Mapping):
            return self._instance(value, hint, name)
        if _is_mapping(hint) and isinstance(value, Mapping):
            return self._entries(value, arguments[1] if arguments else Any, name)
        if origin is Literal and any(type(value) is type(one) and value == one for one in arguments):
            return Typed(value, [])
        if (hint in _WORDS or is_dataclass(hint)) and isinstance(value, hint):
            return Typed(value, [])
        alike = did_you_mean(value, map(str, arguments)) if origin is Literal and isinstance(value, str) else ""
        return Typed(_NOTHING, [self._must(name, _in_words(hint), value) + alike])

    def _must(self, name: str, be: str, value: Any) -> str:
        return f"{quoted(name)}{self.of} must be {be}, got {quoted(value)}"

    def _one_of(self, value: Any, hint: Any, name: str) -> Typed:
        """The value as the first type that fits; if it has the form of one alone, the problems are of that."""
        tried = [self.read(value, one, name) for one in get_args(hint)]
        alike = [one for one in tried if one.value is not _NOTHING]
        refused = Typed(_NOTHING, [self._must(name, _in_words(hint), value)])
        return min(alike, key=lambda one: len(one.problems), default=refused)

    def _number(self, value: Any, hint: type, name: str) -> Typed:
        number = _written_number(value) if hint is float else value
        if not (is_whole(number) if hint is int else is_number(number)):
            return Typed(_NOTHING, [self._must(name, _in_words(hint), value)])
        low, high = self.ranges.get(name, (-math.inf, math.inf))
        largest = _LARGEST[hint]
        be = ""
        if isinstance(number, float) and not math.isfinite(number):
            be = "a finite number"
        elif not low <= number <= high:
            be = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        elif abs(number) > largest:
            be = f"at most {largest}" if number > 0 else f"at least -{largest}"
        return Typed(value, [self._must(name, be, value)]) if be else Typed(hint(number), [])

    def _entries(self, value: Mapping[str, Any], kind: Any, name: str) -> Typed:
        if kind is Any:
            return Typed(dict(value), [])
        entries = {key: self.read(one, kind, f"{name}.{key}") for key, one in value.items()}
        problems = [problem for one in entries.values() for problem in one.problems]
        return Typed({key: one.value for key, one in entries.items()}, problems)

    def _items(self, value: list[Any] | tuple[Any, ...], hint: Any, name: str) -> Typed:
        arguments = get_args(hint)
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) != len(value):
            return Typed(_NOTHING, [self._must(name, _in_words(hint), value)])
        items = [
            self.read(one, kind, f"{name}.{place}") for place, (one, kind) in enumerate(zip(value, kinds, strict=True))
        ]
        return Typed(tuple(one.value for one in items), [problem for one in items for problem in one.problems])

    def _instance(self, value: Mapping[str, Any], kind: Any, name: str) -> Typed:
        found = self.read_fields(kind, value, f"{name}.")
        problems = found.problems + [
            f"{quoted(f'{name}.{one.name}')}{self.of} is missing"
            for one in fields(kind)
            if one.default is MISSING and one.default_factory is MISSING and one.name not in value
        ]
        try:
            return Typed(value if problems else kind(**found.values), problems)
        except ConfigError as error:
            return Typed(value, [str(error)])


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _has_keys(hint: Any) -> bool:
    return is_dataclass(hint) or _is_mapping(hint)


def _in_words(hint: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        plain = [one for one in arguments if one in _WORDS or get_origin(one) or _has_keys(one)]
        return " or ".join(dict.fromkeys(_in_words(one) for one in plain or arguments))
    if origin is Literal:
        return " or ".join(map(str, arguments)) if len(arguments) < 3 else f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and arguments[1:] == (...,):
        return f"a list, each {_in_words(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(_in_words, arguments))}"
    if _has_keys(hint):
        return "a mapping"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _written_number(value: Any) -> Any:
    """A number in text, like 1e-3, which YAML takes for text; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
