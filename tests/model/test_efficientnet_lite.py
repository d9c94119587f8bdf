"""EfficientNet-Lite equals the published network, and is a backbone like the others."""

import pytest
import torch

from llava_grounding.errors import ConfigError
from llava_grounding.model.backbone import build_backbone
from llava_grounding.model.config import GrounderConfig
from llava_grounding.model.efficientnet_lite import EfficientNetLiteConfig

# Parameters without the classifier, and channels at strides 4 to 32, of `efficientnet-lite-pytorch` 0.1.0.
PUBLISHED = {
    "lite0": (2_958_848, (24, 40, 112, 320)),
    "lite1": (3_723_520, (24, 40, 112, 320)),
    "lite2": (4_357_952, (24, 48, 120, 352)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_published_networks(name):
    with torch.device("meta"):
        backbone = build_backbone(EfficientNetLiteConfig.variant(name))
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert (count, backbone.channels) == PUBLISHED[name]


def test_an_unknown_variant_is_refused():
    with pytest.raises(ConfigError, match=r"unknown variant `lite9`.*lite0, lite1, lite2"):
        EfficientNetLiteConfig.variant("lite9")


@pytest.mark.parametrize("size_hw", [(32, 32), (96, 64), (32, 160)])
def test_maps_have_the_strides_of_a_backbone(size_hw):
    backbone = build_backbone(EfficientNetLiteConfig()).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(2, 3, *size_hw))
    assert [tuple(one.shape[2:]) for one in maps] == [(size_hw[0] // s, size_hw[1] // s) for s in (4, 8, 16, 32)]


def test_a_batch_of_two_is_two_of_one():
    torch.manual_seed(0)
    backbone = build_backbone(EfficientNetLiteConfig()).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        both, first = backbone(pixels), backbone(pixels[:1])
    for batched, alone in zip(both, first, strict=True):
        torch.testing.assert_close(batched[:1], alone, rtol=1e-4, atol=1e-4)


def test_every_weight_learns():
    backbone = build_backbone(EfficientNetLiteConfig()).train()
    sum(one.square().mean() for one in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_bfloat16_stays_near_single_precision():
    torch.manual_seed(0)
    backbone = build_backbone(EfficientNetLiteConfig()).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = backbone(pixels)[1]
        half = backbone.to(torch.bfloat16)(pixels.bfloat16())[1].float()
    assert (exact - half).norm() / exact.norm() < 0.1


def test_the_config_survives_json():
    config = GrounderConfig(backbone_config={"model_type": "efficientnet_lite", "width_multiplier": 1.1})
    again = GrounderConfig(**config.to_dict())
    assert isinstance(again.backbone_config, EfficientNetLiteConfig)
    assert again.backbone_config.width_multiplier == 1.1
