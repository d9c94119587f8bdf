"""Pickles of lists, dicts, texts and numbers, read without running anything in them, at a cost their size bounds."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, NoReturn

from llava_grounding.errors import DataError

_ARGUMENT_BYTES = {ord(op.code): op.arg.n if op.arg else 0 for op in pickletools.opcodes}
"""By opcode: how long its argument is, or how its length is to be found, in the codes of `pickletools`."""
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_TWO_LINES = b"ci"  # opcodes that name a module and something in it
_MOST_SPREAD = 64  # times as long as the file its values may be, written out: a text that occurs often is stored once
_ROOM = 2**20
_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


def load_plain_pickle(data: bytes, name: object) -> Any:
    """The value of a pickle of Python 2 or 3.

    Args:
        name: of its file, for messages.

    Raises:
        DataError: if it is none, holds more than plain values, or asks for far more memory than its size; nothing in it
            is run.
    """
    try:
        _check_memo(data)
        value = _unpickle(data)
        _size_of(value, _MOST_SPREAD * len(data) + _ROOM, {})
        return value
    except RecursionError as error:
        raise DataError(f"cannot read the pickle {name}: its values lie too deep in each other") from error
    except _ERRORS as error:
        raise DataError(f"cannot read the pickle {name}: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Makes lists, dicts, tuples, texts and numbers, and nothing that has to be imported or called."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for `{module}.{name}`, but only plain lists, texts and numbers are read")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it points to objects outside the file")


def _unpickle(data: bytes) -> Any:
    """Texts that Python 2 wrote as bytes are UTF-8 if they can be, else Latin-1."""
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except UnicodeDecodeError:
        return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()


def _check_memo(data: bytes) -> None:
    """Refuse numbers of the memo beyond what a file of this length can have: the unpickler makes room for all below.

    Goes over the opcodes as far as they can be read; whatever else is wrong the unpickler says.
    """
    place = 0
    while place < len(data):
        code = data[place]
        length, place = _ARGUMENT_BYTES.get(code), place + 1
        if length is None or code == ord("."):
            return
        if length == pickletools.UP_TO_NEWLINE:
            start = place
            for _ in range(2 if code in _TWO_LINES else 1):
                place = data.find(b"\n", place) + 1
                if not place:
                    return
            number = int(data[start : place - 1]) if code == ord("p") else 0
        elif length < 0:
            width = _LENGTH_BYTES[length]
            number, place = 0, place + width + int.from_bytes(data[place : place + width], "little")
        else:
            number = int.from_bytes(data[place : place + length], "little") if code in b"qr" else 0
            place += length
        if number > len(data):
            raise pickle.UnpicklingError(f"it numbers a value {number}, more than its {len(data)} bytes can hold")


def _size_of(value: Any, most: int, known: dict[int, int]) -> int:
    """How long a value is, written out, where a list that occurs twice counts twice."""
    if isinstance(value, str | bytes):
        return len(value) + 1
    if not isinstance(value, list | tuple | dict | set | frozenset):
        return 8
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = most  # for one that contains itself
    size = 1
    for one in value:
        size += _size_of(one, most, known) + (_size_of(value[one], most, known) if isinstance(value, dict) else 0)
    if size > most:
        raise pickle.UnpicklingError("its values contain each other so often that they do not fit into memory")
    known[id(value)] = size
    return size
