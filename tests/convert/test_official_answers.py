"""What the converted small release says, by the engine: dialogues with and without the faults of the demo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from golden.joined import released_settings, write_released
from llava_grounding.convert.official import convert_official
from llava_grounding.inference import answering
from llava_grounding.inference.batching import KVCache, prefill, prefill_batch
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.structures import Message, VisualPrompt

RECORDED = Path(__file__).parents[1] / "golden" / "C_inference"
QUESTION = "What is the object <region> doing and why?"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> GroundedChat:
    place = tmp_path_factory.mktemp("official")
    convert_official(write_released(RECORDED, place / "released"), place / "ours", released_settings(RECORDED))
    return GroundedChat.from_pretrained(place / "ours", device="cpu")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    recorded = load_file(RECORDED / "interactive_box.safetensors")
    return Image.fromarray(recorded["in.original_image_hwc_uint8"].numpy())


def with_quirks(chat: GroundedChat) -> GroundedChat:
    processor = chat.processor
    settings = replace(processor.settings, demo_quirks=True)
    return GroundedChat(chat.model, LlavaGroundingProcessor(processor.tokenizer, settings))


def last_state(chat: GroundedChat, image: Image.Image, messages: list[Message]) -> torch.Tensor:
    """The hidden state from which an answer begins, of the whole dialogue read at once."""
    context = chat._encode_images([image])[0]
    flags = [True] * sum(message.role == "user" for message in messages)
    text = chat.processor.encode_conversation(messages, flags, context.letterbox)
    return prefill(chat.model, chat._runtime.embed(text, context))[0]


@pytest.mark.parametrize("quirks", [False, True], ids=["clean", "demo"])
def test_a_dialogue_held_turn_by_turn_is_the_one_read_at_once(
    chat: GroundedChat, image: Image.Image, quirks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quirks:
        chat = with_quirks(chat)
    starts: list[torch.Tensor] = []

    def noting(*given: Any) -> list[tuple[torch.Tensor, KVCache]]:
        [(hidden, read)] = prefill_batch(*given)
        starts.append(hidden)
        return [(hidden, read)]

    talk = chat.conversation(image)
    with monkeypatch.context() as patch:
        patch.setattr(answering, "prefill_batch", noting)
        first = talk.ask("What is in the image?")
        second = talk.ask(QUESTION, [VisualPrompt.box(20, 10, 90, 60)])
    assert first.phrases
    assert second.prompt_tokens > first.prompt_tokens
    messages = list(talk.messages[:3])
    torch.testing.assert_close(starts[0], last_state(chat, image, messages[:1]))
    torch.testing.assert_close(starts[1], last_state(chat, image, messages), atol=1e-4, rtol=1e-4)


def test_a_batch_answers_as_one_by_one_with_the_faults_of_the_demo_too(chat: GroundedChat, image: Image.Image) -> None:
    chat = with_quirks(chat)
    prompt = VisualPrompt.click(40, 40)
    questions = [(image, "What is in the image?"), (image, QUESTION, (prompt,))]
    together = chat.ask_batch(questions)
    assert [answer.raw for answer in together] == [
        chat.ask(image, "What is in the image?").raw,
        chat.ask(image, QUESTION, [prompt]).raw,
    ]


def test_several_prompts_do_not_see_each_other(chat: GroundedChat, image: Image.Image) -> None:
    boxes = [VisualPrompt.box(20, 10, 90, 60), VisualPrompt.box(1, 1, 30, 30)]
    context = chat._encode_images([image])[0]

    def embeds(*prompts: VisualPrompt) -> torch.Tensor:
        words = " and ".join(["<region>"] * len(prompts))
        text = chat.processor.encode_question(Message("user", words, prompts), False, True, context.letterbox)
        places = torch.tensor(text.input_ids) == chat.model.config.region_token_id
        return chat._runtime.embed(text, context)[0, places]

    torch.testing.assert_close(embeds(*boxes), torch.cat([embeds(box) for box in boxes]), atol=1e-5, rtol=1e-5)


def test_a_question_may_hold_a_percent_sign(chat: GroundedChat, image: Image.Image) -> None:
    assert chat.ask(image, "Are 50 % of <region> red?", [VisualPrompt.click(20, 20)]).prompt_tokens > 0
    assert chat.ask(image, "Are 50 % red?").prompt_tokens > 0


def test_phrases_are_grounded_without_chat(chat: GroundedChat, image: Image.Image) -> None:
    found = chat.ground(image, ["a dog", "a man"])
    assert [phrase.text for phrase in found] == ["a dog", "a man"]
    assert all(0 < phrase.score <= 1 for phrase in found)
