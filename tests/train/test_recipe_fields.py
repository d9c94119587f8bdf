"""Every field of a recipe changes a run: what is built of two recipes that differ in one field differs where it should.

Fields that work only while a run goes on have tests of their own, which are named here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from small_training import (
    class_phrases,
    recipe,
    shrink_world,
    training_config,
    training_model,
    training_processor,
)

from llava_grounding.model.efficientnet_lite import EfficientNetLiteConfig
from llava_grounding.train import run, training_setup
from llava_grounding.train.adapters import add_adapters
from llava_grounding.train.checkpoint import save_phrases
from llava_grounding.train.recipe import LoraSettings, Recipe
from llava_grounding.train.trainer import GroundingTrainer
from llava_grounding.train.training_setup import TrainingSetup, build_training_setup

BASE: dict[str, Any] = {"preset": "shared", "steps": 8, "batch_size": 2, "micro_batch_size": 2, "validation_samples": 2}
LATER = {"start_from": "{start}"}
BUILT = {"init_from": "{start}"}


@dataclass(frozen=True)
class Case:
    """One field, and what of a run it changes."""

    name: str
    value: Any
    changes: set[str]
    beside: dict[str, Any]
    """Other fields of both recipes."""


def case(name: str, value: Any, *changes: str, **beside: Any) -> Any:
    return pytest.param(Case(name, value, set(changes), beside), id=name)


CASES = [
    case("stage", "grounded_chat", "plan", "trainable", "batches"),
    case("preset", "smaller", "weights"),
    case("start_from", "{start}", "weights"),
    case("init_from", "{start}", "weights"),
    case("backbone_weights", "efficientnet_lite0", "weights", preset="pretrained", **BUILT),
    case("data", [{"kind": "scenes", "held_out": True}], "batches"),
    case("validation", [{"kind": "scenes"}], "held out"),
    case("steps", 9, "last step", "schedule"),
    case("minutes", 0.001, "schedule"),
    case("batch_size", 3, "batches", "pieces of a step"),
    case("micro_batch_size", 1, "batches", "pieces of a step", "validation"),
    case("learning_rate", 0.5, "rates"),
    case("vision_lr_multiplier", 0.5, "rates"),
    case("backbone_lr_multiplier", 0.5, "rates"),
    case("beta2", 0.9, "betas"),
    case("weight_decay", 0.5, "decays"),
    case("warmup_ratio", 0.5, "schedule"),
    case("max_grad_norm", 0.5, "max_grad_norm"),
    case("freeze", ["grounder"], "plan", "trainable"),
    case("frozen_stages", 2, "trainable", preset="pretrained", **BUILT),
    case("freeze_batch_norm", True, "modes", preset="pretrained", **BUILT),
    case("train_lm_head", False, "plan", "trainable", preset="official", stage="grounded_chat", **LATER),
    case("detach_grounding", True, "model"),
    case("num_queries", 5, "model"),
    case("class_task", False, "plan", "trainable", "batches"),
    case("denoising", 3, "loss_config"),
    case("denoising_noise", {"box_noise_scale": 0.1}, "loss_config"),
    case("cell_targets", {"box_middle": 0.1}, "loss_config"),
    case("question_weights", {"describe": 1e6}, "batches"),
    case("max_turns", 1, "batches", "validation"),
    case("independent_turns", True, "batches"),
    case("max_tokens", 150, "batches", "validation"),
    case("loss_weights", {"giou": 0.5}, "loss_config"),
    case("matching_costs", {"giou": 0.5}, "loss_config"),
    case("focal", {"gamma": 0.5}, "loss_config"),
    case("num_points", 7, "loss_config"),
    case("seed", 5, "weights", "batches", "random_seed"),
    case("bf16", True, "autocast"),
    case("weights", "bfloat16", "widths", stage="align", **LATER),
    case("lora", {"rank": 2}, "trainable", "weights"),
    case("gradient_checkpointing", True, "recomputed"),
    case("workers", 2, "workers"),
    case("max_skipped_samples", 7, "broken"),
    case("logging_steps", 3, "rhythm"),
    case("save_steps", 3, "rhythm"),
    case("eval_steps", 3, "rhythm"),
    case("validation_samples", 1, "held out"),
    case("metric", "class_f1", "best"),
    case("pictures", 1, "pictures"),
    case("report_to", ["tensorboard"], "trackers"),
]
ELSEWHERE = {
    "augmentation": ("test_training_setup.py", "test_photos_are_augmented_as_the_recipe_says"),
    "commercial_use": (
        "test_training_setup.py",
        "test_photos_that_may_not_be_used_commercially_are_left_out_where_that_is_asked",
    ),
    "save_total_limit": ("test_run.py", "test_only_the_newest_checkpoints_are_kept"),
    "sharding": ("test_training_arguments.py", "test_they_build_without_warnings"),
}
LORA = [
    case("rank", 3, "shapes"),
    case("alpha", 9, "scale"),
    case("dropout", 0.5, "dropout"),
    case("targets", ["q_proj"], "names"),
]


@pytest.fixture(autouse=True)
def _small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_world(monkeypatch)
    monkeypatch.setattr(training_setup, "preset", preset)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An earlier stage of each flavour, by the name of its preset."""
    folders = {}
    for flavour in ("shared", "official"):
        folder = tmp_path_factory.mktemp(flavour)
        training_model(flavour, seed=3).save_pretrained(folder)
        training_processor(flavour).save_pretrained(folder)
        save_phrases(class_phrases(3), folder)
        folders[flavour] = str(folder)
    return folders


def preset(name: str) -> Any:
    """The tiny configurations, one with fewer layers and one whose backbone there are published weights for."""
    if name == "smaller":
        config = training_config("shared")
        config.text_config.num_hidden_layers = 1
        return config
    if name == "pretrained":
        config = training_config("shared")
        config.grounder_config.backbone_config = EfficientNetLiteConfig()
        return config
    return training_config(name)


class BuiltError(Exception):
    """The run is ready to begin."""


def build(values: dict[str, Any], folder: Path) -> tuple[TrainingSetup, GroundingTrainer]:
    """All that a run is made of, a moment before its first step."""
    setup = build_training_setup(recipe(values.get("stage", "chat"), **without_stage(values)), folder)
    made: list[GroundingTrainer] = []

    def stop(trainer: GroundingTrainer, **options: Any) -> None:
        made.append(trainer)
        raise BuiltError

    with mock.patch.object(GroundingTrainer, "train", stop), pytest.raises(BuiltError):
        run.run_stage(setup, "cpu")
    return setup, made[0]


def without_stage(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "stage"}


def hashed(tensors: Any) -> str:
    digest = hashlib.sha256()
    for one in tensors:
        digest.update(one.detach().float().numpy().tobytes())
    return digest.hexdigest()


def observed(setup: TrainingSetup, trainer: GroundingTrainer) -> dict[str, Any]:
    """What a run is made of, by the words of the cases."""
    args, stream, model = trainer.args, trainer._stream, setup.model
    named = dict(setup.training_module.named_parameters())
    optimizer = trainer.create_optimizer()
    groups = optimizer.param_groups
    names = {id(one): name for name, one in named.items()}
    trainer._started -= 0.03  # seconds that the run has taken so far
    factor = trainer.create_scheduler(args.max_steps).lr_lambdas[0]
    batches = [stream.batch(step, micro).batch for step in range(2) for micro in range(stream.portion.micro_batches)]
    random_seed = next(one for one in trainer.callback_handler.callbacks if type(one).__name__ == "StepSeed")
    kept = next(one for one in trainer.callback_handler.callbacks if type(one).__name__ == "BestCheckpoint")
    look = trainer._validation
    return {
        "plan": setup.plan,
        "trainable": sorted(name for name, one in named.items() if one.requires_grad),
        "weights": hashed(named.values()),
        "widths": {name: one.dtype for name, one in named.items()},
        "model": (model.grounder.query_selection.num_queries, model.config.detach_grounding),
        "modes": sorted(name for name, one in setup.training_module.train().named_modules() if one.training),
        "loss_config": setup.training_module.loss_config,
        "recomputed": model.language_model.is_gradient_checkpointing,
        "batches": [
            {
                "pixels": hashed([batch.images["grounder_pixel_values"]]),
                "texts": batch.texts["input_ids"].tolist() if hasattr(batch, "texts") else None,
                "classes": getattr(batch, "classes", None) is not None,
            }
            for batch in batches
        ],
        "pieces of a step": (stream.portion, args.gradient_accumulation_steps),
        "held out": [one.id for one in look.samples],
        "validation": (look.batch_size, look.max_turns, look.max_tokens),
        "last step": (args.max_steps, stream.steps),
        "rates": {names[id(one)]: group["lr"] for group in groups for one in group["params"]},
        "decays": {names[id(one)]: group["weight_decay"] for group in groups for one in group["params"]},
        "betas": [group["betas"] for group in groups],
        "schedule": [round(factor(step), 2) for step in range(8)],
        "max_grad_norm": args.max_grad_norm,
        "autocast": args.bf16,
        "rhythm": (args.logging_steps, args.save_steps, args.eval_steps),
        "workers": trainer.get_train_dataloader().num_workers,
        "broken": trainer.skipped_samples.limit,
        "random_seed": random_seed.seed,
        "best": kept.metric,
        "pictures": any(type(one).__name__ == "AnswerImages" for one in trainer.callback_handler.callbacks),
        "trackers": args.report_to,
    }


def test_every_field_is_here_and_once() -> None:
    here = [one.values[0].name for one in CASES] + list(ELSEWHERE)
    assert sorted(here) == sorted(one.name for one in fields(Recipe))
    assert sorted(one.values[0].name for one in LORA) == sorted(one.name for one in fields(LoraSettings))
    for file, name in ELSEWHERE.values():
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """What was observed of runs before a field was changed, so that each is built once."""
    return {}


@pytest.mark.parametrize("one", CASES)
def test_it_changes_what_it_should(
    one: Case, start: dict[str, str], seen: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    plain = {**BASE, **one.beside}
    flavour = "official" if plain["preset"] == "official" else "shared"

    def observe(values: dict[str, Any]) -> dict[str, Any]:
        filled = {name: start[flavour] if value == "{start}" else value for name, value in values.items()}
        return observed(*build(filled, tmp_path / str(len(seen))))

    if str(plain) not in seen:
        seen[str(plain)] = observe(plain)
    changed = observe({**plain, one.name: one.value})
    assert one.changes <= {name for name, value in seen[str(plain)].items() if value != changed[name]}


@pytest.mark.parametrize("one", LORA)
def test_a_setting_of_adapters_changes_what_it_should(one: Case) -> None:
    before, after = ({}, {one.name: one.value})
    found = [adapters({"rank": 2, "alpha": 4, "dropout": 0.0, **values}) for values in (before, after)]
    assert one.changes <= {name for name, value in found[0].items() if value != found[1][name]}


def adapters(values: dict[str, Any]) -> dict[str, Any]:
    settings = recipe(lora=values).lora
    assert settings is not None
    model = training_model()
    add_adapters(model, settings)
    layers = {name: one for name, one in model.named_modules() if hasattr(one, "lora_A")}
    return {
        "names": sorted(layers),
        "shapes": sorted({tuple(one.lora_A["default"].weight.shape) for one in layers.values()}),
        "scale": {one.scaling["default"] for one in layers.values()},
        "dropout": {getattr(one.lora_dropout["default"], "p", 0.0) for one in layers.values()},
    }
