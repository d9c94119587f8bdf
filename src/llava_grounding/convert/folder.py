"""A plan and a configuration become a whole folder of ours: weights tensor by tensor, config, processor, report.

Knows no names of anybody else's. What no checkpoint holds comes from `fresh`, or is zero.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llava_grounding.convert.plan import Plan, check_aliases
from llava_grounding.convert.report import ConversionReport, count_parts
from llava_grounding.convert.shards import read_tensors
from llava_grounding.convert.sources import Source, join_plans
from llava_grounding.convert.writer import MAX_FILE_BYTES, Entry, WeightWriter, new_folder
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.sizes import meta_model
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.text_length import limit_to_positions

OUTPUT_TABLE = "lm_head.weight"
VISION = ("grounder.", "visual_prompt_encoder.")
"""Where the names of the two vision modules begin; their weights are float32 always."""


@dataclass(frozen=True)
class FolderSettings:
    """How a folder is written."""

    dtype: torch.dtype | None = None
    """Type of the language side's weights; None keeps what is stored."""
    fresh: Callable[[str], Tensor] | None = None
    """Values of what no checkpoint holds, by our name; None: zeros."""
    notes: tuple[str, ...] = ()
    """Further lines of the report."""
    max_file_bytes: int = MAX_FILE_BYTES


def write_converted(
    source: Path,
    out: Path,
    plan: Plan,
    config: LlavaGroundingConfig,
    processor: LlavaGroundingProcessor,
    left_out: Mapping[str, int],
    settings: FolderSettings | None = None,
) -> ConversionReport:
    """Write what a plan moves, with everything a folder of ours needs, and report it.

    Args:
        left_out: keys without a place here, counted by reason.

    Raises:
        CheckpointError: if several names of one tensor hold different values, or there is no room.
    """
    settings = settings or FolderSettings()
    check_aliases(plan)
    dtypes = _dtypes(plan, settings.dtype) | _counters(plan, config)
    with new_folder(out) as folder:
        files = _write_weights(folder, plan, dtypes, settings)
        config.dtype = dtypes["language_model.embed_tokens.weight"]
        config.architectures = [LlavaGroundingForConditionalGeneration.__name__]
        config.save_pretrained(folder)
        limit_to_positions(processor.tokenizer, getattr(config.text_config, "max_position_embeddings", None))
        processor.save_pretrained(folder)
    ids = processor.tokens.ids
    return ConversionReport(
        source=source,
        out=out,
        files=tuple(files),
        parts=count_parts(plan, lambda name: name.partition(".")[0], dtypes.__getitem__),
        aliases=len(plan.aliases),
        left_out=dict(left_out),
        fresh={name: torch.Size(shape).numel() for name, shape in plan.fresh.items()},
        token_ids={"<g_s>": ids.phrase_start, "<g_e>": ids.phrase_end, "<seg>": ids.seg}
        | {"<image>": ids.image, "<region>": ids.region},
        notes=settings.notes,
    )


def write_joined(
    source: Path,
    out: Path,
    sources: Sequence[Source],
    config: LlavaGroundingConfig,
    processor: LlavaGroundingProcessor,
    settings: FolderSettings,
) -> ConversionReport:
    """Write what a language model and parts of other checkpoints hold; see `write_converted`.

    Args:
        sources: those without stored tensors are in the files of others.

    Raises:
        CheckpointError: also if a source does not fit the configuration.
    """
    expected = expected_shapes(config)
    if config.tie_word_embeddings:  # the output layer shares the embedding's weights, which are stored once
        del expected[OUTPUT_TABLE]
    plan, left_out = join_plans([one for one in sources if one.stored], expected)
    return write_converted(source, out, plan, config, processor, left_out, settings)


def expected_shapes(config: LlavaGroundingConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything a model of this configuration stores."""
    return {name: tuple(value.shape) for name, value in meta_model(config).state_dict().items()}


def _counters(plan: Plan, config: LlavaGroundingConfig) -> dict[str, torch.dtype]:
    """Types of what starts fresh and is no weight: the steps that a normalisation has seen."""
    ours = meta_model(config).state_dict() if plan.fresh else {}
    return {name: ours[name].dtype for name in plan.fresh if not ours[name].is_floating_point()}


def _write_weights(
    folder: Path, plan: Plan, dtypes: Mapping[str, torch.dtype], settings: FolderSettings
) -> Sequence[str]:
    """Write everything a plan moves; gives the names of the files."""
    contents: list[Entry] = [(name, move.part_shape, dtypes[name]) for move in plan.moves for name in move.names]
    contents += [(name, shape, dtypes[name]) for name, shape in plan.fresh.items()]
    by_entry = {move.stored: move for move in plan.moves}
    # In the order of names, so that the same weights always make the same files.
    with WeightWriter(folder, sorted(contents, key=lambda entry: entry[0]), settings.max_file_bytes) as writer:
        for entry, tensor in read_tensors(list(by_entry)):
            for name, part in by_entry[entry].parts(tensor):
                writer.write(name, part)
        for name, shape in plan.fresh.items():
            writer.write(name, torch.zeros(shape) if settings.fresh is None else settings.fresh(name))
        writer.finish()
    return writer.file_names


def _dtypes(plan: Plan, language: torch.dtype | None) -> dict[str, torch.dtype]:
    """The type every tensor of ours is written in; what starts fresh has the commonest of the language side."""
    dtypes = {}
    for move in plan.moves:
        for name in move.names:
            kept = torch.float32 if move.stored.dtype == torch.float64 else move.stored.dtype
            dtypes[name] = torch.float32 if name.startswith(VISION) else language or kept
    common = Counter(dtype for name, dtype in dtypes.items() if not name.startswith(VISION)).most_common(1)
    for name in plan.fresh:
        dtypes[name] = torch.float32 if name.startswith(VISION) or not common else common[0][0]
    return dtypes
