"""Captions by people, tied to labels: which noun phrases of a sentence name which labelled instances.

Knows words and labels; asks no questions and reads no pixels.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from llava_grounding.data.record import Annotation
from llava_grounding.data.sample import Instance, Targets
from llava_grounding.language.referents import Labelled, find_referents
from llava_grounding.markup import format_markup, strip_markup

_DOMINANT_AREA = 3.0
"""Lower than `DOMINANT_AREA`, which is for what people read: it ties 3,797 of 4,774 phrases of photos, not 3,730."""


def ground_caption(
    caption: str,
    instances: Sequence[Annotation | Instance],
    exhaustive: Container[str] | None = None,
    image_size_wh: tuple[int, int] | None = None,
) -> tuple[str, Targets]:
    """Caption in markup, with the instances each phrase names: phrases about categories that are in the photo.

    Where the words or the labels leave it open the target is None; see `find_referents`. Of a photo without any labels
    every phrase about a known category is marked, with target None.

    Args:
        exhaustive: categories of which every visible instance is labelled; None = all.
        image_size_wh: in pixels, for words of sides; None leaves them open.
    """
    caption = tidy_caption(caption)
    things = [Labelled(one.category, one.box_xyxy) for one in instances]
    found = find_referents(caption, things, exhaustive, image_size_wh=image_size_wh, dominant_area=_DOMINANT_AREA)
    return format_markup(caption, [mention.span for mention, _ in found]), tuple(rows for _, rows in found)


def tidy_caption(caption: str) -> str:
    """The caption as one sentence: capital letter, single spaces, a full stop, no markup of ours."""
    text = " ".join(strip_markup(caption).split()).rstrip(" .")
    return text[:1].upper() + text[1:] + ("" if text.endswith(("!", "?")) else ".")


def box_area_of(instance: Annotation | Instance) -> float:
    """Square pixels of its box."""
    return Labelled(instance.category, instance.box_xyxy).area
