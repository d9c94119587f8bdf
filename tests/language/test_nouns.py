"""Noun phrases about labelled things."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_grounding.language.nouns import Lexicon, lexicon, number_word, parse_number, plural, with_article

WORDS = lexicon(())
LOOSE_WORDS = [
    "a",
    "two",
    "no",
    "of",
    "the",
    "red",
    "and",
    "group",
    "man",
    "dog",
    "dogs",
    "hot",
    "bus",
    "stop",
    "skis",
    ",",
    ".",
    "with",
]


def found(text: str) -> list[str]:
    return [text[m.span[0] : m.span[1]] for m in WORDS.find(text)]


def test_a_number_counts_over_commas_between_adjectives() -> None:
    (mention,) = WORDS.find("Two young, tall men wait.")
    assert (mention.number, mention.plural) == (2, True)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("dog", "dogs"),
        ("person", "people"),
        ("bus", "buses"),
        ("wine glass", "wine glasses"),
        ("cherry", "cherries"),
        ("toy", "toys"),
        ("sheep", "sheep"),
        ("skis", "skis"),
        ("bench", "benches"),
        ("computer mouse", "computer mice"),
        ("broccoli", "broccoli"),
    ],
)
def test_plurals_are_as_people_write_them(noun: str, expected: str) -> None:
    assert plural(noun) == expected


def test_articles_follow_the_sound() -> None:
    assert with_article("apple") == "an apple"
    assert with_article("umbrella") == "an umbrella"
    assert with_article("dog") == "a dog"
    assert with_article("scissors") == "a pair of scissors"
    assert with_article("grass") == "grass"


def test_numbers_go_to_words_and_back() -> None:
    assert [parse_number(number_word(n)) for n in range(40)] == list(range(40))
    assert parse_number("dozen") is None


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A man in a red shirt rides a brown horse.", ["A man", "a brown horse"]),
        ("A large group of people riding on elephants", ["A large group of people", "elephants"]),
        ("a red and white bus", ["a red and white bus"]),
        ("a small, brown dog", ["a small, brown dog"]),
        ("Two tall, young, thin men", ["Two tall, young, thin men"]),
        ("the sky is grey, brown dogs bark", ["brown dogs"]),
        ("two, brown dogs", ["brown dogs"]),
        ("a man, two dogs, white buses", ["a man", "two dogs", "white buses"]),
        ("A train station with people", ["people"]),
        ("A hot dog on a plate", ["A hot dog"]),
        ("A man skis down a hill", ["A man"]),
        ("An orange cat", ["An orange cat"]),
        ("There are no people near the bike", ["the bike"]),
        ("A boy, a girl and 3 puppies", ["A boy", "a girl", "3 puppies"]),
        ("several parked cars", ["several parked cars"]),
        ("There are no fuzzy dogs", []),
        ("The bus bench", ["The bus bench"]),
        ("A man on a ski slope under a clock tower", ["A man"]),
        ("a horse drawn cart and a skateboard ramp", []),
        ("Nothing to see here", []),
        ("", []),
    ],
)
def test_phrases_are_cut_where_people_would_cut_them(text: str, phrases: list[str]) -> None:
    assert found(text) == phrases


def test_number_and_vagueness_are_kept() -> None:
    dogs, cat = WORDS.find("Two dogs chase another cat.")
    assert (dogs.categories, dogs.plural, dogs.number, dogs.vague) == (("dog",), True, 2, False)
    assert (cat.plural, cat.number, cat.vague) == (False, None, True)
    (couple,) = WORDS.find("A couple is sitting.")
    assert (couple.plural, couple.number) == (True, 2)
    (skis,) = WORDS.find("a pair of skis")
    assert (skis.plural, skis.number) == (True, None)
    (some,) = WORDS.find("two of the dogs")
    assert some.vague


def test_one_word_may_stand_for_several_categories() -> None:
    assert WORDS.categories_of("a bike") == ("bicycle", "motorcycle")


@pytest.mark.parametrize(
    ("phrase", "categories"),
    [
        ("the young man on a horse", ("person",)),
        ("a hot dog", ("hot dog",)),
        ("a dog and a cat", ("dog", "cat")),
        ("the train station", ()),
        ("puppies", ("dog",)),
        ("something", ()),
    ],
)
def test_the_head_of_a_phrase_names_its_category(phrase: str, categories: tuple[str, ...]) -> None:
    assert WORDS.categories_of(phrase) == categories


def test_wider_words_name_every_category_below_them() -> None:
    words = Lexicon(["dog", "cat", "car"], {"dog": "animal", "cat": "animal"})
    assert words.categories_of("three animals") == ("dog", "cat")
    assert words.categories_of("a kitten") == ("cat",)
    assert Lexicon(["pear"], {"pear": "fruit"}).categories_of("three fruits") == ("pear",)


@settings(max_examples=30)
@given(st.data())
def test_a_lexicon_with_more_names_is_that_of_all_names(data: st.DataObject) -> None:
    known = st.sampled_from(
        ["dog", "person", "mouse", "people", "glasses", "puppy", "hot dog", "skis", "bull", "drone"]
    )
    names = data.draw(st.lists(known, unique=True))
    cut = data.draw(st.integers(0, len(names)))
    wider = dict.fromkeys(data.draw(st.lists(known)), "animal")
    more, whole = Lexicon(names[:cut], wider).with_names(names[cut:]), Lexicon(names, wider)
    text = "two puppies and a mouse, people with glasses. hot dogs, three animals on skis; a bull or drones"
    assert more.names == whole.names
    assert more.find(text) == whole.find(text)
    assert Lexicon(["dog"]).with_names(["puppy"]).categories_of("two puppies") == ("puppy",)  # no longer a synonym


@given(st.text(max_size=60))
def test_any_text_gives_ordered_spans_inside_it(text: str) -> None:
    previous = 0
    for mention in WORDS.find(text):
        start, end = mention.span
        assert previous <= start <= mention.head_span[0] < end <= len(text)
        previous = end


@given(st.lists(st.sampled_from(LOOSE_WORDS), max_size=12))
def test_any_order_of_words_gives_ordered_spans(words: list[str]) -> None:
    text = " ".join(words)
    spans = [m.span for m in WORDS.find(text)]
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
