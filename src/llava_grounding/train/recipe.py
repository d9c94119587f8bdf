"""A training recipe: frozen values read from YAML over the defaults here. Knows no tensors."""

from __future__ import annotations

import math
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
    freeze_vision: bool = False
    """The grounder stays as it is; only the language side and the way to it learn. Twice the samples a second."""
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
    word_weight: float = 1.0
    """Factor on the loss that makes object tokens say the words of their thing; small once the model reads them."""
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


_ONE_OR_MORE, _NONE_OR_MORE, _SHARE = (1, math.inf), (0, math.inf), (0, 1)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "batch_size", "max_turns", "validation_samples"), _ONE_OR_MORE),
    **dict.fromkeys(("log_every", "save_every", "validate_every"), _ONE_OR_MORE),
    **dict.fromkeys(("learning_rate", "vision_rate", "weight_decay", "clip"), _NONE_OR_MORE),
    **dict.fromkeys(("grounding_weight", "word_weight"), _NONE_OR_MORE),
    **dict.fromkeys(("num_points", "workers", "seed"), _NONE_OR_MORE),
    **dict.fromkeys(("warmup", "photo_share"), _SHARE),
}


def load_recipe(path: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe file; `overrides` are `key=value` pairs in YAML notation that win over it.

    Raises:
        ConfigError: naming every unknown key and every value of the wrong type.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe `{path}`: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe `{path}` is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the recipe `{path}` is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe `{path}` must be a mapping of keys to values")
    problems = []
    for key, text in (overrides or {}).items():
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(f"`{key}` must be written in YAML, got `{text}`")
    return _checked(values, problems)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """Check keys, types and ranges, all problems at once.

    Raises:
        ConfigError: naming every problem.
    """
    return _checked(values, [])


def _checked(values: Mapping[str, Any], problems: list[str]) -> Recipe:
    hints = get_type_hints(Recipe)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            problems.append(f"unknown key `{key}`{did_you_mean(str(key), hints)}")
            continue
        allowed: Any = hints[key] if isinstance(hints[key], type) else (str, type(None))
        checked[key] = value = _as_float(value) if allowed is float else value
        low, high = _RANGES.get(key, (-math.inf, math.inf))
        if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool):
            problems.append(f"`{key}` must be {getattr(allowed, '__name__', 'text or null')}, got `{value}`")
        elif key in _RANGES and not low <= value <= high:
            limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            problems.append(f"`{key}` must be {limits}, got `{value}`")
    if "stage" not in values:
        problems.append("`stage` is missing")
    if problems:
        raise ConfigError("; ".join(problems))
    return Recipe(**checked)


def _as_float(value: Any) -> Any:
    """A number as float, also one like 1e-3, which YAML takes for text; anything else as it is."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """All values, to be saved beside what they produced."""
    return {field.name: getattr(recipe, field.name) for field in fields(recipe)}
