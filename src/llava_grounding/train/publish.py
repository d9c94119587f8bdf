"""Turns a finished stage into the folder that ships: half precision, calibrated threshold."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from llava_grounding.aside import share
from llava_grounding.errors import UsageError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.checkpoint import CLASS_PHRASE_FILES


def publish(folder: Path, out: Path, score_threshold: float | None = None) -> int:
    """Write `folder`'s model and processor to `out` in float16.

    Args:
        score_threshold: replaces the one in model and processor settings; None keeps it.

    Returns:
        Bytes of the weights file.

    Raises:
        UsageError: if `out` is `folder`.
    """
    if out.resolve() == folder.resolve():
        raise UsageError(f"`{out}` is the folder that is read; give another one")
    # Loading in float16 would leave the vision modules in float32; what ships is small in every part.
    model = LlavaGroundingForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.half()
    model.config.dtype = torch.float16
    processor = LlavaGroundingProcessor.from_pretrained(folder)
    if score_threshold is not None:
        model.config.score_threshold = score_threshold
        selection = replace(processor.settings.selection, score_threshold=score_threshold)
        processor = LlavaGroundingProcessor(processor.tokenizer, replace(processor.settings, selection=selection))
    processor.save_pretrained(out)
    model.save_pretrained(out)
    for name in CLASS_PHRASE_FILES:  # so that training can start from what ships
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    share(out)
    return (out / "model.safetensors").stat().st_size
