"""NanoDet-g without its last layer: a small backbone with a neck that has learnt COCO's boxes; plain torch.

Plain 3x3 convolutions, into which the published network's batch normalisation is folded, and a path aggregation neck.
What tells classes and boxes, one 1x1 convolution per level, is left out: knows nothing of classes.

Source: NanoDet (github.com/RangiLyu/nanodet), its model `g`; path aggregation (arXiv:1803.01534).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from llava_grounding.model.outputs import FeatureMaps

STEM_CHANNELS = 32
STAGES = ((32, 1, 1), (64, 2, 2), (128, 2, 2), (256, 2, 3))
"""Width, stride and pairs of convolutions of each stage; its output is twice as wide. Strides 4, 8, 16 and 32."""
NECK_CHANNELS = 128
_SLOPE = 0.1


class NanoDetConfig(PreTrainedConfig):
    """The one published network, `g`: nothing to choose."""

    model_type: ClassVar[str] = "nanodet"
    # Checkers of argument types read a signature that does not show the further keys transformers passes.
    __no_type_check__: ClassVar[bool] = True


AutoConfig.register(NanoDetConfig.model_type, NanoDetConfig, exist_ok=True)


class NanoDet(nn.Module):
    """The backbone: four stages, a neck over the last three, and one convolution on each level of it.

    The levels' maps are what the published last layer reads beside what the neck gave, since masks and things that
    COCO does not box need more than the former.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvLeaky(3, STEM_CHANNELS, stride=2)
        channels, stages = STEM_CHANNELS, []
        for width, stride, pairs in STAGES:
            stages.append(PartialStage(channels, width, stride, pairs))
            channels = 2 * width
        self.stages = nn.ModuleList(stages)
        necks = [2 * width for width, _, _ in STAGES[1:]]
        self.laterals = nn.ModuleList(nn.Conv2d(width, NECK_CHANNELS, 1) for width in necks)
        self.levels = nn.ModuleList(ConvLeaky(NECK_CHANNELS, NECK_CHANNELS) for _ in necks)
        self.channels = (2 * STAGES[0][0], *(2 * NECK_CHANNELS for _ in necks))

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> FeatureMaps:
        """Maps at strides 4, 8, 16 and 32 of RGB pixels, normalised by ImageNet's means and deviations."""
        if pixel_values.device.type == "cpu":  # a cell's channels side by side, as convolutions read fastest
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(self.stem(pixel_values), 3, stride=2, padding=1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        neck = [lateral(one) for lateral, one in zip(self.laterals, maps[1:], strict=True)]
        for index in range(len(neck) - 2, -1, -1):
            coarse = F.interpolate(neck[index + 1], scale_factor=2, mode="bilinear", align_corners=False)
            neck[index] = neck[index] + coarse
        for index in range(1, len(neck)):
            neck[index] = neck[index] + F.avg_pool2d(neck[index - 1], 2)
        levels = [torch.cat([level(one), one], dim=1) for level, one in zip(self.levels, neck, strict=True)]
        return FeatureMaps((maps[0], *levels))


class ConvLeaky(nn.Module):
    """3x3 convolution with a bias, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, a=_SLOPE)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B C H W"]) -> Tensor:
        return F.leaky_relu(self.conv(x), _SLOPE, inplace=not torch.is_grad_enabled())


class PartialStage(nn.Module):
    """One stage (arXiv:1911.11929): what its first convolution gives goes on twice, changed by pairs and as it is.

    Its output has twice the width.
    """

    def __init__(self, in_channels: int, width: int, stride: int, pairs: int) -> None:
        super().__init__()
        self.first = ConvLeaky(in_channels, width, stride)
        self.pairs = nn.ModuleList(ConvPair(width) for _ in range(pairs))
        self.last = ConvLeaky(width, width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Tensor:
        first = x = self.first(x)
        for pair in self.pairs:
            x = pair(x)
        return torch.cat([self.last(x), first], dim=1)


class ConvPair(nn.Module):
    """Two convolutions to half of the channels, the second behind the first; both outputs side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvLeaky(channels, channels // 2)
        self.second = ConvLeaky(channels // 2, channels // 2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        first = self.first(x)
        return torch.cat([self.second(first), first], dim=1)
