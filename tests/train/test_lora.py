"""Adapters: on the language model only, and merged into weights that answer as the adapted model does."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hand_made import four_samples, sample
from running import StoppedError, differences, weights
from safetensors.torch import load_file
from small_training import chat_batch, recipe, training_model, training_processor, training_setup
from torch import Tensor

from llava_grounding.errors import ConfigError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.adapters import add_adapters, is_adapted, merged_state
from llava_grounding.train.batching.batches import ChatBatch
from llava_grounding.train.checkpoint import save_whole
from llava_grounding.train.plan import set_trainable, stage_plan
from llava_grounding.train.recipe import LoraSettings
from llava_grounding.train.run import run_stage
from llava_grounding.train.trainer import GroundingTrainer
from llava_grounding.train.training_setup import build_training_setup
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


class TestRuns:
    LORA: ClassVar[dict[str, Any]] = {"flavour": "shared", "num_points": 16, "lora": {"rank": 4, "alpha": 8}}

    def setup(self, folder: Path, seed: int = 0) -> Any:
        setup = training_setup(folder, **self.LORA)
        torch.manual_seed(seed)
        assert setup.recipe.lora is not None
        add_adapters(setup.model, setup.recipe.lora)
        set_trainable(setup.model, setup.plan, [setup.processor.tokens.ids.seg])
        return setup

    def test_they_alone_move_are_merged_in_what_is_left_and_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = self.setup(tmp_path / "straight")
        before = {name: value.clone() for name, value in weights(setup).items()}
        run_stage(setup, "cpu")
        moved = set(differences(weights(setup), before))
        language = {name for name in moved if name.split(".")[1] in ("language_model", "lm_head")}
        tables = {"model.language_model.embed_tokens.weight", "model.lm_head.weight"}
        assert all(".lora_" in name for name in language - tables)
        assert sum("lora_B" in name for name in language) == 14  # seven layers of each of two blocks
        rows = (weights(setup)["model.lm_head.weight"] != before["model.lm_head.weight"]).any(1).nonzero().flatten()
        assert rows.tolist() == [setup.processor.tokens.ids.seg]

        self.assert_merged(tmp_path / "straight/last", setup)
        with monkeypatch.context() as patched:
            honest = GroundingTrainer.training_step

            def mortal(trainer: GroundingTrainer, *arguments: Any, **keywords: Any) -> Tensor:
                if trainer.state.global_step == 3:
                    raise StoppedError
                return honest(trainer, *arguments, **keywords)

            patched.setattr(GroundingTrainer, "training_step", mortal)
            with pytest.raises(StoppedError):
                run_stage(self.setup(tmp_path / "stopped"), "cpu")
        assert (tmp_path / "stopped/checkpoint-2/learnt.safetensors").exists()
        resumed = self.setup(tmp_path / "stopped", seed=9)  # other fresh adapters
        run_stage(resumed, "cpu")
        assert differences(weights(resumed), weights(setup)) == []

    def assert_merged(self, folder: Path, setup: Any) -> None:
        merged = LlavaGroundingForConditionalGeneration.from_pretrained(folder).eval()
        assert not any("lora" in name or "base_layer" in name for name in load_file(folder / "model.safetensors"))
        model, batch = setup.model.eval(), setup.stream().batch(0).batch
        outputs = [
            one(
                input_ids=batch.texts["input_ids"],
                attention_mask=batch.texts["attention_mask"],
                grounder_pixel_values=batch.images["grounder_pixel_values"],
                region_prompts=batch.prompts,
                use_cache=False,
            ).logits
            for one in (model, merged)
        ]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        name = "language_model.layers.0.mlp.up_proj"
        assert not torch.equal(merged.get_submodule(name).weight, model.get_submodule(name).base_layer.weight)

    def test_quantised_weights_train_through_them(self, tmp_path: Path) -> None:
        pytest.importorskip("bitsandbytes")
        start = tmp_path / "start"
        setup = training_setup(start, flavour="official", stage="grounded_chat")
        save_whole(setup.training_module, setup.processor, start)
        for weights_kind in ("int8", "int4"):
            values = {"stage": "grounded_chat", "weights": weights_kind, "lora": {}, "start_from": str(start)}
            setup = build_training_setup(recipe(steps=1, **values), tmp_path / weights_kind, device="cpu")
            place = tmp_path / weights_kind / "last"
            if weights_kind == "int8":
                run_stage(setup, "cpu")
            else:  # on a CPU four bits need layers that are wider than those of a tiny model
                save_whole(setup.training_module, setup.processor, place)
            merged = load_file(place / "model.safetensors")
            assert all(value.is_floating_point() or "num_batches" in name for name, value in merged.items())
            assert not [name for name in merged if "base_layer" in name]
            assert "quantization_config" not in json.loads((place / "config.json").read_text())
