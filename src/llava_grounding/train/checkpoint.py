"""What a run keeps: folders that `from_pretrained` reads, with the class phrases beside the model.

A folder is written aside and renamed, so that one that is there is whole.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_grounding.checkpoints import weight_files
from llava_grounding.errors import CheckpointError
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.adapters import is_adapted, merged_state
from llava_grounding.train.class_losses import ClassPhrases
from llava_grounding.train.learner import Learner
from llava_grounding.train.plan import PHRASES

CLASS_PHRASE_FILES = ("class_phrases.safetensors", "class_phrases.json")
"""What a stage keeps of its class phrases beside the model."""
# Of a run with adapters: only what learns, and batch statistics; the rest is where the run started.
_LEARNT = "learnt.safetensors"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def save_whole(
    learner: Learner, processor: LlavaGroundingProcessor, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """The model as it is, adapters merged, as a folder anybody can load; an older one stays until this one is whole.

    Args:
        state: the learner's, where it is gathered from several processes; None asks the learner.
    """
    aside, old = folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.old")
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model = _part(state, "model")
    if is_adapted(learner.model):
        model = merged_state(learner.model, model)
    _save_model(learner, processor, aside, model)
    if folder.exists():
        folder.replace(old)
    aside.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def save_learner(
    learner: Learner, processor: LlavaGroundingProcessor, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """What a run needs to go on.

    Args:
        state: the learner's, where it is gathered from several processes; None asks the learner.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(learner.state_dict() if state is None else state)
    if is_adapted(learner.model):
        save_file({name: state[name].contiguous() for name in sorted(_learnt(learner))}, folder / _LEARNT)
        processor.save_pretrained(folder)
        return
    _save_model(learner, processor, folder, _part(state, "model"))
    phrases = _part(state, PHRASES)
    if phrases:
        save_file({name: value.contiguous() for name, value in phrases.items()}, folder / CLASS_PHRASE_FILES[0])


def load_learner(learner: nn.Module, folder: Path) -> None:
    """Put back what `save_learner` kept.

    Raises:
        CheckpointError: if it is damaged, or of another model.
    """
    try:
        if (folder / _LEARNT).is_file():
            state = load_file(folder / _LEARNT)
            unknown = learner.load_state_dict(state, strict=False).unexpected_keys
            missing = _learnt(learner) - state.keys()
        else:
            state = {f"model.{name}": value for path in weight_files(folder) for name, value in load_file(path).items()}
            if (folder / CLASS_PHRASE_FILES[0]).is_file():
                phrases = load_file(folder / CLASS_PHRASE_FILES[0])
                state |= {f"{PHRASES}.{name}": value for name, value in phrases.items()}
            keys = learner.load_state_dict(state, strict=False)
            tied = {"model.lm_head.weight"} if _is_tied(learner) else set()
            unknown, missing = keys.unexpected_keys, set(keys.missing_keys) - tied
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint `{folder}` is damaged, or of another model: {_one_line(error)}"
        ) from error
    wrong = [*sorted(missing)[:3], *unknown[:3]]
    if wrong:
        raise CheckpointError(f"the checkpoint `{folder}` is of another model: {', '.join(wrong)}")


def _learnt(learner: nn.Module) -> set[str]:
    """Names in the state of what learns, and of what is counted along."""
    learning = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    return learning | ({name for name, _ in learner.named_buffers()} & learner.state_dict().keys())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_tied(learner: nn.Module) -> bool:
    return isinstance(learner, Learner) and bool(learner.model.config.tie_word_embeddings)


def _part(state: Mapping[str, Tensor] | None, name: str) -> dict[str, Tensor] | None:
    """The state of one part of a learner."""
    if state is None:
        return None
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _save_model(
    learner: Learner, processor: LlavaGroundingProcessor, folder: Path, state: Mapping[str, Tensor] | None
) -> None:
    learner.model.save_pretrained(folder, state_dict=None if state is None else dict(state))
    processor.save_pretrained(folder)
    if learner.class_phrases is not None:
        save_phrases(learner.class_phrases, folder)


def save_phrases(phrases: ClassPhrases, folder: Path) -> None:
    """Class phrases beside a model."""
    save_file(
        {name: value.contiguous() for name, value in phrases.state_dict().items()}, folder / CLASS_PHRASE_FILES[0]
    )
    (folder / CLASS_PHRASE_FILES[1]).write_text(json.dumps(phrases.names) + "\n", encoding="utf-8")


def load_class_phrases(folder: Path) -> ClassPhrases:
    """What `save_phrases` kept.

    Raises:
        CheckpointError: if the files are missing.
    """
    try:
        names = json.loads((folder / CLASS_PHRASE_FILES[1]).read_text(encoding="utf-8"))
        state = load_file(folder / CLASS_PHRASE_FILES[0])
        phrases = ClassPhrases(names, state["embeds"].shape[1], state["cell_head.weight"].shape[1])
        phrases.load_state_dict(state)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"`{folder}` holds no class phrases of an earlier stage") from error
    return phrases


def last_checkpoint(folder: Path) -> Path | None:
    """The newest one of a run."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def remove_old(folder: Path, keep: int) -> None:
    """All but the newest."""
    for path in _checkpoints(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    numbered = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]
