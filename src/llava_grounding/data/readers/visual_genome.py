"""Visual Genome: boxes of an image, each with a phrase that people wrote about it. There are no masks.

Knows no questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.image_names import name_at
from llava_grounding.data.images import ImageStore, open_images
from llava_grounding.data.plain_files import stays_inside
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import ImageRow, checked_size
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key, are_numbers, key_of, key_or_none
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import label_id, list_under, naming
from llava_grounding.data.readers.parts.shapes import box_from_xywh
from llava_grounding.data.readers.parts.texts import plain_text
from llava_grounding.data.record import Annotation, Expression, Record
from llava_grounding.errors import DataError, shown

_PROBES = 50
"""Images that are looked for to learn how the folder is laid out."""


class VisualGenome(PackedRecords):
    """Records with one instance (a box without category and mask) and one expression per region.

    Args:
        image_data: parsed `image_data.json`.
        regions: parsed `region_descriptions.json`.
        images: where pixels come from, as `VG_100K/7.jpg` and `VG_100K_2/8.jpg` or all in one place as `7.jpg`.
        name: what the data is called in reports.

    Raises:
        DataError: if a file is of another kind.
    """

    title = "region descriptions of Visual Genome"

    def __init__(self, image_data: Any, regions: Any, images: ImageStore, name: str = "visual_genome") -> None:
        for data, file in ((image_data, "image_data.json"), (regions, "region_descriptions.json")):
            if not isinstance(data, list):
                raise DataError(f"{file} of Visual Genome must be a list, got {type(data).__name__}")
        left_out = LeftOut()
        known = _images(image_data, left_out)
        forms = BoxForms()
        records = list(_records(known, regions, images, _is_flat(known, images), left_out, forms))
        forms.refuse()
        super().__init__(name, records, left_out)

    @classmethod
    def from_files(
        cls, image_data: str | Path, regions: str | Path, images: str | Path, name: str = "visual_genome"
    ) -> VisualGenome:
        """Reads Visual Genome's regions.

        Args:
            image_data: `image_data.json`.
            regions: `region_descriptions.json`.
            images: a folder that holds `VG_100K` and `VG_100K_2`, or all images, or `images.zip` and `images2.zip`.
            name: what the data is called in reports.
        """
        data, described = read_json(image_data), read_json(regions)
        with naming(regions):
            return cls(data, described, open_images(images), name)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if "regions" not in place.keys:
            return None
        return beside_image_data("regions", place)


def beside_image_data(key: str, place: Place) -> Found:
    """A file of the release, with the other one that it needs and the folder above its two folders of pictures."""
    found = Found({key: place}).having(
        "image_data", place.with_name("image_data.json"), "image_data.json of the release"
    )
    return found.with_images(place, [], ("VG_100K", "VG_100K_2"))


def _images(rows: list[Any], left_out: LeftOut) -> dict[Key, ImageRow]:
    """Images by id, with file names as their addresses end: `VG_100K/7.jpg`."""
    images: dict[Key, ImageRow] = {}
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("image that is no object")
            image_id = key_of(row.get("image_id", row.get("id")), "image id")
            if image_id in images:
                raise EntryError("image id used twice")
            url = row.get("url")
            end = name_at(url, 2) if isinstance(url, str) and url.count("/") > 1 else f"{image_id}.jpg"
            images[image_id] = ImageRow(image_id, end, checked_size(row.get("width"), row.get("height")), row)
        except EntryError as why:
            left_out.add(label_id(row), why)
    return images


def _is_flat(known: Mapping[Key, ImageRow], images: ImageStore) -> bool:
    """Whether the images lie in one place, by the first that is found."""
    for image in [one for one in list(known.values())[:_PROBES] if stays_inside(one.file_name)]:
        if images.has(image.file_name):
            return False
        if images.has(_base(image.file_name)):
            return True
    return False


def _records(
    known: dict[Key, ImageRow],
    rows: list[Any],
    images: ImageStore,
    is_flat: bool,
    left_out: LeftOut,
    forms: BoxForms,
) -> Iterator[Record]:
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("regions that are no object")
            image = known.pop(key_of(row.get("id", row.get("image_id")), "image id"), None)
            if image is None:
                raise EntryError("regions of an unknown image, or given twice")
            regions = list_under(row, "regions", "image")
        except EntryError as why:
            left_out.add(label_id(row), why)
            continue
        found = list(_usable(regions, image, left_out, forms))
        name = _base(image.file_name) if is_flat else image.file_name
        yield Record(
            id=name,
            image_id=image.id,
            image_size_wh=image.size_wh,
            instances=tuple(annotation for annotation, _ in found),
            read_bytes=images.locate(name),
            expressions=tuple(Expression(phrase, (index,)) for index, (_, phrase) in enumerate(found)),
        )
    for image in known.values():
        left_out.add(image.file_name, "image without regions")


def _usable(
    regions: list[Any], image: ImageRow, left_out: LeftOut, forms: BoxForms
) -> Iterator[tuple[Annotation, str]]:
    for region in regions:
        try:
            if not isinstance(region, Mapping):
                raise EntryError("region that is no object")
            if key_or_none(region.get("image_id")) not in (None, image.id):
                raise EntryError("region of another image", f"it is of image {shown(region['image_id'])}")
            box = [region.get(key) for key in ("x", "y", "width", "height")]
            if not are_numbers(box, 4):
                raise EntryError("region whose x, y, width and height are not finite numbers")
            forms.see(box, image.size_wh)
            phrase = plain_text(region.get("phrase"), "region")
            number = None if region.get("region_id") is None else key_of(region["region_id"], "region id")
            yield Annotation("", box_from_xywh(box, image.size_wh), None, "thing", number), phrase
        except EntryError as why:
            left_out.add(label_id(region), why)


def _base(name: str) -> str:
    return name.rpartition("/")[2]
