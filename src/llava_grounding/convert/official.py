"""The released checkpoint of the original into a folder of ours: `convert_official`.

Reads one file at a time and holds one tensor at a time. Everything that can be wrong with the checkpoint is found
before the first weight is written, and a failure leaves nothing behind.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from llava_grounding.checkpoint_files import CONFIG, check_numbers, read_object
from llava_grounding.checkpoints import read_config
from llava_grounding.convert.folder import FolderSettings, expected_shapes, write_converted
from llava_grounding.convert.official_keys import official_name, why_left_out
from llava_grounding.convert.plan import make_plan
from llava_grounding.convert.report import ConversionReport
from llava_grounding.convert.shards import Stored, find_shards, stored_in
from llava_grounding.convert.sizes import OfficialSettings, embedding_rows, official_config
from llava_grounding.convert.vocabulary import read_tokenizer, token_ids
from llava_grounding.convert.writer import MAX_FILE_BYTES, check_new
from llava_grounding.errors import CheckpointError
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.image import TowerSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings

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
    check_new(out, source)
    stored = stored_in(find_shards(source))
    values = read_source_config(source)
    if values.get("model_type") == LlavaGroundingConfig.model_type:
        return _write_again(source, out, stored, dtype, max_file_bytes)
    shapes = {entry.key: entry.shape for entry in stored}
    tokenizer = read_tokenizer(source, embedding_rows(shapes))
    config = official_config(values, shapes, token_ids(tokenizer), settings or OfficialSettings())
    plan = make_plan(stored, official_name, expected_shapes(config), lambda name: OURS_ALONE in name)
    processor = LlavaGroundingProcessor(tokenizer, processor_settings(config, demo_quirks))
    left_out = Counter(why_left_out(entry.key) for entry in plan.left_out)
    written = FolderSettings(dtype, max_file_bytes=max_file_bytes)
    return write_converted(source, out, plan, config, processor, left_out, written)


def _write_again(
    source: Path, out: Path, stored: list[Stored], dtype: torch.dtype | None, max_file_bytes: int
) -> ConversionReport:
    """A folder of ours once more: nothing changes but the type of the language side, if one is given."""
    config = read_config(source)
    plan = make_plan(stored, lambda key: key, expected_shapes(config), lambda name: False)
    processor = LlavaGroundingProcessor.from_pretrained(source)
    return write_converted(
        source, out, plan, config, processor, {}, FolderSettings(dtype, max_file_bytes=max_file_bytes)
    )


def processor_settings(config: LlavaGroundingConfig, demo_quirks: bool = False) -> ProcessorSettings:
    """How the original reads pictures and writes dialogues."""
    return ProcessorSettings.of(
        config,
        tower=TowerSettings(size=config.vision_config.image_size),
        template=ChatTemplate(system=SYSTEM, begin=True),
        tokenisation="sentencepiece",
        demo_quirks=demo_quirks,
    )


def read_source_config(source: Path) -> dict[str, Any]:
    """The config.json of a released folder."""
    try:
        values = read_object(source / CONFIG)
        check_numbers(values, f"{CONFIG} in `{source}`")
    except FileNotFoundError as error:
        raise CheckpointError(f"`{source}` has no {CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{CONFIG} in `{source}` is damaged: {reason}") from error
    for name in ("text_config", "vision_config"):
        if not isinstance(values.get(name, {}), dict):
            raise CheckpointError(f"{CONFIG} in `{source}` is damaged: its {name} must be an object")
    return values
