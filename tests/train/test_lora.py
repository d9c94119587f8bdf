"""Adapters: on the language model only, and merged into weights that answer as the adapted model does."""

import numpy as np
import pytest
import torch
from hand_made import four_samples, sample
from small_training import chat_batch, recipe, training_model, training_processor

from llava_grounding.errors import ConfigError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.adapters import add_adapters, is_adapted, merged_state
from llava_grounding.train.batching.batches import ChatBatch
from llava_grounding.train.plan import set_trainable, stage_plan
from llava_grounding.train.recipe import LoraSettings
from whole_models import LANGUAGE

pytest.importorskip("peft")
TARGETS = ("q_proj", "v_proj", "down_proj")
FLAVOURS = ["shared", "official", "siglip"]


def adapted(
    flavour: str = "shared", dtype: torch.dtype = torch.float32, targets: tuple[str, ...] = TARGETS, **config: object
) -> LlavaGroundingForConditionalGeneration:
    """A model whose adapters say something."""
    model = training_model(flavour, **config).eval()
    model.language_model.to(dtype)
    add_adapters(model, LoraSettings(rank=2, alpha=6, dropout=0.5, targets=targets))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def batch(flavour: str) -> ChatBatch:
    return chat_batch([sample(), *four_samples()[:1]], training_processor(flavour), None, 3, np.random.default_rng(0))


def outputs(model: LlavaGroundingForConditionalGeneration, given: ChatBatch) -> torch.Tensor:
    with torch.no_grad():
        return model(
            input_ids=given.texts["input_ids"],
            attention_mask=given.texts["attention_mask"],
            region_prompts=given.prompts,
            **given.images,
        ).logits


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_merged_weights_answer_as_the_adapted_model_and_leave_it_as_it_is(flavour: str) -> None:
    model, plain, given = adapted(flavour), training_model(flavour).eval(), batch(flavour)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merged = merged_state(model)
    assert merged.keys() == plain.state_dict().keys()
    fresh = training_model(flavour, seed=5).eval()
    fresh.load_state_dict(merged)
    expected = outputs(model, given)
    torch.testing.assert_close(outputs(fresh, given), expected, rtol=1e-3, atol=1e-4)
    assert (outputs(plain, given) - expected).abs().max() > 0.01
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert is_adapted(model)
    assert not is_adapted(fresh)


def test_layers_that_keep_their_weights_turned_are_merged_turned() -> None:
    text = {**LANGUAGE["gpt2"], "vocab_size": 320, "n_positions": 512}
    model = adapted("official", targets=("c_attn",), text_config=text)
    merged = merged_state(model)
    plain = training_model("official", seed=5, text_config=text).eval()
    plain.load_state_dict(merged)
    torch.testing.assert_close(
        outputs(plain, batch("official")), outputs(model, batch("official")), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_fresh_adapter_changes_nothing_and_the_base_is_as_before(flavour: str) -> None:
    model, plain = training_model(flavour).eval(), training_model(flavour).eval()
    add_adapters(model, LoraSettings(rank=2))
    model.eval()
    assert torch.equal(outputs(model, batch(flavour)), outputs(plain, batch(flavour)))
    merged = merged_state(model)
    assert all(torch.equal(merged[name], value) for name, value in plain.state_dict().items())


def test_only_layers_of_the_language_model_get_one() -> None:
    model = adapted("official", targets=("q_proj", "k_proj", "fc1", "linear_1"))
    owners = {name.partition(".")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert owners == {"language_model"}
    assert any("q_proj" in name for name, _ in model.vision_tower.named_parameters())
    layers = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(layers) == 2 * 2  # two targets that are there in each of two layers


def test_targets_that_are_nowhere_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        add_adapters(training_model(), LoraSettings(targets=("c_attn", "fc1")))
    assert str(caught.value) == "`lora.targets` names no layer of the language model: c_attn, fc1"


def test_a_target_must_be_the_end_of_a_name_as_a_whole() -> None:
    with pytest.raises(ConfigError, match="names no layer"):
        add_adapters(training_model(), LoraSettings(targets=("proj",)))


def test_adapters_stay_precise_and_merged_weights_keep_their_type() -> None:
    model = adapted(dtype=torch.bfloat16)
    assert {one.dtype for name, one in model.named_parameters() if ".lora_" in name} == {torch.float32}
    merged = merged_state(model)
    assert merged["language_model.layers.0.self_attn.q_proj.weight"].dtype == torch.bfloat16
    assert merged["grounder.mask_head.layers.0.weight"].dtype == torch.float32


def test_the_base_does_not_move_while_adapters_learn() -> None:
    one = recipe("chat", lora={"rank": 2, "targets": ["q_proj"]})
    model = training_model()
    add_adapters(model, one.lora)
    set_trainable(model, stage_plan(one), [8])
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.01)
    given = batch("shared")
    for _ in range(2):  # the first step moves one of the two matrices alone
        optimizer.zero_grad()
        model(
            input_ids=given.texts["input_ids"],
            labels=given.texts["labels"],
            region_prompts=given.prompts,
            **given.images,
        ).loss.backward()
        optimizer.step()
    moved = {
        name
        for name, value in model.language_model.named_parameters()
        if not torch.equal(value, before[f"language_model.{name}"])
    }
    adapters = {name for name, _ in model.language_model.named_parameters() if ".lora_" in name}
    assert moved - adapters == {"embed_tokens.weight"}
    assert adapters <= moved
