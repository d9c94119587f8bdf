"""Named configurations. Sizes only; weights come from checkpoints."""

from collections.abc import Mapping
from typing import Any

from llava_grounding.errors import ConfigError, did_you_mean
from llava_grounding.model.config import LlavaGroundingConfig

_SWIN_TINY = {
    "model_type": "swin",
    "image_size": 224,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "drop_path_rate": 0.3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

_OFFICIAL_7B: dict[str, Any] = {
    "text_config": {
        "model_type": "llama",
        "vocab_size": 32003,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "grounder_config": {"backbone_config": _SWIN_TINY},
    "visual_prompt_config": {"backbone_config": _SWIN_TINY, "isolate_prompts": True},
}

# Convolutions with batch normalisation, a plain feature pyramid and few queries: what learns fastest from nothing on a
# CPU (docs/experiments.md). One pass over the pixels serves the grounder, the prompt encoder and the language model.
_NANO_RESNET: dict[str, Any] = {
    "text_config": {
        "model_type": "llama",
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "vision_config": None,
    "grounder_config": {
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 32,
            "hidden_sizes": [48, 96, 160, 256],
            "depths": [1, 2, 2, 2],
            "layer_type": "basic",
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "pixel_decoder": "feature_pyramid",
        "image_size": 160,
        "hidden_size": 128,
        "mask_size": 128,
        "phrase_size": 256,
        "num_levels": 3,
        "encoder_layers": 0,
        "decoder_layers": 3,
        "decoder_ffn_size": 384,
        "num_queries": 50,
        "proposal_order": "fine_small",
        "initial_logit_bias": -4.0,
    },
    "visual_prompt_config": {
        "share_image_features": True,
        "hidden_size": 128,
        "mask_size": 128,
        "num_levels": 3,
        "decoder_layers": 2,
        "decoder_ffn_size": 384,
    },
    "projector": "mlp",
    "image_token_id": 5,
    "seg_token_id": 8,
    "region_token_id": 9,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "phrase_state": "at_seg",
    "phrase_projector": "linear",
    "phrase_queries": "image",
    "score_function": "sigmoid",
    "score_threshold": 0.3,
    "nms_iou": 0.7,
    "tie_word_embeddings": True,
}

# What `nano` ships as, for photographs: a backbone that starts from ImageNet weights, more pixels and more queries. Its
# convolution at stride 4 is separable, since that was the most expensive one.
_NANO: dict[str, Any] = {
    **_NANO_RESNET,
    "grounder_config": {
        **_NANO_RESNET["grounder_config"],
        "backbone_config": {"model_type": "efficientnet_lite"},
        "mask_convolution": "separable",
        "image_size": 224,
        "image_mean": [127.0, 127.0, 127.0],
        "image_std": [128.0, 128.0, 128.0],
        "num_queries": 100,
    },
}

# The grounder and the prompt encoder of the original on other language models, reading the image once for both, with a
# SigLIP tower and our own options. Special tokens take rows that the language model's vocabulary leaves free.
_OWN_OPTIONS: dict[str, Any] = {
    "visual_prompt_config": {"share_image_features": True},
    "projector": "mlp",
    "phrase_state": "at_seg",
    "phrase_projector": "linear",
    "score_function": "sigmoid",
    "score_threshold": 0.3,
    "nms_iou": 0.7,
    "tie_word_embeddings": True,
}

_QWEN3_4B: dict[str, Any] = {
    **_OWN_OPTIONS,
    "text_config": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "vision_config": {  # SigLIP so400m, patches of 14, 384 pixels
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "grounder_config": {"backbone_config": _SWIN_TINY, "phrase_size": 2560},
    "image_token_id": 151669,
    "seg_token_id": 151672,
    "region_token_id": 151673,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
}

_GEMMA3_1B: dict[str, Any] = {
    **_OWN_OPTIONS,
    "text_config": {
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "tie_word_embeddings": True,
    },
    "vision_config": {  # SigLIP base, patches of 16, 224 pixels
        "model_type": "siglip_vision_model",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "vision_use_head": False,
    },
    "grounder_config": {"backbone_config": _SWIN_TINY, "phrase_size": 1152},
    "image_token_id": 6,
    "seg_token_id": 9,
    "region_token_id": 10,
    "eos_token_id": 106,
    "pad_token_id": 0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "official_7b": _OFFICIAL_7B,
    "nano": _NANO,
    "nano_resnet": _NANO_RESNET,
    "qwen3_4b": _QWEN3_4B,
    "gemma3_1b": _GEMMA3_1B,
}

FORMER_PRESETS = {"nano_lite": "nano"}
"""Former names that still find a preset."""


def register_preset(name: str, fields: Mapping[str, Any]) -> None:
    """Add a preset, or replace one.

    Args:
        fields: of `LlavaGroundingConfig`.

    Raises:
        ConfigError: if they make no configuration.
    """
    LlavaGroundingConfig(**fields)
    PRESETS[name] = dict(fields)


def preset_fields(name: str) -> dict[str, Any]:
    """What a preset says, as fields of `LlavaGroundingConfig`.

    Raises:
        ConfigError: if there is no such preset.
    """
    present = FORMER_PRESETS.get(name, name)
    if present not in PRESETS:
        raise ConfigError(f"unknown preset `{name}`{did_you_mean(name, PRESETS)}")
    return PRESETS[present]


def preset(name: str, **overrides: Any) -> LlavaGroundingConfig:
    """Build the configuration called `name`, with top-level fields replaced by `overrides`.

    Raises:
        ConfigError: if there is no such preset.
    """
    return LlavaGroundingConfig(**{**preset_fields(name), **overrides})
