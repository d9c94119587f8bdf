"""The exception tree, its exit codes, and the finder of near names."""

import inspect
import re

import pytest

from llava_grounding import errors
from llava_grounding.errors import (
    LlavaGroundingError,
    MissingExtraError,
    UsageError,
    did_you_mean,
    missing_extra,
    nearest,
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
