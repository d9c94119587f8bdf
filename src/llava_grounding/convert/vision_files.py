"""Public checkpoints of OpenSeeD and Semantic-SAM, opened as our grounder and our visual prompt encoder.

Names and sizes of their repositories' module definitions, which the original's two vision modules come from. What they
have and ours has not is left out with a reason; what ours has and they have not starts fresh.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_grounding.convert.keys import (
    GROUNDER_IGNORED,
    GROUNDER_RENAMES,
    PROMPT_ENCODER_IGNORED,
    PROMPT_ENCODER_RENAMES,
    rename_key,
)
from llava_grounding.convert.plan import Rows, check_aliases
from llava_grounding.convert.shards import Stored, find_shards, read_tensors, stored_in
from llava_grounding.convert.sizes import prompt_encoder_sizes, vision_sizes
from llava_grounding.convert.sources import Source, join_plans
from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.model.builders import build_grounder, build_visual_prompt_encoder
from llava_grounding.model.config import GrounderConfig, VisualPromptConfig
from llava_grounding.model.presets import PRESETS

_LANDMARK = "backbone.patch_embed.proj.weight"  # what stands before it stands before every key
_PREDICTOR = r"sem_seg_head\.predictor"
_TEXT_SIDE = rf"{_PREDICTOR}\.lang_encoder\..+"
_CLASS_SPACE = rf"{_PREDICTOR}\.class_embed(?:_part)?"
_STUFF_QUERIES = rf"{_PREDICTOR}\.query_(?:feat|embed)\.weight"
_WHY_LEFT_OUT = [
    (_TEXT_SIDE, "is a text encoder, whose place the language model takes"),
    (_CLASS_SPACE, "compares objects with that text encoder's classes"),
    (_STUFF_QUERIES, "are learned queries for stuff, while ours are all picked from the image"),
    (rf"{_PREDICTOR}\.lang_mapper|criterion\..+", "is used in training only"),
    (r"logit_scale", "belongs to class heads that are switched off"),
    (r".+", "is computed anew"),
]
_OPENSEED_FRESH = ("grounder.similarity_head.",)
_SEMANTIC_SAM_FRESH = ("visual_prompt_encoder.region_projection.", "visual_prompt_encoder.coverage_projection.")
_TOKENS = "visual_prompt_encoder.mask_tokens.weight"


@dataclass(frozen=True)
class VisionFile:
    """A checkpoint of one module that sees, opened but not read."""

    source: Source
    fields: dict[str, Any]
    """Fields of our GrounderConfig or VisualPromptConfig (of a tower: its own), as far as the file says."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report should say beside what it counts."""
        return tuple(f"{cut.kept} of {cut.stored} queries per visual prompt kept" for cut in self.source.rows.values())


@dataclass(frozen=True)
class VisionState:
    """What a checkpoint of a vision module holds, under our names."""

    weights: dict[str, Tensor]
    """Weights by name within the module; one that starts fresh is not among them."""
    fields: dict[str, Any]
    """Fields of the module's configuration."""
    left_out: dict[str, int]
    """Keys without a place here, counted by reason."""
    fresh: dict[str, int]
    """Parameters that are not stored, by name within the module."""


def open_openseed(path: Path) -> VisionFile:
    """A checkpoint of OpenSeeD with a Swin backbone, as our grounder.

    Raises:
        CheckpointError: if the file is damaged, or of something else.
    """
    stored, prefix, shapes = _opened(path, "OpenSeeD")
    ignored = [_TEXT_SIDE, _CLASS_SPACE, _STUFF_QUERIES, *GROUNDER_IGNORED]

    def rename(key: str) -> str | None:
        name = rename_key(_within(key, prefix), GROUNDER_RENAMES, ignored)
        return None if name is None else f"grounder.{name}"

    source = Source(
        f"`{path.name}`", stored, rename, ("grounder.",), _reason(prefix), lambda name: name.startswith(_OPENSEED_FRESH)
    )
    return VisionFile(source, _with_swin(vision_sizes(shapes, prefix)))


def open_semantic_sam(path: Path, prompt_tokens: int | None = None) -> VisionFile:
    """A checkpoint of Semantic-SAM with a Swin backbone, as our visual prompt encoder.

    Args:
        prompt_tokens: how many of its queries per prompt to keep, the first ones; None keeps all (public ones have 6,
            the original 3).

    Raises:
        CheckpointError: if the file is damaged, or of something else.
        ConfigError: if it has fewer queries per prompt.
    """
    stored, prefix, shapes = _opened(path, "Semantic-SAM")
    fields = _with_swin(prompt_encoder_sizes(shapes, prefix))
    there = fields["num_mask_tokens"]
    kept = there if prompt_tokens is None else prompt_tokens
    if not 1 <= kept <= there:
        raise ConfigError(f"prompt_tokens must be 1 to {there}, as many as `{path.name}` has, got {kept}")

    def rename(key: str) -> str | None:
        name = rename_key(_within(key, prefix), PROMPT_ENCODER_RENAMES, [_TEXT_SIDE, *PROMPT_ENCODER_IGNORED])
        return None if name is None else f"visual_prompt_encoder.{name}"

    source = Source(
        f"`{path.name}`",
        stored,
        rename,
        ("visual_prompt_encoder.",),
        _reason(prefix),
        lambda name: name.startswith(_SEMANTIC_SAM_FRESH),
        {_TOKENS: Rows(there, kept)} if kept < there else {},
    )
    return VisionFile(source, fields | {"num_mask_tokens": kept})


def openseed_state(path: Path) -> VisionState:
    """The weights of OpenSeeD for `build_grounder`.

    Raises:
        CheckpointError: if the file is damaged, of something else, or does not fit.
    """
    file = open_openseed(path)
    with torch.device("meta"):
        module = build_grounder(GrounderConfig(**file.fields))
    return _state(file, module.state_dict(), "grounder.")


def semantic_sam_state(path: Path, prompt_tokens: int | None = None) -> VisionState:
    """The weights of Semantic-SAM for `build_visual_prompt_encoder`; see `open_semantic_sam`.

    Raises:
        CheckpointError: if the file is damaged, of something else, or does not fit.
        ConfigError: if it has fewer queries per prompt.
    """
    file = open_semantic_sam(path, prompt_tokens)
    with torch.device("meta"):
        module = build_visual_prompt_encoder(VisualPromptConfig(**file.fields), GrounderConfig().phrase_size)
    return _state(file, module.state_dict(), "visual_prompt_encoder.")


def _state(file: VisionFile, expected: Mapping[str, Tensor], prefix: str) -> VisionState:
    shapes = {prefix + name: tuple(value.shape) for name, value in expected.items()}
    plan, left_out = join_plans([file.source], shapes)
    check_aliases(plan)
    by_entry = {move.stored: move for move in plan.moves}
    weights = {
        name.removeprefix(prefix): part.clone().float()
        for entry, tensor in read_tensors(list(by_entry))
        for name, part in by_entry[entry].parts(tensor)
    }
    fresh = {name.removeprefix(prefix): torch.Size(shape).numel() for name, shape in plan.fresh.items()}
    return VisionState(weights, file.fields, left_out, fresh)


def _opened(path: Path, kind: str) -> tuple[Sequence[Stored], str, dict[str, tuple[int, ...]]]:
    """What a file holds, what stands before every key, and shapes by key."""
    stored = stored_in(find_shards(path))
    before = [entry.key.removesuffix(_LANDMARK) for entry in stored if entry.key.endswith(_LANDMARK)]
    if len(before) != 1:
        found = "none" if not before else f"{len(before)}"
        raise CheckpointError(f"`{path}` is no checkpoint of {kind} on Swin: expected one `{_LANDMARK}`, found {found}")
    return stored, before[0], {entry.key: entry.shape for entry in stored}


def _within(key: str, prefix: str) -> str:
    """A key without what stands before every key; one that stands alone is unknown."""
    if not key.startswith(prefix):
        raise CheckpointError(f"unknown key `{key}`: it does not begin with `{prefix}` as the others")
    return key.removeprefix(prefix)


def _reason(prefix: str) -> Any:
    def why(key: str) -> str:
        inner = key.removeprefix(prefix)
        return next(reason for pattern, reason in _WHY_LEFT_OUT if re.fullmatch(pattern, inner))

    return why


def _with_swin(fields: dict[str, Any]) -> dict[str, Any]:
    """What neither shapes nor the file says of a backbone is the original's."""
    swin = PRESETS["official_7b"]["grounder_config"]["backbone_config"]
    return fields | {"backbone_config": swin | fields["backbone_config"]}
