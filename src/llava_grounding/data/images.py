"""Where encoded pictures come from: a folder, tar shards with or without an index, or zip files.

Nothing stays open: what `locate` gives holds a place in a file and opens it when called, so it is small, survives
pickling and forking, and leaks nothing. It decodes no picture, extracts nothing to disk and knows no labels.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llava_grounding.data.image_names import NameIndex, coco_spellings, folder_index
from llava_grounding.data.plain_files import (
    is_absolute,
    open_regular,
    parse_json,
    read_file,
    stays_inside,
    why_no_file,
)
from llava_grounding.data.tar_entries import ARCHIVE_ERRORS, read_tar
from llava_grounding.errors import DataError, quoted, shown
from llava_grounding.image_files import DATA_LIMITS

MAX_FILE_BYTES = DATA_LIMITS.max_bytes
"""A picture that is larger, or in an archive says it is, is refused before it is read or unpacked."""

_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 0x1
_LARGEST_OFFSET = 2**63  # no system takes more


class ImageBytes(Protocol):
    """Encoded bytes on call, raising DataError where there are none; `exists` tells without reading them."""

    def __call__(self) -> bytes: ...
    def exists(self) -> bool: ...


class ImageStore(Protocol):
    """Pictures by name. `locate` never fails: what cannot be read says so when it is read."""

    def locate(self, name: str) -> ImageBytes: ...
    def has(self, name: str) -> bool: ...
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class FileBytes:
    """Bytes of a file, or of a stretch of it; reading waits for the call, so a record is small to send to workers.

    Args:
        root: a folder above the file, below which it may lie under a name that is spelt otherwise; None = it is not
            looked for.
    """

    path: Path
    offset: int = 0
    length: int | None = None
    root: Path | None = field(default=None, compare=False, repr=False)

    def __call__(self) -> bytes:
        path = self.place()
        try:
            with open_regular(path) as stream:
                size = stream.seek(0, os.SEEK_END)
                length = max(0, size - self.offset) if self.length is None else self.length
                if length > MAX_FILE_BYTES:
                    raise DataError(f"{path} must have at most {MAX_FILE_BYTES} bytes to be read as a picture")
                stream.seek(self.offset)
                data = stream.read(min(length, size))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        if len(data) != length:
            raise DataError(f"{path} ends early: expected {length} bytes at {self.offset}, got {len(data)}")
        return data

    def exists(self) -> bool:
        return _is_file(self.path) or _is_file(self.place())

    def place(self) -> Path:
        """The file, or the same picture of COCO under the name that another release has for it."""
        if not _is_file(self.path):
            for name in coco_spellings(self.path.name):
                if _is_file(self.path.with_name(name)):
                    return self.path.with_name(name)
            if self.root is not None and self.root.is_dir():
                found = folder_index(self.root).find(str(self.path.relative_to(self.root)))
                return self.path if found is None else self.root / found
        return self.path


def place_of(data: ImageBytes) -> object:
    """What is the same for two names of one picture: the file itself, else what reads it."""
    return data.place() if isinstance(data, FileBytes) and data.length is None else data


@dataclass(frozen=True)
class ZipBytes:
    """One file of a zip, unpacked on call and held against its checksum.

    Args:
        path: the zip.
        name: within it, for messages.
        offset: of its local header.
        packed, unpacked: lengths in bytes.
        method: 0 stored, 8 deflated.
        checksum: CRC-32 of what is unpacked.
    """

    path: Path
    name: str
    offset: int
    packed: int
    unpacked: int
    method: int
    checksum: int

    def __call__(self) -> bytes:
        header = FileBytes(self.path, self.offset, _LOCAL_HEADER_BYTES)()
        # The lengths of name and extra field may differ from those in the directory at the end of the zip.
        skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = FileBytes(self.path, self.offset + _LOCAL_HEADER_BYTES + skipped, self.packed)()
        if self.method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.unpacked + 1)
            except zlib.error as error:
                raise DataError(f"cannot unpack `{self.name}` of {self.path}: {error}") from error
        if len(data) != self.unpacked or zlib.crc32(data) != self.checksum:
            raise DataError(f"`{self.name}` of {self.path} is damaged: its length or checksum is not what the zip says")
        return data

    def exists(self) -> bool:
        return _is_file(self.path)


@dataclass(frozen=True)
class NoBytes:
    """Stands where a picture should be, and says on call why there is none."""

    reason: str

    def __call__(self) -> bytes:
        raise DataError(self.reason)

    def exists(self) -> bool:
        return False


class NamesOnly:
    """Stands for pictures that are not looked at: any name may be one."""

    def locate(self, name: str) -> NoBytes:
        return NoBytes("pictures are not read here, only their names")

    def has(self, name: str) -> bool:
        return True


class FolderImages:
    """Pictures by their path below a folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def locate(self, name: str) -> FileBytes | NoBytes:
        if stays_inside(name):
            return FileBytes(self.root / name, root=self.root)
        if is_absolute(name) and self.root.is_dir() and (found := self.names().find(name)) is not None:
            return FileBytes(self.root / found, root=self.root)
        return _refused(name, self.root)

    def names(self) -> NameIndex:
        """Names of all files below the folder."""
        return folder_index(self.root)

    def has(self, name: str) -> bool:
        return (stays_inside(name) and _is_file(f"{self.root}/{name}")) or self.locate(name).exists()


class TarImages:
    """Pictures by name from uncompressed tar shards, located by an index of shard, offset and length.

    Args:
        root: the folder of the shards; a picture outside them may lie beside them.
        index: name -> shard (a path below `root`), offset and length in bytes. A name may lack the one folder in which
            everything in the shards lies, unless a picture beside them has it.
    """

    def __init__(self, root: str | Path, index: Mapping[str, Sequence[Any]]) -> None:
        self.root = Path(root)
        self.index = index
        self._folder = _common_folder(index)
        self._names: NameIndex | None = None
        self._shards: dict[str, Path] = {}
        self._found: set[Path] = set()

    @classmethod
    def scan(cls, root: str | Path, shards: Iterable[Path]) -> TarImages:
        """Reads the headers of all shards, once; raises DataError for a damaged one and for a name in two of them."""
        index: dict[str, tuple[str, int, int]] = {}
        for shard in shards:
            place = shard.relative_to(root).as_posix()
            for name, offset, length in read_tar(shard):
                if name in index and index[name][0] != place:
                    raise DataError(f"`{name}` must be in one tar shard of {root}, got {index[name][0]} and {place}")
                index[name] = (place, offset, length)
        return cls(root, index)

    def locate(self, name: str) -> FileBytes | NoBytes:
        entry = self.index.get(name)
        if entry is None:
            entry = self._spelt_otherwise(name)
            if isinstance(entry, FileBytes):
                return entry
        if entry is None:
            return NoBytes(f"`{name}` is in no tar shard of {self.root}")
        try:
            shard, offset, length = str(entry[0]), int(entry[1]), int(entry[2])
        except (LookupError, TypeError, ValueError, OverflowError):
            return NoBytes(
                f"the index of {self.root} must have shard, offset and length for {quoted(name)}, got {shown(entry)}"
            )
        if not stays_inside(shard):
            return _refused(shard, self.root)
        if min(offset, length) < 0 or offset >= _LARGEST_OFFSET or length > MAX_FILE_BYTES:
            return NoBytes(
                f"the index of {self.root} must have a sensible place for {quoted(name)}, got {shown(entry)}"
            )
        path = self._shards.get(shard)
        if path is None:
            path = self._shards[shard] = self.root / shard
        return FileBytes(path, offset, length)

    def _spelt_otherwise(self, name: str) -> Any:
        """Where a picture is that the index has under another name, or that lies beside the shards; None if nowhere."""
        names = (name, *coco_spellings(name))
        entry = next((self.index[one] for one in names if one in self.index), None)
        if entry is None:
            beside = FolderImages(self.root).locate(name)
            if beside.exists():
                return beside
            entry = next((self.index[self._folder + one] for one in names if self._folder + one in self.index), None)
        if entry is None and (spelt := self.names().find(name)) is not None:
            entry = self.index[spelt]
        return entry

    def names(self) -> NameIndex:
        """Names of all pictures in the shards."""
        if self._names is None:
            self._names = NameIndex(self.index, self.root.name)
        return self._names

    def has(self, name: str) -> bool:
        place = self.locate(name)
        if isinstance(place, FileBytes) and place.path in self._found:
            return True  # in a shard that was there a moment ago
        there = place.exists()
        if there and isinstance(place, FileBytes) and place.length is not None:
            self._found.add(place.path)
        return there


class ZipImages:
    """Pictures by name from zip files; their directories are read once, and no file is held open.

    Args:
        paths: the zips. A name may lack the one folder in which everything in a zip lies, unless a picture beside them
            has it.
        beside: folder of pictures that are in none of them.

    Raises:
        DataError: if one is no zip, or a name is in two of them.
    """

    def __init__(self, paths: str | Path | Iterable[Path], beside: Path | None = None) -> None:
        self.paths = (Path(paths),) if isinstance(paths, str | Path) else tuple(paths)
        self.beside = beside
        self._index: dict[str, ZipBytes | NoBytes] = {}
        self._shortened: dict[str, ZipBytes | NoBytes] = {}
        self._names: NameIndex | None = None
        for path in self.paths:
            entries = _read_zip(path)
            both = self._index.keys() & entries.keys()
            if both:
                raise DataError(f"`{min(both)}` must be in one zip, got a second one in {path}")
            self._index |= entries
            folder = _common_folder(entries)
            for name, entry in entries.items():
                short = name.removeprefix(folder)
                twice = short in self._shortened
                self._shortened[short] = NoBytes(f"`{short}` is in more than one zip") if twice else entry

    def locate(self, name: str) -> ImageBytes:
        names = (name, *coco_spellings(name))
        if entry := next((self._index[one] for one in names if one in self._index), None):
            return entry
        if self.beside is not None and FolderImages(self.beside).has(name):
            return FolderImages(self.beside).locate(name)
        if entry := next((self._shortened[one] for one in names if one in self._shortened), None):
            return entry
        if (spelt := self.names().find(name)) is not None:
            return self._index[spelt]
        return NoBytes(f"`{name}` is not in {', '.join(str(path) for path in self.paths)}")

    def names(self) -> NameIndex:
        """Names of all pictures in the zips."""
        if self._names is None:
            self._names = NameIndex(self._index, self.paths[0].parent.name if self.paths else "")
        return self._names

    def has(self, name: str) -> bool:
        return self.locate(name).exists()


def open_images(place: str | Path) -> ImageStore:
    """The pictures at a place, by what is there.

    A file ending in `.tar` or `.zip`; or a folder: of tar shards (with `index_*.json`, which saves reading their
    headers, or without), of zips, or of plain files. Plain files beside shards or zips are found as well.

    Raises:
        DataError: if there is nothing, or an archive or index is damaged.
    """
    place = Path(place)
    if place.is_dir():
        shards, zips = sorted(place.glob("*.tar")), sorted(place.glob("*.zip"))
        indexes = sorted(place.glob("index_*.json")) if shards else []
        if indexes:
            return TarImages(place, read_index(indexes))
        if shards:
            return TarImages.scan(place, shards)
        return ZipImages(zips, place) if zips else FolderImages(place)
    if not _is_file(place):
        raise DataError(f"images must be a folder, a .tar or a .zip, but {why_no_file(place)}")
    if place.suffix.lower() == ".tar":
        return TarImages.scan(place.parent, [place])
    if place.suffix.lower() == ".zip":
        return ZipImages(place)
    raise DataError(f"images must be a folder, a .tar or a .zip, got {place}")


def read_index(paths: Iterable[Path]) -> dict[str, Any]:
    """The index that `TarImages` takes, from one file or several.

    Raises:
        DataError: if one cannot be read or is no object of names, or if two put a picture in different places.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            index = parse_json(read_file(path))
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        if not isinstance(index, dict):
            raise DataError(f"{path} must be an object of names, got {type(index).__name__}")
        for name in merged.keys() & index.keys():
            here, before = shown(index[name]), shown(merged[name])  # they may be too deep to be compared
            if here != before:
                raise DataError(
                    f"{quoted(name)} must be in one place, but {path} says {here}, an index before it {before}"
                )
        merged |= index
    return merged


def _refused(name: object, root: Path) -> NoBytes:
    return NoBytes(f"a file name must stay inside {root}, got {shown(name)}")


def _is_file(path: Path | str) -> bool:
    try:
        return os.path.isfile(path)  # noqa: PTH113  half as long as Path.is_file
    except (OSError, ValueError):
        return False


def _common_folder(names: Iterable[str]) -> str:
    """The folder with its `/` in which all names lie, or nothing."""
    folders = {name.partition("/")[0] + "/" if "/" in name else "" for name in names}
    return folders.pop() if len(folders) == 1 else ""


def _read_zip(path: Path) -> dict[str, ZipBytes | NoBytes]:
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} must be a whole zip file: {error}") from error
    named = {_name_in_zip(entry): entry for entry in entries}
    return {name: _zip_entry(path, entry) for name, entry in named.items() if stays_inside(name) and not _of_mac(name)}


def _name_in_zip(entry: zipfile.ZipInfo) -> str:
    """The name with `/`, as the format has it; some programs on Windows write backslashes."""
    return entry.filename.replace("\\", "/")


def _of_mac(name: str) -> bool:
    """Whether a Mac put a file into an archive for itself, beside the one that was meant."""
    return name.startswith("__MACOSX/")


def _zip_entry(path: Path, entry: zipfile.ZipInfo) -> ZipBytes | NoBytes:
    name, method = entry.filename, entry.compress_type
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & _ENCRYPTED:
        return NoBytes(f"`{name}` of {path} must be stored or deflated and not encrypted")
    if max(entry.file_size, entry.compress_size) > MAX_FILE_BYTES:
        return NoBytes(f"`{name}` of {path} must have at most {MAX_FILE_BYTES} bytes, got {entry.file_size}")
    return ZipBytes(path, name, entry.header_offset, entry.compress_size, entry.file_size, method, entry.CRC)
