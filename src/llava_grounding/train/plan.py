"""What a stage trains: its tasks, the trainable and the frozen parts, and their learning rates, before the first step.

Knows parameters by name only; builds no model and reads no data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llava_grounding.errors import ConfigError, did_you_mean
from llava_grounding.model.efficientnet_lite import EfficientNetLite
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.nanodet import NanoDet
from llava_grounding.model.shared_tower import SharedVisionTower
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.recipe import Recipe

TrainingTask = Literal["language", "phrases", "classes", "prompts"]
PHRASES = "class_phrases"
"""Part of the training module that holds class phrases; the others are the model's."""
_VISION = ("grounder", "visual_prompt_encoder", PHRASES)
_SLOWER = re.compile(r"\.backbone\.|\.sampling_offsets\.|\.reference_points\.")
_ADAPTER = ".lora_"


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it teaches, and to which parts."""

    tasks: tuple[TrainingTask, ...]
    parts: tuple[str, ...]
    new_rows: bool = False
    """Whether the embeddings of our own tokens are trainable although the language model is frozen."""


_LANGUAGE = ("multi_modal_projector", "phrase_projector", "language_model", "lm_head")
STAGES: dict[str, StagePlan] = {
    "pretrain_grounder": StagePlan(("classes",), ("grounder", "vision_tower", PHRASES)),
    "chat": StagePlan(
        ("language", "phrases", "classes"),
        (*_LANGUAGE, "grounder", "vision_tower", "visual_prompt_encoder", PHRASES),
    ),
    "align": StagePlan(
        ("language", "phrases"), ("multi_modal_projector", "phrase_projector", "grounder"), new_rows=True
    ),
    "grounded_chat": StagePlan(("language", "phrases"), (*_LANGUAGE, "grounder")),
    "visual_prompt": StagePlan(("language", "prompts"), ("visual_prompt_encoder",)),
    "set_of_mark": StagePlan(("language",), ("multi_modal_projector", "language_model", "lm_head")),
}


def stage_plan(recipe: Recipe) -> StagePlan:
    """What the recipe's stage teaches, with the recipe's own wishes.

    Raises:
        ConfigError: if it freezes a part that does not exist, or everything.
    """
    plan = STAGES[recipe.stage]
    known = (*_LANGUAGE, *_VISION, "vision_tower")
    for name in recipe.freeze:
        if name not in known:
            raise ConfigError(f"`freeze` names no part of the model: `{name}`{did_you_mean(name, known)}")
    frozen = {*recipe.freeze, *(() if recipe.train_lm_head else ("lm_head",))}
    parts = tuple(part for part in plan.parts if part not in frozen)
    if not parts:
        raise ConfigError(f"everything that stage `{recipe.stage}` would train is frozen")
    new_rows = plan.new_rows or recipe.lora is not None
    if new_rows and recipe.sharding in ("fsdp", "zero3"):
        raise ConfigError(
            f"sharding `{recipe.sharding}` cannot train single rows of an embedding, as "
            f"{'`lora`' if recipe.lora else f'stage `{recipe.stage}`'} does; take `zero2` or `none`"
        )
    tasks = [task for task in plan.tasks if task != "classes" or recipe.class_task is not False]
    if recipe.class_task and "classes" not in tasks:
        tasks.append("classes")
        parts = (*parts, PHRASES)
    if "grounder" in recipe.freeze:  # nothing would learn from it
        tasks = [task for task in tasks if task != "classes"]
        parts = tuple(part for part in parts if part != PHRASES)
    if recipe.metric is not None:
        _check_metric(recipe.metric, tasks)
    if not tasks:
        raise ConfigError(f"stage `{recipe.stage}` is left without a task: class names are its only one")
    return StagePlan(tuple(tasks), parts, new_rows)


def _check_metric(metric: str, tasks: Sequence[TrainingTask]) -> None:
    """Before anything is loaded: it would be missed only at the first validation."""
    known = ["class_f1"] if "classes" in tasks else []
    known += ["phrase_f1", "language_loss"] if "language" in tasks else []
    if metric not in known:
        raise ConfigError(
            f"`metric` must be a number of the validation, which are {', '.join(known)}; got `{metric}`"
            f"{did_you_mean(metric, known)}"
        )


def apply_plan(
    model: LlavaGroundingForConditionalGeneration, plan: StagePlan, recipe: Recipe, new_tokens: Sequence[int]
) -> None:
    """Make trainable what the plan says, less the stages of the backbone that the recipe freezes.

    Args:
        new_tokens: as of `set_trainable`.

    Raises:
        ConfigError: if the backbone has not so many stages.
    """
    set_trainable(model, plan, new_tokens)
    freeze_stages(model, recipe.frozen_stages)


def set_trainable(model: LlavaGroundingForConditionalGeneration, plan: StagePlan, new_tokens: Sequence[int]) -> None:
    """Make the plan's parts trainable and freeze all others.

    Args:
        new_tokens: ids whose embeddings are trainable although the language model is frozen.
    """
    adapted = any(_ADAPTER in name for name, _ in model.language_model.named_parameters())
    own_tower = not isinstance(model.vision_tower, SharedVisionTower)
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        trainable = part in plan.parts
        if adapted and part in ("language_model", "lm_head"):
            trainable = trainable and _ADAPTER in name
        if own_tower and part == "vision_tower":
            trainable = False
        parameter.requires_grad_(trainable and parameter.is_floating_point())
    for table in {id(one): one for one in _token_tables(model)}.values():
        _train_all_rows(table)
        if plan.new_rows and new_tokens and not table.requires_grad:
            table.requires_grad_(True)
            _train_only_rows(table, new_tokens)


def freeze_stages(model: LlavaGroundingForConditionalGeneration, count: int) -> None:
    """Freeze the first stages of the grounder's backbone, the stem being the first.

    Raises:
        ConfigError: if the backbone has no stages of that form, or fewer.
    """
    if not count:
        return
    body = model.grounder.backbone.body
    if not isinstance(body, EfficientNetLite | NanoDet):
        raise ConfigError(
            f"`frozen_stages` needs an EfficientNet-Lite or a NanoDet backbone, got a {type(body).__name__}"
        )
    if count > 1 + len(body.stages):
        raise ConfigError(
            f"`frozen_stages` must be at most {1 + len(body.stages)}, the stem and its stages; got {count}"
        )
    for stage in (body.stem, *body.stages)[:count]:
        stage.requires_grad_(False)


def _token_tables(model: LlavaGroundingForConditionalGeneration) -> list[nn.Parameter]:
    """Input and output embeddings; one and the same where they are tied."""
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, nn.Parameter)
    return [embedding, model.lm_head.weight]


def _train_only_rows(table: nn.Parameter, rows: Sequence[int]) -> None:
    keep = torch.zeros(len(table), 1, dtype=torch.bool)
    keep[list(rows)] = True
    table.trainable_rows = len(rows)  # type: ignore[attr-defined]

    def mask(gradient: Tensor) -> Tensor:
        return gradient * keep.to(gradient.device)

    table.row_hook = table.register_hook(mask)  # type: ignore[attr-defined]


def _train_all_rows(table: nn.Parameter) -> None:
    """Undo `_train_only_rows` of an earlier stage."""
    if hasattr(table, "row_hook"):
        table.row_hook.remove()
        del table.row_hook, table.trainable_rows  # type: ignore[attr-defined]


def learning_rate_of(name: str, recipe: Recipe) -> float:
    """Peak learning rate of a parameter by its name in the training module (`model.…` or `class_phrases.…`)."""
    part = name.removeprefix("model.").partition(".")[0]
    vision = part in _VISION or part == "vision_tower"
    rate = recipe.learning_rate * (recipe.vision_lr_multiplier if vision else 1.0)
    return rate * (recipe.backbone_lr_multiplier if _SLOWER.search(f"{name}.") else 1.0)


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay; norms, biases and rows of embeddings have no decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not hasattr(parameter, "trainable_rows")
            key = (learning_rate_of(name, recipe), recipe.weight_decay if decays else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


@dataclass(frozen=True)
class PartPlan:
    """One part of the model in a stage."""

    name: str
    trainable: int
    frozen: int
    rates: tuple[float, ...]
    whole: int = 0
    """Parameters with a gradient: more than learn where only some rows of a table do."""


def part_plans(
    model: LlavaGroundingForConditionalGeneration, phrases: ClassPhrases | None, recipe: Recipe
) -> list[PartPlan]:
    """What is trainable and what is frozen, with parameter counts, after `set_trainable`."""
    named: list[tuple[str, nn.Parameter]] = [(f"model.{name}", one) for name, one in model.named_parameters()]
    if phrases is not None:
        named += [(f"{PHRASES}.{name}", one) for name, one in phrases.named_parameters()]
    counts: dict[str, list[int]] = {}
    rates: dict[str, set[float]] = {}
    for name, parameter in named:
        part = name.removeprefix("model.").partition(".")[0]
        size = parameter.numel()
        trainable = 0
        if parameter.requires_grad:
            trainable = getattr(parameter, "trainable_rows", len(parameter) if parameter.ndim else 1)
            trainable = trainable * size // max(len(parameter) if parameter.ndim else 1, 1)
            rates.setdefault(part, set()).add(learning_rate_of(name, recipe))
        entry = counts.setdefault(part, [0, 0, 0])
        entry[0] += trainable
        entry[1] += size - trainable
        entry[2] += size if parameter.requires_grad else 0
    return [
        PartPlan(part, trainable, frozen, tuple(sorted(rates.get(part, ()), reverse=True)), whole)
        for part, (trainable, frozen, whole) in counts.items()
    ]


def plan_lines(parts: Sequence[PartPlan], recipe: Recipe, tasks: Sequence[str]) -> list[str]:
    """The plan as text."""
    width = max(len(part.name) for part in parts)
    lines = [f"stage {recipe.stage}: {', '.join(tasks)}"]
    for part in parts:
        rates = " and ".join(f"{rate:.3g}" for rate in part.rates)
        what = f"trainable {part.trainable:13,d} at {rates}" if part.trainable else "frozen"
        rest = f"; {part.frozen:,d} frozen" if part.trainable and part.frozen else ""
        lines.append(f"  {part.name:{width}}  {part.trainable + part.frozen:13,d} parameters  {what}{rest}")
    trainable, total = sum(p.trainable for p in parts), sum(p.trainable + p.frozen for p in parts)
    return [*lines, f"  {trainable:,d} of {total:,d} parameters are trainable"]
