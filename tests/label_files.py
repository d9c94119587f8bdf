"""Invented miniatures that several tests of data share: pictures of one colour, and what they are packed in."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

SIZE_WH = (10, 8)


def picture(red: int = 200, size_wh: tuple[int, int] = SIZE_WH) -> bytes:
    """A PNG of one colour; the red tells it apart."""
    buffer = io.BytesIO()
    Image.new("RGB", size_wh, (red, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_json(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def coco(annotations: list[dict[str, Any]], num_images: int = 1, **more: Any) -> dict[str, Any]:
    """An instances file about `1.png`, `2.png`, ... with the categories dog and cat."""
    width, height = SIZE_WH
    images = [
        {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        for number in range(1, num_images + 1)
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


def labelled(number: int, box: list[float], image_id: int = 1, category: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": box, **more}
