"""What files say of themselves is read at a cost in proportion to their bytes, and no metadata reaches a decoder."""

import io
import struct
import time
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from llava_grounding.errors import ImageError
from llava_grounding.image_headers import MAX_SCANS, exif_orientation, read_header

FORMATS = ("JPEG", "PNG", "WEBP")


def encoded(file_format: str = "PNG", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif(orientation: int, order: str = ">", kind: int = 3) -> bytes:
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    entries = struct.pack(f"{order}HHI", 0x0110, 2, 4) + b"cam\x00"
    entries += struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
    head = (b"MM\x00*" if order == ">" else b"II*\x00") + struct.pack(f"{order}I", 8)
    return b"Exif\x00\x00" + head + struct.pack(f"{order}H", 2) + entries + b"\x00" * 4


def same_pixels(data: bytes, cleaned: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as first, Image.open(io.BytesIO(cleaned)) as second:
        return first.mode == second.mode and first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
        ("JPEG", {"restart_marker_blocks": 1}),
        ("JPEG", {"comment": b"words", "icc_profile": b"p" * 200_000, "exif": exif(6)}),
        ("PNG", {}),
        ("PNG", {"icc_profile": b"p" * 2000, "exif": exif(6), "dpi": (72, 72)}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True, "exif": exif(6), "xmp": b"<x/>"}),
    ],
)
def test_what_a_decoder_gets_has_the_same_pixels(file_format: str, options: dict[str, object]) -> None:
    data = encoded(file_format, **options)
    header = read_header(data, "it", FORMATS)
    assert (header.format, header.size_wh, header.frames) == (file_format, (24, 16), 1)
    assert header.orientation == (6 if "exif" in options else 1)
    assert same_pixels(data, header.data)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16", "CMYK"])
def test_every_colour_mode_keeps_its_pixels(mode: str) -> None:
    source = Image.fromarray((np.arange(24 * 16).reshape(16, 24) * 150).astype(np.uint16))
    source = source if mode == "I;16" else Image.open(io.BytesIO(encoded())).convert(mode)
    buffer = io.BytesIO()
    source.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    assert same_pixels(buffer.getvalue(), read_header(buffer.getvalue(), "it", FORMATS).data)


def test_no_metadata_reaches_a_decoder() -> None:
    secret = b"metadata" * 1000
    segments = b"".join(segment(marker, secret) for marker in (0xE1, 0xE2, 0xED, 0xFE))
    chunks = b"".join(chunk(kind, secret) for kind in (b"tEXt", b"iCCP", b"zTXt", b"eXIf", b"prVt"))
    jpeg, png = encoded("JPEG"), encoded("PNG")
    for data, at, metadata in ((jpeg, 2, segments), (png, 33, chunks)):
        header = read_header(data[:at] + metadata + data[at:], "it", FORMATS)
        assert b"metadata" not in header.data
        assert same_pixels(data, header.data)


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_read_in_both_byte_orders(order: str, kind: int, orientation: int) -> None:
    assert exif_orientation(exif(orientation, order, kind)) == orientation
    assert exif_orientation(exif(orientation, order, kind)[6:]) == orientation  # PNG and WebP leave the first six out


@pytest.mark.parametrize(
    "block",
    [b"", b"Exif\x00\x00", exif(0), exif(9), exif(6)[:20], exif(6)[:13], b"Exif\x00\x00MM\x00*\xff\xff\xff\xff broken"],
)
def test_exif_that_says_no_orientation(block: bytes) -> None:
    assert exif_orientation(block) is None


def test_entries_that_all_point_at_the_same_megabytes_are_not_followed() -> None:
    many = 65_535
    entries = b"".join(struct.pack(">HHII", 0x9000 + k % 4096, 7, 8_000_000, 8) for k in range(many - 1))
    block = b"MM\x00*" + struct.pack(">IH", 8, many) + entries + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    png = encoded("PNG")
    png = png[:33] + chunk(b"eXIf", block + bytes(8_000_000)) + png[33:]
    start = time.process_time()
    assert read_header(png, "it", FORMATS).orientation == 6
    assert time.process_time() - start < 2  # following them would copy 500 GB


@pytest.mark.parametrize(
    "png_text",
    [
        chunk(b"zTXt", b"Raw profile type exif\x00\x00" + zlib.compress(b"\nexif\n   40\n" + exif(8).hex().encode())),
        chunk(b"tEXt", b"Raw profile type exif\x00\nexif\n   40\n" + exif(8).hex().encode()),
        chunk(b"iTXt", b'XML:com.adobe.xmp\x00\x00\x00\x00\x00<x tiff:Orientation="8"/>'),
    ],
)
def test_older_ways_to_say_the_orientation_in_a_png(png_text: bytes) -> None:
    png = encoded("PNG")
    assert read_header(png[:33] + png_text + png[33:], "it", FORMATS).orientation == 8


def test_xmp_says_the_orientation_where_exif_does_not() -> None:
    xmp = b"http://ns.adobe.com/xap/1.0/\x00<x><tiff:Orientation>3</tiff:Orientation></x>"
    jpeg = encoded("JPEG")
    assert read_header(jpeg[:2] + segment(0xE1, xmp) + jpeg[2:], "it", FORMATS).orientation == 3
    both = jpeg[:2] + segment(0xE1, xmp) + segment(0xE1, exif(6)) + jpeg[2:]
    assert read_header(both, "it", FORMATS).orientation == 6
    webp = encoded("WEBP", xmp=b'<x tiff:Orientation="5"/>')
    assert read_header(webp, "it", FORMATS).orientation == 5


def test_a_text_that_unpacks_without_end_is_cut() -> None:
    bomb = zlib.compress(bytes(50_000_000), 1)
    png = encoded("PNG")
    texts = [chunk(b"zTXt", b"Raw profile type exif\x00\x00" + bomb), chunk(b"iCCP", b"p\x00\x00" + bomb)]
    tracemalloc.start()
    try:
        header = read_header(png[:33] + b"".join(texts) + png[33:], "it", FORMATS)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # unpacked, each has 50 million bytes
    finally:
        tracemalloc.stop()
    assert (header.orientation, len(header.data)) == (1, len(read_header(png, "it", FORMATS).data))


def many_scans(count: int) -> bytes:
    jpeg = encoded("JPEG", progressive=True)
    first = jpeg.index(b"\xff\xda")
    second = jpeg.index(b"\xff\xda", first + 2)
    return jpeg[:first] + jpeg[first:second] * count + jpeg[second:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    real = many_scans(1).count(b"\xff\xda")
    assert read_header(many_scans(MAX_SCANS - real), "it", FORMATS).size_wh == (24, 16)
    start = time.process_time()
    with pytest.raises(ImageError, match=r"^it has over 100 scans, where a JPEG has about ten"):
        read_header(many_scans(60_000), "it", FORMATS)
    assert time.process_time() - start < 1


def test_scans_inside_metadata_do_not_count() -> None:
    jpeg = encoded("JPEG")
    decoy = segment(0xE1, b"Exif\x00\x00" + b"\xff\xda\x00\x02" * 2000)
    after = b"\xff\xda" * 1000  # behind the end, as a second picture or a film of a phone is
    assert same_pixels(jpeg, read_header(jpeg[:2] + decoy + jpeg[2:] + after, "it", FORMATS).data)


def test_bytes_that_look_like_markers_without_end_take_linear_time() -> None:
    start = time.process_time()
    for filler in (b"\xff\x00", b"\xff\xff", b"\xff\xd0", b"\xff\x01", b"\xff\xfe\x00\x02", b"\x00\x00"):
        jpeg = encoded("JPEG")
        at = jpeg.index(b"\xff\xda") + 14
        for data in (jpeg[:2] + filler * 500_000 + jpeg[2:], jpeg[:at] + filler * 500_000 + jpeg[at:]):
            with suppress(ImageError):
                read_header(data, "it", FORMATS)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", [b"tEXt", b"IDAT", b"abCd"])
def test_a_png_of_countless_chunks_is_refused(kind: bytes) -> None:
    png = encoded("PNG")
    with pytest.raises(ImageError, match=r"^it is in more than 50,000 parts"):
        read_header(png[:33] + chunk(kind, b"") * 60_000 + png[33:], "it", FORMATS)


def test_a_second_header_does_not_change_the_size_that_was_checked() -> None:
    png = encoded("PNG")
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    header = read_header(png[:33] + second + png[33:], "it", FORMATS)
    assert header.size_wh == (24, 16)
    assert second not in header.data
    jpeg = encoded("JPEG")
    at = jpeg.index(b"\xff\xc0")
    frame = bytearray(jpeg[at : at + 19])
    frame[5:9] = struct.pack(">HH", 60_000, 60_000)
    header = read_header(jpeg[: at + 19] + bytes(frame) + jpeg[at + 19 :], "it", FORMATS)
    assert header.size_wh == (24, 16)
    assert bytes(frame) not in header.data


def test_frames_are_counted_without_decoding() -> None:
    frames = [Image.new("RGB", (8, 8), (k * 60, 0, 0)) for k in range(5)]
    for file_format in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:])
        assert read_header(buffer.getvalue(), "it", FORMATS).frames == 5


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript drawing"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "a PostScript drawing"),
        (b"DDS " + bytes(130), "a DDS texture"),
        (b"8BPS" + bytes(30), "a Photoshop file"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000"),
        (b"\x00\x00\x00\x1cftypavif", "an AVIF"),
        (b"BM" + bytes(60), "a BMP"),
        (b"GIF89a" + bytes(20), r"a GIF \(perhaps animated\)"),
        (encoded("TIFF"), "a TIFF"),
    ],
)
def test_other_formats_are_named_and_not_opened(data: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=f"^it is {what}; expected JPEG, PNG or WebP, so convert it first$"):
        read_header(data, "it", FORMATS)
