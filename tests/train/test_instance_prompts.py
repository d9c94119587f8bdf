"""Prompts for every thing of an image, as people point."""

from __future__ import annotations

import numpy as np
from hand_made import DOG, sample, thing

from llava_grounding.geometry import Letterbox
from llava_grounding.train.batching.instance_prompts import (
    instance_prompts,
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


def test_an_image_without_things_has_no_prompts() -> None:
    assert promptable(sample((), ())) == []
    assert instance_prompts(sample((), ()), [], CANVAS, np.random.default_rng(0)).boxes_cxcywh_norm.shape == (0, 4)
