"""The progress file: a line of JSON for every photo that is labelled, appended before anything else is done.

Whatever ends a process, complete lines stay and half a line is cut off, so that the next run goes on behind them. One
process at a time writes it; the system gives its lock back however that process ends. Knows no model and no formats.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llava_grounding.errors import VALUE_ERRORS, DataError, UsageError, shown
from llava_grounding.labelling.labels import LabelledPhoto, Result, json_text, result_from_dict
from llava_grounding.labelling.photos import Photo
from llava_grounding.own_files import open_own

PROGRESS_VERSION = 1
_HEAD = "llava_grounding_labels"
_BEGINNING = f'{{"{_HEAD}"'.encode()


@dataclass(frozen=True)
class _Line:
    offset: int
    stamp: str


class LabelProgress:
    """An open progress file; see `open_progress`."""

    def __init__(self, path: Path, stream: BinaryIO, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._stream = stream
        self._lines: dict[str, _Line] = {}
        self._read(settings)

    def _read(self, settings: Mapping[str, Any]) -> None:
        end = 0
        for number, line in enumerate(self._stream, start=1):
            if not line.endswith(b"\n"):  # the process was killed while it wrote
                if number == 1 and line[: len(_BEGINNING)] != _BEGINNING[: len(line)]:
                    raise DataError(f"{self.path} is no progress file, and would be written over; give another --out")
                break
            self._take(number, end, line, settings)
            end += len(line)
        self._stream.truncate(end)
        self._stream.seek(end)
        self._end = end
        if not end:
            self._write([{_HEAD: PROGRESS_VERSION, "settings": settings}])

    def _take(self, number: int, offset: int, line: bytes, settings: Mapping[str, Any]) -> None:
        try:
            value = json.loads(line)
            if number > 1:
                self._lines[str(value["image"])] = _Line(offset, str(value["stamp"]))
                return
            version = value[_HEAD]
        except (*VALUE_ERRORS, RecursionError) as error:
            raise DataError(
                f"line {number} of {self.path} must be a labelled photo in JSON: {error}; remove the file to begin anew"
            ) from error
        if version != PROGRESS_VERSION:
            raise DataError(f"{self.path} must be of version {PROGRESS_VERSION}, got {shown(version)}; remove it")
        before = value.get("settings")
        if isinstance(before, dict):  # files of before hashes were kept say nothing of them
            before = {key: one for key, one in settings.items() if key.endswith("_hash")} | before
        if before != json.loads(json_text(settings)):
            raise UsageError(
                f"{self.path} has photos that were labelled otherwise ({_difference(before, settings)}); remove it to "
                "begin anew, or give another --out"
            )

    def has(self, photo: Photo) -> bool:
        """Whether the photo has been labelled, or tried in vain, as it is now."""
        line = self._lines.get(photo.name)
        return line is not None and line.stamp == photo.stamp()

    def append(self, photos: Sequence[Photo], results: Iterable[Result]) -> None:
        """Keep results, on the disk when this returns.

        Raises:
            OSError: if they cannot be written.
        """
        rows = [{**result.to_dict(), "stamp": photo.stamp()} for photo, result in zip(photos, results, strict=True)]
        for row, offset in zip(rows, self._write(rows), strict=True):
            self._lines[row["image"]] = _Line(offset, row["stamp"])

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Append lines; gives where each begins."""
        offsets = []
        for row in rows:
            line = f"{json_text(row)}\n".encode()
            offsets.append(self._end)
            self._stream.write(line)
            self._end += len(line)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return offsets

    def result(self, name: str) -> Result | None:
        """What is known of a photo.

        Raises:
            DataError: if its line does not fit.
        """
        line = self._lines.get(name)
        if line is None:
            return None
        self._stream.seek(line.offset)
        data = self._stream.readline()
        self._stream.seek(self._end)
        return result_from_dict(json.loads(data))

    def labelled(self, photos: Iterable[Photo]) -> Iterator[LabelledPhoto]:
        """The photos among these that have labels, in their order."""
        for photo in photos:
            result = self.result(photo.name)
            if isinstance(result, LabelledPhoto):
                yield result


@contextmanager
def open_progress(path: Path, settings: Mapping[str, Any]) -> Iterator[LabelProgress]:
    """The progress file at a path, new or as it was left, locked.

    Args:
        settings: what decides the labels; they must be those that the file was begun with. Under keys that end with
            `_hash` stands what tells a model from another of its name.

    Raises:
        UsageError: if the file was begun with other settings.
        DataError: if it is damaged, no file of its own, or another process is writing it.
        OSError: if it cannot be opened or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = open_own(path)
    except OSError as error:
        raise DataError(
            f"{path} must be a file that is kept for what is labelled: {error.strerror or error}; give another --out"
        ) from error
    with os.fdopen(handle, "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another process is labelling into {path}; wait for it, or give another --out") from error
        yield LabelProgress(path, stream, settings)


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """The first setting that is another now."""
    for key, value in now.items():
        old = before.get(key) if isinstance(before, Mapping) else None
        if old != json.loads(json_text(value)):
            return f"{key} {shown(old)}, now {shown(value)}"
    return "by another release"
