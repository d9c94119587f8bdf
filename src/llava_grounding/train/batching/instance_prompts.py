"""One visual prompt for every thing of an image, for the losses of the visual prompt encoder.

Two ways to point: as people do (clicks, boxes, scribbles, masks; the default), or as the original was trained. Gives
prompts in the model's frame, row i for instance i.
"""

from __future__ import annotations

import numpy as np

from llava_grounding.data.sample import Sample
from llava_grounding.dialogues.prompts import can_point_at, sample_prompt
from llava_grounding.dialogues.settings import PromptSettings
from llava_grounding.geometry import Letterbox
from llava_grounding.processing.regions import EncodedPrompts, encode_prompts

CLICK_PIXELS = 6
"""Side of a click's box in the original's training, pixels of the canvas."""
BOX_NOISE = 0.4
"""How far the original moves and stretches a box, share of half its size and of its size."""
CLICK_NOISE = 0.01
"""The same for clicks, share of `BOX_NOISE`."""
FEWEST_CLICKS = 0.33
"""Share of the things of an image that the original clicks at, at least."""
_CLICK, _BOX = 0, 1


def promptable(sample: Sample) -> list[int]:
    """Rows of the instances that can be pointed at."""
    return [
        row for row, thing in enumerate(sample.instances) if can_point_at(sample.masks[row], np.array(thing.box_xyxy))
    ]


def instance_prompts(
    sample: Sample,
    rows: list[int],
    letterbox: Letterbox,
    rng: np.random.Generator,
    settings: PromptSettings | None = None,
) -> EncodedPrompts:
    """A prompt for each of the instances `rows`, as people would point at it."""
    prompts = [sample_prompt(sample.masks[row], sample.instances[row].box_xyxy, rng, settings) for row in rows]
    return encode_prompts(prompts, letterbox)


def original_prompts(sample: Sample, rows: list[int], letterbox: Letterbox, rng: np.random.Generator) -> EncodedPrompts:
    """A prompt for each of the instances `rows` as the original draws them: clicks for the first ones, noisy boxes.

    The number of clicks is drawn from a third of the instances to all of them; one without a mask gets its box.
    """
    boxes = np.array([sample.instances[row].box_xyxy for row in rows], dtype=np.float64).reshape(len(rows), 4)
    prompts = letterbox.image_to_norm_cxcywh(boxes).astype(np.float32)
    types = np.full(len(rows), _BOX, dtype=np.int64)
    for place in range(int(rng.integers(int(FEWEST_CLICKS * len(rows)), len(rows) + 1))):
        if sample.masks[rows[place]].any():
            prompts[place] = _click(sample.masks[rows[place]], letterbox, rng)
            types[place] = _CLICK
    prompts = jitter_prompts(prompts, types, rng.random((len(rows), 4), dtype=np.float32))
    coverage = encode_prompts([], letterbox).coverage
    return EncodedPrompts(prompts, types, np.zeros((len(rows), *coverage.shape[1:]), dtype=np.float32))


def jitter_prompts(boxes_cxcywh_norm: np.ndarray, types: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Boxes [k, 4] moved and stretched by uniform noise [k, 4] in [0, 1), cut to [0, 1]; clicks hardly move."""
    reach = boxes_cxcywh_norm * np.array([0, 0, 1, 1], dtype=boxes_cxcywh_norm.dtype)
    reach[:, :2] = boxes_cxcywh_norm[:, 2:] / 2
    scale = np.where(types == _CLICK, BOX_NOISE * CLICK_NOISE, BOX_NOISE)[:, None]
    moved = boxes_cxcywh_norm + (2 * noise - 1) * reach * scale
    return np.clip(moved, 0, 1).astype(boxes_cxcywh_norm.dtype)


def _click(mask: np.ndarray, letterbox: Letterbox, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """The box around a pixel of the mask, every pixel as likely as any other, relative to the canvas."""
    row, column = divmod(int(rng.choice(np.flatnonzero(mask))), mask.shape[1])
    (x, y), *_ = letterbox.points_to_canvas(np.array([[column + 0.5, row + 0.5]]))
    wide, high = letterbox.canvas_size_wh
    return float(x) / wide, float(y) / high, CLICK_PIXELS / wide, CLICK_PIXELS / high
