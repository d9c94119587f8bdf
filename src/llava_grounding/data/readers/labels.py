"""Images of a COCO instances file that dialogues are hung on: found by name or id, with their annotations by id.

Knows no dialogues; what a label must be is `coco`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from llava_grounding.data.image_names import coco_number
from llava_grounding.data.images import ImageStore, place_of
from llava_grounding.data.readers.coco import CocoPhotos, read_label_sets
from llava_grounding.data.readers.coco_labels import LabelOptions
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.left_out import named
from llava_grounding.data.readers.parts.numbers import EntryError, Key, key_of, key_or_none
from llava_grounding.data.readers.parts.reading import naming, sequence_of
from llava_grounding.data.readers.parts.rows import image_store
from llava_grounding.data.record import Record
from llava_grounding.errors import shown
from llava_grounding.typed_values import is_whole

_RECENT = 16  # images whose labels are kept at hand
_RELEASE = re.compile(r"(?:train|val|test)20\d\d")  # folder of COCO's pictures


class LabelledImages:
    """Images of a COCO instances file with their annotations.

    Args:
        instances: parsed file; its broken images and annotations are left out and listed in `left_out`.
        images: where pixels come from.
        options: how `instances` are read; by default, no texts of annotations are.

    Attributes:
        expressions: what stands under that key of annotations, unchecked, by annotation id.
        left_out, unread: of the file.
    """

    def __init__(
        self,
        instances: Mapping[str, Any],
        images: ImageStore,
        options: LabelOptions = LabelOptions(texts=()),
    ) -> None:
        self.images = images
        self._photos = CocoPhotos(instances, images, options=options)
        self.left_out, self.unread = self._photos.left_out, self._photos.unread
        # Many dialogues may be about one image, and it may have many labels.
        self._recent: dict[int, tuple[Record, Mapping[Key, int]]] = {}
        self._names = self._photos.file_names
        self._of_id = {image_id: index for index, image_id in enumerate(self._photos.ids)}
        self._of_name = {name: index for index, name in enumerate(self._names)}
        self._of_coco: dict[int, list[int]] = {}
        for index, name in enumerate(self._names):
            if (number := coco_number(name)) is not None:
                self._of_coco.setdefault(number, []).append(index)
        self.expressions: dict[Key, Any] = {}
        for row in sequence_of(instances, "annotations", "a COCO instances file"):
            if isinstance(row, Mapping) and "expressions" in row:
                with suppress(EntryError):  # an annotation whose id is none is reported already
                    self.expressions[key_of(row.get("id"))] = row["expressions"]
        for key in self._photos.ambiguous:
            self.expressions.pop(key, None)

    @classmethod
    def from_files(
        cls,
        instances: str | Path,
        images: str | Path | ImageStore,
        thorough: bool = False,
        exhaustive: bool = True,
        crowds_as_things: bool = False,
        texts: Sequence[str] = (),
    ) -> LabelledImages:
        """Read an instances file, with its images in a folder or another store.

        Raises:
            DataError: if it cannot be read or is of another kind.
        """
        data = read_json(instances, rows="annotations")
        with naming(instances):
            return cls(
                data,
                image_store(images),
                LabelOptions(
                    thorough, read_label_sets(Path(instances).parent), exhaustive, crowds_as_things, texts=texts
                ),
            )

    def __len__(self) -> int:
        return len(self._names)

    def file_name(self, index: int) -> str:
        """Name of the image at this place of the file."""
        return self._names[index]

    def find(self, name: str) -> int:
        """Place of an image by its file name, or by that which another release of COCO has for the same picture.

        Such a name may lead through more folders, or fewer, or those of the releases, but not through other ones, nor
        may it be of a picture that is there besides.

        Raises:
            EntryError: if the file has no such image.
        """
        if name in self._of_name:
            return self._of_name[name]
        number = coco_number(name)
        same = [] if number is None else self._of_coco.get(number, [])
        same = [index for index in same if self._is_same(name, self._names[index])]
        if len(same) != 1:
            raise EntryError("unknown image", f"image {named(name)} is not in the instances file")
        return same[0]

    def _is_same(self, name: str, known: str) -> bool:
        """Whether two names of one number in COCO are of one picture."""
        one, two = _parts(name), _parts(known)
        if one.ending != two.ending or not one.folders_agree(two):
            return False
        if one.folders == two.folders:
            return True
        here, there = self.images.locate(name), self.images.locate(known)
        return here == there or place_of(here) == place_of(there) or not (here.exists() and there.exists())

    def find_id(self, image_id: Key) -> int:
        """Place of an image by its id.

        Raises:
            EntryError: if the file has no such image.
        """
        if image_id not in self._of_id:
            raise EntryError("unknown image", f"image {image_id} is not in the instances file")
        return self._of_id[image_id]

    def record(self, index: int) -> Record:
        """The image with its labels."""
        if index not in self._recent:
            if len(self._recent) == _RECENT:
                del self._recent[next(iter(self._recent))]
            record = replace(self._photos[index], image_name=self.file_name(index))
            self._recent[index] = record, _rows_of_ids(record)
        return self._recent[index][0]

    def rows_of_ids(self, record: Record) -> Mapping[Key, int]:
        """Annotation id -> index in the record."""
        known = next((rows for recent, rows in self._recent.values() if recent is record), None)
        return _rows_of_ids(record) if known is None else known

    @cached_property
    def _image_of_ids(self) -> Mapping[Key, Key | None]:
        """Annotation id -> id of its image; wanted only where a file names a wrong one."""
        return {
            thing.id: record.image_id for record in self._photos for thing in record.instances if thing.id is not None
        }

    def look_up(self, ids: Any, record: Record, rows: Mapping[Key, int], what: str) -> tuple[int, ...]:
        """Indices of annotation ids in the record of their image, one each.

        Args:
            ids: from a file.
            rows: of `rows_of_ids`.
            what: where the ids stand, for the message.

        Raises:
            EntryError: if one is no id, is unknown, several annotations bear it, or it belongs to another image.
        """
        keys = [key for one in ids if (key := _id_of(one)) is not None] if isinstance(ids, list) else []
        if not isinstance(ids, list) or len(keys) != len(ids):
            raise EntryError("not annotation ids", f"{what} must be a list of annotation ids, got {shown(ids)}")
        for one in keys:
            if one in self._photos.ambiguous:
                raise EntryError("annotation id used twice", f"{what} names annotation {one}, which is there twice")
            if one in rows:
                continue
            other = self._image_of_ids.get(one)
            if other is None:
                raise EntryError("unknown annotation", f"{what} names annotation {one}, which is not there or unusable")
            raise EntryError("annotation of another image", f"{what} names annotation {one}, which is on image {other}")
        return tuple(rows[one] for one in keys)


def _id_of(value: Any) -> Key | None:
    """An annotation id as a dialogue names it; a number written as text is none."""
    key = key_or_none(value)
    return key if is_whole(value) or key == value else None


def _rows_of_ids(record: Record) -> dict[Key, int]:
    return {thing.id: row for row, thing in enumerate(record.instances) if thing.id is not None}


class _Parts(NamedTuple):
    """Parts of the name of a picture: its folders, and how it ends, in small letters."""

    folders: tuple[str, ...]
    ending: str

    def folders_agree(self, other: _Parts) -> bool:
        """Whether one path is the end of the other, but for COCO's releases, which have a folder each."""
        one, two = ([_RELEASE.sub("release", folder) for folder in parts.folders[::-1]] for parts in (self, other))
        return all(mine == others for mine, others in zip(one, two, strict=False))


def _parts(name: str) -> _Parts:
    path = PurePosixPath(name.replace("\\", "/"))
    ending = path.suffix.lower()
    return _Parts(path.parts[:-1], ".jpg" if ending == ".jpeg" else ending)
