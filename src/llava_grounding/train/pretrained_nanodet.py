"""COCO's boxes for a backbone: the published weights of NanoDet-g under the names of ours.

Knows the names of a conversion to TensorFlow.js: convolutions numbered in the order of the network, its neck behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from llava_grounding.model.nanodet import STAGES

_LEVELS = (28, 30, 32)  # numbers of the convolutions on the neck's levels
_BIASES_BEHIND_NECK = {28: 60, 30: 66, 32: 70}  # of those before, twice their number


def rename_nanodet(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under the names of `NanoDet`, axes as in torch, for RGB; without the last layers."""
    renamed: dict[str, Tensor] = {}
    for number, own in enumerate(_layers()):
        number = _LEVELS[number - 28] if number >= 28 else number
        kernel = published.get(f"PartitionedCall/split{f'_{number}' if number else ''}")
        bias = published.get(f"unknown_{_BIASES_BEHIND_NECK.get(number, 2 * number)}")
        if kernel is not None and bias is not None and kernel.dim() == 4:
            kernel = kernel.permute(3, 2, 0, 1)
            renamed[f"{own}.weight"] = kernel if number else kernel.flip(1)  # the network reads BGR
            renamed[f"{own}.bias"] = bias
    return renamed


def _layers() -> Iterator[str]:
    """Our convolutions in the published order."""
    yield "stem.conv"
    for stage, (_, _, pairs) in enumerate(STAGES):
        yield f"stages.{stage}.first.conv"
        for pair in range(pairs):
            yield f"stages.{stage}.pairs.{pair}.first.conv"
            yield f"stages.{stage}.pairs.{pair}.second.conv"
        yield f"stages.{stage}.last.conv"
    yield from (f"laterals.{level}" for level in range(3))
    yield from (f"levels.{level}.conv" for level in range(3))
