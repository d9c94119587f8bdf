"""NanoDet's backbone has the published sizes, and is a backbone like the others."""

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


def test_training_and_inference_see_the_same_maps() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(NanoDetConfig())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        still = backbone(pixels)
    for learning, seen in zip(backbone(pixels), still, strict=True):
        torch.testing.assert_close(learning, seen)


def test_the_config_survives_json() -> None:
    config = GrounderConfig(backbone_config={"model_type": "nanodet"})
    assert isinstance(GrounderConfig(**config.to_dict()).backbone_config, NanoDetConfig)
