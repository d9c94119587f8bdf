"""A pen for small vector drawings on a 100 x 100 sheet (x right, y down), drawn large and reduced for smooth edges.

Also how far a named colour may vary. Knows nothing of what is drawn.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from llava_grounding.colours import COLOURS, RGB

Point = tuple[float, float]

SHEET_UNITS = 100
SUPERSAMPLING = 4

INK: RGB = (32, 30, 34)
PALE: RGB = (250, 248, 242)
WOOD: RGB = (126, 84, 48)
METAL: RGB = (170, 174, 180)
STALK: RGB = (70, 146, 62)
GOLD: RGB = (236, 190, 70)

# Half-widths of the hue (turns), saturation and value a name still covers.
_SPREAD: dict[str, tuple[float, float, float]] = {
    "red": (0.012, 0.10, 0.12),
    "orange": (0.010, 0.10, 0.05),
    "yellow": (0.012, 0.14, 0.05),
    "green": (0.050, 0.15, 0.16),
    "blue": (0.030, 0.15, 0.16),
    "purple": (0.025, 0.15, 0.14),
    "pink": (0.025, 0.10, 0.04),
    "brown": (0.012, 0.10, 0.10),
    "black": (0.030, 0.03, 0.06),
    "white": (0.030, 0.02, 0.03),
    "grey": (0.030, 0.03, 0.10),
}


def vary_colour(name: str, rng: random.Random) -> RGB:
    """A shade that people still call by the colour name."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in COLOURS[name]))
    dh, ds, dv = _SPREAD[name]
    hue = (hue + rng.uniform(-dh, dh)) % 1.0
    saturation = min(1.0, max(0.0, saturation + rng.uniform(-ds, ds)))
    value = min(1.0, max(0.0, value + rng.uniform(-dv, dv)))
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(r * 255), round(g * 255), round(b * 255)


class Pen:
    """Draws shapes given in sheet units; `fill=None` erases."""

    def __init__(self, side_px: int) -> None:
        self._scale = side_px * SUPERSAMPLING / SHEET_UNITS
        self._side_px = side_px
        self._image = Image.new("RGBA", (side_px * SUPERSAMPLING,) * 2)
        self._draw = ImageDraw.Draw(self._image)

    def finished(self) -> Image.Image:
        return self._image.resize((self._side_px, self._side_px), Image.Resampling.BOX, reducing_gap=None)

    def _points(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]

    @staticmethod
    def _ink(fill: RGB | None) -> tuple[int, int, int, int]:
        return (0, 0, 0, 0) if fill is None else (*fill, 255)

    def polygon(self, points: Sequence[Point], fill: RGB | None) -> None:
        self._draw.polygon(self._points(points), fill=self._ink(fill))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: RGB | None, angle: float = 0.0) -> None:
        """`angle` in degrees, clockwise as seen."""
        if angle == 0.0:
            k = self._scale
            self._draw.ellipse([(x - rx) * k, (y - ry) * k, (x + rx) * k, (y + ry) * k], fill=self._ink(fill))
            return
        turn = math.radians(angle)
        cos, sin = math.cos(turn), math.sin(turn)
        points = []
        for step in range(40):
            a = step * math.tau / 40
            u, v = rx * math.cos(a), ry * math.sin(a)
            points.append((x + u * cos - v * sin, y + u * sin + v * cos))
        self.polygon(points, fill)

    def circle(self, x: float, y: float, radius: float, fill: RGB | None) -> None:
        self.ellipse(x, y, radius, radius, fill)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: RGB | None, radius: float = 0.0) -> None:
        k = self._scale
        self._draw.rounded_rectangle([x0 * k, y0 * k, x1 * k, y1 * k], radius * k, fill=self._ink(fill))

    def line(self, points: Sequence[Point], width: float, fill: RGB | None) -> None:
        """A stroke with round joints and ends."""
        pixels = self._points(points)
        self._draw.line(pixels, fill=self._ink(fill), width=max(1, round(width * self._scale)), joint="curve")
        for x, y in (points[0], points[-1]):
            self.circle(x, y, width / 2, fill)

    def curve(self, points: Sequence[Point], width: float, fill: RGB | None) -> None:
        """A smooth stroke through the points."""
        self.line(smooth(points, closed=False), width, fill)

    def blob(self, points: Sequence[Point], fill: RGB | None) -> None:
        """A smooth closed shape through the points."""
        self.polygon(smooth(points, closed=True), fill)

    def pie(self, x: float, y: float, radius: float, start: float, end: float, fill: RGB | None) -> None:
        """A sector; degrees from three o'clock, clockwise."""
        k = self._scale
        box = [(x - radius) * k, (y - radius) * k, (x + radius) * k, (y + radius) * k]
        self._draw.pieslice(box, start, end, fill=self._ink(fill))

    def arc(self, x: float, y: float, radius: float, start: float, end: float, width: float, fill: RGB | None) -> None:
        """A circular stroke; degrees from three o'clock, clockwise."""
        steps = max(6, int(abs(end - start) / 8))
        angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
        self.line([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], width, fill)

    def ring(self, x: float, y: float, radius: float, width: float, fill: RGB | None) -> None:
        """A circle's outline, its stroke centred on `radius`; the inside is left as it is."""
        k, outer = self._scale, radius + width / 2
        box = [(x - outer) * k, (y - outer) * k, (x + outer) * k, (y + outer) * k]
        self._draw.ellipse(box, outline=self._ink(fill), width=max(1, round(width * k)))

    def star(
        self, x: float, y: float, outer: float, inner: float, tips: int, fill: RGB | None, turn: float = 0
    ) -> None:
        points = []
        for step in range(2 * tips):
            radius = inner if step % 2 else outer
            a = math.radians(turn - 90) + step * math.pi / tips
            points.append((x + radius * math.cos(a), y + radius * math.sin(a)))
        self.polygon(points, fill)


def smooth(points: Sequence[Point], closed: bool, steps: int = 8) -> list[Point]:
    """Points along the Catmull-Rom spline through the given ones."""
    n = len(points)
    result: list[Point] = []
    for i in range(n if closed else n - 1):
        if closed:
            a, b, c, d = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        else:
            a, b, c, d = points[max(i - 1, 0)], points[i], points[i + 1], points[min(i + 2, n - 1)]
        for step in range(steps):
            t = step / steps
            result.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    if not closed:
        result.append(points[-1])
    return result


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t**3)
