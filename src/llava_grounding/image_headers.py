"""What an encoded picture says of itself, read before a decoder sees it: format, size, frames, scans, orientation.

Each reader walks over the parts of its format once, at a cost in proportion to the bytes, and hands on only the parts
that hold pixels: a decoder never sees the metadata of a stranger's file. Knows neither Pillow nor pixels.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from llava_grounding.errors import ImageError

MAX_SCANS = 100
"""Scans of a JPEG. Progressive files have about ten; each costs a pass over all pixels, however few bytes it has."""

MAX_PARTS = 50_000
"""Segments or chunks of a file that are looked at, more than any encoder writes."""

_NAMES = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "BMP": "BMP"}
_MAGIC = (
    ("JPEG", 0, b"\xff\xd8"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBPVP8"),
    ("BMP", 0, b"BM"),
)

# First bytes of formats people often send, so that the message can name what came.
_OTHER_FORMATS = (
    (0, b"GIF8", "a GIF (perhaps animated)"),
    (0, b"II*\x00", "a TIFF"),
    (0, b"MM\x00*", "a TIFF"),
    (4, b"ftypavi", "an AVIF"),
    (4, b"ftyphei", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIC photo"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (0, b"%!PS", "a PostScript drawing"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript drawing"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<!DOCTYPE html", "a web page"),
    (0, b"<html", "a web page"),
)

ORIENTATION_TAG = 0x0112
"""Number of the orientation among the tags of EXIF."""

ON_ITS_SIDE = frozenset((5, 6, 7, 8))
"""EXIF orientations of images that are stored with width and height swapped."""

_EXIF_HEADER = b"Exif\x00\x00"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_MAX_TEXT = 2**20  # bytes a compressed text of a PNG may unpack to, of those that can hold an orientation

# In JPEG data, `FF 00` is a stuffed byte, `FF FF` a fill byte and `FF D0` to `FF D7` are part of a scan.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_TABLES = frozenset((0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE))  # and two segments that tell the colour space
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, 0xD8))  # markers without a segment


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    Args:
        format: as Pillow calls it.
        size_wh: width and height as stored, in pixels; None where it does not say, or only the decoder reads it.
        frames: of an animation; 1 for a still picture.
        orientation: of EXIF, 1 to 8.
        data: the parts of the file that a decoder needs.
    """

    format: str
    size_wh: tuple[int, int] | None
    frames: int
    orientation: int
    data: bytes


def read_header(data: bytes, name: str, formats: Sequence[str]) -> Header:
    """Look through an encoded picture.

    Args:
        name: of the picture, for messages.
        formats: those that are read, of `JPEG`, `PNG`, `WEBP` and `BMP`.

    Raises:
        ImageError: if it is of another format, or built to keep a decoder busy.
    """
    found = next((kind for kind, at, magic in _MAGIC if data[at : at + len(magic)] == magic), None)
    if found is None or found not in formats:
        other = f"a {_NAMES[found]}" if found else None
        other = next((what for at, magic, what in _OTHER_FORMATS if data[at : at + len(magic)] == magic), other)
        if other is not None:
            raise ImageError(f"{name} is {other}; {wanted(formats)}, so convert it first")
        raise ImageError(f"{name} is not an image; {wanted(formats)}")
    readers = {"JPEG": _read_jpeg, "PNG": _read_png, "WEBP": _read_webp}
    return readers[found](data, name) if found in readers else Header(found, None, 1, 1, data)


def wanted(formats: Sequence[str]) -> str:
    """The formats as a message names them: "expected JPEG, PNG or WebP"."""
    *first, last = [_NAMES[kind] for kind in formats]
    return f"expected {', '.join(first)} or {last}" if first else f"expected {last}"


def exif_orientation(exif: bytes) -> int | None:
    """The orientation, 1 to 8, in the first directory of an EXIF block; None where it says none.

    Nothing else is read: an entry may point at megabytes, and thousands of them at the same ones.
    """
    start = len(_EXIF_HEADER) if exif[: len(_EXIF_HEADER)] == _EXIF_HEADER else 0
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[start : start + 4])
    try:
        if order is None:
            return None
        place = start + struct.unpack_from(f"{order}I", exif, start + 4)[0]
        (count,) = struct.unpack_from(f"{order}H", exif, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", exif, entry)
            layout = {1: "B", 3: "H", 4: "I"}.get(kind)
            if tag == ORIENTATION_TAG and layout and length == 1:
                (value,) = struct.unpack_from(order + layout, exif, entry + 8)
                return int(value) if 1 <= value <= 8 else None
    except struct.error:  # cut off, and the picture itself is fine
        pass
    return None


def _xmp_orientation(xmp: bytes) -> int | None:
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else None


def _read_jpeg(data: bytes, name: str) -> Header:
    kept, scans, at = [b"\xff\xd8"], 0, 2
    size_wh: tuple[int, int] | None = None
    exif: int | None = None
    xmp: int | None = None
    for _ in range(MAX_PARTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            break
        marker, start = data[found.end() - 1], found.start()
        if marker == _END:
            kept.append(b"\xff\xd9")
            break
        at = found.end()
        if marker in _ALONE:
            continue
        stop = at + int.from_bytes(data[at : at + 2], "big")
        if stop < at + 2 or stop > len(data):
            break  # cut off; the decoder will say so
        if marker == _SCAN:
            scans += 1
            following = _JPEG_MARKER.search(data, stop)
            stop = following.start() if following else len(data)
            kept.append(data[start:stop])
        elif marker in _FRAMES and size_wh is None and stop >= at + 7:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size_wh = width, height
            kept.append(data[start:stop])
        elif marker in _TABLES:
            kept.append(data[start:stop])
        elif marker == _APP1:
            body = data[at + 2 : stop]
            exif = exif or (exif_orientation(body) if body.startswith(_EXIF_HEADER) else None)
            xmp = xmp or (_xmp_orientation(body) if body.startswith(_XMP_HEADER) else None)
        if scans > MAX_SCANS:
            raise ImageError(f"{name} has over {MAX_SCANS} scans, where a JPEG has about ten; save it again without")
        at = stop
    else:
        raise _too_many_parts(name)
    return Header("JPEG", size_wh, 1, exif or xmp or 1, b"".join(kept))


def _read_png(data: bytes, name: str) -> Header:
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    frames, at, ended = 1, 8, False
    exif: int | None = None
    xmp: int | None = None
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        body, stop = at + 8, at + 8 + length
        if kind == b"IDAT":
            pixels += [] if ended else [data[body:stop]]
        elif kind == b"IEND":
            break
        else:
            ended = ended or bool(pixels)
            if kind in (b"IHDR", b"PLTE", b"tRNS"):
                kept.setdefault(kind, data[at : stop + 4])
            elif kind == b"acTL" and not pixels:
                frames = max(int.from_bytes(data[body : body + 4], "big"), 1)
            elif kind == b"eXIf":
                exif = exif or exif_orientation(data[body:stop])
            elif kind in (b"tEXt", b"zTXt", b"iTXt"):
                found = _text_orientation(kind, data[body:stop])
                exif, xmp = exif or found[0], xmp or found[1]
        at = stop + 4
    else:
        raise _too_many_parts(name)
    joined = b"".join(pixels)
    parts = [kept.get(kind, b"") for kind in (b"IHDR", b"PLTE", b"tRNS")]
    whole = b"".join([data[:8], *parts, _png_chunk(b"IDAT", joined) if pixels else b"", _png_chunk(b"IEND", b"")])
    size_wh = struct.unpack(">II", parts[0][8:16]) if len(parts[0]) >= 16 else None
    return Header("PNG", size_wh, frames, exif or xmp or 1, whole)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))])


def _text_orientation(kind: bytes, body: bytes) -> tuple[int | None, int | None]:
    """The orientations of EXIF and of XMP in a text of a PNG, as programs wrote them before there was `eXIf`."""
    keyword, _, rest = body[:_MAX_TEXT].partition(b"\x00")
    try:
        if keyword == b"Raw profile type exif" and kind != b"iTXt":
            text = zlib.decompressobj().decompress(rest[1:], _MAX_TEXT) if kind == b"zTXt" else rest
            lines = text.split(b"\n")[3:]  # an empty one, the name and the length come first
            return exif_orientation(bytes.fromhex(b"".join(lines).decode("ascii"))), None
        if keyword == b"XML:com.adobe.xmp" and kind == b"iTXt":
            packed = rest[:1] == b"\x01"
            text = rest.split(b"\x00", 3)[-1] if not packed else b""
            return None, _xmp_orientation(text)
    except (ValueError, zlib.error):
        pass
    return None, None


def _read_webp(data: bytes, name: str) -> Header:
    frames, at = 0, 12
    exif: int | None = None
    xmp: int | None = None
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        body, stop = at + 8, at + 8 + length
        frames += kind == b"ANMF"
        if kind == b"EXIF":
            exif = exif or exif_orientation(data[body:stop])
        elif kind == b"XMP ":
            xmp = xmp or _xmp_orientation(data[body : min(stop, body + _MAX_TEXT)])
        at = stop + length % 2
    else:
        raise _too_many_parts(name)
    return Header("WEBP", _webp_size(data), max(frames, 1), exif or xmp or 1, data)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas; Pillow's reader reserves the whole of it on opening."""
    if len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _too_many_parts(name: str) -> ImageError:
    return ImageError(f"{name} is in more than {MAX_PARTS:,} parts, which no program writes; save it again")
