"""`from_pretrained` of transformers with our conditions: files that were looked at, no code, and every weight there."""

import os
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from llava_grounding.checkpoint_files import MODEL_FILES, check_folder, local_folder
from llava_grounding.errors import CheckpointError, UsageError
from llava_grounding.generation_settings import LENGTHS
from llava_grounding.model.config import LlavaGroundingConfig

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
            CheckpointError: if a file is damaged or says what no file may, or a weight is missing.
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
        check_folder(folder / kwargs.get("subfolder", ""))
        whole = kwargs.pop("output_loading_info", False)
        kwargs |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
        loaded: Any = super().from_pretrained(folder, *args, **kwargs)
        model, info = loaded
        lacks = sorted(info["missing_keys"])
        if lacks and not kwargs.get("ignore_mismatched_sizes"):
            more = f" and {len(lacks) - 1} more" if len(lacks) > 1 else ""
            raise CheckpointError(f"the weights in `{folder}` lack {lacks[0]}{more}")
        _cut_lengths(model)
        return (model, info) if whole else model


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
