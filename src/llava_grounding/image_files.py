"""Pictures from outside: a path, bytes, a file object, a PIL image or an array becomes one upright RGB image.

The only place where a picture is decoded, whoever asks for it. Everything that can be refused is refused before pixels
are decoded, and whatever is wrong with a picture is an ImageError. Knows no tensors and no model; never fetches a URL.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from llava_grounding.errors import ConfigError, ImageError, one_line
from llava_grounding.image_headers import ON_ITS_SIDE, ORIENTATION_TAG, read_header, wanted

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray

FORMATS = ("JPEG", "PNG", "WEBP")
"""What is read of anybody."""

DATA_FORMATS = (*FORMATS, "BMP")
"""What is read of data sets: labelling tools write BMP too."""

# Each decoder by itself: `Image.open` would try all that Pillow knows, some of which start other programs, and ask
# `Image.MAX_IMAGE_PIXELS`, which belongs to the program around us.
_DECODERS: dict[str, Any] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_SLOW_CODECS = ("bmp_rle",)  # written in Python
_MOST_PIXELS = 1_000_000_000
_SIXTEEN_BIT_RGB = "RGB;16B"  # as Pillow calls what it reads with the upper eight bits alone
_DARKEST_WHITE = 4096  # of 65535: what fits in 12 bits would get one of 16 greys

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's readers raise any of these on damaged files (the tests fuzz them); all mean "this file cannot be read".
_DECODE_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    BufferError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# `warnings.catch_warnings` swaps process-wide state, so two threads must not be inside it at once.
_PILLOW_LOCK = threading.RLock()


@dataclass(frozen=True)
class ImageLimits:
    """How large an image may be; both are checked before any pixel is decoded."""

    max_bytes: int = 25_000_000
    """Size of the file or of the bytes given."""

    max_pixels: int = 65_000_000
    """Width times height. Phones of "50 megapixels" make 8192 x 6144, those of "64 megapixels" 9280 x 6944."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes must be at least 1, got {self.max_bytes}")
        if not 1 <= self.max_pixels <= _MOST_PIXELS:
            raise ConfigError(f"max_pixels must be between 1 and {_MOST_PIXELS:,}, got {self.max_pixels:,}")

    @classmethod
    def of_megapixels(cls, megapixels: float) -> ImageLimits:
        """So many million pixels; the bytes grow in proportion, and never shrink.

        Raises:
            ConfigError: if it is no number of pixels that a picture can have.
        """
        try:
            pixels = round(megapixels * 1_000_000)
        except (OverflowError, ValueError):  # not finite
            pixels = 0
        if not 1 <= pixels <= _MOST_PIXELS:
            raise ConfigError(f"megapixels must be more than 0 and at most {_MOST_PIXELS // 10**6}, got {megapixels}")
        return cls(max(cls.max_bytes, pixels * cls.max_bytes // cls.max_pixels), pixels)


DEFAULT_LIMITS = ImageLimits()

DATA_LIMITS = ImageLimits(max_bytes=250_000_000, max_pixels=178_956_970)
"""Limits for pictures of data sets, which a person chose; maps and scans among them are larger than photos."""


def load_image(
    source: ImageSource,
    limits: ImageLimits = DEFAULT_LIMITS,
    formats: Sequence[str] = FORMATS,
    name: str | None = None,
    turned: bool = True,
) -> Image.Image:
    """Read one picture as an upright 8-bit RGB image of its own, whatever it came as.

    Args:
        source: a path; the bytes of an encoded picture, or a binary file object that gives them; a PIL image; or an
            array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, of uint16 (0 to 65535), or of floats in [0, 1],
            in either byte order.
        limits: what is refused for its size.
        formats: of files and bytes, those that are read.
        name: of the picture in messages, where it is given as bytes.
        turned: whether it is turned upright; else its pixels lie as they are stored.

    Returns:
        RGB, with the EXIF orientation applied and transparency laid on white; 16 bits are scaled to 8, not clipped.

    Raises:
        ImageError: if there is no such file, or it is no readable still image, or it is over a limit.
    """
    image, orientation, called = _decoded(source, limits, formats, name)
    return _turned(_to_rgb(image, called), orientation if turned else 1)


def load_no_larger(
    data: bytes,
    max_side: int | None,
    limits: ImageLimits = DEFAULT_LIMITS,
    formats: Sequence[str] = FORMATS,
    name: str | None = None,
    turned: bool = True,
) -> tuple[Image.Image, tuple[int, int]]:
    """What `load_image` gives of an encoded picture, smaller where its longer side has more than `max_side` pixels.

    A JPEG is made smaller while it is decoded, so that a large photo does not take its memory several times over. Gives
    RGB, and width and height that it has as it is; raises as `load_image`.
    """
    image, orientation, called = _decoded(data, limits, formats, name, max_side)
    full_wh = (read_header(data, called, formats).size_wh if image.format == "JPEG" else None) or image.size
    if max_side is not None and max(full_wh) > max_side:
        size_wh = scaled_to(full_wh, max_side)
        if image.mode != "RGB" or "transparency" in image.info:  # as colours and transparency are what they are
            image = _to_rgb(image, called)
        image = image.resize(size_wh, Image.Resampling.BILINEAR, reducing_gap=2.0)
    swapped = turned and orientation in ON_ITS_SIDE
    upright = _turned(_to_rgb(image, called), orientation if turned else 1)
    return upright, (full_wh[::-1] if swapped else full_wh)


def scaled_to(size_wh: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Width and height in the same proportion, the longer one of `max_side` pixels."""
    scale = max_side / max(size_wh)
    return max(1, round(size_wh[0] * scale)), max(1, round(size_wh[1] * scale))


def load_mask(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Read a drawn region as (H, W) bool: true where the picture is brighter than half its brightest pixel.

    So both habits work, 0 and 1 as well as 0 and 255. Transparent pixels are outside the region.
    """
    image, orientation, name = _decoded(source, limits, FORMATS)
    rgba = _turned(_to_rgba(image, name), orientation)
    on_black = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    brightness = np.asarray(on_black.convert("L"))
    return brightness > brightness.max() / 2


def load_stored(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Decode a picture whose pixels are numbers and not colours: neither turned upright nor converted.

    Raises:
        ImageError: as `load_image`.
    """
    return _decoded(data, limits, formats, "it")[0]


def _decoded(
    source: ImageSource,
    limits: ImageLimits,
    formats: Sequence[str],
    called: str | None = None,
    max_side: int | None = None,
) -> tuple[Image.Image, int, str]:
    """The image with its pixels as stored, its EXIF orientation, and its name for messages.

    A JPEG may come at a half, a quarter or an eighth of its size where `max_side` is no more.
    """
    if isinstance(source, Image.Image):
        name = "the PIL image"
        _check_pil_image(source, name, limits)
        _check_transparency(source, name)
        return _with_pixels(source, name), _orientation_of(source), name
    if isinstance(source, np.ndarray):
        return _array_to_image(source, limits), 1, "the array"
    data, name = _read_bytes(source, limits, formats, called)
    header = read_header(data, name, formats)
    if header.size_wh is not None:
        _check_size(header.size_wh, name, limits)
    if header.frames > 1:
        raise _animated(name, f" ({header.frames} frames)")
    try:
        with _quiet_pillow(), _no_pillow_limit():
            image = _DECODERS[header.format](io.BytesIO(header.data))
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged or truncated; its header cannot be read") from error
    _check_size(image.size, name, limits)
    _check_transparency(image, name)
    if any(tile[0] in _SLOW_CODECS for tile in image.tile):
        raise ImageError(f"{name} is a compressed BMP, which is not read; save it without compression, or as PNG")
    if max_side is not None and header.format == "JPEG" and max(image.size) > max_side:
        image.draft(None, scaled_to(image.size, max_side))
    return _with_pixels(image, name), header.orientation, name


def _check_pil_image(image: Image.Image, name: str, limits: ImageLimits) -> None:
    _check_size(image.size, name, limits)
    # Many a format counts its frames by walking through all of them, so only whether there are more is asked.
    try:
        animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except _DECODE_ERRORS:  # a damaged animation table; decoding will say so
        animated = False
    if animated:
        frames = f" ({getattr(image, 'n_frames', 0)} frames)" if image.format in ("PNG", "WEBP") else ""
        raise _animated(name, frames)
    if image.format == "EPS" and getattr(image, "tile", None):
        raise ImageError(f"{name} is a PostScript drawing, which another program would have to run; convert it first")


def _check_transparency(image: Image.Image, name: str) -> None:
    """Asked before the pixels are decoded, as nothing says afterwards how many bits they had."""
    deep = any(tile[3] == _SIXTEEN_BIT_RGB for tile in getattr(image, "tile", None) or ())
    if deep and "transparency" in image.info:
        raise ImageError(
            f"{name} has 16-bit colours, one of which stands for nothing, and which pixels have it is lost in 8 bits; "
            f"save it with an alpha channel, or with 8 bits"
        )


def _animated(name: str, frames: str = "") -> ImageError:
    return ImageError(f"{name} is animated{frames}; expected a still image, so save one frame of it first")


def _with_pixels(image: Image.Image, name: str) -> Image.Image:
    """The same image, decoded. Slow, so not under the lock."""
    try:
        image.load()
    except MemoryError as error:
        raise ImageError(f"{name} takes more memory to decode than there is; make it smaller") from error
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged or truncated; its pixels cannot be read to the end") from error
    return image


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _orientation_of(image: Image.Image) -> int:
    try:
        with _quiet_pillow():
            return int(image.getexif().get(ORIENTATION_TAG, 1))
    except _DECODE_ERRORS:  # unreadable EXIF says nothing about orientation, and the picture itself is fine
        return 1


def _read_bytes(source: object, limits: ImageLimits, formats: Sequence[str], called: str | None) -> tuple[bytes, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        name = called or "the image given as bytes"
        size = source.nbytes if isinstance(source, memoryview) else len(source)
        _check_bytes(size, name, limits)
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        return _read_file(os.fspath(source), limits, formats)
    elif callable(getattr(source, "read", None)):
        name = "the image of the file object"
        data = _read_stream(source, name, limits)
        _check_bytes(len(data), name, limits)
    else:
        raise ImageError(
            f"an image must be a path, bytes, a binary file object, a PIL image or a NumPy array, "
            f"got {type(source).__name__}"
            + ("; convert it with `.numpy()`, channels last" if type(source).__name__ == "Tensor" else "")
        )
    if not data:
        raise ImageError(f"{name} is empty; {wanted(formats)}")
    return data, name


def _read_stream(stream: Any, name: str, limits: ImageLimits) -> bytes:
    """From its beginning where it has one, as it may have been read before."""
    try:
        if callable(getattr(stream, "seek", None)):
            with_beginning = getattr(stream, "seekable", None)
            if with_beginning is None or with_beginning():
                stream.seek(0)
        data = stream.read(limits.max_bytes + 1)
    except Exception as error:  # a file object may be anybody's class
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ImageError(f"{name} cannot be read: {reason:.200}") from error
    if not isinstance(data, bytes):
        raise ImageError(f'{name} gives {type(data).__name__}, expected bytes; open it in binary mode, "rb"')
    return data


def _read_file(path: str, limits: ImageLimits, formats: Sequence[str]) -> tuple[bytes, str]:
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
        raise ImageError(f"{name} is not a regular file; {wanted(formats)}")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty; {wanted(formats)}")
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


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        rgb = Image.new("RGB", image.size)
        rgb.paste(image)  # a copy without metadata: the orientation must not be applied twice
        return rgb
    rgba = _to_rgba(image, name)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _to_rgba(image: Image.Image, name: str) -> Image.Image:
    """Any mode as RGBA, metadata left behind."""
    alpha = None
    if image.mode.startswith("I"):
        alpha = _sixteen_bit_alpha(image)
        image = _sixteen_to_eight_bits(image, name)
    if image.mode == "F":
        raise ImageError(
            f"{name} has floating-point pixels (mode F), whose range is unknown; convert it to 8 bits first"
        )
    try:
        rgba = image.convert("RGBA" if image.mode != "CMYK" else "RGB").convert("RGBA")
    except _DECODE_ERRORS as error:
        if "transparency" in image.info:
            raise ImageError(
                f"{name} has a transparency that is no colour of it; remove it from the picture"
            ) from error
        raise ImageError(f"{name} has the colour mode {image.mode}, which cannot be converted to RGB") from error
    if alpha is not None:
        rgba.putalpha(alpha)
    clean = Image.new("RGBA", rgba.size)
    clean.paste(rgba)
    return clean


def _sixteen_bit_alpha(image: Image.Image) -> Image.Image | None:
    """Where a grey picture of 16 bits is not transparent: one of its values may stand for nothing."""
    nothing = image.info.get("transparency")
    if not isinstance(nothing, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == nothing, 0, 255).astype(np.uint8))


def _sixteen_to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(f"{name} has 32-bit pixels outside 0 to 65535; convert it to 8 bits first")
    return Image.fromarray(_scale_sixteen_bits(values, name))


def _scale_sixteen_bits(values: np.ndarray, name: str) -> np.ndarray:
    """0 to 65535 -> 0 to 255, rounded, so that 65535 becomes 255 and 257 becomes 1.

    Depths in millimetres, thermal counts and 12-bit sensors use so little of the range that nothing would be left.
    """
    brightest = int(values.max(initial=0))
    if brightest < _DARKEST_WHITE and brightest > values.min(initial=brightest):
        raise ImageError(
            f"{name} has 16-bit pixels that end at {brightest} of 65535, so it would be black; "
            "scale them to the whole range, or convert it to 8 bits first"
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _array_to_image(array: np.ndarray, limits: ImageLimits) -> Image.Image:
    shape = " x ".join(str(n) for n in array.shape) or "scalar"
    shapes = "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; its channels seem to come first, so use `array.transpose(1, 2, 0)`" if first else ""
        raise ImageError(f"an image array has the shape ({shape}); {shapes}{hint}")
    _check_size((array.shape[1], array.shape[0]), "the array", limits)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="))
    if array.dtype == np.uint16:
        array = _scale_sixteen_bits(array, "the array")
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError("an image array of floats must lie in [0, 1]; scale it, or give uint8 in 0 to 255")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"an image array must be uint8, uint16 or floats in [0, 1], got {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array))


def _check_bytes(count: int, name: str, limits: ImageLimits) -> None:
    if count > limits.max_bytes:
        allowed = f"{limits.max_bytes / 1e6:g} MB"
        raise ImageError(f"{name} has {count / 1e6:.1f} MB, more than the {allowed} allowed; {_way_out(limits)}")


def _check_size(size_wh: tuple[int, int], name: str, limits: ImageLimits) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}); expected at least 1 x 1")
    if width * height > limits.max_pixels:
        allowed = _megapixels(limits.max_pixels)
        raise ImageError(
            f"{name} has {_megapixels(width * height)} megapixels ({width} x {height}), "
            f"more than the {allowed} allowed; {_way_out(limits)}"
        )


def _way_out(limits: ImageLimits) -> str:
    if limits == DATA_LIMITS:
        return "make it smaller"
    return "make it smaller, or allow more: --max-megapixels, in Python `ImageLimits.of_megapixels`"


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.4g}"


def _shorten(path: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in path)
    return printable if len(printable) <= 120 else f"{printable[:60]}…{printable[-57:]}"


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow's remarks on odd files stay inside: whatever matters is an ImageError."""
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Pillow's reader of WebP asks a global of Pillow's before it reserves memory; our own limits were asked before."""
    with _PILLOW_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
