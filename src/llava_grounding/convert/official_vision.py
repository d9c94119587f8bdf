"""The original's grounding model and visual prompt encoder: built from its configuration, weights renamed.

Config trees are those of the original (its MODEL section); every size is read from them. Reads no checkpoint file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import SwinConfig

from llava_grounding.convert.keys import (
    GROUNDER_IGNORED,
    GROUNDER_PREFIX,
    GROUNDER_RENAMES,
    PROMPT_ENCODER_IGNORED,
    PROMPT_ENCODER_PREFIX,
    PROMPT_ENCODER_RENAMES,
    rename_state,
)
from llava_grounding.errors import ConfigError
from llava_grounding.model.backbone import Backbone, build_backbone
from llava_grounding.model.grounder import Grounder
from llava_grounding.model.pixel_decoder import DeformablePixelDecoder
from llava_grounding.model.visual_prompt import VisualPromptEncoder

_HEADS = 8  # fixed in the original's code, whatever its NHEADS says
_POINTS = 4  # fixed there as well
_STAGES = ["stage1", "stage2", "stage3", "stage4"]


def build_official_grounder(config: Mapping[str, Any]) -> Grounder:
    """The original's grounding model with random weights, in evaluation mode."""
    model = _model_tree(config)
    decoder = model["DECODER"]
    backbone, pixel_decoder = _image_side(model)
    grounder = Grounder(
        backbone=backbone,
        pixel_decoder=pixel_decoder,
        hidden_size=decoder["HIDDEN_DIM"],
        mask_size=model["ENCODER"]["MASK_DIM"],
        phrase_size=model["DIM_PROJ"],
        num_heads=_HEADS,
        num_levels=decoder["TOTAL_NUM_FEATURE_LEVELS"],
        num_points=_POINTS,
        decoder_layers=decoder["DEC_LAYERS"],
        decoder_ffn_size=decoder["DIM_FEEDFORWARD"],
        num_queries=decoder["NUM_OBJECT_QUERIES"],
    )
    return grounder.eval()


def build_official_prompt_encoder(config: Mapping[str, Any]) -> VisualPromptEncoder:
    """The original's visual prompt encoder with random weights, in evaluation mode."""
    model = _model_tree(config)
    decoder = model["DECODER"]
    projector = config.get("OBJ_PROJECTOR") or model.get("OBJ_PROJECTOR") or {"out": 4096}
    backbone, pixel_decoder = _image_side(model)
    encoder = VisualPromptEncoder(
        backbone=backbone,
        pixel_decoder=pixel_decoder,
        hidden_size=decoder["HIDDEN_DIM"],
        mask_size=model["ENCODER"]["MASK_DIM"],
        output_size=projector["out"],
        num_heads=_HEADS,
        num_levels=decoder["TOTAL_NUM_FEATURE_LEVELS"],
        num_points=_POINTS,
        decoder_layers=decoder["DEC_LAYERS"],
        decoder_ffn_size=decoder["DIM_FEEDFORWARD"],
        num_mask_tokens=decoder.get("NUM_INTERACTIVE_TOKENS", 3),
    )
    return encoder.eval()


def convert_grounder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for `build_official_grounder`, from the original's keys with or without `seg_model.model.`.

    Raises:
        CheckpointError: if a key is unknown, or names of one shared tensor disagree.
    """
    return rename_state(state, GROUNDER_RENAMES, GROUNDER_IGNORED, GROUNDER_PREFIX)


def convert_prompt_encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for `build_official_prompt_encoder`, from the original's keys with or without `interactive_model.model.`.

    Raises:
        CheckpointError: if a key is unknown, or names of one shared tensor disagree.
    """
    renamed = rename_state(state, PROMPT_ENCODER_RENAMES, PROMPT_ENCODER_IGNORED, PROMPT_ENCODER_PREFIX)
    # Ours alone, for scribbles and masks; zero leaves every output of the original as it was.
    hidden_size = renamed["query_decoder.norm.weight"].shape[0]
    renamed["coverage_projection.weight"] = torch.zeros(hidden_size, hidden_size)
    return renamed


def _model_tree(config: Mapping[str, Any]) -> Mapping[str, Any]:
    model = config.get("MODEL", config)
    missing = [name for name in ("BACKBONE", "ENCODER", "DECODER", "DIM_PROJ") if name not in model]
    if missing:
        raise ConfigError(f"the original's configuration lacks MODEL.{', MODEL.'.join(missing)}")
    return model


def _image_side(model: Mapping[str, Any]) -> tuple[Backbone, DeformablePixelDecoder]:
    swin, encoder = model["BACKBONE"]["SWIN"], model["ENCODER"]
    settings = {
        "image_size": swin.get("PRETRAIN_IMG_SIZE", 224),
        "patch_size": swin["PATCH_SIZE"],
        "embed_dim": swin["EMBED_DIM"],
        "depths": list(swin["DEPTHS"]),
        "num_heads": list(swin["NUM_HEADS"]),
        "window_size": swin["WINDOW_SIZE"],
        "mlp_ratio": swin["MLP_RATIO"],
        "qkv_bias": swin["QKV_BIAS"],
        "drop_path_rate": swin["DROP_PATH_RATE"],
        "use_absolute_embeddings": swin.get("APE", False),
        "out_features": _STAGES,
    }
    backbone = build_backbone(SwinConfig(**settings))
    pixel_decoder = DeformablePixelDecoder(
        in_channels=backbone.channels,
        hidden_size=encoder["CONVS_DIM"],
        mask_size=encoder["MASK_DIM"],
        num_levels=encoder["TOTAL_NUM_FEATURE_LEVELS"],
        num_layers=encoder["TRANSFORMER_ENC_LAYERS"],
        num_heads=_HEADS,
        num_points=_POINTS,
        ffn_size=model["DECODER"]["DIM_FEEDFORWARD"],
    )
    return backbone, pixel_decoder
