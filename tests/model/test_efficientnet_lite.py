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


def test_the_config_survives_json():
    config = GrounderConfig(backbone_config={"model_type": "efficientnet_lite", "width_multiplier": 1.1})
    again = GrounderConfig(**config.to_dict())
    assert isinstance(again.backbone_config, EfficientNetLiteConfig)
    assert again.backbone_config.width_multiplier == 1.1
