"""Multi-scale deformable attention in plain torch, for any device and without a compiled operator.

Two equal ways to sample: `gather` (corner indices and one `embedding_bag`; several times faster on a CPU) and
`grid_sample` (the textbook form, default otherwise). Knows nothing of images; levels come in the caller's order.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llava_grounding.errors import ConfigError

IMPLEMENTATIONS = ("auto", "gather", "grid_sample")


class MultiScaleDeformableAttention(nn.Module):
    """Each query looks at a few points around its reference, on every level, and mixes what it finds.

    References are (x, y) or (cx, cy, w, h) in [0, 1], the same for all levels. A 2-d reference counts offsets in cells
    of each level, a 4-d one in units of half its box divided by the number of points.

    Source: Deformable DETR (arXiv:2010.04159); 4-d references as in DAB-DETR (arXiv:2201.12329).
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ConfigError(f"hidden_size must be divisible by num_heads, got {hidden_size} and {num_heads}")
        if implementation not in IMPLEMENTATIONS:
            raise ConfigError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got `{implementation}`")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.implementation = implementation
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(hidden_size, points * 2)
        self.attention_weights = nn.Linear(hidden_size, points)
        self.value_proj = nn.Linear(hidden_size, hidden_size)
        self.output_proj = nn.Linear(hidden_size, hidden_size)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with one viewing direction per head, points at growing distance, all equally weighted."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * distances[None, None, :, None]
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        for parameter in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(parameter)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        references: Float[Tensor, "#B Q R"],
        memory: Float[Tensor, "Bm N C"],
        level_sizes_hw: tuple[tuple[int, int], ...],
    ) -> Float[Tensor, "B Q C"]:
        """Attend to the memory.

        Args:
            query: with its position already added.
            references: (x, y) or (cx, cy, w, h) of each query in [0, 1].
            memory: all levels flattened; batch B, or 1 to share one image among all queries.
            level_sizes_hw: (height, width) of each level in the memory's order.
        """
        value = self.project_value(memory, level_sizes_hw, query.shape[1])
        return self.attend(query, references, value, level_sizes_hw)

    def project_value(
        self, memory: Float[Tensor, "Bm N C"], level_sizes_hw: tuple[tuple[int, int], ...], num_queries: int
    ) -> "LevelValues":
        """The part that does not depend on the queries but on how many there will be."""
        value = self.value_proj(memory).unflatten(2, (self.num_heads, -1)).float()
        gather = self._gathers(memory, num_queries)
        return LevelValues(pad_levels(value, level_sizes_hw) if gather else value, padded=gather)

    def attend(
        self,
        query: Float[Tensor, "B Q C"],
        references: Float[Tensor, "#B Q R"],
        value: "LevelValues",
        level_sizes_hw: tuple[tuple[int, int], ...],
    ) -> Float[Tensor, "B Q C"]:
        """Attend to what `project_value` returned."""
        weights = self.attention_weights(query).unflatten(2, (self.num_heads, -1)).float().softmax(-1)
        weights = weights.unflatten(3, (self.num_levels, self.num_points))
        points = self._points(query, references, level_sizes_hw)
        sample = sample_padded_levels if value.padded else sample_by_grid_sample
        mixed = sample(value.tensor, level_sizes_hw, points, weights)
        return self.output_proj(mixed.to(query.dtype))

    def _points(self, query: Tensor, references: Tensor, level_sizes_hw: tuple[tuple[int, int], ...]) -> Tensor:
        offsets = self.sampling_offsets(query).float()
        offsets = offsets.unflatten(2, (self.num_heads, self.num_levels, self.num_points, 2))
        sizes_wh = offsets.new_tensor([(width, height) for height, width in level_sizes_hw])
        references = references.float()[:, :, None, None, None, :]  # [B, Q, heads, levels, points, 2 or 4]
        centres = references[..., :2] * sizes_wh[:, None, :]
        if references.shape[-1] == 2:
            return offsets + centres
        reach = references[..., 2:] * sizes_wh[:, None, :] * (0.5 / self.num_points)
        return torch.addcmul(centres, offsets, reach)

    def _gathers(self, memory: Tensor, num_queries: int) -> bool:
        # One CPU thread, gather against grid_sample. Forward: 0.17 against 1.9 s for an encoder layer at 1024 x 1024.
        # Forward and backward: 2.1 against 3.2 s there, but 21 against 10 ms for a small decoder layer (batch
        # 8, 50 queries), because `embedding_bag` sorts its indices on the way back.
        if self.implementation != "auto":
            return self.implementation == "gather"
        return memory.device.type == "cpu" and (not torch.is_grad_enabled() or num_queries >= memory.shape[1])


@dataclass
class LevelValues:
    """What queries sample from."""

    tensor: Tensor
    """[Bm, N, heads, d], or as `pad_levels` returns it."""
    padded: bool
    """Whether every level has its border of zeros."""


def sample_by_grid_sample(
    value: Float[Tensor, "Bm N heads d"],
    level_sizes_hw: tuple[tuple[int, int], ...],
    points: Float[Tensor, "B Q heads levels points 2"],
    weights: Float[Tensor, "B Q heads levels points"],
) -> Float[Tensor, "B Q heads*d"]:
    """Weighted sum of bilinear samples by `grid_sample`; points count cells of their level, outside is zero."""
    batch, num_queries, num_heads = points.shape[:3]
    value = value.expand(batch, -1, -1, -1)
    levels = value.split([height * width for height, width in level_sizes_hw], dim=1)
    grid = points / points.new_tensor([(width, height) for height, width in level_sizes_hw])[:, None, :]
    grid = (2 * grid - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # [levels, B*heads, Q, points, 2]
    sampled = [
        F.grid_sample(
            level.permute(0, 2, 3, 1).reshape(batch * num_heads, -1, *size_hw), level_grid, align_corners=False
        )
        for level, size_hw, level_grid in zip(levels, level_sizes_hw, grid, strict=True)
    ]
    stacked = torch.stack(sampled, dim=3)  # [B*heads, d, Q, levels, points]
    mixed = (stacked * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum((3, 4))
    return mixed.view(batch, num_heads * value.shape[3], num_queries).transpose(1, 2)


def pad_levels(
    value: Float[Tensor, "Bm N heads d"], level_sizes_hw: tuple[tuple[int, int], ...]
) -> Float[Tensor, "Bm heads n d"]:
    """Put a zero border around every level, so that corners outside need no test of their own.

    One column left and right, one row above and two below, one cell at the very end: the far corners of a point clamped
    to the border have weight zero, but their indices must exist.
    """
    batch, _, num_heads, head_size = value.shape
    starts, total = _padded_starts(level_sizes_hw)
    table = value.new_zeros(batch, num_heads, total, head_size)
    levels = value.split([height * width for height, width in level_sizes_hw], dim=1)
    for level, (height, width), start in zip(levels, level_sizes_hw, starts, strict=True):
        padded = table[:, :, start : start + (height + 3) * (width + 2)].unflatten(2, (height + 3, width + 2))
        padded[:, :, 1 : height + 1, 1 : width + 1] = level.unflatten(1, (height, width)).permute(0, 3, 1, 2, 4)
    return table


def sample_padded_levels(
    table: Float[Tensor, "Bm heads n d"],
    level_sizes_hw: tuple[tuple[int, int], ...],
    points: Float[Tensor, "B Q heads levels points 2"],
    weights: Float[Tensor, "B Q heads levels points"],
) -> Float[Tensor, "B Q heads*d"]:
    """Weighted sum of bilinear samples from what `pad_levels` returned."""
    batch, num_queries, num_heads, _, num_points, _ = points.shape
    starts, total = _padded_starts(level_sizes_hw)
    # One number per sample of a head: levels and points are one axis from here on, innermost so that every step below
    # runs over contiguous memory.
    per_level = [(w + 1, h + 1, w + 2, start) for (h, w), start in zip(level_sizes_hw, starts, strict=True)]
    per_sample = torch.tensor(per_level, dtype=torch.int32, device=points.device).repeat_interleave(num_points, dim=0)
    last, stride, start = per_sample[:, :2].to(points.dtype), per_sample[:, 2], per_sample[:, 3]
    tables = torch.arange(table.shape[0] * num_heads, dtype=torch.int32, device=points.device) * total

    place = (points.flatten(3, 4) + 0.5).clamp(torch.zeros_like(last), last)  # the border moves cell centres to +1
    cells = place.nan_to_num().to(torch.int32)  # a point that is no number has weights that are none, not an index
    (column, row), (right, below) = cells.unbind(-1), (place - cells).unbind(-1)
    corner = (row * stride).add_(column).add_(tables.view(-1, 1, num_heads, 1) + start)
    steps = torch.stack([torch.zeros_like(stride), torch.ones_like(stride), stride, stride + 1])
    corners = corner[..., None, :] + steps  # [B, Q, heads, 4, samples]

    lower = weights.flatten(3) * below
    upper = weights.flatten(3) - lower
    lower_right, upper_right = lower * right, upper * right
    bilinear = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=-2)
    mixed = F.embedding_bag(
        corners.flatten(3).flatten(0, 2),
        table.flatten(0, 2),
        mode="sum",
        per_sample_weights=bilinear.flatten(3).flatten(0, 2),
    )
    return mixed.view(batch, num_queries, num_heads * table.shape[3])


def _padded_starts(level_sizes_hw: tuple[tuple[int, int], ...]) -> tuple[list[int], int]:
    starts, total = [], 0
    for height, width in level_sizes_hw:
        starts.append(total)
        total += (height + 3) * (width + 2)
    return starts, total + 1
