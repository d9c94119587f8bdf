"""A training recipe: frozen values read from YAML over the defaults here. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from llava_grounding.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Recipe:
    """One stage of training."""

    stage: str
    """`pretrain_grounder` (class names as phrases) or `chat` (language, grounding and prompts together)."""
    preset: str = "nano"
    """Model configuration, by name."""
    start_from: str | None = None
    """Folder of an earlier stage's output; None starts from random weights."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 16
    """Samples a step."""
    learning_rate: float = 1.5e-3
    """Peak rate of AdamW."""
    vision_rate: float = 1.0
    """Factor on the rate of grounder and vision tower."""
    weight_decay: float = 0.02
    """Of matrices; norms and biases have none."""
    warmup: float = 0.03
    """Share of the steps with a rising rate; a half cosine to zero follows."""
    clip: float = 1.0
    """Largest gradient norm."""
    photo_share: float = 0.0
    """Share of photos among the samples; the rest are drawn scenes. Needs the photo pack."""
    max_turns: int = 4
    """Questions of one sample put into one dialogue."""
    grounding_weight: float = 1.0
    """Factor on the grounder's losses in the chat stage."""
    num_points: int = 512
    """Points a mask loss is computed on."""
    seed: int = 0
    """Of weights, data order and points."""
    bf16: bool = True
    """Matrix products in bfloat16."""
    workers: int = 1
    """Processes that draw and read samples."""
    log_every: int = 50
    """Steps between lines of the log."""
    save_every: int = 500
    """Steps between checkpoints."""
    validate_every: int = 1000
    """Steps between validations."""
    validation_samples: int = 200
    """Held-out scenes a validation looks at."""


def load_recipe(path: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe file; `overrides` are `key=value` pairs in YAML notation that win over it.

    Raises:
        ConfigError: naming every unknown key and every value of the wrong type.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe `{path}`: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the recipe `{path}` is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe `{path}` must be a mapping of keys to values")
    for key, text in (overrides or {}).items():
        values[key] = yaml.safe_load(text)
    return recipe_of(values)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """Check keys and types, all problems at once."""
    hints = get_type_hints(Recipe)
    problems = []
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            problems.append(f"unknown key `{key}`{did_you_mean(key, hints)}")
            continue
        allowed: Any = hints[key] if isinstance(hints[key], type) else (str, type(None))
        if allowed is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool):
            problems.append(f"`{key}` must be {getattr(allowed, '__name__', 'text or null')}, got `{value}`")
        checked[key] = value
    if "stage" not in values:
        problems.append("`stage` is missing")
    if problems:
        raise ConfigError("; ".join(problems))
    return Recipe(**checked)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """All values, to be saved beside what they produced."""
    return {field.name: getattr(recipe, field.name) for field in fields(recipe)}
