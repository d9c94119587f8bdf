"""What our own backbones have in common: strides, batches, gradients, narrow types."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedConfig

from llava_grounding.model.backbone import build_backbone
from llava_grounding.model.efficientnet_lite import EfficientNetLiteConfig
from llava_grounding.model.nanodet import NanoDetConfig

Config = Callable[[], PreTrainedConfig]

pytestmark = pytest.mark.parametrize("config", [EfficientNetLiteConfig, NanoDetConfig])


@pytest.mark.parametrize("size_hw", [(32, 32), (96, 64), (32, 160)])
def test_maps_have_the_strides_of_a_backbone(config: Config, size_hw: tuple[int, int]) -> None:
    backbone = build_backbone(config()).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(2, 3, *size_hw))
    assert [tuple(one.shape[2:]) for one in maps] == [(size_hw[0] // s, size_hw[1] // s) for s in (4, 8, 16, 32)]


def test_a_batch_of_two_is_two_of_one(config: Config) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(config()).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        both, first = backbone(pixels), backbone(pixels[:1])
    for batched, alone in zip(both, first, strict=True):
        torch.testing.assert_close(batched[:1], alone, rtol=1e-4, atol=1e-4)


def test_every_weight_learns(config: Config) -> None:
    backbone = build_backbone(config()).train()
    sum(one.square().mean() for one in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_bfloat16_stays_near_single_precision(config: Config) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(config()).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = backbone(pixels)[1]
        half = backbone.to(torch.bfloat16)(pixels.bfloat16())[1].float()
    assert (exact - half).norm() / exact.norm() < 0.1
