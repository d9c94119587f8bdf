"""Plain values held to declared types: each sentence, and no exception whatever the value is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_grounding.errors import ConfigError, quoted
from llava_grounding.typed_values import MAX_INT, as_type, typed_fields


@dataclass(frozen=True)
class Inner:
    rank: int
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ConfigError("`rate` must not be above 1")


@dataclass(frozen=True)
class Outer:
    steps: int = 1
    rate: float = 0.1
    share: float = 0.0
    on: bool = False
    name: str = ""
    where: str | Path | None = None
    stage: Literal["align", "chat"] | None = None
    kind: Literal["click", "box", "mask"] = "box"
    level: Literal[1, 2] = 1
    either: bool | Literal["auto"] = False
    mixed: float | str | None = None
    names: tuple[str, ...] = ()
    pair: tuple[int, str] = (0, "")
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    anything: Mapping[str, Any] = field(default_factory=dict)


RANGES = {"steps": (1, math.inf), "share": (0, 1), "inner.rank": (2, math.inf)}
MAX_FLOAT = "1.7976931348623157e+308"


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("steps", 3, 3),
        ("steps", MAX_INT, MAX_INT),
        ("rate", 1, 1.0),
        ("rate", "1e-3", 0.001),
        ("rate", -1e300, -1e300),
        ("on", True, True),
        ("where", None, None),
        ("where", "a", "a"),
        ("where", Path("a"), Path("a")),
        ("level", 2, 2),
        ("either", "auto", "auto"),
        ("mixed", "1", 1.0),
        ("mixed", "one", "one"),
        ("names", ["a", "b"], ("a", "b")),
        ("names", [], ()),
        ("pair", [1, "a"], (1, "a")),
        ("inner", {"rank": 2, "rate": 1}, Inner(2, 1.0)),
        ("inner", Inner(1), Inner(1)),
        ("inners", [{"rank": 1}], (Inner(1),)),
        ("anything", {"a": [1]}, {"a": [1]}),
    ],
)
def test_a_value_becomes_what_its_field_declares(name: str, value: Any, typed: Any) -> None:
    found = typed_fields(Outer, {name: value}, RANGES)
    assert found == ({name: typed}, [])
    assert type(found.values[name]) is type(typed)


MISFITS: list[tuple[Any, Any, str]] = [
    ("steps", 0, "`steps` must be at least 1, got `0`"),
    ("steps", True, "`steps` must be a whole number, got `True`"),
    ("steps", 1.0, "`steps` must be a whole number, got `1.0`"),
    ("steps", "1", "`steps` must be a whole number, got `1`"),
    ("steps", MAX_INT + 1, f"`steps` must be at most {MAX_INT}, got `{MAX_INT + 1}`"),
    ("pair", [-MAX_INT - 1, ""], f"`pair.0` must be at least -{MAX_INT}, got `{-MAX_INT - 1}`"),
    ("steps", 10**5000, f"`steps` must be at most {MAX_INT}, got `int too large to show`"),
    ("rate", False, "`rate` must be a number, got `False`"),
    ("rate", "fast", "`rate` must be a number, got `fast`"),
    ("rate", None, "`rate` must be a number, got `None`"),
    ("rate", math.inf, "`rate` must be a finite number, got `inf`"),
    ("rate", -math.inf, "`rate` must be a finite number, got `-inf`"),
    ("rate", "nan", "`rate` must be a finite number, got `nan`"),
    ("share", math.inf, "`share` must be a finite number, got `inf`"),
    ("share", 1.5, "`share` must be between 0 and 1, got `1.5`"),
    ("rate", 10**400, f"`rate` must be at most {MAX_FLOAT}, got {quoted(10**400)}"),
    ("rate", -(10**400), f"`rate` must be at least -{MAX_FLOAT}, got {quoted(-(10**400))}"),
    ("on", 1, "`on` must be true or false, got `1`"),
    ("name", 1, "`name` must be text, got `1`"),
    ("where", 1, "`where` must be text or null, got `1`"),
    ("stage", "chats", "`stage` must be align or chat or null, got `chats`"),
    ("kind", "boxes", "`kind` must be one of click, box, mask, got `boxes`; did you mean `box`?"),
    ("kind", ["box"], "`kind` must be one of click, box, mask, got `['box']`"),
    ("level", True, "`level` must be 1 or 2, got `True`"),
    ("either", 1, "`either` must be true or false or auto, got `1`"),
    ("mixed", [], "`mixed` must be a number or text or null, got `[]`"),
    ("names", "a", "`names` must be a list, each text, got `a`"),
    ("names", ["a", 1], "`names.1` must be text, got `1`"),
    ("pair", [1], "`pair` must be a list of 2: a whole number, text, got `[1]`"),
    ("pair", [1, "a", "b"], "`pair` must be a list of 2: a whole number, text, got `[1, 'a', 'b']`"),
    ("pair", ["a", 1], "`pair.0` must be a whole number, got `a`; `pair.1` must be text, got `1`"),
    ("inner", 3, "`inner` must be a mapping or null, got `3`"),
    ("inner", {"rank": 1}, "`inner.rank` must be at least 2, got `1`"),
    ("inner", {"rnak": 2}, "unknown key `inner.rnak`; did you mean `rank`?; `inner.rank` is missing"),
    ("inner", {"rank": 2, "rate": 2}, "`rate` must not be above 1"),
    ("inners", [{"rank": 1}, {"rank": "a"}], "`inners.1.rank` must be a whole number, got `a`"),
    ("anything", [], "`anything` must be a mapping, got `[]`"),
    ("step", 1, "unknown key `step`; did you mean `steps`?"),
    (3, 1, "unknown key `3`"),
    (10**5000, 1, "unknown key `int too large to show`"),
]


@pytest.mark.parametrize(("name", "value", "problem"), MISFITS, ids=range(len(MISFITS)))
def test_a_value_that_does_not_fit_is_said_in_one_sentence_each(name: Any, value: Any, problem: str) -> None:
    found = typed_fields(Outer, {name: value, "name": "kept"} if name != "name" else {name: value}, RANGES)
    problems = "; ".join(found.problems)
    assert problems == problem
    assert found.values == ({"name": "kept"} if name != "name" else {})


def test_problems_inside_a_value_are_those_of_the_value() -> None:
    typed = as_type({"rank": "many", "rat": 1}, Inner | None, "lora", " of a source")
    assert typed.problems == [
        "`lora.rank` of a source must be a whole number, got `many`",
        "unknown key `lora.rat`; did you mean `rate`?",
    ]


ODD_NUMBERS = st.sampled_from([math.inf, -math.inf, math.nan, 10**400, -(10**400), 2**32, "1e-3", "inf"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary() | ODD_NUMBERS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["rank", "rate"]) | SCALARS, inner)
)


@given(st.dictionaries(st.sampled_from([one.name for one in fields(Outer)]) | SCALARS, VALUES))
def test_no_plain_value_raises_and_what_fits_makes_the_dataclass(values: dict[Any, Any]) -> None:
    found = typed_fields(Outer, values, RANGES)
    Outer(**found.values)
    assert len(found.values) == len(values) or found.problems
