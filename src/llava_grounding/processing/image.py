"""An image to the two encoders' inputs: letterboxed canvas for the vision modules, crop for the vision tower.

Takes PIL images that are already upright RGB (see `image_files.py`); gives numpy and torch arrays.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from llava_grounding.errors import ConfigError, did_you_mean
from llava_grounding.geometry import Letterbox
from llava_grounding.typed_values import is_number, is_whole

MAX_SIDE = 2048
"""Side of what an image is drawn into for an encoder at most, in pixels: twice the original's. Memory grows with its
square."""
_FITS = ("crop", "pad", "stretch")
_LONGEST_SIDE = 16  # in shorter sides; a strip of 1 x 50,000,000 pixels must not be enlarged whole


@dataclass(frozen=True)
class CanvasSettings:
    """How an image becomes the grounder's canvas."""

    size: int = 1024
    """Side of the square canvas, pixels."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Per channel, of 0..255."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Per channel, of 0..255."""
    pad_value: int = 128
    """Grey right of and below the image."""

    def __post_init__(self) -> None:
        _check_side("canvas.size", self.size)
        _check_channels("canvas", self.mean, self.std)
        if not is_whole(self.pad_value) or not 0 <= self.pad_value <= 255:
            raise ConfigError(f"canvas.pad_value must be an integer of 0 to 255, got {self.pad_value!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class TowerSettings:
    """How an image becomes the vision tower's input. Defaults: CLIP's."""

    size: int = 224
    """Side of the square input, pixels."""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    """Per channel, of 0..1."""
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """Per channel, of 0..1."""
    fit: str = "crop"
    """"crop": shorter side to `size`, then the centre; "pad": longer side to `size`, amid the mean colour, as
    LLaVA-1.5; "stretch": both sides to `size`, as SigLIP."""

    def __post_init__(self) -> None:
        _check_side("tower.size", self.size)
        _check_channels("tower", self.mean, self.std)
        if self.fit not in list(_FITS):
            raise ConfigError(
                f"tower.fit must be {', '.join(_FITS)}, got `{self.fit!s:.80}`{did_you_mean(str(self.fit), _FITS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


def _check_side(name: str, size: object) -> None:
    if not is_whole(size) or not 1 <= size <= MAX_SIDE:
        raise ConfigError(f"{name} must be 1 to {MAX_SIDE:,} pixels, got {size!r:.80}")


def _check_channels(part: str, mean: Sequence[float], std: Sequence[float]) -> None:
    for name, values in [("mean", mean), ("std", std)]:
        given = list(values) if isinstance(values, (list, tuple)) else []
        numbers = [one for one in given if is_number(one) and math.isfinite(one)]
        if len(given) != 3 or len(numbers) != 3 or (name == "std" and min(numbers) <= 0):
            wanted = "three numbers above 0" if name == "std" else "three numbers"
            raise ConfigError(f"{part}.{name} must be {wanted}, got {values!r:.80}")


def letterbox_image(image: Image.Image, settings: CanvasSettings) -> tuple[np.ndarray, Letterbox]:
    """Resize to fit the canvas, pad right and below.

    Returns:
        uint8 `(size, size, 3)` and the record that maps coordinates both ways.
    """
    letterbox = Letterbox.fit(image.size, (settings.size, settings.size))
    content = image.resize(letterbox.content_size_wh, Image.Resampling.BILINEAR)
    canvas = np.full((settings.size, settings.size, 3), settings.pad_value, dtype=np.uint8)
    canvas[: content.height, : content.width] = np.asarray(content)
    return canvas, letterbox


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Channels-last pixels `[..., H, W, 3]` to normalised float32 `[..., 3, H, W]`."""
    values = pixels.to(torch.float32)
    values = (values - values.new_tensor(mean)) / values.new_tensor(std)
    return values.movedim(-1, -3)


def tower_image(image: Image.Image, settings: TowerSettings) -> torch.Tensor:
    """The vision tower's input, normalised `[3, size, size]`."""
    size = settings.size
    if settings.fit == "stretch":
        resized = image.resize((size, size), Image.Resampling.BICUBIC)
    elif settings.fit == "pad":
        width, height = (max(1, round(size * side / max(image.size))) for side in image.size)
        resized = Image.new("RGB", (size, size), tuple(int(255 * channel) for channel in settings.mean))
        content = image.resize((width, height), Image.Resampling.BICUBIC)
        resized.paste(content, ((size - width) // 2, (size - height) // 2))
    else:
        shorter = min(image.size)
        image = _centre(image, _LONGEST_SIDE * shorter)
        width, height = (int(size * side / shorter) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        resized = _cut(resized, left, top, size, size)
    pixels = torch.from_numpy(np.array(resized)) / 255
    return normalise(pixels, settings.mean, settings.std)


def _centre(image: Image.Image, longest: int) -> Image.Image:
    """The middle of an image whose longer side is over `longest`."""
    width, height = image.size
    if max(width, height) <= longest:
        return image
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return _cut(image, left, top, min(width, longest), min(height, longest))


def _cut(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """A part of an image. Pillow's `crop` would ask `Image.MAX_IMAGE_PIXELS`, which belongs to the program around."""
    return Image.fromarray(np.asarray(image)[top : top + height, left : left + width])
