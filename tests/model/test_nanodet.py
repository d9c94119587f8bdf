"""NanoDet's backbone has the published sizes, and is a backbone like the others."""

import pytest
import torch

from llava_grounding.model.backbone import build_backbone
from llava_grounding.model.config import GrounderConfig
from llava_grounding.model.nanodet import NanoDetConfig

# Of NanoDet-g: 3.81 million parameters as published, of which three last layers of 128 x 124 + 124 are left out.
PARAMETERS = 3_738_080


def test_sizes_are_those_of_the_published_network() -> None:
    with torch.device("meta"):
        backbone = build_backbone(NanoDetConfig())
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert (count, backbone.channels) == (PARAMETERS, (64, 256, 256, 256))


@pytest.mark.parametrize("size_hw", [(32, 32), (96, 64), (32, 160)])
def test_maps_have_the_strides_of_a_backbone(size_hw: tuple[int, int]) -> None:
    backbone = build_backbone(NanoDetConfig()).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(2, 3, *size_hw))
    assert [tuple(one.shape[2:]) for one in maps] == [(size_hw[0] // s, size_hw[1] // s) for s in (4, 8, 16, 32)]
    assert tuple(one.shape[1] for one in maps) == backbone.channels


def test_a_batch_of_two_is_two_of_one() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(NanoDetConfig()).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        both, first = backbone(pixels), backbone(pixels[:1])
    for batched, alone in zip(both, first, strict=True):
        torch.testing.assert_close(batched[:1], alone, rtol=1e-4, atol=1e-4)


def test_training_and_inference_see_the_same_maps() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(NanoDetConfig())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        still = backbone(pixels)
    for learning, seen in zip(backbone(pixels), still, strict=True):
        torch.testing.assert_close(learning, seen)


def test_every_weight_learns() -> None:
    backbone = build_backbone(NanoDetConfig()).train()
    sum(one.square().mean() for one in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_bfloat16_stays_near_single_precision() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(NanoDetConfig()).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = backbone(pixels)[1]
        half = backbone.to(torch.bfloat16)(pixels.bfloat16())[1].float()
    assert (exact - half).norm() / exact.norm() < 0.1


def test_the_config_survives_json() -> None:
    config = GrounderConfig(backbone_config={"model_type": "nanodet"})
    assert isinstance(GrounderConfig(**config.to_dict()).backbone_config, NanoDetConfig)
