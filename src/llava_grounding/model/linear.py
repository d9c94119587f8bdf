"""A linear layer that takes the faster matrix product at inference on a CPU, and is `torch.nn.Linear` elsewhere.

torch multiplies float32 by MKL and copies the bias into the result first; oneDNN, which torch has on board as well,
adds bias and activation on its way out. Two cores of an AMD EPYC, 21,760 rows, 256 -> 2048 -> 256 with ReLU: 170
against 215 GFLOP/s.
"""

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MANY_ROWS = 64  # with fewer, reading the weights takes the time, and both are as fast
_DTYPES = (torch.float32, torch.bfloat16)

M = TypeVar("M", bound=nn.Module)


class Linear(nn.Linear):
    """`torch.nn.Linear` in every respect but the time it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return _onednn_product(self, x, "none") if _suits(self, x) else super().forward(x)

    def relu(self, x: Tensor) -> Tensor:
        """The layer followed by ReLU."""
        if _suits(self, x):
            return _onednn_product(self, x, "relu")
        return F.relu(super().forward(x), inplace=True)


def with_fast_linears(module: M) -> M:
    """Turn the plain linear layers in a module of others into `Linear`; weights and subclasses stay as they are."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
    return module


def _onednn_product(layer: nn.Linear, x: Tensor, activation: Literal["none", "relu"]) -> Tensor:
    # What torch's own compiler calls for a linear layer. It has no public name, so `_suits` asks whether it is there.
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, activation, [], "")


def _suits(layer: nn.Linear, x: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.dtype == layer.weight.dtype
        and x.numel() >= _MANY_ROWS * layer.in_features
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
