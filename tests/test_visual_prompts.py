"""Visual prompts: what they accept, how they compare, and where they are."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_grounding.errors import PromptError
from llava_grounding.masks import encode_rle
from llava_grounding.structures import (
    PackedRegion,
    Region,
    VisualPrompt,
)
from llava_grounding.visual_prompts import prompt_from_dict, prompt_to_dict
from made_answers import a_mask

many = settings(max_examples=100, deadline=None)


PROMPTS = {
    "click": lambda: VisualPrompt.click(2, 1),
    "box": lambda: VisualPrompt.box(1, 0, 3, 2),
    "scribble": lambda: VisualPrompt.scribble([(0, 0), (3, 2)]),
    "mask": lambda: VisualPrompt.mask_of(a_mask()),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_a_prompt_holds_its_own_kind_of_place_and_nothing_else(kind):
    prompt = PROMPTS[kind]()
    assert prompt.kind == kind
    held = {name: getattr(prompt, name) for name in ("points_xy", "box_xyxy", "mask")}
    given = [name for name, value in held.items() if value is not None]
    assert given == [{"box": "box_xyxy", "mask": "mask"}.get(kind, "points_xy")]
    assert held[given[0]].dtype == (np.bool_ if kind == "mask" else np.float64)
    prompt.validate((4, 3))


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_are_equal_by_content_and_cannot_be_changed(kind):
    first, second = PROMPTS[kind](), PROMPTS[kind]()
    assert first == second == copy.deepcopy(first) == pickle.loads(pickle.dumps(first))
    assert hash(first) == hash(second)
    assert [PROMPTS[other]() == first for other in PROMPTS] == [other == kind for other in PROMPTS]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.kind = "box"
    array = next(a for a in (first.points_xy, first.box_xyxy, first.mask) if a is not None)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


@pytest.mark.parametrize(
    ("prompt", "data", "rounded"),
    [
        (VisualPrompt.click(2.675, 1), {"click": [2.675, 1.0]}, {"click": [2.67, 1.0]}),
        (VisualPrompt.box(0, 0, 3, 2.125), {"box": [0.0, 0.0, 3.0, 2.125]}, {"box": [0.0, 0.0, 3.0, 2.12]}),
        (VisualPrompt.scribble([(1, 2)]), {"scribble": [[1.0, 2.0]]}, {"scribble": [[1.0, 2.0]]}),
        (VisualPrompt.mask_of(a_mask()), {"mask": {"size": [3, 4], "counts": "41202"}}, None),
    ],
)
def test_a_prompt_is_read_from_the_plain_data_it_was_written_as(prompt, data, rounded):
    assert prompt_to_dict(prompt) == json.loads(json.dumps(data)) == data
    assert prompt_to_dict(prompt, digits=2) == (rounded or data)
    assert prompt_from_dict({"type": "region", "label": None, **data}) == prompt
    with pytest.raises(PromptError, match="exactly one of box, click, scribble, mask, got"):
        prompt_from_dict({**data, "click": [1, 1], "box": [0, 0, 2, 2]})


def test_a_mask_with_logits_is_another_prompt_than_the_bare_mask_and_the_same_json():
    bare, first, second = (
        VisualPrompt.mask_of(a_mask(), logits) for logits in (None, np.ones((2, 2)), [[1.0, 1], [1, 2]])
    )
    assert len({bare, first, second}) == 3
    assert first == VisualPrompt.mask_of(a_mask(), np.ones((2, 2), dtype=np.float32))
    assert prompt_to_dict(first) == prompt_to_dict(bare)
    with pytest.raises(ValueError, match="read-only"):
        first.mask_logits[0, 0] = 0


def test_masks_that_were_read_can_be_replaced_in_part():
    logits = np.ones((2, 2), dtype=np.float32)
    prompt = dataclasses.replace(VisualPrompt.mask_from_rle(encode_rle(a_mask())), mask_logits=logits)
    assert prompt == VisualPrompt.mask_of(a_mask(), logits)
    region = dataclasses.replace(PackedRegion(np.zeros(4), 0.5, encode_rle(a_mask()), logits), score=0.25)
    assert region == PackedRegion(np.zeros(4), 0.25, a_mask())
    np.testing.assert_array_equal(region.mask_logits, logits)


def test_prompts_at_other_places_are_other_prompts():
    assert VisualPrompt.click(1, 2) != VisualPrompt.click(2, 1)
    assert VisualPrompt.click(1, 2) != VisualPrompt.scribble([(1, 2)])
    assert VisualPrompt.mask_of(np.ones((2, 3))) != VisualPrompt.mask_of(np.ones((3, 2)))
    assert VisualPrompt.click(0.0, 1) == VisualPrompt.click(-0.0, 1)
    assert hash(VisualPrompt.click(0.0, 1)) == hash(VisualPrompt.click(-0.0, 1))
    assert VisualPrompt.click(1, 2) != "click"


def test_a_prompt_is_not_changed_through_the_array_it_was_made_of():
    mask = a_mask()
    prompt = VisualPrompt.mask_of(mask)
    mask[:] = True
    assert np.array_equal(prompt.mask, a_mask())
    region = Region(np.array([0.0, 0, 1, 1]), 0.5, mask)
    mask[:] = False
    assert region.mask.all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: VisualPrompt("blob"),
            "kind of a visual prompt must be one of `click`, `box`, `scribble`, `mask`, got 'blob'",
        ),
        (lambda: VisualPrompt("box"), "a box must have box_xyxy and nothing else, got nothing"),
        (
            lambda: VisualPrompt("box", points_xy=np.zeros((1, 2)), box_xyxy=np.zeros(4)),
            "a box must have box_xyxy and nothing else, got `points_xy`, `box_xyxy`",
        ),
        (lambda: VisualPrompt.click("a", 2), "a click must be one point (x, y), got [['a', 2]]"),
        (
            lambda: VisualPrompt.box(1, 2, 3, float("nan")),
            "a box must have finite coordinates in pixels, got [1.0, 2.0, 3.0, nan]",
        ),
        (lambda: VisualPrompt.click(1e300, 0), "a click must have finite coordinates in pixels, got [[1e+300, 0.0]]"),
        (lambda: VisualPrompt.scribble([]), "a scribble must be one or more points (x, y), got []"),
        (
            lambda: VisualPrompt.scribble([(1, 2), (3,)]),
            "a scribble must be one or more points (x, y), got [(1, 2), (3,)]",
        ),
        (
            lambda: VisualPrompt.mask_of(np.zeros((2, 2, 3))),
            "a mask must be a (H, W) array of numbers, got (2, 2, 3) float64",
        ),
        (
            lambda: VisualPrompt("box", box_xyxy=np.ones(4), mask_logits=np.ones((2, 2))),
            "a box has no mask, and thus no mask_logits",
        ),
        (
            lambda: VisualPrompt.mask_of(a_mask(), [[1, 2]]),
            "mask_logits must be a (h, w) array of finite floats, got [[1, 2]]",
        ),
        (
            lambda: VisualPrompt.mask_of(a_mask(), [[1.0, float("inf")]]),
            "mask_logits must be a (h, w) array of finite floats, got [[1.0, inf]]",
        ),
    ],
)
def test_a_prompt_that_is_no_place_is_refused(make, message):
    with pytest.raises(PromptError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (VisualPrompt.click(4, 1), "a click must lie inside the image of 4 x 3 pixels, got (4, 1)"),
        (VisualPrompt.click(-0.5, 1), "a click must lie inside the image of 4 x 3 pixels, got (-0.5, 1)"),
        (VisualPrompt.scribble([(9, 9), (8, 8)]), "a scribble must lie inside the image of 4 x 3 pixels, got (9, 9)"),
        (VisualPrompt.box(1, 1, 1, 2), "a box must have x0 < x1 and y0 < y1, got (1, 1, 1, 2)"),
        (VisualPrompt.box(3, 1, 1, 2), "a box must have x0 < x1 and y0 < y1, got (3, 1, 1, 2)"),
        (VisualPrompt.box(4, 0, 9, 3), "a box must overlap the image of 4 x 3 pixels, got (4, 0, 9, 3)"),
        (VisualPrompt.mask_of(a_mask().T), "a mask must have the size of the image of 4 x 3 pixels, got 3 x 4 pixels"),
        (VisualPrompt.mask_of(np.zeros((3, 4))), "a mask must have at least one pixel set, got an empty one"),
    ],
)
def test_a_prompt_that_does_not_fit_the_image_is_refused(prompt, message):
    with pytest.raises(PromptError) as caught:
        prompt.validate((4, 3))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("prompt", "bounds"),
    [
        (VisualPrompt.click(2, 1), [1.5, 0.5, 2.5, 1.5]),
        (VisualPrompt.click(0, 2.9), [0, 2.4, 0.5, 3]),
        (VisualPrompt.box(1, 0, 30, 2), [1, 0, 4, 2]),
        (VisualPrompt.scribble([(3, 2), (1, 0)]), [1, 0, 3, 2]),
        (VisualPrompt.scribble([(0, 1), (3, 1)]), [0, 0.5, 3, 1.5]),
        (VisualPrompt.scribble([(-9, 1), (2, 2)]), [0, 1, 2, 2]),
        (VisualPrompt.scribble([(0, 1), (-1, 1)]), [0, 0.5, 0.5, 1.5]),
        (VisualPrompt.mask_of(a_mask()), [1, 1, 3, 2]),
    ],
)
def test_bounds_are_the_box_around_a_prompt_cut_to_the_image(prompt, bounds):
    assert prompt.bounds((4, 3)).tolist() == bounds


@many
@given(
    st.lists(st.tuples(st.floats(-9, 30), st.floats(-9, 30)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_a_valid_prompt_has_bounds_with_area_inside_the_image(points, width, height):
    for prompt in (VisualPrompt.scribble(points), VisualPrompt.click(*points[0])):
        try:
            prompt.validate((width, height))
        except PromptError:
            continue
        x0, y0, x1, y1 = prompt.bounds((width, height))
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
