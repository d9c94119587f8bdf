"""What there is to label: the photos of a folder, a list, a tar or a zip, by name and in a fixed order.

Nothing is unpacked to disk, and names that lead out of an archive are left out. Decodes no picture and knows no labels.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llava_grounding.data.image_names import SUFFIXES
from llava_grounding.data.images import FileBytes, ImageStore, TarImages, ZipImages
from llava_grounding.data.plain_files import read_file, stays_inside, why_no_file
from llava_grounding.errors import DataError, UsageError, quoted

LISTS = (".txt", ".lst", ".list")
"""How names of files with one path a line end."""
_MAX_LIST_BYTES = 2**30
_NO_STAMP = "missing"


@dataclass(frozen=True)
class Photo:
    """A photo that waits to be labelled.

    Args:
        name: unique among those that are labelled together.
        read: gives its encoded bytes, or raises DataError.
        stamp: gives a text that changes when the file is replaced.
    """

    name: str
    read: Callable[[], bytes]
    stamp: Callable[[], str]


@dataclass(frozen=True)
class FileStamp:
    """Size and time of change of a file; `place` tells the files of an archive apart."""

    path: Path
    place: str = ""

    def __call__(self) -> str:
        try:
            status = self.path.stat()
        except (OSError, ValueError):
            return _NO_STAMP
        return f"{status.st_size}-{status.st_mtime_ns}{self.place}"


def find_photos(place: Path) -> list[Photo]:
    """The photos at a place, in the order of their names; a list keeps its own.

    Args:
        place: a folder, searched to its depth; a list of paths, relative to its own folder; an uncompressed tar; a zip;
            or one photo. Hidden files and folders are left out.

    Raises:
        UsageError: if there is nothing at the place, or it is none of these, or no photo is in it.
        DataError: if an archive is damaged.
    """
    photos = _photos(place)
    if not photos:
        raise UsageError(f"there must be photos ({', '.join(SUFFIXES)}) in {quoted(str(place))}, found none")
    return photos


def _photos(place: Path) -> list[Photo]:
    if place.is_dir():
        return [_file(place / name, name) for name in sorted(_walk(place))]
    if not place.is_file():
        raise UsageError(f"photos must be a folder, a list, a tar or a zip, but {why_no_file(place)}")
    suffix = place.suffix.lower()
    if suffix == ".tar":
        tar = TarImages.scan(place.parent, [place])
        return _archived(place, tar, tar.index)
    if suffix == ".zip":
        return _archived(place, ZipImages(place), _zip_names(place))
    if suffix in SUFFIXES:
        return [_file(place, place.name)]
    if suffix in LISTS:
        return [_file(place.parent / line, line) for line in dict.fromkeys(_lines(place))]
    raise UsageError(
        f"photos must be a folder, a list ({', '.join(LISTS)}), an uncompressed .tar or a .zip, "
        f"got {quoted(str(place))}"
    )


def _file(path: Path, name: str) -> Photo:
    return Photo(name, FileBytes(path), FileStamp(path))


def _walk(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        below = Path(root).relative_to(folder)
        yield from ((below / one).as_posix() for one in files if _is_photo(one))


def _archived(place: Path, store: ImageStore, names: Iterable[str]) -> list[Photo]:
    return [
        Photo(name, store.locate(name), FileStamp(place, f"-{name}"))
        for name in sorted({name for name in names if stays_inside(name)})
        if not name.startswith("__MACOSX/") and _is_photo(name.rpartition("/")[2])
    ]


def _zip_names(place: Path) -> list[str]:
    try:
        with zipfile.ZipFile(place) as archive:
            return [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{place} must be a whole zip file: {error}") from error


def _is_photo(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _lines(place: Path) -> list[str]:
    if place.stat().st_size > _MAX_LIST_BYTES:
        raise UsageError(f"a list must have at most {_MAX_LIST_BYTES} bytes, got {quoted(str(place))}")
    try:
        text = read_file(place).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{place} must be a text of paths, one a line, in UTF-8: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bad = next((line for line in lines if "\0" in line), None)
    if bad is not None:
        raise DataError(f"{place} must be a text of paths, one a line, got {quoted(bad)}")
    return lines
