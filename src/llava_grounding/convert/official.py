"""The released checkpoint of the original into a folder of ours: `convert_official`.

Reads one file at a time and holds one tensor at a time. Everything that can be wrong with the checkpoint is found
before the first weight is written, and a failure leaves nothing behind.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llava_grounding.checkpoints import read_config
from llava_grounding.convert.official_keys import GROUNDER, PROMPT_ENCODER, official_name, why_left_out
from llava_grounding.convert.plan import Plan, check_aliases, make_plan
from llava_grounding.convert.report import ConversionReport, count_parts
from llava_grounding.convert.shards import Stored, find_shards, read_tensors, stored_in
from llava_grounding.convert.sizes import OfficialSettings, official_config
from llava_grounding.convert.vocabulary import read_tokenizer, token_ids
from llava_grounding.convert.writer import MAX_FILE_BYTES, Entry, WeightWriter, check_new, new_folder
from llava_grounding.errors import CheckpointError
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.image import CanvasSettings, TowerSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings
from llava_grounding.processing.selection import SelectionSettings

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""The sentence every dialogue of Vicuna, LLaVA and the original begins with."""
OURS_ALONE = "coverage_projection"  # of drawn regions; zero leaves every output of the original as it was


def convert_official(
    source: Path,
    out: Path,
    settings: OfficialSettings | None = None,
    *,
    dtype: torch.dtype | None = None,
    demo_quirks: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ConversionReport:
    """Convert a released checkpoint: weights, configuration, tokenizer.

    Args:
        source: folder with config.json, tokenizer files and `pytorch_model-*.bin` or safetensors files; one that is
            converted already stays as it is.
        out: a folder that is new or empty.
        dtype: of the language side's weights; None keeps what is stored. Vision modules are always float32.
        demo_quirks: write a processor with the faults of the original's demo, to compare answers with it.

    Raises:
        UsageError: if `out` is in use.
        CheckpointError: if the checkpoint is damaged or of another kind; the message names what is wrong.
    """
    check_new(out)
    stored = stored_in(find_shards(source))
    values = read_source_config(source)
    if values.get("model_type") == LlavaGroundingConfig.model_type:
        return _write_again(source, out, stored, dtype, max_file_bytes)
    shapes = {entry.key: entry.shape for entry in stored}
    tokenizer = read_tokenizer(source, shapes.get("model.embed_tokens.weight", (0,))[0])
    config = official_config(values, shapes, token_ids(tokenizer), settings or OfficialSettings())
    plan = make_plan(stored, official_name, expected_shapes(config), lambda name: OURS_ALONE in name)
    processor = LlavaGroundingProcessor(tokenizer, processor_settings(config, demo_quirks))
    return write_converted(source, out, plan, config, processor, dtype, max_file_bytes)


def _write_again(
    source: Path, out: Path, stored: list[Stored], dtype: torch.dtype | None, max_file_bytes: int
) -> ConversionReport:
    """A folder of ours once more: nothing changes but the type of the language side, if one is given."""
    config = read_config(source)
    plan = make_plan(stored, lambda key: key, expected_shapes(config), lambda name: False)
    processor = LlavaGroundingProcessor.from_pretrained(source)
    return write_converted(source, out, plan, config, processor, dtype, max_file_bytes)


def write_converted(
    source: Path,
    out: Path,
    plan: Plan,
    config: LlavaGroundingConfig,
    processor: LlavaGroundingProcessor,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ConversionReport:
    """Write what a plan moves, with everything a folder of ours needs, and report it.

    Raises:
        CheckpointError: if several names of one tensor hold different values, or there is no room.
    """
    check_aliases(plan)
    dtypes = _dtypes(plan, dtype)
    with new_folder(out) as folder:
        files = _write_weights(folder, plan, dtypes, max_file_bytes)
        config.dtype = dtypes["language_model.norm.weight"]
        config.architectures = [LlavaGroundingForConditionalGeneration.__name__]
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
    ids = processor.tokens.ids
    return ConversionReport(
        source=source,
        out=out,
        files=tuple(files),
        parts=count_parts(plan, lambda name: name.partition(".")[0], dtypes.__getitem__),
        aliases=len(plan.aliases),
        left_out=dict(Counter(why_left_out(entry.key) for entry in plan.left_out)),
        fresh={name: torch.Size(shape).numel() for name, shape in plan.fresh.items()},
        token_ids={"<g_s>": ids.phrase_start, "<g_e>": ids.phrase_end, "<seg>": ids.seg}
        | {"<image>": ids.image, "<region>": ids.region},
    )


def expected_shapes(config: LlavaGroundingConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything a model of this configuration stores."""
    with torch.device("meta"):
        model = LlavaGroundingForConditionalGeneration(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _write_weights(folder: Path, plan: Plan, dtypes: Mapping[str, torch.dtype], max_file_bytes: int) -> list[str]:
    """Write everything a plan moves; gives the names of the files."""
    contents: list[Entry] = [(name, move.part_shape, dtypes[name]) for move in plan.moves for name in move.names]
    contents += [(name, shape, torch.float32) for name, shape in plan.fresh.items()]
    by_entry = {move.stored: move for move in plan.moves}
    # In the order of names, so that the same weights always make the same files.
    with WeightWriter(folder, sorted(contents, key=lambda entry: entry[0]), max_file_bytes) as writer:
        for entry, tensor in read_tensors(list(by_entry)):
            for name, part in by_entry[entry].parts(tensor):
                writer.write(name, part)
        for name, shape in plan.fresh.items():
            writer.write(name, torch.zeros(shape))
        writer.finish()
    return writer.file_names


def processor_settings(config: LlavaGroundingConfig, demo_quirks: bool = False) -> ProcessorSettings:
    """How the original reads pictures and writes dialogues."""
    grounder = config.grounder_config
    return ProcessorSettings(
        image_sequence_length=config.image_sequence_length,
        canvas=CanvasSettings(
            grounder.image_size, tuple(grounder.image_mean), tuple(grounder.image_std), grounder.pad_value
        ),
        tower=TowerSettings(size=config.vision_config.image_size),
        template=ChatTemplate(system=SYSTEM, begin=True),
        selection=SelectionSettings(config.query_selection, config.score_threshold, config.nms_iou),
        tokenisation="sentencepiece",
        demo_quirks=demo_quirks,
    )


def read_source_config(source: Path) -> dict[str, Any]:
    """The config.json of a released folder."""
    try:
        values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"`{source}` has no config.json") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"config.json in `{source}` is damaged: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"config.json in `{source}` is damaged: expected a JSON object")
    return values


def _dtypes(plan: Plan, language: torch.dtype | None) -> dict[str, torch.dtype]:
    """The type every tensor of ours is written in."""
    dtypes = {}
    for move in plan.moves:
        for name in move.names:
            vision = name.startswith((GROUNDER, PROMPT_ENCODER))
            dtypes[name] = torch.float32 if vision else language or move.stored.dtype
    return dtypes
