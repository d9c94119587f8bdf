"""What people type into `ground`: bare nouns, capitals, stops; too much; and what is no list of texts."""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from llava_grounding.errors import UsageError
from llava_grounding.geometry import box_iou
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.scenes.categories import category_named
from llava_grounding.scenes.synthetic import draw_scene
from llava_grounding.structures import Region
from mask_overlaps import mask_iou
from tiny_model import picture, tiny_chat

FORMS = ("{}", "the {}", "{}.", "{upper}", "{capital}", "{plural}", "the {plural}")


@pytest.fixture(scope="module")
def nano() -> GroundedChat:
    return GroundedChat.from_pretrained(device="cpu")


def assert_same_regions(given: tuple[Region, ...], expected: tuple[Region, ...]) -> None:
    """The same to what another place in a matrix product may change."""
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        np.testing.assert_allclose(one.box_xyxy, other.box_xyxy, atol=0.01)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.mask is not None
        assert other.mask is not None
        assert mask_iou(one.mask[None], other.mask[None])[0, 0] > 0.99


def test_a_bare_noun_is_found_as_well_as_with_its_article(nano: GroundedChat) -> None:
    found, asked = dict.fromkeys(FORMS, 0), 0
    for seed in range(3 * 10**9, 3 * 10**9 + 3):
        scene = draw_scene(seed)
        for name in sorted({instance.category for instance in scene.instances}):
            words = {"upper": name.upper(), "capital": name.capitalize(), "plural": category_named(name).plural}
            truth = np.array([i.box_xyxy for i in scene.instances if i.category == name])
            phrases = [form.format(name, **words) for form in FORMS]
            given = nano.ground(Image.fromarray(scene.image), phrases)
            assert [phrase.text for phrase in given] == phrases
            for form in given[1:5]:
                assert_same_regions(form.regions, given[0].regions)
            asked += 1
            for form, phrase in zip(FORMS, given, strict=True):
                found[form] += any((box_iou(region.box_xyxy[None], truth) > 0.5).any() for region in phrase.regions)
    assert asked >= 5
    assert min(found.values()) >= 0.8 * asked


@pytest.mark.parametrize("words", [400, 20_000, 1_000_000])
def test_a_phrase_beyond_the_models_positions_is_refused_at_once(words: int) -> None:
    chat = tiny_chat("shared")
    began = time.process_time()
    with mock.patch.object(chat.model, "encode_image", side_effect=AssertionError("looked")):
        for call in (lambda text: chat.ground(picture(), ["dog", text]), lambda text: chat.ground(picture(), [text])):
            with pytest.raises(UsageError, match=r"the dialogue has .*tokens, but this model reads at most 512; ask a"):
                call("sun " * words)
    assert time.process_time() - began < 3


@pytest.mark.parametrize("words", [400, 20_000])
def test_a_question_beyond_them_is_refused_by_every_door(words: int) -> None:
    chat, text = tiny_chat("shared"), "sun " * words
    talk = chat.conversation(picture())
    for call in (
        lambda: chat.ask(picture(), text),
        lambda: chat.ask_batch([(picture(), "What?"), (picture(), text)]),
        lambda: talk.ask(text),
        lambda: talk.stream(text),  # before its first event
    ):
        with pytest.raises(UsageError, match=r"the dialogue has .*tokens, but this model reads at most 512; ask a"):
            call()
    talk.ask("What?", max_new_tokens=2)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [("sun", r'as in \["sun"\], got one text'), (["sun", 3], "of type int"), ([b"sun"], "of type bytes")],
)
def test_phrases_are_a_list_of_texts(phrases: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_chat("shared").ground(picture(), phrases)


def test_any_iterable_of_texts_will_do() -> None:
    chat = tiny_chat("shared")
    assert chat.ground(picture(), iter(["a dog", "cats"])) == chat.ground(picture(), ("a dog", "cats"))  # type: ignore[arg-type]
    assert chat.ground(picture(), []) == []
