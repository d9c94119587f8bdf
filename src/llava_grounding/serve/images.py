"""The guarded way in for images: data URLs, and where the server allows it fetched ones, to what the model looks at.

Everything is refused before it is decoded. A picture itself is not kept: only what the processor makes of it, which is
small, by the content of its file. Knows no HTTP request and no model.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from llava_grounding.errors import ImageError, quoted
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits, load_image, load_mask
from llava_grounding.processing.processor import EncodedImage
from llava_grounding.serve.caches import ByteBudgetCache

_DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.IGNORECASE)
_PREPARED_BYTES = 64 * 2**20
_LONGEST_SHOWN = 40

Fetch = Callable[[str], bytes]


@dataclass(frozen=True)
class Picture:
    """An image as it waits for the model."""

    key: bytes
    """Equal for equal files."""
    encoded: EncodedImage

    @property
    def size_wh(self) -> tuple[int, int]:
        """Size of the upright original, in pixels."""
        return self.encoded.letterbox.image_size_wh


class ImageReader:
    """Reads images of requests; may be used by several threads.

    Args:
        encode: makes of a picture what the model looks at.
        limits: what is refused for its size.
        fetch: gives the bytes behind a URL; None fetches nothing.
    """

    def __init__(
        self,
        encode: Callable[[Image.Image], EncodedImage],
        limits: ImageLimits = DEFAULT_LIMITS,
        fetch: Fetch | None = None,
    ) -> None:
        self._encode = encode
        self._limits = limits
        self._fetch = fetch
        self._prepared: ByteBudgetCache[bytes, EncodedImage] = ByteBudgetCache(_PREPARED_BYTES)
        self._lock = threading.Lock()

    def read(self, url: str, name: str = "the image") -> Picture:
        """The image behind a URL.

        Raises:
            ImageError: if it cannot be used.
        """
        return self.read_bytes(self.bytes_of(url, name), name)

    def read_bytes(self, data: bytes, name: str = "the image") -> Picture:
        """The image of an encoded picture; errors as above."""
        key = hashlib.sha256(data).digest()
        with self._lock:
            encoded = self._prepared.get(key)
        if encoded is None:
            encoded = self._encode(load_image(data, self._limits, name=name))
            with self._lock:
                self._prepared.put(key, encoded, _nbytes(encoded))
        return Picture(key, encoded)

    def picture(self, url: str, name: str = "the image") -> Image.Image:
        """The image itself, upright, to be drawn on."""
        return load_image(self.bytes_of(url, name), self._limits, name=name)

    def mask(self, url: str) -> np.ndarray:
        """A drawn region as (H, W) bool, from a data URL."""
        return load_mask(data_of(url, "the mask of a region", self._limits), self._limits)

    def bytes_of(self, url: str, name: str) -> bytes:
        """The encoded picture behind a URL.

        Raises:
            ImageError: if it is no data URL of a picture, or is too large, or is one that is not fetched.
        """
        if url[:8].lower() == "https://" and self._fetch is not None:
            return self._fetch(url)
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", url):
            raise ImageError(f"{name} is a URL that this server does not fetch; send the picture as a data URL")
        return data_of(url, name, self._limits)


def data_of(url: str, name: str, limits: ImageLimits) -> bytes:
    """The bytes of a data URL."""
    match = _DATA_URL.match(url)
    if match is None:
        shown = quoted(url, _LONGEST_SHOWN)
        raise ImageError(
            f"{name} must be a data URL as in data:image/png;base64,... of a PNG, JPEG or WebP, got {shown}"
        )
    size = (len(url) - match.end()) * 3 // 4
    if size > limits.max_bytes + 3:
        raise ImageError(f"{name} has {size / 1e6:.1f} MB, more than the {limits.max_bytes / 1e6:g} MB allowed")
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{name} is a data URL whose base64 is damaged") from error


def _nbytes(encoded: EncodedImage) -> int:
    parts = [encoded.canvas] if encoded.tower is None else [encoded.canvas, encoded.tower]
    return sum(part.numel() * part.element_size() for part in parts)
