"""Small vision modules with random weights, and the recorded numbers of the original, for the tests of `model/`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, SwinConfig

from golden.joined import read_tensors
from llava_grounding.convert.official_vision import (
    build_official_grounder,
    build_official_prompt_encoder,
    convert_grounder_state,
    convert_prompt_encoder_state,
)
from llava_grounding.model.backbone import Backbone, build_backbone
from llava_grounding.model.grounder import Grounder
from llava_grounding.model.outputs import ImageMemory
from llava_grounding.model.pixel_decoder import DeformablePixelDecoder, FeaturePyramidPixelDecoder
from llava_grounding.model.visual_prompt import VisualPromptEncoder

GOLDEN = Path(__file__).parents[1] / "golden"
HIDDEN, MASK, PHRASE = 32, 16, 24
FEATURES = {"atol": 3e-4, "rtol": 1e-3}
"""Class F of the recorded numbers: features, hidden states, boxes. Seen: 8e-6."""
LOGITS = {"atol": 5e-3, "rtol": 1e-3}
"""Class L: logits and mask logits. Seen: 4e-4 and 1e-3."""


def recorded_memory(image: dict[str, Tensor]) -> Tensor:
    """The decoder's memory of a recorded image: its levels, coarsest first."""
    levels = [image[f"pixel_decoder.multi_scale.{index}"] for index in (3, 2, 1, 0)]
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def small_backbone(kind: str) -> Backbone:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    if kind == "swin":
        sizes = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
        return build_backbone(SwinConfig(**sizes, drop_path_rate=0.0, out_features=stages))
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return build_backbone(ResNetConfig(**sizes, out_features=stages))


def small_pixel_decoder(kind: str, channels: tuple[int, ...], num_levels: int) -> nn.Module:
    if kind == "feature_pyramid":
        return FeaturePyramidPixelDecoder(channels, HIDDEN, MASK, num_levels)
    sizes = {"num_layers": 1, "num_heads": 4, "ffn_size": 32, "norm_groups": 16}
    return DeformablePixelDecoder(channels, HIDDEN, MASK, num_levels, **sizes)


def small_grounder(kind: str = "deformable", num_levels: int = 4, seed: int = 0, **options: Any) -> Grounder:
    """`deformable`: Swin and deformable encoder; `feature_pyramid`: ResNet and convolutions. In evaluation mode."""
    torch.manual_seed(seed)
    backbone = small_backbone("swin" if kind == "deformable" else "resnet")
    grounder = Grounder(
        backbone=backbone,
        pixel_decoder=small_pixel_decoder(kind, backbone.channels, num_levels),
        hidden_size=HIDDEN,
        mask_size=MASK,
        phrase_size=PHRASE,
        num_heads=4,
        num_levels=num_levels,
        decoder_layers=2,
        decoder_ffn_size=32,
        **{"num_queries": 10, **options},
    )
    move_boxes(grounder)
    return grounder.eval()


def small_prompt_encoder(seed: int = 0) -> VisualPromptEncoder:
    """Without an image side; reads memories of `random_memory`."""
    torch.manual_seed(seed)
    encoder = VisualPromptEncoder(
        hidden_size=HIDDEN,
        mask_size=MASK,
        output_size=PHRASE,
        num_heads=4,
        num_levels=3,
        decoder_layers=2,
        decoder_ffn_size=32,
    )
    move_boxes(encoder)
    return encoder.eval()


def move_boxes(module: Grounder | VisualPromptEncoder) -> None:
    """Give the box head a last layer that does something; freshly built it is zero."""
    nn.init.normal_(module.query_decoder.box_head.layers[-1].weight, std=0.3)


def random_memory(batch: int = 1, seed: int = 0) -> ImageMemory:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((2, 3), (4, 6), (8, 12))
    cells = sum(height * width for height, width in sizes)
    features = torch.randn(batch, MASK, 16, 24, generator=generator)
    return ImageMemory(torch.randn(batch, cells, HIDDEN, generator=generator), sizes, features)


def random_phrases(batch: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, PHRASE, generator=generator), torch.ones(batch, count, dtype=torch.bool)


@cache
def golden(folder: str, file: str) -> dict[str, Tensor]:
    return read_tensors(GOLDEN / folder / file)


def golden_config(folder: str) -> dict[str, Any]:
    return json.loads((GOLDEN / folder / "config.json").read_text())


@cache
def golden_grounder() -> Grounder:
    grounder = build_official_grounder(golden_config("A_grounding"))
    grounder.load_state_dict(convert_grounder_state(golden("A_grounding", "weights.safetensors")))
    return grounder


@cache
def golden_prompt_encoder() -> VisualPromptEncoder:
    encoder = build_official_prompt_encoder(golden_config("B_visual_prompt"))
    encoder.load_state_dict(convert_prompt_encoder_state(golden("B_visual_prompt", "weights.safetensors")))
    return encoder


def golden_pixels(folder: str, file: str) -> Tensor:
    """The recorded image as the backbone receives it."""
    numbers = golden_config(folder)["INPUT"]
    mean, std = (torch.tensor(numbers[name])[:, None, None] for name in ("PIXEL_MEAN", "PIXEL_STD"))
    pixels = (golden(folder, file)["in.image_uint8"].float() - mean) / std
    height, width = pixels.shape[1:]
    return nn.functional.pad(pixels, (0, -width % 32, 0, -height % 32))[None]
