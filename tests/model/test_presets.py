"""The named configurations: that they build, how large they are, and what a wrong name gets."""

import math

import pytest
import torch
from torch import nn

from llava_grounding.checkpoints import find_checkpoint, read_config
from llava_grounding.errors import ConfigError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.presets import PRESETS, preset
from llava_grounding.train.recipe import load_recipe
from llava_grounding.train.recipe_file import find_recipe


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.fixture(scope="module")
def official() -> LlavaGroundingForConditionalGeneration:
    with torch.device("meta"):
        return LlavaGroundingForConditionalGeneration(preset("official_7b"))


def test_official_7b_has_the_parts_of_the_released_model(official: LlavaGroundingForConditionalGeneration) -> None:
    # Vicuna-7B: 6,738,415,616 with 32,000 words, and three more rows in embedding and output layer.
    assert count(official.language_model, official.lm_head) == 6_738_415_616 + 2 * 3 * 4096
    assert count(official.vision_tower) == 303_179_776  # CLIP ViT-L/14
    assert count(official.multi_modal_projector) == 1024 * 4096 + 4096 == 4_198_400
    assert count(official.phrase_projector) == 0
    assert count(official.grounder.backbone) == count(official.visual_prompt_encoder.backbone) == 27_520_698
    assert count(official.grounder.pixel_decoder) == count(official.visual_prompt_encoder.pixel_decoder) == 10_491_904


def test_official_7b_leaves_out_only_dead_weights(official: LlavaGroundingForConditionalGeneration) -> None:
    lang_mapper = 4096 * 256
    assert count(official.grounder) == 54_616_383 - lang_mapper
    # Of the prompt encoder: lang_mapper and two class heads, of 512 x 256 each, and a scale without effect. The
    # projection of what a scribble or mask covers is ours; it starts at zero.
    coverage = count(official.visual_prompt_encoder.coverage_projection)
    assert count(official.visual_prompt_encoder) == 54_032_448 - 3 * 512 * 256 - 1 + coverage
    assert coverage == 256 * 256


def test_official_7b_reads_an_image_as_256_positions(official: LlavaGroundingForConditionalGeneration) -> None:
    assert official.config.image_sequence_length == 16 * 16
    assert not official.config.tie_word_embeddings
    assert official.lm_head.weight.shape == (32003, 4096)


def test_nano_is_small_enough_for_a_wheel() -> None:
    config = preset("nano")
    with torch.device("meta"):
        model = LlavaGroundingForConditionalGeneration(config)
    tied = math.prod(model.lm_head.weight.shape)
    megabytes = 2 * (count(model) - (0 if model.lm_head.weight is model.get_input_embeddings().weight else tied)) / 1e6
    assert megabytes < 30
    assert config.image_sequence_length == 7 * 7 + config.shared_tower_objects
    assert config.image_sequence_length < config.text_config.max_position_embeddings // 4


def test_the_embedded_model_has_the_preset_of_its_name() -> None:
    ships, named = read_config(find_checkpoint("nano")[1]), preset("nano")
    assert ships.vision_config is named.vision_config is None
    for part in ("text_config", "grounder_config", "visual_prompt_config"):
        stated = getattr(named, part).to_dict()
        assert {**getattr(ships, part).to_dict(), "dtype": None} == {**stated, "dtype": None}


def test_former_names_of_nano_are_found() -> None:
    assert preset("nano_lite").to_dict() == preset("nano").to_dict()
    assert find_recipe("nano_lite_read") == find_recipe("nano_read")
    assert load_recipe("nano_lite_read").preset == "nano"


def test_a_preset_takes_other_values_and_stays_as_it_was() -> None:
    assert preset("nano", score_threshold=0.5).score_threshold == 0.5
    assert preset("nano").score_threshold == PRESETS["nano"]["score_threshold"]
    first = preset("nano")
    first.grounder_config.num_queries = 7
    assert preset("nano").grounder_config.num_queries == PRESETS["nano"]["grounder_config"]["num_queries"] != 7


@pytest.mark.parametrize(
    ("name", "hint"), [("ofical_7b", "; did you mean `official_7b`?"), ("Nano", "; did you mean `nano`?"), ("zzz", "")]
)
def test_an_unknown_preset_gets_the_nearest_name(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset(name)
    assert str(caught.value) == f"unknown preset `{name}`{hint}"
