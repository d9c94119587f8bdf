"""Where a part of the model computes, and in which type: also when its weights are kept elsewhere until it is called.

accelerate's offloading (`device_map`) leaves weights on the device `meta`, which holds no numbers, and brings each in
for the call of the module that owns it. So a part is asked here, never its weights.
"""

import torch
from torch import Tensor, nn

from llava_grounding.model.outputs import ImageMemory


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module computes; None if it has no weights and nothing says so."""
    weight = next(module.parameters(), None)
    if weight is not None and not weight.is_meta:
        return weight.device  # asked for every text and phrase: a search of all modules takes as long as a layer
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)  # of accelerate
        for one in getattr(hook, "hooks", (hook,)):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None if weight is None else weight.device


def like(module: nn.Module, value: Tensor) -> Tensor:
    """The value on the device and in the type that a module computes in; unchanged if it has no weights."""
    weight = next(module.parameters(), None)
    return value if weight is None else value.to(device=device_of(module), dtype=weight.dtype)


def any_trainable(module: nn.Module) -> bool:
    """Whether any parameter of a module takes a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def memory_for(module: nn.Module, memory: ImageMemory) -> ImageMemory:
    """The memory in the type that a module computes in: an image may be looked at under autocast and read without."""
    weight = next(module.parameters(), None)
    if weight is None or memory.memory.dtype == weight.dtype == memory.mask_features.dtype:
        return memory
    return memory if torch.is_autocast_enabled(memory.memory.device.type) else memory.to(None, weight.dtype)
