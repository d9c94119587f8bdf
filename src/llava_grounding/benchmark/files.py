"""Files of a benchmark: JSON lines read one by one, and files that are written aside, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from llava_grounding.aside import write_file
from llava_grounding.data.plain_files import open_regular, parse_json, read_file
from llava_grounding.errors import DataError, shown

_LONGEST_LINE = 2**26
T = TypeVar("T")


def write_aside(path: Path, content: bytes) -> None:
    """Write a file aside, to the disk, and put it in its place; the folder is made.

    Raises:
        DataError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Number, from 1, and value of every line that is not blank; of one that is no JSON the error, not raised.

    Raises:
        DataError: if the file cannot be read.
    """
    try:
        with open_regular(path) as stream:
            number = 0
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                if not line.strip():
                    continue
                yield number, _value(line)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_values(path: Path, lines: Iterable[tuple[int, Any]], parse: Callable[[Any], T]) -> list[T]:
    """What is made of lines that we wrote ourselves.

    Args:
        lines: as of `read_lines`.

    Raises:
        DataError: if one is no JSON or cannot be parsed, naming the line.
    """
    found = []
    for number, value in lines:
        try:
            if isinstance(value, DataError):
                raise value
            found.append(parse(value))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return found


def _value(line: bytes) -> Any:
    if not line.endswith(b"\n") and len(line) >= _LONGEST_LINE:
        return DataError(f"the line is longer than {_LONGEST_LINE // 2**20} MiB")
    try:
        return parse_json(line)
    except (ValueError, RecursionError, MemoryError):
        return DataError(f"the line is no JSON: {shown(line[:80].decode('utf-8', 'replace'))}")


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object of ours.

    Raises:
        DataError: if the file cannot be read or holds something else.
    """
    try:
        value = parse_json(read_file(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path} must hold a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object, got {shown(value)}")
    return value


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON of plain data, with a newline at its end."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
