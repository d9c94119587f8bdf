"""Visual Genome's objects: boxes with names. Not everything is labelled, so nothing is complete. Knows no questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.image_names import name_at
from llava_grounding.data.images import open_images
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import checked_size
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key, are_numbers, as_numbers, key_of, key_or_none
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import label_id, list_under, naming
from llava_grounding.data.readers.visual_genome import beside_image_data
from llava_grounding.errors import DataError, shown


class VisualGenomeObjects(PictureRecords):
    """Records of `objects.json`, with the first name of each object."""

    title = "objects of Visual Genome"

    @classmethod
    def from_files(
        cls,
        image_data: str | Path,
        objects: str | Path,
        images: str | Path,
        name: str = "visual_genome_objects",
    ) -> VisualGenomeObjects:
        """Reads the release.

        Args:
            image_data: `image_data.json`, which has the sizes.
            objects: `objects.json`.
            images: folder, tar shards or zip, as `VG_100K/7.jpg` and `VG_100K_2/8.jpg`, or all in one place.
            name: what the data is called in reports.

        Raises:
            DataError: if a file cannot be read, or is of another kind.
        """
        rows, listed = read_json(image_data), read_json(objects)
        for path, value in ((image_data, rows), (objects, listed)):
            if not isinstance(value, list):
                raise DataError(f"{path} must be a list of images, got {shown(value)}")
        store, left_out, unread = open_images(images), LeftOut(), Counter[str]()
        with naming(objects):
            return cls(name, _read(rows, listed, left_out, unread), store, left_out, exhaustive=False, unread=unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        return beside_image_data("objects", place) if {"objects", "image_id"} <= place.keys else None


def _read(rows: list[Any], listed: list[Any], left_out: LeftOut, unread: Counter[str]) -> Iterator[Picture]:
    known: dict[Key, Mapping[str, Any]] = {}
    for row in rows:
        key = key_or_none(row.get("image_id", row.get("id"))) if isinstance(row, Mapping) else None
        if key is not None:
            known[key] = row
    for row in listed:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("objects that are no object")
            key = key_of(row.get("image_id", row.get("id")), "image id")
            if key not in known:
                raise EntryError("objects of an unknown image", f"image {key} is not in image_data.json")
            picture = Picture(
                _file_name(known[key], key), checked_size(known[key].get("width"), known[key].get("height"))
            )
            things = list_under(row, "objects", "image")
        except EntryError as why:
            left_out.add(label_id(row), why)
            continue
        for thing in things:
            names = thing.get("names") if isinstance(thing, Mapping) else None
            category = names[0] if isinstance(names, list) and names else None
            with picture.label(label_id(thing, ("object_id",)), category, left_out):
                if not isinstance(thing, Mapping):
                    raise EntryError("object that is none")
                unread["attributes"] += bool(thing.get("attributes"))
                numbers = as_numbers([thing.get(side) for side in ("x", "y", "w", "h")])
                if not are_numbers(numbers, 4):
                    raise EntryError("object whose x, y, w and h are not finite numbers", f"got {shown(thing)}")
                x, y, w, h = numbers
                picture.add(category, (x, y, x + w, y + h), key=key_or_none(thing.get("object_id")))
        yield picture


def _file_name(row: Mapping[str, Any], key: Key) -> str:
    url = row.get("url")
    return name_at(url) if isinstance(url, str) and "/" in url else f"{key}.jpg"
