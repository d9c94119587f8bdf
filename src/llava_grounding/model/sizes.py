"""How large a model is: parameters part by part, and the memory its weights take in each precision.

Counts only; works on the meta device, where a model of any size is built in a moment.
"""

from dataclasses import dataclass

import torch
from torch import nn

from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration

PRECISIONS = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
"""Bytes per weight. In int8 and int4 only the linear layers of the language model are so small."""
_INT4_SCALES = 4 / 64  # bytes per weight: one float32 scale for every 64 of them


def bytes_per_weight(precision: str) -> float:
    """Of a linear layer that a quantiser may touch, scales included."""
    return PRECISIONS[precision] + (_INT4_SCALES if precision == "int4" else 0)


@dataclass(frozen=True)
class PartSize:
    """One part of a model."""

    name: str
    parameters: int
    """Counted once where parts share them: an output layer tied to the input embedding has none of its own."""
    linear: int
    """Those in linear layers that a quantiser may touch."""
    precise: bool
    """It stays in float32 whatever the precision of the rest."""

    def bytes_in(self, precision: str) -> int:
        """Memory of its weights."""
        if self.precise:
            return 4 * self.parameters
        small = bytes_per_weight(precision)
        return round(max(PRECISIONS[precision], 2.0) * (self.parameters - self.linear) + small * self.linear)


def meta_model(config: LlavaGroundingConfig) -> LlavaGroundingForConditionalGeneration:
    """The model without its weights."""
    with torch.device("meta"):
        return LlavaGroundingForConditionalGeneration(config)


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
