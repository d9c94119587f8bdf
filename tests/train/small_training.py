"""A tiny model in training: configuration, processor, class phrases, and a training setup around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import NAMES, SCENES, four_samples

from llava_grounding.data.sample import Sample
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.image import CanvasSettings, TowerSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings
from llava_grounding.processing.selection import SelectionSettings
from llava_grounding.scenes.synthetic import SceneConfig
from llava_grounding.train import training_setup as setup_module
from llava_grounding.train.batching import source_kinds
from llava_grounding.train.batching.batches import ChatBatch, chat_item, collate_chat
from llava_grounding.train.batching.mixture import Mixture, SampleSource
from llava_grounding.train.batching.source_kinds import Scenes
from llava_grounding.train.batching.sources import open_sources, scenes_without_dialogues
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.plan import set_trainable, stage_plan
from llava_grounding.train.recipe import Recipe, recipe_of
from llava_grounding.train.tokenizer import train_tokenizer
from llava_grounding.train.training_module import LossConfig, TrainingModule
from llava_grounding.train.training_setup import TrainingSetup
from whole_models import FLAVOURS, whole_config

VOCABULARY = 320
_TEXTS = [
    "USER: Describe the image. (with grounding) ASSISTANT: There is a dog and two cats.",
    "USER: What is <region>? ASSISTANT: The dog is red. It is on the left of the image.",
]


def training_config(flavour: str = "shared", **overrides: Any) -> LlavaGroundingConfig:
    """A small configuration whose vocabulary holds every byte."""
    text_config = {**FLAVOURS[flavour]["text_config"], "vocab_size": VOCABULARY, "max_position_embeddings": 512}
    return whole_config(flavour, **{"text_config": text_config, **overrides})


@cache
def training_processor(flavour: str = "shared") -> LlavaGroundingProcessor:
    """A processor for it; nobody may change it."""
    config = training_config(flavour)
    settings = ProcessorSettings(
        image_sequence_length=config.image_sequence_length,
        canvas=CanvasSettings(size=config.grounder_config.image_size),
        tower=None if config.vision_config is None else TowerSettings(size=config.vision_config.image_size),
        selection=SelectionSettings(config.score_function, config.score_threshold, config.nms_iou),
    )
    return LlavaGroundingProcessor(train_tokenizer(_TEXTS, VOCABULARY), settings)


def training_model(flavour: str = "shared", seed: int = 0, **overrides: Any) -> LlavaGroundingForConditionalGeneration:
    """A freshly initialised model in training mode."""
    torch.manual_seed(seed)
    return LlavaGroundingForConditionalGeneration(training_config(flavour, **overrides)).train()


def class_phrases(seed: int = 0) -> ClassPhrases:
    torch.manual_seed(seed)
    return ClassPhrases(NAMES, phrase_size=32, hidden_size=32)


def recipe(stage: str = "chat", **values: Any) -> Recipe:
    """A recipe of a few quick steps in one process and full precision, that draws no pictures."""
    quick = {"steps": 4, "batch_size": 2, "num_points": 0, "bf16": False, "workers": 0, "validation_samples": 2}
    often = {"logging_steps": 1, "save_steps": 2, "eval_steps": 100, "pictures": 0, "report_to": []}
    return recipe_of({"stage": stage, **quick, **often, **values})


def training_setup(
    folder: Path, seed: int = 0, source: SampleSource | None = None, flavour: str = "shared", **values: Any
) -> TrainingSetup:
    """Everything a stage works with, freshly initialised; its scenes hold dogs, cats and trees."""
    plan_of = recipe(seed=values.pop("data_seed", 0), **values)
    plan = stage_plan(plan_of)
    model = training_model(flavour, seed=seed)
    training_module = TrainingModule(
        model, class_phrases(seed) if "classes" in plan.tasks else None, LossConfig.of(plan_of, plan)
    )
    processor = training_processor(flavour)
    set_trainable(model, plan, [processor.tokens.ids.seg])
    mixture = Mixture([(source or Scenes(SCENES), 1.0)], plan_of.batch_size, plan_of.seed)
    return TrainingSetup(plan_of, plan, training_module, processor, mixture, four_samples(), folder)


def shrink_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """For `build_training_setup`: tiny models by the names of presets, scenes of three kinds, a few dialogues."""

    def opened(
        values: Sequence[Mapping[str, Any]],
        root: Path | None,
        scenes: Callable[[], SceneConfig] = SceneConfig,
        *others: Any,
        **named: Any,
    ) -> list[tuple[SampleSource, float]]:
        drawn = replace(SCENES, questions=()) if scenes is scenes_without_dialogues else SCENES
        return open_sources(values, root, lambda: drawn, *others, **named)

    monkeypatch.setattr(setup_module, "preset", lambda name: training_config(name))
    monkeypatch.setattr(source_kinds, "CATEGORIES", NAMES)
    monkeypatch.setattr(setup_module, "_TOKENIZER_SAMPLES", 3)
    monkeypatch.setattr(setup_module, "open_sources", opened)


def chat_batch(
    samples: Sequence[Sample],
    processor: LlavaGroundingProcessor,
    class_index: Mapping[str, int] | None,
    max_turns: int,
    rng: np.random.Generator,
) -> ChatBatch:
    """Dialogues about images, and the class batch of the same images if there is a `class_index`.

    Raises:
        DataError: if a sample has no turns.
    """
    return collate_chat([chat_item(sample, processor, max_turns, rng) for sample in samples], processor, class_index)
