"""Key names of the original's vision modules: all of them known, aliases held to their word, nothing swallowed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.joined import read_tensors
from llava_grounding.convert.keys import (
    GROUNDER_IGNORED,
    GROUNDER_PREFIX,
    GROUNDER_RENAMES,
    PROMPT_ENCODER_PREFIX,
    rename_key,
)
from llava_grounding.convert.official_vision import (
    build_official_grounder,
    build_official_prompt_encoder,
    convert_grounder_state,
    convert_prompt_encoder_state,
)
from llava_grounding.errors import CheckpointError, ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
PREDICTOR = "sem_seg_head.predictor."


@pytest.fixture(scope="module")
def grounder_state() -> dict[str, Tensor]:
    return read_tensors(GOLDEN / "A_grounding" / "weights.safetensors")


@pytest.fixture(scope="module")
def prompt_encoder_state() -> dict[str, Tensor]:
    return read_tensors(GOLDEN / "B_visual_prompt" / "weights.safetensors")


def config_of(folder: str) -> dict[str, Any]:
    return json.loads((GOLDEN / folder / "config.json").read_text())


def test_every_recorded_key_finds_its_place(
    grounder_state: dict[str, Tensor], prompt_encoder_state: dict[str, Tensor]
) -> None:
    grounder = build_official_grounder(config_of("A_grounding"))
    grounder.load_state_dict(convert_grounder_state(grounder_state), strict=True)
    encoder = build_official_prompt_encoder(config_of("B_visual_prompt"))
    encoder.load_state_dict(convert_prompt_encoder_state(prompt_encoder_state), strict=True)
    assert not grounder.training
    assert not encoder.coverage_projection.weight.any()


def full_size(config: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    model = config["MODEL"]
    model["BACKBONE"]["SWIN"] |= {"EMBED_DIM": 96, "DEPTHS": [2, 2, 6, 2], "NUM_HEADS": [3, 6, 12, 24]}
    model["ENCODER"] |= {"CONVS_DIM": 256, "MASK_DIM": 256, "TRANSFORMER_ENC_LAYERS": 6}
    model["DECODER"] |= {"HIDDEN_DIM": 256, "DIM_FEEDFORWARD": 2048, "DEC_LAYERS": 9}
    model["DIM_PROJ"] = 4096
    return config | {"OBJ_PROJECTOR": {"in": 256, "out": 4096}}


def test_the_full_size_modules_have_the_originals_number_of_parameters() -> None:
    with torch.device("meta"):
        grounder = build_official_grounder(full_size(config_of("A_grounding")))
        encoder = build_official_prompt_encoder(full_size(config_of("B_visual_prompt")))
    count = sum(parameter.numel() for parameter in grounder.parameters())
    assert count == 54_616_383 - 4096 * 256  # without the dead `lang_mapper`
    count = sum(parameter.numel() for parameter in encoder.parameters())
    unused = 3 * 512 * 256 + 1  # lang_mapper, class_embed, class_embed_part, logit_scale
    assert count == 54_032_448 - unused + 256 * 256  # and with our projection of drawn regions


def test_keys_may_carry_the_prefix_of_the_whole_checkpoint(
    grounder_state: dict[str, Tensor], prompt_encoder_state: dict[str, Tensor]
) -> None:
    for prefix, state, convert in [
        (GROUNDER_PREFIX, grounder_state, convert_grounder_state),
        (PROMPT_ENCODER_PREFIX, prompt_encoder_state, convert_prompt_encoder_state),
    ]:
        whole = convert({prefix + key: tensor for key, tensor in state.items()})
        alone = convert(state)
        assert whole.keys() == alone.keys()
        assert all(torch.equal(whole[key], alone[key]) for key in alone)


@pytest.mark.parametrize(
    "key",
    [
        f"{PREDICTOR}decoder.bbox_embed.1.layers.2.weight",
        f"{PREDICTOR}bbox_embed.2.layers.0.bias",
        f"{PREDICTOR}decoder.norm.weight",
    ],
)
def test_names_of_one_tensor_must_agree_and_any_one_of_them_is_enough(
    grounder_state: dict[str, Tensor], key: str
) -> None:
    changed = grounder_state | {key: grounder_state[key] + 1e-3}
    with pytest.raises(CheckpointError, match=rf"`{key}`.* name one shared tensor but hold different values"):
        convert_grounder_state(changed)
    without = {name: tensor for name, tensor in grounder_state.items() if name != key}
    assert convert_grounder_state(without).keys() == convert_grounder_state(grounder_state).keys()


@pytest.mark.parametrize(
    "key",
    [
        "backbone.layers.0.blocks.0.attn.qkv.weights",
        "backbone.norm0.running_mean",
        f"{PREDICTOR}query_feat.weight",
        f"{PREDICTOR}iou_prediction_head.layers.0.weight",
        "model.embed_tokens.weight",
    ],
)
def test_an_unknown_key_is_an_error_that_names_it(grounder_state: dict[str, Tensor], key: str) -> None:
    with pytest.raises(CheckpointError, match=f"unknown key `{key}`"):
        convert_grounder_state(grounder_state | {key: torch.zeros(1)})


def test_what_no_output_depends_on_is_left_out() -> None:
    dead = [
        f"{PREDICTOR}lang_mapper",
        "criterion.empty_weight",
        "backbone.layers.0.blocks.0.attn.relative_position_index",
    ]
    for key in dead:
        assert rename_key(key, GROUNDER_RENAMES, GROUNDER_IGNORED) is None


def test_the_joint_projection_is_split_into_query_key_and_value(grounder_state: dict[str, Tensor]) -> None:
    joint = grounder_state["backbone.layers.1.blocks.0.attn.qkv.weight"]
    converted = convert_grounder_state(grounder_state)
    prefix = "backbone.body.swin.encoder.layers.1.blocks.0.attention"
    parts = [converted[f"{prefix}.{letter}_proj.weight"] for letter in "qkv"]
    assert torch.equal(torch.cat(parts), joint)


def test_a_truncated_checkpoint_does_not_load(grounder_state: dict[str, Tensor]) -> None:
    partial = {key: tensor for key, tensor in grounder_state.items() if "mask_embed" not in key}
    grounder = build_official_grounder(config_of("A_grounding"))
    with pytest.raises(RuntimeError, match="mask_head"):
        grounder.load_state_dict(convert_grounder_state(partial))


def test_a_configuration_without_its_parts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lacks MODEL\.ENCODER, MODEL\.DIM_PROJ"):
        build_official_grounder({"MODEL": {"BACKBONE": {}, "DECODER": {}}})
