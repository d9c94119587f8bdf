"""What the Trainer reads of a checkpoint to go on, looked at before: it takes damaged files for a fault of the program.

Tensors are mapped, not read, so that looking costs little however large the optimizer's state is.
"""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from llava_grounding.checkpoint_files import plain_bytes, plain_file
from llava_grounding.errors import CheckpointError, one_line, quoted
from llava_grounding.torch_files import check_archive
from llava_grounding.typed_values import is_number

STATE_FILE = "trainer_state.json"
OPTIMIZER_FILES = ("optimizer.pt", "scheduler.pt")
_RANDOM_STATES = "rng_state*.pth"
_MAX_STATE_BYTES = 2**28
_MAX_STEPS = 2**53
# What torch raises for files that are cut, empty or of something else.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    pickle.UnpicklingError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
)


def needed_files(checkpoint: Path, sharded: bool) -> tuple[str, ...]:
    """What must be in a checkpoint for a run to go on as it was, whatever its list of contents says."""
    if sharded:
        return (STATE_FILE,)
    random_states = () if any(checkpoint.glob(_RANDOM_STATES)) else ("rng_state.pth",)
    return (STATE_FILE, *OPTIMIZER_FILES, *random_states)


def steps_done(checkpoint: Path) -> int:
    """The step that a checkpoint was written after.

    Raises:
        CheckpointError: if what it says of the run is not what a Trainer has written.
    """
    try:
        values = json.loads(plain_bytes(checkpoint / STATE_FILE, _MAX_STATE_BYTES))
        _check_state(values)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(checkpoint, STATE_FILE, error) from error
    return int(values["global_step"])


def _check_state(values: Any) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, got {type(values).__name__}")
    kinds = {field.name: field.default for field in fields(TrainerState)}
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"{quoted(name)} is unknown")
        default = kinds[name]
        right: tuple[type, ...] = (bool,) if isinstance(default, bool) else (int, float)
        wrong = isinstance(default, bool | int | float) and (
            not isinstance(value, right) or isinstance(value, bool) != isinstance(default, bool)
        )
        if wrong and not (name == "epoch" and value is None):
            raise ValueError(f"`{name}` cannot be {quoted(value)}")
    step = values.get("global_step")
    if not isinstance(step, int) or not 0 <= step <= _MAX_STEPS:
        raise ValueError(f"`global_step` must be a whole number from 0 on, got {quoted(step)}")
    rows = values.get("log_history") or []
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows
    ):
        raise ValueError("`log_history` must be a list of lines, each with its step")
    for name in ("best_model_checkpoint", "trial_name"):
        if not isinstance(values.get(name), str | None):
            raise ValueError(f"`{name}` must be text")
    if not isinstance(values.get("stateful_callbacks"), dict | None):
        raise ValueError("`stateful_callbacks` must be an object")


def seconds_done(checkpoint: Path, file: str) -> float:
    """Seconds a run had taken when a checkpoint was written.

    Raises:
        CheckpointError: if it does not say so.
    """
    try:
        seconds = json.loads(plain_bytes(checkpoint / file, _MAX_STATE_BYTES))["seconds"]
        if not is_number(seconds):
            raise ValueError(f"`seconds` must be a number, got {quoted(seconds)}")
        if not math.isfinite(float(seconds)) or seconds < 0:
            raise ValueError(f"`seconds` must be a number from 0 on, got {quoted(seconds)}")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"the checkpoint `{checkpoint}` does not say in {file} how long the run had taken: {one_line(error)}; put "
            f"the file back, or remove the folder to resume from an earlier one"
        ) from error
    return float(seconds)


def check_resumable(checkpoint: Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a checkpoint whose optimizer, scheduler or random states cannot be taken up.

    Args:
        groups: the parameters of the optimizer that is to go on, as torch's optimizers take them.

    Raises:
        CheckpointError: naming the file.
    """
    optimizer, scheduler = (_loaded(checkpoint, name) for name in OPTIMIZER_FILES)
    if not _fits(optimizer, groups):
        raise _damaged(checkpoint, OPTIMIZER_FILES[0], "it is of an optimizer of other parameters, or of none")
    if not isinstance(scheduler, dict) or not all(
        isinstance(scheduler.get(name), int) for name in ("last_epoch", "_step_count")
    ):
        raise _damaged(checkpoint, OPTIMIZER_FILES[1], "it is of no schedule")
    for path in checkpoint.glob(_RANDOM_STATES):
        random_states = _loaded(checkpoint, path.name)
        try:
            random.Random().setstate(random_states["python"])
            np.random.RandomState().set_state(random_states["numpy"])
            torch.Generator().set_state(random_states["cpu"])
        except _UNREADABLE as error:
            raise _damaged(checkpoint, path.name, "it holds no random state") from error


def _loaded(checkpoint: Path, name: str) -> Any:
    """What torch has saved; nothing of it is run."""
    try:
        plain_file(checkpoint / name)
        check_archive(checkpoint / name)
        with safe_globals():
            return torch.load(str(checkpoint / name), map_location="cpu", weights_only=True, mmap=True)
    except (CheckpointError, *_UNREADABLE) as error:
        raise _damaged(checkpoint, name, error) from error


def _fits(state: Any, groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an optimizer's state is of these parameters, which it numbers in their order."""
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        return False
    kept = state.get("param_groups")
    if not isinstance(kept, list) or len(kept) != len(groups):
        return False
    for old, new in zip(kept, groups, strict=True):
        numbers = old.get("params") if isinstance(old, dict) else None
        if not isinstance(numbers, list) or len(numbers) != len(new["params"]) or not new.keys() <= old.keys():
            return False
        for number, parameter in zip(numbers, new["params"], strict=True):
            if not isinstance(number, int) or not _moments_fit(state["state"].get(number, {}), parameter):
                return False
    return True


def _moments_fit(moments: Any, parameter: nn.Parameter) -> bool:
    if not isinstance(moments, dict):
        return False
    kept = [moments.get(name) for name in ("exp_avg", "exp_avg_sq")] if moments else []
    return all(isinstance(one, torch.Tensor) and one.shape == parameter.shape for one in kept)


def _damaged(checkpoint: Path, name: str, reason: object) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint `{checkpoint}` is damaged: {name} cannot be read: {one_line(reason)}; remove the folder to "
        f"resume from an earlier one"
    )
