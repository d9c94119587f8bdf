"""The files a released checkpoint is stored in, read one at a time: what they hold, and then tensor by tensor.

`.bin` and `.pt` files are unpickled in the mode that allows nothing but tensors. Files stay on the disk and are mapped
anew every few hundred megabytes, so that what has been read does not count as memory in use. Knows no key names.
"""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava_grounding.checkpoint_files import is_plain_name, plain_file, read_json
from llava_grounding.errors import CheckpointError
from llava_grounding.torch_files import check_archive

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
_OF_MANY = re.compile(r"-(\d+)-of-(\d+)\.\w+$")
_MAX_INDEX_BYTES, _MAX_SHARDS = 64 * 2**20, 10_000
_REMAP_BYTES = 256 * 2**20
_WRAPPINGS = ("model", "state_dict")  # keys under which training programs put the weights


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    path: Path

    @property
    def size(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return self.size * self.dtype.itemsize


def find_shards(source: Path) -> list[Path]:
    """The weight files of a folder, or the one file that was named.

    Raises:
        CheckpointError: if there are none, some of those that belong together are missing, or are no files of the
            folder.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise CheckpointError(f"`{source}` is no folder and no file")
    for index in _INDICES:
        if (source / index).is_file():
            return _existing(source, sorted(set(_weight_map(source / index).values())), index)
    for pattern in _PATTERNS:
        found = sorted(path.name for path in source.glob(pattern))
        if found:
            return _existing(source, sorted({*found, *(name for one in found for name in _siblings(one))}), "its name")
    raise CheckpointError(f"`{source}` has no weights: expected {' or '.join(_PATTERNS)}")


def stored_in(paths: Sequence[Path]) -> list[Stored]:
    """Everything the files hold, in their order; reads no weights.

    Raises:
        CheckpointError: if a file is damaged, or holds more than tensors.
    """
    found = []
    for path in paths:
        with _Mapped(path) as mapped:
            found += [Stored(key, shape, dtype, path) for key, shape, dtype in mapped.contents()]
    return found


def read_tensors(wanted: Sequence[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """The tensors, in their order. Each is good until the next is asked for."""
    start = 0
    while start < len(wanted):
        path, end, size = wanted[start].path, start, 0
        while end < len(wanted) and wanted[end].path == path and size < _REMAP_BYTES:
            size += wanted[end].num_bytes
            end += 1
        with _Mapped(path) as mapped:
            if not mapped.can_be_mapped:  # all of it is in memory: reading it again would gain nothing
                while end < len(wanted) and wanted[end].path == path:
                    end += 1
            for entry in wanted[start:end]:
                yield entry, mapped.tensor(entry.key)
        start = end


class _Mapped:
    """One open file of weights, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: dict[str, Tensor] = {}
        self._file: Any = None
        self.can_be_mapped = True

    def __enter__(self) -> "_Mapped":
        try:
            if self._path.suffix == ".safetensors":
                plain_file(self._path)
                self._file = safe_open(self._path, framework="pt").__enter__()
            else:
                self._state = _tensors_of(self._unpickle(), self._path)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{self._path.name} in `{self._path.parent}` holds more than tensors (or no weights at all), "
                f"and a file that could run code is not read"
            ) from error
        except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            trouble = "is missing" if not self._path.exists() else "is damaged or was cut short"
            raise CheckpointError(f"{self._path.name} in `{self._path.parent}` {trouble}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._state = {}
        if self._file is not None:
            self._file.__exit__(*error)

    def contents(self) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        if self._file is None:
            for key, tensor in self._state.items():
                _check_whole(key, tensor, self._path)
                yield key, tuple(tensor.shape), tensor.dtype
            return
        for key in self._file.keys():  # noqa: SIM118
            part = self._file.get_slice(key)
            yield key, tuple(part.get_shape()), _dtype_named(part.get_dtype(), key, self._path)

    def tensor(self, key: str) -> Tensor:
        return self._state[key] if self._file is None else self._file.get_tensor(key)

    def _unpickle(self) -> Any:
        plain_file(self._path)
        check_archive(self._path)
        try:
            return torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError) as error:
            if "mmap" not in str(error):
                raise
        self.can_be_mapped = False  # written before there were zip files
        return torch.load(self._path, map_location="cpu", weights_only=True)


def _tensors_of(values: Any, path: Path) -> dict[str, Tensor]:
    for name in _WRAPPINGS:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise CheckpointError(f"{path.name} in `{path.parent}` is no checkpoint: expected tensors by name")
    if not all(isinstance(name, str) for name in values):
        raise CheckpointError(f"{path.name} in `{path.parent}` is no checkpoint: names must be texts")
    return dict(values)


def _check_whole(key: str, tensor: Tensor, path: Path) -> None:
    """Refuse a tensor that has no values of its own in memory, or more elements than are stored."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(f"`{key}` in {path.name} is no plain tensor in memory, but a sparse, packed or empty one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path.name} in `{path.parent}` is damaged: `{key}` has more elements than are stored")


def _dtype_named(name: str, key: str, path: Path) -> torch.dtype:
    known = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
    if name not in known:
        raise CheckpointError(f"`{key}` in {path.name} is of the type {name}, which is not read")
    return known[name]


def _weight_map(index: Path) -> dict[str, str]:
    names = read_json(index.parent, index.name, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index.name} in `{index.parent}` is damaged: it has no weight_map")
    foreign = next((name for name in names.values() if not is_plain_name(name)), None)
    if foreign is not None:
        raise CheckpointError(
            f"{index.name} in `{index.parent}` is damaged: the shard {foreign[:80]!r} is no name of a file beside it"
        )
    return names


def _siblings(name: str) -> list[str]:
    """The names of all shards of which this is one."""
    match = _OF_MANY.search(name)
    if match is None:
        return [name]
    stem, ending = name[: match.start()], name.rpartition(".")[2]
    digits, count = len(match[1]), int(match[2][:9])
    if count > _MAX_SHARDS:
        raise CheckpointError(f"{name[:80]} says that it is one of {count:,} files, which cannot be")
    return [f"{stem}-{number:0{digits}d}-of-{match[2]}.{ending}" for number in range(1, count + 1)]


def _existing(folder: Path, names: Sequence[str], according_to: str) -> list[Path]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"`{folder}` lacks {', '.join(missing)}, which belong to it according to {according_to}")
    return [folder / name for name in names]
