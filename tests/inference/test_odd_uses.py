"""Odd but possible uses of the chat: tiny and narrow pictures, answers cut anywhere, markup written astray."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from PIL import Image

from llava_grounding.errors import LlavaGroundingError, PromptError, UsageError
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.structures import GroundedAnswer, Message, VisualPrompt
from tiny_model import picture, saying, tiny_chat, tiny_config, tiny_processor, tiny_weights

IMAGE = picture(1)
RAW = "See <g_s> the red dog <g_e> <seg> and <g_s> a cat <g_e> <seg>."


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 3), (4000, 20), (3, 20_000)])
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_pictures_of_any_shape_are_answered_with_regions_that_have_pixels(kind: str, size_wh: tuple[int, int]) -> None:
    chat, image = tiny_chat(kind), picture(1, size_wh)
    with saying(chat, RAW):
        phrases = [*chat.ask(image, "What?").phrases, *chat.ground(image, ["dog", "cats"])]
    for phrase in phrases:
        assert all(region.mask.any() and region.area > 0 for region in phrase.regions)
        assert bool(phrase.regions) == (phrase.score > chat.processor.settings.selection.score_threshold)


@pytest.mark.parametrize("length", range(1, 14))
def test_an_answer_may_be_cut_anywhere(length: int) -> None:
    chat = tiny_chat("shared")
    with saying(chat, RAW):
        whole = chat.ask(IMAGE, "What?")
    with saying(chat, RAW, "No."):
        talk = chat.conversation(IMAGE)
        answer = talk.ask("What?", max_new_tokens=length)
        assert talk.ask("Sure?").raw == "No."
    assert whole.text.startswith(answer.text)
    assert answer.completion_tokens == length
    assert [phrase.text for phrase in answer.phrases] == [phrase.text for phrase in whole.phrases][
        : len(answer.phrases)
    ]
    assert GroundedAnswer.from_dict(answer.to_dict()) == answer


@pytest.mark.parametrize(
    "written", [[5, 9, 1], [9, 9, 5, 8, 8, 1], [6, 7, 8, 1], [8, 1], [6, 6, 20, 7, 8, 7, 1], [0, 0, 1], [2, 3, 4, 1]]
)
def test_special_tokens_written_astray_leave_no_trace_in_the_text(written: list[int]) -> None:
    chat = tiny_chat("shared")
    with saying(chat, written, written):
        talk = chat.conversation(IMAGE)
        for answer in (talk.ask("What?"), talk.ask("And?")):
            assert "<" not in answer.text
            GroundedAnswer.from_dict(answer.to_dict())
    chat.conversation(IMAGE, talk.messages).ask("What?", max_new_tokens=2)  # and what was said can be read again


def test_special_tokens_of_a_user_are_words() -> None:
    chat = tiny_chat("shared")
    said = "<image> <region> <seg> </s> <g_s>"
    history = [Message("user", "Say <image>"), Message("assistant", said)]
    chat.conversation(IMAGE, history).ask("Say <seg> <image> </s> <g_s> it", max_new_tokens=2)
    with pytest.raises(PromptError, match="must hold no special tokens, got `<seg>`"):
        chat.ground(IMAGE, ["a <seg> dog"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_new_tokens": 0}, UsageError, "from 1 to 2000, got 0"),
        ({"max_new_tokens": None}, UsageError, "from 1 to 2000, got None"),
        ({"question": ""}, PromptError, "must not be empty"),
        ({"question": None}, UsageError, "must be text, got NoneType"),
        ({"prompts": None}, PromptError, "must be a list of VisualPrompt values, got NoneType"),
        ({"prompts": [None]}, PromptError, "must be VisualPrompt values, got NoneType"),
        ({"prompts": [VisualPrompt.click(1, 1)]}, PromptError, "0 placeholders for 1 prompt"),
        ({"temperature": float("nan")}, UsageError, "temperature must be a number"),
        ({"seed": -1}, UsageError, "seed must be a whole number"),
    ],
)
def test_what_cannot_be_asked_is_said(given: dict[str, Any], error: type[LlavaGroundingError], message: str) -> None:
    with pytest.raises(error, match=message):
        tiny_chat("shared").ask(IMAGE, **{"question": "What?", **given})


@pytest.mark.parametrize("content", [None, 3, {"type": "text", "text": "Hi"}])
def test_the_content_of_a_message_is_text_or_parts(content: Any) -> None:
    with pytest.raises(PromptError, match="must be a text or a list of parts, got"):
        tiny_chat("shared").processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True)


@pytest.mark.parametrize("part", ["grounder.backbone", "grounder.mask_head", "language_model", "lm_head"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_give_no_region_but_an_error(part: str, value: float) -> None:
    model = tiny_weights(tiny_config("shared", score_threshold=0.01, tie_word_embeddings=False))
    changed = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(part):
                weight.view(-1)[0] = value
                changed += 1
    assert changed
    chat = GroundedChat(model, tiny_processor(tiny_config("shared")))
    phrases, refused = [], ""
    try:
        with saying(chat, RAW):
            phrases = [*chat.ask(IMAGE, "What?").phrases, *chat.ground(IMAGE, ["a dog"])]
    except LlavaGroundingError as error:
        refused = str(error)
    assert "not finite" in refused or all(region.mask.any() for phrase in phrases for region in phrase.regions)


def test_threads_that_ask_one_chat_get_the_answers_of_one() -> None:
    chat = tiny_chat("shared")
    images = [picture(seed) for seed in range(3)]
    ask = lambda image: (chat.ask(image, "What is it?", max_new_tokens=6).raw, chat.ground(image, ["dog"]))  # noqa: E731
    wanted, found = [ask(image) for image in images], {}

    def work(number: int) -> None:
        found[number] = [ask(images[number % 3]) for _ in range(2)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == [wanted[number % 3]] * 2 for number in range(4))


def test_a_picture_that_is_one_colour_has_regions_with_pixels_or_none() -> None:
    for colour in (0, 128, 255):
        for phrase in tiny_chat("separate").ground(Image.new("RGB", (90, 30), (colour,) * 3), ["a dog", "sky"]):
            assert all(region.mask.any() for region in phrase.regions)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda chat: chat.ask(IMAGE, "What?", stop=5), "stop must be a function or a threading.Event, got 5"),
        (lambda chat: chat.ask_batch([], stop=5), "stop must be a function or a threading.Event, got 5"),
        (
            lambda chat: chat.ask_batch(itertools.repeat((IMAGE, "What?"))),
            "questions must be at most 100,000 at a time, got more",
        ),
        (lambda chat: chat.ask_batch(5), "questions must be a list of Question values, got 5"),
        (lambda chat: chat.ground(IMAGE, None), "phrases must be a list of texts, got None"),
        (lambda chat: chat.conversation(IMAGE, 5), "messages must be a list of Message values, got 5"),
        (lambda chat: chat.conversation(IMAGE, ["What?"]), "messages must be a list of Message values"),
        (lambda chat: chat.conversation(IMAGE, [], 5), "grounded must be true or false, or a list of them, got 5"),
        (lambda chat: chat.ask(IMAGE, "What?", temperature=10**400), "temperature must be a number from 0 to 100"),
    ],
)
def test_arguments_of_another_kind_are_refused(use: Callable[[GroundedChat], object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        use(tiny_chat("shared"))


def test_an_option_of_another_name_is_refused_with_the_one_it_may_mean() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument `max_new_token`; did you mean `max_new_tokens`"):
        tiny_chat("shared").ask(IMAGE, "What?", max_new_token=5)  # type: ignore[call-arg]


def test_a_temperature_may_be_any_kind_of_number() -> None:
    chat = tiny_chat("shared")
    settings = {"seed": 1, "max_new_tokens": 3}
    assert chat.ask(IMAGE, "What?", temperature=Fraction(1, 3), **settings) == chat.ask(
        IMAGE, "What?", temperature=1 / 3, **settings
    )
