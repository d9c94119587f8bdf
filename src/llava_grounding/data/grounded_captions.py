"""Captions by people, tied to labels: which noun phrases of a sentence name which labelled instances.

Knows words and labels; asks no questions and reads no pixels.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from llava_grounding.data.record import Annotation
from llava_grounding.data.sample import Instance, Targets
from llava_grounding.language.nouns import Mention, is_plural_name, lexicon_with
from llava_grounding.markup import format_markup, strip_markup

_DOMINANT_AREA = 3.0  # a singular noun means the one thing this many times larger than the next


def ground_caption(
    caption: str, instances: Sequence[Annotation | Instance], exhaustive: Container[str] | None = None
) -> tuple[str, Targets]:
    """Caption in markup, with the instances each phrase names: phrases about categories that are in the photo.

    A plural means all instances of its category, a number only as many as it says, a singular the only one or the one
    that dominates by area; where the words or the labels leave it open the target is None. Of a photo without any
    labels every phrase about a known category is marked, with target None.

    Args:
        exhaustive: categories of which every visible instance is labelled; None = all.
    """
    caption = tidy_caption(caption)
    by_category = group_by_category(instances)
    words = lexicon_with(by_category)
    found: list[tuple[Mention, str]] = []
    for mention in words.find(caption):
        here = [name for name in mention.categories if name in by_category]
        if here or not instances:
            found.append((mention, here[0] if len(here) == 1 else ""))
    times = {name: sum(other == name for _, other in found) for _, name in found}
    targets = tuple(
        _target(mention, by_category[name], instances, exhaustive is None or name in exhaustive)
        if name and times[name] == 1
        else None
        for mention, name in found
    )
    return format_markup(caption, [mention.span for mention, _ in found]), targets


def tidy_caption(caption: str) -> str:
    """The caption as one sentence: capital letter, single spaces, a full stop, no markup of ours."""
    text = " ".join(strip_markup(caption).split()).rstrip(" .")
    return text[:1].upper() + text[1:] + ("" if text.endswith(("!", "?")) else ".")


def group_by_category(instances: Sequence[Annotation | Instance]) -> dict[str, list[int]]:
    """Indices of the instances by category name, in the order of the labels."""
    grouped: dict[str, list[int]] = {}
    for index, instance in enumerate(instances):
        grouped.setdefault(instance.category, []).append(index)
    return grouped


def _target(
    mention: Mention, rows: list[int], instances: Sequence[Annotation | Instance], complete: bool
) -> tuple[int, ...] | None:
    """Instances one mention means, or None when its words leave it open, or the labels do, as they are not complete."""
    if mention.vague:
        return None
    if mention.plural or is_plural_name(instances[rows[0]].category):
        return tuple(rows) if mention.number == len(rows) or (mention.number is None and complete) else None
    if len(rows) == 1:
        return (rows[0],)
    if mention.number is None or mention.number == 1:
        areas = sorted(((box_area_of(instances[index]), index) for index in rows), reverse=True)
        if areas[0][0] >= _DOMINANT_AREA * areas[1][0]:
            return (areas[0][1],)
    return None


def box_area_of(instance: Annotation | Instance) -> float:
    """Square pixels of its box."""
    x0, y0, x1, y1 = instance.box_xyxy
    return float((x1 - x0) * (y1 - y0))
