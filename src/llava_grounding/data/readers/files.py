"""Files of labels opened: JSON whole or line by line, and what a file is that is none of what was expected.

Knows no labels; what it reads is unchecked. A file that cannot be read is a DataError that names it.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_grounding.data.images import open_regular, parse_json, read_file
from llava_grounding.errors import DataError

_HEAD = 4096  # bytes by which a file is told
_MAGIC = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"PK\x03\x04", "a zip file; unpack it"),
    (b"\x1f\x8b", "a gzip file; unpack it"),
    (b"PAR1", "a Parquet file; `datasets` turns it into a folder with metadata.jsonl"),
    (b"ARROW1", "an Arrow file; `datasets` turns it into a folder with metadata.jsonl"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"%PDF", "a PDF file"),
)


@contextmanager
def without_collections() -> Iterator[None]:
    """Keep Python from looking for cycles meanwhile: among millions of new lists it would look for them over and over,
    which took as long as reading them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read_json(path: str | Path) -> Any:
    """Parsed JSON; where a file holds one object per line, a list of them.

    Raises:
        DataError: naming the file, and what it is instead.
    """
    entries, value = read_lines_or_json(path)
    return value if entries is None else [one for _, one in entries]


def read_lines_or_json(path: str | Path) -> tuple[list[tuple[int, Any]] | None, Any]:
    """A JSON file as (None, its value); a file with one object per line as these, each with the number of its line.

    Lines are recognised whatever the file is called.

    Raises:
        DataError: naming the file, and what it is instead.
    """
    path = Path(path)
    try:
        text = _decoded(read_file(path), path)
        with without_collections():
            if path.suffix != ".jsonl":
                try:
                    return None, parse_json(text)
                except json.JSONDecodeError as error:
                    if not _begins_with_a_line_of_json(text, error):
                        raise
            return _lines(text, path), None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {_instead(path, error)}") from error


def describe_file(path: str | Path) -> str | None:
    """What a file is that is no JSON, in a few words; None where nobody can tell."""
    path = Path(path)
    if path.is_dir():
        return "a folder"
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEAD)
    except (OSError, ValueError):
        return None
    if not head.strip():
        return "an empty file"
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return words
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if text.startswith("<"):
        root = text.lower()
        for mark, words in (
            ("<annotations", "XML, of CVAT as it seems: `kind: cvat`"),
            ("<annotation", "XML, of Pascal VOC as it seems: `kind: voc` with the folder of such files"),
            ("<!doctype html", "a web page"),
            ("<html", "a web page"),
        ):
            if mark in root:
                return words
        return "XML"
    if path.suffix.lower() in (".csv", ".tsv"):
        return "a table (CSV)"
    if path.suffix.lower() in (".yaml", ".yml"):
        return "YAML; a `data.yaml` of YOLO is read by `kind: yolo`"
    return None


def _decoded(data: bytes, path: Path) -> str:
    """The bytes as text, in whichever Unicode JSON is written; some editors begin it with a mark of byte order."""
    try:
        return data.decode(json.detect_encoding(data), "strict" if path.suffix == ".jsonl" else "surrogatepass")
    except UnicodeDecodeError as error:
        if path.suffix != ".jsonl":
            raise
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"cannot read {path}, line {line}: {error}") from error


def _begins_with_a_line_of_json(text: str, error: json.JSONDecodeError) -> bool:
    """Whether a text begins with one JSON value on a line of its own, behind which a parser found more."""
    if not error.msg.startswith("Extra data"):
        return False
    read = text[: error.pos]
    first = read.rstrip()
    return "\n" in read[len(first) :] and "\n" not in first.lstrip()


def _lines(text: str, path: Path) -> list[tuple[int, Any]]:
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                entries.append((number, parse_json(line)))
            except (ValueError, RecursionError, MemoryError) as error:
                raise DataError(f"cannot read {path}, line {number}: {error}") from error
    return entries


def _instead(path: Path, error: BaseException) -> str:
    """What the file is, where it is something known; else the words of whoever could not read it."""
    known = describe_file(path) if isinstance(error, ValueError | OSError) else None
    return f"it is {known}, expected JSON" if known else str(error)
