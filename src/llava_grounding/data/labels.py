"""Labels of a COCO instances file, checked entry by entry, as records to hang dialogues on; annotations by their id.

Knows no dialogues. Reading the labels themselves is left to `coco`, which here never meets a broken one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_grounding.data.coco import CocoPhotos
from llava_grounding.data.images import ImageStore
from llava_grounding.data.reading import MAX_SIDE, are_numbers, read_json
from llava_grounding.data.record import Record
from llava_grounding.data.rows import (
    EntryError,
    LeftOut,
    file_name_of,
    image_store,
    is_whole,
    shown,
)
from llava_grounding.errors import DataError
from llava_grounding.masks import rle_area

_SHOWN_KEYS = 8
_TRAILING_NUMBER = re.compile(r"([0-9]{1,18})$")


class LabelledImages:
    """Images of a COCO instances file with their annotations.

    `expressions` is what stands under that key of annotations, unchecked, by annotation id.

    Args:
        instances: parsed file; its broken images and annotations are left out and told of in `left_out`.
        images: where pixels come from.
        thorough: also unpack run-length codes to see that they are whole; for files of moderate size.
    """

    def __init__(self, instances: Mapping[str, Any], images: ImageStore, thorough: bool = False) -> None:
        self.images = images
        self.left_out = LeftOut()
        categories = self._kept(instances["categories"], "category", _check_category)
        kept = self._kept(instances["images"], "image", _check_image)
        sizes = {row["id"]: (row["height"], row["width"]) for row in kept}
        known = {row["id"] for row in categories}

        def check(row: Mapping[str, Any]) -> None:
            _check_annotation(row, sizes, known, thorough)

        annotations = self._kept(instances["annotations"], "annotation", check)
        self._rows = kept
        self._image_of = {row["id"]: row["image_id"] for row in annotations}
        self.expressions = {row["id"]: row["expressions"] for row in annotations if "expressions" in row}
        clean = {"images": kept, "annotations": annotations, "categories": categories}
        self._photos = CocoPhotos(clean, images)
        self._of_id = {row["id"]: index for index, row in enumerate(kept)}
        self._of_name = {row["file_name"]: index for index, row in enumerate(kept)}

    @classmethod
    def from_files(
        cls, instances: str | Path, images: str | Path | ImageStore, thorough: bool = False
    ) -> LabelledImages:
        """Read an instances file, with its images in a folder or another store.

        Raises:
            DataError: if it cannot be read or is of another kind.
        """
        return cls(read_instances(instances), image_store(images), thorough)

    def __len__(self) -> int:
        return len(self._rows)

    def file_name(self, index: int) -> str:
        """Of the image at this place of the file."""
        return str(self._rows[index]["file_name"])

    def find(self, name: str) -> int:
        """Place of an image by its file name, or by the id at the end of it (`COCO_train2014_000000000009.jpg`).

        Raises:
            EntryError: if the file has no such image.
        """
        if name in self._of_name:
            return self._of_name[name]
        number = _TRAILING_NUMBER.search(name.rpartition("/")[2].partition(".")[0])
        if number and int(number[1]) in self._of_id:
            return self._of_id[int(number[1])]
        raise EntryError("unknown image", f"image {shown(name)} is not in the instances file")

    def find_id(self, image_id: int) -> int:
        """Place of an image by its id.

        Raises:
            EntryError: if the file has no such image.
        """
        if image_id not in self._of_id:
            raise EntryError("unknown image", f"image {image_id} is not in the instances file")
        return self._of_id[image_id]

    def record(self, index: int) -> Record:
        """The image with its labels."""
        return replace(self._photos[index], image_name=self.file_name(index))

    def rows_of_ids(self, record: Record) -> dict[int, int]:
        """Annotation id -> index in the record; those with nothing inside the image have none."""
        return {thing.id: row for row, thing in enumerate(record.instances) if thing.id is not None}

    def look_up(self, ids: Any, record: Record, rows: Mapping[int, int], what: str) -> tuple[int, ...]:
        """Indices of annotation ids in the record of their image, one each.

        Args:
            ids: from a file.
            rows: of `rows_of_ids`.
            what: where the ids stand, for the message.

        Raises:
            EntryError: if one is no id, is unknown, or belongs to another image.
        """
        if not isinstance(ids, list) or not all(is_whole(one) for one in ids):
            raise EntryError("not annotation ids", f"{what} must be a list of annotation ids, got {shown(ids)}")
        for one in ids:
            if one in rows:
                continue
            other = self._image_of.get(one)
            if other is None:
                raise EntryError("unknown annotation", f"{what} names annotation {one}, which the file has not")
            if other != record.image_id:
                raise EntryError(
                    "annotation of another image", f"{what} names annotation {one}, which is on image {other}"
                )
            raise EntryError("annotation outside its image", f"{what} names annotation {one}, outside its image")
        return tuple(rows[one] for one in ids)

    def _kept(self, rows: list[Any], kind: str, check: Callable[[Mapping[str, Any]], None]) -> list[Mapping[str, Any]]:
        """The rows that pass, with ids that are used once."""
        kept: list[Mapping[str, Any]] = []
        seen: set[int | str] = set()
        for number, row in enumerate(rows, start=1):
            place = f"{kind} {number}"
            try:
                if not isinstance(row, Mapping) or not is_whole(row.get("id")):
                    raise EntryError(f"{kind} without id", f"must have a whole number as `id`, got {shown(row)}")
                place = f"{kind} with id {row['id']}"
                check(row)
                names = {row["id"], row["file_name"]} if kind == "image" else {row["id"]}
                if names & seen:
                    raise EntryError(f"{kind} twice", "occurs more than once")
            except EntryError as why:
                self.left_out.add(place, why)
            else:
                kept.append(row)
                seen |= names
        return kept


def read_instances(path: str | Path) -> Mapping[str, Any]:
    """A COCO instances file.

    Raises:
        DataError: if it cannot be read or is of another kind.
    """
    value = read_json(path)
    lists = ("images", "annotations", "categories")
    if not isinstance(value, Mapping) or not all(isinstance(value.get(key), list) for key in lists):
        got = sorted(value)[:_SHOWN_KEYS] if isinstance(value, Mapping) else shown(value)
        raise DataError(f"{path} must be a COCO instances file with lists of {', '.join(lists)}, got {got}")
    return value


def _check_category(row: Mapping[str, Any]) -> None:
    if not isinstance(row.get("name"), str) or not row["name"].strip():
        raise EntryError("category without name", f"must have a name, got {shown(row.get('name'))}")


def _check_image(row: Mapping[str, Any]) -> None:
    file_name_of(row.get("file_name"))
    sides: tuple[Any, Any] = row.get("width"), row.get("height")
    if not all(is_whole(side) and 1 <= side <= MAX_SIDE for side in sides):
        raise EntryError(
            "image without size", f"must have width and height of 1 to {MAX_SIDE} pixels, got {shown(sides)}"
        )
    if not isinstance(row.get("label_set"), str | None):
        raise EntryError("unknown label_set", f"label_set must be a name, got {shown(row['label_set'])}")


def _check_annotation(
    row: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]], categories: set[int], thorough: bool
) -> None:
    """See that image, category, box and mask can be used; `sizes` is (height, width) by image id."""
    if not is_whole(row.get("image_id")) or row["image_id"] not in sizes:
        raise EntryError("annotation of no image", f"image_id {shown(row.get('image_id'))} is no image of the file")
    if not is_whole(row.get("category_id")) or row["category_id"] not in categories:
        raise EntryError(
            "annotation of no category", f"category_id {shown(row.get('category_id'))} is no category of the file"
        )
    box: Any = row.get("bbox")
    if not are_numbers(box, 4) or box[2] <= 0 or box[3] <= 0:
        raise EntryError("annotation without box", f"bbox must be [x, y, width, height] with an area, got {shown(box)}")
    if not isinstance(row.get("mask"), str | None):
        raise EntryError("broken mask", f"mask must be a word, got {shown(row['mask'])}")
    _check_segmentation(row.get("segmentation"), sizes[row["image_id"]], thorough)


def _check_segmentation(value: Any, size_hw: tuple[int, int], thorough: bool) -> None:
    if not value:
        return
    if isinstance(value, Mapping):
        if value.get("size") != list(size_hw):
            raise EntryError(
                "broken mask", f"the size of a mask must be [height, width] = {list(size_hw)}, got {shown(value)}"
            )
        if thorough:
            try:
                rle_area(value)
            except DataError as error:
                raise EntryError("broken mask", str(error)) from error
    elif not (isinstance(value, list) and all(_is_polygon(polygon) for polygon in value)):
        raise EntryError(
            "broken mask", f"segmentation must be polygons [x0, y0, x1, y1, x2, y2, ...], got {shown(value)}"
        )


def _is_polygon(value: Any) -> bool:
    return are_numbers(value) and len(value) >= 6 and len(value) % 2 == 0
