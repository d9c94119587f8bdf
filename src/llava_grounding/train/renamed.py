"""Former names in recipes, which are refused with the present one. Knows no values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FORMER: dict[str, dict[str, str]] = {
    "recipe": {"own_data": "custom_data"},
    "recipe key": {
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
    },
    "key of loss_weights": {"focal": "phrase_focal` or `class_focal"},
    "stage": {"marks": "set_of_mark"},
    "key of a source": {"talk": "dialogue"},
    "kind of data": {"marks": "set_of_mark", "own": "custom"},
}
"""What is named, and its former names with the present ones."""
FORMER_RECIPES = {f"nano_lite_{stage}": f"nano_{stage}" for stage in ("pretrain", "chat", "read", "joint", "gpu")}
"""Former names of recipes that still find them."""


def former_name(what: str, name: object) -> str | None:
    """What to say of a name that is a former one; None of any other."""
    present = FORMER[what].get(name) if isinstance(name, str) else None
    return None if present is None else f"the {what} `{name}` is called `{present}` now"


def former_names(values: Mapping[str, Any]) -> Iterator[str]:
    """What to say of each former name in a recipe."""
    named = [*(("recipe key", key) for key in values), ("stage", values.get("stage"))]
    weights = values.get("loss_weights")
    named += [("key of loss_weights", key) for key in (weights if isinstance(weights, Mapping) else ())]
    for group in ("data", "validation"):
        sources = values.get(group)
        for source in sources if isinstance(sources, list | tuple) else ():
            if isinstance(source, Mapping):
                named += [*(("key of a source", key) for key in source), ("kind of data", source.get("kind"))]
    yield from filter(None, (former_name(what, name) for what, name in named))
