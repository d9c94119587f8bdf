"""A folder of ours once more, with vision modules of OpenSeeD or Semantic-SAM in place of its own: `convert_vision`."""

from pathlib import Path

from llava_grounding.checkpoints import read_config
from llava_grounding.convert.folder import OUTPUT_TABLE, FolderSettings, expected_shapes, write_converted
from llava_grounding.convert.report import ConversionReport
from llava_grounding.convert.shards import find_shards, stored_in
from llava_grounding.convert.sources import FreshValues, Source, join_plans
from llava_grounding.convert.vision_files import open_openseed, open_semantic_sam
from llava_grounding.convert.writer import check_new
from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.model.config import GrounderConfig, LlavaGroundingConfig, VisualPromptConfig
from llava_grounding.processing.processor import LlavaGroundingProcessor

_GROUNDER, _PROMPTS = "grounder.", "visual_prompt_encoder."
_KEPT = ("image_size", "num_queries", "phrase_size", "image_mean", "image_std", "pad_value")


def convert_vision(
    source: Path,
    out: Path,
    openseed: Path | None = None,
    semantic_sam: Path | None = None,
    *,
    prompt_tokens: int | None = None,
    seed: int = 0,
) -> ConversionReport:
    """Replace one vision module or both; everything else stays as it is.

    Args:
        source: folder of ours; its canvas, its queries and the width of its phrases stay.
        prompt_tokens: see `open_semantic_sam`.
        seed: of what starts fresh.

    Raises:
        UsageError: if `out` is in use.
        ConfigError: if no file is given.
        CheckpointError: if a file is damaged or of something else, or other parts of the model live on the module.
    """
    check_new(out, source, openseed, semantic_sam)
    config, stored = read_config(source), stored_in(find_shards(source))
    given = {
        prefix: file
        for prefix, file in [
            (_GROUNDER, None if openseed is None else open_openseed(openseed)),
            (_PROMPTS, None if semantic_sam is None else open_semantic_sam(semantic_sam, prompt_tokens)),
        ]
        if file is not None
    }
    if not given:
        raise ConfigError("give a checkpoint of OpenSeeD or of Semantic-SAM, or both")
    _check_alone(source, config, set(given))
    if _GROUNDER in given:
        kept = {name: getattr(config.grounder_config, name) for name in _KEPT}
        config.grounder_config = GrounderConfig(**{**given[_GROUNDER].fields, **kept})
    if _PROMPTS in given:
        isolate = config.visual_prompt_config.isolate_prompts
        config.visual_prompt_config = VisualPromptConfig(**given[_PROMPTS].fields, isolate_prompts=isolate)
    remaining = [entry for entry in stored if not entry.key.startswith(tuple(given))]
    expected = expected_shapes(config)
    if config.tie_word_embeddings and not any(entry.key == OUTPUT_TABLE for entry in stored):
        del expected[OUTPUT_TABLE]
    others = {f"{name.partition('.')[0]}." for name in expected} - given.keys()
    rest = Source("the model", remaining, lambda key: key, tuple(others))
    plan, left_out = join_plans([rest, *(file.source for file in given.values())], expected)
    processor = LlavaGroundingProcessor.from_pretrained(source)
    notes = tuple(note for file in given.values() for note in file.notes)
    written = FolderSettings(fresh=FreshValues(config, seed), notes=notes)
    return write_converted(source, out, plan, config, processor, left_out, written)


def _check_alone(source: Path, config: LlavaGroundingConfig, replaced: set[str]) -> None:
    """Refuse to take a module away from what reads it."""
    if _GROUNDER in replaced and config.vision_config is None:
        raise CheckpointError(f"the language model in `{source}` sees with its grounder, which cannot be replaced")
    if _GROUNDER in replaced and _PROMPTS not in replaced and config.visual_prompt_config.share_image_features:
        raise CheckpointError(
            f"the visual prompt encoder in `{source}` reads its grounder's features: replace both, or it alone"
        )
