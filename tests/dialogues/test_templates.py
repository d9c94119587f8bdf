"""Instruction templates: many of each family, all different, all well formed."""

from __future__ import annotations

import pytest

from llava_grounding.dialogues import templates
from llava_grounding.dialogues.templates import (
    BRIEF_DESCRIPTIONS,
    FAMILIES,
    GROUNDING_SUFFIXES,
    REFERRING_REQUESTS,
    REGION_CAPTIONS,
)
from llava_grounding.markup import REGION, SPECIAL_TOKENS
from llava_grounding.processing.conversation import referring_turn

PLACEHOLDERS = {
    "referring requests": ("{}", 1),
    "region captions": (REGION, 1),
    "region names": (REGION, 1),
}


@pytest.mark.parametrize("family", [REFERRING_REQUESTS, BRIEF_DESCRIPTIONS, GROUNDING_SUFFIXES, REGION_CAPTIONS])
def test_the_paper_s_four_families_have_a_dozen_sentences_or_more(family: tuple[str, ...]) -> None:
    assert len(family) >= 12


def test_no_two_templates_say_the_same() -> None:
    said = ["".join(c for c in text.lower() if c.isalnum()) for family in FAMILIES.values() for text in family]
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_is_a_sentence_with_the_placeholder_of_its_family(name: str) -> None:
    token, count = PLACEHOLDERS.get(name, (REGION, 0))
    for text in FAMILIES[name]:
        assert text == " ".join(text.split())
        assert text[0].isupper(), text
        assert text[-1] in ".?", text
        assert text.count(token) == count, text
        assert text.count("{") == text.count("}") == (token == "{}"), text
        assert not any(other in text for other in SPECIAL_TOKENS if other != token)


@pytest.mark.parametrize(
    "name", [name for name in vars(templates) if name.startswith(("PHOTO_", "SCENE_", "DESCRIBE_"))]
)
def test_questions_about_photos_and_scenes_are_sentences_that_take_the_same_words(name: str) -> None:
    questions = getattr(templates, name)
    for text in questions:
        assert text == " ".join(text.split())
        assert text[0].isupper() or text.startswith("{}"), text
        assert text[-1] in ".?", text
    assert len({(text.count("{}"), text.count(REGION)) for text in questions}) == 1
    assert not any(other in text for text in questions for other in SPECIAL_TOKENS if other != REGION)


def test_the_engine_asks_for_a_phrase_as_training_does() -> None:
    question, _ = referring_turn("the red bus")
    assert question.text == REFERRING_REQUESTS[0].format("the red bus")
