"""Dialogues with the faults of the original's demo, and the same dialogues without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava_grounding.errors import PromptError
from llava_grounding.geometry import Letterbox
from llava_grounding.processing.processor import EncodedText, LlavaGroundingProcessor
from llava_grounding.structures import Message, VisualPrompt
from small_release import release_processor

CLEAN, DEMO = release_processor(), release_processor(demo_quirks=True)
LETTERBOX = Letterbox.fit((160, 120), (160, 160))
IDS, PERCENT = CLEAN.tokens.ids, 1273
CLICK, BOX = VisualPrompt.click(20, 30), VisualPrompt.box(10, 20, 90, 100)
TURNS = [Message("user", "What is it?"), Message("assistant", "A dog."), Message("user", "Is it red?")]


def read(processor: LlavaGroundingProcessor, *messages: Message) -> EncodedText:
    questions = sum(message.role == "user" for message in messages)
    return processor.encode_conversation(messages, [False] * questions, LETTERBOX)


def test_a_text_begins_with_its_token_and_a_blank_stands_after_the_image() -> None:
    for processor in (CLEAN, DEMO):
        ids = read(processor, TURNS[0]).input_ids
        after = len(ids) - ids[::-1].index(IDS.image)
        assert ids[0] == IDS.bos
        assert ids.count(IDS.image) == 4
        assert [CLEAN.tokens.pieces[token] for token in ids[after : after + 2]] == ["▁", "<0x0A>"]
    assert read(CLEAN, TURNS[0]).input_ids == read(DEMO, TURNS[0]).input_ids


def test_the_demo_forgets_the_end_of_an_answer() -> None:
    clean, demo = (read(processor, *TURNS).input_ids for processor in (CLEAN, DEMO))
    assert clean.count(IDS.eos) == 1
    assert IDS.eos not in demo
    assert "A dog. USER: Is it red?" in CLEAN.tokens.decode(clean)
    assert "A dog.USER: Is it red?" in DEMO.tokens.decode(demo)


def test_every_percent_sign_of_the_demo_gets_the_first_prompt() -> None:
    asked = Message("user", "Are 50 % of <obj>like % here?", (CLICK, BOX))
    encoded = read(DEMO, TURNS[0], TURNS[1], asked)
    assert PERCENT not in encoded.input_ids
    assert encoded.input_ids.count(IDS.region) == 3
    assert len(encoded.prompts.types) == 3
    np.testing.assert_array_equal(
        encoded.prompts.boxes_cxcywh_norm, np.tile(encoded.prompts.boxes_cxcywh_norm[:1], (3, 1))
    )
    assert not encoded.prompts.types.any()  # all of them the click


def test_a_prompt_without_a_percent_sign_is_dropped_in_silence_as_in_the_demo() -> None:
    encoded = read(DEMO, Message("user", "What is it?", (CLICK,)))
    assert len(encoded.prompts.types) == 0
    with pytest.raises(PromptError, match="one <region> per region prompt"):
        read(CLEAN, Message("user", "What is it?", (CLICK,)))


def test_a_region_of_ours_is_a_percent_sign_of_the_demo() -> None:
    asked = Message("user", "What is <region> doing?", (CLICK,))
    theirs = read(DEMO, Message("user", "What is % doing?", (CLICK,)))
    assert read(DEMO, asked).input_ids == theirs.input_ids == read(CLEAN, asked).input_ids


def test_what_cannot_be_asked_is_refused_in_the_demo_as_well() -> None:
    with pytest.raises(PromptError, match="must not be empty"):
        read(DEMO, Message("user", "  "))
    with pytest.raises(PromptError, match="message 0 must be from the user"):
        read(DEMO, TURNS[1])


@pytest.mark.parametrize("processor", [CLEAN, DEMO], ids=["clean", "demo"])
def test_the_processor_is_saved_with_its_tokenisation(processor: LlavaGroundingProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = LlavaGroundingProcessor.from_pretrained(tmp_path)
    assert loaded.settings == processor.settings
    assert loaded.tokens.ids == processor.tokens.ids
    assert read(loaded, *TURNS).input_ids == read(processor, *TURNS).input_ids
