"""Streams and dialogues: what comes when, what is computed once, and what a question that fails leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
import torch

from answer_checks import (
    BOX,
    CHATS,
    CLICK,
    KINDS,
    RAW,
    TEXT,
    assert_same_answers,
    assert_same_phrases,
    counting,
    mask_prompt,
)
from llava_grounding.errors import PromptError, UsageError
from llava_grounding.inference.conversation import AnswerDone, Conversation, RegionsFound, StreamEvent, TextDelta
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.structures import GroundedAnswer, Message, VisualPrompt
from tiny_model import picture, saying

# Streams


def text_of(events: Sequence[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@KINDS
def test_a_stream_ends_with_exactly_the_unstreamed_answer(kind: str) -> None:
    chat = CHATS[kind]
    with saying(chat, RAW, RAW):
        answer = chat.ask(picture(), "Describe the image.")
        events = list(chat.conversation(picture()).stream("Describe the image."))
    assert events[-1] == AnswerDone(answer)
    assert [type(event) for event in events].count(AnswerDone) == 1
    assert text_of(events) == answer.text
    found = [event.phrase for event in events if isinstance(event, RegionsFound)]
    assert [(p.id, p.text, p.span) for p in found] == [(p.id, p.text, p.span) for p in answer.phrases]
    assert found[-1] == answer.phrases[-1]  # by then all phrases were known
    if chat.model.config.phrase_queries == "image":
        assert_same_phrases(found, answer.phrases)


@KINDS
def test_regions_come_as_soon_as_their_phrase_has_closed(kind: str) -> None:
    chat = CHATS[kind]
    said = ""
    with saying(chat, RAW):
        for event in chat.conversation(picture()).stream("Describe the image."):
            if isinstance(event, TextDelta):
                said += event.text
            elif isinstance(event, RegionsFound):
                assert said == TEXT[: event.phrase.span[1]]


@KINDS
def test_phrases_are_not_grounded_again_when_nothing_came_behind_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, calls = CHATS[kind], list[int]()
    ground = chat.model.ground

    def noted(memory: Any, phrase_embeds: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(phrase_embeds.shape[1])
        return ground(memory, phrase_embeds, *args, **kwargs)

    monkeypatch.setattr(chat.model, "ground", noted)
    with saying(chat, RAW):
        events = list(chat.conversation(picture()).stream("Describe the image."))
    closed = sum(isinstance(event, RegionsFound) for event in events)
    assert calls == list(range(1, closed + 1))
    assert closed > 1


def test_text_comes_word_by_word() -> None:
    chat = CHATS["shared"]
    with saying(chat, "There is a red dog."):
        events = list(chat.conversation(picture()).stream("Describe the image."))
    assert len(events) >= 6
    assert events[0] == TextDelta("There")


def test_a_stream_without_grounding_has_text_only() -> None:
    chat = CHATS["shared"]
    with saying(chat, RAW):
        events = list(chat.conversation(picture()).stream("Describe the image.", grounded=False))
    assert {type(event) for event in events} == {TextDelta, AnswerDone}
    assert text_of(events) == TEXT


def test_a_question_that_cannot_be_asked_fails_before_the_first_event() -> None:
    talk = CHATS["shared"].conversation(picture())
    with pytest.raises(PromptError, match="must not be empty"):
        talk.stream(" ")
    with pytest.raises(UsageError, match="max_new_tokens"):
        talk.stream("What?", max_new_tokens=0)


def test_a_stream_leaves_inference_mode_between_events() -> None:
    chat = CHATS["shared"]
    with saying(chat, RAW):
        for _ in chat.conversation(picture()).stream("Describe the image."):
            assert not torch.is_inference_mode_enabled()


# Dialogues

SECOND = "Yes, <g_s> it <g_e> <seg> is red."


@KINDS
@pytest.mark.parametrize("limit", [50, 3, 10])
def test_the_second_question_reads_only_what_is_new(kind: str, limit: int) -> None:
    chat = CHATS[kind]
    with saying(chat, RAW, SECOND):
        talk = chat.conversation(picture())
        with counting(chat) as fed:
            first = talk.ask("Describe the image.", max_new_tokens=limit)
        read = sum(fed)
        with counting(chat) as fed:
            second = talk.ask("Is it red?")
    image = chat.processor.encode_image(picture())
    question = chat.processor.encode_question(Message("user", "Is it red?"), True, False, image.letterbox)
    # What is left over of the first answer is its last token and the end token at most.
    assert len(question.input_ids) <= fed[0] <= len(question.input_ids) + 2
    end = 1
    assert read + fed[0] == second.prompt_tokens
    assert second.prompt_tokens == first.prompt_tokens + first.completion_tokens + end + len(question.input_ids)
    assert all(count == 1 for count in fed[1:])


@KINDS
@pytest.mark.parametrize("limit", [50, 2, 10])
def test_a_dialogue_equals_a_fresh_pass_over_all_of_it(kind: str, limit: int) -> None:
    chat = CHATS[kind]
    states: list[torch.Tensor] = []
    handle = chat.model.language_model.register_forward_hook(
        lambda _module, _args, output: states.append(output.last_hidden_state)
    )
    with saying(chat, RAW, SECOND):
        talk = chat.conversation(picture())
        first = talk.ask("Is <region> red?", prompts=[BOX], max_new_tokens=limit)
        second = talk.ask("And <region> or <region>?", prompts=[CLICK, mask_prompt()])
    handle.remove()
    hidden = torch.cat(states, dim=1)

    processor, model = chat.processor, chat.model
    image = processor.encode_image(picture())
    text = processor.encode_conversation(talk.messages, [True, True], image.letterbox)
    ids = torch.tensor([text.input_ids])
    with torch.inference_mode():
        pixels = processor.collate_images([image])
        features = model.with_prompt_memory(model.encode_image(**pixels), pixels["grounder_pixel_values"])
        assert features.prompt_memory is not None
        regions = torch.cat(
            [
                model.encode_regions(features.prompt_memory, prompts).region_embeds
                for turn in (talk.messages[0], talk.messages[2])
                if (prompts := processor.collate_prompts([encoded(chat, turn).prompts])) is not None
            ],
            dim=1,
        )
        embeds = model.embed(ids, features.tokens, regions, torch.ones(1, 3, dtype=torch.bool))
        whole = model(inputs_embeds=embeds).last_hidden_state
    assert [message.text for message in talk.messages] == [
        "Is <region> red?", first.raw, "And <region> or <region>?", second.raw,
    ]  # fmt: skip
    assert ids.shape[1] - hidden.shape[1] == 1  # the last end token was not read
    torch.testing.assert_close(hidden, whole[:, :-1], atol=1e-4, rtol=1e-3)


def encoded(chat: GroundedChat, message: Message) -> Any:
    letterbox = chat.processor.encode_image(picture()).letterbox
    return chat.processor.encode_question(message, True, True, letterbox)


@KINDS
def test_a_dialogue_taken_up_elsewhere_goes_on_as_if_held_here(kind: str) -> None:
    chat = CHATS[kind]
    with saying(chat, RAW, SECOND, SECOND):
        talk = chat.conversation(picture())
        talk.ask("Is <region> there?", prompts=[BOX], grounded=False)
        expected = talk.ask("Is it red?")
        again = chat.conversation(picture(), talk.messages[:2], grounded=[False])
        answer = again.ask("Is it red?")
    assert again.messages == talk.messages
    assert again.answers == (answer,)
    assert_same_answers(answer, expected)


def test_a_dialogue_to_take_up_must_be_whole() -> None:
    chat = CHATS["shared"]
    question, answer = Message("user", "What is <region>?", (CLICK,)), Message("assistant", "A dog.")
    with pytest.raises(PromptError, match=r"pairs of question and answer, .* got 1 messages and 0 values"):
        chat.conversation(picture(), [question])
    with pytest.raises(PromptError, match="got 2 messages and 2 values"):
        chat.conversation(picture(), [question, answer], grounded=[True, False])
    with pytest.raises(PromptError, match="message 0 must be from the user"):
        chat.conversation(picture(), [answer, question])
    with pytest.raises(PromptError, match="one <region> per region prompt"):
        chat.conversation(picture(), [Message("user", "What is <region>?"), answer])


def after(talk: Conversation, chat: GroundedChat) -> GroundedAnswer:
    with saying(chat, SECOND):
        return talk.ask("Is it red?")


@pytest.fixture
def expected_second() -> GroundedAnswer:
    """The second answer of a dialogue in which nothing went wrong."""
    chat = CHATS["shared"]
    with saying(chat, RAW):
        talk = chat.conversation(picture())
        talk.ask("Describe the image.")
    return after(talk, chat)


def begun() -> Conversation:
    with saying(CHATS["shared"], RAW):
        talk = CHATS["shared"].conversation(picture())
        talk.ask("Describe the image.")
    return talk


@pytest.mark.parametrize("events", [0, 1, 4, 9])
def test_a_stream_that_is_left_leaves_no_trace(events: int, expected_second: GroundedAnswer) -> None:
    chat, talk = CHATS["shared"], begun()
    with saying(chat, RAW):
        stream = talk.stream("And <region>?", prompts=[CLICK])
        for _ in range(events):
            next(stream)
        stream.close()
    assert len(talk.messages) == 2
    assert after(talk, chat) == expected_second


@pytest.mark.parametrize("call", [0, 1, 5])
def test_an_answer_that_fails_leaves_no_trace(
    call: int, expected_second: GroundedAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, talk = CHATS["shared"], begun()
    layer = chat.model.language_model.layers[-1]
    forward, calls = layer.forward, iter(range(100))

    def fail(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise RuntimeError("out of memory")
        return forward(*args, **kwargs)

    with saying(chat, RAW), monkeypatch.context() as patch:
        patch.setattr(layer, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            talk.ask("And now?")
    assert len(talk.messages) == 2
    assert after(talk, chat) == expected_second


def test_a_refused_question_leaves_no_trace(expected_second: GroundedAnswer) -> None:
    talk = begun()
    for question, prompts in (("", []), ("<region>?", []), ("<region>?", [VisualPrompt.click(500, 5)])):
        with pytest.raises(PromptError):
            talk.ask(question, prompts)
    assert after(talk, CHATS["shared"]) == expected_second


def test_a_stream_cannot_go_on_after_the_next_question(expected_second: GroundedAnswer) -> None:
    chat, talk = CHATS["shared"], begun()
    with saying(chat, RAW, SECOND):
        stream = talk.stream("And now?")
        next(stream)
        assert talk.ask("Is it red?") == expected_second
        with pytest.raises(UsageError, match="given up when the next question was asked"):
            next(stream)
    assert [message.text for message in talk.messages[2:]] == ["Is it red?", SECOND]


def test_a_stream_that_was_never_begun_is_given_up_as_well() -> None:
    chat, talk = CHATS["shared"], begun()
    with saying(chat, SECOND):
        stream = talk.stream("And now?")
        talk.ask("Is it red?")
        with pytest.raises(UsageError, match="given up when the next question was asked"):
            next(stream)
    assert len(talk.messages) == 4


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    chat = CHATS["shared"]
    event = threading.Event()
    with saying(chat, RAW, SECOND):
        talk = chat.conversation(picture())
        for part in talk.stream("Describe the image.", stop=event):
            if isinstance(part, RegionsFound):
                event.set()
        (answer,) = talk.answers
        assert TEXT.startswith(answer.text)
        assert [phrase.text for phrase in answer.phrases] == ["a red dog"]
        assert talk.messages[1].text == answer.raw
        assert talk.ask("Is it red?").raw == SECOND
    with saying(chat, RAW):
        assert chat.ask(picture(), "Describe the image.", stop=event).text == ""


def test_the_image_is_encoded_once_for_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, encoded_images = CHATS["separate"], []
    for part in (chat.model.grounder, chat.model.visual_prompt_encoder):
        encode = part.encode_image
        monkeypatch.setattr(
            part, "encode_image", lambda pixels, encode=encode: encoded_images.append(encode) or encode(pixels)
        )
    talk = chat.conversation(picture())
    assert len(encoded_images) == 1
    collate = mock.Mock(side_effect=chat.processor.collate_images)
    monkeypatch.setattr(chat.processor, "collate_images", collate)
    for question in ("What is <region>?", "And <region>?"):
        with saying(chat, RAW):
            talk.ask(question, prompts=[CLICK])
    assert len(encoded_images) == 2  # the prompt encoder looks when the first prompt comes
    assert collate.call_count == 1
