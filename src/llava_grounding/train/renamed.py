"""Former names in recipes: still read, with a warning that says the present one. Knows no values."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

RECIPES = {"own_data": "custom_data"}
KEYS = {
    "backbone_rate": "backbone_lr_multiplier",
    "clip": "max_grad_norm",
    "grounding_weight": "loss_weights.grounding",
    "keep": "save_total_limit",
    "log_every": "logging_steps",
    "max_broken": "max_skipped_samples",
    "prompt_weight": "loss_weights.prompts",
    "save_every": "save_steps",
    "validate_every": "eval_steps",
    "vision_rate": "vision_lr_multiplier",
    "warmup": "warmup_ratio",
    "word_weight": "loss_weights.words",
}
SOURCE_KEYS = {"talk": "dialogue"}
KINDS = {"marks": "set_of_mark", "own": "custom"}
STAGES = {"marks": "set_of_mark"}


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys, stage and sources by their present names; a present name that is there as well wins."""
    result = _renamed(values, KEYS, "recipe key")
    result = _with_value(result, "stage", STAGES, "stage")
    for name in ("data", "validation"):
        if isinstance(result.get(name), list | tuple):
            result[name] = [_source(one) if isinstance(one, Mapping) else one for one in result[name]]
    return result


def present_key(key: str) -> str:
    """A dotted key of a recipe, such as `data.0.weight`, by its present names."""
    parts = key.split(".")
    parts[0] = KEYS.get(parts[0], parts[0])
    if parts[0] in ("data", "validation") and len(parts) > 2:
        parts[2] = SOURCE_KEYS.get(parts[2], parts[2])
    return ".".join(parts)


def _source(values: Mapping[str, Any]) -> dict[str, Any]:
    return _with_value(_renamed(values, SOURCE_KEYS, "key of a source"), "kind", KINDS, "kind of data")


def _renamed(values: Mapping[str, Any], names: Mapping[str, str], what: str) -> dict[str, Any]:
    result = {key: value for key, value in values.items() if key not in names}
    for key in values.keys() & names.keys():
        _warn(what, key, names[key])
        group, _, inner = names[key].rpartition(".")
        if not group:
            result.setdefault(inner, values[key])
        elif isinstance(result.setdefault(group, {}), Mapping):
            result[group] = {inner: values[key], **result[group]}
    return result


def _with_value(values: dict[str, Any], key: str, names: Mapping[str, str], what: str) -> dict[str, Any]:
    value = values.get(key)
    if isinstance(value, str) and value in names:
        _warn(what, value, names[value])
        return values | {key: names[value]}
    return values


def _warn(what: str, former: str, present: str) -> None:
    logger.warning("the %s `%s` is called `%s` now", what, former, present)
