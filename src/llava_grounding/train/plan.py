"""What a stage teaches and which parts of the model learn it, at which rate: settled, and said, before the first step.

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
from llava_grounding.model.shared_tower import SharedVisionTower
from llava_grounding.train.class_losses import ClassPhrases
from llava_grounding.train.recipe import Recipe

Task = Literal["language", "phrases", "classes", "prompts"]
PHRASES = "class_phrases"
"""Part of the learner that holds class phrases; the others are the model's."""
_VISION = ("grounder", "visual_prompt_encoder", PHRASES)
_SLOWER = re.compile(r"\.backbone\.|\.sampling_offsets\.|\.reference_points\.")
_ADAPTER = ".lora_"


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it teaches, and to which parts."""

    tasks: tuple[Task, ...]
    parts: tuple[str, ...]
    new_rows: bool = False
    """Of a language model at rest, the embeddings of our own tokens learn nevertheless."""


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
    "marks": StagePlan(("language",), ("multi_modal_projector", "language_model", "lm_head")),
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
    resting = {*recipe.freeze, *(() if recipe.train_lm_head else ("lm_head",))}
    parts = tuple(part for part in plan.parts if part not in resting)
    if not parts:
        raise ConfigError(f"everything that stage `{recipe.stage}` would train is frozen")
    new_rows = plan.new_rows or recipe.lora is not None
    if new_rows and recipe.sharding in ("fsdp", "zero3"):
        raise ConfigError(
            f"sharding `{recipe.sharding}` cannot let single rows of an embedding learn, as "
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


def _check_metric(metric: str, tasks: Sequence[Task]) -> None:
    """Before anything is loaded: it would be missed only at the first validation."""
    known = ["class_f1"] if "classes" in tasks else []
    known += ["phrase_f1", "language_loss"] if "language" in tasks else []
    if metric not in known:
        raise ConfigError(
            f"`metric` must be a number of the validation, which are {', '.join(known)}; got `{metric}`"
            f"{did_you_mean(metric, known)}"
        )


def set_learning(model: LlavaGroundingForConditionalGeneration, plan: StagePlan, new_tokens: Sequence[int]) -> None:
    """Let the plan's parts learn and all others rest.

    Args:
        new_tokens: ids whose embeddings learn although the language model rests.
    """
    adapted = any(_ADAPTER in name for name, _ in model.language_model.named_parameters())
    own_tower = not isinstance(model.vision_tower, SharedVisionTower)
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        learns = part in plan.parts
        if adapted and part in ("language_model", "lm_head"):
            learns = learns and _ADAPTER in name
        if own_tower and part == "vision_tower":
            learns = False
        parameter.requires_grad_(learns and parameter.is_floating_point())
    for table in {id(one): one for one in _token_tables(model)}.values():
        _let_all_rows_learn(table)
        if plan.new_rows and new_tokens and not table.requires_grad:
            table.requires_grad_(True)
            _let_only_rows_learn(table, new_tokens)


def freeze_stages(model: LlavaGroundingForConditionalGeneration, count: int) -> None:
    """Freeze the first stages of the grounder's backbone, the stem being the first.

    Raises:
        ConfigError: if the backbone is no EfficientNet-Lite or has fewer stages.
    """
    if not count:
        return
    body = model.grounder.backbone.body
    if not isinstance(body, EfficientNetLite) or count > 1 + len(body.stages):
        raise ConfigError(f"`frozen_stages` needs an EfficientNet-Lite backbone, which has 8 stages; got {count}")
    for stage in (body.stem, *body.stages)[:count]:
        stage.requires_grad_(False)


def _token_tables(model: LlavaGroundingForConditionalGeneration) -> list[nn.Parameter]:
    """Input and output embeddings; one and the same where they are tied."""
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, nn.Parameter)
    return [embedding, model.lm_head.weight]


def _let_only_rows_learn(table: nn.Parameter, rows: Sequence[int]) -> None:
    keep = torch.zeros(len(table), 1, dtype=torch.bool)
    keep[list(rows)] = True
    table.learning_rows = len(rows)  # type: ignore[attr-defined]

    def mask(gradient: Tensor) -> Tensor:
        return gradient * keep.to(gradient.device)

    table.row_hook = table.register_hook(mask)  # type: ignore[attr-defined]


def _let_all_rows_learn(table: nn.Parameter) -> None:
    """Undo `_let_only_rows_learn` of an earlier stage."""
    if hasattr(table, "row_hook"):
        table.row_hook.remove()
        del table.row_hook, table.learning_rows  # type: ignore[attr-defined]


def rate_of(name: str, recipe: Recipe, shared_tower: bool = True) -> float:
    """Peak learning rate of a parameter by its name in the learner (`model.…` or `class_phrases.…`)."""
    part = name.removeprefix("model.").partition(".")[0]
    vision = part in _VISION or (part == "vision_tower" and shared_tower)
    rate = recipe.learning_rate * (recipe.vision_rate if vision else 1.0)
    return rate * (recipe.backbone_rate if _SLOWER.search(f"{name}.") else 1.0)


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> list[dict[str, Any]]:
    """Learning parameters by rate and weight decay; norms, biases and single rows of embeddings have no decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not hasattr(parameter, "learning_rows")
            key = (rate_of(name, recipe), recipe.weight_decay if decays else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


@dataclass(frozen=True)
class PartPlan:
    """One part of the model in a stage."""

    name: str
    learning: int
    resting: int
    rates: tuple[float, ...]
    whole: int = 0
    """Parameters with a gradient: more than learn where only some rows of a table do."""


def part_plans(
    model: LlavaGroundingForConditionalGeneration, phrases: ClassPhrases | None, recipe: Recipe
) -> list[PartPlan]:
    """What learns and what rests, with parameter counts, after `set_learning`."""
    named: list[tuple[str, nn.Parameter]] = [(f"model.{name}", one) for name, one in model.named_parameters()]
    if phrases is not None:
        named += [(f"{PHRASES}.{name}", one) for name, one in phrases.named_parameters()]
    counts: dict[str, list[int]] = {}
    rates: dict[str, set[float]] = {}
    for name, parameter in named:
        part = name.removeprefix("model.").partition(".")[0]
        size = parameter.numel()
        learning = 0
        if parameter.requires_grad:
            learning = getattr(parameter, "learning_rows", len(parameter) if parameter.ndim else 1)
            learning = learning * size // max(len(parameter) if parameter.ndim else 1, 1)
            rates.setdefault(part, set()).add(rate_of(name, recipe))
        entry = counts.setdefault(part, [0, 0, 0])
        entry[0] += learning
        entry[1] += size - learning
        entry[2] += size if parameter.requires_grad else 0
    return [
        PartPlan(part, learning, resting, tuple(sorted(rates.get(part, ()), reverse=True)), whole)
        for part, (learning, resting, whole) in counts.items()
    ]


def plan_lines(parts: Sequence[PartPlan], recipe: Recipe, tasks: Sequence[str]) -> list[str]:
    """The plan as text."""
    width = max(len(part.name) for part in parts)
    lines = [f"stage {recipe.stage}: {', '.join(tasks)}"]
    for part in parts:
        rates = " and ".join(f"{rate:.3g}" for rate in part.rates)
        what = f"learns {part.learning:13,d} at {rates}" if part.learning else "rests"
        rest = f"; {part.resting:,d} rest" if part.learning and part.resting else ""
        lines.append(f"  {part.name:{width}}  {part.learning + part.resting:13,d} parameters  {what}{rest}")
    learning, total = sum(p.learning for p in parts), sum(p.learning + p.resting for p in parts)
    return [*lines, f"  {learning:,d} of {total:,d} parameters learn"]
