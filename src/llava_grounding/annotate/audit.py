"""Whether images of a finished folder are in a benchmark: by id, and by what the pictures look like.

Lists of a benchmark's images are files: lines of names or ids, JSON lines, or JSON with rows that name an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava_grounding.annotate.finished import iter_records
from llava_grounding.data.image_names import DATA_SUFFIXES, coco_number
from llava_grounding.data.images import ImageStore
from llava_grounding.data.plain_files import read_file
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.rows import read_entries
from llava_grounding.errors import DataError, ImageError
from llava_grounding.image_files import DATA_FORMATS, DATA_LIMITS, load_image
from llava_grounding.typed_values import is_whole

NEAR = 4
"""Bits of 64 in which the hashes of two pictures may differ to be taken for the same picture."""
_KEYS = ("coco_id", "file_name", "image", "image_id", "img", "img_id", "image_name", "filename")
_SIDE = 8
_BLOCK = 2048  # pictures compared at once
_FLAT = 4.0  # grey levels of standard deviation, below which a picture has nothing to compare


@dataclass
class Overlap:
    """Images of the folder that are in one list or set of pictures: name -> what it is there.

    Args:
        listed: how many images the benchmark has.
    """

    benchmark: str
    how: str
    listed: int
    images: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The audit in lines for a person."""
        yield f"{self.benchmark} by {self.how}: {len(self.images)} of its {self.listed} images are here"
        for name, there in list(self.images.items())[:10]:
            yield f"  {name} = {there}"


def folder_images(folder: Path) -> list[str]:
    """Names of the images that records are about, each once.

    Raises:
        DataError: if the folder is not finished.
    """
    return list(dict.fromkeys(record.image for record in iter_records(folder)))


def image_key(name: str | int) -> str:
    """The same for all names and ids of one picture: COCO's number, or the name without folder and ending."""
    if isinstance(name, int):
        return str(name)
    number = coco_number(name)
    if number is not None:
        return str(number)
    stem = re.split(r"[/\\]", name.strip())[-1]
    head, dot, tail = stem.rpartition(".")
    stem = (head if dot and f".{tail.lower()}" in DATA_SUFFIXES else stem).lower()
    return str(int(stem)) if stem.isascii() and stem.isdigit() else stem


def read_image_list(path: Path) -> dict[str, str]:
    """Keys of a benchmark's images, with how the file names them.

    Raises:
        DataError: if the file cannot be read or names no image.
    """
    if path.suffix in (".json", ".jsonl"):
        value = read_json(path) if path.suffix == ".json" else [row for _, row in read_entries(path, "rows")]
        names = list(_names_in(value))
    else:
        try:
            names = [line.strip() for line in read_file(path).decode("utf-8-sig").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
    if not names:
        raise DataError(f"{path} names no image; expected lines of names or ids, or rows with {', '.join(_KEYS[:4])}")
    return {image_key(name): str(name) for name in names}


def _names_in(value: Any) -> Iterator[str | int]:
    """Images that a JSON value names."""
    if isinstance(value, Mapping):
        for key in ("images", "annotations", "refs", "questions"):
            if isinstance(value.get(key), list):
                yield from (
                    name for row in value[key] for name in _names_of_row(row, ("id",) if key == "images" else ())
                )
                return
        for key, row in value.items():
            found = list(_names_of_row(row))
            yield from found or [key]
    elif isinstance(value, list):
        for row in value:
            yield from _names_of_row(row)


def _names_of_row(row: Any, more: tuple[str, ...] = ()) -> Iterator[str | int]:
    if isinstance(row, str) or is_whole(row):
        yield row
    elif isinstance(row, Mapping):
        found = (row[key] for key in (*_KEYS, *more) if isinstance(row.get(key), str | int))
        name = next(found, None)
        if name is not None and not isinstance(name, bool):
            yield name


def overlap_by_id(names: Iterable[str], benchmark: str, path: Path) -> Overlap:
    """Images that a list names as well."""
    listed = read_image_list(path)
    found = {name: listed[key] for name in names if (key := image_key(name)) in listed}
    return Overlap(benchmark, "id", len(listed), found)


def picture_hash(data: bytes) -> int | None:
    """64 bits of what a picture looks like: whether each of 8 x 8 fields is darker than its right neighbour.

    None for a picture without content, whose bits would be noise. Small changes of size, colour and quality change few.

    Raises:
        ImageError: if it is no picture.
    """
    image = load_image(data, DATA_LIMITS, DATA_FORMATS, name="it").convert("L")
    small = np.asarray(image.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    if small.std() < _FLAT:
        return None
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def overlap_by_looks(
    names: Iterable[str], images: ImageStore, benchmark: str, pictures: Iterable[tuple[str, bytes]]
) -> Overlap:
    """Images that look like one of a benchmark's pictures.

    Raises:
        DataError: if one of the folder's pictures cannot be read.
    """
    theirs = [(name, value) for name, data in pictures if (value := _hash_of(name, data)) is not None]
    overlap = Overlap(benchmark, "looks", len(theirs))
    if not theirs:
        return overlap
    their_bits = np.array([value for _, value in theirs], dtype=np.uint64)
    ours = [(name, _hash_of(name, images.locate(name)())) for name in names]
    known = [(name, value) for name, value in ours if value is not None]
    for start in range(0, len(known), _BLOCK):
        block = known[start : start + _BLOCK]
        bits = np.array([value for _, value in block], dtype=np.uint64)
        distance = np.bitwise_count(bits[:, None] ^ their_bits[None])
        nearest = distance.argmin(axis=1)
        for row, column in enumerate(nearest):
            if distance[row, column] <= NEAR:
                overlap.images[block[row][0]] = theirs[int(column)][0]
    return overlap


def _hash_of(name: str, data: bytes) -> int | None:
    try:
        return picture_hash(data)
    except ImageError as error:
        raise DataError(f"cannot read picture {name}: {error}") from error


def iter_pictures(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every picture below a folder.

    Raises:
        DataError: if there is none.
    """
    found = False
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in DATA_SUFFIXES and path.is_file():
            found = True
            yield str(path.relative_to(folder)), read_file(path)
    if not found:
        raise DataError(f"there are no pictures in {folder}")
