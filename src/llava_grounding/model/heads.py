"""Small heads shared by grounder and visual prompt encoder: query states -> logits, boxes, mask embeddings.

Also the sine code of a box. Knows nothing of images, layers or losses.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llava_grounding.model.outputs import PADDED_PHRASE_LOGIT

_LENGTH_EPS = 1e-7  # added to the length of a projected state, as the original does
_LOGIT_EPS = 1e-5  # keeps the inverse sigmoid of a box finite


class MLP(nn.Module):
    """Linear layers with ReLU in between; `sizes` are the widths from input to output."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size_in, size_out) for size_in, size_out in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class BoxHead(MLP):
    """Change of a box in logit space; the last layer starts at zero, so that boxes start where their anchors are."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, hidden_size, hidden_size, 4)
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def refine(self, states: Float[Tensor, "B Q C"], references: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        """References (cxcywh in [0, 1]) moved by what the head reads in the states; float32."""
        return (self(states).float() + inverse_sigmoid(references.float())).sigmoid()


class PhraseSimilarityHead(nn.Module):
    """How well each state fits each phrase: the state, projected to the phrase's width and set to length one, times
    the phrase, times exp(logit_scale). The phrase keeps its length.

    With the projection W and a phrase t, (m W) t = m (W t) and |m W|^2 = m (W W^T) m^T. So many states need not be
    projected at all: the `gram` form gives the same logits with C x C numbers instead of C x D.

    Args:
        initial_bias: start of a learned bias on all logits, for training from nothing with a focal loss
            (arXiv:1708.02002 section 4.1); None: no bias, as the original.
    """

    def __init__(self, hidden_size: int, phrase_size: int, initial_bias: float | None = None) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.empty(hidden_size, phrase_size))
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.logit_bias = None if initial_bias is None else nn.Parameter(torch.tensor(float(initial_bias)))
        nn.init.trunc_normal_(self.projection, std=0.02)

    def forward(
        self,
        states: Float[Tensor, "#B Q C"],
        phrase_embeds: Float[Tensor, "#B G D"],
        phrase_mask: Bool[Tensor, "#B G"],
        form: Literal["auto", "plain", "gram"] = "auto",
    ) -> Float[Tensor, "B Q G"]:
        """Logits in float32; padded phrases hold -100. The batch of states or of phrases may be 1 and broadcasts."""
        if form == "auto":
            form = "gram" if states.shape[1] > states.shape[2] else "plain"
        with torch.autocast(states.device.type, enabled=False):
            states, phrases, projection = states.float(), phrase_embeds.float(), self.projection.float()
            if form == "gram":
                products = states @ (projection @ phrases.transpose(1, 2))
                squares = ((states @ (projection @ projection.T)) * states).sum(-1, keepdim=True)
                # A square root's slope is infinite at zero; states this short carry no direction anyway.
                lengths = squares.clamp(min=_LENGTH_EPS**2).sqrt()
            else:
                projected = states @ projection
                products = projected @ phrases.transpose(1, 2)
                lengths = projected.norm(dim=-1, keepdim=True)
            logits = self.logit_scale.float().exp() * products / (lengths + _LENGTH_EPS)
            if self.logit_bias is not None:
                logits = logits + self.logit_bias.float()
        return logits.masked_fill(~phrase_mask[:, None, :], PADDED_PHRASE_LOGIT)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)), with both sides kept at least 1e-5."""
    x = x.clamp(0, 1)
    return (x.clamp(min=_LOGIT_EPS) / (1 - x).clamp(min=_LOGIT_EPS)).log()


def sine_code(positions: Tensor, size: int) -> Tensor:
    """Sine code [..., size] of positions in [0, 1]: sin and cos interleaved, wavelengths from 1 to 10000."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    angles = positions.float()[..., None] * (2 * math.pi) / 10000**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def sine_box_embedding(boxes_cxcywh_norm: Float[Tensor, "B Q 4"], size: int) -> Float[Tensor, "B Q size"]:
    """Sine code of whole boxes: a quarter of `size` each for cy, cx, w, h, in this order."""
    order = torch.stack([boxes_cxcywh_norm[..., axis] for axis in (1, 0, 2, 3)], dim=-1)
    return sine_code(order, size // 4).flatten(-2)
