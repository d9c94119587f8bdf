"""Any causal language model of transformers into a model that the paper's first stage can begin with.

A preset says what stands around the language model; its sizes and its vocabulary are those of the folder. A tower comes
from a SigLIP or CLIP checkpoint, vision modules from OpenSeeD and Semantic-SAM or fresh.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llava_grounding.convert.folder import OUTPUT_TABLE, FolderSettings, write_joined
from llava_grounding.convert.keys import rename_key
from llava_grounding.convert.official import read_source_config
from llava_grounding.convert.plan import Shapes
from llava_grounding.convert.report import ConversionReport
from llava_grounding.convert.shards import Stored, find_shards, stored_in
from llava_grounding.convert.sizes import read_tower_config
from llava_grounding.convert.sources import FreshValues, Source
from llava_grounding.convert.vision_files import VisionFile, open_openseed, open_semantic_sam
from llava_grounding.convert.vocabulary import GrownVocabulary, grow_tokenizer, rows_note, token_ids
from llava_grounding.convert.writer import MAX_FILE_BYTES, check_new
from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.presets import PRESETS, preset_fields
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.image import TowerSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings

_EMBEDDING = "language_model.embed_tokens.weight"
_LANGUAGE_RENAMES = [
    (r"(?:language_model\.)?lm_head\.(weight|bias)", r"lm_head.\1"),
    (r"(?:language_model\.model|model\.language_model|model)\.(.+)", r"language_model.\1"),
]
_OTHER_PARTS = r"(?:model\.)?(?:vision_tower|vision_model|visual|multi_modal_projector|embed_vision)\..+"
_ROTATIONS = r".+\.rotary_emb\.inv_freq"
_TOWER_RENAMES = [
    (r"(?:vision_model\.)?((?:embeddings|pre_layrnorm|encoder|post_layernorm)\..+)", r"vision_tower.vision_model.\1")
]
_POOLING, _POSITIONS = r"(?:vision_model\.)?head\..+", r"(?:vision_model\.)?embeddings\.position_ids"
_COMPARISON = r"text_model\..+|(?:text|visual)_projection\.weight|logit_(?:scale|bias)"
_SIGLIP_PIXELS = (0.5, 0.5, 0.5)
# What a config.json says of its file, not of its model.
_OF_THE_FILE = ("architectures", "auto_map", "transformers_version", "_name_or_path", "torch_dtype", "dtype")


@dataclass(frozen=True)
class LanguageParts:
    """Files beside the language model's folder; None for what there is not."""

    vision_tower: Path | None = None
    """Folder of a SigLIP or CLIP checkpoint; needed where the preset has a tower."""
    openseed: Path | None = None
    """A checkpoint of OpenSeeD, for the grounder."""
    semantic_sam: Path | None = None
    """A checkpoint of Semantic-SAM, for the visual prompt encoder."""


@dataclass(frozen=True)
class LanguageSettings:
    """What the files do not say."""

    preset: str | None = None
    """What stands around the language model; None: the preset made for its kind."""
    image_size: int | None = None
    """Side of the canvas of the vision modules, pixels; None: the preset's."""
    num_queries: int | None = None
    """Object queries of the grounder; None: the preset's."""
    seed: int = 0
    """Seed of what starts fresh."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of `grounder_config` and `visual_prompt_config` in place of the preset's."""


def convert_language(
    source: Path,
    out: Path,
    parts: LanguageParts | None = None,
    settings: LanguageSettings | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ConversionReport:
    """Put a language model, a vision tower and vision modules together.

    Args:
        source: folder of a causal language model of transformers: config.json, safetensors, tokenizer.json. Of a model
            with a vision side of its own, the language model alone is taken.
        out: a folder that is new or empty.
        dtype: of the language side's weights; None keeps what is stored. Vision modules are always float32.

    Raises:
        UsageError: if `out` is in use.
        CheckpointError: if a file is damaged or of another kind, or a vision tower is missing or has no place.
        ConfigError: if there is no such preset, or the parts make no model.
    """
    parts, settings = parts or LanguageParts(), settings or LanguageSettings()
    check_new(out, source, *vars(parts).values())
    stored = stored_in(find_shards(source))
    shapes = _table_shapes(stored)
    values = _language_values(source, read_source_config(source))
    vocabulary = grow_tokenizer(source, _rows(source, shapes))
    name = settings.preset or _preset_for(values)
    fields = preset_fields(name)
    tower = _tower(name, fields.get("vision_config") is not None, parts.vision_tower)
    grounder = None if parts.openseed is None else open_openseed(parts.openseed)
    prompts = None if parts.semantic_sam is None else open_semantic_sam(parts.semantic_sam)
    tied = _is_tied(source, values, shapes)
    text = _text_fields(values, vocabulary, shapes[_EMBEDDING][1], tied)
    config = _config(fields, text, vocabulary, tower, grounder, prompts, settings)
    rows = vocabulary.rows(shapes[_EMBEDDING][0])
    tables = {_EMBEDDING: rows} if tied else {_EMBEDDING: rows, OUTPUT_TABLE: rows}
    language = Source(
        f"the language model in `{source}`",
        stored,
        (lambda key: None if key.endswith(OUTPUT_TABLE) else _language_name(key)) if tied else _language_name,
        ("language_model.",) if tied else ("language_model.", "lm_head."),
        _why_not_language,
        rows=tables,
    )
    sources = [language, *(one.source for one in (tower, grounder, prompts) if one is not None)]
    processor = LlavaGroundingProcessor(vocabulary.tokenizer, _processor_settings(config, vocabulary))
    notes = (f"preset {name}", *rows_note(rows), *(() if prompts is None else prompts.notes))
    written = FolderSettings(dtype, FreshValues(config, settings.seed), notes, max_file_bytes)
    return write_joined(source, out, sources, config, processor, written)


def _language_name(key: str) -> str | None:
    return rename_key(key, _LANGUAGE_RENAMES, [_OTHER_PARTS, _ROTATIONS])


def _tower_name(key: str) -> str | None:
    return rename_key(key, _TOWER_RENAMES, [_COMPARISON, _POOLING, _POSITIONS])


def _is_tied(source: Path, values: Mapping[str, Any], shapes: Shapes) -> bool:
    """Whether the output layer is the word embedding; some folders that say so store it once more."""
    said = values.get("tie_word_embeddings")
    if said is False and OUTPUT_TABLE not in shapes:
        raise CheckpointError(f"`{source}` lacks {OUTPUT_TABLE}, which its config.json says it has")
    return said is True or OUTPUT_TABLE not in shapes


def _why_not_language(key: str) -> str:
    if key.endswith(OUTPUT_TABLE):
        return "is the word embedding once more"
    return "belongs to another vision side" if re.fullmatch(_OTHER_PARTS, key) else "is computed anew"


def _why_not_tower(key: str) -> str:
    if re.fullmatch(_COMPARISON, key):
        return "is a comparison of pictures with texts"
    return "makes one vector of a picture" if re.fullmatch(_POOLING, key) else "is computed anew"


def _language_values(source: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the language model, which one with a vision side keeps inside of its own."""
    if values.get("model_type") == LlavaGroundingConfig.model_type:
        raise CheckpointError(f"`{source}` is a folder of ours already; `convert vision` changes its vision modules")
    if values.get("quantization_config") is not None:
        raise CheckpointError(f"the weights in `{source}` are quantised; give the folder of the model before that")
    inside = values.get("text_config")
    text = {**values, **inside} if inside is not None and "model_type" not in inside else inside or values
    if not isinstance(text.get("model_type"), str):
        raise CheckpointError(f"config.json in `{source}` does not say the model_type of its language model")
    return {key: value for key, value in text.items() if key not in (*_OF_THE_FILE, "vision_config", "text_config")}


def _table_shapes(stored: Sequence[Stored]) -> dict[str, tuple[int, ...]]:
    """Shapes of the word embedding and the output layer, as far as they are stored."""
    tables = {}
    for entry in stored:
        if entry.key.endswith(("embed_tokens.weight", OUTPUT_TABLE)):
            tables[_language_name(entry.key) or ""] = entry.shape
    return tables


def _rows(source: Path, shapes: Shapes) -> int:
    if len(shapes.get(_EMBEDDING, ())) != 2:
        raise CheckpointError(f"`{source}` has no word embedding (model.embed_tokens.weight); is it a language model?")
    return shapes[_EMBEDDING][0]


def _preset_for(values: Mapping[str, Any]) -> str:
    """The first preset with a tower of its own that is made for this kind of model."""
    for name, fields in PRESETS.items():
        kind = fields["text_config"].get("model_type", "llama")
        if kind == values["model_type"] and fields.get("vision_config") is not None:
            return name
    raise ConfigError(
        f"no preset is made for a `{values['model_type']}` language model; choose one of {', '.join(PRESETS)} for what "
        "stands around it (--preset)"
    )


def _tower(preset: str, wanted: bool, folder: Path | None) -> VisionFile | None:
    if folder is None:
        if wanted:
            raise CheckpointError(
                f"the preset {preset} has a vision tower: give the folder of a SigLIP or CLIP checkpoint "
                "(--vision-tower)"
            )
        return None
    if not wanted:
        raise CheckpointError(f"the preset {preset} has no vision tower, so `{folder}` would never be used")
    fields = _tower_fields(folder)
    source = Source(f"`{folder.name}`", stored_in(find_shards(folder)), _tower_name, ("vision_tower.",), _why_not_tower)
    return VisionFile(source, fields)


def _tower_fields(folder: Path) -> dict[str, Any]:
    """Fields of the tower in a checkpoint, which may have a text side beside it."""
    path = folder / "config.json"
    values = read_tower_config(path)
    kind = values.get("model_type")
    inside = values.get("vision_config", values)
    if kind not in ("siglip", "siglip_vision_model", "clip", "clip_vision_model") or not isinstance(inside, Mapping):
        raise CheckpointError(f"`{path}` must be of a SigLIP or CLIP model, got model_type {kind!r:.80}")
    siglip = kind.startswith("siglip")
    fields = {key: value for key, value in inside.items() if key not in _OF_THE_FILE}
    fields["model_type"] = "siglip_vision_model" if siglip else "clip_vision_model"
    return fields | ({"vision_use_head": False} if siglip else {})


def _text_fields(
    values: Mapping[str, Any], vocabulary: GrownVocabulary, hidden_size: int, tied: bool
) -> dict[str, Any]:
    """The language model's configuration with the vocabulary it has been given.

    Args:
        tied: the output layer is the embedding.
    """
    ids = token_ids(vocabulary.tokenizer)
    if values.get("hidden_size", hidden_size) != hidden_size:
        raise CheckpointError(
            f"config.json says hidden_size is {values['hidden_size']}, but the word embedding has {hidden_size}"
        )
    return {
        **values,
        "hidden_size": hidden_size,
        "vocab_size": vocabulary.words + vocabulary.added,
        "bos_token_id": vocabulary.tokenizer.bos_token_id,
        "eos_token_id": ids["eos_token_id"],
        # The input row of a padding token learns nothing, so that the end token must not be called one.
        "pad_token_id": None if ids["pad_token_id"] == ids["eos_token_id"] else ids["pad_token_id"],
        "tie_word_embeddings": tied,
    }


def _config(
    fields: Mapping[str, Any],
    text: Mapping[str, Any],
    vocabulary: GrownVocabulary,
    tower: VisionFile | None,
    grounder: VisionFile | None,
    prompts: VisionFile | None,
    settings: LanguageSettings,
) -> LlavaGroundingConfig:
    chosen = {"image_size": settings.image_size, "num_queries": settings.num_queries}
    of_grounder = {**fields.get("grounder_config", {}), **settings.overrides.get("grounder_config", {})}
    of_prompts = {**fields.get("visual_prompt_config", {}), **settings.overrides.get("visual_prompt_config", {})}
    if grounder is not None:
        kept = ("image_size", "num_queries")  # which no file of weights says
        of_grounder = {key: of_grounder[key] for key in kept if key in of_grounder} | grounder.fields
    of_grounder |= {key: value for key, value in chosen.items() if value is not None}
    return LlavaGroundingConfig(
        **{
            **fields,
            **token_ids(vocabulary.tokenizer),
            "text_config": dict(text),
            "vision_config": None if tower is None else tower.fields,
            "grounder_config": {**of_grounder, "phrase_size": text["hidden_size"]},
            "visual_prompt_config": of_prompts if prompts is None else prompts.fields,
            "tie_word_embeddings": text["tie_word_embeddings"],
        }
    )


def _processor_settings(config: LlavaGroundingConfig, vocabulary: GrownVocabulary) -> ProcessorSettings:
    """The plain layout of turns; a text begins with the token that the language model is used to, if it has one."""
    others: dict[str, Any] = {"template": ChatTemplate(begin=vocabulary.tokenizer.bos_token_id is not None)}
    tower = config.vision_config
    if tower is not None and tower.model_type.startswith("siglip"):
        others["tower"] = TowerSettings(tower.image_size, _SIGLIP_PIXELS, _SIGLIP_PIXELS, "stretch")
    elif tower is not None:
        others["tower"] = TowerSettings(tower.image_size)
    return ProcessorSettings.of(config, **others)
