"""The configuration of a released checkpoint, read off the shapes of its weights and its `config.json`.

What neither of them says (heads of the vision tower, object queries, side of the canvas) is the released model's value
unless the caller knows better.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_grounding.checkpoint_files import check_numbers, read_object
from llava_grounding.convert.keys import GROUNDER_PREFIX, PROMPT_ENCODER_PREFIX
from llava_grounding.errors import CheckpointError
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.presets import PRESETS
from llava_grounding.typed_values import is_whole

Shapes = Mapping[str, tuple[int, ...]]

TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."
_TOWER_HEAD = 64  # width of an attention head in every CLIP of its makers
_HEADS = 8  # of both vision modules; fixed in the original's code
_READABLE_POSITIONS = 4096
"""The original sets no limit to the length of a dialogue and was trained up to 2400 positions, whatever config.json
says (2048); rotary positions need no table."""
_TOWER_FIELDS = ("num_attention_heads", "hidden_act", "layer_norm_eps")
_LANGUAGE_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "head_dim",
    "attention_bias",
    "tie_word_embeddings",
)
_LANGUAGE_NUMBERS = ("max_position_embeddings", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
_WHOLE_NUMBERS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "max_position_embeddings"),
)


@dataclass(frozen=True)
class OfficialSettings:
    """What the files of a released checkpoint do not say. Defaults: the released 7B's."""

    image_size: int = 1024
    """Side of the canvas of the vision modules, pixels."""
    num_queries: int = 300
    """Object queries of the grounder."""
    vision_tower: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the tower's CLIPVisionConfig that its weights do not tell, such as `num_attention_heads`."""


def official_config(
    values: Mapping[str, Any], shapes: Shapes, token_ids: Mapping[str, Any], settings: OfficialSettings
) -> LlavaGroundingConfig:
    """The configuration of a released checkpoint.

    Args:
        values: its config.json.
        shapes: of its weights, by key.
        token_ids: `image_token_id` and so on.

    Raises:
        CheckpointError: if a key that sizes are read from is missing, or the checkpoint needs what is not here.
    """
    check_flags(values)
    text = language_sizes(values, shapes)
    vision, prompts = grounder_sizes(shapes), prompt_encoder_sizes(shapes)
    swin = PRESETS["official_7b"]["grounder_config"]["backbone_config"]
    for part in (vision, prompts):
        part["backbone_config"] = swin | part["backbone_config"]
    ids: dict[str, Any] = dict(token_ids)
    return LlavaGroundingConfig(
        text_config=text,
        vision_config=tower_sizes(shapes, TOWER_PREFIX) | dict(settings.vision_tower),
        grounder_config=vision | {"image_size": settings.image_size, "num_queries": settings.num_queries},
        visual_prompt_config=prompts | {"isolate_prompts": True},
        projector=projector_kind(shapes),
        vision_feature_layer=values.get("mm_vision_select_layer", -2),
        vision_feature_select={"patch": "patch", "cls_patch": "full"}[values.get("mm_vision_select_feature", "patch")],
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        **ids,
    )


def read_tower_fields(path: Path) -> dict[str, Any]:
    """What the config.json of a CLIP model says of its vision tower and weights do not tell.

    Raises:
        CheckpointError: if it is no such file.
    """
    try:
        return tower_fields(read_tower_config(path))
    except (AttributeError, TypeError) as error:
        raise CheckpointError(f"`{path}` is no configuration of a vision tower: {error}") from error


def read_tower_config(path: Path) -> dict[str, Any]:
    """All that the config.json of a vision tower, or of a model with one, says.

    Raises:
        CheckpointError: if it is no such file.
    """
    try:
        values = read_object(path)
        check_numbers(values, f"`{path}`")
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"`{path}` is no configuration of a vision tower: {reason}") from error
    return values


def tower_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of a vision tower and its weights do not tell."""
    values = values.get("vision_config", values)
    _check_fields(values)
    return {name: values[name] for name in _TOWER_FIELDS if name in values}


def language_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration of a Llama says of it, and is used here.

    Raises:
        CheckpointError: if a value is of no use.
    """
    _check_fields(values)
    return {name: values[name] for name in (*_LANGUAGE_FIELDS, *_LANGUAGE_NUMBERS) if values.get(name) is not None}


def _check_fields(values: Mapping[str, Any]) -> None:
    for name in _WHOLE_NUMBERS:
        value = values.get(name)
        if value is not None and (not is_whole(value) or value < 1):
            raise CheckpointError(f"config.json says {name} is {value!r:.80}, expected a whole number from 1 on")
    for name in ("rms_norm_eps", "layer_norm_eps"):
        value = values.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 <= value < 1):
            raise CheckpointError(f"config.json says {name} is {value!r:.80}, expected a small number")


def language_sizes(values: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Sizes of the Llama inside; its vocabulary is as large as the embedding."""
    missing = [name for name in ("num_attention_heads", "rms_norm_eps") if name not in values]
    if missing:
        raise CheckpointError(f"config.json must say {' and '.join(missing)} of the language model")
    _check_fields(values)
    layers = _count(shapes, r"model\.layers\.(\d+)\.input_layernorm\.weight")
    rows, width = _shape(shapes, "model.embed_tokens.weight", 2)
    from_shapes = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": _shape(shapes, "model.layers.0.mlp.gate_proj.weight", 2)[0],
    }
    for name, found in from_shapes.items():
        if values.get(name, found) != found:
            raise CheckpointError(f"config.json says {name} is {values[name]}, but the weights have {found}")
    given = {name: values[name] for name in _LANGUAGE_FIELDS if values.get(name) is not None}
    positions = max(values.get("max_position_embeddings") or 0, _READABLE_POSITIONS)
    return {
        "model_type": "llama",
        **given,
        **from_shapes,
        "vocab_size": rows,
        "max_position_embeddings": positions,
        "bos_token_id": values.get("bos_token_id", 1),
        "eos_token_id": values.get("eos_token_id", 2),
        "pad_token_id": values.get("pad_token_id", 0),
    }


def tower_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Sizes of a CLIP vision tower."""
    width, _, patch, _ = _shape(shapes, f"{prefix}embeddings.patch_embedding.weight", 4)
    positions, _ = _shape(shapes, f"{prefix}embeddings.position_embedding.weight", 2)
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": _shape(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": _count(shapes, rf"{re.escape(prefix)}encoder\.layers\.(\d+)\.layer_norm1\.weight"),
        "num_attention_heads": max(1, width // _TOWER_HEAD),
        "patch_size": patch,
        "image_size": patch * math.isqrt(positions - 1),
        "hidden_act": "quick_gelu",
    }


def grounder_sizes(shapes: Shapes, prefix: str = GROUNDER_PREFIX) -> dict[str, Any]:
    """Sizes of the grounding model."""
    phrase_size = _shape(shapes, f"{prefix}sem_seg_head.predictor.class_embed", 2)[1]
    return vision_sizes(shapes, prefix) | {"phrase_size": phrase_size}


def prompt_encoder_sizes(shapes: Shapes, prefix: str = PROMPT_ENCODER_PREFIX) -> dict[str, Any]:
    """Sizes of the visual prompt encoder."""
    tokens = _shape(shapes, f"{prefix}sem_seg_head.predictor.mask_tokens.weight", 2)[0]
    return vision_sizes(shapes, prefix) | {"num_mask_tokens": tokens}


def vision_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """What both vision modules have: fields of either configuration."""
    pixel, predictor = f"{prefix}sem_seg_head.pixel_decoder.", f"{prefix}sem_seg_head.predictor."
    encoder, decoder = f"{pixel}transformer.encoder.layers.", f"{predictor}decoder.layers."
    levels, hidden_size = _shape(shapes, f"{pixel}transformer.level_embed", 2)
    offsets = _shape(shapes, f"{encoder}0.self_attn.sampling_offsets.weight", 2)[0]
    return {
        "backbone_config": _swin_sizes(shapes, f"{prefix}backbone."),
        "hidden_size": hidden_size,
        "mask_size": _shape(shapes, f"{pixel}mask_features.weight", 4)[0],
        "num_heads": _HEADS,
        "num_levels": levels,
        "num_points": offsets // (2 * _HEADS * levels),
        "encoder_layers": _count(shapes, rf"{re.escape(encoder)}(\d+)\.norm1\.weight"),
        "encoder_ffn_size": _shape(shapes, f"{encoder}0.linear1.weight", 2)[0],
        "decoder_layers": _count(shapes, rf"{re.escape(decoder)}(\d+)\.norm1\.weight"),
        "decoder_ffn_size": _shape(shapes, f"{decoder}0.linear1.weight", 2)[0],
    }


def _swin_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    width, _, patch, _ = _shape(shapes, f"{prefix}patch_embed.proj.weight", 4)
    stages = _count(shapes, rf"{re.escape(prefix)}layers\.(\d+)\.blocks\.0\.norm1\.weight")
    tables = [
        _shape(shapes, f"{prefix}layers.{stage}.blocks.0.attn.relative_position_bias_table", 2)
        for stage in range(stages)
    ]
    return {
        "model_type": "swin",
        "embed_dim": width,
        "patch_size": patch,
        "depths": [
            _count(shapes, rf"{re.escape(prefix)}layers\.{stage}\.blocks\.(\d+)\.norm1\.weight")
            for stage in range(stages)
        ],
        "num_heads": [heads for _, heads in tables],
        "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
        "mlp_ratio": _shape(shapes, f"{prefix}layers.0.blocks.0.mlp.fc1.weight", 2)[0] / width,
        "out_features": [f"stage{stage + 1}" for stage in range(stages)],
    }


def projector_kind(shapes: Shapes) -> str:
    """`linear` or `mlp`, by the keys of a projector."""
    return "linear" if "model.mm_projector.weight" in shapes else "mlp"


def embedding_rows(shapes: Shapes) -> int:
    """Rows of the word embedding; 0 if there is none."""
    key = "model.embed_tokens.weight"
    return _shape(shapes, key, 2)[0] if key in shapes else 0


def check_flags(values: Mapping[str, Any]) -> None:
    """Refuse what would need other code to run."""
    if values.get("mm_use_im_start_end"):
        raise CheckpointError("config.json says mm_use_im_start_end, but tokens around the image are not supported")
    if values.get("mm_vision_select_feature", "patch") not in ("patch", "cls_patch"):
        raise CheckpointError(
            f"mm_vision_select_feature must be patch or cls_patch, got `{values['mm_vision_select_feature']}`"
        )


def _shape(shapes: Shapes, key: str, axes: int) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(f"the checkpoint has no `{key}`, from which a size is read; is it of another kind?")
    if len(shapes[key]) != axes or 0 in shapes[key]:
        raise CheckpointError(f"`{key}` has the shape {shapes[key]}, expected {axes} sides, none of them 0")
    return shapes[key]


def _count(shapes: Shapes, pattern: str) -> int:
    """How many layers there are; their numbers begin at 0 and leave none out."""
    numbers = {match[1] for match in (re.fullmatch(pattern, key) for key in shapes) if match}
    missing = next((number for number in range(len(numbers)) if str(number) not in numbers), None)
    if missing is not None:
        kind = pattern.replace("\\", "").replace("(d+)", str(missing))
        raise CheckpointError(f"the checkpoint has {len(numbers)} layers of a kind, but not `{kind}`")
    return len(numbers)
