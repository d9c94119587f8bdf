"""The chat template: dialogues to pieces of text."""

from __future__ import annotations

import pytest

from llava_grounding.errors import PromptError
from llava_grounding.processing.conversation import (
    ChatTemplate,
    check_question,
    dialogue_pieces,
    referring_turn,
)
from llava_grounding.structures import Message, VisualPrompt

CLICK = VisualPrompt.click(1, 1)


def test_a_dialogue_is_written_turn_by_turn_with_the_image_first() -> None:
    messages = [
        Message("user", " What is this? "),
        Message("assistant", "<g_s> A dog <g_e> <seg>."),
        Message("user", "Is it big?"),
    ]
    pieces = dialogue_pieces(ChatTemplate(), messages, [True, False])
    assert "".join(piece.text for piece in pieces) == (
        "USER: <image>\nWhat is this? (with grounding) ASSISTANT: <g_s> A dog <g_e> <seg>.USER: Is it big? ASSISTANT:"
    )
    assert [piece.kind for piece in pieces] == ["question", "image", "question", "answer", "question"]
    assert [piece.text for piece in pieces if piece.in_loss] == [" <g_s> A dog <g_e> <seg>."]


def test_the_system_sentence_stands_only_before_the_first_question() -> None:
    template = ChatTemplate(system="Be kind.")
    first = "".join(piece.text for piece in template.question("Hi?", 0, False, first=True))
    later = "".join(piece.text for piece in template.question("Hi?", 0, False, first=False))
    assert first == "Be kind. USER: <image>\nHi? ASSISTANT:"
    assert later == "USER: Hi? ASSISTANT:"


def test_regions_of_a_question_are_counted_in_the_piece_that_holds_them() -> None:
    pieces = dialogue_pieces(ChatTemplate(), [Message("user", "<region> or <region>?", (CLICK, CLICK))], [True])
    assert [piece.num_regions for piece in pieces] == [0, 0, 2]


@pytest.mark.parametrize(
    ("text", "prompts", "words"),
    [
        ("", 0, "must not be empty"),
        (" \n", 0, "must not be empty"),
        ("What is <region>?", 0, "one <region> per region prompt, got 1 placeholder for 0 prompts"),
        ("What is this?", 1, "got 0 placeholders for 1 prompt"),
        ("<region> <region> <region>", 2, "got 3 placeholders for 2 prompts"),
        ("What \udcff?", 0, "half of a surrogate pair at character 5"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(text: str, prompts: int, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        check_question(text, prompts)


def test_roles_must_alternate() -> None:
    with pytest.raises(PromptError, match="message 0 must be from the user, got `assistant`"):
        dialogue_pieces(ChatTemplate(), [Message("assistant", "Hi")], [])
    with pytest.raises(PromptError, match="message 1 must be from the assistant, got `user`"):
        dialogue_pieces(ChatTemplate(), [Message("user", "Hi"), Message("user", "Hi")], [True, True])
    with pytest.raises(PromptError, match="surrogate"):
        dialogue_pieces(ChatTemplate(), [Message("user", "Hi"), Message("assistant", "\ud800")], [True])


def test_a_referring_turn_is_worded_as_in_training() -> None:
    question, answer = referring_turn(" the red bus ")
    assert question == Message("user", "Find the red bus.")
    assert answer == Message("assistant", "<g_s> The red bus <g_e> <seg>.")


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("", "must not be empty"),
        ("\t", "must not be empty"),
        ("a <seg> b", "no special tokens, got `<seg>`"),
        ("\ud800", "surr"),
    ],
)
def test_a_phrase_that_cannot_be_referred_to_is_refused(phrase: str, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        referring_turn(phrase)
