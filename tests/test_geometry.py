"""Boxes in NumPy and torch, EXIF orientations against Pillow, and the letterbox there and back."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageOps

from llava_grounding.errors import ShapeError
from llava_grounding.geometry import (
    Letterbox,
    box_area,
    box_cxcywh_to_xyxy,
    box_iou,
    box_xyxy_to_cxcywh,
    box_xyxy_to_xywh,
    clip_boxes_xyxy,
    clip_stroke,
    generalized_iou,
    oriented_size,
)
from llava_grounding.masks import encode_rle, encode_rle_at
from mask_overlaps import mask_iou

many = settings(max_examples=200, deadline=None)
COORDINATE = st.integers(-8, 40) | st.floats(-8, 40).map(lambda value: round(value, 3))
SIDE = st.integers(1, 40) | st.integers(1, 20000)
SIZES = st.tuples(SIDE, SIDE)
CANVASES = st.tuples(st.integers(1, 1400), st.integers(1, 1400))


@st.composite
def boxes(draw, max_size=5):
    corners = draw(st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE), max_size=max_size))
    boxes_xyxy = np.array(corners, dtype=np.float64).reshape(-1, 4)
    return np.concatenate(
        (np.minimum(boxes_xyxy[:, :2], boxes_xyxy[:, 2:]), boxes_xyxy.reshape(-1, 2, 2).max(axis=1)), 1
    )


def overlap_by_hand(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return (width * height / union if union else 0.0), (hull - union) / hull if hull else 0.0


def test_known_boxes_in_every_format():
    assert box_xyxy_to_cxcywh(np.array([[1.0, 2, 5, 10]])).tolist() == [[3, 6, 4, 8]]
    assert box_cxcywh_to_xyxy(np.array([3.0, 6, 4, 8])).tolist() == [1, 2, 5, 10]
    assert box_xyxy_to_xywh(np.array([1.0, 2, 5, 10])).tolist() == [1, 2, 4, 8]
    assert box_area(np.array([[1.0, 2, 5, 10], [5, 2, 1, 10]])).tolist() == [32, 0]
    assert clip_boxes_xyxy(np.array([[-3.0, 2, 50, 9], [60, 60, 70, 70]]), (20, 8)).tolist() == [
        [0, 2, 20, 8],
        [20, 8, 20, 8],
    ]


@many
@given(boxes())
def test_formats_there_and_back_change_no_box(boxes_xyxy):
    assert np.allclose(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes_xyxy)), boxes_xyxy, atol=1e-9)
    low, size = np.split(box_xyxy_to_xywh(boxes_xyxy), 2, axis=-1)
    assert np.allclose(np.concatenate([low, low + size], axis=-1), boxes_xyxy, atol=1e-9)


@many
@given(boxes(), boxes())
def test_overlaps_equal_those_worked_out_pair_by_pair(first, second):
    iou, generalized = box_iou(first, second), generalized_iou(first[:, None], second[None])
    assert iou.shape == generalized.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            expected, empty_share = overlap_by_hand(a, b)
            assert iou[i, j] == pytest.approx(expected, abs=1e-9)
            assert generalized[i, j] == pytest.approx(expected - empty_share, abs=1e-9)
            assert -1 - 1e-9 <= generalized[i, j] <= iou[i, j] + 1e-9 <= 1 + 2e-9


@many
@given(boxes(), boxes())
def test_torch_and_numpy_give_the_same_numbers(first, second):
    for function in (box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, box_xyxy_to_xywh, box_area):
        assert np.array_equal(function(torch.from_numpy(first)).numpy(), function(first))
    for overlap in (box_iou, lambda one, other: generalized_iou(one[:, None], other[None])):
        result = overlap(torch.from_numpy(first), torch.from_numpy(second))
        assert np.allclose(result.numpy(), overlap(first, second), atol=1e-12)
    clipped = clip_boxes_xyxy(torch.from_numpy(first), (20, 8))
    assert np.array_equal(clipped.numpy(), clip_boxes_xyxy(first, (20, 8)))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_tensors_keep_their_type(kind):
    boxes_xyxy = torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3]], dtype=kind)
    for function in (box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, box_area):
        assert function(boxes_xyxy).dtype == kind
    assert box_iou(boxes_xyxy, boxes_xyxy).dtype == generalized_iou(boxes_xyxy, boxes_xyxy).dtype == kind


def test_gradients_are_finite_also_for_boxes_without_area():
    boxes_xyxy = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2], [5, 5, 6, 6]], requires_grad=True)
    others = boxes_xyxy.detach()
    (generalized_iou(boxes_xyxy[:, None], others[None]) + box_iou(boxes_xyxy, boxes_xyxy.detach())).sum().backward()
    assert torch.isfinite(boxes_xyxy.grad).all()
    assert boxes_xyxy.grad.abs().sum() > 0


def test_overlaps_want_lists_of_boxes():
    with pytest.raises(ShapeError, match=r"^others_xyxy must be \(n, 4\), got \(4,\)$"):
        box_iou(np.zeros((1, 4)), np.zeros(4))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("size_wh", [(5, 3), (1, 4), (1, 1)])
def test_the_size_turns_with_the_pixels_as_pillow_turns_them(size_wh, orientation):
    image = Image.new("L", size_wh)
    image.getexif()[0x0112] = orientation
    assert oriented_size(size_wh, orientation) == ImageOps.exif_transpose(image).size


@many
@given(SIZES, CANVASES)
@example((20000, 3), (160, 160))
@example((1, 1), (1400, 1400))
@example((3, 20000), (1, 1))
def test_content_keeps_its_shape_fills_a_side_and_has_a_pixel_at_least(image_size_wh, canvas_wh):
    letterbox = Letterbox.fit(image_size_wh, canvas_wh)
    content = np.array(letterbox.content_size_wh)
    assert (content >= 1).all()
    assert (content <= canvas_wh).all()
    assert (content == canvas_wh).any()
    scale = min(np.divide(canvas_wh, image_size_wh))
    assert (np.abs(content - np.maximum(np.multiply(image_size_wh, scale), 1)) <= 0.5 + 1e-9).all()


@many
@given(SIZES, CANVASES, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=2))
@example((20000, 3), (160, 160), [(0.3, 0.2), (1.0, 1.0)])
@example((1, 1), (1400, 7), [(0.0, 0.0), (1.0, 1.0)])
def test_points_and_boxes_survive_the_canvas_to_half_a_pixel(image_size_wh, canvas_wh, shares):
    letterbox = Letterbox.fit(image_size_wh, canvas_wh)
    points = np.sort(np.array(shares), axis=0) * image_size_wh
    on_canvas = letterbox.points_to_canvas(points)
    assert (on_canvas <= np.add(letterbox.content_size_wh, 1e-9)).all()
    box = points.reshape(4)
    assert np.allclose(letterbox.boxes_to_canvas(box), on_canvas.reshape(4))
    assert np.abs(letterbox.boxes_to_image(letterbox.boxes_to_canvas(box)) - box).max() < 1e-6
    norm = letterbox.image_to_norm_cxcywh(box)
    assert ((norm >= 0) & (norm <= 1 + 1e-9)).all()
    assert np.abs(letterbox.norm_cxcywh_to_image(norm) - box).max() < 1e-6
    # The model gives single precision.
    assert np.abs(letterbox.norm_cxcywh_to_image(norm.astype(np.float32)) - box).max() < 0.5


@pytest.mark.parametrize(("height", "rows"), [(5, 3), (7, 4), (9, 5), (6, 3), (1, 1)])
def test_half_a_pixel_of_content_is_a_whole_one(height: int, rows: int) -> None:
    """Not the nearest even number, as Python rounds: 2.5 is 3 rows and 4.5 are 5."""
    assert Letterbox.fit((128, height), (64, 64)).content_size_wh == (64, rows)


def test_the_corner_of_the_image_is_the_corner_of_the_content():
    letterbox = Letterbox.fit((333, 100), (64, 64))
    assert letterbox.content_size_wh == (64, 19)
    assert letterbox.points_to_canvas(np.array([333, 100])).tolist() == [64, 19]
    assert letterbox.norm_cxcywh_to_image(np.array([0.5, 19 / 128, 1, 19 / 64])).tolist() == pytest.approx(
        [0, 0, 333, 100]
    )


def test_no_boxes_stay_no_boxes():
    letterbox = Letterbox.fit((30, 20), (64, 64))
    assert letterbox.boxes_to_image(np.zeros((0, 4))).shape == (0, 4)
    assert letterbox.norm_cxcywh_to_image(np.zeros((0, 4))).shape == (0, 4)
    assert letterbox.mask_to_image(np.zeros((0, 16, 16))).shape == (0, 20, 30)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((0, 5), (1, 1), (4, 4)), "image_size_wh must be at least (1, 1) pixels, got (0, 5)"),
        (((5, 5), (4, 0), (4, 4)), "content_size_wh must be at least (1, 1) pixels, got (4, 0)"),
        (((5, 5), (4, 5), (4, 4)), "content_size_wh (4, 5) must fit canvas_size_wh (4, 4)"),
    ],
)
def test_a_letterbox_that_cannot_be_is_refused(sizes, message):
    with pytest.raises(ShapeError) as caught:
        Letterbox(*sizes)
    assert str(caught.value) == message


def test_an_image_without_pixels_fits_nowhere():
    with pytest.raises(ShapeError, match=r"^image_size_wh must be at least \(1, 1\) pixels, got \(0, 5\)$"):
        Letterbox.fit((0, 5), (64, 64))


def ellipse(width, height, left=0.5, top=0.5, wide=0.4, high=0.4):
    y, x = np.indices((height, width)) + 0.5
    return ((x / width - left) / wide) ** 2 + ((y / height - top) / high) ** 2 < 1


def logits_of(letterbox, mask, size_wh):
    return (letterbox.mask_to_canvas(mask, size_wh) - 0.5) * 12


@pytest.mark.parametrize(
    ("image_size_wh", "canvas", "cells"),
    [
        ((640, 427), 512, 128),
        ((427, 640), 512, 128),
        ((1000, 333), 800, 200),
        ((90, 120), 512, 128),
        ((513, 511), 515, 129),
    ],
)
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.95, 0.9), (0.05, 0.95)])
def test_an_ellipse_survives_the_canvas(image_size_wh, canvas, cells, place):
    mask = ellipse(*image_size_wh, *place)
    letterbox = Letterbox.fit(image_size_wh, (canvas, canvas))
    back = letterbox.mask_to_image(logits_of(letterbox, mask, (cells, cells))[None])
    assert back.dtype == np.bool_
    assert back.shape == (1, *mask.shape)
    assert mask_iou(back, mask[None])[0, 0] > 0.97


@many
@given(SIZES.filter(lambda size: size[0] * size[1] < 200_000), CANVASES, st.integers(1, 64), st.integers(1, 64))
@example((20000, 3), (160, 160), 40, 40)
@example((3, 20000), (160, 160), 40, 40)
def test_a_full_mask_comes_back_full_and_an_empty_one_empty(image_size_wh, canvas_wh, cells_w, cells_h):
    letterbox = Letterbox.fit(image_size_wh, canvas_wh)
    full = np.ones(image_size_wh[::-1], dtype=bool)
    coverage = letterbox.mask_to_canvas(full, (cells_w, cells_h))
    assert coverage.shape == (cells_h, cells_w)
    assert ((coverage >= 0) & (coverage <= 1)).all()
    expected = np.divide(letterbox.content_size_wh, canvas_wh).prod() * cells_w * cells_h
    assert coverage.sum() == pytest.approx(expected, rel=1e-3)
    content = np.where(coverage > 0, 5.0, -5.0)
    assert letterbox.mask_to_image(content[None]).all()
    assert not letterbox.mask_to_image(-content[None]).any()


def test_padding_bleeds_into_no_mask():
    letterbox = Letterbox((60, 30), (40, 20), (40, 40))
    logits = np.full((1, 10, 10), -100.0)
    logits[:, :5] = 0.01
    assert letterbox.mask_to_image(logits).all()


def test_a_cell_the_content_covers_in_part_counts():
    letterbox = Letterbox((90, 40), (40, 18), (40, 40))
    logits = np.full((1, 10, 10), -1.0)
    logits[:, 4] = 1.0  # rows 16 to 20 of the canvas, of which the content covers 16 to 18
    mask = letterbox.mask_to_image(logits)[0]
    # Between the centres of rows 3 and 4, at 14 and 18 of the canvas, the sign changes at 16: pixel 35.6 of the image.
    assert not mask[:35].any()
    assert mask[36:].all()


@many
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
def test_masks_are_interpolated_between_cell_centres(width, height, cells_w, cells_h, seed):
    # The oracle samples at the pixel's centre; shrinking averages instead, so only growing is compared.
    width, height = max(width, cells_w), max(height, cells_h)
    logits = np.random.default_rng(seed).normal(size=(cells_h, cells_w)).astype(np.float32)
    mask = Letterbox((width, height), (width, height), (width, height)).mask_to_image(logits[None])[0]
    tensor = torch.from_numpy(logits)[None, None]
    expected = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    clear = np.abs(expected) > 1e-4
    assert np.array_equal(mask[clear], expected[clear] > 0)


@many
@given(st.data())
def test_the_part_with_pixels_is_that_of_the_whole_mask(data):
    width, height, cells_w, cells_h, grow = (data.draw(st.integers(1, 40)) for _ in range(5))
    letterbox = Letterbox((width, height), (width, height), (width + grow, height))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = np.where(rng.random((cells_h, cells_w)) < 0.1, 5, rng.normal(-1, 0.2, (cells_h, cells_w))).astype("f4")
    part, (left, top) = letterbox.mask_part_to_image(logits)
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    covered_w, covered_h = letterbox.covered_cells((cells_w, cells_h))
    cells = Image.fromarray(logits[: math.ceil(covered_h), : math.ceil(covered_w)])
    box = (0, 0, covered_w, covered_h)
    expected = np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR, box=box))
    clear = np.abs(expected) > 1e-3
    assert np.array_equal(mask[clear], expected[clear] > 0)
    assert np.array_equal(mask, letterbox.mask_to_image(logits[None])[0])


def test_a_small_mask_of_a_large_image_costs_its_part():
    letterbox = Letterbox.fit((8000, 6000), (224, 224))
    logits = np.full((56, 56), -5, dtype=np.float32)
    logits[20:23, 30:32] = 5
    part, left_top = letterbox.mask_part_to_image(logits)
    assert part.any()
    assert part.size < 0.02 * 8000 * 6000
    assert encode_rle_at(part, left_top, (6000, 8000)) == encode_rle(letterbox.mask_to_image(logits[None])[0])


@many
@given(st.data())
def test_coverage_is_the_share_of_each_cell(data):
    width, height, cells_w, cells_h, grow = (data.draw(st.integers(1, 9)) for _ in range(5))
    mask = np.random.default_rng(data.draw(st.integers(0, 9))).random((height, width)) < 0.5
    letterbox = Letterbox((width, height), (width, height), (width + grow, height))
    # Every pixel and every cell is made of whole squares of this grid.
    fine = np.pad(mask, ((0, 0), (0, grow))).repeat(cells_h, axis=0).repeat(cells_w, axis=1)
    expected = fine.reshape(cells_h, height, cells_w, width + grow).mean(axis=(1, 3))
    assert np.allclose(letterbox.mask_to_canvas(mask, (cells_w, cells_h)), expected, atol=1e-5)


def test_wrong_mask_shapes_are_named():
    letterbox = Letterbox.fit((30, 20), (64, 64))
    with pytest.raises(ShapeError, match=r"^mask must be \(20, 30\) like the image, got \(30, 20\)$"):
        letterbox.mask_to_canvas(np.zeros((30, 20), dtype=bool), (16, 16))
    with pytest.raises(ShapeError, match=r"^mask_logits must be \(n, h, w\) with h and w at least 1, got \(20, 30\)$"):
        letterbox.mask_to_image(np.zeros((20, 30)))


def test_twenty_masks_of_a_megapixel_take_under_a_second():
    letterbox = Letterbox.fit((1000, 1000), (160, 160))
    logits = np.random.default_rng(0).normal(size=(20, 40, 40))
    start = time.process_time()
    letterbox.mask_to_image(logits)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("points", "margin", "parts"),
    [
        ([(1, 1), (3, 2), (0, 0)], 0, [[(1, 1), (3, 2), (0, 0)]]),  # all inside: as it was
        ([(2, 1)], 0, [[(2, 1)]]),
        ([(9, 1)], 0, []),
        ([(9, 1)], 5, [[(9, 1)]]),
        ([(2, 1), (2e9, 1)], 0, [[(2, 1), (4, 1)]]),
        ([(2, 1), (2e9, 1)], 1, [[(2, 1), (5, 1)]]),
        ([(-10, 1), (10, 1)], 0, [[(0, 1), (4, 1)]]),  # passes through
        ([(-10, 9), (10, 9)], 0, []),
        ([(1, 1), (1, 9), (3, 9), (3, 1)], 0, [[(1, 1), (1, 3)], [(3, 3), (3, 1)]]),  # leaves and comes back
        ([(9, 9), (8, 8), (2, 2), (3, 2)], 0, [[(3, 3), (2, 2), (3, 2)]]),
        ([(2, 2), (2, 2)], 0, [[(2, 2), (2, 2)]]),
        ([(9, 2), (9, 2)], 0, []),
    ],
)
def test_a_stroke_is_cut_to_the_image(points, margin, parts):
    got = clip_stroke(np.array(points, dtype=np.float64), (4, 3), margin)
    assert len(got) == len(parts)
    for part, expected in zip(got, parts, strict=True):
        np.testing.assert_allclose(part, expected)


@many
@given(npst.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=st.floats(-1e9, 1e9)))
def test_no_part_of_a_cut_stroke_is_outside(points):
    for part in clip_stroke(points, (40, 30), 2):
        assert (part >= -2.01).all()
        assert (part <= (42.01, 32.01)).all()
