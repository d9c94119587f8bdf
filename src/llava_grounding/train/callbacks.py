"""What happens between the steps of a run: seeds, the log, the best checkpoint, stopping."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainingArguments

from llava_grounding.errors import ConfigError, did_you_mean
from llava_grounding.train.checkpoint import kept_metrics

logger = logging.getLogger(__name__)


class LogFile(TrainerCallback):
    """Every line of the log as JSON, in a file and for a person.

    Args:
        batch_size: samples of a step.
    """

    def __init__(self, path: Path, batch_size: int) -> None:
        self.path, self.batch_size = path, batch_size
        self._since: tuple[int, float] | None = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._since = (state.global_step, time.monotonic())

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Writes a line."""
        if args.process_index != 0 or not logs or "train_runtime" in logs:
            return
        values = {name.removeprefix("eval_"): value for name, value in logs.items()}
        if "loss" in values and self._since is not None:
            steps, seconds = state.global_step - self._since[0], time.monotonic() - self._since[1]
            values["samples_s"] = round(steps * self.batch_size / max(seconds, 1e-9), 3)
        self._since = (state.global_step, time.monotonic())
        row = {"step": state.global_step, "time": round(time.time()), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        logger.info("step %d of %d: %s", state.global_step, args.max_steps, shown)


class StepSeed(TrainerCallback):
    """The random seed of each step: the same whether the run came there in one go or was resumed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed every random generator that a step may draw from."""
        mixed = (1_000_003 * self.seed + state.global_step * args.world_size + args.process_index) % 2**32
        random.seed(mixed)
        np.random.seed(mixed)  # noqa: NPY002 - libraries that draw from the global state
        torch.manual_seed(mixed)


class FiniteSteps(TrainerCallback):
    """Leaves a step out whose gradient is not finite: it would be the last one of use."""

    def on_pre_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the gradients; the same on every process, which share their sum."""
        learning = [one for one in kwargs["model"].parameters() if one.grad is not None]
        if learning and not math.isfinite(float(torch.nn.utils.get_total_norm([one.grad for one in learning]))):
            logger.warning("a step was left out: its gradient was not finite")
            for one in learning:
                one.grad = None


class RecipeIntervals(TrainerCallback):
    """Steps between lines, checkpoints and validations are those of the recipe, not those of the checkpoint."""

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Overrule what the Trainer has read."""
        state.compute_steps(args, state.max_steps)


class BestCheckpoint(TrainerCallback):
    """Keeps the weights of the best validation in `best`.

    Args:
        folder: of the run.
        metric: the validation's number that decides; more is better, except for losses. None: phrase_f1, else class_f1.
        save: writes a folder with the weights as they are now, and the numbers beside them.
    """

    def __init__(self, folder: Path, metric: str | None, save: Callable[[Path, Mapping[str, float]], None]) -> None:
        self.folder, self.metric, self.save = folder / "best", metric, save
        self.best = self._score(kept_metrics(self.folder))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: Any,
        control: Any,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save if this is the best so far, or as good.

        Raises:
            ConfigError: if the validation has no such number.
        """
        values = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        score = self._score(values)
        if self.metric is not None and self.metric not in values:
            raise ConfigError(
                f"`metric` must be a number of the validation, which are {', '.join(values) or 'none'}; "
                f"got `{self.metric}`{did_you_mean(self.metric, values)}"
            )
        if score is not None and (self.best is None or score >= self.best):
            self.best = score
            self.save(self.folder, values)

    def _score(self, values: Mapping[str, float]) -> float | None:
        name = self.metric or next((one for one in ("phrase_f1", "class_f1") if one in values), "language_loss")
        if not math.isfinite(values.get(name, math.nan)):
            return None
        return -values[name] if name.endswith("loss") else values[name]


class TimeBudget(TrainerCallback):
    """Ends the run once its minutes are over, with a validation and a checkpoint, as if it had taken all its steps."""

    def __init__(self, out_of_time: Callable[[], bool]) -> None:
        self.out_of_time = out_of_time

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> Any:
        """Stop; all processes together."""
        over = torch.tensor(float(self.out_of_time()), device=args.device)
        if args.world_size > 1:
            dist.all_reduce(over)
        if float(over):
            control.should_log = control.should_evaluate = control.should_save = control.should_training_stop = True
        return control


class StopWhenAsked(TrainerCallback):
    """Ends the run after the step at hand, with a checkpoint, once `asked` says so."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked = asked

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save and stop; all processes together, whichever of them was asked."""
        stop = torch.tensor(float(self.asked()), device=args.device)
        if args.world_size > 1:
            dist.all_reduce(stop)
        if float(stop):
            control.should_save = control.should_training_stop = True
        return control
