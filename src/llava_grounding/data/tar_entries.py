"""What lies where in a tar that anybody may have written: no header of it leads a reader astray or takes its memory."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from llava_grounding.data.plain_files import open_regular, stays_inside
from llava_grounding.errors import DataError

ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the standard library raises for damaged archives."""
_SHOWN = 60  # characters of a name, in a message
_SPECIAL_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_SPECIAL_BYTES = 2**13  # `tarfile` takes time as their square
_SPARE_BYTES = 2**16
_MAX_ENDS = 8  # how often the end of a tar may be met


class _TarHeader(tarfile.TarInfo):
    """A header that leads on: `tarfile` follows sizes below 0 back to where it came from, and reads any special one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarHeader:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0:
            raise ValueError(f"a header says that its file has {header.size} bytes")
        if header.type in _SPECIAL_HEADERS and header.size > _MAX_SPECIAL_BYTES:
            raise ValueError(
                f"a name or its attributes must have at most {_MAX_SPECIAL_BYTES} bytes, got {header.size}"
            )
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError("files with holes are not read")
        return header


class _BoundedReads:
    """A stream that refuses to be read more than once over: a header that leads in a circle would be read for ever."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left, self._ends = stream, size + _SPARE_BYTES, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int) -> bytes:
        data = self._stream.read(min(count, _SPARE_BYTES))
        self._left -= len(data)
        self._ends += not data
        if self._left < 0 or self._ends > _MAX_ENDS:
            raise ValueError("its headers lead in a circle")
        return data


def read_tar(path: Path) -> Iterable[tuple[str, int, int]]:
    """Name, offset and length of every plain file in an uncompressed tar.

    Raises:
        DataError: if it is damaged, compressed, or leads a reader in a circle.
    """
    entries = []
    try:
        with open_regular(path) as stream:
            bounded = _BoundedReads(stream, os.fstat(stream.fileno()).st_size)
            with tarfile.open(fileobj=bounded, mode="r:", tarinfo=_TarHeader) as archive:  # type: ignore[call-overload]
                end = -1
                while (entry := archive.next()) is not None:
                    if entry.size < 0 or archive.offset <= end:
                        raise ValueError(f"what follows `{entry.name[:_SHOWN]}` begins before it ends")
                    end = archive.offset
                    archive.members.clear()  # else all of them are kept, with a copy of their attributes
                    if entry.isreg() and not entry.issparse() and stays_inside(entry.name):
                        entries.append((entry.name.removeprefix("./"), entry.offset_data, entry.size))
            stream.seek(archive.offset)
            rest = stream.read(tarfile.BLOCKSIZE)
        # A damaged header in the middle looks like the end to `tarfile`; the real end is zeros, or nothing.
        if len(rest) not in (0, tarfile.BLOCKSIZE) or rest.strip(b"\0"):
            raise ValueError(f"what should be a header at {archive.offset} is none")
        return entries
    except RecursionError as error:
        raise DataError(f"{path} must be a whole, uncompressed tar file: its headers lead too far") from error
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} must be a whole, uncompressed tar file: {error}") from error
