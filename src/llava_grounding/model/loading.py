"""`from_pretrained` of transformers with our conditions: checked files, no code, and weights that are all there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from llava_grounding.checkpoint_files import FLOATING, MODEL_FILES, check_folder, local_folder, stored_types
from llava_grounding.errors import CheckpointError, UsageError
from llava_grounding.generation_settings import LENGTHS
from llava_grounding.model.config import LlavaGroundingConfig

_COUNTER = "num_batches_tracked"
_INSTEAD = "AutoModelForImageTextToText, or LlavaGroundingForConditionalGeneration of llava_grounding"


class CheckedLoading(PreTrainedModel):
    """Reads a folder only after a look at its files, and refuses one that lacks a weight."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers. A model on the hub is downloaded whole first.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            args, kwargs: those of transformers. `trust_remote_code` changes nothing: there is no such code.

        Raises:
            CheckpointError: if a file is damaged or says what no file may, or a weight is missing, no floating-point
                number, or not finite.
            UsageError: if pickles or a GGUF file shall be read.
        """
        if kwargs.get("gguf_file") is not None or kwargs.get("use_safetensors") is False:
            raise UsageError(
                "a model is read from JSON and safetensors files alone; leave out gguf_file, use_safetensors"
            )
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, **kwargs)
        folder = local_folder(pretrained_model_name_or_path, MODEL_FILES, kwargs)
        if not folder.is_dir():
            raise CheckpointError(f"`{pretrained_model_name_or_path}` is no folder with a model in it and no hub id")
        place = folder / kwargs.get("subfolder", "")
        check_folder(place)
        whole = kwargs.pop("output_loading_info", False)
        kwargs |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
        loaded: Any = super().from_pretrained(folder, *args, **kwargs)
        model, info = loaded
        lacks = sorted(info["missing_keys"])
        if lacks and not kwargs.get("ignore_mismatched_sizes"):
            more = f" and {len(lacks) - 1} more" if len(lacks) > 1 else ""
            raise CheckpointError(f"the weights in `{folder}` lack {lacks[0]}{more}")
        state = model.state_dict()
        _check_types(place, state)
        _check_finite(place, state)
        _cut_lengths(model)
        return (model, info) if whole else model


def _check_types(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that were stored as something else than floating-point numbers, and have become such."""
    types = stored_types(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    for name, stored in types.items():
        if name.endswith(_COUNTER):  # some quantisers make numbers with a point of them
            continue
        if name in state and state[name].is_floating_point() and stored not in FLOATING:
            raise CheckpointError(
                f"the weights in `{folder}` are of another type: {name} is {stored}, expected {', '.join(FLOATING)}"
            )


def _check_finite(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers; everything computed with them would be none either."""
    for name, value in state.items():
        # Those of a device that is not there yet, and in eight bits, have no sum.
        if not value.is_floating_point() or value.device.type == "meta" or value.element_size() < 2:
            continue
        # A sum takes a tenth of the time; it can only be too careful.
        total = value.sum(dtype=torch.float32)
        if not bool(torch.isfinite(total)) and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"the weights in `{folder}` are damaged: {name} has values that are no numbers")


def _cut_lengths(model: Any) -> None:
    """Keep what a file asks `generate` to write within the positions of the model; a number of a file costs nothing."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    settings = getattr(model, "generation_config", None)
    for name in LENGTHS if positions is not None and settings is not None else ():
        value = getattr(settings, name)
        if value is not None and value > positions:
            setattr(settings, name, positions)


class ModelWithoutHead(PreTrainedModel):
    """What `AutoModel` finds: there is no such model, and it says what to take instead."""

    config_class = LlavaGroundingConfig

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Say so.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"AutoModel has no class for a llava_grounding model; take {_INSTEAD}")

    @classmethod
    def _from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> Any:
        return cls.from_pretrained(config, **kwargs)
