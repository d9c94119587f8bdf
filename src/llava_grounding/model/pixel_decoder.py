"""Pixel decoders: backbone maps -> multi-scale memory and stride-4 mask features (an `ImageMemory`).

`DeformablePixelDecoder` is the original's (MaskDINO); `FeaturePyramidPixelDecoder` has convolutions only and learns
faster when everything is small. Neither knows of phrases or prompts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llava_grounding.errors import ConfigError
from llava_grounding.model.deformable import MultiScaleDeformableAttention
from llava_grounding.model.heads import sine_code
from llava_grounding.model.outputs import ImageMemory

NORM_GROUPS = 32  # of the original, whatever the width
_ROWS_AT_ONCE = 2048  # cells per step at inference: what a step touches stays in the CPU's cache


class DeformablePixelDecoder(nn.Module):
    """Deformable encoder over strides 8, 16, 32, 64, then one top-down step to stride 4.

    Args:
        in_channels: of the backbone maps at strides 4, 8, 16, 32.
        num_levels: three from the backbone, each further one halves the last by a convolution.
        norm_groups: groups of channels that GroupNorm normalises together.

    Source: MaskDINO (arXiv:2206.02777).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden_size: int = 256,
        mask_size: int = 256,
        num_levels: int = 4,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_size: int = 2048,
        implementation: str = "auto",
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        if num_levels < 3:
            raise ConfigError(f"the deformable pixel decoder needs at least 3 levels, got {num_levels}")
        finest, *inner = in_channels
        self.input_projections = nn.ModuleList(_projection(channels, hidden_size, 1, norm_groups) for channels in inner)
        for level in range(num_levels - len(inner)):
            self.input_projections.append(
                _projection(inner[-1] if level == 0 else hidden_size, hidden_size, 3, norm_groups)
            )
        self.level_embed = nn.Parameter(torch.randn(num_levels, hidden_size))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(hidden_size, num_heads, num_levels, num_points, ffn_size, implementation)
            for _ in range(num_layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(finest, hidden_size, 1, bias=False), GroupNorm(norm_groups, hidden_size))
        self.output = nn.Sequential(
            nn.Conv2d(hidden_size, hidden_size, 3, padding=1, bias=False),
            GroupNorm(norm_groups, hidden_size),
            nn.ReLU(),
        )
        self.mask_projection = nn.Conv2d(hidden_size, mask_size, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> ImageMemory:
        """Fuse the backbone's maps, given fine to coarse."""
        finest, *inner = map(_by_cell, feature_maps)
        levels = [project(x) for project, x in zip(self.input_projections, inner, strict=False)]
        for index in range(len(inner), len(self.input_projections)):
            source = inner[-1] if index == len(inner) else levels[-1]
            levels.append(self.input_projections[index](source))
        sizes_hw = tuple((int(level.shape[2]), int(level.shape[3])) for level in levels)
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        positions = torch.cat(
            [
                sine_map(size_hw, x.shape[2], x.device).flatten(0, 1).to(x.dtype) + embed
                for size_hw, embed in zip(sizes_hw, self.level_embed, strict=True)
            ]
        )
        references = torch.cat([cell_centres(size_hw, x.device).flatten(0, 1) for size_hw in sizes_hw])[None]
        for layer in self.layers:
            x = layer(x, positions, references, sizes_hw)

        cells = x.split([height * width for height, width in sizes_hw], dim=1)
        # Viewed, not unflattened: only so does torch see that it may keep the channels of a cell side by side.
        stride8 = cells[0].view(-1, *sizes_hw[0], x.shape[2]).permute(0, 3, 1, 2)
        lateral = self.lateral(finest)
        fused = lateral + F.interpolate(stride8, size=lateral.shape[2:], mode="bilinear", align_corners=False)
        return ImageMemory(
            memory=torch.cat(cells[::-1], dim=1),
            level_sizes_hw=sizes_hw[::-1],
            mask_features=self.mask_projection(self.output(fused)),
        )


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, also for a group of one single number: that has no spread and becomes the bias.

    The coarsest level may be one cell, and as many groups as channels leave it one number each; torch refuses that for
    one image and does it for two.
    """

    def __init__(self, num_groups: int, num_channels: int) -> None:
        if num_groups < 1 or num_channels % num_groups:
            fitting = max(n for n in range(1, min(max(num_groups, 1), num_channels) + 1) if num_channels % n == 0)
            raise ConfigError(
                f"norm_groups must divide hidden_size, got {num_groups} and {num_channels}; "
                f"take a hidden_size that it divides, or norm_groups={fitting}"
            )
        super().__init__(num_groups, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all cells, then a feed-forward part; both add and then normalise."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        ffn_size: int,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(hidden_size, num_heads, num_levels, num_points, implementation)
        self.self_attn_norm = nn.LayerNorm(hidden_size)
        self.ffn = FeedForward(hidden_size, ffn_size)
        self.ffn_norm = nn.LayerNorm(hidden_size)

    def forward(
        self,
        x: Float[Tensor, "B N C"],
        positions: Float[Tensor, "N C"],
        references: Float[Tensor, "1 N 2"],
        level_sizes_hw: tuple[tuple[int, int], ...],
    ) -> Float[Tensor, "B N C"]:
        """One layer; levels in any fixed order."""
        value = self.self_attn.project_value(x, level_sizes_hw, x.shape[1])

        def update(rows: slice) -> Tensor:
            part = x[:, rows]
            attended = self.self_attn.attend(part + positions[rows], references[:, rows], value, level_sizes_hw)
            part = self.self_attn_norm(part + attended)
            return self.ffn_norm(part + self.ffn(part))

        if torch.is_grad_enabled() or x.device.type != "cpu":
            return update(slice(None))
        starts = range(0, x.shape[1], _ROWS_AT_ONCE)
        return torch.cat([update(slice(start, start + _ROWS_AT_ONCE)) for start in starts], dim=1)


class FeedForward(nn.Module):
    """Two linear layers with ReLU."""

    def __init__(self, hidden_size: int, ffn_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, ffn_size)
        self.fc2 = nn.Linear(ffn_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


class FeaturePyramidPixelDecoder(nn.Module):
    """Top-down feature pyramid: 1x1 laterals, sums, one 3x3 convolution with norm and ReLU per level. No attention.

    Args:
        in_channels: of the backbone maps at strides 4, 8, 16, 32.
        num_levels: memory levels; 3 means strides 8, 16, 32, fewer drop the finest, more halve the coarsest.
        norm: BatchNorm learns several times faster than GroupNorm here when trained from nothing.
        mask_convolution: "separable" makes the 3x3 convolution at stride 4, most of the pyramid's work, a depthwise and
            a 1x1 one.
        norm_groups: of GroupNorm.

    Source: Feature Pyramid Networks (arXiv:1612.03144).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden_size: int = 256,
        mask_size: int = 256,
        num_levels: int = 3,
        norm: Literal["batch", "group"] = "batch",
        upsampling: Literal["nearest", "bilinear"] = "nearest",
        mask_convolution: Literal["full", "separable"] = "full",
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        if num_levels < 1:
            raise ConfigError(f"the feature pyramid needs at least 1 level, got {num_levels}")
        make_norm = nn.BatchNorm2d if norm == "batch" else partial(GroupNorm, norm_groups)
        self.num_levels = num_levels
        self.upsampling = upsampling
        self.laterals = nn.ModuleList(nn.Conv2d(channels, hidden_size, 1) for channels in in_channels)
        self.outputs = nn.ModuleList(_conv_norm(hidden_size, make_norm) for _ in in_channels)
        if mask_convolution == "separable":
            self.outputs[0] = _separable_conv_norm(hidden_size, make_norm)
        self.halvings = nn.ModuleList(
            _conv_norm(hidden_size, make_norm, stride=2) for _ in range(num_levels - len(in_channels) + 1)
        )
        used = min(num_levels, len(in_channels) - 1)
        for index in range(1, len(in_channels) - used):
            self.outputs[index] = nn.Identity()  # strides between mask features and memory are only passed through
        self.level_embed = nn.Parameter(torch.zeros(num_levels, hidden_size))
        self.mask_projection = nn.Conv2d(hidden_size, mask_size, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> ImageMemory:
        """Fuse the backbone's maps, given fine to coarse."""
        fused = [lateral(x) for lateral, x in zip(self.laterals, feature_maps, strict=True)]
        for index in range(len(fused) - 2, -1, -1):
            coarse = F.interpolate(fused[index + 1], size=fused[index].shape[2:], mode=self.upsampling)
            fused[index] = fused[index] + coarse
        outputs = [output(x) for output, x in zip(self.outputs, fused, strict=True)]
        levels = outputs[1:]
        for halving in self.halvings:
            levels.append(halving(levels[-1]))
        levels = levels[-self.num_levels :][::-1]  # coarse to fine
        cells = [
            level.flatten(2).transpose(1, 2) + embed for level, embed in zip(levels, self.level_embed, strict=True)
        ]
        return ImageMemory(
            memory=torch.cat(cells, dim=1),
            level_sizes_hw=tuple((int(level.shape[2]), int(level.shape[3])) for level in levels),
            mask_features=self.mask_projection(outputs[0]),
        )


def cell_centres(size_hw: tuple[int, int], device: torch.device) -> Float[Tensor, "h w 2"]:
    """(x, y) of every cell's centre in [0, 1]."""
    y = (torch.arange(size_hw[0], dtype=torch.float32, device=device) + 0.5) / size_hw[0]
    x = (torch.arange(size_hw[1], dtype=torch.float32, device=device) + 0.5) / size_hw[1]
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def sine_map(size_hw: tuple[int, int], size: int, device: torch.device) -> Float[Tensor, "h w size"]:
    """Sine code of every cell, y then x.

    Cells count from 1 and are divided by the last one plus 1e-6: the original's convention, not the cells' centres.
    """
    codes = []
    for cells in size_hw:
        count = torch.arange(1, cells + 1, dtype=torch.float32, device=device)
        codes.append(sine_code(count / (cells + 1e-6), size // 2))
    y_code, x_code = codes
    height, width = size_hw
    return torch.cat([y_code[:, None].expand(-1, width, -1), x_code[None].expand(height, -1, -1)], dim=-1)


def _by_cell(feature_map: Tensor) -> Tensor:
    """At inference on a CPU: the channels of a cell side by side, which convolutions read fastest."""
    if torch.is_grad_enabled() or feature_map.device.type != "cpu":
        return feature_map
    return feature_map.contiguous(memory_format=torch.channels_last)


def _projection(in_channels: int, out_channels: int, kernel: int, norm_groups: int) -> nn.Sequential:
    stride = 1 if kernel == 1 else 2
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, GroupNorm(norm_groups, out_channels))


def _conv_norm(channels: int, make_norm: Callable[[int], nn.Module], stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, make_norm(channels), nn.ReLU())


def _separable_conv_norm(channels: int, make_norm: Callable[[int], nn.Module]) -> nn.Sequential:
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return nn.Sequential(depthwise, pointwise, make_norm(channels), nn.ReLU())
