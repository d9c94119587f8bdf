"""The configuration: its way through JSON, and what a wrong value gets."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPVisionConfig, LlamaConfig, Qwen2Config, SiglipVisionConfig

from llava_grounding.errors import ConfigError
from llava_grounding.model.config import GrounderConfig, LlavaGroundingConfig, VisualPromptConfig
from llava_grounding.model.presets import PRESETS, preset
from whole_models import FLAVOURS, LANGUAGE, whole_config


def problems(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        whole_config("shared", **values)
    return str(caught.value)


def part(name: str, **values: Any) -> dict[str, Any]:
    return {**FLAVOURS["shared"][name], **values}


@pytest.mark.parametrize("flavour", list(FLAVOURS))
def test_a_configuration_comes_back_from_json_as_it_was(flavour: str, tmp_path: Path) -> None:
    config = whole_config(flavour)
    config.save_pretrained(tmp_path)
    again = LlavaGroundingConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "config.json").read_text()
    assert type(again.text_config) is type(config.text_config)
    assert type(again.grounder_config.backbone_config) is type(config.grounder_config.backbone_config)
    assert (again.vision_config is None) == (flavour == "shared")


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_comes_back_from_json_as_it_was(name: str, tmp_path: Path) -> None:
    preset(name).save_pretrained(tmp_path)
    assert LlavaGroundingConfig.from_pretrained(tmp_path).to_dict() == preset(name).to_dict()
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "llava_grounding"
    assert written["grounder_config"]["num_queries"] == preset(name).grounder_config.num_queries


def test_parts_may_be_given_as_configurations_too() -> None:
    given = whole_config(
        "official",
        text_config=LlamaConfig(**{k: v for k, v in LANGUAGE["llama"].items() if k != "model_type"}),
        grounder_config=GrounderConfig(**FLAVOURS["official"]["grounder_config"]),
        visual_prompt_config=VisualPromptConfig(**FLAVOURS["official"]["visual_prompt_config"]),
    )
    assert given.to_dict() == whole_config("official").to_dict()


def test_any_language_model_and_both_towers_are_understood_by_their_type() -> None:
    assert isinstance(whole_config("siglip").text_config, Qwen2Config)
    assert isinstance(whole_config("siglip").vision_config, SiglipVisionConfig)
    assert isinstance(whole_config("official").vision_config, CLIPVisionConfig)
    without_type = {key: value for key, value in LANGUAGE["llama"].items() if key != "model_type"}
    assert isinstance(whole_config("shared", text_config=without_type).text_config, LlamaConfig)


def test_building_a_configuration_leaves_the_given_values_alone() -> None:
    before = copy.deepcopy(FLAVOURS["official"])
    whole_config("official")
    assert FLAVOURS["official"] == before


@pytest.mark.parametrize(
    ("flavour", "values", "length"),
    [
        ("shared", {}, 2 * 2 + 4),
        ("official", {}, 2 * 2),
        ("official", {"vision_feature_select": "full"}, 2 * 2 + 1),
        ("siglip", {"vision_feature_select": "full"}, 2 * 2),
    ],
)
def test_the_length_of_an_image_follows_from_the_sizes(flavour: str, values: dict[str, Any], length: int) -> None:
    assert whole_config(flavour, **values).image_sequence_length == length


@pytest.mark.parametrize(
    ("name", "value", "allowed", "hint"),
    [
        ("projector", "mpl", "linear, mlp", "; did you mean `mlp`?"),
        ("phrase_state", "at-seg", "before_seg, at_seg", "; did you mean `at_seg`?"),
        ("score_function", "softmaxx", "softmax, sigmoid", "; did you mean `softmax`?"),
        ("vision_feature_select", "cls", "patch, full", ""),
        ("phrase_queries", "images", "phrases, image", "; did you mean `image`?"),
        ("phrase_projector", "linaer", "none, linear", "; did you mean `linear`?"),
    ],
)
def test_a_wrong_choice_names_the_allowed_ones_and_the_nearest(name: str, value: str, allowed: str, hint: str) -> None:
    assert problems(**{name: value}) == f"{name} must be one of {allowed}, got `{value}`{hint}"


def test_the_former_key_of_the_score_function_is_refused_by_its_name_of_today() -> None:
    assert problems(query_selection="sigmoid") == "unknown key `query_selection`; did you mean `score_function`?"


@pytest.mark.parametrize("name", ["grounder_config", "visual_prompt_config"])
def test_choices_of_the_parts_are_checked_too(name: str) -> None:
    values = {**FLAVOURS["official"][name], "pixel_decoder": "deformabel"}
    with pytest.raises(ConfigError) as caught:
        whole_config("official", **{name: values})
    assert str(caught.value) == (
        f"{name}.pixel_decoder must be one of deformable, feature_pyramid, got `deformabel`; did you mean `deformable`?"
    )
    assert problems(grounder_config=part("grounder_config", proposal_order="fine")) == (
        "grounder_config.proposal_order must be one of official, fine_small, got `fine`"
    )


def test_all_problems_are_reported_at_once() -> None:
    message = problems(
        projector="mpl",
        phrase_state="seg",
        grounder_config=part("grounder_config", phrase_size=16, num_querys=5),
        visual_prompt_config=part("visual_prompt_config", hidden_size=64),
        score_treshold=0.2,
    )
    for piece in (
        "unknown key `score_treshold`; did you mean `score_threshold`?",
        "unknown key `grounder_config.num_querys`; did you mean `num_queries`?",
        "projector must be one of linear, mlp, got `mpl`; did you mean `mlp`?",
        "phrase_state must be one of before_seg, at_seg, got `seg`",
        "grounder_config.phrase_size must equal the language model's hidden size 32, got 16",
        "visual_prompt_config must have the grounder's hidden_size, mask_size and num_levels to share its features",
    ):
        assert piece in message


def test_a_key_that_means_nothing_is_refused_and_keys_of_transformers_are_not() -> None:
    assert problems(zzz=1) == "unknown key `zzz`"
    config = whole_config("shared", dtype="float32", name_or_path="somewhere", torch_dtype="float32", num_labels=3)
    assert config.name_or_path == "somewhere"
    with pytest.raises(ConfigError, match=r"unknown key `num_maks_tokens`; did you mean `num_mask_tokens`\?"):
        VisualPromptConfig(share_image_features=True, num_maks_tokens=2)


def test_a_backbone_is_not_used_where_the_image_is_read_once() -> None:
    assert VisualPromptConfig(share_image_features=True, backbone_config={"model_type": "swin"}).backbone_config is None


@pytest.mark.parametrize("name", ["text_config", "vision_config"])
def test_an_unknown_kind_of_part_gets_the_nearest_name(name: str) -> None:
    wrong = {"text_config": ("lama", "llama"), "vision_config": ("clip_vision_modle", "clip_vision_model")}[name]
    with pytest.raises(ConfigError) as caught:
        whole_config("official", **{name: {"model_type": wrong[0]}})
    assert str(caught.value).startswith(f"unknown model_type `{wrong[0]}`; did you mean `{wrong[1]}`?")


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_towers_whose_features_are_laid_out_otherwise_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        whole_config("official", vision_config={"model_type": kind})
    assert "vision_config.model_type must be one of clip_vision_model, siglip_vision_model" in str(caught.value)


def test_queries_of_the_image_need_the_shared_tower() -> None:
    with pytest.raises(ConfigError) as caught:
        whole_config("official", phrase_queries="image")
    assert str(caught.value) == "phrase_queries can be `image` only with the shared tower (vision_config=None)"
