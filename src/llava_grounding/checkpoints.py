"""Finds a checkpoint (embedded, folder or hub) and loads it whole, or says in one sentence what is wrong with it.

A missing, unexpected or misshapen weight is an error, never a warning. Reads safetensors and JSON only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from llava_grounding.checkpoint_files import (
    COMPLEX,
    CONFIG,
    FLOATING,
    MODEL_FILES,
    WEIGHTS,
    check_folder,
    check_values,
    read_json,
    stored_shapes,
    stored_types,
    weight_files,
)
from llava_grounding.errors import CheckpointError, ConfigError, did_you_mean, one_line, quoted
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.presets import FORMER_PRESETS, PRESETS, preset
from llava_grounding.model.sizes import meta_model
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.quantization import quantization_config

EMBEDDED_MODEL = "nano"
"""Name of the model inside the package."""
_WEIGHTS_FOLDER = Path(__file__).parent / "weights"
_DEVICE = re.compile(r"cpu(:0)?|mps(:0)?|cuda(:(\d|[1-9]\d|1[01]\d|12[0-7]))?", re.ASCII)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model ready to run, with what belongs to it."""

    model: LlavaGroundingForConditionalGeneration
    processor: LlavaGroundingProcessor
    name: str
    autocast: torch.dtype | None
    """Precision of the vision modules' products; None is their float32."""


def load_checkpoint(
    source: str | os.PathLike[str] | None,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    quantization: str | None = None,
) -> LoadedCheckpoint:
    """Find and load a checkpoint; see `GroundedChat.from_pretrained`."""
    chosen_device = choose_device(device)
    chosen_dtype = torch.bfloat16 if dtype is None and quantization is not None else choose_dtype(dtype)
    options: dict[str, Any] = {}
    if quantization is not None:
        options["quantization_config"] = quantization_config(quantization, chosen_device, chosen_dtype)
        options["device_map"] = {"": chosen_device}
    name, folder = find_checkpoint(source)
    check_folder(folder)
    config = read_config(folder)
    check_weights(folder, config)
    processor = LlavaGroundingProcessor.from_pretrained(folder)
    _check_fit(folder, config, processor)
    with without_progress_bars():
        # The vision modules keep the float32 they are stored in, whatever the precision: the model says so.
        model = LlavaGroundingForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=chosen_dtype, **options
        )
    if quantization is None:  # else it is there already
        model.to(chosen_device)
    return LoadedCheckpoint(
        model.eval(), processor, name, autocast=torch.bfloat16 if chosen_dtype == torch.bfloat16 else None
    )


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device meant: by name, or the first CUDA device if there is one, else the CPU.

    Raises:
        ConfigError: if it is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # By its form first: torch takes more kinds than we compute on, and numbers beyond 127 wrap around.
    if not _DEVICE.fullmatch(str(device)):
        raise ConfigError(f"device must be cpu, cuda, cuda:N or mps, got {quoted(str(device))}")
    chosen = torch.device(device)
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise ConfigError(f"device `{chosen}` is not there: this machine has {count} CUDA devices; try `cpu`")
    elif chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device `mps` is not there: it needs a Mac with Apple silicon; try `cpu`")
    return chosen


def choose_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The precision meant; None is float32.

    Raises:
        ConfigError: if it is none we compute in.
    """
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(f"dtype must be {', '.join(_DTYPES)}, got `{name}`{did_you_mean(name, _DTYPES)}")
    return _DTYPES[name]


def find_checkpoint(source: str | os.PathLike[str] | None) -> tuple[str, Path]:
    """Name and folder of a checkpoint; one on the hub is downloaded.

    Raises:
        ConfigError: if there is none of that name.
        CheckpointError: if the embedded one is not in this installation.
    """
    if source is None or source == EMBEDDED_MODEL:
        folder = _WEIGHTS_FOLDER / EMBEDDED_MODEL
        if not (folder / CONFIG).is_file():
            raise CheckpointError(
                f"the embedded model `{EMBEDDED_MODEL}` is not in this installation; "
                f"give the folder of a model, or install the package anew"
            )
        return EMBEDDED_MODEL, folder
    folder = Path(source)
    if source != "" and folder.is_dir():
        return folder.resolve().name, folder
    known = f"expected `{EMBEDDED_MODEL}`, a folder with a model in it, or a hub id like `organisation/name`"
    if folder.is_file():
        raise ConfigError(f"`{source}` is a file, not a model; {known}")
    if isinstance(source, str) and _HUB_ID.fullmatch(source):
        return source, _download(source)
    raise ConfigError(f"unknown model `{source}`{did_you_mean(str(source), [EMBEDDED_MODEL])}; {known}")


def find_config(source: str) -> tuple[str, LlavaGroundingConfig]:
    """Name and configuration of a preset or a checkpoint; of one on the hub nothing else is downloaded.

    Raises:
        ConfigError: if there is none of that name.
        CheckpointError: if the configuration is missing or damaged.
    """
    if source in PRESETS or source in FORMER_PRESETS:
        return source, preset(source)
    if not Path(source).exists() and _HUB_ID.fullmatch(source):
        return source, read_config(_download(source, [CONFIG]))
    if not Path(source).exists():
        hint = did_you_mean(source, PRESETS)
        raise ConfigError(
            f"unknown model `{source}`{hint}; expected {', '.join(f'`{name}`' for name in PRESETS)}, a folder with a "
            f"model in it, or a hub id like `organisation/name`"
        )
    name, folder = find_checkpoint(source)
    return name, read_config(folder)


def _download(hub_id: str, files: Sequence[str] = MODEL_FILES) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    # Its first base is the error of whichever HTTP library this version of the hub's client is built on.
    network_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    neither = f"there is no folder `{hub_id}`, and"
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ConfigError(f"{neither} the hub has no model of that name that may be read") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, network_error, OSError) as error:
        raise ConfigError(
            f"{neither} the hub cannot be reached; the embedded model `{EMBEDDED_MODEL}` and folders work offline"
        ) from error


def read_config(folder: Path) -> LlavaGroundingConfig:
    """The model's configuration.

    Raises:
        CheckpointError: if the file is missing, damaged or of another model.
    """
    values = read_json(folder, CONFIG)
    model_type = values.get("model_type")
    if model_type != LlavaGroundingConfig.model_type:
        raise CheckpointError(
            f"{CONFIG} in `{folder}` is of a `{model_type}` model, expected `{LlavaGroundingConfig.model_type}`"
        )
    check_values(values, f"{CONFIG} in `{folder}`")
    try:
        return LlavaGroundingConfig.from_dict(values)
    except Exception as error:  # of transformers' own checks as well, which raise many kinds
        raise CheckpointError(f"{CONFIG} in `{folder}` does not describe a model: {one_line(error, 500)}") from error


def check_weights(folder: Path, config: LlavaGroundingConfig) -> None:
    """Compare names and shapes of all weights with what the configuration asks for, without reading the weights.

    Raises:
        CheckpointError: if a file is missing or damaged, or anything is missing, unexpected, of another shape or type.
    """
    found = stored_shapes(folder)
    try:
        # One output layer may be stored nowhere, and a few weights fewer make a better message.
        model = meta_model(config, max_tensors=2 * len(found) + 100)
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG} in `{folder}` does not fit its {len(found):,} weights: {error}") from error
    values, types = model.state_dict(), stored_types(weight_files(folder))
    wanted = {name: tuple(value.shape) for name, value in values.items()}
    # The one allowed gap: an output layer that shares the input embedding's weights is stored once.
    missing = sorted(wanted.keys() - found.keys() - model.all_tied_weights_keys.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    misshapen = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    # Counters stay whole numbers; anything else would be converted to floats, whatever it is.
    mistyped = sorted(
        name
        for name in wanted.keys() & found.keys()
        if values[name].is_floating_point() != (types[name] in FLOATING) or types[name] in COMPLEX
    )
    problems = []
    if missing:
        problems.append(f"{_count(missing, 'weight')} missing ({_names(missing)})")
    if unexpected:
        problems.append(f"{_count(unexpected, 'weight')} not expected ({_names(unexpected)})")
    if misshapen:
        first = misshapen[0]
        problems.append(
            f"{_count(misshapen, 'weight')} of another shape ({first} is {found[first]}, expected {wanted[first]})"
        )
    if mistyped:
        first = mistyped[0]
        kind = ", ".join(FLOATING) if values[first].is_floating_point() else "a whole number"
        problems.append(f"{_count(mistyped, 'weight')} of another type ({first} is {types[first]}, expected {kind})")
    if problems:
        raise CheckpointError(f"{WEIGHTS} in `{folder}` does not fit {CONFIG}: {', '.join(problems)}")


def _check_fit(folder: Path, config: LlavaGroundingConfig, processor: LlavaGroundingProcessor) -> None:
    """Compare what model and processor both state."""
    ids = processor.tokens.ids
    for what, of_model, of_processor in [
        ("id of the image token", config.image_token_id, ids.image),
        ("id of <seg>", config.seg_token_id, ids.seg),
        ("id of <region>", config.region_token_id, ids.region),
        ("id of the end token", config.eos_token_id, ids.eos),
        ("length of an image", config.image_sequence_length, processor.settings.image_sequence_length),
        ("size of the canvas", config.grounder_config.image_size, processor.settings.canvas.size),
        (
            "size of the vision tower's image",
            None if config.vision_config is None else config.vision_config.image_size,
            None if processor.settings.tower is None else processor.settings.tower.size,
        ),
    ]:
        if of_model != of_processor:
            raise CheckpointError(
                f"{CONFIG} and the processor in `{folder}` do not belong together: "
                f"the {what} is {of_model} in one and {of_processor} in the other"
            )
    words, rows = len(processor.tokenizer), config.text_config.vocab_size
    # The image's and the regions' placeholders are always filled and never written, so they need no rows.
    if any(token >= rows for token in set(processor.tokenizer.get_vocab().values()) - {ids.image, ids.region}):
        raise CheckpointError(
            f"the tokenizer in `{folder}` has {words} tokens, but the model of {CONFIG} has only {rows}"
        )


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Loading takes a moment; transformers would draw a bar for it on stderr."""
    # Where the hub's own bars are switched off by the environment, switching on would only warn.
    shown = transformers_logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _count(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) != 1)} {'is' if len(names) == 1 else 'are'}"


def _names(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
