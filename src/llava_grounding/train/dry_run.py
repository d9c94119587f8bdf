"""What a recipe would do, without doing it: its data opened, its model without weights, its plan, memory and steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_grounding.model.sizes import bytes_per_weight, meta_model
from llava_grounding.scenes.synthetic import SceneConfig
from llava_grounding.train.adapters import add_adapters
from llava_grounding.train.batching.mixture import Mixture
from llava_grounding.train.batching.sources import open_sources, scenes_without_dialogues
from llava_grounding.train.batching.stream import Portion
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.plan import PartPlan, apply_plan, part_plans, plan_lines, stage_plan
from llava_grounding.train.pretrained_backbone import check_pretrained
from llava_grounding.train.recipe import Recipe
from llava_grounding.train.run import check_trackers
from llava_grounding.train.training_setup import class_names, model_config

_GIB = 2**30
_TOKENS = 1024  # of a dialogue with its image, where the recipe does not bound it
# Values that a layer keeps of each token for the way back, in units of the model's width (arXiv:2205.05198).
_KEPT, _KEPT_CHECKPOINTED = 34.0, 2.0


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, estimated."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """Bytes of all of it together."""
        return self.weights + self.gradients + self.optimizer + self.activations


def dry_run(recipe: Recipe, root: Path | None = None, processes: int = 1) -> list[str]:
    """The plan of a recipe as lines of text.

    Args:
        root: as for `train`.
        processes: devices it would run on.

    Raises:
        UsageError: whatever would stop the run before its first step.
    """
    plan = stage_plan(recipe)
    if recipe.backbone_weights is not None:
        check_pretrained(recipe.backbone_weights)
    scenes = SceneConfig if "language" in plan.tasks else scenes_without_dialogues
    sources = open_sources(recipe.data, root, scenes, commercial_use=recipe.commercial_use)
    open_sources(recipe.validation, root)
    check_trackers(recipe.report_to)
    mixture = Mixture(sources, recipe.batch_size, recipe.seed)
    portion = Portion.of(recipe.batch_size, recipe.micro_batch_size, 0, processes)
    config = model_config(recipe)
    model = meta_model(config)
    phrases = None
    if "classes" in plan.tasks:
        names = sorted(class_names(sources)) or [""]
        phrases = ClassPhrases(names, config.grounder_config.phrase_size, config.grounder_config.hidden_size)
    if recipe.lora is not None:
        add_adapters(model, recipe.lora)
    apply_plan(model, plan, recipe, range(3))
    parts = part_plans(model, phrases, recipe)
    memory = estimate_memory(parts, recipe, processes, config.text_config.hidden_size, _layers(config.text_config))
    counts = mixture.parts(0)
    lines = plan_lines(parts, recipe, plan.tasks)
    devices, pieces = "s" * (processes > 1), "es" * (portion.micro_batches > 1)
    lines.append(
        f"{recipe.steps:,d} steps of {recipe.batch_size} samples on {processes} device{devices}, "
        f"in {portion.micro_batches} micro-batch{pieces} each"
    )
    total = sum(weight for _, weight in sources)
    for (source, weight), count in zip(sources, counts, strict=True):
        size = source.size
        seen = recipe.steps * recipe.batch_size * weight / total
        passes = f"{size:,d} samples, gone through {seen / size:.2f} times" if size else "without end"
        lines.append(f"  {source.name}: {count} of the first step; {passes}")
    gib = {name: getattr(memory, name) / _GIB for name in ("weights", "gradients", "optimizer", "activations")}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in gib.items())
    lines.append(f"memory of each device, about {memory.total / _GIB:.1f} GiB: {shown}")
    return [*lines, "  (the vision modules' activations come on top)"]


def estimate_memory(parts: Sequence[PartPlan], recipe: Recipe, processes: int, width: int, layers: int) -> Memory:
    """Memory of weights, gradients and optimiser states, and of the language model's activations."""
    vision = {"grounder", "visual_prompt_encoder"}
    weights = gradients = optimizer = 0.0
    for part in parts:
        frozen_bytes = 4.0 if part.name in vision else bytes_per_weight(recipe.weights)
        weights += part.trainable * 4.0 + part.frozen * frozen_bytes
        gradients += part.whole * 4.0
        optimizer += part.whole * 8.0
    share = 1.0 / processes
    if recipe.sharding in ("zero2", "zero3", "fsdp"):
        optimizer, gradients = optimizer * share, gradients * share
    if recipe.sharding in ("zero3", "fsdp"):
        weights *= share
    samples = -(-recipe.batch_size // processes)
    samples = min(samples, recipe.micro_batch_size or samples)
    kept = _KEPT_CHECKPOINTED if recipe.gradient_checkpointing else _KEPT
    tokens = samples * (recipe.max_tokens or _TOKENS)
    activations = tokens * width * (layers * kept + (_KEPT if recipe.gradient_checkpointing else 0))
    return Memory(weights, gradients, optimizer, activations * (2.0 if recipe.bf16 is False else 1.0))


def _layers(text_config: object) -> int:
    return int(getattr(text_config, "num_hidden_layers", 0))
