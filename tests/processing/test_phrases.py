"""How a typed phrase is worded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_grounding.processing.phrases import as_spoken


@pytest.mark.parametrize(
    ("typed", "spoken"),
    [
        ("sun", "the sun"),
        ("Sun", "the sun"),
        ("SUN", "the sun"),
        ("sun.", "the sun"),
        (" suns ,", "the suns"),
        ("red  ball", "the red ball"),
        ("Red Ball!", "the red ball"),
        ("grass", "the grass"),
        ("person in red shirt", "the person in red shirt"),
        ("left cup", "the left cup"),
        ("other dog", "the other dog"),
        ("sitting man", "the sitting man"),
        ("hot-dog", "the hot-dog"),
        ("TV", "the tv"),
        ("man in a NASA shirt", "the man in a NASA shirt"),
        ("Man in a NASA shirt", "the man in a NASA shirt"),
        ("iPhone", "the iPhone"),
        ("BMW car", "the BMW car"),
    ],
)
def test_what_lacks_an_article_gets_one(typed: str, spoken: str) -> None:
    assert as_spoken(typed) == spoken


@pytest.mark.parametrize(
    "phrase",
    [
        "a sun",
        "an apple",
        "the moon",
        "two suns",
        "2 suns",
        "all dogs",
        "some dogs",
        "every dog",
        "my dog",
        "this dog",
        "a dog's tail",
        "someone's dog",
        "John's hat",
        "boys' hats",
        "on the left",
        "who sings",
        "he",
        "everything",
        "no dog",
        "many cats",
        "both cats",
        "the man in the NASA shirt",
        "солнце",
        "太阳",
        "1984",
        "...",
    ],
)
def test_what_is_complete_stays(phrase: str) -> None:
    wanted = {"John's hat": "john's hat"}.get(phrase, phrase)
    assert as_spoken(phrase) == wanted


@pytest.mark.parametrize(("typed", "spoken"), [("A sun", "a sun"), ("A SUN.", "a sun"), ("The Moon", "the moon")])
def test_capitals_and_stops_say_nothing(typed: str, spoken: str) -> None:
    assert as_spoken(typed) == spoken


@given(st.text(max_size=40))
def test_it_is_settled_after_one_time_and_loses_no_word(phrase: str) -> None:
    spoken = as_spoken(phrase)
    assert as_spoken(spoken) == spoken
    assert bool(spoken) == bool(phrase.split())
