"""Placeholders are counted in the prompt: kept caches, candidates and written placeholders change no answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from llava_grounding.errors import LlavaGroundingError, PromptError, ShapeError, UsageError
from llava_grounding.model.outputs import RegionPrompts
from tiny_model import picture, tiny_chat

KINDS = ["shared", "separate"]
IMAGE = picture(1)
REGION: dict[str, Any] = {
    "region_boxes_cxcywh_norm": torch.tensor([[[0.5, 0.5, 0.3, 0.3]]]),
    "region_types": torch.tensor([[1]]),
    "region_valid": torch.tensor([[True]]),
}
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
RECORD: dict[str, Any] = {"return_dict_in_generate": True, "output_hidden_states": True}


def first_turn(kind: str) -> dict[str, Any]:
    processor = tiny_chat(kind).processor
    parts = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "Describe the image."}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    return dict(processor.apply_chat_template([{"role": "user", "content": parts}], **options))


def second_turn(kind: str, said: torch.Tensor) -> dict[str, Any]:
    """The dialogue so far, and a question that points at a region."""
    tokens = tiny_chat(kind).processor.tokens
    question = [tokens.ids.eos, *tokens.encode_question("USER: Where is <region>? ASSISTANT:", 1)]
    ids = torch.cat([said, torch.tensor([question])], dim=1)
    return {**first_turn(kind), **REGION, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def same(found: Any, wanted: Any) -> bool:
    return torch.allclose(found.output.phrase_logits, wanted.output.phrase_logits, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"prompt_lookup_num_tokens": 3}, {"use_cache": False}, {"prefill_chunk_size": 7}, {"num_beams": 1}],
    ids=lambda options: next(iter(options)),
)
def test_other_ways_to_decode_write_what_greedy_decoding_writes(kind: str, options: dict[str, Any]) -> None:
    model, inputs = tiny_chat(kind).model, first_turn(kind)
    assert torch.equal(model.generate(**inputs, **GREEDY, **options), model.generate(**inputs, **GREEDY))


def test_an_assistant_may_draft_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = tiny_chat("shared").model, first_turn("shared")
    assert torch.equal(model.generate(**inputs, **GREEDY, assistant_model=model), model.generate(**inputs, **GREEDY))


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_turn_resumes_from_a_kept_cache(kind: str) -> None:
    model = tiny_chat(kind).model
    first = model.generate(**first_turn(kind), **GREEDY, **RECORD, past_key_values=DynamicCache())
    inputs = second_turn(kind, first.sequences)
    fresh = model.generate(**inputs, **GREEDY, **RECORD)
    wanted, cache = fresh.sequences.clone(), first.past_key_values
    for given in ("all ids", "new ids"):
        kept, read = copy.deepcopy(cache), cache.get_seq_length()
        asked = dict(inputs) if given == "all ids" else {**inputs, "input_ids": inputs["input_ids"][:, read:]}
        again = model.generate(**asked, **GREEDY, **RECORD, past_key_values=kept)
        assert torch.equal(again.sequences, wanted[:, -again.sequences.shape[1] :])
        assert again.hidden_states[0][-1].shape[1] == inputs["input_ids"].shape[1] - read  # only what is new
        again.sequences[:, -2] = fresh.sequences[:, -2] = model.config.seg_token_id
        assert same(model.ground_generated(again, **asked), model.ground_generated(fresh, **inputs))


def test_what_a_kept_cache_holds_cannot_be_read_again() -> None:
    model = tiny_chat("shared").model
    first = model.generate(**first_turn("shared"), **GREEDY, **RECORD, past_key_values=DynamicCache())
    inputs = second_turn("shared", first.sequences)
    inputs["input_ids"] = inputs["input_ids"][:, first.past_key_values.get_seq_length() :]
    with pytest.raises(UsageError, match=r"the ids of all \d+ positions, or ask generate for output_hidden_states"):
        model.ground_generated(inputs["input_ids"], **inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_placeholders_that_were_written_are_words(kind: str) -> None:
    chat, inputs = tiny_chat(kind), first_turn(kind)
    sequences, length = chat.model.generate(**inputs, **GREEDY), inputs["input_ids"].shape[1]
    ids = chat.processor.tokens.ids
    sequences[0, length + 1 : length + 4] = torch.tensor([ids.image, ids.region, ids.seg])
    written = chat.model.ground_generated(sequences, **inputs)
    assert written.phrase_mask.tolist() == [[True]]
    forced = [ids.image, ids.region, ids.image, ids.eos]

    def speak(read: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = torch.full_like(scores, -1e4)
        scores[:, forced[min(read.shape[1] - length, len(forced) - 1)]] = 0
        return scores

    for options in ({}, {"use_cache": False}, {"num_beams": 2}):
        said = chat.model.generate(**inputs, **GREEDY, **options, logits_processor=[speak])
        assert said[0, length : length + 4].tolist() == forced


def test_a_step_by_hand_may_give_the_image_again() -> None:
    model, inputs = tiny_chat("shared").model, first_turn("shared")
    read = model(**inputs, use_cache=True)
    step = {**inputs, "input_ids": read.logits[:, -1:].argmax(-1), "past_key_values": read.past_key_values}
    step["attention_mask"] = torch.ones(1, inputs["input_ids"].shape[1] + 1, dtype=torch.long)
    with torch.no_grad():
        token = model(**step).logits[:, -1].argmax(-1)
    assert token == model.generate(**inputs, **{**GREEDY, "max_new_tokens": 2})[0, -1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_regions_in_either_spelling_are_the_same(kind: str, options: dict[str, Any]) -> None:
    model = tiny_chat(kind).model
    tensors = second_turn(kind, first_turn(kind)["input_ids"])
    values = {name: value for name, value in tensors.items() if name not in REGION}
    values["region_prompts"] = RegionPrompts(*REGION.values())
    one, other = (model.generate(**inputs, **GREEDY, **options) for inputs in (tensors, values))
    assert torch.equal(one, other)
    one[:, -2] = model.config.seg_token_id
    assert same(model.ground_generated(one, **values), model.ground_generated(one, **tensors))
    elsewhere = {**tensors, "region_boxes_cxcywh_norm": REGION["region_boxes_cxcywh_norm"] * 0.4}
    assert not same(model.ground_generated(one, **elsewhere), model.ground_generated(one, **tensors))
    with torch.no_grad():
        torch.testing.assert_close(model(**tensors).logits, model(**values).logits)


def without(inputs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda i: without(i, "region_types"), UsageError, "belong together, region_types is missing"),
        (
            lambda i: without(i, "region_boxes_cxcywh_norm", "region_valid"),
            UsageError,
            "region_boxes_cxcywh_norm and region_valid is missing",
        ),
        (lambda i: {**i, "region_prompts": RegionPrompts(*REGION.values())}, UsageError, "and so on, got both"),
        (
            lambda i: {**i, "region_boxes_cxcywh_norm": i["region_boxes_cxcywh_norm"] * float("nan")},
            PromptError,
            "finite coordinates",
        ),
        (
            lambda i: {**i, "region_boxes_cxcywh_norm": i["region_boxes_cxcywh_norm"] / 0},
            PromptError,
            "finite coordinates",
        ),
        (lambda i: without(i, "grounder_pixel_values"), UsageError, "point into an image, and none was given"),
        (lambda i: without(i, *REGION), ShapeError, "region placeholders, but no region features"),
        (lambda i: without(i, "grounder_pixel_values", *REGION), ShapeError, "image placeholders, but no image feat"),
    ],
)
@pytest.mark.parametrize("call", ["forward", "generate", "ground_generated"])
def test_regions_and_images_are_never_dropped(
    call: str, change: Any, error: type[LlavaGroundingError], message: str
) -> None:
    model = tiny_chat("shared").model
    inputs = change(second_turn("shared", first_turn("shared")["input_ids"]))
    ids = [inputs["input_ids"]] if call == "ground_generated" else []
    with pytest.raises(error, match=message):
        getattr(model, call)(*ids, **inputs)
