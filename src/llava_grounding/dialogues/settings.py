"""What dialogues are made of a record: frozen plain values, as a recipe's YAML has them. Knows no records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from llava_grounding.errors import ConfigError
from llava_grounding.typed_values import typed_fields

DIALOGUE_KINDS = (
    "captions",
    "grounded_captions",
    "referring",
    "absent",
    "categories",
    "region_captions",
    "region_names",
    "dialogues",
)
"""What a dialogue may be made of; `DialogueSettings` has a weight of the same name for each."""


DEFAULT_QUESTION_WEIGHTS = {
    "describe": 4.0,
    "describe_plain": 1.5,
    "list": 2.0,
    "absent": 3.0,
    "count": 2.0,
    "colour": 2.0,
    "corrected": 1.5,
}
"""How likely kinds of questions of scenes and photos are, 1 for others."""


@dataclass(frozen=True)
class PromptSettings:
    """How a question points at a thing: weights of the ways, of which those that a thing allows take part."""

    clicks: float = 0.35
    """A point anywhere in its mask, every pixel as likely as any other."""
    boxes: float = 0.2
    """The box of the thing."""
    jittered_boxes: float = 0.15
    """Its box, moved and stretched as a hand would draw it."""
    scribbles: float = 0.15
    """A stroke through three to six of its pixels."""
    masks: float = 0.15
    """The mask of the thing."""
    jitter: float = 0.2
    """How far a jittered box strays: a side by this share of the thing's size, its middle by half of it."""

    def __post_init__(self) -> None:
        _check_weights(self, tuple(name.name for name in fields(self)))
        if not self.jitter < 1:
            raise ConfigError(f"`jitter` must be below 1, got `{self.jitter}`")


@dataclass(frozen=True)
class DialogueSettings:
    """Weights of what is asked, and how; a kind with weight 0 never is.

    Raises:
        ConfigError: if a value is out of its range, or no kind has a weight.
    """

    captions: float = 1.0
    """A caption, as plain text."""
    grounded_captions: float = 1.0
    """A caption whose phrases are tied to things."""
    referring: float = 1.0
    """Some expressions, one question each; the names of categories where a record has no expressions."""
    absent: float = 0.0
    """A category that is not there, asked for as if it were; only of those labelled exhaustively."""
    categories: float = 0.0
    """All categories by name, each tied to all its things; only of those labelled exhaustively."""
    region_captions: float = 1.0
    """Words for a region: an expression that means this thing alone."""
    region_names: float = 0.0
    """The category of a region."""
    dialogues: float = 1.0
    """A recorded dialogue, one of the record's."""
    max_kinds: int = 1
    """Kinds that one dialogue mixes."""
    max_turns: int = 6
    """Questions of one dialogue that is made up; a recorded one is taken whole, up to the recipe's `max_tokens`."""
    max_expressions: int = 4
    """Expressions, absences or regions asked for in a row; the number is drawn from 1 to this."""
    max_listed: int = 20
    """Categories of one listing; the smallest are left out."""
    suffix_share: float = 0.5
    """Grounded questions that ask for grounding in words of their own, beside the mark that all of them carry."""
    grounded_names: float = 0.5
    """Names of regions whose answer is tied to the region."""
    mirror: float = 0.0
    """Samples mirrored left to right, where no word forbids it."""
    marks: float = 0.0
    """Dialogues about regions that name them by numbers drawn into the image."""
    max_marks: int = 12
    """Numbers drawn into one image, where its dialogue does not need more."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    """How regions are pointed at."""

    def __post_init__(self) -> None:
        _check_weights(self, DIALOGUE_KINDS)
        for name in ("max_kinds", "max_turns", "max_expressions", "max_listed", "max_marks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got `{getattr(self, name)}`")
        for name in ("suffix_share", "grounded_names", "mirror", "marks"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be between 0 and 1, got `{getattr(self, name)}`")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)


def dialogue_settings(values: Mapping[str, Any]) -> DialogueSettings:
    """Settings from the plain values of a YAML file, defaults where it has none.

    Raises:
        ConfigError: naming every unknown key and every value of the wrong type.
    """
    checked, problems = typed_fields(DialogueSettings, values)
    if problems:
        raise ConfigError("; ".join(problems))
    return DialogueSettings(**checked)


def _check_weights(settings: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"`{name}` must be a weight of at least 0, got `{value}`")
    if not any(getattr(settings, name) for name in names):
        raise ConfigError(f"one of {', '.join(names)} must have a weight above 0")
