"""A training recipe: frozen values read from YAML over the defaults here. Knows no tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from llava_grounding.data.augmentation import AugmentationSettings
from llava_grounding.dialogues.settings import DEFAULT_QUESTION_WEIGHTS
from llava_grounding.errors import ConfigError, quoted
from llava_grounding.train.losses.settings import CellTargets, DenoisingNoise, FocalSettings
from llava_grounding.train.losses.weights import LossWeights, MatchingCosts
from llava_grounding.train.recipe_file import MAX_DEPTH, find_recipe, parse_yaml, read_recipe_file, yaml_problem
from llava_grounding.train.renamed import FORMER, former_name, former_names
from llava_grounding.typed_values import typed_fields

Stage = Literal["pretrain_grounder", "chat", "align", "grounded_chat", "visual_prompt", "set_of_mark"]
Weights = Literal["float32", "bfloat16", "int8", "int4"]
Sharding = Literal["none", "fsdp", "zero2", "zero3"]
Source = Mapping[str, Any]
"""One source of samples: its `kind`, its `weight`, and what its kind needs; see `source_kinds.py`."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (arXiv:2106.09685) on the language model, which itself then stays as it is."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers by the end of their names."""


@dataclass(frozen=True)
class Recipe:
    """One stage of training."""

    stage: Stage
    """What is learnt, and by which parts; see `plan.py`."""
    preset: str = "nano"
    """Model configuration by name, for a start from random weights."""
    start_from: str | None = None
    """The model to start with: a folder, a hub id or `nano`; None starts from random weights."""
    init_from: str | None = None
    """Without `start_from`: a model whose tokenizer is taken, and whose weights are where their name and shape fit the
    preset; the rest starts fresh, and is listed. Canvas, selection and template are the preset's."""
    backbone_weights: str | None = None
    """Published weights of the backbone: a name such as `efficientnet_lite0`, or the path of a `nanodet.json`; None: as
    above."""
    data: tuple[Source, ...] = ({"kind": "scenes"},)
    """What to learn from."""
    commercial_use: bool = False
    """Learn from those photos of the pack alone whose licence allows commercial use and changes."""
    validation: tuple[Source, ...] = ({"kind": "scenes", "held_out": True},)
    """What to look at in validations; `validation_samples` of them, by weight."""
    steps: int = 1000
    """Optimiser steps."""
    minutes: float | None = None
    """Time budget: the rate falls with the time where it is ahead of the steps, and the run ends when it is over. Such
    a run depends on the machine; None: all steps, however long they take."""
    batch_size: int = 16
    """Samples of an optimiser step, over all processes and accumulated micro-batches."""
    micro_batch_size: int | None = None
    """Samples that pass through the model at once on one device; None takes all of the device's share."""
    learning_rate: float = 1.5e-3
    """Peak rate of AdamW on the language side."""
    vision_lr_multiplier: float = 1.0
    """Factor on the rate of grounder, prompt encoder and shared vision tower."""
    backbone_lr_multiplier: float = 1.0
    """Further factor on backbones, sampling offsets and reference points; 0.1 in the original."""
    beta2: float = 0.999
    """Second beta of AdamW: how fast it forgets the mean of squared gradients."""
    weight_decay: float = 0.02
    """Weight decay of matrices; norms and biases have none."""
    warmup_ratio: float = 0.03
    """Share of the steps with a rising rate; a half cosine to zero follows."""
    max_grad_norm: float = 1.0
    """Largest gradient norm; 0 leaves gradients as they are, as in the original."""
    freeze: tuple[str, ...] = ()
    """Parts of the model that stay frozen although their stage would train them."""
    frozen_stages: int = 0
    """Stages of an EfficientNet-Lite or NanoDet backbone that are frozen, from the pixels on; the stem is the first."""
    freeze_batch_norm: bool = False
    """Batch statistics of the backbone stay as they are, as is usual where it was trained before."""
    train_lm_head: bool = True
    """The output layer is trainable where the language model is. The original's second stage left it out."""
    detach_grounding: bool = False
    """No gradient from the grounder into the language model (table 14 of the paper: it costs much)."""
    num_queries: int | None = None
    """Object queries of the grounder (table 13 of the paper); None as in the model."""
    class_task: bool | None = None
    """Class names as a second task; None: in the stages `pretrain_grounder` and `chat`."""
    denoising: int = 0
    """Noised copies of each object that the grounder must put right, in the class task (arXiv:2203.01305)."""
    denoising_noise: DenoisingNoise = field(default_factory=DenoisingNoise)
    """How these copies differ from their objects; see `losses/settings.py`."""
    cell_targets: CellTargets = field(default_factory=CellTargets)
    """What image cells are said to show, in the class task; see there as well."""
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    """How far sources that are `augmented` change their photos; see `data/augmentation.py`."""
    max_turns: int = 4
    """Questions of one scene or photo put into one dialogue; a data set's `dialogue` has a `max_turns` of its own."""
    independent_turns: bool = False
    """Whether questions do not see each other: the image is read once, and each continues from it as if alone."""
    question_weights: Mapping[str, float] = field(default_factory=DEFAULT_QUESTION_WEIGHTS.copy)
    """How likely a kind of question of scenes and photos is to be put into a dialogue; 1 for kinds not named here.
    Descriptions are likelier than others, since they cannot be answered from the question's own words, and so are
    questions that one word decides."""
    max_tokens: int | None = None
    """Longest dialogue; later turns are left out, a longer first one leaves the sample out. None: the model's limit."""
    loss_weights: LossWeights = field(default_factory=LossWeights)
    """Factors of the losses; see `losses/weights.py`."""
    matching_costs: MatchingCosts = field(default_factory=MatchingCosts)
    """Factors of the costs by which object queries are matched to objects; see there as well."""
    focal: FocalSettings = field(default_factory=FocalSettings)
    """Alpha and gamma of the focal loss and of the focal cost of matching."""
    num_points: int = 512
    """Points a mask loss is computed on; 0 takes every cell. 12544 in the original."""
    seed: int = 0
    """Seed of weights, data order and points."""
    bf16: bool | Literal["auto"] = "auto"
    """Matrix products in bfloat16; `auto`: where the device can, a CPU where it measures at least a tenth faster."""
    weights: Weights = "float32"
    """Type of frozen weights, and of the language model's in `best` and `last`; trainable weights are in float32. int8
    and int4 need `lora`."""
    lora: LoraSettings | None = None
    """Adapters instead of the whole language model."""
    gradient_checkpointing: bool = False
    """Compute the language model's activations twice rather than keep them."""
    sharding: Sharding = "none"
    """How processes share weights and optimiser states: not at all, FSDP2, DeepSpeed's ZeRO-2 or ZeRO-3."""
    workers: int = 1
    """Processes that draw and read samples, for each device."""
    max_skipped_samples: int = 1000
    """Samples that could not be used, over all processes, after which the run stops."""
    logging_steps: int = 50
    """Steps between lines of the log."""
    save_steps: int = 500
    """Steps between checkpoints."""
    save_total_limit: int = 2
    """Checkpoints that are kept, the last ones."""
    eval_steps: int = 1000
    """Steps between validations."""
    validation_samples: int = 200
    """Held-out samples a validation looks at."""
    metric: str | None = None
    """The validation's number by which the best weights are kept; None: phrase_f1, else class_f1."""
    pictures: int = 4
    """Held-out samples whose answers are drawn at every validation."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Where curves go: tensorboard, wandb, or any other integration of transformers."""


_ONE_OR_MORE, _NONE_OR_MORE, _SHARE = (1, math.inf), (0, math.inf), (0, 1)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("steps", "batch_size", "micro_batch_size", "max_turns", "max_tokens", "num_queries"), _ONE_OR_MORE
    ),
    **dict.fromkeys(
        ("logging_steps", "save_steps", "eval_steps", "validation_samples", "save_total_limit"), _ONE_OR_MORE
    ),
    **dict.fromkeys(
        ("learning_rate", "vision_lr_multiplier", "backbone_lr_multiplier", "weight_decay", "max_grad_norm"),
        _NONE_OR_MORE,
    ),
    **dict.fromkeys(("pictures", "denoising"), _NONE_OR_MORE),
    **dict.fromkeys((f"loss_weights.{one.name}" for one in fields(LossWeights)), _NONE_OR_MORE),
    **dict.fromkeys((f"matching_costs.{one.name}" for one in fields(MatchingCosts)), _NONE_OR_MORE),
    **dict.fromkeys((f"cell_targets.{one.name}" for one in fields(CellTargets)), _SHARE),
    **dict.fromkeys((f"denoising_noise.{one.name}" for one in fields(DenoisingNoise)), _SHARE),
    **dict.fromkeys((f"augmentation.{one.name}" for one in fields(AugmentationSettings)), _SHARE),
    "augmentation.max_aspect_change": _ONE_OR_MORE,
    "focal.alpha": _SHARE,
    "focal.gamma": _NONE_OR_MORE,
    **dict.fromkeys(("num_points", "workers", "seed", "max_skipped_samples"), _NONE_OR_MORE),
    "minutes": (1e-3, math.inf),
    **dict.fromkeys(("warmup_ratio", "beta2", "lora.dropout"), _SHARE),
    **dict.fromkeys(("lora.rank", "lora.alpha"), _ONE_OR_MORE),
}


def load_recipe(path: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe: one that ships by its name, such as `custom_data`, or a file.

    Args:
        overrides: `key=value` pairs in YAML notation that win over it; a key may reach inside, such as `lora.rank` or
            `data.0.weight`.

    Raises:
        ConfigError: naming every unknown or former key and every value of the wrong type; or saying that there is no
            such recipe, or what keeps the file from being read, with its line.
    """
    values = read_recipe_file(find_recipe(path))
    problems = []
    for key, text in (overrides or {}).items():
        try:
            _put(values, key, parse_yaml(text))
        except yaml.YAMLError as error:
            why = yaml_problem(error).removesuffix(", line 1")
            problems.append(f"{quoted(key)} must be written in YAML, got {quoted(text)}: {why}")
        except (IndexError, ValueError, TypeError):
            problems.append(f"unknown key {quoted(key)}: the recipe has nothing there")
    return _checked(values, problems)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """Check keys, types and ranges, all problems at once.

    Raises:
        ConfigError: naming every problem.
    """
    return _checked(values, [])


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """All values, plain, to be saved beside what they produced."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    return {item.name: plain(getattr(recipe, item.name)) for item in fields(recipe)}


def _put(values: Any, key: str, value: Any) -> None:
    """Set a value inside nested mappings and lists."""
    *way, last = key.split(".", MAX_DEPTH)
    for step in way:
        if isinstance(values, dict) and values.get(step) is None:
            values[step] = {}
        values = _inside(values)[_place(values, step)]
    _inside(values)[_place(values, last)] = value


def _inside(values: Any) -> Any:
    """Values that hold others; raises TypeError for any that do not."""
    if not isinstance(values, dict | list):
        raise TypeError
    return values


def _place(values: Any, step: str) -> str | int:
    return int(step) if isinstance(values, list) else step


def _checked(values: Mapping[str, Any], problems: list[str]) -> Recipe:
    problems += former_names(values)
    former = {*FORMER["recipe key"], *(["stage"] if former_name("stage", values.get("stage")) else ())}
    present = {key: value for key, value in values.items() if key not in former}
    if isinstance(weights := present.get("loss_weights"), Mapping):
        present["loss_weights"] = {key: weights[key] for key in weights if key not in FORMER["key of loss_weights"]}
    checked, wrong = typed_fields(Recipe, present, _RANGES)
    problems += wrong
    if "stage" not in values:
        problems.append("`stage` is missing")
    for name in ("data", "validation"):
        sources = checked.get(name)
        if isinstance(sources, tuple):
            problems += [f"every source in `{name}` must name its `kind`" for one in sources if "kind" not in one]
            if name == "data" and not sources:
                problems.append("`data` must name at least one source")
    problems += [
        f"`question_weights.{kind}` must be above 0, got {quoted(weight)}"
        for kind, weight in checked.get("question_weights", {}).items()
        if not weight > 0
    ]
    if checked.get("beta2") == 1:
        problems.append("`beta2` must be below 1")
    if checked.get("weights") in ("int8", "int4") and present.get("lora") is None:
        problems.append(f"weights in {checked['weights']} cannot learn: add `lora`")
    if problems:
        raise ConfigError("; ".join(dict.fromkeys(problems)))
    return Recipe(**checked)
