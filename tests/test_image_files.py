"""Whatever comes in as a picture becomes an upright 8-bit RGB image of its own, or one clear sentence."""

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from llava_grounding.errors import ConfigError, ImageError
from llava_grounding.image_files import DATA_FORMATS, DATA_LIMITS, ImageLimits, load_image, load_mask

# Six colours in a 3 x 2 grid, so that no two orientations of it look alike.
GRID = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [255, 0, 255]]], dtype=np.uint8
)


def picture(size_wh: tuple[int, int] = (24, 16), mode: str = "RGB") -> Image.Image:
    return Image.fromarray(GRID).resize(size_wh, Image.Resampling.NEAREST).convert(mode)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + png_chunk(b"IEND", b"")


def refusal(source: object, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, limits or ImageLimits())
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("wrap", ["path", "str", "bytes", "bytearray", "memoryview", "pil"])
def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path, file_format: str, wrap: str) -> None:
    data = encoded(picture(), file_format)
    file = tmp_path / "picture.bin"  # the name's ending says nothing
    file.write_bytes(data)
    source = {
        "path": file,
        "str": str(file),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "pil": Image.open(io.BytesIO(data)),
    }[wrap]
    image = load_image(source)
    assert (image.mode, image.size) == ("RGB", (24, 16))
    with Image.open(io.BytesIO(data)) as expected:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_exif_orientation_is_undone(orientation: int, file_format: str) -> None:
    upright = np.asarray(picture((48, 32)))
    # What the standard says row 0 and column 0 of the stored pixels are, for each of the eight.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a[:, ::-1].transpose(1, 0, 2),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a[::-1].transpose(1, 0, 2),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    if file_format == "WEBP":
        options = {"lossless": True}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif, **options)
    image = load_image(data)
    assert image.size == (48, 32)
    assert np.abs(np.asarray(image).astype(int) - upright.astype(int)).max() <= 8
    again = load_image(image)  # the orientation went with the metadata, so it is not undone twice
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_out_of_range_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert load_image(encoded(picture(), "JPEG", exif=exif)).size == (24, 16)


def test_unreadable_exif_is_ignored() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff broken")
    assert load_image(data).size == (24, 16)


def test_sixteen_bit_greys_are_scaled_and_not_clipped() -> None:
    values = [0, 257, 32896, 65535]
    rows = b"\x00" + struct.pack(">4H", *values)
    image = load_image(png(4, 1, rows, depth=16))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]
    from_pil = load_image(Image.fromarray(np.array([values], dtype=np.uint16)))
    assert np.asarray(from_pil)[0, :, 1].tolist() == [0, 1, 128, 255]
    wide = load_image(Image.fromarray(np.array([values], dtype=np.int32)))
    assert np.asarray(wide)[0, :, 2].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_colours_are_scaled_and_not_clipped() -> None:
    rows = b"\x00" + struct.pack(">6H", 0, 32896, 65535, 65535, 257 * 7, 0)
    assert np.asarray(load_image(png(2, 1, rows, depth=16, colour=2))).tolist() == [[[0, 128, 255], [255, 7, 0]]]


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "PA", "RGBX"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    source = picture((6, 4), "L").convert("LA") if mode in ("LA", "PA") else picture((6, 4))
    image = load_image(source.convert(mode))
    assert (image.mode, image.size) == ("RGB", (6, 4))


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    image = load_image(encoded(picture((48, 32)).convert("CMYK"), "JPEG", quality=100))
    assert np.asarray(image)[4, 4, 0] > 200
    assert np.asarray(image)[4, 4, 1:].max() < 60


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    half.putpixel((1, 0), (0, 0, 0, 0))
    assert np.asarray(load_image(encoded(half))).tolist() == [[[255, 127, 127], [255, 255, 255]]]


def test_a_palette_with_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert np.asarray(load_image(encoded(image, transparency=b"\x00\xff"))).tolist() == [[[255, 255, 255], [0, 0, 255]]]
    assert np.asarray(load_image(encoded(image, transparency=1))).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_transparent_grey_of_sixteen_bits_is_laid_on_white() -> None:
    rows = b"\0" + struct.pack(">HHH", 1000, 1001, 65535)
    image = load_image(png(3, 1, rows, depth=16, extra=png_chunk(b"tRNS", struct.pack(">H", 1000))))
    assert np.asarray(image)[0, :, 0].tolist() == [255, 4, 255]


def test_a_transparent_colour_of_sixteen_bits_is_refused_where_it_would_be_guessed() -> None:
    rows = b"\0" + struct.pack(">9H", 1000, 2000, 3000, 1001, 2000, 3000, 0, 0, 0)
    for colour in ((1000, 2000, 3000), (0, 0, 0)):
        data = png(3, 1, rows, depth=16, colour=2, extra=png_chunk(b"tRNS", struct.pack(">3H", *colour)))
        for source in (data, Image.open(io.BytesIO(data))):
            assert "has 16-bit colours, one of which stands for nothing" in refusal(source)
    assert load_image(png(3, 1, rows, depth=16, colour=2)).size == (3, 1)


@pytest.mark.parametrize("transparency", ["x", (1, 2, 3, 4, 5), 2**70])
def test_a_transparency_that_is_no_colour_is_refused(transparency: object) -> None:
    image = Image.new("RGB", (2, 2))
    image.info["transparency"] = transparency
    assert "has a transparency that is no colour of it" in refusal(image)


def test_a_transparent_colour_of_an_rgb_png_is_laid_on_white() -> None:
    image = load_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)))
    assert np.asarray(image).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("array", "first_pixel"),
    [
        (np.full((2, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 1), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 4), (9, 9, 9, 255), np.uint8), [9, 9, 9]),
        (np.full((2, 3, 4), (9, 9, 9, 0), np.uint8), [255, 255, 255]),
        (np.full((2, 3, 3), 65535, np.uint16), [255, 255, 255]),
        (np.full((2, 3, 3), 0.5, np.float32), [128, 128, 128]),
        (np.full((2, 3), 1.0, np.float64), [255, 255, 255]),
        (np.full((3, 2, 3), 7, np.uint8).transpose(1, 0, 2), [7, 7, 7]),
        (np.full((2, 3, 6), 7, np.uint8)[:, :, ::2], [7, 7, 7]),
    ],
)
def test_arrays_are_read(array: np.ndarray, first_pixel: list[int]) -> None:
    image = load_image(array)
    assert image.size == (3, 2)
    assert np.asarray(image)[0, 0].tolist() == first_pixel


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 20, 30), np.uint8), "use `array.transpose(1, 2, 0)`"),
        (np.zeros((20, 30, 2), np.uint8), "shape (20 x 30 x 2); expected (H, W)"),
        (np.zeros((1, 20, 30, 3), np.uint8), "shape (1 x 20 x 30 x 3)"),
        (np.zeros(7, np.uint8), "shape (7)"),
        (np.zeros((), np.uint8), "shape (scalar)"),
        (np.zeros((2, 2), np.int64), "must be uint8, uint16 or floats in [0, 1], got int64"),
        (np.zeros((2, 2), bool), "got bool"),
        (np.zeros((2, 2), object), "got object"),
        (np.full((2, 2), 255.0), "floats must lie in [0, 1]"),
        (np.full((2, 2), -0.1), "floats must lie in [0, 1]"),
        (np.full((2, 2), np.nan), "floats must lie in [0, 1]"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels (5 x 0)"),
        (np.zeros((5, 0), np.uint8), "no pixels (0 x 5)"),
    ],
)
def test_other_arrays_are_refused_with_what_is_accepted(array: np.ndarray, words: str) -> None:
    assert words in refusal(array)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "path is empty"),
        ("no/such/file.png", "does not exist; check the path"),
        (Path("missing.jpg"), "`missing.jpg` does not exist"),
        ("http://example.org/cat.jpg", "URLs are not fetched"),
        ("HTTPS://example.org/cat.jpg", "URLs are not fetched"),
        ("file:///etc/hostname", "URLs are not fetched"),
        ("data:image/png;base64,AAAA", "URLs are not fetched"),
        ("nul\0byte.png", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
        (os.devnull, "not a regular file"),
        (".", "is a folder"),
        (b"", "is empty"),
        (b"hello", "is not an image; expected JPEG, PNG or WebP"),
        (b"GIF89a" + bytes(20), "is a GIF (perhaps animated); expected JPEG, PNG or WebP"),
        (b"BM" + bytes(60), "is a BMP"),
        (b"II*\x00" + bytes(60), "is a TIFF"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(60), "is a HEIC photo"),
        (b"%PDF-1.7", "is a PDF"),
        (b"<svg xmlns='x'/>", "is an SVG drawing"),
        (b"\xff\xd8", "damaged or truncated"),
        (b"\xff\xd8\xff\xe0", "damaged or truncated"),
        (b"RIFF\x00\x00\x00\x00WEBP", "is not an image"),
        (42, "must be a path, bytes, a binary file object, a PIL image or a NumPy array, got int"),
        (None, "got NoneType"),
        ([[1, 2], [3, 4]], "got list"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(source: object, words: str) -> None:
    assert words in refusal(source)


def test_an_empty_file_and_an_unreadable_one_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "empty.png` is empty" in refusal(empty)
    assert "does not exist" in refusal(empty / "inside.png")


def test_a_path_in_a_message_stays_short_and_printable(tmp_path: Path) -> None:
    message = refusal(tmp_path / ("a\x1b[31m\n" + "b" * 200))
    assert "\x1b" not in message
    assert "…" in message


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(file_format: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    assert "damaged or truncated" in refusal(data[: int(len(data) * keep)])


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_a_zero_sized_png_is_refused(width: int, height: int) -> None:
    assert f"has no pixels ({width} x {height})" in refusal(png(width, height, b""))


def test_too_many_bytes_are_refused_before_reading(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as opened:
        opened.truncate(30_000_000_000)  # sparse: reading it would take minutes
    assert "large.png` has 30000.0 MB, more than the 25 MB allowed; make it smaller, or allow more" in refusal(file)
    assert "has 0.0 MB, more than the 1e-05 MB allowed" in refusal(encoded(picture()), ImageLimits(max_bytes=10))


@pytest.mark.parametrize("side", [8_063, 12_000, 65_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    rows = zlib.compress(b"")
    message = refusal(png(side, side, rows))
    assert f"({side} x {side}), more than the 65 allowed; make it smaller" in message


def test_a_webp_bomb_is_refused_by_its_header() -> None:
    for lossless in (True, False):
        data = bytearray(encoded(picture(), "WEBP", lossless=lossless))
        data[24 if lossless else 26 : 25 if lossless else 28] = b"\xff" if lossless else b"\xff\x3f"
        limits = ImageLimits(max_pixels=24 * 16)
        assert "megapixels" in refusal(bytes(data), limits)
    exif = Image.Exif()
    exif[0x0112] = 1
    extended = encoded(picture(), "WEBP", exif=exif)
    assert extended[12:16] == b"VP8X"
    assert "(24 x 16)" in refusal(extended, ImageLimits(max_pixels=24 * 16 - 1))
    assert load_image(extended, ImageLimits(max_pixels=24 * 16)).size == (24, 16)


def test_a_jpeg_bomb_is_refused_by_its_header() -> None:
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    assert "has 4225 megapixels (65000 x 65000), more than the 65 allowed" in refusal(bytes(data))
    data[at : at + 4] = struct.pack(">HH", 10_000, 10_000)
    assert "has 100 megapixels (10000 x 10000), more than the 65 allowed" in refusal(bytes(data))


def test_a_pil_image_and_an_array_over_the_limit_are_refused() -> None:
    limits = ImageLimits(max_pixels=100)
    assert "(20 x 6)" in refusal(Image.new("RGB", (20, 6)), limits)
    assert "(20 x 6)" in refusal(np.zeros((6, 20), np.uint8), limits)
    assert load_image(Image.new("RGB", (20, 5)), limits).size == (20, 5)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_animation_is_refused(file_format: str) -> None:
    frames = [picture(), Image.fromarray(255 - np.asarray(picture()))]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert "is animated (2 frames); expected a still image" in refusal(data)
    assert "is animated (2 frames)" in refusal(Image.open(io.BytesIO(data)))


def test_an_animated_gif_is_refused_as_file_and_as_pil_image() -> None:
    frames = [picture(), Image.fromarray(255 - np.asarray(picture()))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert "is a GIF" in refusal(data)
    # A PIL image of a GIF counts its frames by walking through all of them, so that is not asked.
    assert "the PIL image is animated; expected a still" in refusal(Image.open(io.BytesIO(data)))


def test_a_phone_jpeg_with_a_second_picture_inside_is_no_animation() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture((12, 8))])
    assert load_image(data).size == (24, 16)


def test_odd_pil_images_are_refused() -> None:
    assert "has no pixels (0 x 4)" in refusal(Image.new("RGB", (0, 4)))
    assert "floating-point pixels" in refusal(Image.new("F", (2, 2)))
    assert "outside 0 to 65535" in refusal(Image.new("I", (2, 2), 70_000))
    closed = Image.open(io.BytesIO(encoded(picture())))
    closed.close()
    assert "cannot be read" in refusal(closed)


def test_the_picture_given_is_neither_changed_nor_shared() -> None:
    source = picture()
    image = load_image(source)
    image.putpixel((0, 0), (9, 9, 9))
    assert source.getpixel((0, 0)) == (255, 0, 0)
    assert image.info == {}


def test_no_warning_of_pillow_gets_out() -> None:
    palette = Image.new("P", (2, 2))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    sources = [
        encoded(palette, transparency=b"\x00\xff"),
        encoded(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff broken"),
    ]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for source in sources:
            load_image(source)
        refusal(png(10_000, 10_000, b""))
    assert seen == []


def test_many_threads_may_read_at_once() -> None:
    data, sizes = encoded(picture()), []
    threads = [threading.Thread(target=lambda: sizes.append(load_image(data).size)) for _ in range(8)]
    before = warnings.filters[:]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [(24, 16)] * 8
    assert warnings.filters[:] == before


def test_limits_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_bytes must be at least 1, got 0"):
        ImageLimits(max_bytes=0)
    with pytest.raises(ConfigError, match="max_pixels must be between 1 and 1,000,000,000, got 2,000,000,000"):
        ImageLimits(max_pixels=2_000_000_000)


SEEDS = {
    name: encoded(
        picture(), name, **({"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"} if name != "PNG" else {})
    )
    for name in ("PNG", "JPEG", "WEBP")
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=4),
    keep=st.floats(0, 1),
)
def test_damaged_bytes_give_a_picture_or_an_image_error(
    name: str, edits: list[tuple[float, bytes]], keep: float
) -> None:
    data = bytearray(SEEDS[name])
    for where, patch in edits:
        at = int(where * len(data))
        data[at : at + len(patch)] = patch
    try:
        image = load_image(bytes(data[: max(1, int(len(data) * keep))]), ImageLimits(max_pixels=1_000_000))
    except ImageError:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize("bright", [1, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_drawn_mask_is_true_where_bright(bright: int, mode: str) -> None:
    grey = np.zeros((2, 3), np.uint8)
    grey[0, 1] = bright
    mask = load_mask(encoded(Image.fromarray(grey).convert(mode)))
    assert mask.dtype == bool
    assert mask.tolist() == [[False, True, False], [False, False, False]]


def test_a_transparent_pixel_is_outside_the_mask() -> None:
    image = Image.new("RGBA", (2, 1), (255, 255, 255, 255))
    image.putpixel((1, 0), (255, 255, 255, 0))
    assert load_mask(encoded(image)).tolist() == [[True, False]]


def test_a_black_mask_is_empty() -> None:
    assert not load_mask(encoded(Image.new("L", (3, 2)))).any()


@pytest.mark.parametrize("size_wh", [(8160, 6144), (8192, 6144), (9280, 6944)])
def test_what_phones_of_fifty_and_sixty_four_megapixels_make_is_within_the_limits(size_wh: tuple[int, int]) -> None:
    # The header alone is looked at; the pixels are missing, and that is what is complained of.
    assert "damaged or truncated" in refusal(png(*size_wh, b""))


def test_a_refusal_for_size_says_what_to_do() -> None:
    way_out = "make it smaller, or allow more: --max-megapixels, in Python `ImageLimits.of_megapixels`"
    assert refusal(png(12_000, 9_000, b"")).endswith(way_out)
    assert refusal(bytes(26_000_000)).endswith(way_out)
    assert "damaged or truncated" in refusal(png(12_000, 9_000, b""), ImageLimits.of_megapixels(108))


def test_limits_in_megapixels_allow_bytes_in_proportion() -> None:
    assert ImageLimits.of_megapixels(130) == ImageLimits(max_bytes=50_000_000, max_pixels=130_000_000)
    assert ImageLimits.of_megapixels(1.5) == ImageLimits(max_bytes=25_000_000, max_pixels=1_500_000)
    for wrong in (0, -1, float("nan"), float("inf"), 1001, 1e-9):
        with pytest.raises(ConfigError, match="megapixels must be more than 0 and at most 1000, got "):
            ImageLimits.of_megapixels(wrong)


@pytest.mark.parametrize("most", [10, None])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_limit_that_the_program_around_set_for_pillow_changes_nothing(
    most: int | None, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(), file_format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(data).size == (24, 16)
    assert most == Image.MAX_IMAGE_PIXELS
    assert "megapixels" in refusal(png(20_000, 20_000, b""))


@pytest.mark.parametrize("order", ["<", ">", "="])
def test_arrays_of_either_byte_order_are_read(order: str) -> None:
    sixteen = np.array([[0, 257, 32896, 65535]]).astype(f"{order}u2")
    assert np.asarray(load_image(sixteen))[0, :, 0].tolist() == [0, 1, 128, 255]
    for kind in ("f2", "f4", "f8"):
        floats = np.array([[0.0, 0.5, 1.0]]).astype(order + kind)
        assert np.asarray(load_image(floats))[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(np.zeros((8, 8, 3), f"{order}u2")).size == (8, 8)


def test_a_file_object_is_read_from_its_beginning_as_often_as_it_is_given(tmp_path: Path) -> None:
    data = encoded(picture())
    buffer = io.BytesIO(data)
    assert load_image(buffer).size == load_image(buffer).size == (24, 16)
    (tmp_path / "a.png").write_bytes(data)
    with (tmp_path / "a.png").open("rb") as file:
        assert load_image(file).size == (24, 16)
    with (tmp_path / "a.png").open("rb", buffering=0) as file:
        assert load_image(file).size == (24, 16)


class Lost:
    """A file object whose source has gone."""

    def read(self, size: int) -> bytes:
        raise KeyError("lost")


def test_file_objects_that_give_no_picture_are_refused(tmp_path: Path) -> None:
    assert "is empty" in refusal(io.BytesIO())
    assert 'gives str, expected bytes; open it in binary mode, "rb"' in refusal(io.StringIO("text"))
    assert "more than the 1e-05 MB allowed" in refusal(io.BytesIO(encoded(picture())), ImageLimits(max_bytes=10))
    closed = io.BytesIO(b"")
    closed.close()
    assert "the image of the file object cannot be read" in refusal(closed)
    assert "the image of the file object cannot be read: 'lost'" in refusal(Lost())
    endless = Path(os.devnull).with_name("zero")
    if endless.exists():
        with endless.open("rb") as file:
            assert "more than the 25 MB allowed" in refusal(file)


def test_sixteen_bits_of_which_hardly_any_are_used_are_refused() -> None:
    # A depth in millimetres, or an 8-bit picture in the wrong type, would come out black.
    words = "has 16-bit pixels that end at 255 of 65535, so it would be black; scale them"
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for source in (grey, Image.fromarray(grey), encoded(Image.fromarray(grey)), Image.fromarray(grey.astype(np.int32))):
        assert words in refusal(source)
    assert load_image(grey * 16 + 100).size == (16, 16)


def test_a_postscript_drawing_is_not_run_even_as_a_pil_image() -> None:
    drawing = Image.new("RGB", (8, 8))
    buffer = io.BytesIO()
    drawing.save(buffer, "EPS")
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    assert "is a PostScript drawing, which another program would have to run" in refusal(opened)
    assert "is a PostScript drawing" in refusal(buffer.getvalue())


def test_a_compressed_bmp_and_other_formats_of_data_sets() -> None:
    data = encoded(picture(), "BMP")
    assert load_image(data, DATA_LIMITS, DATA_FORMATS).size == (24, 16)
    packed = bytearray(encoded(picture(mode="L"), "BMP"))
    packed[30] = 1
    with pytest.raises(ImageError, match="is a compressed BMP"):
        load_image(bytes(packed), DATA_LIMITS, DATA_FORMATS)
    with pytest.raises(ImageError, match="is a TIFF; expected JPEG, PNG, WebP or BMP, so convert it first"):
        load_image(encoded(picture(), "TIFF"), DATA_LIMITS, DATA_FORMATS)


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("x"), RuntimeError("x"), AttributeError("x"), ZeroDivisionError(), struct.error(), KeyError()],
)
def test_whatever_a_decoder_raises_is_a_damaged_picture(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, *args: object) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", broken)
    assert "damaged or truncated; its pixels cannot be read to the end" in refusal(encoded(picture()))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile._open", broken)
    assert "damaged or truncated" in refusal(encoded(picture()))


def test_one_slow_picture_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding, go_on = threading.Event(), threading.Event()
    slow, quick, sizes = encoded(picture()), encoded(picture(), "JPEG"), []
    load = PngImageFile.load

    def waiting(self: PngImageFile) -> object:
        decoding.set()
        assert go_on.wait(10)
        return load(self)

    monkeypatch.setattr(PngImageFile, "load", waiting)
    first = threading.Thread(target=lambda: load_image(slow))
    first.start()
    assert decoding.wait(10)
    second = threading.Thread(target=lambda: sizes.append(load_image(quick).size))
    second.start()
    second.join(5)
    assert sizes == [(24, 16)]
    go_on.set()
    first.join(10)
