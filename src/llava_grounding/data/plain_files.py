"""Files and names from outside, before anybody looks into them: regular files read, JSON parsed, names kept inside.

Knows no pictures and no labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO

import msgspec

from llava_grounding.errors import DataError, quoted

_decode = msgspec.json.Decoder().decode  # a quarter of the standard library's time
_SPACED_KEY = re.compile(r'"\s+:')
_SPACED_KEY_BYTES = re.compile(rb'"\s+:')


def stays_inside(name: object) -> bool:
    """Whether a name from a file is a path below the folder it is used in, on every operating system."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    if name.isascii() and name[0] != "/" and ".." not in name and "\\" not in name and ":" not in name:
        return True  # nearly every name of millions
    if not is_unicode(name):
        return False
    path = PureWindowsPath(name)  # takes both `/` and `\` for a separator
    return not path.drive and not path.root and ".." not in path.parts


def is_absolute(name: object) -> bool:
    """Whether a name from a file is a path that begins at a root, of whatever operating system, and never goes up.

    The file is looked for by the end of its path below a folder, never there.
    """
    if not isinstance(name, str) or "\0" in name or not is_unicode(name):
        return False
    path = PureWindowsPath(name)
    return bool(path.root) and not name.startswith(("//", "\\\\")) and ".." not in path.parts


def open_regular(path: str | Path) -> BinaryIO:
    """A file opened for reading, if it is one: a pipe would be waited for, a device read without end.

    Raises:
        OSError: if there is none, or something else is there.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError("it is no regular file")
    return os.fdopen(number, "rb")


def why_no_file(path: Path) -> str:
    """What stands in the place of a file that is none, in words."""
    if path.is_dir():
        return f"{path} is a folder"
    return f"{path} is a device or a pipe" if path.exists() else f"nothing is at {path}"


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        DataError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as stream:
            while piece := stream.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def read_file(path: str | Path) -> bytes:
    """All of a regular file.

    Raises:
        OSError: if it cannot be read, or is something else.
    """
    with open_regular(path) as stream:
        return stream.read()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, in which no object says two things under one key: all but the last would be lost.

    Raises:
        ValueError: if it is no JSON, or an object does.
    """
    try:
        value = _decode(text)
        if _has_keys_once(value, text):
            return value
    except (msgspec.MsgspecError, RecursionError):
        pass  # the standard library takes more (NaN, half characters), and says better what is wrong
    return json.loads(text, object_pairs_hook=with_keys_once)


def _has_keys_once(value: Any, text: str | bytes) -> bool:
    """Whether the value surely has every key of its text.

    Every key stands before `":` in the text, so where as many are left as stand there, none was lost. Words may hold
    the same two characters, and a key may stand farther from its colon: then nobody knows.
    """
    if isinstance(text, str):
        keys = text.count('":')
        spaced = text.count(":") != keys and _SPACED_KEY.search(text) is not None
    else:
        keys = text.count(b'":')
        spaced = text.count(b":") != keys and _SPACED_KEY_BYTES.search(text) is not None
    return not spaced and _count_keys(value) == keys


def _count_keys(value: Any) -> int:
    """Number of keys in a value, or fewer: a list that begins with a number or a text is not looked into."""
    if type(value) is dict:
        count = len(value)
        for one in value.values():
            if type(one) is dict or (type(one) is list and one):
                count += _count_keys(one)
        return count
    if type(value) is list and value and type(value[0]) in (dict, list):
        return sum(map(_count_keys, value))
    return 0


def is_unicode(text: str) -> bool:
    """Whether the text can be written: half of a surrogate pair, as JSON may hold it, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON text from its keys and values; raises ValueError if a key has two different values."""
    value = dict(pairs)
    if len(value) != len(pairs):
        for key, one in pairs:
            if value[key] is not one and value[key] != one:
                raise ValueError(f"an object must have each key once, got {quoted(key)} twice with different values")
    return value
