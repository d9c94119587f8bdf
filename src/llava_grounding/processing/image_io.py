"""Pictures from outside: a path, bytes, a PIL image or an array becomes one upright RGB image, or a clear ImageError.

Everything that can be refused is refused before pixels are decoded. Knows no tensors and no model; never fetches a URL.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from llava_grounding.errors import ConfigError, ImageError

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray

_FORMATS = ("JPEG", "PNG", "WEBP")
_WANTED = "expected JPEG, PNG or WebP"
_PILLOW_MAX_PIXELS = 178_956_970  # Pillow itself refuses anything larger when it reads the header

# First bytes of formats people often send, so that the message can name what came.
_OTHER_FORMATS = (
    (0, b"GIF8", "a GIF (perhaps animated)"),
    (0, b"BM", "a BMP"),
    (0, b"II*\x00", "a TIFF"),
    (0, b"MM\x00*", "a TIFF"),
    (4, b"ftypavi", "an AVIF"),
    (4, b"ftyphei", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIC photo"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<!DOCTYPE html", "a web page"),
    (0, b"<html", "a web page"),
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112

# Pillow's readers raise any of these on damaged files (the tests fuzz them); all mean "this file cannot be read".
_DECODE_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
)

# `warnings.catch_warnings` swaps process-wide state, so two threads must not be inside it at once.
_PILLOW_LOCK = threading.RLock()


@dataclass(frozen=True)
class ImageLimits:
    """How large an image may be; both are checked before any pixel is decoded."""

    max_bytes: int = 25_000_000
    """Size of the file or of the bytes given."""

    max_pixels: int = 50_000_000
    """Width times height; at most 178,956,970, where Pillow itself stops."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes must be at least 1, got {self.max_bytes}")
        if not 1 <= self.max_pixels <= _PILLOW_MAX_PIXELS:
            raise ConfigError(f"max_pixels must be between 1 and {_PILLOW_MAX_PIXELS:,}, got {self.max_pixels:,}")


DEFAULT_LIMITS = ImageLimits()


def load_image(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Read one picture as an upright 8-bit RGB image of its own, whatever it came as.

    Args:
        source: a path; the bytes of a JPEG, PNG or WebP file; a PIL image; or an array (H, W), (H, W, 1), (H, W, 3)
            or (H, W, 4) of uint8, of uint16 (0 to 65535), or of floats in [0, 1].
        limits: what is refused for its size.

    Returns:
        RGB, with the EXIF orientation applied and transparency laid on white; 16 bits are scaled to 8, not clipped.

    Raises:
        ImageError: if there is no such file, or it is no readable still image, or it is over a limit.
    """
    image, name = _open(source, limits)
    with _quiet_pillow():
        return _to_rgb(_decode(image, name), name)


def load_mask(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Read a drawn region as (H, W) bool: true where the picture is brighter than half its brightest pixel.

    So both habits work, 0 and 1 as well as 0 and 255. Transparent pixels are outside the region.
    """
    image, name = _open(source, limits)
    with _quiet_pillow():
        rgba = _to_rgba(_decode(image, name), name)
        on_black = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    brightness = np.asarray(on_black.convert("L"))
    return brightness > brightness.max() / 2


def _open(source: ImageSource, limits: ImageLimits) -> tuple[Image.Image, str]:
    """Header only: the image with its pixels not yet decoded, checked against the limits, and its name for messages."""
    if isinstance(source, Image.Image):
        image, name = source, "the PIL image"
        frames = _safe_frame_count(source)
    elif isinstance(source, np.ndarray):
        image, name, frames = _array_to_image(source, limits), "the array", 1
    else:
        data, name = _read_bytes(source, limits)
        image = _open_header(data, name, limits)
        frames = 1 if image.format == "MPO" else _safe_frame_count(image)
    _check_size(image.size, name, limits)
    if frames > 1:
        raise ImageError(f"{name} is animated ({frames} frames); expected a still image, so save one frame of it first")
    return image, name


def _read_bytes(source: object, limits: ImageLimits) -> tuple[bytes, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), "the image given as bytes"
        if not data:
            raise ImageError(f"{name} is empty; {_WANTED}")
        _check_bytes(len(data), name, limits)
        return data, name
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"an image must be a path, bytes, a PIL image or a NumPy array, got {type(source).__name__}"
            + ("; convert it with `.numpy()`, channels last" if type(source).__name__ == "Tensor" else "")
        )
    return _read_file(os.fspath(source), limits)


def _read_file(path: str, limits: ImageLimits) -> tuple[bytes, str]:
    name = f"image `{_shorten(path)}`"
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:", path):
        raise ImageError(f"{name} is a URL, and URLs are not fetched; save the picture and give its path")
    if not path:
        raise ImageError("the image path is empty; expected the path of a JPEG, PNG or WebP file")
    with _file_errors_named(name):
        status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a folder; expected one JPEG, PNG or WebP file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name} is not a regular file; {_WANTED}")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty; {_WANTED}")
    _check_bytes(status.st_size, name, limits)
    with _file_errors_named(name), Path(path).open("rb") as file:
        data = file.read(limits.max_bytes + 1)
    _check_bytes(len(data), name, limits)  # it may have grown since
    return data, name


@contextmanager
def _file_errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{name} does not exist; check the path") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read; check its permissions") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name} cannot be opened: {reason}") from error


def _open_header(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    for offset, magic, what in _OTHER_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            raise ImageError(f"{name} is {what}; {_WANTED}, so convert it first")
    declared_wh = _declared_size(data)
    if declared_wh is not None:
        _check_size(declared_wh, name, limits)
    try:
        with _quiet_pillow():
            return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} has far more than {_megapixels(limits.max_pixels)} megapixels; make it smaller"
        ) from None
    except UnidentifiedImageError:
        if declared_wh is not None or data[:2] == b"\xff\xd8":
            raise ImageError(f"{name} is damaged or truncated; its header cannot be read") from None
        raise ImageError(f"{name} is not an image; {_WANTED}") from None
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged or truncated; its header cannot be read") from error


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as a PNG or WebP header states them; None for anything else.

    Pillow's WebP reader reserves the whole canvas on opening, and its PNG reader calls a picture of zero width
    unidentifiable, so both are looked at here first. JPEG headers Pillow reads lazily and well.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _decode(image: Image.Image, name: str) -> Image.Image:
    """The decoded pixels, upright."""
    try:
        image.load()
        orientation = _orientation(image)
        return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged or truncated; its pixels cannot be read to the end") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODE_ERRORS:  # unreadable EXIF says nothing about orientation, and the picture itself is fine
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        rgb = Image.new("RGB", image.size)
        rgb.paste(image)  # a copy without metadata: the orientation must not be applied twice
        return rgb
    rgba = _to_rgba(image, name)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _to_rgba(image: Image.Image, name: str) -> Image.Image:
    """Any mode as RGBA, metadata left behind."""
    if image.mode.startswith("I"):
        image = _sixteen_to_eight_bits(image, name)
    if image.mode == "F":
        raise ImageError(
            f"{name} has floating-point pixels (mode F), whose range is unknown; convert it to 8 bits first"
        )
    try:
        rgba = image.convert("RGBA" if image.mode != "CMYK" else "RGB").convert("RGBA")
    except ValueError as error:
        raise ImageError(f"{name} has the colour mode {image.mode}, which cannot be converted to RGB") from error
    clean = Image.new("RGBA", rgba.size)
    clean.paste(rgba)
    return clean


def _sixteen_to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(f"{name} has 32-bit pixels outside 0 to 65535; convert it to 8 bits first")
    return Image.fromarray(_scale_sixteen_bits(values))


def _scale_sixteen_bits(values: np.ndarray) -> np.ndarray:
    """0 to 65535 -> 0 to 255, rounded, so that 65535 becomes 255 and 257 becomes 1."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _array_to_image(array: np.ndarray, limits: ImageLimits) -> Image.Image:
    shape = " x ".join(str(n) for n in array.shape) or "scalar"
    wanted = "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; its channels seem to come first, so use `array.transpose(1, 2, 0)`" if first else ""
        raise ImageError(f"an image array has the shape ({shape}); {wanted}{hint}")
    _check_size((array.shape[1], array.shape[0]), "the array", limits)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint16:
        array = _scale_sixteen_bits(array)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError("an image array of floats must lie in [0, 1]; scale it, or give uint8 in 0 to 255")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"an image array must be uint8, uint16 or floats in [0, 1], got {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array))


def _check_bytes(count: int, name: str, limits: ImageLimits) -> None:
    if count > limits.max_bytes:
        raise ImageError(f"{name} has {count / 1e6:.1f} MB, more than the {limits.max_bytes / 1e6:g} MB allowed")


def _check_size(size_wh: tuple[int, int], name: str, limits: ImageLimits) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}); expected at least 1 x 1")
    if width * height > limits.max_pixels:
        allowed = _megapixels(limits.max_pixels)
        raise ImageError(
            f"{name} has {_megapixels(width * height)} megapixels ({width} x {height}), more than the {allowed} allowed"
        )


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.4g}"


def _safe_frame_count(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except _DECODE_ERRORS:  # a damaged animation table; decoding will say so
        return 1


def _shorten(path: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in path)
    return printable if len(printable) <= 120 else f"{printable[:60]}…{printable[-57:]}"


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow's remarks on odd files stay inside: whatever matters is an ImageError."""
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
