"""Low-rank adapters on the language model (peft), and the whole model with them merged in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D

from llava_grounding.errors import ConfigError, missing_extra
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.recipe import LoraSettings

_BASE = ".base_layer"


def add_adapters(model: LlavaGroundingForConditionalGeneration, settings: LoraSettings) -> None:
    """Put adapters on the language model's linear layers; in float32, whatever the layers are in.

    Raises:
        ConfigError: if none of the layers is there.
        MissingExtraError: if peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("train", "training with adapters") from error
    layers = {name.rpartition(".")[2]: layer for name, layer in model.language_model.named_modules()}
    targets = [name for name in settings.targets if name in layers]
    if not targets:
        raise ConfigError(f"`lora.targets` names no layer of the language model: {', '.join(settings.targets)}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(layers[name], Conv1D) for name in targets),
    )
    inject_adapter_in_model(config, model.language_model)
    for name, parameter in model.language_model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()


def is_adapted(model: LlavaGroundingForConditionalGeneration) -> bool:
    """Whether there are adapters on it."""
    return any(".lora_" in name for name, _ in model.language_model.named_parameters())


@torch.no_grad()
def merged_state(
    model: LlavaGroundingForConditionalGeneration, state: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The model's state under its own names, adapters merged in and nothing quantised; the model stays as it is.

    Args:
        state: the model's, where it is gathered from several processes; None asks the model.
    """
    from peft.tuners.lora import LoraLayer

    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    packed = {name: layer for name, layer in model.named_modules() if _is_packed(layer)}
    given = model.state_dict() if state is None else state
    merged = {}
    for name, value in given.items():
        owner, _, field = name.partition(".weight") if ".weight" in name else name.rpartition(".")
        if ".lora_" in name or (owner in packed and field not in ("", "bias")):
            continue  # what adapters are made of, and what a quantiser keeps beside its packed weights
        if owner in packed and name.endswith(".weight"):
            value = _unpacked(packed[owner])
        owner = owner.removesuffix(_BASE)
        if owner in adapted and name.endswith(f"{_BASE}.weight"):
            delta = _delta(adapted[owner], owner, given).to(value.device)
            value = (value.float() + delta).to(value.dtype)
        merged[name.replace(_BASE, "")] = value
    return merged


def _delta(layer: Any, owner: str, state: Mapping[str, Tensor]) -> Tensor:
    """What the adapters of a layer add to its weight."""
    adapter = layer.active_adapters[0]
    first, second = (state[f"{owner}.lora_{letter}.{adapter}.weight"].float() for letter in "AB")
    delta = (second @ first) * layer.scaling[adapter]
    return delta.T if layer.fan_in_fan_out else delta


def _is_packed(layer: nn.Module) -> bool:
    return type(getattr(layer, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def _unpacked(layer: nn.Module) -> Tensor:
    """The weight of a quantised layer as numbers."""
    weight: Tensor = dequantize_bnb_weight(layer.get_parameter("weight"), getattr(layer, "state", None))
    return weight.to(torch.bfloat16)
