"""How large a model is: parameters part by part, and the memory its weights take in each precision.

Counts only; works on the meta device, where a model of any size is built in a moment.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from llava_grounding.errors import ConfigError
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration

PRECISIONS = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
"""Bytes per weight. In int8 and int4 only the linear layers of the language model are so small."""
MAX_TENSORS = 100_000
"""Weights of the largest model that is built without knowing how many are stored."""
_LAYERS_PER_TENSOR = 10  # dropouts, activations and lists have no weights
_MAX_TABLES = 2**28  # numbers that are computed when a model is built, not stored
_INT4_SCALES = 4 / 64  # bytes per weight: one float32 scale for every 64 of them


def bytes_per_weight(precision: str) -> float:
    """Bytes that one weight of a linear layer takes which a quantiser may touch, scales included."""
    return PRECISIONS[precision] + (_INT4_SCALES if precision == "int4" else 0)


@dataclass(frozen=True)
class PartSize:
    """One part of a model."""

    name: str
    parameters: int
    """Counted once where parts share them: an output layer tied to the input embedding has none of its own."""
    linear: int
    """Parameters in linear layers that a quantiser may touch."""
    precise: bool
    """It stays in float32 whatever the precision of the rest."""

    def bytes_in(self, precision: str) -> int:
        """Memory of its weights."""
        if self.precise:
            return 4 * self.parameters
        small = bytes_per_weight(precision)
        return round(max(PRECISIONS[precision], 2.0) * (self.parameters - self.linear) + small * self.linear)


def meta_model(config: LlavaGroundingConfig, max_tensors: int = MAX_TENSORS) -> LlavaGroundingForConditionalGeneration:
    """The model without its weights.

    Args:
        max_tensors: how many weights it may have, such as there are stored; building stops where it has more.

    Raises:
        ConfigError: if nothing can be built from the configuration, or too much would be.
    """
    try:
        with torch.device("meta"), _building_at_most(max_tensors):
            return LlavaGroundingForConditionalGeneration(config)
    except ConfigError:
        raise
    except Exception as error:  # whatever the classes of a family make of values that they do not expect
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ConfigError(f"no model can be built as configured: {reason}") from error


@contextmanager
def _building_at_most(max_tensors: int) -> Iterator[None]:
    """While inside, modules of this thread may get so many weights, and tables that are computed so much memory."""
    thread, counts = threading.get_ident(), Counter[str]()

    def count(what: str, added: int, most: int) -> None:
        if threading.get_ident() == thread:
            counts[what] += added
            if counts[what] > most:
                raise ConfigError(f"the configuration asks for more than {most:,} {what}")

    def parameter(module: nn.Module, name: str, value: object) -> None:
        count("weights", 1, max_tensors)

    def child(module: nn.Module, name: str, value: object) -> None:
        count("layers", 1, _LAYERS_PER_TENSOR * max_tensors)

    def buffer(module: nn.Module, name: str, value: object) -> None:
        count("numbers in tables", value.numel() if isinstance(value, torch.Tensor) else 0, _MAX_TABLES)

    hooks = [
        register_module_parameter_registration_hook(parameter),
        register_module_module_registration_hook(child),
        register_module_buffer_registration_hook(buffer),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def part_sizes(model: LlavaGroundingForConditionalGeneration) -> list[PartSize]:
    """Every part that has parameters, in the order of the model."""
    precise, kept = model._keep_in_fp32_modules_strict, model._keep_in_fp32_modules
    assert precise is not None
    assert kept is not None
    tied = _tied(model)
    sizes = []
    for name, part in model.named_children():
        count = sum(weight.numel() for weight in part.parameters()) - (tied if name == "lm_head" else 0)
        linear = 0
        if name not in kept and name != "lm_head":
            layers = (layer for layer in part.modules() if isinstance(layer, nn.Linear))
            linear = sum(layer.weight.numel() for layer in layers)
        if count:
            sizes.append(PartSize(name, count, linear, name in precise))
    return sizes


def _tied(model: LlavaGroundingForConditionalGeneration) -> int:
    """How many weights of the output layer are those of the input embedding; on meta they are not yet one tensor."""
    return model.lm_head.weight.numel() if model.config.tie_word_embeddings else 0


def memory_needed(sizes: list[PartSize]) -> dict[str, int]:
    """Bytes of all weights, by precision of the language side."""
    return {precision: sum(size.bytes_in(precision) for size in sizes) for precision in PRECISIONS}


def cache_bytes_per_token(config: LlavaGroundingConfig, element_size: int = 2) -> int:
    """What the language model keeps of every position it has read, at most."""
    text = config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * element_size
