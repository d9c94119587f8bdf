"""Every argument that `forward` and `generate` know changes what they do, or is refused by its name."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import LogitsProcessorList, StoppingCriteriaList, Trainer, TrainingArguments

from llava_grounding.errors import UsageError
from tiny_model import picture, tiny_chat, tiny_config, tiny_weights

CHAT = tiny_chat("separate")
MODEL, PROCESSOR = CHAT.model, CHAT.processor
QUESTION = [
    {"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "Where is the dog?"}]}
]
INPUTS: dict[str, Any] = dict(
    PROCESSOR.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=True, return_dict=True)
)
LENGTH = INPUTS["input_ids"].shape[1]
LABELS = INPUTS["input_ids"].masked_fill(torch.arange(LENGTH) < LENGTH - 6, -100)
REGION = {
    "region_boxes_cxcywh_norm": torch.tensor([[[0.5, 0.5, 0.3, 0.3]]]),
    "region_types": torch.tensor([[1]]),
    "region_valid": torch.tensor([[True]]),
}


@torch.no_grad()
def forward(**change: Any) -> Any:
    inputs = {**INPUTS, **change}
    return MODEL(**{name: value for name, value in inputs.items() if value is not None})


def last(output: Any) -> torch.Tensor:
    return output.logits[:, -1]


def test_every_argument_of_forward_does_what_it_says() -> None:
    plain = forward()
    features = MODEL.encode_image(INPUTS["grounder_pixel_values"], INPUTS["pixel_values"])
    no_pixels: dict[str, Any] = {"grounder_pixel_values": None, "pixel_values": None}
    embeds = MODEL.embed_prompt(INPUTS["input_ids"], features)[0].detach()
    pointed = torch.cat([INPUTS["input_ids"], torch.tensor([[PROCESSOR.tokens.ids.region]])], dim=1)
    masked = {"input_ids": pointed, "attention_mask": torch.ones_like(pointed), **REGION}
    cached = forward(use_cache=True)
    step: dict[str, Any] = {
        "input_ids": torch.tensor([[20]]),
        "attention_mask": torch.ones(1, LENGTH + 1, dtype=torch.long),
        **no_pixels,
    }
    stretched = {"input_ids": torch.cat([INPUTS["input_ids"], step["input_ids"]], dim=1)}
    other_words = INPUTS["input_ids"].index_fill(1, torch.tensor([LENGTH - 2]), 30)
    begun_later = (torch.arange(LENGTH) > 2).long()[None]
    eager = copy.deepcopy(MODEL)
    eager.set_attn_implementation("eager")
    shown = {
        "input_ids": not torch.equal(last(forward(input_ids=other_words)), last(plain)),
        "grounder_pixel_values": torch.equal(forward().image_features.memory.memory, features.memory.memory),
        "pixel_values": not torch.equal(last(forward(pixel_values=-INPUTS["pixel_values"])), last(plain)),
        "attention_mask": not torch.equal(last(forward(attention_mask=begun_later)), last(plain)),
        "position_ids": not torch.allclose(last(forward(position_ids=torch.arange(LENGTH)[None] * 3)), last(plain)),
        "labels": forward(labels=LABELS).loss > 0,
        "image_features": torch.equal(last(forward(image_features=features, **no_pixels)), last(plain)),
        "inputs_embeds": torch.equal(last(forward(inputs_embeds=embeds, input_ids=None, **no_pixels)), last(plain)),
        "prompt_embeds": torch.equal(last(forward(prompt_embeds=embeds, **no_pixels)), last(plain)),
        "past_key_values": torch.allclose(
            last(forward(**step, past_key_values=cached.past_key_values)),
            last(forward(**stretched, attention_mask=step["attention_mask"])),
            atol=1e-4,
        ),
        "use_cache": forward(use_cache=False).past_key_values is None and cached.past_key_values is not None,
        "logits_to_keep": torch.allclose(forward(logits_to_keep=2).logits, plain.logits[:, -2:], atol=1e-4)
        and torch.allclose(forward(logits_to_keep=torch.tensor([3, 5])).logits, plain.logits[:, [3, 5]], atol=1e-4),
        "output_hidden_states": plain.hidden_states is None
        and torch.equal(forward(output_hidden_states=True).hidden_states[-1], plain.last_hidden_state),
        "output_attentions": eager(**INPUTS, output_attentions=True).attentions[0].shape[2:] == (LENGTH, LENGTH),
        "return_dict": isinstance(forward(return_dict=False), tuple),
        "region_boxes_cxcywh_norm": not torch.equal(
            last(forward(**masked)),
            last(forward(**{**masked, "region_boxes_cxcywh_norm": REGION["region_boxes_cxcywh_norm"] / 3})),
        ),
        "region_types": not torch.equal(
            last(forward(**masked)), last(forward(**{**masked, "region_types": torch.tensor([[0]])}))
        ),
        "region_coverage": not torch.equal(
            last(forward(**masked)), last(forward(**masked, region_coverage=torch.ones(1, 1, 8, 8)))
        ),
    }
    assert [name for name, fact in shown.items() if not fact] == []
    # Held by tests of their own; the sizes of the originals are for the way out.
    elsewhere = {"self", "kwargs", "region_prompts", "region_valid", "image_sizes"}
    assert shown.keys() | elsewhere == set(inspect.signature(type(MODEL).forward).parameters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attn_mask": 1}, "no argument `attn_mask`; did you mean `attention_mask`"),
        ({"cache_position": torch.arange(3)}, "no argument `cache_position`"),
        ({"num_logits_to_keep": 1}, "no argument `num_logits_to_keep`; did you mean `logits_to_keep`"),
        ({"inputs_embeds": torch.zeros(1, LENGTH, 48)}, "as input_ids or as inputs_embeds, and not as both"),
        ({"input_ids": None}, "as input_ids or as inputs_embeds, and not as both"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 48)}, "must have image and regions in them already"),
        ({"output_attentions": True}, r"set_attn_implementation\(\"eager\"\)"),
    ],
)
def test_forward_refuses_what_it_cannot_do(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        forward(**change)


def test_the_loss_is_divided_by_the_tokens_of_the_whole_step() -> None:
    mean, count = forward(labels=LABELS).loss, 6
    torch.testing.assert_close(forward(labels=LABELS, num_items_in_batch=24).loss, mean * count / 24)
    torch.testing.assert_close(forward(labels=LABELS, num_items_in_batch=torch.tensor(24)).loss, mean * count / 24)


def generate(**options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODEL.generate(**INPUTS, **{"max_new_tokens": 6, "do_sample": False, **options})


def test_generate_gives_what_it_is_asked_for() -> None:
    plain = generate()
    full = generate(return_dict_in_generate=True, output_scores=True, output_logits=True, output_hidden_states=True)
    assert torch.equal(full.sequences, plain)
    assert len(full.scores) == len(full.logits) == len(full.hidden_states) == 6
    assert torch.equal(torch.stack(full.scores)[:, 0].argmax(-1), plain[0, LENGTH:])
    assert generate(do_sample=True, num_return_sequences=3).shape == (3, LENGTH + 6)
    assert torch.equal(generate(do_sample=True), generate(do_sample=True))
    assert generate(num_beams=3, num_return_sequences=2).shape[0] == 2
    assert generate(max_new_tokens=1).shape[1] == LENGTH + 1
    assert generate(guidance_scale=3.0).shape == plain.shape
    assert not torch.equal(generate(guidance_scale=3.0, max_new_tokens=20), generate(max_new_tokens=20))
    assert generate(min_new_tokens=6).shape == plain.shape
    stop = StoppingCriteriaList([lambda ids, scores: torch.tensor([ids.shape[1] >= LENGTH + 3])])
    assert torch.equal(generate(stopping_criteria=stop), plain[:, : LENGTH + 3])
    first_word = PROCESSOR.tokenizer.convert_ids_to_tokens([20])[0]
    begin = LogitsProcessorList([lambda ids, scores: scores.index_fill(1, torch.tensor([20]), 1e9)])
    stopped = generate(stop_strings=[first_word], tokenizer=PROCESSOR.tokenizer, logits_processor=begin)
    assert stopped[0, LENGTH:].tolist() == [20]
    forbid = LogitsProcessorList([lambda ids, scores: scores.index_fill(1, plain[0, LENGTH:], -1e9)])
    assert set(generate(logits_processor=forbid)[0, LENGTH:].tolist()).isdisjoint(plain[0, LENGTH:].tolist())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_new_tokens": 0}, ValueError),
        ({"num_return_sequences": 3}, ValueError),
        ({"inputs_embeds": torch.zeros(1, 3, 48)}, UsageError),
        ({"output_attentions": True, "return_dict_in_generate": True}, UsageError),
        ({"attn_mask": 1}, ValueError),
        ({"temperatur": 1.0}, ValueError),
    ],
)
def test_generate_refuses_what_it_cannot_do(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        generate(**options)


def test_ground_generated_knows_its_arguments() -> None:
    with pytest.raises(UsageError, match="got `region_boxes_cxcywh`; did you mean `region_boxes_cxcywh_norm`"):
        MODEL.ground_generated(INPUTS["input_ids"], **INPUTS, region_boxes_cxcywh=1)
    MODEL.ground_generated(INPUTS["input_ids"], **INPUTS, max_new_tokens=3, do_sample=False)


def checkpointing(model: Any, enable: bool) -> None:
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # its older name
    getattr(model, f"{name}_checkpointing_{'enable' if enable else 'disable'}")()


def checkpointed(model: torch.nn.Module) -> set[str]:
    return {
        name.split(".")[0] for name, part in model.named_modules() if getattr(part, "gradient_checkpointing", False)
    }


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_gradient_checkpointing_is_that_of_the_language_model(kind: str) -> None:
    model, processor = tiny_weights(tiny_config(kind)).train(), tiny_chat(kind).processor
    inputs = dict(processor.apply_chat_template(QUESTION, tokenize=True, return_dict=True))
    labels = inputs["input_ids"].masked_fill(torch.arange(inputs["input_ids"].shape[1]) < 10, -100)
    gradients = []
    for enable in (False, True):
        checkpointing(model, enable)
        assert checkpointed(model) == ({"language_model"} if enable else set())
        model.zero_grad()
        mlp = model.language_model.layers[0].mlp
        with mock.patch.object(mlp, "forward", wraps=mlp.forward) as passes:
            model(**inputs, labels=labels, use_cache=False).loss.backward()
        assert passes.call_count == (2 if enable else 1)
        gradients.append(model.language_model.layers[0].self_attn.q_proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    checkpointing(model, False)
    assert checkpointed(model) == set()


def test_the_trainer_of_transformers_may_ask_for_it(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = tiny_weights(tiny_config("separate"))
    row = {**{name: value[0] for name, value in INPUTS.items()}, "labels": LABELS[0]}
    names = inspect.signature(TrainingArguments).parameters
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, **{name: True}
    )
    before = model.lm_head.weight.clone()
    Trainer(model=model, args=arguments, train_dataset=[row] * 2).train()
    assert checkpointed(model) == {"language_model"}
    assert not torch.equal(model.lm_head.weight, before)
