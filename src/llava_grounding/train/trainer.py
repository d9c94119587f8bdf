"""transformers' Trainer for grounded chat: our batches and losses, whole folders as checkpoints, and nothing else.

Distribution, precision, accumulation, schedules and trackers are the Trainer's and accelerate's. What is ours: every
loss by name, division by the tokens and objects of the whole step, batches by step number, checkpoints that appear
whole, and the best one kept.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from llava_grounding.aside import sync_tree
from llava_grounding.errors import DataError
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.batching.stream import BatchStream, Delivery, SkippedSamples, batch_loader
from llava_grounding.train.checkpoint import (
    WRITING,
    discard,
    load_training_module,
    note_contents,
    remove,
    remove_old,
    save_training_module,
    save_whole,
    writing,
)
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.plan import parameter_groups
from llava_grounding.train.recipe import Recipe
from llava_grounding.train.resume import seconds_done
from llava_grounding.train.training_module import TrainingModule
from llava_grounding.train.validation import Validation

logger = logging.getLogger(__name__)

_HIDDEN = ("aux", "interm")  # losses of inner layers are summed up, not shown one by one
_SECONDS = "seconds.json"  # how long a run had taken when a checkpoint was written


def lr_factor(step: int, steps: int, warmup: float, budget_used: float = 0.0) -> float:
    """What the peak rate is multiplied with: linear warm-up over a share of the steps, then half a cosine to zero.

    Args:
        budget_used: share of the time budget that is gone; the cosine follows it where it is ahead of the steps.
    """
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    progress = max((step - rising) / max(1, steps - rising), min(budget_used, 1.0))
    return 0.5 * (1 + math.cos(math.pi * progress))


class GroundingTrainer(Trainer):
    """Trains a training module.

    Args:
        training_module: model and class phrases, with `requires_grad` set.
        processor: saved with every checkpoint.
        stream: batches of this process, from the first step on that is still to be done.
        validation: looks at held-out samples.
        earlier_phrases: of an earlier stage, kept beside the results of this one.
    """

    def __init__(
        self,
        training_module: TrainingModule,
        processor: LlavaGroundingProcessor,
        recipe: Recipe,
        stream: BatchStream,
        validation: Validation,
        args: TrainingArguments,
        callbacks: list[TrainerCallback],
        earlier_phrases: ClassPhrases | None = None,
    ) -> None:
        self._earlier_phrases_kept = earlier_phrases
        self.recipe, self._stream, self._validation, self._processor = recipe, stream, validation, processor
        self.skipped_samples = SkippedSamples(-(-recipe.max_skipped_samples // args.world_size))
        self._sums: dict[str, Tensor] = {}
        self._logged_at = stream.first_step
        self._folder = str(args.output_dir)
        self._seconds_before = 0.0  # that the run took before it was resumed
        self._started = time.monotonic()
        super().__init__(model=training_module, args=args, callbacks=callbacks, eval_dataset=list(validation.samples))
        self.remove_callback(PrinterCallback)  # the log says it already
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True  # each loss is divided by the counts of the whole step

    @property
    def training_module(self) -> TrainingModule:
        """The module in training, out of its wrappers."""
        unwrapped = self.accelerator.unwrap_model(self.model)
        assert isinstance(unwrapped, TrainingModule)
        return unwrapped

    # Batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches by step number: where a run begins, they begin."""
        return batch_loader(self._stream, self.recipe.workers)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of a step, with its counts over all devices."""
        try:
            deliveries: list[Delivery] = [one for _, one in zip(range(num_batches), epoch_iterator, strict=False)]
        except DataError as error:  # a worker sends its whole traceback as the message
            raise DataError(str(error).strip().rpartition("DataError: ")[2]) from error
        for one in (one for delivery in deliveries for one in self.skipped_samples.add(delivery.broken)):
            logger.warning("left out number %d of %s: %s", one.number, one.source, one.reason)
        batches = [delivery.batch for delivery in deliveries]
        if not batches:
            return [], None
        totals = torch.stack([batch.counts for batch in batches]).sum(dim=0).float().to(device)
        if self.args.world_size > 1:
            dist.all_reduce(totals)
        return batches, totals

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: a share of it is in the vision modules."""
        return 0

    # Losses

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss to minimise; all losses are summed up for the log."""
        losses = model(inputs.to(self.args.device), num_items_in_batch)
        for name, value in losses.items():
            if not name.rpartition("_")[2].startswith(_HIDDEN):
                self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        loss = losses["loss"] * self.args.world_size  # gradients are averaged over processes, ours are to be summed up
        return (loss, losses) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the rates of the plan."""
        if self.optimizer is None:
            module = self.model if model is None else model
            assert module is not None
            named = module.named_parameters()
            groups = parameter_groups(named, self.recipe)
            self.optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, self.recipe.beta2))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A warm-up whose first step moves already, then half a cosine to zero."""
        if self.lr_scheduler is None:

            def factor(step: int) -> float:
                return lr_factor(step, self.recipe.steps, self.recipe.warmup_ratio, self._budget_used)

            optimizer = self.optimizer if optimizer is None else optimizer
            assert optimizer is not None
            self.lr_scheduler = LambdaLR(optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @property
    def _seconds(self) -> float:
        """That the run has taken, also before it was resumed."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def _budget_used(self) -> float:
        """Share of the recipe's minutes that is gone; 0 where it has none."""
        return self._seconds / (60 * self.recipe.minutes) if self.recipe.minutes else 0.0

    @property
    def out_of_time(self) -> bool:
        """Whether the recipe's minutes are over."""
        return self._budget_used >= 1

    # Words

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Losses by name, as means over the steps since the last line; no epochs, our data has none."""
        if "loss" in logs and self._sums:
            steps = max(self.state.global_step - self._logged_at, 1)
            sums = {name: float(value) for name, value in self._sums.items()}
            logs |= {name: value / steps for name, value in self._over_processes(sums).items()}
            self._sums, self._logged_at = {}, self.state.global_step
        self.state.epoch = None  # type: ignore[assignment]
        super().log({name: round(value, 6) for name, value in logs.items()}, start_time)

    def _over_processes(self, sums: dict[str, float]) -> dict[str, float]:
        """Summed up by name; a process that has seen no phrases has no losses of phrases."""
        if self.args.world_size == 1:
            return sums
        found: list[dict[str, float]] = [{}] * self.args.world_size
        dist.all_gather_object(found, sums)
        names = dict.fromkeys(name for one in found for name in one)
        return {name: sum(one.get(name, 0.0) for one in found) for name in names}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Look at held-out samples, without drawing a random number."""
        training_module = self.training_module
        training_module.eval()
        if self.is_fsdp_enabled:
            found = training_module(self._validation)
        else:
            found = self._validation(training_module.model, training_module.class_phrases)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # Checkpoints. Where they are written, and that they are read as we write them, the Trainer lets nobody say but by
    # methods of its own; these three are tried with the lowest version as well.

    def save_whole(self, folder: Path, metrics: Mapping[str, float] | None = None) -> None:
        """The model as it is now, as a folder anybody can load. To be called on every process.

        Args:
            metrics: written beside it.
        """
        state = self._gathered_state()
        if self.args.should_save:
            save_whole(self.training_module, self._processor, folder, state, metrics, self._earlier_phrases_kept)
        self._wait()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What of the training module a checkpoint keeps; on every process."""
        state = self._gathered_state()
        if self.args.should_save:
            folder = Path(output_dir or self._folder)
            save_training_module(self.training_module, self._processor, folder, state)
            (folder / _SECONDS).write_text(json.dumps({"seconds": round(self._seconds, 3)}), encoding="utf-8")

    def _gathered_state(self) -> Mapping[str, Tensor] | None:
        """The training module's state from all processes; None where every process has all of it."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            state: Mapping[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
            return state
        return None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, and let it appear when it is whole."""
        folder = Path(self._folder)
        aside = folder / WRITING
        if self.args.should_save:
            remove(aside)
            aside.mkdir(parents=True)
        self._wait()
        self._place: Path | None = aside
        try:
            with writing(f"checkpoint-{self.state.global_step}", aside):
                super()._save_checkpoint(model, trial)
        finally:
            self._place = None
        self._wait()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            with writing(name, aside):
                note_contents(aside / name)
                sync_tree(aside)
            discard(folder / name)
            (aside / name).replace(folder / name)
            aside.rmdir()
            remove_old(folder, self.recipe.save_total_limit)
        self._wait()

    def _get_output_dir(self, trial: Any) -> str:
        return str(getattr(self, "_place", None) or self._folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_training_module(self.training_module if model is None else model, Path(resume_from_checkpoint))
        if self.recipe.minutes or (Path(resume_from_checkpoint) / _SECONDS).exists():
            self._seconds_before = seconds_done(Path(resume_from_checkpoint), _SECONDS)

    def _wait(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()
