"""Whole models with random weights, small enough to build in a moment, in every flavour that a configuration can have.

Also texts for them, written as ids: no tokenizer is needed to test the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration, RegionPrompts

VOCABULARY = 64
PAD, END, IMAGE, PHRASE_START, PHRASE_END, SEG, REGION = 0, 1, 5, 6, 7, 8, 9
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": STAGES,
}
SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "drop_path_rate": 0.1,
    "out_features": STAGES,
}
_TRUNK = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LANGUAGE = {
    "llama": {"model_type": "llama", **_TRUNK},
    "qwen2": {"model_type": "qwen2", **_TRUNK, "num_key_value_heads": 2},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
    },
    "opt": {**_TRUNK, "model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32},
}
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_DECODER = {"hidden_size": 32, "mask_size": 16, "num_heads": 4, "decoder_layers": 2, "decoder_ffn_size": 32}
# Fewer groups than the original: at these few cells a group of one channel would have no spread to speak of.
_DEFORMABLE = {**_DECODER, "encoder_layers": 1, "encoder_ffn_size": 32, "num_points": 2, "norm_groups": 16}
_IDS = {
    "image_token_id": IMAGE,
    "seg_token_id": SEG,
    "region_token_id": REGION,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
FLAVOURS: dict[str, dict[str, Any]] = {
    # One vision module for everything, as preset `nano`.
    "shared": {
        "text_config": {**LANGUAGE["llama"], "tie_word_embeddings": True},
        "grounder_config": {
            "backbone_config": RESNET,
            "pixel_decoder": "feature_pyramid",
            "image_size": 64,
            "phrase_size": 32,
            "num_levels": 3,
            "encoder_layers": 0,
            "num_queries": 8,
            "proposal_order": "fine_small",
            "initial_logit_bias": -4.0,
            **_DECODER,
        },
        "visual_prompt_config": {"share_image_features": True, "num_levels": 3, **_DECODER},
        "projector": "mlp",
        "shared_tower_objects": 4,
        "phrase_state": "at_seg",
        "phrase_projector": "linear",
        "phrase_queries": "image",
        "score_function": "sigmoid",
        "nms_iou": 0.7,
        "tie_word_embeddings": True,
        **_IDS,
    },
    # Three vision modules, as preset `official_7b`.
    "official": {
        "text_config": LANGUAGE["llama"],
        "vision_config": {"model_type": "clip_vision_model", **_TOWER},
        "grounder_config": {
            "backbone_config": SWIN,
            "image_size": 128,
            "phrase_size": 32,
            "num_queries": 8,
            **_DEFORMABLE,
        },
        "visual_prompt_config": {"backbone_config": SWIN, "isolate_prompts": False, **_DEFORMABLE},
        **_IDS,
    },
    # Neither CLIP nor Llama, and a prompt encoder that reads the grounder's features.
    "siglip": {
        "text_config": {**LANGUAGE["qwen2"], "tie_word_embeddings": True},
        "vision_config": {"model_type": "siglip_vision_model", **_TOWER},
        "grounder_config": {
            "backbone_config": SWIN,
            "image_size": 128,
            "phrase_size": 32,
            "num_queries": 8,
            **_DEFORMABLE,
        },
        "visual_prompt_config": {"share_image_features": True, "isolate_prompts": False, "num_levels": 4, **_DECODER},
        "projector": "mlp",
        "detach_grounding": True,
        "tie_word_embeddings": True,
        **_IDS,
    },
}


def whole_config(flavour: str = "shared", **overrides: Any) -> LlavaGroundingConfig:
    """Configuration of a small model, with top-level fields replaced."""
    return LlavaGroundingConfig(**{**FLAVOURS[flavour], **overrides})


def whole_model(config: LlavaGroundingConfig, seed: int = 0) -> LlavaGroundingForConditionalGeneration:
    """A model with random weights in evaluation mode, strong enough that every input changes every later output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaGroundingForConditionalGeneration(config)
        for part in (model.grounder, model.visual_prompt_encoder):
            nn.init.normal_(part.query_decoder.box_head.layers[-1].weight, std=0.3)
        nn.init.normal_(model.visual_prompt_encoder.coverage_projection.weight, std=0.3)
        nn.init.normal_(model.get_input_embeddings().weight)
        for weight in model.language_model.parameters():
            if weight.ndim == 2 and weight is not model.get_input_embeddings().weight:
                nn.init.normal_(weight, std=0.3)
    return model.eval()


@cache
def built(flavour: str) -> LlavaGroundingForConditionalGeneration:
    """The model of a flavour, built once; nobody may change it."""
    return whole_model(whole_config(flavour))


@dataclass
class Inputs:
    """A batch for `forward`, and the images of it."""

    text: dict[str, Tensor]
    images: dict[str, Tensor]
    prompts: RegionPrompts | None

    def everything(self) -> dict[str, Any]:
        """Keyword arguments of `forward`."""
        return {**self.text, **self.images, "region_prompts": self.prompts, "use_cache": False}

    def row(self, index: int) -> Inputs:
        """One row of the batch, without its padding."""
        here = self.text["attention_mask"][index].bool()
        text = {name: value[index : index + 1, here] for name, value in self.text.items()}
        images = {name: value[index : index + 1] for name, value in self.images.items()}
        if self.prompts is None or not self.prompts.valid[index].any():
            return Inputs(text, images, None)
        kept = self.prompts.valid[index]
        coverage = None if self.prompts.coverage is None else self.prompts.coverage[index : index + 1, kept]
        prompts = RegionPrompts(
            self.prompts.boxes_cxcywh_norm[index : index + 1, kept],
            self.prompts.types[index : index + 1, kept],
            self.prompts.valid[index : index + 1, kept],
            coverage,
        )
        return Inputs(text, images, prompts)


def batch_texts(rows: Sequence[Sequence[int]], padding_side: str = "right") -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of rows of ids; `position_ids` too when padded on the left."""
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), PAD), torch.zeros(len(rows), longest, dtype=torch.long)
    for row, values in enumerate(rows):
        place = slice(0, len(values)) if padding_side == "right" else slice(longest - len(values), longest)
        ids[row, place], mask[row, place] = torch.tensor(values), 1
    text = {"input_ids": ids, "attention_mask": mask}
    if padding_side == "left":
        text["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return text


def example(config: LlavaGroundingConfig, padding_side: str = "right", seed: int = 0) -> Inputs:
    """Two dialogues about two images: a long one with two prompts and two phrases, a short one with one of each."""
    generator = torch.Generator().manual_seed(seed)
    image = [IMAGE] * config.image_sequence_length
    long = [
        20,
        *image,
        21,
        REGION,
        22,
        REGION,
        23,
        PHRASE_START,
        24,
        25,
        PHRASE_END,
        SEG,
        26,
        PHRASE_START,
        27,
        PHRASE_END,
    ]
    short = [30, *image, REGION, 31, PHRASE_START, 32, PHRASE_END, SEG, END]
    size = config.grounder_config.image_size
    images = {"grounder_pixel_values": torch.randn(2, 3, size, size, generator=generator)}
    if config.vision_config is not None:
        side = config.vision_config.image_size
        images["pixel_values"] = torch.randn(2, 3, side, side, generator=generator)
    coverage = torch.zeros(2, 2, 8, 8)
    coverage[0, 1, 2:5, 3:7] = 1.0
    prompts = RegionPrompts(
        boxes_cxcywh_norm=torch.rand(2, 2, 4, generator=generator) * 0.4 + 0.3,
        types=torch.tensor([[1, 0], [1, 0]]),
        valid=torch.tensor([[True, True], [True, False]]),
        coverage=coverage,
    )
    return Inputs(batch_texts([[*long, SEG, END], short], padding_side), images, prompts)
