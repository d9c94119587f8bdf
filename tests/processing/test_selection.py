"""Which queries a phrase keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_grounding.errors import LlavaGroundingError
from llava_grounding.geometry import Letterbox, box_iou
from llava_grounding.model.outputs import GrounderOutput
from llava_grounding.processing.selection import SelectionSettings, keep_queries, query_scores, select_regions

BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [20, 20, 30, 29]], dtype=np.float32)


def output(logits: list[list[float]]) -> GrounderOutput:
    """One image, one query per row of logits, one phrase per column."""
    phrase_logits = torch.tensor(logits)[None]
    queries = phrase_logits.shape[1]
    centres = torch.linspace(0.2, 0.8, queries)
    boxes = torch.stack([centres, centres, torch.full_like(centres, 0.1), torch.full_like(centres, 0.1)], dim=-1)
    return GrounderOutput(
        phrase_logits=phrase_logits,
        boxes_cxcywh_norm=boxes[None],
        mask_embeds=torch.eye(queries)[None],
        queries=torch.zeros(1, queries, 4),
        mask_features=torch.arange(queries * 6.0).reshape(1, queries, 2, 3),
        topk_indices=torch.zeros(1, queries, dtype=torch.long),
    )


def test_kept_queries_come_best_first() -> None:
    scores = np.array([0.4, 0.1, 0.9, 0.6])
    assert keep_queries(scores, BOXES, 0.3, None).tolist() == [2, 3, 0]


def test_a_query_on_the_same_thing_as_a_better_one_is_dropped() -> None:
    scores = np.array([0.4, 0.8, 0.9, 0.6])
    assert keep_queries(scores, BOXES, 0.3, 0.7).tolist() == [2, 1]
    assert keep_queries(scores, BOXES, 0.3, 0.95).tolist() == [2, 1, 3, 0]


def test_a_box_that_is_a_double_makes_no_other_one() -> None:
    row = np.array([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0], [8.0, 0.0, 18.0, 10.0]])  # each overlaps the next
    assert keep_queries(np.array([0.9, 0.8, 0.7]), row, 0.3, 0.4).tolist() == [0, 2]
    assert keep_queries(np.array([0.8, 0.9, 0.7]), row, 0.3, 0.4).tolist() == [1]


def test_equal_scores_keep_their_order() -> None:
    assert keep_queries(np.full(4, 0.5), BOXES, 0.3, None).tolist() == [0, 1, 2, 3]


def test_a_score_at_the_threshold_is_not_enough() -> None:
    assert keep_queries(np.array([0.3, 0.31]), BOXES[:2], 0.3, None).tolist() == [1]


@settings(max_examples=50)
@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    threshold=st.floats(0, 1),
    nms_iou=st.floats(0.1, 0.9),
)
def test_suppression_keeps_the_best_and_leaves_no_doubles(
    scores: list[float], seed: int, threshold: float, nms_iou: float
) -> None:
    corners = np.sort(np.random.default_rng(seed).uniform(0, 10, (len(scores), 2, 2)), axis=1)
    boxes = corners.reshape(-1, 4)
    values = np.array(scores)
    all_kept, kept = keep_queries(values, boxes, threshold, None), keep_queries(values, boxes, threshold, nms_iou)
    assert set(kept) <= set(all_kept)
    assert kept[:1].tolist() == all_kept[:1].tolist()
    overlap = box_iou(boxes[kept], boxes[kept])
    assert (overlap[~np.eye(len(kept), dtype=bool)] <= nms_iou).all()
    for dropped in set(all_kept) - set(kept):
        better = [row for row in kept if values[row] >= values[dropped]]
        assert box_iou(boxes[[dropped]], boxes[better]).max() > nms_iou


def test_softmax_shares_one_among_the_queries_and_sigmoid_judges_each_by_itself() -> None:
    logits = torch.tensor([[2.0, -1.0], [2.0, 0.0]])
    torch.testing.assert_close(query_scores(logits, "softmax").sum(0), torch.ones(2))
    assert query_scores(logits, "softmax")[0, 0] == 0.5
    torch.testing.assert_close(query_scores(logits, "sigmoid"), logits.sigmoid())


def test_each_phrase_gets_its_own_boxes_scores_and_masks() -> None:
    found = select_regions(output([[3.0, -3.0], [-3.0, 2.0], [4.0, 1.0]]), 0, 2, SelectionSettings("sigmoid", 0.5))
    assert [phrase.query_index.tolist() for phrase in found] == [[2, 0], [1, 2]]
    first, second = found
    np.testing.assert_allclose(first.scores, 1 / (1 + np.exp([-4.0, -3.0])), rtol=1e-5)
    assert first.best_score == pytest.approx(first.scores[0])
    np.testing.assert_allclose(first.boxes_cxcywh_norm[:, 0], [0.8, 0.2], atol=1e-6)
    assert first.mask_logits.shape == (2, 2, 3)
    np.testing.assert_array_equal(first.mask_logits[0], np.arange(12, 18).reshape(2, 3))
    np.testing.assert_array_equal(second.mask_logits[0], np.arange(6, 12).reshape(2, 3))


def test_a_phrase_that_finds_nothing_keeps_its_best_score() -> None:
    (phrase,) = select_regions(output([[-2.0], [-1.0]]), 0, 1, SelectionSettings("sigmoid", 0.5))
    assert len(phrase.query_index) == len(phrase.scores) == len(phrase.mask_logits) == 0
    assert phrase.boxes_cxcywh_norm.shape == (0, 4)
    assert phrase.best_score == pytest.approx(1 / (1 + np.e), abs=1e-5)


def test_no_phrases_and_padded_phrases_give_nothing() -> None:
    assert select_regions(output([[1.0], [2.0]]), 0, 0, SelectionSettings()) == []
    assert len(select_regions(output([[1.0, -100.0], [2.0, -100.0]]), 0, 1, SelectionSettings("sigmoid"))) == 1


def masked(cells: list[list[tuple[int, int]]], boxes: list[list[float]], scores: list[float]) -> GrounderOutput:
    """One phrase; each query has its score, its box, and a mask of these (row, column) of 4 x 4 cells."""
    queries = len(cells)
    features = torch.full((queries, 4, 4), -1.0)
    for query, found in enumerate(cells):
        for row, column in found:
            features[query, row, column] = 1.0
    logits = torch.tensor(scores).logit()[:, None]
    return replace(
        output(logits.tolist()),
        boxes_cxcywh_norm=torch.tensor(boxes)[None],
        mask_features=features[None],
        mask_embeds=torch.eye(queries)[None],
    )


WIDE = Letterbox.fit((80, 40), (40, 40))  # the upper half of the canvas: two of four rows of cells
SETTINGS = SelectionSettings("sigmoid", 0.3, 0.7)
BOX = [0.5, 0.25, 0.4, 0.2]


def test_a_query_without_a_mask_in_the_image_is_none_and_leaves_its_place() -> None:
    found = masked([[], [(3, 1)], [(1, 1)], [(0, 2)]], [BOX] * 4, [0.9, 0.8, 0.7, 0.6])
    (phrase,) = select_regions(found, 0, 1, SETTINGS, WIDE)
    assert phrase.query_index.tolist() == [2]  # the first two would have suppressed it, it suppresses the last
    assert phrase.best_score == pytest.approx(0.7)
    assert select_regions(found, 0, 1, SETTINGS)[0].query_index.tolist() == [0]  # no image, no rule


@pytest.mark.parametrize(
    "box", [[0.5, 0.25, 0.0, 0.2], [0.5, 0.25, 0.4, 0.0], [0.5, 0.8, 0.4, 0.2], [1.5, 0.25, 0.4, 0.2]]
)
def test_a_query_whose_box_has_no_area_in_the_image_is_none(box: list[float]) -> None:
    (phrase,) = select_regions(masked([[(0, 0)], [(0, 0)]], [box, BOX], [0.9, 0.5]), 0, 1, SETTINGS, WIDE)
    assert phrase.query_index.tolist() == [1]
    assert phrase.best_score == pytest.approx(0.5)


def test_a_phrase_of_which_nothing_is_in_the_image_has_the_score_of_what_was_too_weak() -> None:
    (phrase,) = select_regions(masked([[], [(0, 0)]], [BOX] * 2, [0.9, 0.2]), 0, 1, SETTINGS, WIDE)
    assert len(phrase.query_index) == len(phrase.mask_logits) == 0
    assert phrase.best_score == pytest.approx(0.2)
    (phrase,) = select_regions(masked([[]], [BOX], [0.9]), 0, 1, SETTINGS, WIDE)
    assert phrase.best_score == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("field", "what"),
    [("phrase_logits", "scores"), ("boxes_cxcywh_norm", "boxes"), ("mask_features", "masks"), ("mask_embeds", "masks")],
)
def test_what_is_no_number_is_no_region(field: str, what: str, value: float) -> None:
    found = masked([[(0, 0)], [(1, 1)]], [BOX] * 2, [0.9, 0.8])
    broken = getattr(found, field).clone()
    broken.view(-1)[0] = value
    with pytest.raises(LlavaGroundingError, match=f"the grounder gave {what} that are not finite numbers"):
        select_regions(replace(found, **{field: broken}), 0, 1, SETTINGS, WIDE)


def test_a_padded_phrase_that_is_no_number_hurts_nobody() -> None:
    found = output([[1.0, float("nan")], [2.0, float("nan")]])
    assert len(select_regions(found, 0, 1, SelectionSettings("sigmoid"))) == 1


def test_a_phrase_below_the_threshold_of_doubt_is_doubtful() -> None:
    settings = SelectionSettings("sigmoid", 0.3, 0.7, 0.45)
    assert [settings.doubts(score) for score in (0.1, 0.44, 0.45, 0.9)] == [True, True, False, False]
    assert not SETTINGS.doubts(0.0)
    assert SETTINGS.to_dict() == {"score_function": "sigmoid", "score_threshold": 0.3, "nms_iou": 0.7}
    assert SelectionSettings(**settings.to_dict()) == settings


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 30),
    height=st.integers(1, 30),
    share=st.sampled_from([0.02, 0.1, 0.5]),
)
def test_what_is_kept_has_a_pixel_and_what_is_not_has_none(seed: int, width: int, height: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    letterbox = Letterbox.fit((width, height), (32, 32))
    logits = np.where(rng.random((6, 8, 8)) < share, rng.random((6, 8, 8)), -3 * rng.random((6, 8, 8)))
    found = masked([[]] * 6, [[0.5, 0.5, 1.0, 1.0]] * 6, [0.9] * 6)
    found = replace(found, mask_features=torch.from_numpy(logits).float()[None])
    (phrase,) = select_regions(found, 0, 1, SelectionSettings("sigmoid", 0.3, None), letterbox)
    pixels = letterbox.mask_to_image(logits).any(axis=(1, 2))
    assert sorted(phrase.query_index.tolist()) == np.flatnonzero(pixels).tolist()
