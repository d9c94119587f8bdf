"""Pickles of lists, dicts, texts and numbers, read without running anything in them, at a cost their size bounds."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from typing import Any, ClassVar, NoReturn

from llava_grounding.errors import DataError

_ARGUMENT_BYTES = {ord(op.code): op.arg.n if op.arg else 0 for op in pickletools.opcodes}
"""Opcode -> how long its argument is, or how its length is to be found, in the codes of `pickletools`."""
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_TWO_LINES = b"ci"  # opcodes that name a module and something in it
_SETS = frozenset(pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET)
_TUPLES = frozenset(pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3)
_BY_OPCODE: dict[int, Any] = dict(pickle._Unpickler.dispatch)
_FLOATS = frozenset(pickle.FLOAT + pickle.BINFLOAT)
_NUMBERS = frozenset(pickle.INT + pickle.LONG)  # written out in digits
_LONGS = frozenset(pickle.LONG1 + pickle.LONG4)
_KEYS = (str, bytes, int, bool, type(None))
_MAX_KEY = 2**64  # hashes are remainders by 2^61 - 1: more than a few numbers below it do not have the same
_DIGITS, _LONG_BYTES = 18, 7  # of numbers that are below it in any case
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
    struct.error,
)


def load_plain_pickle(data: bytes, name: object) -> Any:
    """The value of a pickle of Python 2 or 3.

    Args:
        name: of its file, for messages.

    Raises:
        DataError: if it is none, holds more than plain values, has sets or keys that are neither texts nor whole
            numbers of 64 bits, or asks for far more memory than its size; nothing in it is run.
    """
    try:
        value = _unpickle(data, _PlainKeysUnpickler if _check_opcodes(data) else _PlainUnpickler)
        _size_of(value, _MOST_SPREAD * len(data) + _ROOM, {})
        return value
    except RecursionError as error:
        raise DataError(f"cannot read the pickle {name}: its values lie too deep in each other") from error
    except _ERRORS as error:
        raise DataError(f"cannot read the pickle {name}: {error}") from error


class _OnlyPlain:
    """Makes lists, dicts, tuples, texts and numbers, and nothing that has to be imported or called."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for `{module}.{name}`, but only plain lists, texts and numbers are read")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it points to objects outside the file")


class _PlainUnpickler(_OnlyPlain, pickle.Unpickler):
    """Reads files in which whatever can be a key is hashed at once, and hardly two of them alike."""


class _PlainKeysUnpickler(_OnlyPlain, pickle._Unpickler):  # the one in Python: the other one cannot look at keys
    """Refuses keys that take long: tuples, hashed as if each tuple in one stood there as often as it is named, and
    numbers of which any amount have the same hash.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_BY_OPCODE)

    def _set_one(self) -> None:
        _check_keys(self.stack[-2:-1])  # type: ignore[attr-defined]
        _BY_OPCODE[pickle.SETITEM[0]](self)

    def _set_all(self) -> None:
        _check_keys(self.stack[::2])  # type: ignore[attr-defined]
        _BY_OPCODE[pickle.SETITEMS[0]](self)

    def _dict(self) -> None:
        _check_keys(self.stack[::2])  # type: ignore[attr-defined]
        _BY_OPCODE[pickle.DICT[0]](self)

    dispatch[pickle.SETITEM[0]] = _set_one
    dispatch[pickle.SETITEMS[0]] = _set_all
    dispatch[pickle.DICT[0]] = _dict


def _check_keys(keys: list[Any]) -> None:
    for key in keys:
        if not isinstance(key, _KEYS):
            raise pickle.UnpicklingError(f"keys must be texts or whole numbers, got a {type(key).__name__}")
        if isinstance(key, int) and abs(key) >= _MAX_KEY:
            raise pickle.UnpicklingError("keys that are numbers must have at most 64 bits")


def _unpickle(data: bytes, unpickler: Any) -> Any:
    """Texts that Python 2 wrote as bytes are UTF-8 if they can be, else Latin-1."""
    try:
        return unpickler(io.BytesIO(data), encoding="utf-8").load()
    except UnicodeDecodeError:
        return unpickler(io.BytesIO(data), encoding="latin1").load()


def _check_opcodes(data: bytes) -> bool:
    """Refuse what costs more than the length of the file tells, before the unpickler meets it.

    That is sets, whose members are hashed; values said to be longer than the file; and numbers of the memo beyond what
    it can have, as room is made for all below. Goes over the opcodes as far as they can be read; whatever else is wrong
    the unpickler says.

    Returns:
        Whether it makes tuples, floats or long numbers, so that keys have to be looked at.
    """
    place, look = 0, False
    while place < len(data):
        code = data[place]
        length, place = _ARGUMENT_BYTES.get(code), place + 1
        if length is None or code == ord("."):
            return look
        if code in _SETS:
            raise pickle.UnpicklingError("it holds a set, but only plain lists, texts and numbers are read")
        look |= code in _TUPLES or code in _FLOATS
        if length == pickletools.UP_TO_NEWLINE:
            start = place
            for _ in range(2 if code in _TWO_LINES else 1):
                place = data.find(b"\n", place) + 1
                if not place:
                    return look
            look |= code in _NUMBERS and place - start > _DIGITS
            number = int(data[start : place - 1]) if code == ord("p") else 0
        elif length < 0:
            width = _LENGTH_BYTES[length]
            size = int.from_bytes(data[place : place + width], "little")
            look |= code in _LONGS and size > _LONG_BYTES
            number, place = 0, place + width + size
            if place > len(data):
                raise pickle.UnpicklingError("it ends before a value of it does")
        else:
            number = int.from_bytes(data[place : place + length], "little") if code in b"qr" else 0
            place += length
        if number > len(data):
            raise pickle.UnpicklingError(f"it numbers a value {number}, more than its {len(data)} bytes can hold")
    return look


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
