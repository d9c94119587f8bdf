"""A picture of a data set runs nothing, is not read beyond a limit, and whatever is wrong with it breaks it alone."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_grounding.data.check import check_dataset
from llava_grounding.data.images import MAX_FILE_BYTES, FileBytes, open_images
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.coco_panoptic import SegmentMap
from llava_grounding.data.record import Annotation, Record
from llava_grounding.errors import DataError


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def record_of(data: bytes) -> Record:
    return Record("a.jpg", 1, None, (), lambda: data)


GREY = Image.fromarray(np.arange(16 * 24, dtype=np.uint8).reshape(16, 24))
RGB = GREY.convert("RGB")


def test_a_drawing_under_the_name_of_a_photo_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, started = tmp_path / "bin", tmp_path / "started"
    programs.mkdir()
    (programs / "gs").write_text(f'#!/bin/sh\necho "$@" >> "{started}"\nexit 1\n')
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(DataError, match=r"^cannot read image `a.jpg`: it is a PostScript drawing; expected JPEG, PNG"):
        record_of(encoded(RGB, "EPS")).load_image()
    assert not started.exists()


@pytest.mark.parametrize("file_format", ["DDS", "TIFF", "GIF", "ICNS", "PCX", "SGI", "TGA", "PPM", "AVIF", "JPEG2000"])
def test_only_a_few_decoders_are_ever_asked(file_format: str) -> None:
    try:
        data = encoded(Image.new("RGB", (32, 32)), file_format)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {file_format}")
    with pytest.raises(DataError, match=r"^cannot read image `a.jpg`: it is .*; expected JPEG, "):
        record_of(data).load_image()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_what_data_sets_use_is_read_upright(file_format: str) -> None:
    assert record_of(encoded(RGB, file_format)).load_image().shape == (16, 24, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    if file_format != "BMP":
        assert record_of(encoded(RGB, file_format, exif=exif)).load_image().shape == (24, 16, 3)


def test_sixteen_bits_are_scaled_and_floats_are_refused() -> None:
    thermal = Image.fromarray(np.linspace(300, 60_300, 16 * 24).astype(np.uint16).reshape(16, 24))
    pixels = record_of(encoded(thermal, "PNG")).load_image()
    assert (pixels.min(), pixels.max()) == (1, 235)
    with pytest.raises(DataError, match="so it would be black; scale them to the whole range"):
        record_of(encoded(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 200), "PNG")).load_image()


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "b.jpg").open("wb") as file:
        file.truncate(30_000_000_000)  # sparse: reading it would take minutes, and all memory
    for read in (FileBytes(tmp_path / "b.jpg"), open_images(tmp_path).locate("b.jpg")):
        with pytest.raises(DataError, match=f"b.jpg must have at most {MAX_FILE_BYTES} bytes to be read as a picture$"):
            read()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_under_the_name_of_a_picture_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.jpg")
    with pytest.raises(DataError, match=r"b.jpg: it is no regular file$"):
        open_images(tmp_path).locate("b.jpg")()


@pytest.mark.parametrize("error", [NotImplementedError("x"), RuntimeError("x"), AttributeError("x"), MemoryError()])
def test_whatever_a_decoder_raises_breaks_one_record(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", broken)
    with pytest.raises(DataError, match=r"cannot read image `a\.jpg`"):
        record_of(encoded(RGB, "PNG")).load_image()


def test_the_check_reports_it_and_goes_on(tmp_path: Path) -> None:
    names = {"a.jpg": encoded(RGB, "JPEG"), "b.jpg": encoded(RGB, "DDS"), "c.jpg": encoded(RGB, "EPS")}
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    images = [{"id": k, "file_name": name, "width": 24, "height": 16} for k, name in enumerate(names, 1)]
    box = {"category_id": 1, "bbox": [1, 1, 5, 5]}
    labels = {
        "images": images,
        "annotations": [{"id": k, "image_id": k, **box} for k in (1, 2, 3)],
        "categories": [{"id": 1, "name": "dog"}],
    }
    report = check_dataset(CocoPhotos(labels, open_images(tmp_path)))
    assert (report.counts["records"], report.broken_images.count) == (3, 2)
    assert "b.jpg: cannot read image `b.jpg`: it is a DDS texture" in report.broken_images.named[0]


def png(width: int, height: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def test_the_colours_of_a_panoptic_png_are_numbers() -> None:
    segments = SegmentMap(lambda: png(2, 1, 2, b"\x00" + bytes([7, 1, 0, 0, 0, 2])))
    assert segments.ids().tolist() == [[7 + 256, 2 * 65536]]
    opaque = SegmentMap(lambda: png(1, 1, 6, b"\x00" + bytes([7, 1, 0, 0])))
    assert opaque.ids().tolist() == [[263]]  # also where the colour is transparent


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(RGB, "JPEG"), "is a JPEG; expected PNG, so convert it first"),
        (encoded(RGB, "EPS"), "is a PostScript drawing; expected PNG"),
        (png(60_000, 60_000, 2, b""), "more than the 179 allowed; make it smaller"),
        (encoded(GREY, "PNG"), "must have colours, got mode L"),
        (encoded(RGB, "PNG")[:60], "damaged or truncated"),
    ],
)
def test_a_panoptic_png_that_is_none_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        SegmentMap(lambda: data).ids()


def test_a_mask_of_another_size_is_not_unpacked() -> None:
    huge = {"size": [65535, 65535], "counts": [65535 * 65535]}
    thing = Annotation("dog", (1, 1, 5, 5), huge)
    record = Record("a.png", 1, None, (thing,), lambda: encoded(RGB, "PNG"))
    with pytest.raises(DataError, match="must have the height and width of its image, 16 x 24, got 65535 x 65535"):
        record.load_mask(0, (24, 16))
