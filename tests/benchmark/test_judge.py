"""The deterministic judge on answers small enough to judge by eye."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from llava_grounding.benchmark.judge import judge_answer
from llava_grounding.data.sample import Instance
from llava_grounding.errors import DataError
from llava_grounding.language.nouns import lexicon
from llava_grounding.matching import GroundingCounts
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region

WORDS = lexicon(())
SIZE_WH = (100, 60)
Box = tuple[float, float, float, float]
LEFT: Box = (0, 0, 20, 20)
RIGHT: Box = (60, 0, 90, 30)
FAR: Box = (40, 40, 60, 60)


def mask_of(box: Box) -> np.ndarray:
    mask = np.zeros((SIZE_WH[1], SIZE_WH[0]), dtype=bool)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0:y1, x0:x1] = True
    return mask


def answer(*said: tuple[str, Sequence[Box]], with_masks: bool = False) -> GroundedAnswer:
    """An answer of phrases joined by blanks, each with its boxes."""
    text, phrases = "", []
    for number, (words, boxes) in enumerate(said):
        regions = tuple(Region(np.array(box, float), 0.9, mask_of(box) if with_masks else None) for box in boxes)
        phrases.append(GroundedPhrase(number, words, (len(text), len(text) + len(words)), regions, 0.9))
        text += words + " "
    return GroundedAnswer(text, tuple(phrases), SIZE_WH, text, "fake", 0, 0)


def truth(*things: tuple[str, Box], has_mask: bool = True) -> tuple[tuple[Instance, ...], np.ndarray]:
    instances = tuple(Instance(category, np.array(box), has_mask) for category, box in things)
    masks = (
        [mask_of(box) for _, box in things] if has_mask else [np.zeros((SIZE_WH[1], SIZE_WH[0]), bool)] * len(things)
    )
    return instances, np.array(masks).reshape(len(things), SIZE_WH[1], SIZE_WH[0])


DOGS = truth(("dog", LEFT), ("dog", RIGHT), ("person", FAR))


def counts_of(said: GroundedAnswer, things: tuple[tuple[Instance, ...], np.ndarray] = DOGS) -> GroundingCounts:
    return judge_answer(said, *things, WORDS).counts


def test_right_words_on_right_boxes_are_right() -> None:
    judged = judge_answer(answer(("two puppies", [RIGHT, LEFT]), ("a man", [FAR])), *DOGS, WORDS)
    assert judged.counts == GroundingCounts(3, 3, 3, 3)
    assert sorted(judged.pairs) == [(0, 0, 1), (0, 1, 0), (1, 0, 2)]


def test_wrong_words_on_a_right_box_are_wrong() -> None:
    assert counts_of(answer(("a cat", [LEFT]))) == GroundingCounts(1, 3, 0, 0)
    assert counts_of(answer(("something", [LEFT]))) == GroundingCounts(1, 3, 0, 0)


def test_right_words_on_a_wrong_box_are_wrong() -> None:
    assert counts_of(answer(("a dog", [FAR]))) == GroundingCounts(1, 3, 0, 0)


def test_two_boxes_of_one_phrase_cannot_share_an_instance() -> None:
    assert counts_of(answer(("dogs", [LEFT, (0, 0, 20, 19)]))) == GroundingCounts(2, 3, 1, 1)


def test_naming_a_thing_twice_is_right_twice_but_finds_it_once() -> None:
    assert counts_of(answer(("a dog", [LEFT]), ("the dog", [LEFT]))) == GroundingCounts(2, 3, 2, 1)


def test_a_phrase_without_regions_predicts_nothing() -> None:
    assert counts_of(answer(("a dog", []))) == GroundingCounts(0, 3, 0, 0)
    assert counts_of(answer()) == GroundingCounts(0, 3, 0, 0)


def test_what_nobody_labelled_is_left_out() -> None:
    said = answer(("a dog", [LEFT]), ("a car", [RIGHT]), ("a thing", [FAR]))
    judged = judge_answer(said, *DOGS, WORDS, exhaustive=frozenset({"dog", "person"}))
    assert judged.counts == GroundingCounts(2, 3, 1, 1)
    assert judged.unjudged == 1
    assert judge_answer(said, *DOGS, WORDS, exhaustive=frozenset({"car"})).unjudged == 0
    assert judge_answer(said, *DOGS, WORDS).counts.num_predicted == 3


def test_the_threshold_is_one_half() -> None:
    things = truth(("dog", (0, 0, 20, 20)))
    assert counts_of(answer(("a dog", [(0, 0, 20, 10)])), things).tp_predicted == 1
    assert counts_of(answer(("a dog", [(0, 0, 20, 9)])), things).tp_predicted == 0


def test_masks_of_right_regions_are_compared() -> None:
    judged = judge_answer(answer(("a dog", [(0, 0, 20, 15)]), with_masks=True), *DOGS, WORDS)
    assert judged.mask_ious == (0.75,)
    assert judge_answer(answer(("a dog", [LEFT])), *DOGS, WORDS).mask_ious == ()


def test_judging_by_mask_looks_at_masks_only() -> None:
    things, masks = truth(("dog", LEFT))
    thin = masks.copy()
    thin[0, 5:] = False  # a quarter of the box
    said = answer(("a dog", [LEFT]), with_masks=True)
    assert judge_answer(said, things, thin, WORDS).counts.tp_predicted == 1
    assert judge_answer(said, things, thin, WORDS, overlap_of="mask").counts.tp_predicted == 0
    no_masks = answer(("a dog", [LEFT]))
    assert judge_answer(no_masks, things, masks, WORDS, overlap_of="mask").counts == GroundingCounts(1, 1, 0, 0)


def test_judging_by_mask_refuses_instances_without_one() -> None:
    with pytest.raises(DataError, match="needs a mask for every instance"):
        judge_answer(answer(), *truth(("dog", LEFT), has_mask=False), WORDS, overlap_of="mask")


def test_an_image_without_instances_counts_every_region_as_wrong() -> None:
    assert counts_of(answer(("a dog", [LEFT])), truth()) == GroundingCounts(1, 0, 0, 0)
