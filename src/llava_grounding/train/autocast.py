"""Whether matrix products in bfloat16 pay on this machine: asked of the device, and on a CPU measured once."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

_GAIN = 1.1  # how much faster bfloat16 must be: it costs precision
_REPEATS = 3
_ROWS, _WIDTH = 4096, 512


def use_bfloat16(wish: bool | str, device: torch.device) -> bool:
    """Whether a run computes in bfloat16.

    Args:
        wish: true or false as the recipe says it, or "auto".
    """
    if isinstance(wish, bool):
        return wish
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and faster_in_bfloat16()


def faster_in_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 a tenth faster than in float32, forward and backward."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return _seconds(torch.bfloat16) * _GAIN < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The shortest of a few linear layers under autocast, with their gradients."""
    rows, weight = torch.zeros(_ROWS, _WIDTH), torch.zeros(_WIDTH, _WIDTH, requires_grad=True)
    return min(_once(rows, weight, dtype) for _ in range(_REPEATS))


def _once(rows: Tensor, weight: Tensor, dtype: torch.dtype) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        product = F.linear(rows, weight)
    product.float().sum().backward()
    return time.perf_counter() - start
