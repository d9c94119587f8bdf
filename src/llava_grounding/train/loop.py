"""The training loop of the small model: one process, any device, resumable to the step.

Samples come from a deterministic stream, are made in worker processes and pass the processor's door there.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from llava_grounding.data.sample import Sample
from llava_grounding.errors import CheckpointError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.batches import ChatBatch, ClassBatch, chat_batch, class_batch, encode_sample_image
from llava_grounding.train.class_losses import ClassPhrases
from llava_grounding.train.recipe import Recipe, recipe_to_dict
from llava_grounding.train.stages import Criteria, chat_losses, pretrain_losses
from llava_grounding.train.stream import SampleStream
from llava_grounding.train.validation import validate_chat, validate_classes

logger = logging.getLogger(__name__)

CLASS_PHRASE_FILES = ("class_phrases.safetensors", "class_phrases.json")
"""What a stage keeps of its class phrases beside the model."""


@dataclass
class Workshop:
    """Everything one stage works with."""

    model: LlavaGroundingForConditionalGeneration
    phrases: ClassPhrases
    processor: LlavaGroundingProcessor
    recipe: Recipe
    stream: SampleStream
    held_out: list[Sample]
    folder: Path
    device: torch.device


class BatchStream(IterableDataset[ClassBatch | ChatBatch]):
    """Batches from `first_step` on; worker w of n makes every n-th one."""

    def __init__(self, shop: Workshop, first_step: int) -> None:
        self.processor, self.recipe, self.stream = shop.processor, shop.recipe, shop.stream
        self.class_index = shop.phrases.index
        self.first_step = first_step

    def __iter__(self) -> Iterator[ClassBatch | ChatBatch]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for step in range(self.first_step + worker, self.recipe.steps, workers):
            yield self.batch(step)

    def batch(self, step: int) -> ClassBatch | ChatBatch:
        """The batch of one step, the same whoever makes it."""
        size = self.recipe.batch_size
        samples = [self.stream[step * size + row] for row in range(size)]
        if self.recipe.stage == "pretrain_grounder":
            images = [encode_sample_image(self.processor, sample) for sample in samples]
            return class_batch(samples, images, self.processor, self.class_index)
        rng = np.random.default_rng((self.recipe.seed, 7, step))
        return chat_batch(samples, self.processor, self.class_index, self.recipe.max_turns, rng)


def _worker_init(worker: int) -> None:
    torch.set_num_threads(1)


def parameter_groups(shop: Workshop) -> list[dict[str, Any]]:
    """Vision and language at their rates; matrices decay, norms and biases do not."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    vision = ("grounder.", "vision_tower.", "visual_prompt_encoder.")
    named = [*shop.model.named_parameters(), *shop.phrases.named_parameters(prefix="grounder.phrases")]
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault((name.startswith(vision), parameter.ndim > 1), []).append(parameter)
    rate = shop.recipe.learning_rate
    return [
        {
            "params": parameters,
            "lr": rate * (shop.recipe.vision_rate if is_vision else 1.0),
            "weight_decay": shop.recipe.weight_decay if decays else 0.0,
        }
        for (is_vision, decays), parameters in groups.items()
    ]


def rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(recipe.steps * recipe.warmup))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.steps - warmup)))


def run_stage(shop: Workshop) -> dict[str, float]:
    """Train one stage to its end, from its last checkpoint if there is one; the best validation is kept.

    Returns:
        The last validation.
    """
    recipe, device = shop.recipe, shop.device
    shop.folder.mkdir(parents=True, exist_ok=True)
    (shop.folder / "recipe.json").write_text(json.dumps(recipe_to_dict(recipe), indent=1) + "\n", encoding="utf-8")
    shop.model.to(device)  # type: ignore[arg-type]  # transformers' own wrapper hides the signature
    shop.phrases.to(device)
    if device.type == "cpu":
        # The fused kernel is slow on its way back: 32 dialogues took 1.5 s a step with it, 1.1 s with plain products.
        shop.model.language_model.set_attn_implementation("eager")
    if recipe.freeze_vision:
        shop.model.grounder.requires_grad_(False)
    criteria = Criteria.of(len(shop.phrases.names), None if recipe.num_points == 0 else recipe.num_points)
    optimizer = torch.optim.AdamW(parameter_groups(shop), betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, recipe))
    first, best = _resume(shop, optimizer, scheduler)
    loader = DataLoader(
        BatchStream(shop, first),
        batch_size=None,
        num_workers=recipe.workers,
        prefetch_factor=4 if recipe.workers else None,
        worker_init_fn=_worker_init,
    )
    sums: dict[str, float] = {}
    result: dict[str, float] = {}
    logged, since = first, time.monotonic()
    for step, batch in enumerate(loader, start=first):
        _seed(recipe.seed, step)
        losses = _step(shop, criteria, optimizer, scheduler, batch)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        done = step + 1
        if done % recipe.log_every == 0:
            steps = done - logged
            rate = steps * recipe.batch_size / (time.monotonic() - since)
            _log(shop, done, {name: value / steps for name, value in sums.items()} | {"samples_s": rate})
            sums, logged, since = {}, done, time.monotonic()
        if done % recipe.validate_every == 0 or done == recipe.steps:
            result = _validate(shop)
            _log(shop, done, result)
            score = result.get("phrase_f1", result.get("class_f1", 0.0))
            if score >= best:
                best = score
                save_weights(shop, shop.folder / "best")
            since = time.monotonic()
        if done % recipe.save_every == 0 or done == recipe.steps:
            _save_state(shop, optimizer, scheduler, done, best)
    save_weights(shop, shop.folder / "last")
    return result or _validate(shop)


def _step(
    shop: Workshop,
    criteria: Criteria,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    batch: ClassBatch | ChatBatch,
) -> dict[str, float]:
    shop.model.train()
    if shop.recipe.freeze_vision:
        shop.model.grounder.eval()  # its batch statistics stay, too
    batch = _to_device(batch, shop.device)
    with torch.autocast(shop.device.type, torch.bfloat16, enabled=shop.recipe.bf16):
        if isinstance(batch, ChatBatch):
            weights = (shop.recipe.grounding_weight, shop.recipe.word_weight)
            losses = chat_losses(shop.model, shop.phrases, criteria, batch, *weights)
        else:
            losses = pretrain_losses(shop.model, shop.phrases, criteria, batch)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    parameters = [*shop.model.parameters(), *shop.phrases.parameters()]
    norm = nn.utils.clip_grad_norm_(parameters, shop.recipe.clip)
    if bool(torch.isfinite(norm)):
        optimizer.step()
    else:
        logger.warning("a step was left out: its gradient was not finite")
    scheduler.step()
    shown = {"loss": losses["loss"], "grad_norm": norm}
    shown |= {
        name: value for name, value in losses.items() if not name.rpartition("_")[2].startswith(("aux", "interm"))
    }
    return {name: float(value.detach()) for name, value in shown.items()}


def _to_device(batch: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return batch
    if isinstance(batch, ChatBatch):
        return ChatBatch(
            images=_tensors_to(batch.images, device),
            texts=_tensors_to(batch.texts, device),
            prompts=None if batch.prompts is None else batch.prompts.to(device),
            targets=[target.to(device) for target in batch.targets],
            phrase_mask=batch.phrase_mask.to(device),
            classes=_to_device(batch.classes, device),
            words=batch.words.to(device),
        )
    return ClassBatch(
        _tensors_to(batch.images, device), [target.to(device) for target in batch.targets], batch.phrase_mask.to(device)
    )


def _tensors_to(values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in values.items()}


def _validate(shop: Workshop) -> dict[str, float]:
    shop.model.eval()
    if shop.recipe.stage == "pretrain_grounder":
        return validate_classes(shop.model, shop.phrases, shop.processor, shop.held_out)
    classes = validate_classes(shop.model, shop.phrases, shop.processor, shop.held_out)
    return classes | validate_chat(shop.model, shop.phrases, shop.processor, shop.held_out)


def _log(shop: Workshop, step: int, values: Mapping[str, float]) -> None:
    row = {"step": step, "time": round(time.time()), **{name: round(value, 5) for name, value in values.items()}}
    with (shop.folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))


def save_weights(shop: Workshop, folder: Path) -> None:
    """Model, processor and class phrases, as a folder `from_pretrained` reads."""
    shop.model.save_pretrained(folder)
    shop.processor.save_pretrained(folder)
    tensors = {name: value.contiguous() for name, value in shop.phrases.state_dict().items()}
    save_file(tensors, folder / CLASS_PHRASE_FILES[0])
    (folder / CLASS_PHRASE_FILES[1]).write_text(json.dumps(shop.phrases.names) + "\n", encoding="utf-8")


def load_class_phrases(folder: Path) -> ClassPhrases:
    """What `save_weights` kept of them.

    Raises:
        CheckpointError: if the files are missing.
    """
    try:
        names = json.loads((folder / CLASS_PHRASE_FILES[1]).read_text(encoding="utf-8"))
        state = load_file(folder / CLASS_PHRASE_FILES[0])
        phrases = ClassPhrases(names, state["embeds"].shape[1], state["cell_head.weight"].shape[1])
        phrases.load_state_dict(state)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"`{folder}` holds no class phrases of an earlier stage") from error
    return phrases


def _save_state(
    shop: Workshop,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    step: int,
    best: float,
) -> None:
    aside = shop.folder / "state.tmp"
    torch.save(
        {
            "step": step,
            "best": best,
            "model": shop.model.state_dict(),
            "phrases": shop.phrases.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        },
        aside,
    )
    aside.replace(shop.folder / "state.pt")


def _resume(
    shop: Workshop, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> tuple[int, float]:
    """Steps done and the best validation so far."""
    path = shop.folder / "state.pt"
    if not path.exists():
        return 0, -math.inf
    state = torch.load(path, weights_only=True, map_location=shop.device)
    shop.model.load_state_dict(state["model"])
    shop.phrases.load_state_dict(state["phrases"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    logger.info("resumed at step %d", state["step"])
    return int(state["step"]), float(state.get("best", -math.inf))


def _seed(seed: int, step: int) -> None:
    """Dice of one step: the same whether the run came here in one go or was resumed."""
    mixed = (1_000_003 * seed + step) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002 - libraries that draw from the global state
    torch.manual_seed(mixed)
