"""CreateML: a JSON list of pictures, each with boxes by their centre, in pixels. Knows no other format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.parts.image_rows import file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers, as_numbers
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, size_of
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import label_id, list_under, naming
from llava_grounding.data.readers.parts.rows import image_store, read_entries
from llava_grounding.errors import DataError, shown

_LISTS = ("annotations", "annotation")
_NAMES = ("image", "imagefilename", "filename")


class CreateMl(PictureRecords):
    """Records of a CreateML file; sizes are those of the pictures."""

    title = "CreateML"

    @classmethod
    def from_files(
        cls,
        labels: str | Path,
        images: str | Path | ImageStore | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> CreateMl:
        """Reads a file.

        Args:
            labels: such as `_annotations.createml.json`.
            images: folder, tar shards or zip; by default the folder of the file.
            exhaustive: whether every visible thing of the labels that occur is labelled.
            name: what the data is called in reports; by default the file's stem.

        Raises:
            DataError: if it cannot be read, or is of another kind.
        """
        path = Path(labels)
        entries = read_entries(path, "pictures with `annotations`")
        with naming(path):
            if entries and not any(isinstance(one, Mapping) and set(_LISTS) & one.keys() for _, one in entries):
                raise DataError(
                    f"CreateML's file must be a list of pictures with `annotations`, got {shown(entries[0][1])}"
                )
            store, left_out = image_store(images if images is not None else path.parent), LeftOut()
            return cls(name or path.stem, _read(entries, store, left_out), store, left_out, exhaustive)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        return Found({"labels": place}) if place.keys & {*_LISTS} else None


def _read(entries: list[tuple[str, Any]], store: ImageStore, left_out: LeftOut) -> Iterator[Picture]:
    for place, entry in entries:
        try:
            if not isinstance(entry, Mapping):
                raise EntryError("picture that is no object")
            file_name = file_name_of(next((entry[key] for key in _NAMES if key in entry), None), from_root=True)
            things = list_under(entry, next((key for key in _LISTS if key in entry), _LISTS[0]), "picture")
            picture = Picture(file_name, size_of(store, file_name))
        except EntryError as why:
            left_out.add(label_id(entry, _NAMES, place), why)
            continue
        for number, thing in enumerate(things, start=1):
            category = thing.get("label") if isinstance(thing, Mapping) else None
            with picture.label(f"annotation {number}", category, left_out):
                if isinstance(thing, str):
                    raise EntryError("name without a box", f"an annotation must have `coordinates`, got {shown(thing)}")
                where = thing.get("coordinates") if isinstance(thing, Mapping) else None
                where = where if isinstance(where, Mapping) else {}
                numbers = as_numbers([where.get(key) for key in ("x", "y", "width", "height")])
                if not are_numbers(numbers, 4):
                    raise EntryError("coordinates that are not four finite numbers", f"got {shown(where)}")
                x, y, w, h = numbers
                picture.add(category, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        yield picture
