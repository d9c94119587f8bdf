"""Turns a finished stage into the folder that ships: half precision, calibrated threshold."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from llava_grounding.aside import share
from llava_grounding.errors import UsageError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.checkpoint import CLASS_PHRASE_FILES


def publish(folder: Path, out: Path, score_threshold: float | None = None, averaged_with: Path | None = None) -> int:
    """Write `folder`'s model and processor to `out` in float16.

    Args:
        score_threshold: replaces the one in model and processor settings; None keeps it.
        averaged_with: another stage from the same start; what is written is the mean of both models' weights
            (arXiv:2203.05482).

    Returns:
        Bytes of the weights file.

    Raises:
        UsageError: if `out` is a folder that is read, or the two models differ in their tensors.
    """
    if out.resolve() in {one.resolve() for one in (folder, averaged_with) if one is not None}:
        raise UsageError(f"`{out}` is the folder that is read; give another one")
    # Loading in float16 would leave the vision modules in float32; what ships is small in every part.
    model = LlavaGroundingForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    if averaged_with is not None:
        _average(model, LlavaGroundingForConditionalGeneration.from_pretrained(averaged_with, dtype=torch.float32))
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


def _average(model: LlavaGroundingForConditionalGeneration, other: LlavaGroundingForConditionalGeneration) -> None:
    """Make every floating-point tensor of the model the mean of both."""
    theirs = other.state_dict()
    if {name: one.shape for name, one in model.state_dict().items()} != {k: one.shape for k, one in theirs.items()}:
        raise UsageError("only models of one architecture can be averaged; these two differ in their tensors")
    with torch.no_grad():
        for name, one in chain(model.named_parameters(), model.named_buffers()):  # what is tied comes once
            if one.is_floating_point() and name in theirs:
                one.lerp_(theirs[name].to(one), 0.5)
