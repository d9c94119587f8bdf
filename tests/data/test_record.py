"""Records: placeholders counted, pixels upright, masks of every form, crowds left out when opened."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

import llava_grounding.data.record as record_module
from label_files import SIZE_WH, picture
from llava_grounding.data.record import Annotation, GroundedText, Record, RecordedTurn, open_record
from llava_grounding.errors import DataError
from llava_grounding.masks import encode_rle

WIDTH, HEIGHT = SIZE_WH
SQUARE = np.zeros((HEIGHT, WIDTH), dtype=bool)
SQUARE[1:5, 2:6] = True
POLYGON = [[2, 1, 6, 1, 6, 5, 2, 5]]


def record(*segmentations: Any, size_wh: tuple[int, int] | None = SIZE_WH, data: bytes | None = None) -> Record:
    instances = tuple(Annotation("dog", (2, 1, 6, 5), segmentation) for segmentation in segmentations)
    encoded = picture() if data is None else data
    return Record("a", 1, size_wh, instances, lambda: encoded)


def test_a_text_has_one_target_per_phrase() -> None:
    with pytest.raises(DataError, match="targets must have one entry per `<seg>`, expected 1, got 0"):
        GroundedText("<g_s> a dog <g_e> <seg>", ())
    with pytest.raises(DataError, match="regions must have one entry per `<region>`, expected 0, got 1"):
        RecordedTurn("What?", "A dog.", regions=(0,))


@pytest.mark.parametrize("segmentation", [encode_rle(SQUARE), POLYGON, lambda: SQUARE])
def test_a_mask_may_be_run_lengths_polygons_or_a_function(segmentation: Any) -> None:
    np.testing.assert_array_equal(record(segmentation).load_mask(0), SQUARE)


def test_the_seed_is_of_the_image_id_and_without_one_of_the_record_id() -> None:
    known = [replace(record(), image_id=image_id).seed for image_id in (0, 7, "7", -1)]
    assert known == [0, 7, crc32(b"7"), crc32(b"-1")]
    assert [replace(record(), id=name, image_id=None).seed for name in "ab"] == [crc32(b"a"), crc32(b"b")]


def test_a_mask_of_another_size_is_an_error() -> None:
    with pytest.raises(DataError, match=r"mask 0 of `a` must be \(8, 10\), got \(3, 3\)"):
        record(lambda: np.ones((3, 3), dtype=bool)).load_mask(0)


def test_a_record_without_a_size_takes_it_from_its_pixels() -> None:
    unsized = record(POLYGON, size_wh=None)
    with pytest.raises(DataError, match="the size of `a` is not known"):
        unsized.load_mask(0)
    np.testing.assert_array_equal(open_record(unsized).masks[0], SQUARE)


def test_pixels_are_upright_rgb() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", SIZE_WH[::-1], 90).save(buffer, "JPEG", exif=exif)
    image = record(data=buffer.getvalue()).load_image()
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("data", [b"", b"GIF89a", picture()[:50], b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_picture_is_one_sentence(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot read image `a`: "):
        record(data=data).load_image()


def test_opening_leaves_crowds_out_and_says_where_the_others_went() -> None:
    whole = record(None, POLYGON, POLYGON)
    crowd = Annotation("dog", (0, 0, 9, 7), POLYGON, "crowd")
    opened = open_record(Record(**{**whole.__dict__, "instances": (whole.instances[0], crowd, whole.instances[1])}))
    assert opened.rows == {0: 0, 2: 1}
    assert [instance.has_mask for instance in opened.instances] == [False, True]
    assert opened.masks.shape == (2, HEIGHT, WIDTH)
    np.testing.assert_array_equal(opened.masks[1], SQUARE)


def test_a_large_picture_and_its_labels_become_small_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a photo of 20 megapixels, with limits of a few pixels; every form of mask, and each of its edges."""
    monkeypatch.setattr(record_module, "_LARGEST_SIDE", 20)
    large = np.zeros((30, 40), dtype=bool)
    large[10:20, 20:40] = True
    labels = [
        Annotation("dog", (20.0, 10.0, 40.0, 20.0), segmentation)
        for segmentation in ([[20, 10, 40, 10, 40, 20, 20, 20]], encode_rle(large), lambda: large, None)
    ]
    labels.append(Annotation("speck", (0.0, 0.0, 0.4, 0.4), [[0, 0, 0.4, 0, 0.4, 0.4]]))
    pixels = np.repeat(large[:, :, None], 3, axis=2).astype(np.uint8) * 200
    for encoded in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, encoded, quality=95)
        opened = open_record(Record("a", 1, (40, 30), tuple(labels), buffer.getvalue))
        assert opened.image.shape == (15, 20, 3)
        assert [one.has_mask for one in opened.instances] == [True, True, True, False, False]
        for row in range(4):
            assert opened.instances[row].box_xyxy.tolist() == [10, 5, 20, 10]
        for mask in opened.masks[:3]:
            np.testing.assert_array_equal(mask, large[::2, ::2])
        assert np.abs(opened.image[:, :, 0].astype(int) - large[::2, ::2] * 200).mean() < 15
    with pytest.raises(DataError, match=r"must be \(30, 41\) \(width, height\) as its labels say, got \(40, 30\)"):
        open_record(Record("a", 1, (30, 41), (), buffer.getvalue))


def test_many_masks_make_a_large_picture_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "_LEAST_SIDE", 6)
    monkeypatch.setattr(record_module, "_MASK_BYTES", 1200)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    label = Annotation("dog", (0.0, 0.0, 40.0, 30.0), None)
    sizes = [
        open_record(Record("a", 1, (40, 30), (label,) * count, buffer.getvalue)).masks.shape for count in (1, 4, 99)
    ]
    assert sizes == [(1, 30, 40), (4, 15, 20), (99, 4, 6)]
