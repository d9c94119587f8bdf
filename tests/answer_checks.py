"""What tests of the engine share: chats with tiny models, things to say, and how alike two answers must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from llava_grounding.inference.engine import GroundedChat
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Message, VisualPrompt
from tiny_model import picture, tiny_chat

KINDS = pytest.mark.parametrize("kind", ["separate", "shared"])
CHATS = {kind: tiny_chat(kind) for kind in ("separate", "shared")}
RAW = (
    "There is <g_s> a red dog <g_e> <seg> to the left of <g_s> two white cats <g_e> <seg>, not of <g_s> it <g_e> <seg>."
)
TEXT = "There is a red dog to the left of two white cats, not of it."
CLICK, BOX = VisualPrompt.click(20, 30), VisualPrompt.box(10, 10, 60, 50)
SCRIBBLE = VisualPrompt.scribble([(5, 5), (40, 30), (80, 20)])


def mask_prompt(size_wh: tuple[int, int] = (90, 60)) -> VisualPrompt:
    mask = np.zeros(size_wh[::-1], dtype=bool)
    mask[10:30, 20:50] = True
    return VisualPrompt.mask_of(mask)


def direct_answer(chat: GroundedChat, raw: str, question: str, seed: int = 0) -> list[GroundedPhrase]:
    """What the phrases of an answer should be, by one pass over the whole dialogue without any cache."""
    model, processor = chat.model, chat.processor
    image = processor.encode_image(picture(seed))
    messages = [Message("user", question), Message("assistant", raw)]
    text = processor.encode_conversation(messages, [True], image.letterbox)
    ids = torch.tensor([text.input_ids])
    with torch.inference_mode():
        features = model.encode_image(**processor.collate_images([image]))
        output = model(input_ids=ids, image_features=features)
        embeds, mask = model.phrase_states(output.last_hidden_state, ids)
        output = model.ground(features.memory, embeds, mask)
        selections = processor.select(output, 0, embeds.shape[1], image.letterbox)
    answer = processor.decode_answer(raw, selections, image.letterbox, model="", prompt_tokens=0, completion_tokens=0)
    return list(answer.phrases)


def assert_same_phrases(given: Sequence[GroundedPhrase], expected: Sequence[GroundedPhrase]) -> None:
    """Equal but for rounding."""
    assert [(p.id, p.text, p.span, len(p.regions)) for p in given] == [
        (p.id, p.text, p.span, len(p.regions)) for p in expected
    ]
    for one, other in zip(given, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        for ours, theirs in zip(one.regions, other.regions, strict=True):
            np.testing.assert_allclose(ours.box_xyxy, theirs.box_xyxy, atol=1e-2)  # 1e-4 of 90 pixels
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)
            assert ours.mask is not None
            assert theirs.mask is not None
            assert (ours.mask != theirs.mask).mean() < 0.002


def assert_same_answers(given: GroundedAnswer, expected: GroundedAnswer) -> None:
    assert (given.text, given.raw, given.model) == (expected.text, expected.raw, expected.model)
    assert (given.prompt_tokens, given.completion_tokens) == (expected.prompt_tokens, expected.completion_tokens)
    assert given.image_size_wh == expected.image_size_wh
    assert_same_phrases(given.phrases, expected.phrases)


@contextmanager
def counting(chat: GroundedChat) -> Iterator[list[int]]:
    """Collect how many positions each call of the language model is fed."""
    fed: list[int] = []

    def note(_module: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        fed.append(kwargs["inputs_embeds"].shape[1])

    handle = chat.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield fed
    finally:
        handle.remove()
