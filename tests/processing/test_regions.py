"""Visual prompts to the model's frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_grounding.errors import PromptError
from llava_grounding.geometry import Letterbox
from llava_grounding.processing.regions import CLICK_SIZE, collate_prompts, encode_prompts
from llava_grounding.structures import VisualPrompt

LETTERBOX = Letterbox.fit((200, 100), (64, 64))  # content 64 x 32


def test_a_click_is_a_small_box_where_it_was_made() -> None:
    encoded = encode_prompts([VisualPrompt.click(100, 50)], LETTERBOX)
    np.testing.assert_allclose(encoded.boxes_cxcywh_norm, [[0.5, 0.25, CLICK_SIZE, CLICK_SIZE]], atol=1e-6)
    assert encoded.types.tolist() == [0]
    assert not encoded.coverage.any()


@pytest.mark.parametrize("place", [(0, 0), (199.9, 0), (0, 99.9), (199.9, 99.9), (0.2, 50)])
def test_a_click_near_the_edge_stays_where_it_was_made(place: tuple[float, float]) -> None:
    encoded = encode_prompts([VisualPrompt.click(*place)], LETTERBOX)
    np.testing.assert_allclose(encoded.boxes_cxcywh_norm[0, :2], [place[0] / 200, place[1] / 200], atol=1e-6)


def test_a_box_keeps_its_place_and_size_and_is_cut_to_the_image() -> None:
    prompts = [VisualPrompt.box(50, 25, 100, 75), VisualPrompt.box(150, -20, 500, 100)]
    encoded = encode_prompts(prompts, LETTERBOX)
    np.testing.assert_allclose(
        encoded.boxes_cxcywh_norm, [[0.375, 0.25, 0.25, 0.25], [0.875, 0.25, 0.25, 0.5]], atol=1e-6
    )
    assert encoded.types.tolist() == [1, 1]
    assert not encoded.coverage.any()


def test_a_scribble_covers_the_cells_it_runs_through() -> None:
    encoded = encode_prompts([VisualPrompt.scribble([(10, 50), (190, 50)])], LETTERBOX)
    assert encoded.types.tolist() == [0]
    rows, columns = np.nonzero(encoded.coverage[0])
    assert set(rows) == {1, 2}  # y = 50 is canvas row 16, on the border of cells 1 and 2
    assert set(columns) == set(range(8))
    assert encoded.coverage[0].max() < 0.5  # thin


def test_a_mask_covers_its_cells_fully_and_has_its_bounds() -> None:
    mask = np.zeros((100, 200), dtype=bool)
    mask[0:50, 100:200] = True
    encoded = encode_prompts([VisualPrompt.mask_of(mask)], LETTERBOX)
    np.testing.assert_allclose(encoded.boxes_cxcywh_norm, [[0.75, 0.125, 0.5, 0.25]], atol=1e-6)
    expected = np.zeros((8, 8))
    expected[:2, 4:] = 1
    np.testing.assert_allclose(encoded.coverage[0], expected, atol=1e-5)
    assert encoded.types.tolist() == [1]


def test_a_mask_with_logits_covers_what_they_expect_and_keeps_the_bounds_of_its_pixels() -> None:
    mask, sure = np.zeros((100, 200), dtype=bool), np.full((16, 16), -99.0, dtype=np.float32)
    mask[0:50, 100:200] = True
    sure[:4, 8:] = 99.0
    for logits, inside in ((sure, 1.0), (np.where(sure > 0, np.log(3), sure).astype(np.float32), 0.75)):
        hard = encode_prompts([VisualPrompt.mask_of(mask)] * 2, LETTERBOX)
        soft = encode_prompts([VisualPrompt.mask_of(mask, logits)] * 2, LETTERBOX)
        np.testing.assert_array_equal(soft.boxes_cxcywh_norm, hard.boxes_cxcywh_norm)
        np.testing.assert_allclose(soft.coverage, inside * hard.coverage, atol=1e-5)


def test_logits_in_the_padding_of_the_canvas_cover_nothing() -> None:
    prompt = VisualPrompt.mask_of(np.ones((100, 200)), np.full((16, 16), 99.0, dtype=np.float32))
    coverage = encode_prompts([prompt], LETTERBOX).coverage[0]
    np.testing.assert_allclose(coverage, [[1.0] * 8] * 4 + [[0.0] * 8] * 4)


def test_logits_of_another_model_are_refused() -> None:
    prompt = VisualPrompt.mask_of(np.ones((100, 200)), np.ones((40, 40)))
    with pytest.raises(PromptError, match=r"^mask_logits must be \(16, 16\) as this model gives them, got \(40, 40\)$"):
        encode_prompts([prompt], LETTERBOX)


def test_drawn_shapes_of_one_pixel_are_as_large_as_a_click() -> None:
    mask = np.zeros((2000, 2000), dtype=bool)
    mask[7, 9] = True
    letterbox = Letterbox.fit((2000, 2000), (64, 64))
    encoded = encode_prompts([VisualPrompt.mask_of(mask), VisualPrompt.scribble([(9, 7)])], letterbox)
    np.testing.assert_allclose(encoded.boxes_cxcywh_norm[:, 2:], CLICK_SIZE, atol=1e-7)
    assert (encoded.coverage.reshape(2, -1).sum(axis=1) > 0).all()


def test_a_stroke_that_leaves_the_image_far_behind_is_drawn_as_far_as_it_goes() -> None:
    encoded = encode_prompts([VisualPrompt.scribble([(100, 50), (1e9, 50), (5e8, -1e9)])], LETTERBOX)
    assert encoded.coverage[0, :, :4].sum() == pytest.approx(0, abs=0.1)
    assert (encoded.coverage[0, 1:3, 4:].sum(axis=0) > 0).all()


@settings(max_examples=50)
@given(
    points=st.lists(st.tuples(st.floats(-50, 250), st.floats(-50, 150)), min_size=1, max_size=5),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_any_scribble_that_touches_the_image_encodes_inside_the_canvas(
    points: list[tuple[float, float]], size: tuple[int, int]
) -> None:
    prompt = VisualPrompt.scribble(points)
    letterbox = Letterbox.fit(size, (64, 64))
    try:
        encoded = encode_prompts([prompt], letterbox)
    except PromptError:
        return
    assert np.isfinite(encoded.boxes_cxcywh_norm).all()
    assert (encoded.boxes_cxcywh_norm >= 0).all()
    assert (encoded.boxes_cxcywh_norm <= 1).all()
    assert (encoded.boxes_cxcywh_norm[:, 2:] > 0).all()
    assert (encoded.coverage >= 0).all()
    assert (encoded.coverage <= 1).all()
    assert encoded.coverage.any()


def test_a_prompt_that_does_not_fit_the_image_is_refused() -> None:
    with pytest.raises(PromptError, match="a click must lie inside the image of 200 x 100 pixels"):
        encode_prompts([VisualPrompt.click(10, 10), VisualPrompt.click(300, 10)], LETTERBOX)


def test_no_prompts_encode_to_empty_arrays_and_collate_to_nothing() -> None:
    empty = encode_prompts([], LETTERBOX)
    assert (empty.boxes_cxcywh_norm.shape, empty.types.shape, empty.coverage.shape) == ((0, 4), (0,), (0, 8, 8))
    assert collate_prompts([empty, empty]) is None
    assert collate_prompts([]) is None


def test_rows_of_prompts_are_padded_to_the_longest_and_marked() -> None:
    two = encode_prompts([VisualPrompt.box(0, 0, 50, 50), VisualPrompt.click(9, 9)], LETTERBOX)
    batch = collate_prompts([two, encode_prompts([], LETTERBOX)])
    assert batch is not None
    assert batch.valid.tolist() == [[True, True], [False, False]]
    assert batch.types[0].tolist() == [1, 0]
    np.testing.assert_allclose(batch.boxes_cxcywh_norm[0].numpy(), two.boxes_cxcywh_norm)
    assert batch.coverage is None
    drawn = collate_prompts([two, encode_prompts([VisualPrompt.scribble([(5, 5), (90, 90)])], LETTERBOX)])
    assert drawn is not None
    assert drawn.coverage is not None
    assert drawn.coverage.flatten(2).any(dim=2).tolist() == [[False, False], [True, False]]
