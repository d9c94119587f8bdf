"""Backgrounds of drawn scenes, with the one sentence that describes each and where its ground, sky and water are.

Knows nothing of what stands in front.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from llava_grounding.colours import COLOURS, RGB, mix


@dataclass(frozen=True, eq=False)
class Background:
    """A picture to paint on.

    Args:
        image: (H, W, 3) uint8.
        sentence: what it is, as a whole sentence; empty where nothing is known.
        horizon: height of the border between upper and lower part, as a fraction from the top; None = no such parts.
        lower: "ground" or "water", what lies below the horizon.
        upper: "sky" or "wall".
    """

    image: np.ndarray
    sentence: str
    horizon: float | None = None
    lower: str = "ground"
    upper: str = "sky"


_SIZE = tuple[int, int]
_NAMED = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "grey")


def paint_background(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    """A random background of the size."""
    painters: tuple[tuple[Callable[[np.random.Generator, _SIZE], Background], float], ...] = (
        (_plain, 0.22),
        (_gradient, 0.12),
        (_meadow, 0.22),
        (_room, 0.16),
        (_water, 0.12),
        (_stripes, 0.08),
        (_checker, 0.08),
    )
    pick = rng.random()
    for painter, share in painters:
        pick -= share
        if pick < 0:
            return painter(rng, size_wh)
    return _plain(rng, size_wh)


def photo_background(rng: np.random.Generator, size_wh: _SIZE, photo: np.ndarray) -> Background:
    """A random part of a photo ((H, W, 3) uint8) filling the size."""
    image = Image.fromarray(photo)
    width, height = size_wh
    scale = max(width / image.width, height / image.height) * rng.uniform(1.0, 1.6)
    crop_w, crop_h = width / scale, height / scale
    x, y = rng.uniform(0, image.width - crop_w), rng.uniform(0, image.height - crop_h)
    part = image.resize(size_wh, Image.Resampling.BILINEAR, box=(x, y, x + crop_w, y + crop_h))
    return Background(np.asarray(part).copy(), "")


def _tone(rng: np.random.Generator, name: str, softness: tuple[float, float] = (0.35, 0.75)) -> RGB:
    """A soft shade of a named colour, so that things of the same colour still stand out."""
    if name in ("white", "grey"):
        level = int(rng.integers(232, 250)) if name == "white" else int(rng.integers(165, 205))
        warm = int(rng.integers(-5, 6))
        return level + warm, level, level - warm
    soft = mix(COLOURS[name], (255, 255, 255), rng.uniform(*softness))
    jitter = rng.integers(-9, 10, 3)
    return tuple(int(np.clip(v + j, 0, 255)) for v, j in zip(soft, jitter, strict=True))  # type: ignore[return-value]


def _fill(size_wh: _SIZE, colour: RGB) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.float32), (size_wh[1], size_wh[0], 3)).copy()


def _ramp(rows: int, width: int, top: RGB, bottom: RGB) -> np.ndarray:
    steps = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    column = np.array(top, np.float32) * (1 - steps) + np.array(bottom, np.float32) * steps
    return np.broadcast_to(column[:, None, :], (rows, width, 3)).copy()


def _grained(rng: np.random.Generator, pixels: np.ndarray, strength: float, cell: int = 1) -> np.ndarray:
    """With brightness noise in cells of the given number of pixels."""
    height, width = pixels.shape[:2]
    noise = rng.standard_normal((-(-height // cell), -(-width // cell)), dtype=np.float32) * strength
    if cell > 1:
        noise = noise.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return pixels + noise[..., None]


def _finished(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    if rng.random() < 0.3:
        pixels = _grained(rng, pixels, rng.uniform(2, 7))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _pick(rng: np.random.Generator, names: tuple[str, ...] = _NAMED) -> str:
    return names[int(rng.integers(len(names)))]


def _plain(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    name = _pick(rng)
    pixels = _fill(size_wh, _tone(rng, name))
    if rng.random() < 0.3:
        pixels = _grained(rng, pixels, rng.uniform(3, 9), int(rng.integers(1, 6)))
    return Background(_finished(rng, pixels), f"The background is {name}.")


def _gradient(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    first = _pick(rng)
    second = _pick(rng, tuple(name for name in _NAMED if name != first))
    pixels = _ramp(size_wh[1], size_wh[0], _tone(rng, first), _tone(rng, second))
    return Background(_finished(rng, pixels), f"The background goes from {first} to {second}.")


def _meadow(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    width, height = size_wh
    horizon = rng.uniform(0.35, 0.68)
    rows = round(height * horizon)
    sky = _ramp(rows, width, _tone(rng, "blue", (0.35, 0.6)), _tone(rng, "blue", (0.7, 0.85)))
    ground_name, sentence = (
        ("green", "The background is a green meadow under a blue sky.")
        if rng.random() < 0.65
        else ("yellow", "The background is yellow sand under a blue sky.")
    )
    soft = (0.1, 0.5) if ground_name == "green" else (0.35, 0.55)
    ground = _ramp(height - rows, width, _tone(rng, ground_name, soft), _tone(rng, ground_name, soft))
    ground = _grained(rng, ground, rng.uniform(0, 8), int(rng.integers(1, 4)))
    return Background(_finished(rng, np.concatenate([sky, ground])), sentence, horizon)


def _room(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    width, height = size_wh
    horizon = rng.uniform(0.5, 0.74)
    rows = round(height * horizon)
    wall_name = _pick(rng)
    wall = np.broadcast_to(np.array(_tone(rng, wall_name, (0.5, 0.8)), np.float32), (rows, width, 3)).copy()
    if rng.random() < 0.35:
        period = int(rng.integers(10, 28))
        wall[:, (np.arange(width) % period) < period // 2] -= rng.uniform(4, 12)
    floor = _ramp(height - rows, width, _tone(rng, "brown", (0.25, 0.5)), _tone(rng, "brown", (0.15, 0.4)))
    for k in range(1, 4):
        row = round((height - rows) * (k / 4) ** 1.5)
        if 0 < row < height - rows:
            floor[row] -= 18
    skirting = max(1, height // 60)
    wall[-skirting:] = 240
    sentence = f"The background is a room with a {wall_name} wall."
    if wall_name == "orange":
        sentence = "The background is a room with an orange wall."
    return Background(_finished(rng, np.concatenate([wall, floor])), sentence, horizon, upper="wall")


def _water(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    width, height = size_wh
    horizon = rng.uniform(0.25, 0.6)
    rows = round(height * horizon)
    sky = _ramp(rows, width, _tone(rng, "blue", (0.6, 0.75)), _tone(rng, "blue", (0.8, 0.92)))
    sea = _ramp(height - rows, width, _tone(rng, "blue", (0.3, 0.45)), _tone(rng, "blue", (0.1, 0.3)))
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height - rows, dtype=np.float32)[:, None]
    waves = np.sin(x * rng.uniform(0.08, 0.2) + y * 0.3 + rng.uniform(0, 6)) * np.sin(y * rng.uniform(0.35, 0.8))
    sea += (waves * rng.uniform(4, 12))[..., None]
    pixels = np.concatenate([sky, sea])
    return Background(_finished(rng, pixels), "The background is blue water under a blue sky.", horizon, "water")


def _two_tones(rng: np.random.Generator) -> tuple[str, RGB, RGB]:
    name = _pick(rng, tuple(name for name in _NAMED if name != "white"))
    return name, _tone(rng, name, (0.4, 0.65)), _tone(rng, "white")


def _stripes(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    width, height = size_wh
    name, first, second = _two_tones(rng)
    period = rng.uniform(14, 44)
    angle = (0.0, np.pi / 2, np.pi / 4)[int(rng.integers(3))]
    x, y = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    odd = ((x * np.cos(angle) + y * np.sin(angle)) % period) < period / 2
    return Background(_two_coloured(rng, odd, first, second), f"The background is striped {name} and white.")


def _checker(rng: np.random.Generator, size_wh: _SIZE) -> Background:
    width, height = size_wh
    name, first, second = _two_tones(rng)
    cell = int(rng.integers(10, 32))
    odd = ((np.arange(width)[None, :] // cell) + (np.arange(height)[:, None] // cell)) % 2 == 0
    return Background(_two_coloured(rng, odd, first, second), f"The background is checkered {name} and white.")


def _two_coloured(rng: np.random.Generator, odd: np.ndarray, first: RGB, second: RGB) -> np.ndarray:
    pixels = np.where(odd[..., None], np.array(first, np.float32), np.array(second, np.float32))
    return _finished(rng, pixels)
