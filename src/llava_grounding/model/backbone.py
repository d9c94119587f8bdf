"""Image backbone: pixels -> four feature maps at strides 4, 8, 16, 32, by EfficientNet-Lite or any `AutoBackbone`.

Knows only how many channels each map has; Swin (the original's), BatchNorm ResNets and EfficientNet-Lite (small
models) are tested.
"""

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoBackbone, PreTrainedConfig

from llava_grounding.errors import ConfigError, ShapeError
from llava_grounding.model.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from llava_grounding.model.nanodet import NanoDet, NanoDetConfig

STRIDES = (4, 8, 16, 32)
SIZE_DIVISOR = STRIDES[-1]


class Backbone(nn.Module):
    """A transformers backbone that returns exactly the maps at strides 4, 8, 16 and 32.

    Args:
        body: a module with `channels` whose output has `feature_maps`, fine to coarse.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.channels: tuple[int, ...] = tuple(body.channels)  # type: ignore[arg-type]
        if len(self.channels) != len(STRIDES):
            raise ConfigError(
                f"the backbone must return {len(STRIDES)} feature maps (strides 4, 8, 16, 32), it returns "
                f"{len(self.channels)}; set out_features to its last four stages"
            )

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Feature maps, fine to coarse.

        Raises:
            ShapeError: if H or W is not a multiple of 32, or the backbone has other strides.
        """
        height, width = pixel_values.shape[2:]
        if height % SIZE_DIVISOR or width % SIZE_DIVISOR or not height * width:
            raise ShapeError(
                f"image height and width must be positive multiples of {SIZE_DIVISOR}, got {height} x {width}; "
                f"pad the image at the right and bottom"
            )
        maps = list(self.body(pixel_values).feature_maps)
        for stride, feature_map in zip(STRIDES, maps, strict=True):
            if feature_map.shape[2:] != (height // stride, width // stride):
                raise ShapeError(
                    f"expected a feature map of {height // stride} x {width // stride} cells at stride {stride}, "
                    f"got {feature_map.shape[2]} x {feature_map.shape[3]}"
                )
        return maps


def build_backbone(config: PreTrainedConfig) -> Backbone:
    """A backbone with fresh weights from its config; a config of transformers names four stages in `out_features`."""
    if isinstance(config, EfficientNetLiteConfig):
        return Backbone(EfficientNetLite(config.width_multiplier, config.depth_multiplier))
    if isinstance(config, NanoDetConfig):
        return Backbone(NanoDet())
    body = AutoBackbone.from_config(config, trust_remote_code=False)
    if config.model_type == "swin":
        body.swin.layernorm = nn.Identity()  # no map passes through it: it would only be weights without gradient
    return Backbone(body)
