"""COCO panoptic labels: every pixel of an image belongs to a thing, a crowd or a stuff segment of a PNG.

The PNG is decoded when the first mask of a record is asked for, and forgotten with the record. Knows no questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.data.images import ImageBytes, ImageStore, open_images
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.category_names import natural_name, read_categories, surfaces_of
from llava_grounding.data.readers.parts.exhaustive import Coverage, FileCoverage, is_no_category, is_unlabelled_region
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import ImageRow, image_rows, leave_out_same_files, same_pictures
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key, key_of, key_or_none, whole_number
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import is_crowd, label_id, list_under, naming, rows_of
from llava_grounding.data.readers.parts.shapes import box_from_xywh
from llava_grounding.data.record import Annotation, AnnotationKind, Record
from llava_grounding.errors import DataError, ImageError
from llava_grounding.image_files import DATA_LIMITS, load_stored


@dataclass
class SegmentMap:
    """The segment of every pixel, from a PNG whose colour is a number: R + 256 G + 65536 B. Decoded once."""

    read: ImageBytes
    _ids: np.ndarray | None = field(default=None, init=False, repr=False, compare=False)

    def ids(self) -> np.ndarray:
        """(H, W) int32; raises DataError when the PNG cannot be read."""
        if self._ids is None:
            try:
                image = load_stored(self.read(), DATA_LIMITS, ("PNG",))
            except ImageError as error:
                raise DataError(f"cannot read the panoptic PNG of {self.read}: {error}") from error
            if image.mode not in ("RGB", "RGBA"):
                raise DataError(f"a panoptic PNG must have colours, got mode {image.mode} from {self.read}")
            pixels = np.asarray(image)[:, :, :3].astype(np.int32)
            self._ids = pixels @ np.array([1, 256, 65536], dtype=np.int32)
        return self._ids

    def __getstate__(self) -> dict[str, Any]:
        return {"read": self.read, "_ids": None}


@dataclass(frozen=True)
class SegmentMask:
    """The mask of one segment, (H, W) bool on call."""

    segments: SegmentMap
    number: int

    def __call__(self) -> np.ndarray:
        return self.segments.ids() == self.number


class CocoPanoptic(PackedRecords):
    """Records of one COCO panoptic file; only images that have segments.

    Args:
        panoptic: parsed panoptic file.
        segments: where its PNGs come from.
        images: where pixels come from.
        crowds_as_things: take segments with `iscrowd: 1` for one thing each.
        name: what the data is called in reports.

    Raises:
        DataError: if the file is not in COCO's panoptic form at all.
    """

    title = "COCO panoptic labels"

    def __init__(
        self,
        panoptic: Any,
        segments: ImageStore,
        images: ImageStore,
        crowds_as_things: bool = False,
        name: str = "coco_panoptic",
    ) -> None:
        self._crowds_as_things = crowds_as_things
        what = "a COCO panoptic file"
        left_out = LeftOut()
        rows, category_list = rows_of(panoptic, "images", what), rows_of(panoptic, "categories", what)
        self._categories = _read_panoptic_categories(category_list, left_out)
        self._coverage = FileCoverage(category_list, {key: name for key, (name, _) in self._categories.items()})
        known = image_rows(rows, left_out, named_once=True)
        twins = leave_out_same_files(known, same_pictures(rows, known), images, left_out)
        annotations = rows_of(panoptic, "annotations", what)
        self._forms = BoxForms()
        found = list(self._rows(known, twins, annotations, segments, images, left_out))
        self._forms.refuse()
        # What is complete is known when all segments have been seen.
        super().__init__(name, ((record, self._covered(image, record)) for image, record in found), left_out)

    @classmethod
    def from_files(
        cls,
        panoptic: str | Path,
        segments: str | Path,
        images: str | Path,
        crowds_as_things: bool = False,
        name: str | None = None,
    ) -> CocoPanoptic:
        """Reads a panoptic file.

        Args:
            panoptic: such as `panoptic_train2017.json`.
            segments: folder or zip of its PNGs.
            images: folder, tar shards or zip; see `open_images`.
            crowds_as_things: take segments with `iscrowd: 1` for one thing each.
            name: what the data is called in reports; by default the stem of `panoptic`.
        """
        data = read_json(panoptic)
        with naming(panoptic):
            store = open_images(images)
            return cls(data, open_images(segments), store, crowds_as_things, name or Path(panoptic).stem)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if "segments_info" not in (place.label_keys or ()):
            return None
        found = Found({"panoptic": place}).having("segments", place.with_suffix(""), "the folder of its PNGs")
        return found.with_images(place, place.pictures)

    def _rows(
        self,
        images: dict[Key, ImageRow],
        twins: Mapping[Key, tuple[Key, ...]],
        annotations: list[Any],
        segments: ImageStore,
        store: ImageStore,
        left_out: LeftOut,
    ) -> Iterator[tuple[ImageRow, Record]]:
        waiting = dict(images)
        for row in annotations:
            try:
                if not isinstance(row, Mapping) or not isinstance(row.get("file_name"), str):
                    raise EntryError("segments without a PNG")
                image = waiting.pop(key_of(row.get("image_id"), "image id"), None)
                if image is None:
                    raise EntryError("segments of an unknown image, or given twice")
                infos = list_under(row, "segments_info", "image")
            except EntryError as why:
                left_out.add(label_id(row), why)
                number = key_or_none(row.get("image_id")) if isinstance(row, Mapping) else None
                self._coverage.lose(None if number is None else twins.get(number, (number,)), None)
                continue
            png = SegmentMap(segments.locate(row["file_name"]))
            yield (
                image,
                Record(
                    id=image.file_name,
                    image_id=image.id,
                    image_size_wh=image.size_wh,
                    instances=tuple(self._instances(infos, image, png, left_out)),
                    read_bytes=store.locate(image.file_name),
                ),
            )
        for image in waiting.values():
            left_out.add(image.file_name, "image without segments")

    def _covered(self, image: ImageRow, record: Record) -> Coverage:
        return self._coverage.of(image, None, (thing.category for thing in record.instances))

    def _instances(self, infos: list[Any], image: ImageRow, png: SegmentMap, left_out: LeftOut) -> Iterator[Annotation]:
        used = set()
        for info in infos:
            category_id = key_or_none(info.get("category_id")) if isinstance(info, Mapping) else None
            self._coverage.see(category_id)
            try:
                if not isinstance(info, Mapping):
                    raise EntryError("segment that is no object")
                number = whole_number(info.get("id"), "segment id")
                category = self._categories.get(key_of(info.get("category_id"), "category id"))
                if category is None:
                    raise EntryError("segment of an unknown category")
                if number in used or not 0 <= number < 2**24:
                    raise EntryError("segment id used twice, or no colour")
                self._forms.see(info.get("bbox"), image.size_wh)
                box = box_from_xywh(info.get("bbox"), image.size_wh)
            except EntryError as why:
                left_out.add(f"{image.file_name}: {label_id(info)}", why)
                self._coverage.lose((image.id,), category_id)
                continue
            used.add(number)
            name, is_thing = category
            unlabelled = is_unlabelled_region(name)
            crowd = unlabelled or (is_crowd(info) and not self._crowds_as_things)
            kind: AnnotationKind = "crowd" if crowd else "thing" if is_thing else "stuff"
            if kind == "crowd":
                self._coverage.lose((image.id,), None if unlabelled else category_id)
            yield Annotation("" if is_no_category(name) else name, box, SegmentMask(png, number), kind, number)

    def _record(self, row: tuple[Record, Coverage]) -> Record:
        record, coverage = row
        return self._coverage.fill(record, coverage)


def _read_panoptic_categories(rows: list[Any], left_out: LeftOut) -> dict[Key, tuple[str, bool]]:
    """Natural name and whether it is a thing, by id."""
    names, surfaces = read_categories(rows, left_out), surfaces_of(rows)
    return {key: (natural_name(name), key not in surfaces) for key, name in names.items()}
