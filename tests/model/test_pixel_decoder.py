"""Backbone and both pixel decoders: recorded features, the order of levels, sizes, and what may not matter."""

import math

import pytest
import torch
from torch import Tensor
from transformers import ResNetConfig
from vision_parts import (
    FEATURES,
    HIDDEN,
    MASK,
    golden,
    golden_grounder,
    golden_pixels,
    recorded_memory,
    small_backbone,
    small_pixel_decoder,
)

from llava_grounding.errors import ConfigError, ShapeError
from llava_grounding.model import pixel_decoder as pixel_decoder_module
from llava_grounding.model.backbone import build_backbone
from llava_grounding.model.builders import build_image_side
from llava_grounding.model.config import GrounderConfig, VisualPromptConfig
from llava_grounding.model.pixel_decoder import FeaturePyramidPixelDecoder, cell_centres, sine_map
from whole_models import SWIN

CHANNELS = (8, 16, 32, 64)


def random_maps(batch: int = 1, size_hw: tuple[int, int] = (64, 96)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    height, width = size_hw
    return [
        torch.randn(batch, channels, height // stride, width // stride, generator=generator)
        for channels, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


@torch.no_grad()
def test_backbone_and_pixel_decoder_give_the_recorded_features() -> None:
    recorded = golden("A_grounding", "image1.safetensors")
    grounder = golden_grounder()
    maps = grounder.backbone(golden_pixels("A_grounding", "image1.safetensors"))
    memory = grounder.pixel_decoder(maps)
    for index, feature_map in enumerate(maps):
        if f"backbone.res{index + 2}" in recorded:
            torch.testing.assert_close(feature_map, recorded[f"backbone.res{index + 2}"], **FEATURES)
    for index in range(4):
        level = recorded[f"pixel_decoder.multi_scale.{index}"]
        torch.testing.assert_close(memory.level(3 - index), level, **FEATURES)
    torch.testing.assert_close(memory.memory, recorded_memory(recorded), **FEATURES)
    torch.testing.assert_close(memory.mask_features, recorded["pixel_decoder.mask_features"], **FEATURES)
    assert [list(size) for size in memory.level_sizes_hw] == recorded["two_stage.spatial_shapes"].tolist()


@pytest.mark.parametrize("kind", ["swin", "resnet"])
def test_backbones_give_maps_at_strides_4_to_32(kind: str) -> None:
    backbone = small_backbone(kind).eval()
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(feature_map.shape[2:]) for feature_map in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert tuple(feature_map.shape[1] for feature_map in maps) == backbone.channels


@pytest.mark.parametrize("size_hw", [(64, 100), (33, 64), (0, 32)])
def test_an_image_of_the_wrong_size_is_refused(size_hw: tuple[int, int]) -> None:
    message = f"image height and width must be positive multiples of 32, got {size_hw[0]} x {size_hw[1]}"
    with pytest.raises(ShapeError, match=message):
        small_backbone("resnet")(torch.zeros(1, 3, *size_hw))


def test_a_backbone_without_four_maps_is_refused() -> None:
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16] * 4, depths=[1] * 4, out_features=["stage4"])
    with pytest.raises(ConfigError, match=r"must return 4 feature maps .* it returns 1"):
        build_backbone(config)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "num_levels", "sizes_hw"),
    [
        ("deformable", 3, ((2, 3), (4, 6), (8, 12))),
        ("deformable", 5, ((1, 1), (1, 2), (2, 3), (4, 6), (8, 12))),
        ("feature_pyramid", 1, ((2, 3),)),
        ("feature_pyramid", 2, ((2, 3), (4, 6))),
        ("feature_pyramid", 3, ((2, 3), (4, 6), (8, 12))),
        ("feature_pyramid", 5, ((1, 1), (1, 2), (2, 3), (4, 6), (8, 12))),
    ],
)
def test_levels_come_coarse_to_fine_in_any_number(kind: str, num_levels: int, sizes_hw: tuple) -> None:
    memory = small_pixel_decoder(kind, CHANNELS, num_levels).eval()(random_maps())
    assert memory.level_sizes_hw == sizes_hw
    assert memory.memory.shape == (1, sum(math.prod(size) for size in sizes_hw), HIDDEN)
    assert memory.mask_features.shape == (1, MASK, 16, 24)
    rebuilt = torch.cat([memory.level(index).flatten(2).transpose(1, 2) for index in range(num_levels)], dim=1)
    assert torch.equal(rebuilt, memory.memory)


@pytest.mark.parametrize("kind", ["deformable", "feature_pyramid"])
def test_every_weight_of_a_pixel_decoder_learns(kind: str) -> None:
    for num_levels in (3, 4) if kind == "deformable" else (1, 3, 4):
        decoder = small_pixel_decoder(kind, CHANNELS, num_levels)
        memory = decoder(random_maps(batch=2))
        (memory.memory.square().sum() + memory.mask_features.square().sum()).backward()
        assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("kind", ["deformable", "feature_pyramid"])
def test_images_of_a_batch_do_not_influence_each_other(kind: str) -> None:
    decoder = small_pixel_decoder(kind, CHANNELS, 4).eval()
    maps = random_maps(batch=2)
    together = decoder(maps)
    for index in range(2):
        alone = decoder([feature_map[index : index + 1] for feature_map in maps])
        torch.testing.assert_close(together.memory[index : index + 1], alone.memory)
        torch.testing.assert_close(together.mask_features[index : index + 1], alone.mask_features)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["deformable", "feature_pyramid"])
def test_memory_layout_of_the_input_does_not_matter(kind: str) -> None:
    backbone = small_backbone("swin" if kind == "deformable" else "resnet").eval()
    decoder = small_pixel_decoder(kind, backbone.channels, 4).eval()
    pixels = torch.randn(1, 3, 64, 96)
    plain = decoder(backbone(pixels))
    layout = torch.channels_last
    last = decoder.to(memory_format=layout)(backbone.to(memory_format=layout)(pixels.to(memory_format=layout)))
    torch.testing.assert_close(plain.memory, last.memory, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain.mask_features, last.mask_features, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_pyramid_adds_coarse_maps_to_fine_ones_by_either_upsampling() -> None:
    maps = random_maps()
    for upsampling in ("nearest", "bilinear"):
        decoder = FeaturePyramidPixelDecoder(CHANNELS, HIDDEN, MASK, 3, norm="group", upsampling=upsampling).eval()
        fused = decoder.laterals[2](maps[2])
        coarse = torch.nn.functional.interpolate(decoder.laterals[3](maps[3]), scale_factor=2, mode=upsampling)
        torch.testing.assert_close(decoder(maps).level(1), decoder.outputs[2](fused + coarse), atol=1e-5, rtol=1e-4)


def test_cells_are_encoded_in_steps_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = small_pixel_decoder("deformable", CHANNELS, 4).eval()
    with_gradients = decoder(random_maps(batch=2)).memory
    monkeypatch.setattr(pixel_decoder_module, "_ROWS_AT_ONCE", 7)
    with torch.no_grad():
        torch.testing.assert_close(decoder(random_maps(batch=2)).memory, with_gradients, atol=1e-5, rtol=1e-4)


def test_cell_centres_are_x_then_y_in_shares_of_the_map() -> None:
    centres = cell_centres((2, 4), torch.device("cpu"))
    assert centres[0, 0].tolist() == [0.125, 0.25]
    assert centres[1, 3].tolist() == [0.875, 0.75]


def test_the_sine_map_codes_y_first_and_counts_cells_from_one() -> None:
    code = sine_map((2, 4), 8, torch.device("cpu"))
    angle_y, angle_x = 2 * math.pi * 1 / 2, 2 * math.pi * 3 / 4
    second = 10000 ** (2 / 4)
    expected = [f(angle / scale) for angle in (angle_y, angle_x) for scale in (1, second) for f in (math.sin, math.cos)]
    torch.testing.assert_close(code[0, 2], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_the_deformable_decoder_needs_three_levels() -> None:
    with pytest.raises(ConfigError, match="at least 3 levels, got 2"):
        small_pixel_decoder("deformable", CHANNELS, 2)


@pytest.mark.parametrize(("given", "groups"), [({}, 32), ({"norm_groups": 8}, 8)])
@pytest.mark.parametrize("width", [32, 96])
def test_the_group_count_is_the_originals_unless_the_configuration_says_otherwise(
    width: int, given: dict[str, int], groups: int
) -> None:
    for config_class in (GrounderConfig, VisualPromptConfig):
        config = config_class(backbone_config=SWIN, hidden_size=width, encoder_layers=1, encoder_ffn_size=8, **given)
        _, decoder = build_image_side(config)
        norms = [part for part in decoder.modules() if isinstance(part, torch.nn.GroupNorm)]
        assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(groups, width)] * 6


def test_groups_that_do_not_divide_the_width_are_refused_with_a_number_that_does() -> None:
    message = r"norm_groups must divide hidden_size, got 32 and 48; take a hidden_size .*, or norm_groups=24"
    with pytest.raises(ConfigError, match=message):
        build_image_side(GrounderConfig(backbone_config=SWIN, hidden_size=48))
    with pytest.raises(ConfigError, match=r"got 0 and 32; .* or norm_groups=1"):
        build_image_side(GrounderConfig(backbone_config=SWIN, hidden_size=32, norm_groups=0))


@torch.no_grad()
def test_a_group_of_one_number_becomes_the_bias_as_in_a_batch_of_two() -> None:
    norm, x = pixel_decoder_module.GroupNorm(8, 8), torch.randn(2, 8, 1, 1)
    torch.nn.init.normal_(norm.bias)
    assert torch.equal(norm(x[:1]), norm(x)[:1])
    torch.testing.assert_close(norm(x[:1]), norm.bias.view(1, 8, 1, 1), atol=1e-3, rtol=1e-3)
    x = torch.randn(2, 8, 3, 5)
    plain = torch.nn.GroupNorm(8, 8)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm(x), plain(x))
