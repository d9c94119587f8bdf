"""What every way of showing an answer needs: its text cut at the phrases, and the right picture for it."""

from __future__ import annotations

from PIL import Image

from llava_grounding.errors import ShapeError
from llava_grounding.structures import GroundedAnswer


def check_size(image: Image.Image, answer: GroundedAnswer) -> None:
    """Raises ShapeError unless the picture has the size the answer states."""
    if image.size != answer.image_size_wh:
        wanted, got = (f"{width} x {height}" for width, height in (answer.image_size_wh, image.size))
        raise ShapeError(f"this answer is about an image of {wanted} pixels, got one of {got}; give it its own image")


def text_pieces(answer: GroundedAnswer) -> list[tuple[str, int | None]]:
    """The answer's text cut at its phrases: each piece with the index of its phrase, None between them."""
    pieces: list[tuple[str, int | None]] = []
    done = 0
    for k, phrase in sorted(enumerate(answer.phrases), key=lambda pair: pair[1].span):
        start, end = phrase.span
        if start < done:  # overlaps the phrase before it
            continue
        pieces += [(answer.text[done:start], None), (answer.text[start:end], k)]
        done = end
    pieces.append((answer.text[done:], None))
    return [(text, k) for text, k in pieces if text]
