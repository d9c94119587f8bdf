"""What every way of showing an answer needs: its text cut at the phrases, and the right picture for it."""

from __future__ import annotations

from PIL import Image

from llava_grounding.errors import ShapeError
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image
from llava_grounding.structures import GroundedAnswer

NOT_FOUND = "not found in the picture"
"""What a phrase with a question mark is."""
DOUBT_MARK = "(?)"
DOUBTFUL = "doubtful"
"""What a phrase with that mark is."""


def picture_of(image: ImageSource, answer: GroundedAnswer) -> Image.Image:
    """The picture an answer is about, upright.

    Raises:
        ImageError: if it cannot be read. It may be as large as the answer says.
        ShapeError: if it does not have the size the answer states.
    """
    width, height = answer.image_size_wh
    large = width * height > DEFAULT_LIMITS.max_pixels
    picture = load_image(image, ImageLimits.of_megapixels(width * height / 1e6) if large else DEFAULT_LIMITS)
    if picture.size != answer.image_size_wh:
        wanted, got = (f"{width} x {height}" for width, height in (answer.image_size_wh, picture.size))
        raise ShapeError(f"this answer is about an image of {wanted} pixels, got one of {got}; give it its own image")
    return picture


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
