"""What a run keeps: folders that `from_pretrained` reads, with the class phrases beside the model.

A folder is written aside and renamed, and renamed before it is removed, so that one that is there is whole. What a
checkpoint holds is noted in it, so that one which lost a part afterwards is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor

from llava_grounding.aside import share, sync_tree
from llava_grounding.checkpoint_files import plain_bytes, plain_file, weight_files
from llava_grounding.checkpoints import without_progress_bars
from llava_grounding.errors import CheckpointError, one_line, quoted
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.adapters import is_adapted, merged_state
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.plan import PHRASES
from llava_grounding.train.training_module import TrainingModule

CLASS_PHRASE_FILES = ("class_phrases.safetensors", "class_phrases.json")
"""What a stage keeps of its class phrases beside the model."""
# Of a run with adapters: only trainable weights, and batch statistics; the rest is where the run started.
_TRAINABLE = "learnt.safetensors"
_MAX_NAMES_BYTES = 2**24
VALIDATION_FILE = "validation.json"
"""Beside the best weights: the numbers they were chosen by."""
_TORCH_WRITER = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos")  # torch.save on a full disk
_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")
CONTENTS_FILE = "contents.json"
"""File of a checkpoint that lists its files with their bytes."""
WRITING = ".writing"
"""Folder of a run in which its checkpoints grow."""
REMOVED = ".removed"
"""End of the hidden name under which something goes."""


def save_whole(
    training_module: TrainingModule,
    processor: LlavaGroundingProcessor,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
    metrics: Mapping[str, float] | None = None,
    earlier_phrases: ClassPhrases | None = None,
) -> None:
    """The model as it is, adapters merged, as a folder anybody can load; an older one stays until this one is whole.

    Args:
        state: the training module's, where it is gathered from several processes; None asks the training_module.
        metrics: the validation that it was chosen by, for `kept_metrics`.
        earlier_phrases: of an earlier stage, handed on where the training module has none.

    Raises:
        CheckpointError: if it cannot be written.
    """
    state = None if state is None else _with_scalars(training_module, state)
    recover(folder)
    aside, old = _beside(folder)
    remove(aside)
    model = _part(state, "model")
    if is_adapted(training_module.model):
        model = merged_state(training_module.model, model)
    if training_module.stored_dtypes:
        model = dict(training_module.model.state_dict() if model is None else model)
        model |= {name: model[name].to(dtype) for name, dtype in training_module.stored_dtypes.items() if name in model}
    with writing(folder.name, aside):
        _save_model(training_module, processor, aside, model, _part(state, PHRASES))
        if training_module.class_phrases is None and earlier_phrases is not None:
            save_phrases(earlier_phrases, aside)
        if metrics is not None:
            (aside / VALIDATION_FILE).write_text(json.dumps(dict(metrics)) + "\n", encoding="utf-8")
        share(aside)
        sync_tree(aside)
    if folder.exists():
        folder.replace(old)
    aside.replace(folder)
    remove(old)


def remove(leftover: Path) -> None:
    """A folder with what is in it, or a file; of a link only the link."""
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove a folder so that no half of it can be taken for the whole: it loses its name first."""
    aside = folder.with_name(f".{folder.name}{REMOVED}")
    remove(aside)
    if folder.exists():
        folder.replace(aside)
        remove(aside)


def note_contents(checkpoint: Path) -> None:
    """Write down what is in a checkpoint, when all of it is."""
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != CONTENTS_FILE
    }
    (checkpoint / CONTENTS_FILE).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


def require_whole(checkpoint: Path, otherwise: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that has lost some of what was written.

    Args:
        otherwise: what must be there whatever it says itself; those of earlier versions do not say what they hold.

    Raises:
        CheckpointError: naming what lacks or is of another size.
    """
    sizes = _contents(checkpoint)
    names = dict.fromkeys((*(sizes or ()), *otherwise))
    lacks = [name for name in names if not (checkpoint / name).is_file()]
    if lacks:
        raise CheckpointError(
            f"the checkpoint `{checkpoint}` lacks {', '.join(lacks)}: put back what lacks, or remove the folder "
            f"to resume from an earlier one"
        )
    for name, size in (sizes or {}).items():
        found = (checkpoint / name).stat().st_size
        if found != size:
            raise CheckpointError(
                f"the checkpoint `{checkpoint}` is damaged: {name} has {found} bytes of {size}; remove the folder to "
                f"resume from an earlier one"
            )


def lost_phrases(checkpoint: Path) -> bool:
    """Whether a checkpoint says that it holds class phrases and does not."""
    held = _contents(checkpoint) or {}
    return any(name in held and not (checkpoint / name).is_file() for name in CLASS_PHRASE_FILES)


def _contents(checkpoint: Path) -> dict[str, int] | None:
    path = checkpoint / CONTENTS_FILE
    try:
        sizes = json.loads(plain_bytes(path, _MAX_NAMES_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"`{path}` cannot be read: {one_line(error)}") from error
    if not isinstance(sizes, dict) or not all(type(size) is int and size >= 0 for size in sizes.values()):
        raise CheckpointError(f"`{path}` must say how many bytes each file has")
    for name in sizes:
        if not _is_inside(name):
            raise CheckpointError(f"`{path}` must name files of its own folder, got {quoted(name)}; remove the folder")
    return sizes


def _is_inside(name: str) -> bool:
    """Whether a name is of a file in a folder or below, and can be one."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts) and not (
        len(name) > 4000 or {"\0", "\\"} & set(name)
    )


def recover(folder: Path) -> None:
    """Put back what a run that was killed had moved out of the way; what it had not written to its end goes."""
    aside, old = _beside(folder)
    if not os.path.lexists(folder) and old.is_dir() and not old.is_symlink():
        old.replace(folder)
    for leftover in (aside, old):
        remove(leftover)


def kept_metrics(folder: Path) -> dict[str, float]:
    """The validation beside a model; empty if there is none.

    Raises:
        CheckpointError: if it is damaged: taken for none, the next validation would replace the best weights.
    """
    for place in (folder, _beside(folder)[1]):
        path = place / VALIDATION_FILE
        try:
            values = json.loads(plain_bytes(path, _MAX_NAMES_BYTES))
            if not isinstance(values, dict) or not all(type(value) in (int, float) for value in values.values()):
                raise ValueError("it must be an object of names and numbers")
            return {name: float(value) for name, value in values.items()}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"`{path}` cannot be read: {one_line(error)}; remove it to let the next validation count as the best"
            ) from error
    return {}


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.old")


@contextmanager
def writing(what: str, aside: Path) -> Iterator[None]:
    """While a folder grows aside: if it cannot be written it goes, so that a full disk gets its room back.

    Raises:
        CheckpointError: saying why.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _TORCH_WRITER.search(str(error)):
            raise
        remove(aside)
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"cannot write `{what}` in `{aside.parent}`: {reason}") from error


def save_training_module(
    training_module: TrainingModule,
    processor: LlavaGroundingProcessor,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """What a run needs to go on.

    Args:
        state: the training module's, where it is gathered from several processes; None asks the training_module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _with_scalars(training_module, training_module.state_dict() if state is None else state)
    if is_adapted(training_module.model):
        save_file(
            {name: state[name].contiguous() for name in sorted(_trainable_names(training_module))}, folder / _TRAINABLE
        )
        processor.save_pretrained(folder)
        return
    _save_model(training_module, processor, folder, _part(state, "model"), _part(state, PHRASES))


def load_training_module(training_module: nn.Module, folder: Path) -> None:
    """Put back what `save_training_module` kept.

    Raises:
        CheckpointError: if it is damaged, or of another model.
    """
    try:
        if (folder / _TRAINABLE).is_file():
            state = load_file(folder / _TRAINABLE)
            unknown = _put_in(training_module, state)[1]
            missing = _trainable_names(training_module) - state.keys()
        else:
            state = {f"model.{name}": value for path in weight_files(folder) for name, value in load_file(path).items()}
            if (folder / CLASS_PHRASE_FILES[0]).is_file():
                phrases = load_file(folder / CLASS_PHRASE_FILES[0])
                state |= {f"{PHRASES}.{name}": value for name, value in phrases.items()}
            without, unknown = _put_in(training_module, state)
            missing = set(without) - ({"model.lm_head.weight"} if _is_tied(training_module) else set())
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint `{folder}` is damaged, or of another model: {one_line(error)}"
        ) from error
    wrong = [*sorted(missing)[:3], *unknown[:3]]
    if wrong:
        raise CheckpointError(f"the checkpoint `{folder}` is of another model: {', '.join(wrong)}")


def _with_scalars(training_module: TrainingModule, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A training module's state with scalars where only its run has vectors."""
    return {name: value.reshape(()) if name in training_module.scalars else value for name, value in state.items()}


def _put_in(training_module: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load a state, also into weights that several processes share; keys that are missing, and that are too many."""
    if isinstance(training_module, TrainingModule):
        state = {name: value.reshape(1) if name in training_module.scalars else value for name, value in state.items()}
    if any(isinstance(parameter, DTensor) for parameter in training_module.parameters()):
        options = StateDictOptions(full_state_dict=True, strict=False)
        values: dict[str, Any] = dict(state)
        keys = set_model_state_dict(training_module, values, options=options)
    else:
        keys = training_module.load_state_dict(state, strict=False)
    return keys.missing_keys, keys.unexpected_keys


def _trainable_names(training_module: nn.Module) -> set[str]:
    """Names in the state of trainable weights and of running statistics."""
    learning = {name for name, parameter in training_module.named_parameters() if parameter.requires_grad}
    return learning | ({name for name, _ in training_module.named_buffers()} & training_module.state_dict().keys())


def _is_tied(training_module: nn.Module) -> bool:
    return isinstance(training_module, TrainingModule) and bool(training_module.model.config.tie_word_embeddings)


def _part(state: Mapping[str, Tensor] | None, name: str) -> dict[str, Tensor] | None:
    """The state of one part of a training module."""
    if state is None:
        return None
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _save_model(
    training_module: TrainingModule,
    processor: LlavaGroundingProcessor,
    folder: Path,
    model: Mapping[str, Tensor] | None,
    phrases: Mapping[str, Tensor] | None,
) -> None:
    with without_progress_bars(), _plain(training_module.model):
        training_module.model.save_pretrained(folder, state_dict=None if model is None else dict(model))
    processor.save_pretrained(folder)
    if training_module.class_phrases is not None:
        save_phrases(training_module.class_phrases, folder, phrases)


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """While inside, nothing says that the model is quantised: what is written of it is not."""
    config: dict[str, Any] = vars(model.config)
    hidden = [(vars(model), "hf_quantizer"), (config, "quantization_config")]
    kept = [(place, name, place.pop(name)) for place, name in hidden if name in place]
    try:
        yield
    finally:
        for place, name, value in kept:
            place[name] = value


def save_phrases(phrases: ClassPhrases, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Class phrases beside a model.

    Args:
        state: theirs, where it is gathered from several processes; None asks them.
    """
    state = phrases.state_dict() if state is None else state
    save_file({name: value.contiguous() for name, value in state.items()}, folder / CLASS_PHRASE_FILES[0])
    (folder / CLASS_PHRASE_FILES[1]).write_text(json.dumps(phrases.names) + "\n", encoding="utf-8")


def load_class_phrases(folder: Path) -> ClassPhrases:
    """What `save_phrases` kept.

    Raises:
        CheckpointError: if the files are missing.
    """
    try:
        names = json.loads(plain_bytes(folder / CLASS_PHRASE_FILES[1], _MAX_NAMES_BYTES))
        plain_file(folder / CLASS_PHRASE_FILES[0])
        state = load_file(folder / CLASS_PHRASE_FILES[0])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("names must be a list of texts")
        if state["embeds"].numel() == 0 or len(state["embeds"]) != len(names) or state["cell_head.weight"].numel() == 0:
            raise ValueError("there must be one phrase per name")
        phrases = ClassPhrases(names, state["embeds"].shape[1], state["cell_head.weight"].shape[1])
        phrases.load_state_dict(state)
    except (OSError, KeyError, ValueError, IndexError, RuntimeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"`{folder}` holds no class phrases of an earlier stage") from error
    return phrases


def last_checkpoint(folder: Path) -> Path | None:
    """The newest one of a run."""
    found = checkpoints(folder)
    return found[-1] if found else None


def remove_old(folder: Path, keep: int) -> None:
    """All but the newest."""
    for path in checkpoints(folder)[:-keep]:
        discard(path)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return [path for path in numbered(folder) if path.is_dir()]


def numbered(folder: Path) -> list[Path]:
    """Everything that has the name of a checkpoint, by number."""
    found = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]
