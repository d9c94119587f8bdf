"""The NDJSON of Ultralytics' platform: a line about the data set, then a line per picture with its labels.

The numbers of a label are those of a line of YOLO's text files. Knows nothing of records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.plain_files import parse_json
from llava_grounding.data.readers.parts.files import read_lines_or_json
from llava_grounding.errors import DataError, did_you_mean, shown

_SHAPES = ("segments", "obb", "boxes", "pose")
"""Keys of labels; where a picture has several, the first says most."""


def is_ndjson(head: str) -> bool:
    """Whether a text that begins so is such a file."""
    try:
        row = parse_json(head.partition("\n")[0])
    except (ValueError, RecursionError):
        return '"type"' in head and '"dataset"' in head and '"class_names"' in head
    return isinstance(row, Mapping) and row.get("type") == "dataset"


def read_ndjson(path: Path, split: str | None) -> tuple[Any, list[tuple[str, Mapping[str, Any]]]]:
    """Names of classes, and the pictures of a split, each with its place in the file.

    Raises:
        DataError: if it is no such file, or has no such split.
    """
    entries, value = read_lines_or_json(path)
    rows = [(number, one) for number, one in entries or [(1, value)] if isinstance(one, Mapping)]
    if not rows or rows[0][1].get("type") != "dataset":
        raise DataError(f"{path} must begin with a line of type `dataset`, got {shown(rows[0][1] if rows else value)}")
    pictures = [(f"line {number}", one) for number, one in rows if one.get("type") == "image"]
    known = sorted({str(one["split"]) for _, one in pictures if one.get("split")})
    if split is not None and known:
        if split not in known:
            raise DataError(f"split must be one of {known}, or null for all, got `{split}`{did_you_mean(split, known)}")
        pictures = [(place, one) for place, one in pictures if one.get("split") == split]
    return rows[0][1].get("class_names"), pictures


def lines_of(row: Mapping[str, Any]) -> Iterator[tuple[list[str], bool]]:
    """The labels of a picture as the words of lines, and whether points of a pose follow a box."""
    labels = row.get("annotations")
    key = next((one for one in _SHAPES if isinstance(labels, Mapping) and labels.get(one)), None)
    for line in labels[key] if isinstance(labels, Mapping) and key and isinstance(labels[key], list) else ():
        yield list(map(str, line)) if isinstance(line, list) else [str(line)], key == "pose"
