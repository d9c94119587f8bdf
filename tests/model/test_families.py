"""Language models of several families under the same grounder: nothing assumes Llama, CLIP or a width."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_grounding.inference.engine import GroundedChat
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.presets import preset
from llava_grounding.model.sizes import meta_model
from llava_grounding.structures import VisualPrompt
from tiny_model import KINDS, picture, saying, tiny_config, tiny_processor, tiny_weights

IMAGE = picture(5)
SIZES = {
    "vocab_size": 512,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"model_type": "qwen3", **SIZES},
    "gemma3": {
        "model_type": "gemma3_text",
        **SIZES,
        "sliding_window": 8,  # shorter than the prompt, so that it matters
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,  # tied, it only ever repeats itself
    },
    "gemma2": {
        "model_type": "gemma2",
        **SIZES,
        "sliding_window": 8,
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    },
    "phi3": {"model_type": "phi3", **SIZES, "head_dim": 10, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1},
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 20,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}
GROUNDED = "<g_s> The dog <g_e> <seg> and <g_s> a cat <g_e> <seg>."


@cache
def family_chat(family: str) -> GroundedChat:
    grounder = {**KINDS["separate"]["grounder_config"], "phrase_size": 40}
    config = tiny_config(
        "separate",
        text_config=FAMILIES[family],
        vision_config=SIGLIP,
        grounder_config=grounder,
        visual_prompt_config=KINDS["shared"]["visual_prompt_config"],
        projector="mlp",
        phrase_state="at_seg",
        phrase_projector="linear",
        score_function="sigmoid",
        score_threshold=0.5,
        tie_word_embeddings=FAMILIES[family]["tie_word_embeddings"],
    )
    return GroundedChat(tiny_weights(config), tiny_processor(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_writes_what_the_engine_writes(family: str) -> None:
    chat = family_chat(family)
    questions = ["Where is the dog?", "What is to the left of the two white cats?"]
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": question}]}]
        for question in questions
    ]
    inputs = chat.processor.apply_chat_template(chats, tokenize=True, return_dict=True, add_generation_prompt=True)
    ids = chat.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    texts = chat.processor.post_process_image_text_to_text(
        ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=False
    )
    assert texts == [chat.ask(IMAGE, question, max_new_tokens=8).raw for question in questions]
    # Gemma 2 makes embeddings so large that random layers this small change no word.
    assert len(set(texts)) == (1 if family == "gemma2" else 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_answers_and_grounds_as_before(family: str, tmp_path: Path) -> None:
    chat = family_chat(family)
    chat.model.save_pretrained(tmp_path)
    chat.processor.save_pretrained(tmp_path)
    again = GroundedChat.from_pretrained(tmp_path)
    place = (VisualPrompt.box(10, 5, 60, 50),)
    answers = [each.ask(IMAGE, "What is <region>?", place, max_new_tokens=8) for each in (chat, again)]
    assert answers[0].raw == answers[1].raw
    grounded = []
    for each in (chat, again):
        with saying(each, GROUNDED):
            grounded.append(each.ask(IMAGE, "Where is the dog?"))
    first, second = (answer.phrases for answer in grounded)
    assert [phrase.text for phrase in first] == ["The dog", "a cat"]
    assert [phrase.score for phrase in first] == pytest.approx([phrase.score for phrase in second], abs=1e-5)
    assert first[0].score != first[1].score
    found = [each.ground(IMAGE, ["the dog"])[0] for each in (chat, again)]
    assert found[0].score == pytest.approx(found[1].score, abs=1e-5)


def test_gemma_bounds_its_logits_and_others_do_not() -> None:
    hidden = torch.randn(2, 3, 40) * 10
    bounded = family_chat("gemma2").model.logits(hidden)
    assert 2.0 < bounded.abs().max() <= 3.0
    assert family_chat("gemma3").model.logits(hidden).abs().max() > 3.0


def test_cohere_and_granite_scale_their_logits() -> None:
    model = family_chat("qwen3").model
    hidden = torch.randn(1, 40)
    plain = model.logits(hidden)
    text = model.config.text_config
    try:
        text.logit_scale = 0.5
        torch.testing.assert_close(model.logits(hidden), plain * 0.5)
        text.logits_scaling = 4.0
        torch.testing.assert_close(model.logits(hidden), plain * 0.125)
    finally:
        del text.logit_scale, text.logits_scaling


@pytest.mark.parametrize(
    ("name", "family", "width", "positions"),
    [("qwen3_4b", "qwen3", 2560, 27 * 27), ("gemma3_1b", "gemma3_text", 1152, 196)],
)
def test_presets_put_the_grounder_on_other_language_models(name: str, family: str, width: int, positions: int) -> None:
    config = preset(name)
    assert config.text_config.model_type == family
    assert config.vision_config.model_type == "siglip_vision_model"
    assert config.image_sequence_length == positions
    model = meta_model(config)
    assert isinstance(model, LlavaGroundingForConditionalGeneration)
    assert model.phrase_projector.weight.shape == (width, width)
    assert model.visual_prompt_encoder.region_projection.out_features == width
    special = [config.image_token_id, config.seg_token_id, config.region_token_id, config.eos_token_id]
    assert len(set(special)) == 4
    assert max(special) < config.text_config.vocab_size
