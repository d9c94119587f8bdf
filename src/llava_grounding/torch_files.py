"""What a file of `torch.save` claims and what it has: its archive and its index compared, before torch maps it.

torch maps storages without looking at their records' sizes: where one is short it reads on into what stands behind.
Nothing of the pickle is called here, classes least of all; the old form without an archive is checked by torch itself.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from llava_grounding.errors import CheckpointError

_ARCHIVE = b"PK\x03\x04"
_HEAD_BYTES = 30  # of a record's local head, before its name
_MAX_RECORDS, _MAX_INDEX_BYTES = 1_000_000, 64 * 2**20
_ITEM_BYTES = {
    "UntypedStorage": 1,
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}


def check_archive(path: Path) -> None:
    """Compare the sizes of a file's records with what its tensors need.

    Raises:
        CheckpointError: naming the record that is of another size, or why the file cannot be trusted.
        pickle.UnpicklingError: if the index holds more than tensors.
    """
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            records = _records(path, archive)
            prefix = archive.namelist()[0].partition("/")[0]
            index = records.get(f"{prefix}/data.pkl")
            if index is None:
                _damaged(path, "it has no data.pkl")
            if index > _MAX_INDEX_BYTES:
                _damaged(path, f"its index has {index / 1e6:.0f} MB")
            needed = _Index(io.BytesIO(archive.read(f"{prefix}/data.pkl"))).storages()
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path.name} in `{path.parent}` is damaged or was cut short") from error
    except Exception as error:  # a pickle can fail in every way
        raise pickle.UnpicklingError(str(error)) from error
    for key, size in needed.items():
        found = records.get(f"{prefix}/data/{key}")
        if found != size:
            has = "is missing" if found is None else f"has {found:,} bytes"
            _damaged(path, f"its record data/{key[:80]} {has}, but the tensors in it need {size:,}")


def _records(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Size by name of what an archive holds: each once, stored as it is, one behind the other."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len(entries) > _MAX_RECORDS or len({entry.filename for entry in entries}) != len(entries):
        _damaged(path, "its records are too many, or one is there twice")
    end = 0
    with path.open("rb") as file:
        for entry in entries:
            file.seek(entry.header_offset)
            head = file.read(_HEAD_BYTES)
            names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            start = entry.header_offset + _HEAD_BYTES + names
            if not head.startswith(_ARCHIVE) or entry.header_offset < end:
                _damaged(path, f"its record {entry.filename[:80]} lies within another")
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                _damaged(path, f"its record {entry.filename[:80]} is compressed, and torch never does that")
            end = start + entry.file_size
    if end > path.stat().st_size:
        _damaged(path, "it ends within a record")
    return {entry.filename: entry.file_size for entry in entries}


def _damaged(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"{path.name} in `{path.parent}` is damaged: {why}")


class _Anything:
    """Stands for every class and function that a pickle names."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        del args, kwargs

    def __setstate__(self, state: object) -> None:
        del state

    def __setitem__(self, key: object, value: object) -> None:
        del value
        if type(key) not in (str, int):
            raise ValueError("what it holds must have names")

    def append(self, value: object) -> None:
        """Appends like a list."""

    def extend(self, values: object) -> None:
        """Extends like a list."""


class _Index(pickle._Unpickler):  # the one in Python: the other one can be told to take any amount of memory
    """Reads which storages a pickle of torch refers to, and how large they are."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._sizes: dict[str, int] = {}

    def storages(self) -> dict[str, int]:
        """Bytes by the name of a record."""
        self.load()
        return self._sizes

    def find_class(self, module: str, name: str) -> Any:
        del module
        return type(name, (_Anything,), {})

    def persistent_load(self, reference: Any) -> Any:
        kind, storage, key, _, count = reference
        size = _ITEM_BYTES.get(getattr(storage, "__name__", ""))
        if kind != "storage" or size is None or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("a tensor is of a type that is not read")
        self._sizes[key] = max(self._sizes.get(key, 0), size * count)
        return _Anything()

    def _refused(self) -> None:
        raise ValueError("it holds more than tensors by name")

    def _object(self) -> None:
        # A mapping that never compares its keys: some, tuples within tuples, would take for ever.
        self.append(_Anything())  # type: ignore[attr-defined]

    # Opcodes by which a pickle makes sets and other mappings, and takes from Python's registry of extensions.
    for _code in (pickle.DICT, pickle.EMPTY_SET, pickle.FROZENSET, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = _refused
    dispatch[pickle.EMPTY_DICT[0]] = _object
    # And those that make room for as many bytes as a number says, before it is known whether they are there.
    for _code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_code[0]] = _refused
    del _code
