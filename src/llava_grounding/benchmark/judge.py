"""Decides which regions of a grounded answer are right: overlap with a labelled instance that the phrase names.

Deterministic: a phrase names a category when its head noun does, through the synonym table. Other judges (a language
model, recorded judgements) fit the same protocol. Knows no model and no data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from llava_grounding.data.sample import Instance
from llava_grounding.errors import DataError
from llava_grounding.geometry import box_iou
from llava_grounding.language.nouns import Lexicon
from llava_grounding.masks import mask_iou
from llava_grounding.matching import IOU_THRESHOLD, GroundingCounts, match_one_to_one
from llava_grounding.structures import GroundedAnswer, Region

OverlapOf = Literal["box", "mask"]


class PhraseJudge(Protocol):
    """Whether words fit a labelled category."""

    def categories_of(self, phrase: str) -> tuple[str, ...]:
        """Categories the phrase may name; empty when it names none that is known."""
        ...


@dataclass(frozen=True)
class Judgement:
    """What one answer got right.

    Args:
        counts: regions and instances, predicted and right.
        pairs: (phrase, region of the phrase, instance) of every right region.
        mask_ious: mask overlap of the right regions whose instance has a mask.
        unjudged: regions left out because nobody labelled what their phrase names.
        left_out: those phrases.
    """

    counts: GroundingCounts
    pairs: tuple[tuple[int, int, int], ...]
    mask_ious: tuple[float, ...]
    unjudged: int
    left_out: frozenset[int] = frozenset()


def judge_answer(
    answer: GroundedAnswer,
    instances: Sequence[Instance],
    masks: np.ndarray,
    judge: PhraseJudge | Lexicon,
    exhaustive: frozenset[str] | None = None,
    overlap_of: OverlapOf = "box",
    threshold: float = IOU_THRESHOLD,
) -> Judgement:
    """Judges every region of an answer.

    Within a phrase regions and instances are matched one to one, so two boxes on one dog under "two dogs" are one right
    and one wrong; another phrase may name the same dog again and be right again, which adds to `tp_predicted` only.

    Args:
        masks: (n, H, W) bool, one row per instance.
        exhaustive: categories labelled everywhere; None = all. A phrase that names only others, none of them present,
            cannot be judged and is left out.
        overlap_of: which overlap must reach the threshold; `mask` needs a mask for every instance.

    Source: LLaVA-Grounding (arXiv:2312.02949), Grounding-Bench, with the language model replaced by a synonym table.
    """
    if overlap_of == "mask" and not all(instance.has_mask for instance in instances):
        raise DataError("judging by mask needs a mask for every instance; leave out images with boxes only")
    present = {instance.category for instance in instances}
    pairs: list[tuple[int, int, int]] = []
    num_predicted = unjudged = 0
    left_out = set()
    for position, phrase in enumerate(answer.phrases):
        named = judge.categories_of(phrase.text)
        if _beyond_labels(named, present, exhaustive):
            unjudged += len(phrase.regions)
            left_out.add(position)
            continue
        num_predicted += len(phrase.regions)
        fitting = [index for index, instance in enumerate(instances) if instance.category in named]
        overlaps = _overlaps(phrase.regions, fitting, instances, masks, overlap_of)
        pairs.extend((position, row, fitting[column]) for row, column in match_one_to_one(overlaps, threshold))
    counts = GroundingCounts(num_predicted, len(instances), len(pairs), len({instance for _, _, instance in pairs}))
    found = [(answer.phrases[phrase].regions[row].mask, index) for phrase, row, index in pairs]
    mask_ious = tuple(
        float(mask_iou(mask[None], masks[index][None])[0, 0])
        for mask, index in found
        if mask is not None and instances[index].has_mask
    )
    return Judgement(counts, tuple(pairs), mask_ious, unjudged, frozenset(left_out))


def _beyond_labels(named: tuple[str, ...], present: set[str], exhaustive: frozenset[str] | None) -> bool:
    if exhaustive is None or not named:
        return False
    return not any(name in exhaustive or name in present for name in named)


def _overlaps(
    regions: Sequence[Region],
    fitting: list[int],
    instances: Sequence[Instance],
    masks: np.ndarray,
    overlap_of: OverlapOf,
) -> np.ndarray:
    """Intersection over union (regions, fitting instances); a region without a mask overlaps nothing by mask."""
    if not regions or not fitting:
        return np.zeros((len(regions), len(fitting)))
    if overlap_of == "box":
        boxes = np.stack([region.box_xyxy for region in regions])
        return np.asarray(box_iou(boxes, np.stack([instances[index].box_xyxy for index in fitting])))
    empty = np.zeros(masks.shape[1:], dtype=bool)
    return mask_iou(np.stack([empty if r.mask is None else r.mask for r in regions]), masks[fitting])
