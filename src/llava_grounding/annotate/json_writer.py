"""JSON lists, JSON lines and COCO instances files written entry by entry, so that memory stays flat.

Entries stand one a line, as merging shards line by line needs. Counts and hashes what it writes; knows no samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from llava_grounding.annotate.label_index import LabelIndex

# Entries are made here and hold no circles.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_BUFFER = 2**16  # characters


class JsonList:
    """A JSON list or JSON lines, written entry by entry; counts and hashes what it writes. Leaving it abandons it."""

    def __init__(self, path: Path, head: str = "[\n", tail: str = "\n]\n", between: str = ",\n") -> None:
        self._file: IO[bytes] = path.open("xb")
        self.digest = hashlib.sha256()
        self.count = self.size = 0
        self._between, self._tail = between, tail
        self._waiting: list[str] = []
        self._characters = 0
        self.raw(head)

    def __enter__(self) -> JsonList:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    @classmethod
    def lines(cls, path: Path) -> JsonList:
        """JSON lines."""
        return cls(path, head="", tail="", between="")

    def raw(self, text: str) -> None:
        """Write text as it is."""
        self._waiting.append(text)
        self._characters += len(text)
        if self._characters >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        data = "".join(self._waiting).encode()
        self._waiting.clear()
        self._characters = 0
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def add(self, entry: Any) -> None:
        """Write one entry."""
        self.add_text(_encode(entry))

    def add_text(self, text: str) -> None:
        """Write one entry that is JSON already."""
        self.raw((self._between if self.count else "") + text if self._between else text + "\n")
        self.count += 1

    def abandon(self) -> None:
        """Close the file as it is, if it is not finished."""
        self._file.close()

    def close(self) -> dict[str, Any]:
        """Finish the file, and give what a manifest says of it."""
        self.raw(self._tail)
        self._flush()
        self._file.close()
        return {"entries": self.count, "bytes": self.size, "sha256": self.digest.hexdigest()}


class InstancesFile:
    """A COCO instances file written row by row: images first, then annotations. Leaving it abandons it."""

    def __init__(self, path: Path, categories: Sequence[Any]) -> None:
        head = '{"categories":' + json.dumps(list(categories), ensure_ascii=False) + ',\n"images":[\n'
        self._file = JsonList(path, head, "\n]}\n")
        self._images: int | None = None

    def __enter__(self) -> InstancesFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.abandon()

    def image(self, text: str) -> None:
        """Write the row of an image, as it stands in a file."""
        self._file.add_text(_one_line(text))

    def annotation(self, text: str) -> None:
        """Write the row of an annotation; no image may follow."""
        self._begin_annotations()
        self._file.add_text(_one_line(text))

    def close(self) -> dict[str, Any]:
        """Finish the file, and give what a manifest says of it."""
        self._begin_annotations()
        return {"images": self._images, **self._file.close()}

    def _begin_annotations(self) -> None:
        if self._images is None:
            self._file.raw('\n],\n"annotations":[\n')
            self._images, self._file.count = self._file.count, 0


def write_instances(path: Path, index: LabelIndex, image_ids: Iterable[int]) -> dict[str, Any]:
    """The part of the instances file that is about these images, row by row as it stands there."""
    ids = list(image_ids)
    with InstancesFile(path, index.categories) as file:
        for image_id in ids:
            file.image(index.image_row(image_id))
        for image_id in ids:
            for row in index.annotation_rows(image_id):
                file.annotation(row)
        return file.close()


def _one_line(text: str) -> str:
    return text if "\n" not in text else json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
