"""Several checkpoints that make one model: which of them fills which parts, settled in one plan.

Knows no names. What none of them fills starts fresh, with values of the model's own initialisation.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from llava_grounding.convert.plan import Plan, Rows, Shapes, make_plan
from llava_grounding.convert.shards import Stored
from llava_grounding.model.builders import (
    build_grounder,
    build_phrase_projector,
    build_vision_tower,
    build_visual_prompt_encoder,
)
from llava_grounding.model.config import LlavaGroundingConfig


@dataclass(frozen=True)
class Source:
    """One checkpoint and what it is good for."""

    what: str
    """What it is called in messages."""
    stored: Sequence[Stored]
    rename: Callable[[str], str | None]
    """Our name of a key, None to leave it out."""
    parts: tuple[str, ...]
    """Where our names of what it fills begin."""
    why_left_out: Callable[[str], str] = lambda key: "has no place here"
    may_be_fresh: Callable[[str], bool] = lambda name: False
    """Whether one of ours in these parts need not be stored."""
    rows: Mapping[str, Rows] = field(default_factory=dict)
    """Rows of tables that are cut or grown, by our name."""


def join_plans(sources: Sequence[Source], expected: Shapes) -> tuple[Plan, dict[str, int]]:
    """One plan for all, and how many keys are left out for which reason.

    Raises:
        CheckpointError: naming what is unknown, missing or of another shape in the first source that does not fit.
    """
    whole, left_out = Plan(), Counter[str]()
    free = dict(expected)
    for source in sources:
        mine = {name: free.pop(name) for name in list(free) if name.startswith(source.parts)}
        plan = _plan_of(source, mine)
        whole.moves += plan.moves
        whole.aliases += plan.aliases
        whole.left_out += plan.left_out
        whole.fresh |= plan.fresh
        left_out.update(source.why_left_out(entry.key) for entry in plan.left_out)
    whole.fresh |= free
    whole.fresh = {name: shape for name, shape in expected.items() if name in whole.fresh}
    return whole, dict(left_out)


def _plan_of(source: Source, expected: Shapes) -> Plan:
    as_stored = {name: (rows.stored, *expected[name][1:]) for name, rows in source.rows.items() if name in expected}
    plan = make_plan(source.stored, source.rename, {**expected, **as_stored}, source.may_be_fresh, source.what)
    plan.moves = [replace(move, rows=source.rows.get(move.names[0])) for move in plan.moves]
    return plan


class FreshValues:
    """What the model's own initialisation gives, part by part; the same for the same seed.

    Args:
        config: of the whole model.
        seed: each part draws from it by itself, whatever the other parts are filled from.
    """

    def __init__(self, config: LlavaGroundingConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._name = ""
        self._values: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        """The value of one of ours, by its name."""
        part, _, inner = name.partition(".")
        if part != self._name:  # one part in memory at a time
            self._values = {}
            self._name, self._values = part, self._build(part).state_dict()
        return self._values[inner]

    def _build(self, part: str) -> nn.Module:
        config = self._config
        builders: dict[str, Callable[[], nn.Module]] = {
            "grounder": lambda: build_grounder(config.grounder_config),
            "visual_prompt_encoder": lambda: build_visual_prompt_encoder(
                config.visual_prompt_config, config.text_config.hidden_size
            ),
            "vision_tower": lambda: build_vision_tower(config)[0],
            "multi_modal_projector": lambda: build_vision_tower(config)[1],
            "phrase_projector": lambda: build_phrase_projector(config),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed + zlib.crc32(part.encode()))
            return builders[part]()
