"""Plain values of YAML or JSON held to the types that the fields of a dataclass declare. Knows no field by name."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from llava_grounding.errors import did_you_mean, quoted

MOST = 2**32 - 1
"""Of whole numbers: the largest seed that numpy takes, and more than any step or size."""
_ANY = (-math.inf, math.inf)


def typed_fields(
    kind: type,
    values: Mapping[str, Any],
    problems: list[str],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    prefix: str = "",
) -> dict[str, Any]:
    """Those values that fit the fields of a dataclass, as their types.

    Args:
        problems: gets a sentence for every unknown key and every value of another type or out of its range.
        ranges: the least and the largest value, by the name of the field with `prefix` before it.
    """
    hints = get_type_hints(kind)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            problems.append(f"unknown key {quoted(name)}{did_you_mean(str(key), hints)}")
            continue
        try:
            checked[key] = value = as_type(value, hints[key], problems, ranges, f"{name}.")
        except TypeError:
            problems.append(f"`{name}` must be {_in_words(hints[key])}, got {quoted(value)}")
            if isinstance(value, str) and get_origin(hints[key]) is Literal:
                problems[-1] += did_you_mean(value, get_args(hints[key]))
            continue
        low, high = (ranges or {}).get(name, _ANY)
        if isinstance(value, int) and value > MOST:
            problems.append(f"`{name}` must be at most {MOST}, got {quoted(value)}")
        elif isinstance(value, int | float) and not (low <= value <= high and abs(value) < math.inf):
            limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            problems.append(f"`{name}` must be {limits}, got {quoted(value)}")
    return checked


def as_type(
    value: Any,
    hint: Any,
    problems: list[str],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    prefix: str = "",
) -> Any:
    """The value as an annotation says; a dataclass within it is checked as by `typed_fields`.

    Raises:
        TypeError: if it is none of that type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [one for one in arguments if one is not type(None)]
        for kind in kinds[:-1]:
            with suppress(TypeError):
                return as_type(value, kind, problems, ranges, prefix)
        return as_type(value, kinds[-1], problems, ranges, prefix)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(as_type(item, arguments[0], problems, ranges, prefix) for item in value)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return hint(**typed_fields(hint, value, problems, ranges, prefix))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    value = _as_float(value) if hint is float else value
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TypeError


def _in_words(hint: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _in_words(one) for one in arguments)
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        return f"a list, each {_in_words(arguments[0])}"
    if is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a mapping"
    return "text" if hint is str else getattr(hint, "__name__", str(hint))


def _as_float(value: Any) -> Any:
    """A number as float, also one like 1e-3, which YAML takes for text; anything else as it is."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return value
    return value
