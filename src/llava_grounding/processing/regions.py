"""Visual prompts of the user to the model's frame: a box, a type, and for drawn shapes the cells they cover.

A click is a box of 0.006 of the canvas, as in the original. A scribble or a free mask also keeps its shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from llava_grounding.errors import PromptError
from llava_grounding.geometry import Letterbox, clip_stroke
from llava_grounding.structures import VisualPrompt

if TYPE_CHECKING:
    from llava_grounding.model.llava_grounding import RegionPrompts

CLICK_SIZE = 0.006
"""Side of a click's box, share of the canvas (the original's value)."""
COVERAGE_STRIDE = 8
"""Canvas pixels per coverage cell."""
MASK_CELLS = 2
"""Cells of mask logits, of stride 4, along a coverage cell."""
_POINT, _BOX = 0, 1
_TYPES = {"click": _POINT, "scribble": _POINT, "box": _BOX, "mask": _BOX}


@dataclass(frozen=True)
class EncodedPrompts:
    """Visual prompts of one conversation, k of them."""

    boxes_cxcywh_norm: np.ndarray
    """(k, 4) float32 in [0, 1] of the canvas."""
    types: np.ndarray
    """(k,) int64: 0 point-like, 1 box-like."""
    coverage: np.ndarray
    """(k, h, w) float32: share of each coarse cell that a scribble or mask covers, or by its logits is likely to cover;
    zeros for click and box."""


def encode_prompts(prompts: Sequence[VisualPrompt], letterbox: Letterbox) -> EncodedPrompts:
    """Map prompts to the canvas.

    Raises:
        PromptError: if a prompt does not fit the image.
    """
    canvas_wh = letterbox.canvas_size_wh
    cells_wh = (canvas_wh[0] // COVERAGE_STRIDE, canvas_wh[1] // COVERAGE_STRIDE)
    boxes = np.zeros((len(prompts), 4), dtype=np.float32)
    coverage = np.zeros((len(prompts), cells_wh[1], cells_wh[0]), dtype=np.float32)
    for row, prompt in enumerate(prompts):
        prompt.validate(letterbox.image_size_wh)
        bounds = prompt.bounds(letterbox.image_size_wh)
        boxes[row] = letterbox.image_to_norm_cxcywh(bounds[None])[0]
        if prompt.kind == "click":
            assert prompt.points_xy is not None
            # Its bounds are cut at the border of the image; where it was made is not.
            boxes[row] = (*letterbox.points_to_canvas(prompt.points_xy)[0] / canvas_wh, CLICK_SIZE, CLICK_SIZE)
        elif prompt.kind in ("scribble", "mask"):
            boxes[row, 2:] = np.maximum(boxes[row, 2:], CLICK_SIZE)
            if prompt.mask_logits is None:
                coverage[row] = letterbox.mask_to_canvas(_drawn(prompt, letterbox.image_size_wh), cells_wh)
            else:
                coverage[row] = _expected_coverage(prompt.mask_logits, letterbox, cells_wh)
    types = np.array([_TYPES[prompt.kind] for prompt in prompts], dtype=np.int64)
    return EncodedPrompts(boxes, types, coverage)


def _expected_coverage(mask_logits: np.ndarray, letterbox: Letterbox, cells_wh: tuple[int, int]) -> np.ndarray:
    """The share of each of (h, w) cells that a mask is expected to cover, from logits of finer cells of the canvas.

    Raises:
        PromptError: if they are not of this model.
    """
    columns, rows = cells_wh
    size_hw = (rows * MASK_CELLS, columns * MASK_CELLS)
    if mask_logits.shape != size_hw:
        raise PromptError(f"mask_logits must be {size_hw} as this model gives them, got {mask_logits.shape}")
    across, down = letterbox.covered_cells(size_hw[::-1])
    probability = 1 / (1 + np.exp(-mask_logits.astype(np.float64).clip(-50, 50)))
    probability[math.ceil(down) :] = 0
    probability[:, math.ceil(across) :] = 0
    return probability.reshape(rows, MASK_CELLS, columns, MASK_CELLS).mean(axis=(1, 3)).astype(np.float32)


def _drawn(prompt: VisualPrompt, image_size_wh: tuple[int, int]) -> np.ndarray:
    """The pixels a scribble or mask marks, (H, W) bool."""
    if prompt.kind == "mask":
        mask = prompt.mask
        assert mask is not None
        return mask
    assert prompt.points_xy is not None
    picture = Image.new("1", image_size_wh)
    pen = max(1, round(max(image_size_wh) / 100))
    draw = ImageDraw.Draw(picture)
    for part in clip_stroke(prompt.points_xy, image_size_wh, margin=pen + 1):
        points = [(int(x), int(y)) for x, y in np.floor(part)]  # the pixels they lie in
        draw.point(points, fill=1)  # an ellipse of one pixel would not be drawn
        if len(points) > 1:
            draw.line(points, fill=1, width=pen)
        for x, y in points:
            draw.ellipse([x - pen // 2, y - pen // 2, x + pen // 2, y + pen // 2], fill=1)
    return np.asarray(picture)


def collate_prompts(prompts: Sequence[EncodedPrompts]) -> RegionPrompts | None:
    """Pad rows to the longest; None when there is no prompt at all."""
    from llava_grounding.model.llava_grounding import RegionPrompts

    longest = max((len(row.types) for row in prompts), default=0)
    if longest == 0:
        return None
    boxes = np.full((len(prompts), longest, 4), 0.5, dtype=np.float32)
    types = np.zeros((len(prompts), longest), dtype=np.int64)
    valid = np.zeros((len(prompts), longest), dtype=bool)
    coverage = np.zeros((len(prompts), longest, *prompts[0].coverage.shape[1:]), dtype=np.float32)
    for row, encoded in enumerate(prompts):
        count = len(encoded.types)
        boxes[row, :count] = encoded.boxes_cxcywh_norm
        types[row, :count] = encoded.types
        valid[row, :count] = True
        coverage[row, :count] = encoded.coverage
    return RegionPrompts(
        boxes_cxcywh_norm=torch.from_numpy(boxes),
        types=torch.from_numpy(types),
        valid=torch.from_numpy(valid),
        coverage=torch.from_numpy(coverage) if coverage.any() else None,
    )
