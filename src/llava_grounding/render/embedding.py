"""What pages that need no network hold in themselves: pictures as data URLs, and hashes of their scripts."""

from __future__ import annotations

import base64
import hashlib
import io

from PIL import Image


def data_url(image: Image.Image, kind: str = "png", quality: int = 90) -> str:
    """The picture as a data URL.

    Args:
        kind: `png` or `jpeg`.
        quality: of JPEG, to 100; PNG has none.
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": quality} if kind == "jpeg" else {}))
    return data_url_of(buffer.getvalue(), kind)


def data_url_of(data: bytes, kind: str) -> str:
    """The bytes of a picture's file as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def script_hash(script: str) -> str:
    """The hash by which a content security policy lets this script run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
