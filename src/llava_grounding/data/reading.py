"""What readers of label files share: checked boxes, masks, texts and ids, a list of what is left out, packed records.

A label that cannot be used raises DataError with the bare reason, under which `Drops` counts it. Knows no file format.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from llava_grounding.data.record import Record, Segmentation
from llava_grounding.errors import DataError
from llava_grounding.markup import SPECIAL_TOKENS, format_markup

Box = tuple[float, float, float, float]
MAX_SIDE = 2**16
"""Pixels; a file that says a picture is wider or higher is wrong."""


class Drops:
    """What a reader leaves out: reasons with the ids they befell, in order."""

    def __init__(self) -> None:
        self._ids: dict[str, list[str]] = {}

    def add(self, reason: object, label_id: object) -> None:
        self._ids.setdefault(str(reason), []).append(str(label_id))

    def by_reason(self) -> dict[str, tuple[str, ...]]:
        return {reason: tuple(ids) for reason, ids in self._ids.items()}


class PackedRecords(Sequence[Record]):
    """A data set whose records lie encoded in one block of memory.

    Worker processes forked from this one share the block; ordinary objects would be copied into each of them bit by
    bit, as reading one changes its reference count.

    Args:
        name: what the data is called in reports.
        rows: records, or whatever `_record` makes one of.
        drops: read when the rows have been.
    """

    def __init__(self, name: str, rows: Iterable[Any], drops: Drops) -> None:
        self.name = name
        self._block, ends = bytearray(), [0]
        for row in rows:
            self._block += pickle.dumps(row, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(self._block))
        self._ends = np.array(ends)
        self.dropped: Mapping[str, Sequence[str]] = drops.by_reason()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        numbers = range(len(self))[index]
        return self._at(numbers) if isinstance(numbers, int) else [self._at(number) for number in numbers]

    def __iter__(self) -> Iterator[Record]:
        return map(self._at, range(len(self)))

    def _at(self, number: int) -> Record:
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        with memoryview(self._block) as block:
            return self._record(pickle.loads(block[start:end]))

    def _record(self, row: Any) -> Record:
        return row


class ImageRow(NamedTuple):
    """An entry of a COCO-like list of images."""

    id: int
    file_name: str
    size_wh: tuple[int, int]


def read_json(path: str | Path) -> Any:
    """Parsed JSON; raises DataError naming the file."""
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def rows_of(data: Any, key: str, what: str) -> list[Any]:
    """The list under a key; raises DataError if `data` is not `what`, which has one there."""
    if not isinstance(data, Mapping) or not isinstance(data.get(key), list):
        got = f"keys {sorted(map(str, data))[:20]}" if isinstance(data, Mapping) else type(data).__name__
        raise DataError(f"{what} must have a list `{key}`, got {got}")
    return data[key]


def list_under(row: Mapping[str, Any], key: str, what: str) -> list[Any]:
    """The list under a key of a label."""
    if not isinstance(row.get(key), list):
        raise DataError(f"{what} without a list `{key}`")
    return row[key]


def whole_number(value: Any, what: str = "id") -> int:
    """An id or size; digits as text count, as some files write them."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{what} that is no whole number")
    return value


def checked_size(width: Any, height: Any) -> tuple[int, int]:
    """Width and height of a picture, in pixels."""
    size_wh = whole_number(width, "image size"), whole_number(height, "image size")
    if not 0 < min(size_wh) <= max(size_wh) <= MAX_SIDE:
        raise DataError("image size out of range")
    return size_wh


def image_row(row: Any) -> ImageRow:
    """A checked entry of a COCO-like list of images."""
    if not isinstance(row, Mapping):
        raise DataError("image that is no object")
    if not isinstance(row.get("file_name"), str) or not row["file_name"]:
        raise DataError("image without a file name")
    return ImageRow(
        whole_number(row.get("id"), "image id"), row["file_name"], checked_size(row.get("width"), row.get("height"))
    )


def image_rows(rows: Iterable[Any], drops: Drops) -> dict[int, ImageRow]:
    """Checked images by id, in order."""
    images: dict[int, ImageRow] = {}
    for row in rows:
        try:
            image = image_row(row)
            if image.id in images:
                raise DataError("image id used twice")
        except DataError as error:
            drops.add(error, label_id(row))
            continue
        images[image.id] = image
    return images


def label_id(row: Any) -> object:
    """What to call a row in a list of what was left out."""
    if not isinstance(row, Mapping):
        return repr(row)[:40]
    keys = ("id", "ann_id", "region_id", "ref_id", "file_name", "image_id")
    return next((row[key] for key in keys if key in row), "without id")


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Whether it is a list of finite numbers, `count` of them if given."""
    if not isinstance(values, list | tuple) or (count is not None and len(values) != count):
        return False
    # Polygons have tens of millions of numbers: no step of Python for each. One that is not finite shows in the sum.
    return set(map(type, values)) <= {int, float} and _finite(values)


def box_from_xywh(bbox: Any, size_wh: tuple[int, int]) -> Box:
    """Corners of a COCO box, clipped to the image."""
    if not are_numbers(bbox, 4):
        raise DataError("bbox that is not four finite numbers")
    x, y, w, h = (float(value) for value in bbox)
    return clipped_box((x, y, x + w, y + h), size_wh)


def clipped_box(box_xyxy: Box, size_wh: tuple[int, int]) -> Box:
    """Corners, clipped to the image."""
    x0, y0, x1, y1 = box_xyxy
    if x1 <= x0 or y1 <= y0:
        raise DataError("bbox without area")
    box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(size_wh[0])), min(y1, float(size_wh[1])))
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DataError("bbox outside the image")
    return box


def checked_segmentation(value: Any, size_wh: tuple[int, int]) -> Segmentation | None:
    """A COCO mask whose form is right, None where there is none. Run lengths are not unpacked: `check_dataset` does."""
    if value is None or value in ([], {}):
        return None
    if isinstance(value, Mapping):
        size, counts = value.get("size"), value.get("counts")
        if not are_numbers(size, 2) or not (isinstance(counts, str | bytes) or are_numbers(counts)):
            raise DataError("segmentation that is neither run lengths nor polygons")
        if tuple(size or ()) != size_wh[::-1]:
            raise DataError("mask of another size than its image")
        return {"size": size, "counts": counts}
    if not isinstance(value, list | tuple) or not all(isinstance(polygon, list | tuple) for polygon in value):
        raise DataError("segmentation that is neither run lengths nor polygons")
    for polygon in value:
        if len(polygon) % 2 or len(polygon) < 6:
            raise DataError("polygon that is not three or more points")
        if not are_numbers(polygon):
            raise DataError("polygon that is not finite numbers")
    return value


def plain_text(value: Any, what: str) -> str:
    """Words of a file as one line; no special token may be among them."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text:
        raise DataError(f"{what} without text")
    if any(token in text for token in SPECIAL_TOKENS):
        raise DataError(f"{what} with special tokens in it")
    return text


def spans_as_markup(
    text: str, targets: Mapping[tuple[int, int], tuple[int, ...] | None]
) -> tuple[str, tuple[tuple[int, ...] | None, ...], list[tuple[int, int]]]:
    """A caption with its spans as phrases, and their targets in reading order.

    Returns:
        Canonical markup, one target per phrase, and the spans left out because they overlap a phrase before them.
    """
    kept: list[tuple[int, int]] = []
    overlapping = []
    for span in sorted(targets, key=lambda span: (span[0], -span[1])):
        if kept and span[0] < kept[-1][1]:
            overlapping.append(span)
        else:
            kept.append(span)
    return format_markup(text, kept), tuple(targets[span] for span in kept), overlapping


def _finite(values: Sequence[float]) -> bool:
    try:
        return math.isfinite(sum(values))
    except OverflowError:  # a whole number beyond floating point
        return False
