"""Visual prompts as people would make them: a click, box, scribble or mask that points at a labelled thing.

Coordinates are in pixels of the image. Knows no questions and no model frame.
"""

from __future__ import annotations

import numpy as np

from llava_grounding.dialogues.settings import PromptSettings
from llava_grounding.masks import mask_to_box
from llava_grounding.structures import VisualPrompt

EXACT_PROMPTS = PromptSettings(boxes=0.35, jittered_boxes=0.0)
"""How drawn scenes and photos are pointed at: no box strays."""

_GRID = 8.0
"""Corners drawn at random lie on eighths of a pixel, so that mirroring twice gives them back exactly."""


def can_point_at(mask: np.ndarray, box_xyxy: np.ndarray) -> bool:
    """Whether there is anything to point at: a pixel of the mask, or a box with an area inside of the image.

    What lies within the first pixel cannot be pointed at: a prompt there would be taken for shares of the image.
    """
    height, width = mask.shape
    x0, y0 = np.maximum(box_xyxy[:2], 0)
    x1, y1 = np.minimum(box_xyxy[2:], (width, height))
    if mask.any():
        return bool(mask[1:].any() or mask[:, 1:].any())
    return bool(x1 > x0 and y1 > y0 and max(x1, y1) > 1)


def sample_prompt(
    mask: np.ndarray, box_xyxy: np.ndarray, rng: np.random.Generator, settings: PromptSettings | None = None
) -> VisualPrompt:
    """A prompt for one thing; without a mask only a box is sure to lie on it.

    Args:
        mask: (H, W) bool; all False where only the box is known.
        box_xyxy: (4,) in pixels.
    """
    settings = settings or PromptSettings()
    if not mask.any():
        total = settings.boxes + settings.jittered_boxes
        jittered = total > 0 and rng.random() * total >= settings.boxes
        return _jittered(box_xyxy, mask.shape, rng, settings.jitter) if jittered else VisualPrompt.box(*box_xyxy)
    if not (box_xyxy[2:] > box_xyxy[:2]).all():
        bounds = mask_to_box(mask)
        assert bounds is not None
        box_xyxy = bounds
    weights = np.array(
        [settings.clicks, settings.boxes, settings.jittered_boxes, settings.scribbles, settings.masks], dtype=np.float64
    )
    chosen = rng.choice(5, p=weights / weights.sum())
    if chosen == 0:
        return VisualPrompt.click(*_pixels(mask, 1, rng)[0])
    if chosen == 1:
        return VisualPrompt.box(*box_xyxy)
    if chosen == 2:
        return _jittered(box_xyxy, mask.shape, rng, settings.jitter)
    if chosen == 3:
        return _scribble(mask, rng)
    return VisualPrompt.mask_of(mask)


def _pixels(mask: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres of pixels of the mask, uniformly drawn, as (x, y)."""
    places = np.flatnonzero(mask)
    rows, columns = np.divmod(rng.choice(places, size=count), mask.shape[1])
    return [(float(x) + 0.5, float(y) + 0.5) for x, y in zip(columns, rows, strict=True)]


def _scribble(mask: np.ndarray, rng: np.random.Generator) -> VisualPrompt:
    axis = int(rng.integers(2))
    points = sorted(_pixels(mask, int(rng.integers(3, 7)), rng), key=lambda point: point[axis])
    return VisualPrompt.scribble(points)


def _jittered(box_xyxy: np.ndarray, shape_hw: tuple[int, ...], rng: np.random.Generator, jitter: float) -> VisualPrompt:
    """The box with its middle and its sides moved, cut to the image."""
    x0, y0, x1, y1 = box_xyxy
    size = np.array([x1 - x0, y1 - y0])
    middle = np.array([x0 + x1, y0 + y1]) / 2 + rng.uniform(-1, 1, 2) * size / 2 * jitter
    half = size * (1 + rng.uniform(-1, 1, 2) * jitter) / 2
    limits = np.array([shape_hw[1], shape_hw[0]], dtype=np.float64)
    low = np.clip(np.floor((middle - half) * _GRID) / _GRID, 0, limits - 1)
    high = np.clip(np.ceil((middle + half) * _GRID) / _GRID, low + 1, limits)
    return VisualPrompt.box(*low, *high)
