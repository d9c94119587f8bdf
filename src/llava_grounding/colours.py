"""Colours by name, mixed, and how light they are. Knows no images."""

from __future__ import annotations

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (212, 36, 34),
    "orange": (243, 132, 26),
    "yellow": (247, 212, 44),
    "green": (54, 158, 66),
    "blue": (44, 102, 208),
    "purple": (128, 60, 168),
    "pink": (243, 140, 184),
    "brown": (130, 82, 44),
    "black": (40, 40, 44),
    "white": (244, 244, 240),
    "grey": (142, 145, 150),
}


def mix(a: RGB, b: RGB, amount: float) -> RGB:
    """The mixture of two colours, from `a` (0) to `b` (1)."""
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def light(colour: RGB, amount: float = 0.35) -> RGB:
    return mix(colour, (255, 255, 255), amount)


def dark(colour: RGB, amount: float = 0.3) -> RGB:
    return mix(colour, (0, 0, 0), amount)


def luminance(colour: RGB) -> float:
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255
