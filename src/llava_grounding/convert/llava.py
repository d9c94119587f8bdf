"""Public parts into a model that the paper's first stage can begin with: `convert_llava`.

A plain LLaVA-1.x checkpoint or a bare Llama, a CLIP tower, and checkpoints of the two vision modules; what is missing
of the last starts fresh, and the report says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from llava_grounding.convert.folder import OUTPUT_TABLE, FolderSettings, write_joined
from llava_grounding.convert.keys import GROUNDER_PREFIX
from llava_grounding.convert.llava_keys import in_llava_layout, llava_name, tower_key, tower_name, why_left_out
from llava_grounding.convert.official import SYSTEM, read_source_config
from llava_grounding.convert.plan import Shapes
from llava_grounding.convert.report import ConversionReport
from llava_grounding.convert.shards import Stored, find_shards, stored_in
from llava_grounding.convert.sizes import (
    TOWER_PREFIX,
    check_flags,
    embedding_rows,
    language_fields,
    language_sizes,
    projector_kind,
    read_tower_fields,
    tower_fields,
    tower_sizes,
)
from llava_grounding.convert.sources import FreshValues, Source
from llava_grounding.convert.vision_files import VisionFile, open_openseed, open_semantic_sam
from llava_grounding.convert.vocabulary import GrownVocabulary, grow_tokenizer, rows_note, token_ids
from llava_grounding.convert.writer import MAX_FILE_BYTES, check_new
from llava_grounding.errors import CheckpointError
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.presets import PRESETS
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.image import TowerSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings

_EMBEDDING = "language_model.embed_tokens.weight"
_OWN_OPTIONS: dict[str, Any] = {  # as trained, not as the original's demo; the grounder itself stays the original's
    "phrase_state": "at_seg",
    "score_function": "sigmoid",
    "score_threshold": 0.3,
    "nms_iou": 0.7,
}
_PROJECTOR = "model.mm_projector."


@dataclass(frozen=True)
class LlavaSettings:
    """What public checkpoints do not say."""

    image_size: int = 1024
    """Side of the canvas of the vision modules, pixels."""
    num_queries: int = 300
    """Object queries of the grounder."""
    prompt_tokens: int | None = None
    """Queries per visual prompt: how many of a file's to keep; None: all of them, or 3 where there is no file."""
    seed: int = 0
    """Seed of what starts fresh."""
    fresh_projector: str = "linear"
    """Kind of a projector that is in no file: "linear" as in the paper, or "mlp" as LLaVA-1.5."""
    grounder: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a grounder that is in no file, beside the original's."""
    visual_prompts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a visual prompt encoder that is in no file, beside the original's."""


@dataclass(frozen=True)
class PublicParts:
    """Files beside the language model's folder; None for what there is not."""

    openseed: Path | None = None
    """A checkpoint of OpenSeeD, for the grounder."""
    semantic_sam: Path | None = None
    """A checkpoint of Semantic-SAM, for the visual prompt encoder."""
    vision_tower: Path | None = None
    """A CLIP checkpoint, folder or file, if SOURCE has no vision tower."""
    projector: Path | None = None
    """LLaVA's `mm_projector.bin`, if SOURCE has no projector."""


def convert_llava(
    source: Path,
    out: Path,
    parts: PublicParts | None = None,
    settings: LlavaSettings | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ConversionReport:
    """Put public parts together.

    Args:
        source: folder of LLaVA-1.x, as transformers or the LLaVA repository write it, or of a Llama.
        out: a folder that is new or empty.
        dtype: of the language side's weights; None keeps what is stored. Vision modules are always float32.

    Raises:
        UsageError: if `out` is in use.
        CheckpointError: if a checkpoint is damaged, of another kind, or there is no vision tower.
        ConfigError: if `settings` do not fit the files.
    """
    parts, settings = parts or PublicParts(), settings or LlavaSettings()
    check_new(out, source, *vars(parts).values())
    stored = stored_in(find_shards(source))
    values = read_source_config(source)
    _check_kind(source, values, stored)
    stored += [] if parts.projector is None else stored_in([parts.projector])
    shapes = {in_llava_layout(entry.key): entry.shape for entry in stored}
    tower = _tower(source, values, shapes, parts.vision_tower)
    grounder = None if parts.openseed is None else open_openseed(parts.openseed)
    prompts = None if parts.semantic_sam is None else open_semantic_sam(parts.semantic_sam, settings.prompt_tokens)
    vocabulary = grow_tokenizer(source, embedding_rows(shapes))
    config = _config(values, shapes, vocabulary, tower.fields, grounder, prompts, settings)
    language = _language(stored, shapes, vocabulary, tower)
    sources = [language, *(one.source for one in (tower, grounder, prompts) if one is not None)]
    processor = LlavaGroundingProcessor(vocabulary.tokenizer, _processor_settings(config, values))
    written = FolderSettings(dtype, FreshValues(config, settings.seed), _notes(language, prompts), max_file_bytes)
    return write_joined(source, out, sources, config, processor, written)


def _check_kind(source: Path, values: Mapping[str, Any], stored: Sequence[Stored]) -> None:
    if values.get("model_type") == LlavaGroundingConfig.model_type:
        raise CheckpointError(f"`{source}` is a folder of ours already; `convert vision` changes its vision modules")
    if any(entry.key.startswith(GROUNDER_PREFIX) for entry in stored):
        raise CheckpointError(f"`{source}` is a grounding checkpoint of the original: `convert official` is for it")
    kind = values.get("text_config", values).get("model_type", "llama")
    if kind not in ("llama", "llava", "llava_llama"):
        raise CheckpointError(f"the language model in `{source}` must be a Llama, got `{kind}`")
    check_flags(values)
    for name, wanted in [
        ("projector_hidden_act", ("gelu",)),
        ("vision_feature_select_strategy", ("default", "full")),
        ("multimodal_projector_bias", (True,)),
    ]:
        if values.get(name, wanted[0]) not in wanted:
            raise CheckpointError(f"{name} must be {' or '.join(map(str, wanted))}, got `{values[name]}`")
    if not isinstance(_feature_layer(values), int):
        raise CheckpointError(f"one layer of the vision tower must be read, got {_feature_layer(values)}")


def _tower(source: Path, values: Mapping[str, Any], shapes: Shapes, given: Path | None) -> VisionFile:
    """The vision tower: without stored tensors of its own where it is in the folder."""
    inside = any(key.startswith(TOWER_PREFIX) for key in shapes)
    if inside and given is not None:
        raise CheckpointError(f"`{source}` has a vision tower of its own, so `{given}` would never be used")
    if inside:
        fields = tower_sizes(shapes, TOWER_PREFIX) | tower_fields(values.get("vision_config", {}))
        return VisionFile(Source("", [], tower_name, ("vision_tower.",)), fields)
    if given is None:
        named = values.get("mm_vision_tower")
        which = f" (config.json names `{named}`)" if named else ""
        raise CheckpointError(f"`{source}` has no vision tower: give the folder of a CLIP checkpoint{which}")
    stored = stored_in(find_shards(given))
    fields = tower_sizes({tower_key(entry.key): entry.shape for entry in stored}, TOWER_PREFIX)
    if (given / "config.json").is_file():
        fields |= read_tower_fields(given / "config.json")
    return VisionFile(Source(f"`{given.name}`", stored, tower_name, ("vision_tower.",), why_left_out), fields)


def _language(stored: Sequence[Stored], shapes: Shapes, vocabulary: GrownVocabulary, tower: VisionFile) -> Source:
    """The language model, with projector and tower as far as they are in the same files."""
    parts = ["language_model.", "lm_head."]
    parts += ["multi_modal_projector."] if any(key.startswith(_PROJECTOR) for key in shapes) else []
    parts += [] if tower.source.stored else ["vision_tower."]
    rows = vocabulary.rows(shapes["model.embed_tokens.weight"][0])
    return Source(
        "the checkpoint", stored, llava_name, tuple(parts), why_left_out, rows={_EMBEDDING: rows, OUTPUT_TABLE: rows}
    )


def _config(
    values: Mapping[str, Any],
    shapes: Shapes,
    vocabulary: GrownVocabulary,
    tower: Mapping[str, Any],
    grounder: VisionFile | None,
    prompts: VisionFile | None,
    settings: LlavaSettings,
) -> LlavaGroundingConfig:
    # transformers leaves out what is the default of its Llama, which is the 7B.
    text = LlamaConfig(**language_fields(values["text_config"])).to_dict() if "text_config" in values else dict(values)
    text["tie_word_embeddings"] = bool(text.get("tie_word_embeddings")) and "lm_head.weight" not in shapes
    ids: dict[str, Any] = token_ids(vocabulary.tokenizer)
    sizes = language_sizes(text, shapes) | {
        "vocab_size": vocabulary.words + vocabulary.added,
        "bos_token_id": vocabulary.tokenizer.bos_token_id,
        "eos_token_id": ids["eos_token_id"],
        "pad_token_id": ids["pad_token_id"],
    }
    preset = PRESETS["official_7b"]
    given = {
        "image_size": settings.image_size,
        "num_queries": settings.num_queries,
        "phrase_size": sizes["hidden_size"],
    }
    of_grounder = {**preset["grounder_config"], **settings.grounder} if grounder is None else grounder.fields
    of_prompts = {**preset["visual_prompt_config"], **settings.visual_prompts} if prompts is None else prompts.fields
    if prompts is None and settings.prompt_tokens is not None:
        of_prompts = of_prompts | {"num_mask_tokens": settings.prompt_tokens}
    whole = (
        values.get("mm_vision_select_feature") == "cls_patch" or values.get("vision_feature_select_strategy") == "full"
    )
    has_projector = any(key.startswith(_PROJECTOR) for key in shapes)
    return LlavaGroundingConfig(
        text_config=sizes,
        vision_config=dict(tower),
        grounder_config={**of_grounder, **given},
        visual_prompt_config=dict(of_prompts),
        projector=projector_kind(shapes) if has_projector else settings.fresh_projector,
        vision_feature_layer=_feature_layer(values),
        vision_feature_select="full" if whole else "patch",
        tie_word_embeddings=text["tie_word_embeddings"],
        **_OWN_OPTIONS,
        **ids,
    )


def _feature_layer(values: Mapping[str, Any]) -> Any:
    return values.get("vision_feature_layer", values.get("mm_vision_select_layer", -2))


def _processor_settings(config: LlavaGroundingConfig, values: Mapping[str, Any]) -> ProcessorSettings:
    """How LLaVA reads pictures and writes dialogues."""
    return ProcessorSettings.of(
        config,
        tower=TowerSettings(
            size=config.vision_config.image_size, fit="pad" if values.get("image_aspect_ratio") == "pad" else "crop"
        ),
        # The blank gives the first word the token that Llama's own tokenizer gives it.
        template=ChatTemplate(system=f" {SYSTEM}", begin=True),
    )


def _notes(language: Source, prompts: VisionFile | None) -> tuple[str, ...]:
    return (*rows_note(language.rows[_EMBEDDING]), *(() if prompts is None else prompts.notes))
