"""Photos seen differently each time: a part of the picture, another aspect ratio, other light. Boxes and masks follow.

For samples whose words do not matter: dialogues are dropped, since a crop may cut off what they speak of. All pure
functions of a sample and a random generator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from llava_grounding.data.sample import Instance, Sample

_LEAST_SIDE = 32  # pixels


@dataclass(frozen=True)
class AugmentationSettings:
    """How far a photo is changed."""

    crop_probability: float = 0.65
    """Share of samples that show a part of the picture."""
    min_crop_area: float = 0.2
    """Smallest part of the picture's area that a crop shows."""
    min_visible: float = 0.3
    """Part of a thing's box that must remain for it to be labelled still."""
    max_aspect_change: float = 1.3
    """Largest factor on the aspect ratio, either way."""
    max_light_change: float = 0.25
    """Largest relative change of brightness and of contrast, either way."""


def augment(
    sample: Sample, rng: np.random.Generator, settings: AugmentationSettings = AugmentationSettings()
) -> Sample:
    """A random crop with another aspect ratio and other light, without dialogue."""
    sample = replace(sample, turns=())
    if rng.random() < settings.crop_probability:
        sample = random_crop(sample, rng, settings)
    factor = float(np.exp(rng.uniform(-1, 1) * np.log(settings.max_aspect_change)))
    return change_light(change_aspect(sample, factor), rng, settings.max_light_change)


def random_crop(
    sample: Sample, rng: np.random.Generator, settings: AugmentationSettings = AugmentationSettings()
) -> Sample:
    """A part of the picture between `min_crop_area` and all of it, around one of its things where there are any."""
    width, height = sample.image_size_wh
    side = float(np.sqrt(rng.uniform(settings.min_crop_area, 1.0)))
    wide = min(width, max(_LEAST_SIDE, round(width * side)))
    high = min(height, max(_LEAST_SIDE, round(height * side)))
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    if sample.instances:
        x0, y0, x1, y1 = sample.instances[int(rng.integers(len(sample.instances)))].box_xyxy
        # Its centre lies somewhere in the crop.
        left = np.clip((x0 + x1) / 2 - rng.uniform(0, wide), 0, width - wide)
        top = np.clip((y0 + y1) / 2 - rng.uniform(0, high), 0, height - high)
    return crop(sample, int(left), int(top), wide, high, settings.min_visible)


def crop(sample: Sample, left: int, top: int, width: int, height: int, min_visible: float) -> Sample:
    """The part of the picture in a window of pixels.

    Things of which too little is left are dropped, and their categories are not exhaustively labelled any more; with
    everything exhaustive (`exhaustive=None`) they stay, however little is left.
    """
    window = np.array([left, top, left + width, top + height], dtype=np.float64)
    masks = sample.masks[:, top : top + height, left : left + width]
    exhaustive = sample.exhaustive
    kept: list[int] = []
    instances: list[Instance] = []
    for row, instance in enumerate(sample.instances):
        box = instance.box_xyxy
        inside = np.concatenate([np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])])
        if (inside[2:] <= inside[:2]).any():
            continue
        has_mask = instance.has_mask and bool(masks[row].any())
        if instance.has_mask and not has_mask:
            continue
        visible = float((inside[2:] - inside[:2]).prod() / max((box[2:] - box[:2]).prod(), 1e-9))
        if visible < min_visible and exhaustive is not None:
            exhaustive = exhaustive - {instance.category}
            continue
        inside -= np.array([left, top, left, top])
        instances.append(replace(instance, box_xyxy=_box_of(masks[row]) if has_mask else inside, has_mask=has_mask))
        kept.append(row)
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[top : top + height, left : left + width]),
        instances=tuple(instances),
        masks=np.ascontiguousarray(masks[kept]),
        exhaustive=exhaustive,
    )


def change_aspect(sample: Sample, factor: float) -> Sample:
    """The picture `factor` times as wide, as high as it was."""
    width, height = sample.image_size_wh
    wide = max(1, round(width * factor))
    if wide == width:
        return sample
    columns = np.minimum(((np.arange(wide) + 0.5) * width / wide).astype(int), width - 1)
    stretch = np.array([wide / width, 1.0, wide / width, 1.0])
    return replace(
        sample,
        image=np.asarray(Image.fromarray(sample.image).resize((wide, height), Image.Resampling.BILINEAR)),
        instances=tuple(replace(one, box_xyxy=one.box_xyxy * stretch) for one in sample.instances),
        masks=np.ascontiguousarray(sample.masks[:, :, columns]),
    )


def change_light(sample: Sample, rng: np.random.Generator, most: float) -> Sample:
    """Other brightness and contrast, by up to the share `most` each."""
    contrast, brightness = 1 + rng.uniform(-most, most, size=2)
    levels = (np.arange(256) - 128) * contrast + 128 * brightness
    return replace(sample, image=np.clip(levels, 0, 255).astype(np.uint8)[sample.image])


def _box_of(mask: np.ndarray) -> np.ndarray:
    """Corners around a mask that has a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
