"""Clicks, boxes, scribbles and masks at odd places: refused, or cut to the picture, in bounded time."""

import copy
import itertools
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from llava_grounding.errors import PromptError
from llava_grounding.geometry import Letterbox
from llava_grounding.masks import encode_rle
from llava_grounding.processing.chat_format import region_prompt
from llava_grounding.processing.regions import encode_prompts
from llava_grounding.render import draw_prompts
from llava_grounding.structures import VisualPrompt
from llava_grounding.visual_prompts import MAX_POINTS

SIZE = (128, 96)
ODD = [float("nan"), float("inf"), -float("inf"), 1e300, 10**400, "far", "3", None, [1]]
LETTERBOX = Letterbox.fit(SIZE, (160, 160))


@pytest.mark.parametrize("far", [1e4, 1e6, 9e8])
def test_a_scribble_with_a_far_point_is_cut_before_it_is_drawn(far: float) -> None:
    near = VisualPrompt.scribble([(10, 10), (10 + 1000, 10 + 503)])  # leaves the picture in the same direction
    prompt = VisualPrompt.scribble([(10, 10), (10 + far, 10 + far * 0.503)])
    start = time.process_time()
    encoded = encode_prompts([prompt], LETTERBOX)
    drawn = draw_prompts(Image.new("RGB", SIZE), [prompt])
    assert time.process_time() - start < 2
    np.testing.assert_allclose(encoded.coverage, encode_prompts([near], LETTERBOX).coverage, atol=0.06)
    assert np.asarray(drawn).any()


def test_a_scribble_of_many_far_points_takes_bounded_time() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate((rng.uniform(-1e9, 1e9, (MAX_POINTS - 1, 2)), [[10, 10]]))
    start = time.process_time()
    encode_prompts([VisualPrompt.scribble(points)], Letterbox.fit((2000, 1500), (160, 160)))
    draw_prompts(Image.new("RGB", (2000, 1500)), [VisualPrompt.scribble(points)])
    assert time.process_time() - start < 10


def test_more_points_than_anybody_draws_are_refused() -> None:
    with pytest.raises(PromptError, match=r"^a scribble must have at most 10000 points, got more$"):
        VisualPrompt.scribble(np.zeros((MAX_POINTS + 1, 2)))


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), 1e300, 10**400, "far", "3", None, [1]],
    ids=lambda v: str(v)[:8],
)
@pytest.mark.parametrize("kind", ["box", "click", "scribble"])
def test_what_is_no_coordinate_is_refused_in_every_kind(kind: str, value: object) -> None:
    numbers = {"box": [1, 1, 9, value], "click": [1, value], "scribble": [[1, 2], [3, value]]}[kind]
    with pytest.raises(PromptError):
        region_prompt({kind: numbers})


@pytest.mark.parametrize("box", [(0.1, 0.2, 0.5, 0.8), (0, 0, 1, 1), (0.5, 0.5, 1, 1)])
def test_a_box_in_shares_of_the_image_is_refused(box: tuple[float, ...]) -> None:
    prompt = VisualPrompt.box(*box)
    with pytest.raises(PromptError, match=r"^a box must be in pixels, not shares of the image, got \("):
        prompt.validate((600, 400))
    for check in (
        lambda: encode_prompts([prompt], LETTERBOX),
        lambda: encode_prompts([region_prompt({"box": list(box)})], LETTERBOX),
        lambda: draw_prompts(Image.new("RGB", SIZE), [prompt]),
    ):
        with pytest.raises(PromptError, match="in pixels, not shares of the image"):
            check()


def test_a_stroke_in_shares_of_the_image_is_refused_and_one_in_one_place_is_not() -> None:
    stroke = VisualPrompt.scribble([(0.1, 0.2), (0.4, 0.5), (0.9, 1)])
    with pytest.raises(PromptError, match=r"^a scribble must be in pixels, not shares of the image, got \("):
        stroke.validate((600, 400))
    stroke.validate((1, 2))
    VisualPrompt.scribble([(0.1, 0.2), (0.4, 0.5), (3, 1)]).validate((600, 400))
    for place in (VisualPrompt.scribble([(0.5, 0.5)] * 2), VisualPrompt.click(0.5, 0.5)):
        place.validate((600, 400))


@pytest.mark.parametrize(
    ("box", "size_wh"), [((0, 0, 1, 1), (1, 1)), ((0, 0, 1, 1), (1, 9)), ((0, 0, 2, 1), (600, 400))]
)
def test_small_boxes_in_pixels_are_taken(box: tuple[float, ...], size_wh: tuple[int, int]) -> None:
    VisualPrompt.box(*box).validate(size_wh)


def test_a_box_far_beyond_the_picture_is_cut_to_it() -> None:
    prompt = VisualPrompt.box(-1e9, -1e9, 1e9, 1e9)
    encoded = encode_prompts([prompt], LETTERBOX)
    assert prompt.bounds(SIZE).tolist() == [0, 0, *SIZE]
    assert (encoded.boxes_cxcywh_norm >= 0).all()
    assert (encoded.boxes_cxcywh_norm <= 1).all()


def test_a_mask_of_a_few_bytes_is_unpacked_only_for_an_image_of_its_size() -> None:
    huge = region_prompt({"mask": {"size": [60_000, 60_000], "counts": [0, 3_600_000_000]}})
    tracemalloc.start()
    try:
        with pytest.raises(PromptError, match="must have the size of the image of 128 x 96 pixels, got 60000 x 60000"):
            encode_prompts([huge], LETTERBOX)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_packed_mask_points_like_any_other() -> None:
    mask = np.zeros(SIZE[::-1], dtype=bool)
    mask[20:40, 30:90] = True
    plain, packed = VisualPrompt.mask_of(mask), region_prompt({"mask": encode_rle(mask)})
    assert plain == packed == copy.deepcopy(packed)
    assert hash(plain) == hash(packed)
    np.testing.assert_array_equal(packed.bounds(SIZE), plain.bounds(SIZE))
    for first, second in zip(
        vars(encode_prompts([plain], LETTERBOX)).values(),
        vars(encode_prompts([packed], LETTERBOX)).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)
    empty = region_prompt({"mask": encode_rle(np.zeros(SIZE[::-1], dtype=bool))})
    with pytest.raises(PromptError, match="at least one pixel set"):
        empty.validate(SIZE)
    with pytest.raises(PromptError, match="a mask must be a run-length code: run-length code must describe"):
        region_prompt({"mask": {"size": [3, 4], "counts": [1]}})


def test_a_scribble_without_end_or_of_no_points_is_refused() -> None:
    with pytest.raises(PromptError, match="at most 10000 points, got more"):
        VisualPrompt.scribble((number, number) for number in itertools.count())
    for points in (5, None, [np.zeros((2, 2)), np.zeros((2, 3))]):
        with pytest.raises(PromptError, match=r"a scribble must be one or more points \(x, y\)"):
            VisualPrompt.scribble(points)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.broadcast_to(np.uint8(1), (10**6, 10**6)), "must have at most 268,435,456 pixels"),
        (np.ma.array(np.broadcast_to(np.uint8(1), (10**6, 10**6)), copy=False), "must have at most 268,435,456"),
        ([[1, 0], [1]], "a value of the type list is none"),
        (torch.ones(2, 2, dtype=torch.bfloat16), "a value of the type Tensor is none; give a NumPy array of bool"),
        (torch.ones(2, 2, requires_grad=True), "a value of the type Tensor is none"),
        (np.full((2, 2), np.nan), "some of it are NaN"),
    ],
    ids=["repeated", "repeated and masked", "ragged", "bfloat16", "with a gradient", "nan"],
)
def test_what_is_no_mask_is_refused(mask: object, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        VisualPrompt.mask_of(mask)  # type: ignore[arg-type]


def test_what_a_masked_array_hides_is_not_set() -> None:
    mask = np.ma.array([[1, 1], [0, 1]], mask=[[False, True], [False, False]])
    np.testing.assert_array_equal(VisualPrompt.mask_of(mask).mask, [[True, False], [False, True]])


def test_a_packed_mask_of_gigabytes_is_compared_and_refused_packed() -> None:
    huge = {"size": [60_000, 60_000], "counts": [10, 60_000 * 60_000 - 10]}
    tracemalloc.start()
    try:
        prompt = VisualPrompt.mask_from_rle(huge)
        assert prompt == VisualPrompt.mask_from_rle(huge)
        assert hash(prompt) == hash(VisualPrompt.mask_from_rle(huge))
        assert prompt.bounds(SIZE).tolist() == [0, 0, *SIZE]
        with pytest.raises(PromptError, match="a mask must have the size of the image"):
            draw_prompts(Image.new("RGB", SIZE), [prompt])
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    mask = np.random.default_rng(0).random((5, 7)) > 0.5
    plain, packed = VisualPrompt.mask_of(mask), VisualPrompt.mask_from_rle(encode_rle(mask))
    assert plain == packed
    assert hash(plain) == hash(packed)
    assert plain != VisualPrompt.mask_of(~mask)
    assert packed.bounds((7, 5)).tolist() == plain.bounds((7, 5)).tolist()


def test_repeated_rows_are_not_copied_before_they_are_counted() -> None:
    many = np.broadcast_to(np.float32(1), (10**10, 2))
    with pytest.raises(PromptError, match="a scribble must have at most 10000 points, got more"):
        VisualPrompt("scribble", points_xy=many)
