"""A colour for every phrase number, and the ink that is readable on it. Knows no images and no answers."""

from __future__ import annotations

import math

from llava_grounding.colours import RGB

BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)
GREY: RGB = (110, 110, 110)

# Hues go round by the golden angle, so that any first n of them are spread out; lightness and chroma alternate with
# them. Of 36 starts tried this one keeps the first 20 colours furthest apart: 0.106 in OKLab (0.02 is just visible).
_FIRST_HUE = 50.0
_GOLDEN_ANGLE = 137.508
_LIGHTNESS = (0.72, 0.60, 0.84)
_CHROMA = (0.17, 0.19, 0.15)


def phrase_color(index: int) -> RGB:
    """The colour of the index-th phrase, counted from 0; bright enough to stand out on a dark outline."""
    hue = _FIRST_HUE + index * _GOLDEN_ANGLE
    return _oklch_to_rgb(_LIGHTNESS[index % len(_LIGHTNESS)], _CHROMA[index % len(_CHROMA)], hue)


def ink_on(color: RGB) -> RGB:
    """Black or white, whichever has more contrast on `color`."""
    return BLACK if contrast(BLACK, color) >= contrast(WHITE, color) else WHITE


def contrast(first: RGB, second: RGB) -> float:
    """Contrast ratio of the WCAG, 1 to 21."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def css(color: RGB) -> str:
    """The colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _luminance(color: RGB) -> float:
    red, green, blue = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _oklch_to_rgb(lightness: float, chroma: float, hue_degrees: float) -> RGB:
    """OKLCH to sRGB, clipped to what a screen can show. Source: Ottosson, "A perceptual color space" (2020)."""
    a, b = chroma * math.cos(math.radians(hue_degrees)), chroma * math.sin(math.radians(hue_degrees))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _gamma(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _gamma(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _gamma(linear: float) -> int:
    linear = min(1.0, max(0.0, linear))
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))
