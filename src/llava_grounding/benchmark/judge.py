"""Judges a grounded answer of ours by words alone: its regions with their masks against an image's instances.

`grounding` has the rules of what is right, and counts; a lexicon knows which categories a phrase names. Knows no model
and no data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from llava_grounding.benchmark.grounding import OverlapOf, Overlaps, match_regions
from llava_grounding.benchmark.judging import verdict_by_names
from llava_grounding.data.sample import Instance
from llava_grounding.errors import DataError
from llava_grounding.geometry import box_iou
from llava_grounding.language.nouns import Lexicon
from llava_grounding.masks import mask_iou
from llava_grounding.matching import IOU_THRESHOLD, GroundingCounts
from llava_grounding.structures import GroundedAnswer, Region


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
    words: Lexicon,
    exhaustive: frozenset[str] | None = None,
    overlap_of: OverlapOf = "box",
    threshold: float = IOU_THRESHOLD,
) -> Judgement:
    """Judges every region of an answer by the rules of `grounding`.

    Args:
        masks: (n, H, W) bool, one row per instance.
        exhaustive: categories labelled everywhere; None = all. A phrase that names only others, none of them present,
            cannot be judged and is left out.
        overlap_of: which overlap must reach the threshold; `mask` needs a mask for every instance.

    Source: LLaVA-Grounding (arXiv:2312.02949), Grounding-Bench, with the language model replaced by a synonym table.
    """
    if overlap_of == "mask" and not all(instance.has_mask for instance in instances):
        raise DataError("judging by mask needs a mask for every instance; leave out images with boxes only")
    named = [words.categories_of(phrase.text) for phrase in answer.phrases]
    categories = [instance.category for instance in instances]
    everything = product(range(len(named)), range(len(instances)))
    verdict = verdict_by_names(named, categories, everything, exhaustive)
    regions = [region for phrase in answer.phrases for region in phrase.regions]
    phrases = np.repeat(np.arange(len(named)), [len(phrase.regions) for phrase in answer.phrases])
    table = np.zeros((len(regions), len(instances)))
    for number in range(len(named)):
        rows = np.flatnonzero(phrases == number)
        meant = np.array([instance for phrase, instance in verdict.right if phrase == number], dtype=np.int64)
        if len(rows) and len(meant):
            own = [regions[row] for row in rows]
            table[np.ix_(rows, meant)] = _overlaps(own, meant, instances, masks, overlap_of)
    left_out = frozenset(verdict.left_out)
    matched = match_regions(
        Overlaps(table, phrases),
        np.array([region.box_xyxy for region in regions]).reshape(-1, 4),
        [(instance.box_xyxy.tolist(), instance.category) for instance in instances],
        verdict.right,
        left_out,
        (threshold,),
    )
    found = [(answer.phrases[phrase].regions[row].mask, index) for phrase, row, index in matched.pairs]
    mask_ious = tuple(
        float(mask_iou(mask[None], masks[index][None])[0, 0])
        for mask, index in found
        if mask is not None and instances[index].has_mask
    )
    return Judgement(matched.counts, matched.pairs, mask_ious, matched.left_out, left_out)


def _overlaps(
    regions: Sequence[Region],
    meant: np.ndarray,
    instances: Sequence[Instance],
    masks: np.ndarray,
    overlap_of: OverlapOf,
) -> np.ndarray:
    """Intersection over union (regions, instances meant); a region without a mask overlaps nothing by mask."""
    if overlap_of == "box":
        boxes = np.stack([region.box_xyxy for region in regions])
        return np.asarray(box_iou(boxes, np.stack([instances[index].box_xyxy for index in meant])))
    empty = np.zeros(masks.shape[1:], dtype=bool)
    return mask_iou(np.stack([empty if r.mask is None else r.mask for r in regions]), masks[meant])
