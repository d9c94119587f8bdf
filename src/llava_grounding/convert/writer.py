"""Writes a checkpoint's folder: all of it or nothing, and weights tensor by tensor, so that none waits in memory."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from llava_grounding.aside import aside_folder, sync_folder, sync_tree, umask
from llava_grounding.errors import CheckpointError, UsageError

Entry = tuple[str, tuple[int, ...], torch.dtype]
"""Name, shape and type of a tensor."""
MAX_FILE_BYTES = 2 * 10**9
"""Where one weight file ends and the next begins."""
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
_ROW_BYTES = 64 * 2**20  # how much of a tensor is converted at a time


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well and is removed when it does not.

    Raises:
        UsageError: if `out` is there and not an empty folder, or cannot be written.
    """
    check_new(out)
    with ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            aside = stack.enter_context(aside_folder(out.parent, out.name))
        except OSError as error:
            raise UsageError(f"`{out}` cannot be written: {error.strerror or error}") from error
        try:
            yield aside
            aside.chmod(0o777 & ~umask())
            sync_tree(aside)
            aside.replace(out)  # takes the place of an empty folder, and of nothing else
            sync_folder(out.parent)
        except OSError as error:
            raise CheckpointError(f"`{out}` cannot be written: {error.strerror or error}") from error


def check_new(out: Path, *sources: Path | None) -> None:
    """Refuse to write over anything, or into what is read.

    Args:
        sources: files and folders that are read; None is none.

    Raises:
        UsageError: if `out` is there and not an empty folder, or lies in one of the sources.
    """
    place = out.resolve()
    for source in sources:
        if source is not None and source.resolve() in (place, *place.parents):
            raise UsageError(f"`{out}` lies in `{source}`, which is read; give a folder elsewhere")
    if out.is_symlink():
        raise UsageError(f"`{out}` is a link; give a folder that is new or empty")
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"`{out}` is not empty; give a folder that is new or empty")
    if out.exists() and not out.is_dir():
        raise UsageError(f"`{out}` is a file; give a folder that is new or empty")


class WeightWriter:
    """Writes safetensors files whose contents are known beforehand, in any order.

    Args:
        folder: where `model.safetensors`, or shards and their index, shall be.
        contents: name, shape and type of every tensor, in the order of the files.
        max_file_bytes: of one file.
    """

    def __init__(
        self,
        folder: Path,
        contents: Sequence[Entry],
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self._folder = folder
        self._files: list[BinaryIO] = []
        self._places: dict[str, tuple[BinaryIO, int]] = {}
        self._dtypes = {name: dtype for name, _, dtype in contents}
        self._waiting = set(self._dtypes)
        parts = _split(contents, max_file_bytes)
        names = [_file_name(number, len(parts)) for number in range(1, len(parts) + 1)]
        _check_space(folder, sum(_num_bytes(shape, dtype) for _, shape, dtype in contents))
        for name, part in zip(names, parts, strict=True):
            self._begin(folder / name, part)
        if len(parts) > 1:
            places = {name: file for file, part in zip(names, parts, strict=True) for name, _, _ in part}
            total = sum(_num_bytes(shape, dtype) for _, shape, dtype in contents)
            index = {"metadata": {"total_size": total}, "weight_map": places}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        self.file_names = names
        """Names of the weight files."""

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, converted to its type."""
        file, place = self._places[name]
        self._waiting.remove(name)
        file.seek(place)
        dtype = self._dtypes[name]
        flat = tensor.reshape(-1)
        step = max(1, _ROW_BYTES // dtype.itemsize)
        for start in range(0, flat.numel(), step):
            part = flat[start : start + step].to(dtype).contiguous()
            file.write(part.view(torch.uint8).numpy().data)

    def finish(self) -> None:
        """Hand over what is still buffered.

        Raises:
            AssertionError: if a tensor was not written.
        """
        assert not self._waiting, f"not written: {sorted(self._waiting)[:3]}"
        for file in self._files:
            file.flush()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "WeightWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, path: Path, contents: Sequence[Entry]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        starts = {}
        for name, shape, dtype in contents:
            start, end = end, end + _num_bytes(shape, dtype)
            starts[name] = start
            header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file = path.open("wb")
        self._files.append(file)
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        self._places |= {name: (file, 8 + len(text) + start) for name, start in starts.items()}


def _split(contents: Sequence[Entry], max_file_bytes: int) -> list[list[Entry]]:
    parts: list[list[Entry]] = [[]]
    size = 0
    for entry in contents:
        num_bytes = _num_bytes(*entry[1:])
        if parts[-1] and size + num_bytes > max_file_bytes:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += num_bytes
    return parts


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"the weights take {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free where they shall be written"
        )
