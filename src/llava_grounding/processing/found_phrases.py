"""Phrases that were looked for one by one, as an answer like any other. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from llava_grounding.markup import format_markup
from llava_grounding.structures import GroundedAnswer, GroundedPhrase


def as_answer(image: Image.Image, found: Sequence[GroundedPhrase], model: str) -> GroundedAnswer:
    """Phrases found one by one as an answer whose text is the phrases, joined by commas."""
    text, phrases = "", []
    for number, phrase in enumerate(found):
        text += ", " if number else ""
        span = (len(text), len(text) + len(phrase.text))
        phrases.append(replace(phrase, id=number, span=span))
        text += phrase.text
    raw = format_markup(text, [phrase.span for phrase in phrases])
    return GroundedAnswer(text, tuple(phrases), image.size, raw, model, 0, 0, image=image)
