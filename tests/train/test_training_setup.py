"""A stage put together from its recipe: what starts from nothing, what from an earlier stage, and what is refused."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import source, write_source
from hand_made import NAMES, four_samples
from safetensors.torch import load_file, save_file
from small_training import class_phrases, recipe, shrink_world, training_config, training_model, training_processor

from llava_grounding.data.augmentation import AugmentationSettings
from llava_grounding.errors import CheckpointError, ConfigError, DataError
from llava_grounding.model.efficientnet_lite import EfficientNetLiteConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.nanodet import NanoDetConfig
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train import training_setup
from llava_grounding.train.batching import source_kinds
from llava_grounding.train.batching.sources import open_sources
from llava_grounding.train.checkpoint import load_class_phrases, save_phrases, save_whole
from llava_grounding.train.pretrained_backbone import weights_file
from llava_grounding.train.publish import publish
from llava_grounding.train.recipe import Recipe
from llava_grounding.train.run import run_stage, train
from llava_grounding.train.training_setup import build_training_setup, class_names
from llava_grounding.train.validation import Validation


@pytest.fixture(autouse=True)
def _small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_world(monkeypatch)


def small(stage: str, **values: object) -> Recipe:
    return recipe(stage, **{"preset": "shared", "steps": 1, "batch_size": 1, **values})


def first_stage(folder: Path, flavour: str = "shared") -> Path:
    """What an earlier stage leaves: model, processor and class phrases."""
    training_model(flavour, seed=3).save_pretrained(folder)
    training_processor(flavour).save_pretrained(folder)
    save_phrases(class_phrases(3), folder)
    return folder


def test_photos_that_may_not_be_used_commercially_are_left_out_where_that_is_asked(
    mini_pack_root: Path, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(mini_pack_root, pack)
    labels = json.loads((pack / "instances_val.json").read_text(encoding="utf-8"))
    for row, license in zip(labels["images"], ("CC BY-NC 2.0", "CC BY 2.0", "", "CC0"), strict=True):
        row["license"] = license
    (pack / "instances_val.json").write_text(json.dumps(labels), encoding="utf-8")
    free = {row["file_name"] for row in labels["images"][1::2]}
    data = [{"kind": "photos", "split": "val", "mirrored": 0.0}, {"kind": "scenes"}]
    for wanted in (True, False):
        setup = build_training_setup(small("chat", commercial_use=wanted, data=data), tmp_path, pack)
        photos = setup.mixture.sources[0]
        names = {photos.sample(number, np.random.default_rng(0)).id for number in range(photos.size)}
        assert names == (free if wanted else {row["file_name"] for row in labels["images"]})
    for row in labels["images"]:
        row["license"] = "CC BY-NC 2.0"
    (pack / "instances_val.json").write_text(json.dumps(labels), encoding="utf-8")
    assert open_sources([{**data[0], "optional": True}], pack, commercial_use=True) == []


def test_photos_are_augmented_as_the_recipe_says(tmp_path: Path, mini_pack_root: Path) -> None:
    data = [{"kind": "photos", "split": "val", "augmented": True}, {"kind": "scenes"}]
    given = small("chat", data=data, augmentation={"crop_probability": 0.0})
    photos = build_training_setup(given, tmp_path, mini_pack_root).mixture.sources[0]
    assert isinstance(photos, source_kinds.Photos)
    assert photos.augmentation == AugmentationSettings(crop_probability=0.0)


@pytest.mark.slow
def test_both_stages_follow_each_other_and_the_result_can_be_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="llava_grounding"):
        first = train(small("pretrain_grounder"), tmp_path / "first", device="cpu")
        assert "class_f1" in first
        learning = [line.split()[0] for line in caplog.messages if "  trainable " in line]
        assert learning == ["vision_tower", "grounder", "class_phrases"]
        assert "starting fresh: phrases of 3 classes" in caplog.text
        caplog.clear()
        second = train(small("chat", start_from=str(tmp_path / "first/best")), tmp_path / "second", device="cpu")
    assert {"class_f1", "phrase_f1", "language_loss"} <= second.keys()
    assert "starting fresh" not in caplog.text
    ours = LlavaGroundingProcessor.from_pretrained(tmp_path / "second/best")
    assert (
        ours.tokenizer.get_vocab()
        == LlavaGroundingProcessor.from_pretrained(tmp_path / "first/best").tokenizer.get_vocab()
    )
    assert publish(tmp_path / "second/best", tmp_path / "out") > 0
    model = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert bool(torch.isfinite(model.lm_head.weight).all())


class TestFromNothing:
    def test_the_same_seed_starts_from_the_same_weights(self, tmp_path: Path) -> None:
        setups = [build_training_setup(small("chat", seed=seed), tmp_path) for seed in (1, 1, 2)]
        weights = [setup.model.grounder.mask_head.layers[0].weight for setup in setups]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert torch.equal(setups[0].phrases.embeds, setups[1].phrases.embeds)

    def test_vision_pretraining_draws_no_dialogues_but_its_tokenizer_has_read_some(self, tmp_path: Path) -> None:
        def turns(setup: training_setup.TrainingSetup) -> tuple[Any, ...]:
            return setup.mixture.fill(setup.mixture.slots(0)[0], lambda sample: sample)[0].turns

        setup = build_training_setup(small("pretrain_grounder"), tmp_path)
        assert turns(setup) == ()
        assert len(setup.processor.tokens.encode_plain(" ASSISTANT:")) < len(" ASSISTANT:")
        assert turns(build_training_setup(small("chat"), tmp_path))
        assert setup.processor.settings.image_sequence_length == setup.model.config.image_sequence_length
        assert setup.processor.settings.canvas.size == setup.model.config.grounder_config.image_size

    def test_of_another_model_all_weights_are_taken_that_fit_and_its_tokenizer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        start = first_stage(tmp_path / "first")
        config = training_config("shared")
        config.grounder_config.backbone_config = EfficientNetLiteConfig()
        monkeypatch.setattr(training_setup, "preset", lambda name: config)
        with caplog.at_level("INFO"):
            setup = build_training_setup(small("chat", init_from=str(start)), tmp_path)
        earlier, now = load_file(start / "model.safetensors"), setup.model.state_dict()
        taken = [name for name, value in earlier.items() if name in now and now[name].shape == value.shape]
        assert "language_model.layers.0.mlp.down_proj.weight" in taken
        assert not any(name.startswith("grounder.backbone.") for name in taken)
        assert all(torch.equal(now[name], earlier[name]) for name in taken)
        assert setup.processor.tokenizer.get_vocab() == training_processor("shared").tokenizer.get_vocab()
        assert setup.processor.settings.canvas.size == config.grounder_config.image_size
        assert setup.phrases is not None
        assert torch.equal(setup.phrases.embeds, load_class_phrases(start).embeds)
        assert "fresh: {'grounder.backbone.body'" in caplog.text

    def test_a_backbone_starts_with_published_weights_and_its_first_stages_are_frozen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = training_config("shared")
        config.grounder_config.backbone_config = EfficientNetLiteConfig()
        monkeypatch.setattr(training_setup, "preset", lambda name: config)
        wishes = {"backbone_weights": "efficientnet_lite0", "frozen_stages": 3, "freeze_batch_norm": True}
        training_module = build_training_setup(small("chat", **wishes), tmp_path).training_module.train()
        body = training_module.model.grounder.backbone.body
        published = torch.load(weights_file("efficientnet_lite0"), weights_only=True)
        assert torch.equal(body.stem.conv.weight, published["_conv_stem.weight"])
        assert torch.equal(body.stages[6][0].project.conv.weight, published["_blocks.15._project_conv.weight"])
        learning = [any(one.requires_grad for one in stage.parameters()) for stage in (body.stem, *body.stages)]
        assert learning == [False] * 3 + [True] * 5
        assert not any(one.training for one in body.modules() if isinstance(one, torch.nn.BatchNorm2d))
        assert training_module.model.grounder.pixel_decoder.training
        assert (
            build_training_setup(small("chat"), tmp_path)
            .training_module.train()
            .model.grounder.backbone.body.stem.norm.training
        )

    def test_stages_of_nanodet_are_frozen_from_the_pixels_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = training_config("shared")
        config.grounder_config.backbone_config = NanoDetConfig()
        monkeypatch.setattr(training_setup, "preset", lambda name: config)
        body = build_training_setup(small("chat", frozen_stages=3), tmp_path).model.grounder.backbone.body
        learning = [all(one.requires_grad for one in part.parameters()) for part in (body.stem, *body.stages)]
        assert learning == [False] * 3 + [True] * 2
        assert all(one.requires_grad for one in body.laterals.parameters())

    def test_stages_of_another_backbone_cannot_be_frozen(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"`frozen_stages` needs an EfficientNet-Lite or a NanoDet backbone"):
            build_training_setup(small("chat", frozen_stages=1), tmp_path)

    def test_a_model_with_other_tokens_is_no_start_for_a_preset(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = first_stage(tmp_path / "first")
        monkeypatch.setattr(training_setup, "preset", lambda name: training_config("shared", eos_token_id=7))
        with pytest.raises(ConfigError, match=r"preset `shared` and `.*first` differ in eos_token_id"):
            build_training_setup(small("chat", init_from=str(start)), tmp_path)

    @pytest.mark.parametrize("flavour", ["official", "siglip"])
    def test_a_preset_with_a_tower_of_its_own_cannot_start_from_nothing(self, flavour: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            build_training_setup(small("chat", preset=flavour), tmp_path)
        assert str(caught.value) == f"preset `{flavour}` has a tower or tokenizer of its own, so it needs start_from"

    def test_wishes_for_the_model_are_heard(self, tmp_path: Path) -> None:
        setup = build_training_setup(small("chat", num_queries=5, detach_grounding=True), tmp_path)
        assert setup.model.grounder.query_selection.num_queries == 5
        assert setup.model.config.detach_grounding


class TestFromACheckpoint:
    def test_a_later_stage_starts_with_the_weights_of_the_earlier(self, tmp_path: Path) -> None:
        start = first_stage(tmp_path / "first")
        setup = build_training_setup(small("chat", start_from=str(start), seed=9), tmp_path)
        saved = load_file(start / "model.safetensors")
        state = setup.model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in saved.items())
        assert setup.model.lm_head.weight is setup.model.get_input_embeddings().weight
        assert setup.phrases.names == NAMES
        assert torch.equal(setup.phrases.embeds, load_file(start / "class_phrases.safetensors")["embeds"])

    def test_class_names_pass_a_stage_that_has_no_use_for_them(self, tmp_path: Path) -> None:
        start, values = first_stage(tmp_path / "first"), {"freeze": ["grounder"]}
        between = build_training_setup(small("chat", start_from=str(start), **values), tmp_path / "between")
        assert between.phrases is None
        run_stage(between, "cpu")
        for folder in ("last", "best"):
            setup = build_training_setup(small("chat", start_from=str(tmp_path / "between" / folder)), tmp_path)
            assert setup.phrases.names == NAMES
            assert torch.equal(setup.phrases.embeds, class_phrases(3).embeds)
        assert setup.earlier_phrases is None

    @pytest.mark.parametrize("flavour", ["shared", "official"])
    def test_wishes_for_the_model_are_heard_and_kept(self, flavour: str, tmp_path: Path) -> None:
        start = first_stage(tmp_path / "first", flavour)
        values = {"num_queries": 6, "detach_grounding": True, "class_task": False}
        setup = build_training_setup(small("grounded_chat", start_from=str(start), **values), tmp_path)
        assert setup.model.grounder.query_selection.num_queries == 6
        assert setup.phrases is None
        losses = setup.training_module(setup.stream().batch(0).batch)
        assert torch.isfinite(losses["loss"])
        save_whole(setup.training_module, setup.processor, tmp_path / "last")
        again = build_training_setup(
            small("grounded_chat", start_from=str(tmp_path / "last"), class_task=False), tmp_path
        )
        assert again.model.config.grounder_config.num_queries == 6
        assert not again.model.config.detach_grounding  # a wish of the recipe, not of the model

    @pytest.mark.parametrize(
        ("flavour", "stage", "wishes", "whole"),
        [
            ("shared", "align", {}, False),
            ("shared", "grounded_chat", {}, True),
            ("official", "grounded_chat", {"train_lm_head": False}, True),
            ("official", "grounded_chat", {"freeze": ["language_model"]}, False),
            ("official", "grounded_chat", {"lora": {"rank": 2}}, False),
        ],
    )
    def test_what_learns_in_or_beside_a_narrow_language_model_is_precise(
        self, flavour: str, stage: str, wishes: dict[str, Any], whole: bool, tmp_path: Path
    ) -> None:
        start = first_stage(tmp_path / "first", flavour)
        values = {"weights": "bfloat16", "start_from": str(start), "bf16": True, **wishes}
        setup = build_training_setup(small(stage, **values), tmp_path)
        named = dict(setup.training_module.named_parameters())
        assert {one.dtype for one in named.values() if one.requires_grad} == {torch.float32}
        layer = setup.model.language_model.layers[0].mlp.up_proj
        layer = getattr(layer, "base_layer", layer)
        assert layer.weight.dtype == (torch.float32 if whole else torch.bfloat16)
        for autocast in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                losses = setup.training_module(setup.stream().batch(0).batch)
            losses["loss"].backward()
            assert torch.isfinite(losses["loss"])
        self.assert_small_steps_are_not_lost(named)
        look = Validation(four_samples(), setup.processor, chat=True)
        found = look(setup.model.eval(), None)  # without any autocast
        assert np.isfinite(found["language_loss"])
        save_whole(setup.training_module, setup.processor, tmp_path / "last")
        kept = load_file(tmp_path / "last" / "model.safetensors")
        assert {one.dtype for name, one in kept.items() if name.startswith("language_model.")} == {torch.bfloat16}
        assert torch.equal(kept["language_model.norm.weight"], setup.model.language_model.norm.weight.bfloat16())

    def assert_small_steps_are_not_lost(self, named: dict[str, torch.nn.Parameter]) -> None:
        """Nor in the optimiser: one step of the paper's rate moves whatever has a gradient."""
        learning = {name: one for name, one in named.items() if one.grad is not None and one.grad.any()}
        assert learning
        before = {name: one.detach().clone() for name, one in learning.items()}
        torch.optim.AdamW(learning.values(), lr=2e-5, weight_decay=0.0).step()
        for name, one in learning.items():
            steep = one.grad.abs() > 1e-6
            assert bool((one.detach() != before[name])[steep].all()), name

    def test_adapters_are_put_on_and_alone_learn(self, tmp_path: Path) -> None:
        start = first_stage(tmp_path / "first")
        setup = build_training_setup(small("chat", start_from=str(start), lora={"rank": 2}), tmp_path)
        learning = {name for name, one in setup.model.language_model.named_parameters() if one.requires_grad}
        assert {name for name in learning if ".lora_" not in name} == {"embed_tokens.weight"}
        assert any(".lora_" in name for name in learning)

    def test_classes_the_earlier_stage_has_not_seen_are_added_to_those_it_has(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        start = first_stage(tmp_path / "first")
        earlier = load_class_phrases(start)
        monkeypatch.setattr(source_kinds, "CATEGORIES", [*NAMES, "zebra", "apple"])
        with caplog.at_level("INFO"):
            phrases = build_training_setup(small("chat", start_from=str(start)), tmp_path).phrases
        assert phrases is not None
        assert phrases.names == [*earlier.names, "apple", "zebra"]
        torch.testing.assert_close(phrases.embeds[:-2], earlier.embeds)
        torch.testing.assert_close(phrases.cell_head.weight[:-2], earlier.cell_head.weight)
        torch.testing.assert_close(phrases.cell_head.bias[:-2], earlier.cell_head.bias)
        assert "phrases of 2 classes" in caplog.text

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.update(extra=torch.zeros(1)), r"1 weight is not expected \(extra\)"),
            (lambda state: state.update({"phrase_projector.bias": torch.zeros(3)}), "of another shape .*bias is"),
            (lambda state: state.pop("phrase_projector.bias"), r"1 weight is missing \(phrase_projector.bias\)"),
        ],
    )
    def test_weights_without_a_place_missing_or_of_another_shape_are_refused(
        self, change: Callable[[dict[str, torch.Tensor]], Any], message: str, tmp_path: Path
    ) -> None:
        start = first_stage(tmp_path / "first")
        state = load_file(start / "model.safetensors")
        change(state)
        save_file(state, start / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            build_training_setup(small("chat", start_from=str(start)), tmp_path)

    def test_a_missing_or_damaged_file_is_named(self, tmp_path: Path) -> None:
        start = first_stage(tmp_path / "first")
        for content, trouble in [(b"", "is damaged"), (np.zeros(9).tobytes(), "is damaged"), (None, "has no")]:
            if content is None:
                (start / "model.safetensors").unlink()
            else:
                (start / "model.safetensors").write_bytes(content)
            with pytest.raises(CheckpointError, match=rf"{trouble}.*|model.safetensors"):
                build_training_setup(small("chat", start_from=str(start)), tmp_path)
        with pytest.raises(ConfigError, match="unknown model"):
            build_training_setup(small("chat", start_from=str(tmp_path / "none")), tmp_path)


class TestClassNames:
    def test_they_are_those_of_all_sources(self, tmp_path: Path, mini_pack_root: Path) -> None:
        for kind in ("custom", "coco_panoptic", "flickr30k"):
            write_source(source(kind), tmp_path)

        def names(*values: dict[str, Any], root: Path = tmp_path) -> set[str]:
            return class_names(open_sources(list(values), root))

        assert names({"kind": "scenes"}) == set(NAMES)
        assert names(source("custom")) == {"dog", "cat"}
        assert names(source("coco_panoptic"), source("custom")) == {"dog", "cat", "sky"}
        assert names(source("flickr30k")) == set()
        assert "hot dog" in names({"kind": "photos", "split": "val"}, root=mini_pack_root)

    def test_without_any_there_is_nothing_to_learn(self, tmp_path: Path) -> None:
        write_source(source("flickr30k"), tmp_path)
        start = first_stage(tmp_path / "first")
        for name in ("class_phrases.json", "class_phrases.safetensors"):
            (start / name).unlink()
        values = {"start_from": str(start), "data": [source("flickr30k")], "class_task": True}
        with pytest.raises(DataError, match="class names are a task of this stage, but none of its sources has any"):
            build_training_setup(small("chat", **values), tmp_path, tmp_path)

    def test_a_stage_without_them_needs_none(self, tmp_path: Path) -> None:
        start = first_stage(tmp_path / "first")
        for stage in ("align", "grounded_chat", "visual_prompt", "set_of_mark"):
            assert build_training_setup(small(stage, start_from=str(start)), tmp_path).phrases is None


def test_dialogues_are_as_long_as_the_model_reads_at_most(tmp_path: Path) -> None:
    setup = build_training_setup(small("chat"), tmp_path)
    assert setup.stream().maker.max_tokens == setup.model.config.text_config.max_position_embeddings
    assert build_training_setup(small("chat", max_tokens=99), tmp_path).stream().maker.max_tokens == 99


def test_held_out_samples_are_those_of_the_validation(tmp_path: Path) -> None:
    write_source(source("custom"), tmp_path)
    values = {"validation": [source("custom"), {"kind": "scenes", "held_out": True}], "validation_samples": 4}
    held_out = build_training_setup(small("chat", **values), tmp_path, tmp_path).held_out
    assert [one.id for one in held_out] == ["1.png", "2.png", f"scene-{10**9}", f"scene-{10**9 + 1}"]


def test_a_stage_without_any_of_its_sources_names_them(tmp_path: Path) -> None:
    missing = [
        {"kind": "llava", "dialogues": "talk.json", "images": ".", "optional": True},
        {"kind": "custom", "instances": "labels.json", "images": ".", "optional": True},
    ]
    with pytest.raises(DataError, match="none of the sources is there: llava, custom"):
        build_training_setup(small("chat", data=missing), tmp_path / "run", tmp_path)
