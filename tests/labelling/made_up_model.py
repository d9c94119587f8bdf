"""A model of a few lines for the tests of labelling, and photos for it: it finds what is brighter than grey."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava_grounding.masks import mask_to_box
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region

SIZE = (40, 30)
CLASSES = ("dog", "red car")


@dataclass
class MadeUpModel:
    """Grounds every other phrase; the score hangs on who is looked at together, as rounding does in real ones."""

    batches: list[int] = field(default_factory=list)
    die_once: str | None = None
    """A file that does not exist: when a photo with a black corner comes, it is made, and the process killed."""

    def ground_batch(
        self, images: Any, phrases: Sequence[str], score_threshold: float | None, batch_size: int
    ) -> list[list[GroundedPhrase]]:
        self._look(images)
        return [[self._phrase(image, text, n, len(images)) for n, text in enumerate(phrases)] for image in images]

    def ask_batch(self, questions: Any, *, batch_size: int, score_threshold: float | None) -> list[GroundedAnswer]:
        images = [image for image, _ in questions]
        self._look(images)
        return [self._answer(image, len(images)) for image in images]

    def _look(self, images: Sequence[Image.Image]) -> None:
        self.batches.append(len(images))
        for image in images:
            corner = image.getpixel((0, 0))
            if corner == (0, 0, 0) and self.die_once and not Path(self.die_once).exists():
                Path(self.die_once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if corner == (1, 1, 1):
                raise RuntimeError("this picture is not for me")

    def _answer(self, image: Image.Image, together: int) -> GroundedAnswer:
        text = "Two dogs, the dog and a quux."
        spans = [(0, 8), (10, 17), (22, 28)]
        phrases = [
            self._phrase(image, text[start:end], 0, together, number, (start, end))
            for number, (start, end) in enumerate(spans)
        ]
        return GroundedAnswer(text, tuple(phrases), image.size, text, "made-up", 1, 1)

    def _phrase(
        self,
        image: Image.Image,
        text: str,
        odd: int,
        together: int,
        number: int = 0,
        span: tuple[int, int] | None = None,
    ) -> GroundedPhrase:
        mask = np.asarray(image.convert("L")) > 128
        box = mask_to_box(mask)
        found = () if odd % 2 or box is None else (Region(box, 0.5 + together / 100, mask),)
        return GroundedPhrase(number, text, span or (0, len(text)), found, 0.6)


def photo_bytes(number: int, corner: tuple[int, int, int] = (90, 90, 90), kind: str = "PNG") -> bytes:
    """A grey photo with a ring, whose place hangs on the number."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 90, dtype=np.uint8)
    x = 3 + number % 20
    pixels[5:20, x : x + 12] = 250
    pixels[9:14, x + 4 : x + 8] = 90
    pixels[24:27, 2:9] = 250
    pixels[0, 0] = corner
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def true_mask(number: int) -> np.ndarray:
    """What the model finds in it."""
    return np.asarray(Image.open(io.BytesIO(photo_bytes(number))).convert("L")) > 128
