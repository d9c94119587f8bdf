"""Records: placeholders counted, pixels upright, masks of every form, crowds left out when opened."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
