"""Answers of strangers as JSON: what reading and drawing one costs is bounded by what was given, not by its numbers."""

import copy
import json
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_grounding.errors import DataError, LlavaGroundingError
from llava_grounding.image_files import ImageLimits
from llava_grounding.masks import decode_rle, encode_rle
from llava_grounding.render.canvas import Canvas
from llava_grounding.structures import MAX_MASK_PIXELS, MAX_REGIONS, GroundedAnswer, PackedRegion, Region


def answer_json(size_wh: tuple[int, int] = (4, 3), masks: int = 1, rle: Any = ...) -> dict[str, Any]:
    width, height = size_wh
    whole = {"size": [height, width], "counts": [0, height * width]} if rle is ... else rle
    region = {"box": [1.0, 1, 3, 2], "score": 0.75, "area": 2, "mask": whole}
    phrase = {"id": 0, "text": "A dog", "span": [0, 5], "regions": [region] * masks, "score": 0.75}
    return {
        "version": 1,
        "text": "A dog.",
        "image_size": list(size_wh),
        "phrases": [phrase],
        "raw": "<g_s> A dog <g_e> <seg>.",
        "model": "nano",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(answer_json())
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


def refusal(data: Any) -> str:
    with pytest.raises(DataError) as caught:
        GroundedAnswer.from_dict(data)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


@pytest.mark.parametrize("size", [[65_535, 65_535], [1, 10**9], [10**12, 1], [2**53, 2**53]])
def test_a_few_bytes_that_name_a_huge_image_take_no_memory(size: list[int]) -> None:
    tracemalloc.start()
    try:
        assert "must be about an image of at most 65 megapixels, got one of" in refusal(answer_json(tuple(size)))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_masks_stay_packed_until_they_are_asked_for() -> None:
    tracemalloc.start()
    try:
        answer = GroundedAnswer.from_dict(answer_json((8192, 6144), masks=40))
        assert answer.phrases[0].regions[7].area == 8192 * 6144
        answer.to_dict()
        answer.to_coco()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_masks_times_pixels_are_bounded() -> None:
    most = MAX_MASK_PIXELS // (8192 * 6144)
    GroundedAnswer.from_dict(answer_json((8192, 6144), most))
    words = f"about 8192 x 6144 pixels must have at most {most} masks, got {most + 1}"
    assert words in refusal(answer_json((8192, 6144), most + 1))


def test_phrases_and_regions_are_bounded() -> None:
    assert f"must have at most {MAX_REGIONS} phrases and as many regions" in refusal(
        answer_json(masks=MAX_REGIONS + 1, rle=None)
    )
    data = answer_json()
    data["phrases"] *= MAX_REGIONS + 1
    assert f"must have at most {MAX_REGIONS} phrases" in refusal(data)


def test_what_is_drawn_does_not_grow_with_regions_on_a_picture_of_one_pixel() -> None:
    picture, box = Image.new("RGB", (1, 1)), [0.0, 0, 1, 1]

    def height(masks: int) -> int:
        data = answer_json((1, 1), masks)
        data["phrases"][0]["regions"] = [region | {"box": box} for region in data["phrases"][0]["regions"]]
        return GroundedAnswer.from_dict(data).draw(picture).height

    assert height(2) > 640  # enlarged, to be looked at
    assert height(400) < 400  # 640 for each of 400 masks took eight seconds
    for masks in (2, 400, MAX_REGIONS):
        size = Canvas(picture, 2048, [np.array(box)] * masks).picture.size
        assert masks * size[0] * size[1] < 2**25.1


def test_outlines_of_noise_share_what_a_page_may_hold() -> None:
    board = np.indices((60, 60)).sum(axis=0) % 2 == 0
    answer = GroundedAnswer.from_dict(answer_json((60, 60), 200, encode_rle(board)))
    assert len(answer.to_html(Image.new("RGB", (60, 60)))) < 2_000_000  # 9 MB before


def test_a_larger_image_is_read_when_that_is_allowed() -> None:
    data = answer_json((16_320, 12_240))
    assert "at most 65 megapixels" in refusal(data)
    assert GroundedAnswer.from_dict(data, ImageLimits.of_megapixels(200)).image_size_wh == (16_320, 12_240)


def test_a_packed_region_is_a_region_like_any_other() -> None:
    mask = np.random.default_rng(0).random((6, 5)) > 0.5
    plain, packed = Region(np.array([1.0, 1, 3, 2]), 0.5, mask), PackedRegion(np.array([1.0, 1, 3, 2]), 0.5, mask)
    assert plain == packed
    assert hash(plain) == hash(packed)
    assert packed == copy.deepcopy(packed)
    assert packed.mask_size_hw == plain.mask_size_hw == (6, 5)
    assert packed.mask_rle == plain.mask_rle == encode_rle(mask)
    assert packed.area == plain.area == mask.sum()
    np.testing.assert_array_equal(packed.mask_box_xyxy, plain.mask_box_xyxy)
    with pytest.raises(AttributeError):
        packed.score = 1.0  # type: ignore[misc]


def test_run_lengths_are_written_as_the_encoder_writes_them() -> None:
    odd = {"size": [3, 4], "counts": [4, 0, 0, 2, 0, 0, 6, 0]}
    region = GroundedAnswer.from_dict(answer_json(rle=odd)).phrases[0].regions[0]
    assert region.mask_rle == encode_rle(decode_rle(odd))


BOX, MASK = ("phrases", 0, "regions", 0, "box"), ("phrases", 0, "regions", 0, "mask")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("image_size",), "43", "`image_size` must be a list, got '43'"),
        (("image_size",), ["4", "3"], "`image_size` of an answer must be numbers, got '4'"),
        (("image_size",), [4.5, 3], "`image_size` of an answer must be whole numbers, got 4.5"),
        (("image_size",), [float("inf"), 3], "`image_size` of an answer must be whole numbers, got inf"),
        (("image_size",), [True, 3], "`image_size` of an answer must be numbers, got True"),
        (("image_size",), [10**400, 3], "does not fit"),
        (("image_size",), [4, 3, 3], "does not fit"),
        (BOX, ["1", "1", "3", "2"], "`box` of an answer must be numbers, got '1'"),
        (BOX, [1, 1, 3, float("nan")], "box_xyxy must be four finite numbers"),
        (BOX, [1, 1, 3, float("inf")], "box_xyxy must be four finite numbers"),
        (BOX, [1, 1, 3, 1e300], "box_xyxy must be four finite numbers"),
        (BOX, [1, 1, 3], "box_xyxy must be four finite numbers"),
        (BOX, [[1], 1, 3, 2], "`box` of an answer must be numbers, got [1]"),
        (BOX, {"0": 1}, "`box` must be a list"),
        (("phrases", 0, "span"), ["0", "5"], "`span` of an answer must be numbers, got '0'"),
        (("phrases", 0, "span"), [0, 5.5], "`span` of an answer must be whole numbers"),
        (("phrases", 0, "id"), "0", "`id` of an answer must be numbers"),
        (("phrases", 0, "score"), "0.5", "`score` of an answer must be numbers"),
        (("phrases", 0, "regions", 0, "score"), True, "`score` of an answer must be numbers, got True"),
        (("usage", "prompt_tokens"), -1, "`prompt_tokens` of an answer must be whole numbers, got -1"),
        (("usage", "prompt_tokens"), 10**400, "does not fit"),
        (("phrases",), {"a": 1}, "`phrases` must be a list"),
        (("phrases",), "text", "`phrases` must be a list"),
        (("phrases", 0, "regions"), "text", "`regions` must be a list"),
        (("phrases", 0, "text"), "x" * 100_000, "span of phrase 0 must cover 'xxx"),
        (("version",), "x" * 100_000, "must have version 1, got 'xxx"),
        (("text",), [["x" * 100_000]], "must have text where [['xxx"),
        ((*MASK, "counts"), [12, -1, 1], "must have no negative run"),
        ((*MASK, "counts"), [2**40], "must describe 3 x 4 = 12 pixels"),
        ((*MASK, "counts"), [10**400], "must have text or whole numbers as counts"),
        ((*MASK, "counts"), "o" * 100, "run-length code"),
        ((*MASK, "counts"), [[12]], "must have text or whole numbers as counts"),
        ((*MASK, "size"), "34", "`size` must be a list"),
        ((*MASK, "size"), [4, 3], "masks must have the size of the image, [3, 4], got [4, 3]"),
        (MASK, "text", "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_read_as_something_else(path: Any, value: Any, words: str) -> None:
    assert words in refusal(changed(path, value))


@pytest.mark.parametrize("path", [("text",), ("version",), ("image_size",), ("phrases",), BOX, (*MASK, "counts"), MASK])
def test_nesting_without_end_is_refused(path: tuple[Any, ...]) -> None:
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    data = answer_json()
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = deep
    refusal(data)
    while deep:  # taken apart by hand: deleting it whole would recurse as well
        deep = deep.pop()
    inner[path[-1]] = None


def test_many_masks_are_drawn_one_at_a_time() -> None:
    size_wh = (1600, 1200)
    mask = np.zeros(size_wh[::-1], dtype=bool)
    mask[200:240, 100:160] = True
    answer = GroundedAnswer.from_dict(answer_json(size_wh, masks=20, rle=encode_rle(mask)))
    picture = Image.new("RGB", size_wh)
    tracemalloc.start()
    try:
        answer.draw(picture)
        answer.to_html(picture)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000  # all masks at once would be 38 MB and more
    finally:
        tracemalloc.stop()


def test_damaged_answers_give_an_answer_or_one_of_our_errors() -> None:
    """A seeded sample of a longer run, in which 100,000 of them gave nothing else."""
    rng = random.Random(5)
    text = json.dumps(answer_json((24, 16), masks=2))
    picture = Image.new("RGB", (24, 16))
    read = 0
    for _ in range(3000):
        data = mutated(text, rng)
        try:
            answer = GroundedAnswer.from_dict(json.loads(data))
        except (ValueError, RecursionError):  # no JSON
            continue
        except LlavaGroundingError:
            continue
        read += 1
        assert GroundedAnswer.from_dict(json.loads(json.dumps(answer.to_dict(), allow_nan=False))) == answer
        if read % 100 == 0 and answer.image_size_wh == picture.size:
            answer.draw(picture)
            answer.to_html(picture)
    assert read > 100


_PIECES = [
    "1e999",
    "-1",
    "NaN",
    "null",
    '"a"',
    "[]",
    "{}",
    "65535",
    "0",
    "1.5",
    "true",
    "[[[]]]",
    '"\\ud800"',
    "9" * 40,
]


def mutated(text: str, rng: random.Random) -> str:
    """A JSON text with a few bytes changed, or a value exchanged for another."""
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(text))
        kind = rng.random()
        if kind < 0.3:
            text = text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :]
        elif kind < 0.4:
            text = text[:at] + text[at + rng.randint(1, 9) :]
        else:
            starts = [k for k in range(len(text)) if text[k - 1] in " [:"]
            at = rng.choice(starts)
            ends = [k for k in range(at, len(text)) if text[k] in ",]}"]
            text = text[:at] + rng.choice(_PIECES) + text[(ends or [len(text)])[0] :]
    return text
