"""The exception tree, its exit codes, and the finder of near names."""

import inspect
import pickle
import re
import time
from typing import Any
from unittest import mock

import pytest

from llava_grounding import errors
from llava_grounding.errors import (
    MAX_MESSAGE,
    MAX_VALUE,
    LlavaGroundingError,
    MissingExtraError,
    UsageError,
    cut_short,
    did_you_mean,
    missing_extra,
    nearest,
    one_line,
    quoted,
    shown,
)

ERRORS = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, LlavaGroundingError)]


def test_the_drawing_at_the_top_is_the_tree():
    depth_of_name = {}
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"^([ │├└─]*)(\w+Error)\b", line)
        if drawn:
            depth_of_name[drawn[2]] = (len(drawn[1]) - 4) // 4
    assert depth_of_name == {error.__name__: error.__mro__.index(LlavaGroundingError) for error in ERRORS}


def test_the_drawing_hangs_each_error_under_its_parent():
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"^([ │├└─]*)(\w+Error)\b", line)
        if drawn:
            path = [*path[: (len(drawn[1]) - 4) // 4], drawn[2]]
            assert [error.__name__ for error in getattr(errors, drawn[2]).__mro__[: len(path)]] == path[::-1]


@pytest.mark.parametrize("error", ERRORS)
def test_wrong_use_exits_with_2_and_everything_else_with_1(error):
    assert error.exit_code == (2 if issubclass(error, UsageError) else 1)
    assert f"exit code {error.exit_code}" in (errors.__doc__ or "")


@pytest.mark.parametrize("name", ["ImageError", "PromptError", "ConfigError"])
def test_what_the_caller_gave_wrong_is_wrong_use(name):
    assert getattr(errors, name).exit_code == 2


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_says_in_a_sentence_what_it_is_for(error):
    assert (inspect.getdoc(error) or "").endswith(".")
    assert str(error("masks must be bool")) == "masks must be bool"


def test_a_missing_extra_says_the_line_to_type():
    error = missing_extra("serve", "the server")
    assert isinstance(error, MissingExtraError)
    assert str(error) == (
        'the server needs packages that are not installed; type `pip install "llava-grounding[serve]"`'
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("num_querys", "num_queries"),
        ("NUM_QUERIES", "num_queries"),
        ("official7b", "official_7b"),
        ("nano", "nano"),
        ("zebra", None),
        ("", None),
    ],
)
def test_nearest_offers_the_name_that_was_meant(name, expected):
    assert nearest(name, ["num_heads", "num_queries", "official_7b", "nano"]) == expected


def test_nearest_of_nothing_is_nothing():
    assert nearest("nano", []) is None


def test_nearest_gives_the_option_as_it_is_written():
    assert nearest("adamw", ["sgd", "ADAMW"]) == "ADAMW"


def test_the_first_of_two_equally_near_names_is_offered():
    assert nearest("box", ["boxe", "boxs"]) == "boxe"


def test_did_you_mean_ends_a_message():
    assert did_you_mean("num_querys", iter(["num_queries"])) == "; did you mean `num_queries`?"
    assert did_you_mean("zebra", ["num_queries"]) == ""


def deep_list(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def wide_list(levels: int) -> list[Any]:
    """10 ** levels texts, though it takes next to no memory."""
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [
        deep_list(100_000),
        {"key": deep_list(100_000)},
        wide_list(12),
        "a" * 10**7,
        b"\x9b" * 10**7,
        10**4000,
        10**5000,
        ["a" * 10**7] * 1000,
        {"a" * 10**7: 1},
    ],
    ids=range(9),
)
def test_any_value_is_shown_in_a_few_characters_and_at_once(value: Any) -> None:
    start = time.process_time()
    assert len(shown(value)) <= MAX_VALUE
    assert len(quoted(value)) <= MAX_VALUE + 2
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "value", [None, True, 1.5, "a'b", b"x", [], [1, "a"], (1,), (), (1, 2), {}, {"a": [1]}, {1: {}}]
)
def test_a_short_value_is_shown_as_python_writes_it(value: Any) -> None:
    assert shown(value) == repr(value)
    assert quoted(value) == f"`{value}`"


def test_what_cannot_be_shown_says_so() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    assert shown(Odd()) == "Odd too large to show"
    assert shown([10**5000]) == "[int too large to show]"


def test_a_shown_value_cannot_steer_a_terminal() -> None:
    assert quoted("\x1b[31m\x9b\u202e\n") == r"`\x1b[31m\x9b\u202e\n`"
    assert shown("\x1b[31m\x9b\u202e") == r"'\x1b[31m\x9b\u202e'"
    assert quoted("Käse 日本 😀") == "`Käse 日本 😀`"


def test_a_text_cut_short_keeps_its_beginning_and_its_end() -> None:
    assert cut_short("0123456789" * 3, 12) == "012345...789"
    assert cut_short("0123456789", 10) == "0123456789"


@pytest.mark.parametrize("error", ERRORS)
def test_no_message_is_longer_than_a_paragraph(error: type[LlavaGroundingError]) -> None:
    told = error("x" * 10**7 + "; give another")
    assert len(str(told)) == MAX_MESSAGE
    assert str(told).endswith("; give another")
    assert str(pickle.loads(pickle.dumps(told))) == str(told)


def test_a_name_of_megabytes_is_like_no_other() -> None:
    with mock.patch.object(errors, "SequenceMatcher", side_effect=AssertionError("compared")):
        assert did_you_mean("num_queries" * 10**6, ["num_queries"]) == ""


def test_what_an_error_says_is_one_line_of_a_length_and_never_nothing() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError("abc"), 2) == "ab"
    assert one_line(MemoryError()) == "MemoryError"
