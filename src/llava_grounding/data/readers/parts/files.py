"""Files of labels opened: JSON whole or line by line, and what a file is that is none of what was expected.

Knows no labels; what it reads is unchecked. A file that cannot be read is a DataError that names it.
"""

from __future__ import annotations

import codecs
import gc
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
import numpy as np

from llava_grounding.data.plain_files import open_regular, parse_json, read_file
from llava_grounding.errors import DataError

_Plain = TypeVar("_Plain")
_MAX_TEXT_BYTES = 2**24
_HEAD = 4096  # bytes by which a file is told
_MAGIC = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"PK\x03\x04", "a zip file; unpack it"),
    (b"\x1f\x8b", "a gzip file; unpack it"),
    (b"PAR1", "a Parquet file: `kind: parquet`"),
    (b"ARROW1", "an Arrow file: `kind: parquet`"),
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


def read_json(path: str | Path, rows: str | None = None) -> Any:
    """Parsed JSON; where a file holds one object per line, a list of them.

    Args:
        rows: key of the file under which most of it is: a list there is given as `JsonRows`, which are parsed one by
            one when they are asked for, as all of them at once need ten times the memory of their text.

    Raises:
        DataError: naming the file, and what it is instead.
    """
    if rows is not None and (value := _with_rows(Path(path), rows)) is not None:
        return value
    entries, value = read_lines_or_json(path)
    return value if entries is None else [one for _, one in entries]


class JsonRows(Sequence[Any]):
    """A list of a JSON file whose entries are parsed anew whenever they are asked for.

    Args:
        path: of the file, to say what is wrong with it.
        texts: of the entries.
    """

    def __init__(self, path: Path, texts: Sequence[msgspec.Raw]) -> None:
        self._path, self._texts = path, texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return (
            [*map(self._parsed, self._texts[index])] if isinstance(index, slice) else self._parsed(self._texts[index])
        )

    def __iter__(self) -> Iterator[Any]:
        return map(self._parsed, self._texts)

    def plain(self, decode: Callable[[bytes], _Plain], keys: Callable[[_Plain], int]) -> Iterator[_Plain | Any]:
        """The entries as `decode` gives them, in a fraction of the time; parsed as ever where it refuses one.

        Args:
            decode: raises what msgspec raises unless an entry has numbers alone, and no key that it does not know.
            keys: how many an entry had.
        """
        for one in self._texts:
            text = bytes(one)
            try:
                entry = decode(text)
                yield entry if text.count(b":") == keys(entry) else self._parsed(one)
            except (msgspec.MsgspecError, RecursionError):
                yield self._parsed(one)

    def _parsed(self, text: msgspec.Raw) -> Any:
        try:
            return parse_json(bytes(text))
        except (ValueError, RecursionError, MemoryError):
            read_json(self._path)  # says where in the file it is
            raise


def _with_rows(path: Path, key: str) -> dict[str, Any] | None:
    """An object of JSON with the list under one of its keys as `JsonRows`; None where it must be parsed otherwise."""
    try:
        data = read_file(path)
        values = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if not _has_as_many_keys(data, values):
            return None
        value = {name: parse_json(bytes(text)) for name, text in values.items() if name != key}
        return value | {key: JsonRows(path, msgspec.json.decode(values[key], type=list[msgspec.Raw]))}
    except (OSError, ValueError, LookupError, RecursionError, MemoryError, msgspec.MsgspecError):
        return None  # whoever parses all of it says what is wrong


def _has_as_many_keys(data: bytes, values: Mapping[str, msgspec.Raw]) -> bool:
    """Whether an object surely has every key of its text: what stands between its values has a colon for each."""
    between, end = [], 0
    start, _ = _place(data)
    for place, length in sorted(map(_place, values.values())):
        between.append(data[end : place - start])
        end = place - start + length
    return b"".join((*between, data[end:])).count(b":") == len(values)


def _place(text: bytes | msgspec.Raw) -> tuple[int, int]:
    """Where in memory a text begins, and its bytes; of a part of another text, where in that it stands."""
    view = np.frombuffer(text, dtype=np.uint8)
    return int(view.__array_interface__["data"][0]), view.size


def read_lines_or_json(path: str | Path) -> tuple[list[tuple[int, Any]] | None, Any]:
    """A JSON file as (None, its value); a file with one object per line as these, each with the number of its line.

    Lines are recognised whatever the file is called.

    Raises:
        DataError: naming the file, and what it is instead.
    """
    path = Path(path)
    try:
        with without_collections():
            data = read_file(path)
            if path.suffix == ".jsonl" and (lines := _plain_lines(data)) is not None:
                return lines, None
            text = _decoded(data, path)
            del data
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


def read_text_lines(path: str | Path, strict: bool = True) -> list[str]:
    """The lines of a text file, as a list of names has them, in UTF-8, or in UTF-16 with its mark of byte order.

    Args:
        strict: else what is neither is replaced, as where nothing but numbers is looked for.

    Raises:
        DataError: if it cannot be read, is far too large, or has other characters.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_TEXT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > _MAX_TEXT_BYTES:
        raise DataError(f"{path} must have at most {_MAX_TEXT_BYTES} bytes")
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if marked else "utf-8-sig", "strict" if strict else "replace").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be text in UTF-8: {error}; save it anew as that") from error


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


def _plain_lines(data: bytes) -> list[tuple[int, Any]] | None:
    """The entries of a file with one per line, and their lines; None where one of them is not what it should be."""
    try:
        lines = enumerate(io.BytesIO(data), start=1)
        return [(number, parse_json(line.decode())) for number, line in lines if not line.isspace()]
    except (ValueError, RecursionError, MemoryError):
        return None


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
