"""Rows of JSON files one by one, whatever the size of the file: lists, lists under keys of an object, JSON lines.

As strict as `data.images.parse_json`: an object must have each key once. Knows no format beyond that.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from llava_grounding.data.plain_files import open_regular, parse_json, with_keys_once
from llava_grounding.errors import DataError

MAX_ROW = 2**26
"""Characters of one row."""
_CHUNK = 2**20  # characters
_BLANK = re.compile(r"[ \t\n\r]*")
_ANOTHER = re.compile(r"[ \t\n\r]*,[ \t\n\r]*(?=[^ \t\n\r\]}])")


class Row(NamedTuple):
    """One value of a list in a file.

    Args:
        key: under which the list stands; empty for a file that is one list, or lines.
        number: of the row in its list, from 1.
        value: parsed.
        text: as it stands in the file.
    """

    key: str
    number: int
    value: Any
    text: str


def iter_rows(path: str | Path, keys: Collection[str] = ()) -> Iterator[Row]:
    """The rows of a JSON file in order.

    Args:
        keys: of a file that is an object, whose lists to read; other values are passed over. None: the file must be one
            list, or JSON lines if it is called `.jsonl`.

    Raises:
        DataError: naming the file and the place, if it cannot be read, is no JSON or of another form.
    """
    path = Path(path)
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as stream:
            if not keys and path.suffix.lower() == ".jsonl":
                yield from _lines(stream)
            else:
                yield from _JsonReader(stream).rows(keys)
    except _Form as error:
        raise DataError(f"{path} {error}") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


class _Form(Exception):  # noqa: N818  never leaves this file
    """The file is JSON, but not of the form that is wanted."""


def _lines(stream: TextIO) -> Iterator[Row]:
    for number, line in enumerate(iter(lambda: stream.readline(MAX_ROW + 1), ""), start=1):
        if len(line) > MAX_ROW:
            raise ValueError(f"line {number} has more than {MAX_ROW} characters")
        if line.strip():
            try:
                value = parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            yield Row("", number, value, line.strip())


class _JsonReader:
    """A window that moves over the text of a file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text, self._at, self._before = "", 0, 0
        self._ended = False
        self._decoder = json.JSONDecoder(object_pairs_hook=with_keys_once)

    def rows(self, keys: Collection[str]) -> Iterator[Row]:
        first = self._next()
        if keys:
            if first != "{":
                raise _Form(f"must be an object with {' and '.join(f'`{key}`' for key in keys)}, got another form")
            yield from self._object(keys)
        else:
            if first != "[":
                raise _Form("must be a list")
            yield from self._list("")
        if self._next():
            raise self._wrong("nothing more")

    def _object(self, keys: Collection[str]) -> Iterator[Row]:
        self._take("{")
        seen: set[str] = set()
        while self._next() != "}":
            key, _ = self._value()
            self._take(":")
            if not isinstance(key, str):
                raise self._wrong("a key")
            if key in seen:
                raise ValueError(f"an object must have each key once, got {key[:60]!r} twice")
            seen.add(key)
            if self._next() == "[":
                for row in self._list(key):
                    if key in keys:
                        yield row
            else:
                self._value()
                if key in keys:
                    raise _Form(f"must have a list under `{key}`")
            if not self._comma("}"):
                break
        self._take("}")
        missing = [key for key in keys if key not in seen]
        if missing:
            raise _Form(f"must have a list `{missing[0]}`, got keys {sorted(seen)[:20]}")

    def _list(self, key: str) -> Iterator[Row]:
        self._take("[")
        number = 0
        while self._next() != "]":
            number += 1
            value, text = self._value()
            yield Row(key, number, value, text)
            if not self._comma("]"):
                break
        self._take("]")

    def _comma(self, end: str) -> bool:
        """Whether another entry follows."""
        match = _ANOTHER.match(self._text, self._at)
        if match is not None:  # as nearly always: within the window, and well formed
            self._at = match.end()
            return True
        if self._next() == end:
            return False
        self._take(",")
        if self._next() == end:
            raise self._wrong("another entry")
        return True

    def _value(self) -> tuple[Any, str]:
        """The value that begins here, and its text."""
        want = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if self._ended or len(self._text) - self._at > MAX_ROW:
                    raise self._wrong("a JSON value") from None
            else:
                if end < len(self._text) or self._ended:  # else a number may go on
                    text = self._text[self._at : end]
                    self._at = end
                    return value, text
            self._more(want)
            want *= 2

    def _next(self) -> str:
        """The next character that is not blank; nothing at the end."""
        while True:
            match = _BLANK.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more(_CHUNK)

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise self._wrong(f"`{character}`")
        self._at += 1

    def _more(self, count: int) -> None:
        piece = self._stream.read(count)
        self._ended = not piece
        self._before += self._at
        self._text, self._at = self._text[self._at :] + piece, 0

    def _wrong(self, wanted: str) -> ValueError:
        found = self._text[self._at : self._at + 20]
        return ValueError(f"expected {wanted} at character {self._before + self._at}, got {found!r}")
