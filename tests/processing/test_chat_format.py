"""Chats of parts are read as meant, and the jinja template renders what the chat template writes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from llava_grounding.errors import ImageError, LlavaGroundingError, PromptError
from llava_grounding.masks import encode_rle
from llava_grounding.processing.chat_format import prompt_pieces, read_chat, region_prompt
from llava_grounding.processing.conversation import ChatTemplate, dialogue_pieces
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings
from llava_grounding.structures import Message, VisualPrompt
from tiny_model import tiny_config, tiny_processor

TEMPLATES = {
    "ours": ChatTemplate(),
    "with a system sentence": ChatTemplate(system="Be 'kind'.\\n\nAlways."),
    "another": ChatTemplate(user="### Q: ", assistant="\n### A:", answer_prefix=" ", image="<image>"),
}
CLICK = VisualPrompt.click(3, 4)
DIALOGUE = [
    Message("user", "What is <region>?", (CLICK,)),
    Message("assistant", "It is <g_s> a dog <g_e> <seg>."),
    Message("user", "  And where? "),
]


def say(role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": content, **more}


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", **source}


def region(**place: Any) -> dict[str, Any]:
    return {"type": "region", **place}


CHAT = [
    say("user", image(), "What is ", region(click=[3, 4]), "?"),
    {"role": "assistant", "content": "It is <g_s> a dog <g_e> <seg>."},
    say("user", "  And where? ", grounded=False),
]


def render(template: ChatTemplate, chat: list[dict[str, Any]], **kwargs: Any) -> str:
    tokenizer = tiny_processor(tiny_config()).tokenizer
    processor = LlavaGroundingProcessor(tokenizer, ProcessorSettings(image_sequence_length=1, template=template))
    return processor.apply_chat_template(chat, **kwargs)


@pytest.mark.parametrize("name", TEMPLATES)
def test_jinja_renders_the_text_of_the_chat_template(name: str) -> None:
    template = TEMPLATES[name]
    pieces = dialogue_pieces(template, DIALOGUE, [True, False])
    wanted = "".join(piece.text + "</s>" * (piece.kind == "answer") for piece in pieces)
    assert render(template, CHAT, add_generation_prompt=True) == wanted
    assert render(template, CHAT) == wanted.removesuffix(template.assistant)
    assert render(template, CHAT[:2]) == "".join(piece.text for piece in pieces[:4]) + "</s>"


def test_jinja_knows_who_wants_regions_and_takes_a_system_message() -> None:
    chat = [say("system", "Be short."), say("user", image(), "What?")]
    text = render(ChatTemplate(), chat, add_generation_prompt=True)
    assert text == "Be short. USER: <image>\nWhat? (with grounding) ASSISTANT:"
    plain = render(ChatTemplate(system="Never seen."), chat, add_generation_prompt=True, grounded=False)
    assert plain == "Be short. USER: <image>\nWhat? ASSISTANT:"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_rendered_prompt_falls_apart_where_it_was_joined(name: str) -> None:
    template = TEMPLATES[name]
    pieces = dialogue_pieces(template, DIALOGUE, [True, False])
    text = render(template, CHAT, add_generation_prompt=True)
    assert prompt_pieces(template, text, "</s>", 1) == ([piece for piece in pieces if piece.text], False)
    begun = text + template.answer_prefix + "On the"
    assert prompt_pieces(template, begun, "</s>", 1)[1]
    assert not prompt_pieces(template, begun + "</s>", "</s>", 1)[1]


def test_parts_are_read_in_order() -> None:
    chat = read_chat(CHAT, grounded=True)
    assert [message.text for message in chat.messages] == [message.text for message in DIALOGUE]
    assert [message.role for message in chat.messages] == ["user", "assistant", "user"]
    assert chat.grounded == (True, False)
    assert chat.image is None
    assert chat.system is None
    np.testing.assert_array_equal(chat.prompts[0].points_xy, CLICK.points_xy)


def test_regions_written_in_the_text_take_the_parts_in_order() -> None:
    chat = read_chat(
        [say("user", region(box=[1, 2, 3, 4]), "Is <region> left of <region>?", region(click=[5, 6]))], True
    )
    assert chat.messages[0].text == "Is <region> left of <region>?"
    written = [say("user", region(box=[1, 2, 3, 4]), "Is <region> left of <region>?", region(click=[5, 6]))]
    assert render(ChatTemplate(), written).count("<region>") == 2
    assert [prompt.kind for prompt in chat.prompts] == ["box", "click"]


def test_every_kind_of_region_has_its_part() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:5] = True
    np.testing.assert_array_equal(region_prompt(region(box=[1, 2, 3, 4])).box_xyxy, [1, 2, 3, 4])
    np.testing.assert_array_equal(region_prompt(region(click=[1, 2])).points_xy, [[1, 2]])
    np.testing.assert_array_equal(region_prompt(region(scribble=[[1, 2], [3, 4]])).points_xy, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(region_prompt(region(mask=mask)).mask, mask)
    np.testing.assert_array_equal(region_prompt(region(mask=encode_rle(mask))).mask, mask)
    assert region_prompt(CLICK) is CLICK


def test_an_image_comes_as_it_is_or_as_base64() -> None:
    data = b"\x89PNG..."
    text = base64.b64encode(data).decode()
    sources = [{"base64": text}, {"url": f"data:image/png;base64,{text}"}]
    assert [read_chat([say("user", image(**source), "?")], True).image for source in sources] == [data, data]
    openai = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
    assert read_chat([say("user", openai, "?")], True).image == data
    assert read_chat([say("user", image(path="a.jpg"), "?")], True).image == "a.jpg"


@pytest.mark.parametrize(
    ("chat", "error", "message"),
    [
        ([], PromptError, "a chat must have at least one message, got none"),
        (3.5, PromptError, "a chat must be a list of messages, got 3.5"),
        ("Hello", PromptError, "a chat must be a list of messages, got 'Hello'"),
        ({"role": "user", "content": "Hello"}, PromptError, "a chat must be a list of messages, got {'role'"),
        ([say("system", "Be kind.")], PromptError, "a chat must have a question besides its system message"),
        ([{"role": "user"}], PromptError, "a message must be a mapping with role and content"),
        ([say("user", "?"), 3], PromptError, "a message must be a mapping with role and content, got 3"),
        ([say("user", {"type": "video"})], PromptError, "must be of type text, image or region, got 'video'"),
        ([say("user", {"type": "text"})], PromptError, "a text part must hold a text, got None"),
        ([say("user", image(), image(), "?")], PromptError, "a chat must be about one image"),
        ([say("user", "?"), say("assistant", "!"), say("user", image(), "?")], PromptError, "a part of its first"),
        ([say("user", region(), "?")], PromptError, "exactly one of box, click, scribble, mask, got none"),
        ([say("user", region(box=[1, 2, 3]), "?")], PromptError, "a box must be four numbers"),
        ([say("user", region(click="there"), "?")], PromptError, "a click must be numbers, got 'there'"),
        ([say("user", region(mask=[[1], [1, 2]]), "?")], PromptError, "a mask must be a .* array of numbers"),
        ([say("user", image(url="https://x.org/a.png"), "?")], ImageError, "not fetched from the network"),
        ([say("user", image(base64="???"), "?")], ImageError, "must be base64"),
    ],
)
def test_what_cannot_be_read_is_said(chat: Any, error: type[LlavaGroundingError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_chat(chat, True)
