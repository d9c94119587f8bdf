"""Masks: run-length codes against pycocotools, damaged codes, boxes, overlaps, sizes and polygons."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from llava_grounding import masks as masks_module
from llava_grounding.errors import DataError, ShapeError
from llava_grounding.masks import (
    MaskRuns,
    check_rle,
    check_rles,
    decode_rle,
    encode_rle,
    encode_rle_at,
    mask_area,
    mask_to_box,
    resize_mask,
    rle_area,
    rle_to_box,
)
from llava_grounding.polygons import polygons_to_mask
from mask_overlaps import mask_iou

# pycocotools 2.0 with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

many = settings(max_examples=200, deadline=None)
MASKS = npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def blobs(height, width, seed=0):
    """A mask with runs of every length."""
    rng = np.random.default_rng(seed)
    flat = np.cumsum(rng.random(height * width) < rng.choice([0.5, 0.05, 0.001])) % 2 == 1
    return flat.reshape(width, height).T


def single(height, width, row, column):
    mask = np.zeros((height, width), dtype=bool)
    mask[row, column] = True
    return mask


SHAPED = {
    "empty": np.zeros((7, 5), dtype=bool),
    "full": np.ones((7, 5), dtype=bool),
    "one pixel": np.ones((1, 1), dtype=bool),
    "no pixel set": np.zeros((1, 1), dtype=bool),
    "first pixel": single(7, 5, 0, 0),
    "last pixel": single(7, 5, 6, 4),
    "one row": blobs(1, 5000),
    "one column": blobs(5000, 1),
    "long and thin": blobs(20, 4000, seed=1),
    "tall and thin": blobs(4000, 20, seed=2),
    "chequered": np.indices((33, 32)).sum(axis=0) % 2 == 1,
    "large and empty": np.zeros((3000, 2000), dtype=bool),
    "large with one pixel": single(3000, 2000, 2999, 1500),
    "no rows": np.zeros((0, 5), dtype=bool),
    "no columns": np.zeros((5, 0), dtype=bool),
}


def reference_counts(mask):
    coco_mask = pytest.importorskip("pycocotools.mask")
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("name", SHAPED)
def test_codes_of_special_masks_equal_pycocotools(name):
    rle = encode_rle(SHAPED[name])
    assert rle["size"] == list(SHAPED[name].shape)
    assert rle["counts"] == reference_counts(SHAPED[name])


@many
@given(MASKS)
def test_codes_of_any_mask_equal_pycocotools(mask):
    assert encode_rle(mask)["counts"] == reference_counts(mask)


@pytest.mark.parametrize("seed", range(6))
def test_codes_of_masks_with_long_runs_equal_pycocotools(seed):
    mask = blobs(301, 417, seed)
    assert encode_rle(mask)["counts"] == reference_counts(mask)


@many
@given(MASKS)
def test_a_mask_survives_its_code(mask):
    rle = encode_rle(mask)
    back = decode_rle(rle)
    assert back.dtype == np.bool_
    assert back.flags.c_contiguous
    assert np.array_equal(back, mask)
    assert rle_area(rle) == mask_area(mask) == np.count_nonzero(mask)


@pytest.mark.parametrize("name", SHAPED)
def test_special_masks_survive_their_code(name):
    rle = encode_rle(SHAPED[name])
    assert np.array_equal(decode_rle(rle), SHAPED[name])
    assert np.array_equal(decode_rle({**rle, "counts": rle["counts"].encode()}), SHAPED[name])
    assert rle_area(rle) == SHAPED[name].sum()


def test_masks_of_numbers_count_every_value_but_zero():
    mask = np.array([[0, 255], [2, 0]], dtype=np.uint8)
    assert np.array_equal(decode_rle(encode_rle(mask)), mask > 0)


def test_plain_lists_of_runs_are_read_as_coco_crowds_have_them():
    assert np.array_equal(decode_rle({"size": [2, 3], "counts": [1, 2, 3]}), [[0, 1, 0], [1, 0, 0]])


@many
@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_codes_with_runs_without_length_are_read_as_pycocotools_reads_them(runs):
    coco_mask = pytest.importorskip("pycocotools.mask")
    rle = coco_mask.frPyObjects({"size": [1, sum(runs)], "counts": runs}, 1, sum(runs))
    if not sum(runs):
        return
    assert np.array_equal(decode_rle(rle), coco_mask.decode(rle) != 0)
    assert rle_area(rle) == coco_mask.area(rle)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 2], "counts": "5"}, "run-length code must describe 2 x 2 = 4 pixels, got 5"),
        ({"size": [2, 2], "counts": "3"}, "run-length code must describe 2 x 2 = 4 pixels, got 3"),
        ({"size": [2, 2], "counts": ""}, "run-length code must describe 2 x 2 = 4 pixels, got 0"),
        ({"size": [2, 2], "counts": [2**62, 2**62]}, f"run-length code must describe 2 x 2 = 4 pixels, got {2**63}"),
        ({"size": [2, 2], "counts": "N6"}, "run-length code must have no negative run, got -2"),
        ({"size": [2, 2], "counts": [5, -1]}, "run-length code must have no negative run, got -1"),
        ({"size": [2, 2], "counts": "1P"}, "run-length code is cut off in the middle of a number, after 2 characters"),
        ({"size": [2, 2], "counts": "4é"}, "run-length code must be ASCII, got 'é' at character 1"),
        (
            {"size": [2, 2], "counts": "4 "},
            "run-length code must use the characters `0` to `o`, got 0x20 at character 1",
        ),
        (
            {"size": [2, 2], "counts": b"\xff"},
            "run-length code must use the characters `0` to `o`, got 0xff at character 0",
        ),
        (
            {"size": [2, 2], "counts": "PPPPPPP0"},
            "run-length code must have numbers of at most 7 characters, got 8",
        ),
        ({"size": [2, 2], "counts": None}, "run-length code must have text or whole numbers as counts, got NoneType"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "run-length code must have text or whole numbers as counts, got list"),
        ({"size": [2, 2], "counts": [2**70]}, "run-length code must have text or whole numbers as counts, got list"),
        (
            {"size": [10**5, 10**5], "counts": "0"},
            "run-length code must have a size of 0 to 4294967295 pixels, got 100000 x 100000",
        ),
        ({"size": [-2, -2], "counts": "4"}, "run-length code must have a size of 0 to 4294967295 pixels, got -2 x -2"),
    ],
)
def test_a_damaged_code_is_refused_in_a_sentence(rle, message):
    for read in (decode_rle, rle_area):
        with pytest.raises(DataError) as caught:
            read(rle)
        assert str(caught.value) == message


@pytest.mark.parametrize("rle", [{}, {"size": [2, 2]}, {"size": 4, "counts": "4"}, {"size": ["2", 2], "counts": "4"}])
def test_what_is_no_code_is_refused(rle):
    with pytest.raises(DataError, match=r'^run-length code must be \{"size": \[h, w\], "counts": \.\.\.\} with whole'):
        decode_rle(rle)


@many
@given(st.binary(max_size=40) | st.text(alphabet=st.characters(min_codepoint=48, max_codepoint=111), max_size=40))
@example(b"o" * 7)
def test_any_counts_are_read_or_refused(counts):
    try:
        mask = decode_rle({"size": [6, 7], "counts": counts})
    except DataError:
        return
    assert mask.shape == (6, 7)


def test_a_damaged_code_allocates_nothing_for_the_pixels_it_claims():
    claims = encode_rle(np.zeros((10000, 10000), dtype=bool))["counts"]
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            decode_rle({"size": [10, 10], "counts": claims})
        with pytest.raises(DataError):
            decode_rle({"size": [60000, 60000], "counts": "0"})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_mask_of_twelve_megapixels_is_written_and_read_in_under_a_second_each():
    mask = blobs(3000, 4000, seed=3)
    start = time.process_time()
    rle = encode_rle(mask)
    assert time.process_time() - start < 1
    start = time.process_time()
    assert np.array_equal(decode_rle(rle), mask)
    assert time.process_time() - start < 1


@many
@given(MASKS)
def test_the_box_is_the_smallest_around_the_mask_and_found_in_its_code(mask):
    np.testing.assert_array_equal(rle_to_box(encode_rle(mask)), mask_to_box(mask))
    box = mask_to_box(mask)
    if box is None:
        assert not mask.any()
        return
    x0, y0, x1, y1 = box.astype(int)
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    for edge in (mask[y0, x0:x1], mask[y1 - 1, x0:x1], mask[y0:y1, x0], mask[y0:y1, x1 - 1]):
        assert edge.any()


@pytest.mark.parametrize("function", [mask_area, mask_to_box, encode_rle])
def test_a_mask_must_have_two_axes(function):
    with pytest.raises(ShapeError, match=r"^mask must be \(H, W\), got \(1, 2, 3\)$"):
        function(np.zeros((1, 2, 3), dtype=bool))


def ellipse(height, width):
    y, x = np.indices((height, width)) + 0.5
    return ((x / width - 0.5) / 0.4) ** 2 + ((y / height - 0.45) / 0.3) ** 2 < 1


@pytest.mark.parametrize(("width", "height"), [(640, 480), (100, 300), (33, 47)])
def test_a_resized_mask_is_the_same_shape_at_another_size(width, height):
    resized = resize_mask(ellipse(200, 160), (width, height))
    assert resized.shape == (height, width)
    assert mask_iou(resized[None], ellipse(height, width)[None])[0, 0] > 0.95


@many
@given(MASKS, st.integers(1, 40), st.integers(1, 40))
def test_empty_stays_empty_and_full_stays_full_at_any_size(mask, width, height):
    assert not resize_mask(np.zeros_like(mask), (width, height)).any()
    assert resize_mask(np.ones_like(mask), (width, height)).all()
    assert np.array_equal(resize_mask(mask, mask.shape[::-1]), mask)


def test_a_polygon_covers_the_pixels_whose_centre_it_holds():
    expected = np.zeros((4, 5), dtype=bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(polygons_to_mask([[1, 1, 4, 1, 4, 3, 1, 3]], (5, 4)), expected)
    assert np.array_equal(polygons_to_mask([[0.6, 0.6, 4.4, 0.6, 4.4, 3.4, 0.6, 3.4]], (5, 4)), expected)
    assert np.array_equal(polygons_to_mask([np.array([[1, 1], [4, 1], [4, 3], [1, 3]])], (5, 4)), expected)


def test_several_polygons_join_and_what_lies_outside_is_cut_off():
    mask = polygons_to_mask([[-5, -5, 2, -5, 2, 2, -5, 2], [3, 1, 99, 1, 99, 99, 3, 99], [-9, 0, -8, 0, -8, 9]], (5, 4))
    assert mask.astype(int).tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    assert not polygons_to_mask([], (5, 4)).any()


@many
@given(
    st.lists(st.lists(st.tuples(*[st.floats(-20, 60)] * 2), min_size=3, max_size=9), min_size=1, max_size=3),
    st.sampled_from([0, 1, 2, 9]),
)
def test_polygons_equal_those_of_pycocotools(polygons, digits):
    coco_mask = pytest.importorskip("pycocotools.mask")
    flat = [[round(place, digits) for point in points for place in point] for points in polygons]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, 30, 40))) != 0
    np.testing.assert_array_equal(polygons_to_mask(flat, (40, 30)), expected)


@pytest.mark.parametrize("corners", [3, 40, 3000])
def test_large_polygons_equal_those_of_pycocotools(corners):
    coco_mask = pytest.importorskip("pycocotools.mask")
    draw = np.random.default_rng(corners)
    polygon = draw.uniform(-100, 1100, 2 * corners).round(2).tolist()
    expected = coco_mask.decode(coco_mask.frPyObjects([polygon], 900, 1000))[..., 0] != 0
    np.testing.assert_array_equal(polygons_to_mask([polygon], (1000, 900)), expected)


@pytest.mark.parametrize("polygon", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, float("nan")]])
def test_what_is_no_polygon_is_refused(polygon):
    with pytest.raises(DataError) as caught:
        polygons_to_mask([polygon], (5, 4))
    assert str(caught.value) == f"a polygon must be at least three finite points x, y, got {len(polygon)} numbers"


@many
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_overlaps_of_run_lengths_are_those_of_the_masks(seed, height, width):
    rng = np.random.default_rng(seed)
    masks = rng.random((4, height, width)) < rng.random((4, 1, 1))
    runs = MaskRuns([encode_rle(mask) for mask in masks])
    plain = MaskRuns([{"size": [height, width], "counts": [0, 0, 0, height * width]}])  # runs of no length are allowed
    assert runs.areas.tolist() == [mask_area(mask) for mask in masks]
    boxes = [mask_to_box(mask) for mask in masks]
    assert runs.boxes_xyxy.tolist() == [[0, 0, 0, 0] if box is None else box.tolist() for box in boxes]
    pairs = np.array([(row, column) for row in range(4) for column in range(4)])
    assert runs.pair_iou(runs, pairs).tolist() == mask_iou(masks, masks).reshape(-1).tolist()
    assert runs.pair_iou(plain, np.array([[2, 0]])).tolist() == [mask_area(masks[2]) / (height * width)]


@given(st.integers(0, 2**32 - 1))
def test_codes_in_text_are_read_together_and_as_one_by_one(seed):
    rng = np.random.default_rng(seed)
    shapes = [(3, 5), (1, 1), (400, 300), (200, 3)]
    masks = [rng.random(shape) < rng.choice([0, 0.001, 0.5, 1]) for shape in shapes for _ in range(2)]
    codes = [encode_rle(mask) for mask in masks]
    unpacked = [{**code, "counts": masks_module.text_to_counts(code["counts"]).tolist()} for code in codes]
    alone = MaskRuns(unpacked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "_read", None)  # which reads one by one, and says what is wrong
        together = MaskRuns(codes)
    for name in ("sizes", "areas", "num_runs", "first", "starts", "ends", "boxes_xyxy"):
        assert getattr(together, name).tolist() == getattr(alone, name).tolist(), name


def _longer(text: str) -> str:
    """The same numbers, the first that can be with a digit more than it needs."""
    for place, character in enumerate(text):
        if (digit := ord(character) - 48) < 32:
            return f"{text[:place]}{chr(digit + 32 + 48)}{'O' if digit & 16 else '0'}{text[place + 1 :]}"
    raise AssertionError(text)


@given(st.integers(0, 2**32 - 1))
def test_codes_are_checked_together_as_one_by_one(seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random((9, 40)) < share for share in (0, 0.1, rng.random(), 1)]
    codes = [encode_rle(mask) for mask in masks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "_read", None)  # which reads one by one
        assert check_rles(codes, (9, 40)) == codes
        assert check_rles([], (9, 40)) == []
    counts = masks_module.text_to_counts(codes[2]["counts"]).tolist()
    split = [*counts[:-1], counts[-1] - 1, 0, 1, 0][: len(counts) + 3]
    for other in (
        _longer(codes[2]["counts"]),  # a digit more than needed
        masks_module.counts_to_text(np.array(split)),  # runs without length
        masks_module.counts_to_text(np.array([*counts, 0])),
        counts,
        codes[2]["counts"].encode(),
    ):
        given_code = {"size": (9, 40), "counts": other}
        assert check_rles([*codes, given_code], (9, 40)) == [*codes, codes[2]], other


def test_of_codes_checked_together_the_damaged_one_is_named_as_alone():
    good = encode_rle(np.ones((3, 4), dtype=bool))
    for bad in (
        {**good, "counts": "0\u00e9"},
        {**good, "size": [3, 5]},
        {**good, "counts": "P" * 9},
        "rle",
        {**good, "counts": ""},
    ):
        with pytest.raises(DataError) as alone:
            check_rle(bad, (3, 4))
        with pytest.raises(DataError) as together:
            check_rles([good, bad, good], (3, 4))
        assert str(together.value) == str(alone.value)


@pytest.mark.parametrize("side", [2**70, 2**32, -1])
def test_a_size_that_no_number_holds_is_a_fault_of_the_code(side):
    with pytest.raises(DataError, match="must have a size of 0 to"):
        MaskRuns([{"size": [side, side], "counts": "0"}])


def test_overlaps_of_damaged_codes_and_of_other_sizes_are_refused():
    good = encode_rle(np.ones((3, 4), dtype=bool))
    with pytest.raises(DataError, match="must describe 3 x 5"):
        MaskRuns([good, {**good, "size": [3, 5]}])
    with pytest.raises(ShapeError, match="same height and width"):
        MaskRuns([good]).pair_iou(MaskRuns([encode_rle(np.ones((4, 3), dtype=bool))]), [[0, 0]])
    assert len(MaskRuns([])) == 0
    assert MaskRuns([good]).pair_iou(MaskRuns([]), np.zeros((0, 2))).tolist() == []


def test_the_code_of_a_part_is_that_of_the_whole_mask():
    generator = np.random.default_rng(0)
    for _ in range(40):
        height, width = generator.integers(1, 9, 2)
        mask = np.zeros((height, width), dtype=bool)
        top, left = generator.integers(0, height), generator.integers(0, width)
        bottom, right = generator.integers(top, height) + 1, generator.integers(left, width) + 1
        part = generator.random((bottom - top, right - left)) < generator.choice([0.0, 0.5, 1.0])
        mask[top:bottom, left:right] = part
        assert encode_rle_at(part, (int(left), int(top)), (int(height), int(width))) == encode_rle(mask)
    with pytest.raises(ShapeError, match="must lie within"):
        encode_rle_at(part, (int(left), int(top)), (int(bottom) - 1, int(width)))
