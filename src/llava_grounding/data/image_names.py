"""Pictures that files name otherwise than they are called: on Windows, on the web, in other folders, in capitals.

A name is taken for another only where it can mean nothing else; what is merely alike is suggested and never taken.
Reads no pictures and no labels.
"""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""How names of pictures end that are read of anybody, in lower or upper case."""
DATA_SUFFIXES = (*SUFFIXES, ".bmp")
"""How names of pictures of data sets end: labelling tools write BMP too."""
_MOST_LISTED = 3_000_000  # files of a folder
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/+")
_CITYSCAPES = "_gtFine_leftImg8bit"  # what its scripts call a picture in their files, `_leftImg8bit` being its name
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(\.[A-Za-z]+)")
_COCO_HEADS = ("", "COCO_train2014_", "COCO_val2014_", "COCO_test2015_", "COCO_test2014_")


def coco_number(name: str) -> int | None:
    """The number of a COCO picture by its name, `000000000009.jpg` or `COCO_train2014_000000000009.jpg`, else None."""
    match = _COCO_NAME.fullmatch(name.rpartition("/")[2])
    return int(match[1]) if match else None


def coco_spellings(name: str) -> tuple[str, ...]:
    """The other names that COCO's releases have for a picture of theirs, in the same folder; none for other names."""
    folder, slash, base = name.rpartition("/")
    match = _COCO_NAME.fullmatch(base)
    names = [f"{folder}{slash}{head}{match[1]}{match[2]}" for head in _COCO_HEADS] if match else []
    return tuple(one for one in names if one != name)


def folded(name: str) -> str:
    """The same for all spellings of a path whose letters mean the same: capitals, backslashes, composed accents.

    A Mac writes `é` into the names of files and archives as two characters, others as one.
    """
    name = name.replace("\\", "/")
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).casefold()


def name_at(url: str, parts: int = 1) -> str:
    """The last parts of the path in an address on the web: of `https://x.org/a%20b.jpg?key=1/2` it is `a b.jpg`."""
    return unquote("/".join(url.partition("?")[0].partition("#")[0].split("/")[-parts:]), errors="replace")


class NameIndex:
    """The names of a store of pictures, to look up one that is spelt otherwise.

    Args:
        names: paths below the store, with `/`.
        root_name: what the folder of the store is called; names may begin above it.
    """

    def __init__(self, names: Iterable[str], root_name: str = "") -> None:
        self._root = folded(root_name)
        self._paths: dict[str, str | None] = {}
        self._bases: dict[str, str | None] = {}
        self._exact: set[str] = set()
        for name in names:
            self._exact.add(name)
            path = folded(name)
            self._paths[path] = None if path in self._paths else name
            base = path.rpartition("/")[2]
            self._bases[base] = None if base in self._bases else name

    def find(self, name: str) -> str | None:
        """The one picture that a name can mean; None where there is none, or two.

        Blanks may be `%20`, `/` may be a backslash, and capitals small letters; the path may lead there from above the
        store. A bare name, an address on the web and an absolute path mean the only file of that name below the store.
        """
        for parts, anywhere in _readings(name):
            for start in self._starts(parts):
                path = "/".join(parts[start:])
                if path in self._exact:
                    return path
                if found := self._paths.get(folded(path)):
                    return found
            if (anywhere or _COCO_NAME.fullmatch(parts[-1])) and (found := self._bases.get(folded(parts[-1]))):
                return found
        return None

    def suggest(self, name: str) -> str | None:
        """The only picture whose name ends alike, in whatever folder."""
        return next((found for parts, _ in _readings(name) if (found := self._bases.get(folded(parts[-1])))), None)

    def _starts(self, parts: list[str]) -> Iterator[int]:
        yield 0
        for place in range(len(parts) - 1, 0, -1):
            if folded(parts[place - 1]) == self._root:
                yield place


def _readings(name: str) -> Iterator[tuple[list[str], bool]]:
    """Folders and file that a name can be read as, and whether it says nothing of folders of the store."""
    address = _URL.match(name)
    text = name[address.end() :].partition("?")[0].partition("#")[0] if address else name
    for spelt in dict.fromkeys((text, unquote(text, errors="replace"), text.replace(_CITYSCAPES, "_leftImg8bit"))):
        spelt = spelt.replace("\\", "/")
        absolute = spelt.startswith("/") or re.match(r"[A-Za-z]:/", spelt) is not None
        parts = [part for part in spelt.split("/") if part not in ("", ".")]
        if parts and ".." not in parts and "\0" not in spelt:
            yield parts, address is not None or absolute or len(parts) == 1


_listed: dict[Path, tuple[float, float, NameIndex]] = {}


def folder_index(root: Path) -> NameIndex:
    """The files below a folder; listed anew after a while, as more may be put there meanwhile."""
    now = time.monotonic()
    if root in _listed:
        made, seconds, index = _listed[root]
        if now - made < max(2.0, 20 * seconds):
            return index
    index = NameIndex(_files_below(root), root.name or root.absolute().name)
    if len(_listed) > 8:
        _listed.clear()
    _listed[root] = (time.monotonic(), time.monotonic() - now, index)
    return index


def _files_below(root: Path) -> Iterator[str]:
    count = 0
    for folder, _, files in os.walk(root):
        prefix = Path(folder).relative_to(root).as_posix()
        for file in files:
            count += 1
            if count > _MOST_LISTED:
                return
            yield file if prefix == "." else f"{prefix}/{file}"
