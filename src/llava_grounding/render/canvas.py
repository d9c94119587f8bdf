"""A picture to draw on in the pixels of the original, whatever its size: tints, frames, strokes and numbered tags.

Small pictures are enlarged and huge ones reduced, so that lines and numbers can be read. Knows no answers and no text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from llava_grounding.colours import RGB
from llava_grounding.errors import ShapeError
from llava_grounding.geometry import box_area, clip_stroke
from llava_grounding.masks import mask_to_box
from llava_grounding.render.palette import BLACK, WHITE, ink_on

_MIN_LONG_SIDE = 640
_MIN_SHORT_SIDE = 48
_MAX_ENLARGED_SIDE = 4096  # even to make the short side of a very long picture visible
_PIXEL_ART_SCALE = 6  # from here on the single pixels are meant to be seen
_TINT = 100  # of 255
_HALO = 190  # of 255
_MAX_TINTED = 2**25  # pixels of the canvas, one above the other: ten times all of a large one
_COMPARED = 200  # tags before one, whose places it keeps out of


class Canvas:
    """A copy of the picture at a size that can be drawn on; all coordinates given to it are original pixels.

    Args:
        image: any PIL image; drawn on a copy.
        max_side: a longer picture is reduced to this, in pixels.
        tinted: boxes of all masks that will be tinted; with so many that it would take long, the canvas is smaller.
    """

    def __init__(self, image: Image.Image, max_side: int, tinted: Iterable[np.ndarray] = ()) -> None:
        self.image_size_wh = image.size
        scale = display_scale(image.size, max_side)
        pixels = sum(float(box_area(box)) for box in tinted)
        if pixels * scale**2 > _MAX_TINTED:
            scale = math.sqrt(_MAX_TINTED / pixels)
        size_wh = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        resampling = Image.Resampling.NEAREST if scale >= _PIXEL_ART_SCALE else Image.Resampling.LANCZOS
        self.picture = image.convert("RGB").resize(size_wh, resampling)
        self.scale_xy = np.array([size_wh[0] / image.width, size_wh[1] / image.height])
        self.line = max(2, round(min(max(size_wh) / 420, min(size_wh) / 40)))
        self._mask_resampling = Image.Resampling.NEAREST if scale >= _PIXEL_ART_SCALE else Image.Resampling.BILINEAR
        self._font = ImageFont.load_default(min(34, max(11, round(min(max(size_wh) / 52, min(size_wh) / 3)))))
        self._tags: list[np.ndarray] = []

    def tint(self, mask: np.ndarray, color: RGB) -> None:
        """Lay a colour over the pixels of a (H, W) mask, with a contour inside its edge and a dark halo outside."""
        box = mask_to_box(mask)
        if box is None:
            return
        corner, coverage = self._coverage(mask, box)
        blurred = np.asarray(Image.fromarray(coverage * np.uint8(255)).filter(ImageFilter.BoxBlur(self.line)))
        edge, halo = coverage & (blurred < 255), ~coverage & (blurred > 0)
        for pixels, ink, opacity in ((halo, BLACK, _HALO), (coverage, color, _TINT), (edge, color, 255)):
            self.picture.paste(ink, corner, Image.fromarray(pixels * np.uint8(opacity)))

    def frame(self, box_xyxy: np.ndarray, color: RGB) -> None:
        """Outline a box, dark at both sides of the line."""
        x0, y0, x1, y1 = self._rectangle(box_xyxy)
        draw, width = ImageDraw.Draw(self.picture), self.line
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=BLACK, width=1)
        draw.rectangle((x0, y0, x1, y1), outline=color, width=width)
        if x1 - x0 > 4 * width and y1 - y0 > 4 * width:
            draw.rectangle((x0 + width, y0 + width, x1 - width, y1 - width), outline=BLACK, width=1)

    def stroke(self, points_xy: np.ndarray, color: RGB, dashed: bool = False) -> np.ndarray:
        """A line through the points with a dark halo; a single point becomes a ring. Gives the box around it."""
        points = np.asarray(points_xy, dtype=np.float64) * self.scale_xy
        draw = ImageDraw.Draw(self.picture)
        if len(points) == 1:
            radius = 4 * self.line
            _ring(draw, points[0], radius, self.line, color)
            reach = (radius + 3) / self.scale_xy
            return np.concatenate((points_xy[0] - reach, points_xy[0] + reach))
        parts = clip_stroke(points, self.picture.size, margin=2 * self.line + 4)
        solid = [tuple(map(tuple, part)) for part in parts]
        pieces = [dash for part in parts for dash in _dashes(part, 5 * self.line)] if dashed else solid
        for lines, ink, width in ((solid, BLACK, self.line + 3), (pieces, color, self.line)):
            for line in lines:
                draw.line(line, fill=ink, width=width, joint="curve")
        return np.concatenate((points_xy.min(axis=0), points_xy.max(axis=0)))

    def tag(self, text: str, box_xyxy: np.ndarray, color: RGB) -> None:
        """Write a small label at a box, where it covers the fewest labels so far."""
        draw = ImageDraw.Draw(self.picture)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=self._font)
        pad = max(2, self.line)
        width, height = math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad
        x, y = self._free_place(self._rectangle(box_xyxy), width, height)
        corners = (x, y, x + width - 1, y + height - 1)
        draw.rounded_rectangle(corners, radius=pad, fill=color, outline=BLACK if ink_on(color) == BLACK else WHITE)
        draw.text((x + pad - left, y + pad - top), text, fill=ink_on(color), font=self._font)

    def _coverage(self, mask: np.ndarray, box_xyxy: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
        """The mask at display size, cut out with room for its contour, and where its corner goes."""
        if mask.shape != self.image_size_wh[::-1]:
            raise ShapeError(f"masks must be {self.image_size_wh[::-1]} like the image, got {mask.shape}")
        limits = np.array(self.picture.size)
        room = self.line + 1
        start = np.maximum(np.floor(box_xyxy[:2] * self.scale_xy).astype(int) - room, 0)
        stop = np.minimum(np.ceil(box_xyxy[2:] * self.scale_xy).astype(int) + room, limits)
        return (int(start[0]), int(start[1])), self._resized(mask, start, stop)

    def _resized(self, mask: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The part of the mask that the canvas shows from `start` to `stop`, smooth unless single pixels are meant."""
        low, high = start / self.scale_xy, np.minimum(stop / self.scale_xy, self.image_size_wh)
        x0, y0 = np.maximum(np.floor(low).astype(int) - 1, 0)
        x1, y1 = np.minimum(np.ceil(high).astype(int) + 1, self.image_size_wh)
        crop = Image.fromarray(mask[y0:y1, x0:x1] * np.uint8(255))
        size_wh = (int(stop[0] - start[0]), int(stop[1] - start[1]))
        part = (low[0] - x0, low[1] - y0, high[0] - x0, high[1] - y0)
        # Thin things must not fall apart when made smaller, so a quarter of a pixel is enough there.
        enough = 64 if self.scale_xy.min() < 1 else 127
        return np.asarray(crop.resize(size_wh, self._mask_resampling, box=part)) > enough

    def _rectangle(self, box_xyxy: np.ndarray) -> tuple[int, int, int, int]:
        """Inclusive corners on the canvas, at least a few pixels apart and within the picture."""
        limits = np.array(self.picture.size) - 1
        low = np.clip(np.floor(box_xyxy[:2] * self.scale_xy), 0, limits).astype(int)
        high = np.clip(np.ceil(box_xyxy[2:] * self.scale_xy) - 1, 0, limits).astype(int)
        high = np.minimum(np.maximum(high, low + 2 * self.line), limits)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def _free_place(self, rectangle: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int]:
        x0, y0, x1, y1 = rectangle
        across = (x0, x1 - width + 1, (x0 + x1 - width) // 2)
        down = (y0 - height, y0, y1 + 1, y1 - height + 1, (y0 + y1 - height) // 2)
        places = np.array([(x, y) for y in down for x in across])
        places = np.clip(places, 0, np.maximum(np.array(self.picture.size) - (width, height), 0))
        covered = np.zeros(len(places))
        if self._tags:
            taken = np.array(self._tags[-_COMPARED:])
            low = np.maximum(places[:, None], taken[None, :, :2])
            high = np.minimum(places[:, None] + (width, height), taken[None, :, 2:])
            covered = np.maximum(high - low, 0).prod(axis=2).sum(axis=1)
        x, y = places[int(covered.argmin())]
        self._tags.append(np.array([x, y, x + width, y + height]))
        return int(x), int(y)


def display_scale(image_size_wh: tuple[int, int], max_side: int) -> float:
    """Factor by which to enlarge or reduce a picture so that a drawing on it can be read."""
    long, short = max(image_size_wh), min(image_size_wh)
    scale = min(max(1.0, _MIN_LONG_SIDE / long), max_side / long)
    if short * scale < _MIN_SHORT_SIDE:
        scale = max(scale, min(_MIN_SHORT_SIDE / short, _MAX_ENLARGED_SIDE / long))
    return scale


def _ring(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: int, line: int, color: RGB) -> None:
    for reach, ink, width in ((radius + 2, BLACK, line + 4), (radius, color, line)):
        corners = (*(centre - reach), *(centre + reach))
        draw.ellipse(corners, outline=ink, width=width)
    draw.ellipse((*(centre - line - 1), *(centre + line + 1)), fill=color, outline=BLACK)


def _dashes(points: np.ndarray, length: float) -> list[tuple[tuple[float, ...], ...]]:
    """Every second stretch of `length` along the line through the points."""
    dashes: list[tuple[tuple[float, ...], ...]] = []
    for start, end in pairwise(points):
        distance = float(np.hypot(*(end - start)))
        count = max(1, round(distance / length / 2))
        for k in range(count):
            first, last = start + (end - start) * (k / count), start + (end - start) * ((k + 0.55) / count)
            dashes.append((tuple(first), tuple(last)))
    return dashes
