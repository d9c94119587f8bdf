"""Lists and labels of a file of JSON, looked up by key, with an error that names the file and what came instead.

Whatever comes from a file may be damaged or hostile. An entry that cannot be used raises EntryError, which `LeftOut`
counts under its reason; a file of another kind is a DataError. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_grounding.data.readers.parts.files import JsonRows
from llava_grounding.data.readers.parts.numbers import (
    EntryError,
)
from llava_grounding.errors import DataError, shown

MAX_LABELS = 10_000
"""Labels of one image at most; what is done with labels side by side grows faster than their number."""
_CROWD_KEYS = ("iscrowd", "is_crowd", "isgroupof", "is_group_of", "IsGroupOf")
"""Keys by which labels say that they are crowds; those of Open Images are called groups."""
_ID_KEYS = ("id", "ann_id", "region_id", "ref_id", "file_name", "image_id")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Begin the message of a DataError with the file that it is about, where it does not name it."""
    try:
        yield
    except EntryError:
        raise
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error


def rows_of(data: Any, key: str, what: str) -> list[Any]:
    """The list under a key; raises DataError if `data` is not `what`, which has one there."""
    rows = sequence_of(data, key, what)
    return rows if isinstance(rows, list) else list(rows)


def sequence_of(data: Any, key: str, what: str) -> Sequence[Any]:
    """What `rows_of` gives, or rows that are parsed one by one, where a file was read so."""
    if not isinstance(data, Mapping) or not isinstance(data.get(key), list | JsonRows):
        got = f"keys {sorted(map(str, data))[:20]}" if isinstance(data, Mapping) else type(data).__name__
        raise DataError(f"{what} must have a list `{key}`, got {got}")
    rows: Sequence[Any] = data[key]
    return rows


def list_under(row: Mapping[str, Any], key: str, what: str) -> list[Any]:
    """The list under a key of a label."""
    if not isinstance(row.get(key), list):
        raise EntryError(f"{what} without a list `{key}`", f"`{key}` must be a list, got {shown(row.get(key))}")
    return row[key]


def is_crowd(row: Mapping[str, Any]) -> bool:
    """Whether a COCO label says that it is several things under one mask."""
    return any(_says_yes(row.get(key)) for key in _CROWD_KEYS)


def is_ignored(row: Mapping[str, Any]) -> bool:
    """Whether a COCO label says that it is no label to learn from, as pycocotools and detectors read it."""
    return _says_yes(row.get("ignore"))


def _says_yes(value: Any) -> bool:
    return value not in (None, 0, "0", "", "false", "False")


def label_id(row: Any, keys: Sequence[str] = _ID_KEYS, without: object = "without id") -> str:
    """What to call a row in a list of what was left out: the first of the keys it has, else `without`."""
    if not isinstance(row, Mapping):
        return shown(row)[:40]
    value = next((row[key] for key in keys if key in row), without)
    return value if isinstance(value, str) else shown(value)
