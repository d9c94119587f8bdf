"""The language model in 8 or 4 bits: which configuration of transformers does it on a device, or why none does.

Knows no checkpoint. The vision modules, the projectors and the output layer are never quantised: the model names them
to transformers itself, so a configuration of the caller's own works as well.
"""

from __future__ import annotations

import importlib.util
import logging

import torch
from transformers import BitsAndBytesConfig

from llava_grounding.errors import ConfigError, did_you_mean, missing_extra, shown

QUANTIZATIONS = ("int8", "int4")
"""int8: LLM.int8() (arXiv:2208.07339); int4: NF4, as in QLoRA (arXiv:2305.14314)."""
_DEVICES = ("cuda", "cpu")
_PACKAGES = ("bitsandbytes", "accelerate")


def quantization_config(name: str, device: torch.device, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """The configuration of transformers for `from_pretrained(quantization_config=...)`.

    Args:
        name: "int8" or "int4".
        compute_dtype: of what is computed with the unpacked 4-bit weights.

    Raises:
        ConfigError: if the name is another, or nothing quantises on this device.
        MissingExtraError: if the packages for it are not installed.
    """
    if name not in QUANTIZATIONS:
        hint = did_you_mean(str(name), QUANTIZATIONS)
        raise ConfigError(f"quantization must be {' or '.join(QUANTIZATIONS)}, got {shown(name)}{hint}")
    if device.type not in _DEVICES:
        raise ConfigError(
            f"quantization `{name}` works on {' and '.join(_DEVICES)}, not on `{device}`; leave it out or take `cpu`"
        )
    if any(importlib.util.find_spec(package) is None for package in _PACKAGES):
        raise missing_extra("quantize", f"quantization `{name}`")
    if name == "int8":
        # It says at every single product that it casts to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)
