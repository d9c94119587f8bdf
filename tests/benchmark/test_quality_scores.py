"""What a description is worth, on answers small enough to judge by eye."""

from __future__ import annotations

import numpy as np

from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction
from llava_grounding.benchmark.quality_scores import (
    BY_BOX,
    BY_MASK,
    MASK_IOU,
    NOT_JUDGED,
    OBJECTS_PRECISION,
    OBJECTS_RECALL,
    Rows,
    described,
    with_captions,
)
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance
from llava_grounding.language.nouns import lexicon
from llava_grounding.masks import encode_rle

SIZE_WH = (100, 60)
Box = tuple[float, float, float, float]
LEFT: Box = (0, 0, 20, 20)
RIGHT: Box = (60, 0, 90, 30)
FAR: Box = (40, 40, 60, 60)
DOGS = (("dog", LEFT), ("dog", RIGHT), ("person", FAR))


def mask_of(box: Box) -> dict[str, object]:
    mask = np.zeros((SIZE_WH[1], SIZE_WH[0]), dtype=bool)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0:y1, x0:x1] = True
    return encode_rle(mask)


def rows_of(
    *said: tuple[str, list[Box]],
    things: tuple[tuple[str, Box], ...] = DOGS,
    true_masks: tuple[Box | None, ...] | None = None,
    with_masks: bool = False,
    exhaustive: tuple[str, ...] | None = None,
) -> Rows:
    """Rows of an answer of phrases joined by blanks, each with its boxes."""
    masks = [box for _, box in things] if true_masks is None else true_masks
    instances = tuple(
        LabelledInstance(category, box, None if mask is None else mask_of(mask))
        for (category, box), mask in zip(things, masks, strict=True)
    )
    sample = BenchmarkSample("1", "1.png", SIZE_WH, instances=instances, exhaustive=exhaustive)
    phrases = tuple(
        PredictedPhrase(words, tuple(PredictedRegion(box, 0.9, mask_of(box) if with_masks else None) for box in boxes))
        for words, boxes in said
    )
    answer = Prediction("1", " ".join(words for words, _ in said), phrases)
    return dict(described(sample, answer, lexicon(())).rows)


def test_regions_count_by_words_and_by_place() -> None:
    assert rows_of(("two puppies", [RIGHT, LEFT]), ("a man", [FAR]))[BY_BOX] == (3, 3, 3, 3)
    for wrong in (("a cat", [LEFT]), ("something", [LEFT]), ("a dog", [FAR])):
        assert rows_of(wrong)[BY_BOX] == (1, 3, 0, 0)
    assert rows_of(("dogs", [LEFT, (0, 0, 20, 19)]))[BY_BOX] == (2, 3, 1, 1)
    assert rows_of(("a dog", [LEFT]), ("the dog", [LEFT]))[BY_BOX] == (2, 3, 2, 1)
    assert rows_of(("a dog", []))[BY_BOX] == rows_of()[BY_BOX] == (0, 3, 0, 0)
    one = (("dog", LEFT),)
    assert rows_of(("a dog", [(0, 0, 20, 10)]), things=one)[BY_BOX] == (1, 1, 1, 1)
    assert rows_of(("a dog", [(0, 0, 20, 9)]), things=one)[BY_BOX] == (1, 1, 0, 0)


def test_what_nobody_labelled_is_left_out() -> None:
    said = (("a dog", [LEFT]), ("a car", [RIGHT]), ("a thing", [FAR]))
    judged = rows_of(*said, exhaustive=("dog", "person"))
    assert (judged[BY_BOX], judged[NOT_JUDGED]) == ((2, 3, 1, 1), (1,))
    assert (judged[OBJECTS_PRECISION], judged[OBJECTS_RECALL]) == ((1, 1), (1, 2))
    assert NOT_JUDGED not in rows_of(*said, exhaustive=("car",))
    assert rows_of(*said)[BY_BOX] == (3, 3, 1, 1)
    assert BY_BOX not in rows_of(*said, things=())


def test_masks_of_right_regions_are_compared_and_by_mask_a_box_is_nothing() -> None:
    assert rows_of(("a dog", [(0, 0, 20, 15)]), with_masks=True)[MASK_IOU] == (0.75, 1)
    one, thin = (("dog", LEFT),), ((0, 0, 5, 20),)  # a quarter of the box
    judged = rows_of(("a dog", [LEFT]), things=one, true_masks=thin, with_masks=True)
    assert (judged[BY_BOX], judged[BY_MASK]) == ((1, 1, 1, 1), (1, 1, 0, 0))
    boxes = rows_of(("a dog", [LEFT]), things=one)
    assert (boxes[BY_BOX], boxes[BY_MASK]) == ((1, 1, 1, 1), (1, 1, 0, 0))
    assert MASK_IOU not in boxes
    partly = rows_of(("a dog", [LEFT]), true_masks=(LEFT, None, None), with_masks=True)
    assert BY_MASK not in partly
    assert partly[MASK_IOU] == (1, 1)


def test_words_without_regions_are_measured_where_they_were_asked_for() -> None:
    said = ["a dog on a red sofa", "two cats below the old table", "nobody rides this bicycle today"]
    samples = [
        BenchmarkSample(str(number), f"{number}.png", SIZE_WH, kind="describe", references=(text,))
        for number, text in enumerate(said)
    ]
    texts = zip(said, (None, said[1], ""), strict=True)
    answers = [Prediction(str(number), text, plain_text=plain) for number, (text, plain) in enumerate(texts)]
    pairs = zip(samples, answers, strict=True)
    scores = with_captions(samples, answers, [described(*pair, lexicon(())) for pair in pairs])
    plain = [score.rows.get("cider_d_without_regions") for score in scores]
    assert plain == [None, scores[1].rows["cider_d"], (0, 1)]
    assert scores[1].rows["cider_d"][0] > 1
