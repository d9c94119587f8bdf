"""A file or folder of which readers are asked whether it is of their kind, and what one that knows it says.

What is in it is looked at once, whoever asks. Knows no reader.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_grounding.data.image_names import DATA_SUFFIXES
from llava_grounding.data.images import FolderImages, open_images
from llava_grounding.data.plain_files import open_regular
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.xml_files import parse_xml
from llava_grounding.errors import DataError

MOST_FILES = 200
"""The files of a folder that are looked into."""
_PROBES = 20  # entries that are looked at, and names by which the folder of pictures is found
_HEAD = 1000  # bytes
_JSON = (".json", ".jsonl", ".ndjson", ".txt", "")
_ARCHIVES = (".tar", ".zip")
_FOLDERS = ("images", "JPEGImages", "img", "data", "train", "train2017", "train2014", "val2017", "val2014")
CAPTIONS = "coco_captions"
"""What a file of captions is recognised as, which belongs to one of instances."""

if TYPE_CHECKING:
    from pathlib import Path as _Path
else:
    _Path = type(Path())


class Place(_Path):
    """A path that remembers what was read there."""

    @cached_property
    def files(self) -> list[Place]:
        """The first files below a folder, those of each folder by name."""
        return list(islice((Place(folder, name) for folder, names in _walk(self) for name in names), MOST_FILES))

    @cached_property
    def head(self) -> str:
        """How a file begins, as text; empty where it cannot be read."""
        try:
            with open_regular(self) as stream:
                return stream.read(_HEAD).decode("utf-8", "replace")
        except OSError:
            return ""

    @cached_property
    def root_tag(self) -> str:
        """The outermost tag of a file that is called XML; empty for all else."""
        with suppress(EntryError):
            return str(parse_xml(self).tag) if self.suffix.lower() == ".xml" and self.is_file() else ""
        return ""

    @property
    def may_be_json(self) -> bool:
        """Whether it is a file that is called like JSON, or like nothing else."""
        return self.suffix.lower() in _JSON and self.is_file()

    @cached_property
    def _json(self) -> Any:
        return read_json(self) if self.may_be_json else None

    @property
    def table(self) -> Mapping[str, Any]:
        """What is in a file whose JSON is an object; empty for all else.

        Raises:
            DataError: as those below do, if it is called like JSON and is none.
        """
        return self._json if isinstance(self._json, Mapping) else {}

    @cached_property
    def entries(self) -> list[Mapping[str, Any]]:
        """The first objects of a file whose JSON is a list; none for all else."""
        return _objects(self._json[:_PROBES]) if isinstance(self._json, list) else []

    @cached_property
    def keys(self) -> set[str]:
        """The keys of `entries`."""
        return {key for row in self.entries for key in row}

    @cached_property
    def inner_keys(self) -> set[str]:
        """The keys of what is in those of `entries` that have one key."""
        inner = (one for row in self.entries if len(row) == 1 for one in row.values())
        return {key for one in inner if isinstance(one, Mapping) for key in one}

    @cached_property
    def label_keys(self) -> set[str] | None:
        """The keys of the first `annotations` of a file in COCO's form; None where it has no list of them."""
        rows = self.table.get("annotations")
        return {key for row in _objects(rows[:_PROBES]) for key in row} if isinstance(rows, list) else None

    @cached_property
    def pictures(self) -> list[str]:
        """Names of pictures in the first `images` of COCO's form, or in `entries`."""
        rows = _objects(self.table.get("images"))[:_PROBES]
        names = [str(row.get("file_name") or str(row.get("coco_url", "")).rpartition("/")[2]) for row in rows]
        named = [row.get(key) for key in ("image", "file_name", "img_path") for row in self.entries]
        return names + [name for name in named if isinstance(name, str)]


@dataclass(frozen=True)
class Found:
    """What a reader says of a place that is of its kind.

    Args:
        values: keys of a source.
        missing: keys that must be said and were not found, with what they are.
        splits: that there are besides.
        sure: whether it can be of no other kind; else it counts where no other reader is sure.
        per_picture: whether such files lie one beside each picture, so that their folder is the source.
        kind: where it is of another than the reader's.
    """

    values: Mapping[str, Path | str | None]
    missing: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    sure: bool = True
    per_picture: bool = False
    kind: str | None = None

    def having(self, key: str, place: Path, meaning: str) -> Found:
        """The same with one more key, which is missing if there is nothing at its place."""
        if place.exists():
            return replace(self, values={**self.values, key: place})
        return replace(self, missing={**self.missing, key: meaning})

    def with_images(self, path: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Found:
        """The same with the folder of its pictures as `images`.

        Args:
            path: the file that names them.
            names: of pictures, of which the folder has most; if there are none, whichever has most pictures.
            folders: that lie in the folder, if it is known by them.
        """
        place = _picture_folder(path, names, folders)
        if place is None:
            return replace(self, missing={**self.missing, "images": "the folder of its pictures"})
        return replace(self, values={**self.values, "images": place})


def is_file_of_storage(path: Path) -> bool:
    """Whether a file is called as the storage that Label Studio writes to has them: some have no ending."""
    return path.suffix.lower() == ".json" or (not path.suffix and path.name.isdigit())


def _walk(folder: Path) -> Any:
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield place, sorted(files)


def _objects(rows: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _picture_folder(path: Path, names: Sequence[str], parts: Sequence[str]) -> Path | None:
    folders = [path.parent, path.parent.parent] if names else [path.parent]  # without names, nothing tells them apart
    tops = [*folders, *(one / place for one in folders for place in _FOLDERS)]
    tops += [one for folder in folders for one in sorted(folder.iterdir())[:MOST_FILES] if one.is_dir()]
    best = next((one for one in tops if parts and all((one / part).is_dir() for part in parts)), None)
    if best is not None:
        return best
    deeper = [one for top in tops if top.name in _FOLDERS and top.is_dir() for one in sorted(top.iterdir())[:20]]
    places = [one for one in dict.fromkeys((*tops, *deeper)) if one.is_dir()]
    counts = [_count(one, names) for one in places]
    if any(counts):
        return places[counts.index(max(counts))]
    return next((one for one in dict.fromkeys(tops) if _is_packed(one, names)), None)


def _count(folder: Path, names: Sequence[str]) -> int:
    """How many of the pictures a folder has, or of any if none are named."""
    if not names:
        return sum(one.suffix.lower() in DATA_SUFFIXES for one in islice(folder.iterdir(), MOST_FILES))
    images = FolderImages(folder)
    found = sum(images.locate(name).exists() for name in names if (folder / Path(name).name).exists())
    return found or sum((folder / name).is_file() for name in names)


def _is_packed(folder: Path, names: Sequence[str]) -> bool:
    """Whether archives in a folder hold one of these pictures."""
    if not folder.is_dir() or not any(one.suffix.lower() in _ARCHIVES for one in folder.iterdir()):
        return False
    with suppress(DataError):  # archives of something else
        return any(map(open_images(folder).has, names))
    return False
