"""The published schema accepts every answer we write and refuses what is not one."""

import copy
import json
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region

SCHEMA = json.loads((files("llava_grounding") / "schemas" / "answer.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def example() -> dict[str, Any]:
    """The example of the documentation, with the scores of its phrases."""
    mask = np.zeros((480, 640), dtype=bool)
    mask[30:401, 12:200] = True
    regions = (Region((12.0, 30.5, 200.0, 401.0), 0.93, mask), Region((1, 2, 3, 4), 0.5))
    phrases = (GroundedPhrase(0, "A man", (0, 5), regions, 0.93), GroundedPhrase(1, "a horse", (12, 19), (), 0.1))
    raw = "<g_s> A man <g_e> <seg> rides <g_s> a horse <g_e> <seg>."
    answer = GroundedAnswer("A man rides a horse.", phrases, (640, 480), raw, "nano", 190, 21)
    return json.loads(json.dumps(answer.to_dict()))


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_example_is_an_answer() -> None:
    VALIDATOR.validate(example())
    assert GroundedAnswer.from_dict(example()).to_dict() == example()


@st.composite
def answers(draw: st.DrawFn) -> GroundedAnswer:
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    text = draw(st.text(max_size=30))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    score = st.floats(0, 1)
    masks = st.none() | arrays(bool, (height, width))
    x, y = st.floats(0, width), st.floats(0, height)

    def region() -> Region:
        (x0, x1), (y0, y1) = sorted((draw(x), draw(x))), sorted((draw(y), draw(y)))
        return Region((x0, y0, x1, y1), draw(score), draw(masks))

    phrases = [
        GroundedPhrase(k, text[a:b], (a, b), tuple(region() for _ in range(draw(st.integers(0, 2)))), draw(score))
        for k, (a, b) in enumerate(zip(cuts[::2], cuts[1::2], strict=False))
    ]
    tokens = st.integers(0, 5000)
    return GroundedAnswer(text, tuple(phrases), (width, height), text, "nano", draw(tokens), draw(tokens))


@settings(max_examples=60, deadline=None)
@given(answers())
def test_every_answer_fits_the_schema_and_comes_back_the_same(answer: GroundedAnswer) -> None:
    data = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    VALIDATOR.validate(data)
    assert GroundedAnswer.from_dict(data) == answer


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in the data."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [path, *(deeper for key, child in children for deeper in paths(child, (*path, key)))]


@pytest.mark.parametrize("path", [path for path in paths(example()) if path and isinstance(path[-1], str)], ids=str)
def test_every_key_is_required(path: tuple[Any, ...]) -> None:
    data = example()
    place = data
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("path", paths(example()), ids=str)
def test_no_value_may_be_of_another_kind(path: tuple[Any, ...]) -> None:
    for wrong in (True, {"a": 1}, [[]], -1):
        data: Any = {"": copy.deepcopy(example())}
        place, key = data, ""
        for step in path:
            place, key = place[key], step
        place[key] = wrong
        assert not VALIDATOR.is_valid(data[""]), wrong


def test_unknown_keys_are_left_to_later_readers() -> None:
    assert VALIDATOR.is_valid({**example(), "question": "What?"})
