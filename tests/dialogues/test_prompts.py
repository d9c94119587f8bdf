"""Prompts point at the thing they are made for."""

from __future__ import annotations

import numpy as np
import pytest

from llava_grounding.dialogues.prompts import can_point_at, sample_prompt
from llava_grounding.dialogues.settings import PromptSettings

MASK = np.zeros((20, 30), dtype=bool)
MASK[5:12, 8:20] = True
MASK[5, 8] = False
BOX = np.array([8.0, 5.0, 20.0, 12.0])
NONE = dict.fromkeys(("clicks", "boxes", "jittered_boxes", "scribbles", "masks"), 0.0)


def test_every_pixel_of_a_mask_is_clicked_as_often_as_any_other() -> None:
    rng, settings = np.random.default_rng(0), PromptSettings(**NONE | {"clicks": 1.0})
    counts = np.zeros(MASK.shape)
    for _ in range(4000):
        (x, y), *_ = sample_prompt(MASK, BOX, rng, settings).points_xy  # type: ignore[misc]
        counts[int(y), int(x)] += 1
    assert not counts[~MASK].any()
    assert counts[MASK].min() > 20
    assert counts[MASK].max() < 90


def test_a_jittered_box_stays_near_its_thing_and_in_the_image() -> None:
    rng, settings = np.random.default_rng(0), PromptSettings(**NONE | {"jittered_boxes": 1.0, "jitter": 0.5})
    boxes = np.array([sample_prompt(MASK, BOX, rng, settings).box_xyxy for _ in range(300)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (30, 20)).all()
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert (sizes >= np.array([6, 3.5]) - 0.25).all()
    assert (sizes <= np.array([18, 10.5]) + 0.25).all()
    assert np.ptp(boxes, axis=0).min() > 1


@pytest.mark.parametrize("settings", [PromptSettings(), PromptSettings(**NONE | {"clicks": 1.0})])
def test_what_has_no_mask_gets_a_box(settings: PromptSettings) -> None:
    rng = np.random.default_rng(0)
    found = [sample_prompt(np.zeros_like(MASK), BOX, rng, settings) for _ in range(40)]
    assert {prompt.kind for prompt in found} == {"box"}
    exact = [np.array_equal(prompt.box_xyxy, BOX) for prompt in found]  # type: ignore[arg-type]
    assert any(exact)
    assert all(exact) == (settings.jittered_boxes == 0)


def test_there_must_be_something_to_point_at() -> None:
    nothing = np.zeros_like(MASK)
    assert can_point_at(MASK, np.zeros(4))
    assert can_point_at(nothing, BOX)
    assert not can_point_at(nothing, np.array([5.0, 5.0, 5.0, 9.0]))
    assert not can_point_at(nothing, np.array([40.0, 5.0, 50.0, 9.0]))
    prompt = sample_prompt(MASK, np.zeros(4), np.random.default_rng(0), PromptSettings(**NONE | {"boxes": 1.0}))
    assert np.array_equal(prompt.box_xyxy, BOX)  # type: ignore[arg-type]
