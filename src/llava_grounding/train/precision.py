"""Trainable weights are kept in float32, whatever the rest of the model is in.

A step of AdamW is about as large as its rate. At 2e-5 it is lost on a bfloat16 weight of 0.01 or more, whose neighbours
lie 3e-5 and further away. Products may be as narrow as autocast makes them; only what is added up must not be.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration

_LANGUAGE = ("language_model", "lm_head")


def keep_precise(model: LlavaGroundingForConditionalGeneration) -> dict[str, torch.dtype]:
    """Widen every trainable parameter to float32, after `set_trainable`.

    A trainable language model is widened as a whole. Where only rows of its tables do, or its output layer, what
    enters and leaves them is cast, so that frozen layers stay as narrow as they are, with and without autocast.

    Returns:
        The narrower types that weights of the language model had, by name: those in which a whole folder keeps them.
    """
    before = {
        name: value.dtype
        for name, value in model.named_parameters(remove_duplicate=False)
        if name.partition(".")[0] in _LANGUAGE
    }
    embedding = model.get_input_embeddings()
    table = embedding.weight
    assert isinstance(table, Tensor)
    tables = {id(table), id(model.lm_head.weight)}
    layers = [
        one for name, one in model.language_model.named_parameters() if id(one) not in tables and ".lora_" not in name
    ]
    if any(one.requires_grad for one in layers):
        model.language_model.float()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    frozen_dtype = next((one.dtype for one in layers if one.is_floating_point()), table.dtype)
    if table.dtype != frozen_dtype:
        embedding.register_forward_hook(_CastOutput(frozen_dtype))
    if model.lm_head.weight.dtype != frozen_dtype:
        model.lm_head.register_forward_pre_hook(_cast_input)
    widths = dict(model.named_parameters(remove_duplicate=False))
    return {name: dtype for name, dtype in before.items() if widths[name].dtype != dtype}


class _CastOutput:
    """A hook; an object, so that a model with it can be copied and sent."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return output.to(self.dtype)


def _cast_input(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return given[0].to(weight.dtype), *given[1:]
