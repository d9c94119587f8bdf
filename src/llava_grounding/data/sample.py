"""The one record of training and benchmark data: an image, its instances with exact masks, and dialogue turns about it.

Boxes, masks and prompts are in pixels of `image`. Knows no file formats, no tokenizer and no model sizes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llava_grounding.errors import DataError, shown
from llava_grounding.markup import REGION, SEG
from llava_grounding.structures import VisualPrompt

Targets = tuple[tuple[int, ...] | None, ...]

_ADVERBIAL = r"(?!\s+(?:next|behind|before|after|beside|under|over|above|below|at|in|now|there|here|away)\b)"
# "Right behind" is no side, but "on the right behind" is one.
_SIDE_WORD = re.compile(
    rf"\b(left|(?:(?<=the )|(?<=top )|(?<=bottom ))right|right{_ADVERBIAL}|leftmost|rightmost|leftward|rightward)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class Instance:
    """One thing in the image; its mask is the row of `Sample.masks` with the same index.

    Args:
        category: the kind's name, singular, in lower case.
        box_xyxy: (4,) float64 in pixels, half-open on the right and at the bottom.
        has_mask: whether the row of `Sample.masks` is known.
        attributes: words that are true of it, the colour first.
    """

    category: str
    box_xyxy: np.ndarray
    has_mask: bool
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        box = np.asarray(self.box_xyxy, dtype=np.float64)
        if box.shape != (4,) or not np.isfinite(box).all() or box[2] < box[0] or box[3] < box[1]:
            raise DataError(f"box_xyxy of `{self.category}` must be four ordered finite numbers, got {box.tolist()}")
        object.__setattr__(self, "box_xyxy", box)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Instance):
            return NotImplemented
        return (
            self.category == other.category
            and self.has_mask == other.has_mask
            and self.attributes == other.attributes
            and np.array_equal(self.box_xyxy, other.box_xyxy)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Turn:
    """One question with its answer.

    Args:
        question: plain text with one `<region>` per prompt.
        answer: canonical markup when `grounded`, else plain text.
        targets: for the k-th `<seg>` of the answer the indices of its instances; None = no match is known.
        prompts: visual prompts of the question's `<region>` placeholders, in order, in image pixels.
        grounded: whether noun phrases of the answer carry markup.
        kind: what is asked (`describe`, `count`, ...); a `followup` belongs directly after the turn it refers to.
        in_loss: whether the answer counts in a loss; one that does not is still read by those behind it.
    """

    question: str
    answer: str
    targets: Targets = ()
    prompts: tuple[VisualPrompt, ...] = ()
    grounded: bool = True
    kind: str = ""
    in_loss: bool = True

    def __post_init__(self) -> None:
        if self.answer.count(SEG) != len(self.targets):
            raise DataError(
                f"targets must have one entry per `{SEG}` of the answer, expected {self.answer.count(SEG)}, "
                f"got {len(self.targets)} for {shown(self.answer)}"
            )
        if self.question.count(REGION) != len(self.prompts):
            raise DataError(
                f"prompts must have one entry per `{REGION}` of the question, expected {self.question.count(REGION)}, "
                f"got {len(self.prompts)} for {shown(self.question)}"
            )


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with everything known about it.

    Args:
        id: unique within its source.
        image: (H, W, 3) uint8 RGB.
        instances: things with boxes.
        masks: (n, H, W) bool, one row per instance; rows without a known mask are all False.
        turns: dialogue turns, each answerable on its own, except that a `followup` needs the turn before it.
        exhaustive: categories of which every visible instance is labelled; None = everything visible is labelled.
        source: where it comes from.
        ordered: the turns are one dialogue, to be learnt from whole and in this order.
    """

    id: str
    image: np.ndarray
    instances: tuple[Instance, ...]
    masks: np.ndarray
    turns: tuple[Turn, ...]
    exhaustive: frozenset[str] | None
    source: str
    ordered: bool = False

    def __post_init__(self) -> None:
        image, masks = self.image, self.masks
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(f"image of `{self.id}` must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        expected = (len(self.instances), *image.shape[:2])
        if masks.shape != expected or masks.dtype != np.bool_:
            raise DataError(f"masks of `{self.id}` must be {expected} bool, got {masks.shape} {masks.dtype}")
        for turn in self.turns:
            for target in turn.targets:
                if target is not None and any(not 0 <= index < len(self.instances) for index in target):
                    raise DataError(
                        f"targets of `{self.id}` must be below {len(self.instances)}, got {target} "
                        f"for {shown(turn.answer)}"
                    )

    @property
    def image_size_wh(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sample):
            return NotImplemented
        return (
            (self.id, self.source, self.exhaustive) == (other.id, other.source, other.exhaustive)
            and self.instances == other.instances
            and self.turns == other.turns
            and np.array_equal(self.image, other.image)
            and np.array_equal(self.masks, other.masks)
        )

    __hash__ = None  # type: ignore[assignment]


def swap_left_right(text: str) -> str:
    """The same text for the mirror image: left and right exchanged, letter case kept, "right behind" left alone."""

    def swapped(match: re.Match[str]) -> str:
        word = match.group(0)
        other = word.lower().replace("left", "\0").replace("right", "left").replace("\0", "right")
        if word.isupper():
            return other.upper()
        return other.capitalize() if word[0].isupper() else other

    return _SIDE_WORD.sub(swapped, text)


def mirror_prompt(prompt: VisualPrompt, width: int) -> VisualPrompt:
    """The prompt on the image mirrored left to right; `width` is the image's, in pixels."""
    if prompt.kind == "box":
        assert prompt.box_xyxy is not None
        x0, y0, x1, y1 = (float(v) for v in prompt.box_xyxy)
        return VisualPrompt.box(width - x1, y0, width - x0, y1)
    if prompt.kind == "mask":
        assert prompt.mask is not None
        return VisualPrompt.mask_of(np.ascontiguousarray(prompt.mask[:, ::-1]))
    assert prompt.points_xy is not None
    # x = 0 would land on the outer edge, which is in no pixel.
    points = [(min(width - float(x), width - 1e-3), float(y)) for x, y in prompt.points_xy]
    return VisualPrompt.click(*points[0]) if prompt.kind == "click" else VisualPrompt.scribble(points)


def mirror_sample(sample: Sample) -> Sample:
    """The sample mirrored left to right: pixels, boxes, masks, prompts, and the words left and right."""
    width = sample.image_size_wh[0]
    instances = tuple(
        replace(instance, box_xyxy=np.array([width - x1, y0, width - x0, y1]))
        for instance in sample.instances
        for x0, y0, x1, y1 in [instance.box_xyxy]
    )
    turns = tuple(
        replace(
            turn,
            question=swap_left_right(turn.question),
            answer=swap_left_right(turn.answer),
            prompts=_mirror_prompts(turn.prompts, width),
        )
        for turn in sample.turns
    )
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        masks=np.ascontiguousarray(sample.masks[:, :, ::-1]),
        instances=instances,
        turns=turns,
    )


def _mirror_prompts(prompts: Sequence[VisualPrompt], width: int) -> tuple[VisualPrompt, ...]:
    return tuple(mirror_prompt(prompt, width) for prompt in prompts)
