"""Answers and pictures to show, shared by the tests of this folder."""

import numpy as np
from PIL import Image

from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region


def disc(size_wh: tuple[int, int], x: float, y: float, radius: float, with_mask: bool = True) -> Region:
    """A round thing."""
    rows, columns = np.ogrid[: size_wh[1], : size_wh[0]]
    mask = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2
    box = np.clip([x - radius, y - radius, x + radius, y + radius], 0, [*size_wh, *size_wh])
    return Region(box, 0.9, mask if with_mask else None)


def answer_of(
    size_wh: tuple[int, int], parts: list[str | tuple[str, list[Region]]], model: str = "nano"
) -> GroundedAnswer:
    """Plain text and (phrase, regions), one after the other."""
    text, phrases = "", []
    for part in parts:
        words, regions = (part, None) if isinstance(part, str) else part
        if regions is not None:
            span = (len(text), len(text) + len(words))
            phrases.append(GroundedPhrase(len(phrases), words, span, tuple(regions), 0.9 if regions else 0.12))
        text += words
    return GroundedAnswer(text, tuple(phrases), size_wh, text, model, 10, 5)


def grey(size_wh: tuple[int, int], level: int = 128) -> Image.Image:
    return Image.new("RGB", size_wh, (level, level, level))
