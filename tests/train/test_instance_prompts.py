"""Prompts for every thing of an image: as people point, and as the original was trained."""

from __future__ import annotations

import numpy as np
from hand_made import DOG, sample, thing

from llava_grounding.geometry import Letterbox
from llava_grounding.train.batching.instance_prompts import (
    CLICK_PIXELS,
    instance_prompts,
    jitter_prompts,
    original_prompts,
    promptable,
)

CAT, TREE, NOTHING = (36, 4, 48, 20), (56, 30, 76, 56), (5, 5, 5, 9)
THINGS = (DOG, thing("cat", CAT), thing("tree", TREE, has_mask=False), thing("dog", NOTHING))
SAMPLE = sample(THINGS, ())
CANVAS = Letterbox.fit(SAMPLE.image_size_wh, (160, 160))


def test_what_has_neither_mask_nor_area_is_not_pointed_at() -> None:
    assert promptable(SAMPLE) == [0, 1, 2]


def test_every_thing_gets_a_prompt_in_the_frame_of_the_model() -> None:
    for seed in range(20):
        prompts = instance_prompts(SAMPLE, [0, 1, 2], CANVAS, np.random.default_rng(seed))
        middle = prompts.boxes_cxcywh_norm[:, :2] * 160
        for (x, y), row in zip(middle, (0, 1, 2), strict=True):
            x0, y0, x1, y1 = CANVAS.boxes_to_canvas(THINGS[row].box_xyxy)
            assert x0 <= x <= x1
            assert y0 <= y <= y1
        assert prompts.types[2] == 1


def test_the_original_clicks_at_the_first_things_and_boxes_the_others() -> None:
    seen = set()
    for seed in range(60):
        prompts = original_prompts(SAMPLE, [1, 0, 2], CANVAS, np.random.default_rng(seed))
        kinds = "".join(map(str, prompts.types))
        seen.add(kinds)
        assert not prompts.coverage.any()
        for place, row in enumerate((1, 0, 2)):
            box = prompts.boxes_cxcywh_norm[place] * 160
            exact = CANVAS.image_to_norm_cxcywh(THINGS[row].box_xyxy[None])[0] * 160
            if prompts.types[place] == 0:
                assert np.abs(box[2:] - CLICK_PIXELS).max() < 0.03
                x, y = CANVAS.points_to_image(box[:2])
                assert SAMPLE.masks[row][int(y + 0.05), int(x + 0.05)]
            else:
                assert (np.abs(box - exact) <= 0.4 * exact[[2, 3, 2, 3]] + 1e-3).all()
    # From none to all; what has no mask is boxed even then.
    assert seen == {"111", "011", "001"}


def test_noise_moves_boxes_by_their_size_and_clicks_by_a_hundredth_of_that() -> None:
    boxes = np.array([[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.4], [0.9, 0.9, 0.9, 0.9]], dtype=np.float32)
    noise = np.array([[1, 0, 0.5, 1], [1, 0, 0.5, 1], [1, 1, 1, 1]], dtype=np.float32)
    moved = jitter_prompts(boxes, np.array([1, 0, 1]), noise)
    np.testing.assert_allclose(moved[0], [0.54, 0.42, 0.2, 0.56], atol=1e-6)
    np.testing.assert_allclose(moved[1], [0.5004, 0.4992, 0.2, 0.4016], atol=1e-6)
    np.testing.assert_allclose(moved[2], [1, 1, 1, 1])
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(jitter_prompts(boxes[:2], np.array([1, 0]), np.full((2, 4), 0.5)), boxes[:2])


def test_an_image_without_things_has_no_prompts() -> None:
    empty = original_prompts(sample((), ()), [], CANVAS, np.random.default_rng(0))
    assert empty.boxes_cxcywh_norm.shape == (0, 4)
    assert promptable(sample((), ())) == []
