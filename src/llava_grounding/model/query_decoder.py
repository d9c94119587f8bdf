"""Object queries, refined layer by layer: self-attention, deformable attention to the memory, feed-forward.

Knows boxes (each layer moves its references) but no phrases, prompts or masks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llava_grounding.errors import ConfigError
from llava_grounding.model.deformable import MultiScaleDeformableAttention
from llava_grounding.model.heads import MLP, BoxHead, sine_box_embedding
from llava_grounding.model.outputs import ImageMemory
from llava_grounding.model.pixel_decoder import FeedForward


@dataclass
class DecoderStep:
    """What one layer leaves behind."""

    states: Float[Tensor, "B Q C"]
    """Query states after the layer, normalised once."""
    references_in: Float[Tensor, "B Q 4"]
    """References the layer worked from, with gradients into the layer before."""
    references_out: Float[Tensor, "B Q 4"]
    """References it leaves to the next layer."""


class QueryDecoder(nn.Module):
    """A stack of decoder layers around one shared box head.

    Source: MaskDINO (arXiv:2206.02777); iterative boxes with "look forward twice" as in DINO (arXiv:2203.03605).
    """

    def __init__(
        self,
        hidden_size: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        num_layers: int = 9,
        ffn_size: int = 2048,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        if hidden_size % 4:  # a quarter of twice the width codes each side of a box, in pairs of sine and cosine
            raise ConfigError(f"hidden_size must be a multiple of 4, which codes a box in sines, got {hidden_size}")
        self.hidden_size = hidden_size
        self.layers = nn.ModuleList(
            QueryDecoderLayer(hidden_size, num_heads, num_levels, num_points, ffn_size, implementation)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.position_head = MLP(2 * hidden_size, hidden_size, hidden_size)
        self.box_head = BoxHead(hidden_size)

    def forward(
        self,
        states: Float[Tensor, "B Q C"],
        references: Float[Tensor, "B Q 4"],
        image: ImageMemory,
        group_size: int | None = None,
        query_mask: Bool[Tensor, "B Q"] | None = None,
    ) -> list[DecoderStep]:
        """Refine the queries.

        Args:
            states: initial content.
            references: initial boxes, cxcywh in [0, 1].
            image: memory of batch B, or of batch 1 to share one image.
            group_size: queries see only the others of their group of that many; None: all see all.
            query_mask: False for queries that the others must not see; None: all are seen.
        """
        hidden = _hidden_queries(query_mask)
        steps = []
        references_in = references
        for layer in self.layers:
            references = references.detach()
            position = self.position_head(sine_box_embedding(references, 2 * self.hidden_size).to(states.dtype))
            states = layer(states, position, references, image, group_size, hidden)
            references_out = self.box_head.refine(states, references)
            steps.append(DecoderStep(self.norm(states), references_in, references_out))
            references = references_in = references_out
        return steps

    def boxes_of(self, states: Float[Tensor, "B Q C"], references: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        """Predicted boxes: references moved by the box head."""
        return self.box_head.refine(states, references)


class QueryDecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; each adds and then normalises."""

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
        self.self_attn = QuerySelfAttention(hidden_size, num_heads)
        self.self_attn_norm = nn.LayerNorm(hidden_size)
        self.cross_attn = MultiScaleDeformableAttention(hidden_size, num_heads, num_levels, num_points, implementation)
        self.cross_attn_norm = nn.LayerNorm(hidden_size)
        self.ffn = FeedForward(hidden_size, ffn_size)
        self.ffn_norm = nn.LayerNorm(hidden_size)

    def forward(
        self,
        x: Float[Tensor, "B Q C"],
        position: Float[Tensor, "B Q C"],
        references: Float[Tensor, "B Q 4"],
        image: ImageMemory,
        group_size: int | None = None,
        hidden_queries: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """Refines the queries by one layer."""
        x = self.self_attn_norm(x + self._attend_to_queries(x, position, group_size, hidden_queries))
        attended = self.cross_attn(x + position, references, image.memory, image.level_sizes_hw)
        x = self.cross_attn_norm(x + attended)
        return self.ffn_norm(x + self.ffn(x))

    def _attend_to_queries(
        self, x: Tensor, position: Tensor, group_size: int | None, hidden_queries: Tensor | None
    ) -> Tensor:
        shape = x.shape
        if group_size is not None:
            x, position = (tensor.reshape(-1, group_size, shape[2]) for tensor in (x, position))
            hidden_queries = None if hidden_queries is None else hidden_queries.reshape(-1, group_size)
        return self.self_attn(x + position, x, hidden_queries).reshape(shape)


class QuerySelfAttention(nn.Module):
    """Multi-head attention of queries to each other, with the weights and their names of `nn.MultiheadAttention`.

    That one reads the weights of `out_proj` and never calls it, so adapters, offloading and pruning, which hang on a
    layer's call, would pass it by.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden_size))
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        value: Float[Tensor, "B Q C"],
        hidden_queries: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """Attend.

        Args:
            query: with its position already added; also the keys.
            value: what is mixed.
            hidden_queries: True for queries that nobody sees; not all of a row.
        """
        size = value.shape[2]
        keys = F.linear(query, self.in_proj_weight[: 2 * size], self.in_proj_bias[: 2 * size])
        values = F.linear(value, self.in_proj_weight[2 * size :], self.in_proj_bias[2 * size :])
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (*keys.chunk(2, dim=2), values))
        # Plain products: with so few queries they beat the fused kernel, whose backward took 7 ms a layer on a CPU
        # (batch 8, 50 queries).
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)  # [B, heads, Q, Q]
        if hidden_queries is not None:
            scores = scores.masked_fill(hidden_queries[:, None, None, :], -torch.inf)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def _hidden_queries(query_mask: Tensor | None) -> Tensor | None:
    """Which queries attention must skip; none in a row without any, since attending to nothing gives NaN."""
    return None if query_mask is None else ~query_mask & query_mask.any(1, keepdim=True)
