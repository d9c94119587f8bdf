"""Folders of pictures with `metadata.jsonl` or `metadata.csv`, as Hugging Face's `imagefolder` has them.

Read without that library, whose cache would hold every picture once more. Knows no other format.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.images import FolderImages, ImageStore
from llava_grounding.data.plain_files import read_file
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.files import read_text_lines
from llava_grounding.data.readers.parts.image_rows import file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers, as_numbers
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, size_of
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import is_crowd, label_id, naming
from llava_grounding.data.readers.parts.rows import read_entries
from llava_grounding.data.readers.parts.texts import plain_text
from llava_grounding.errors import DataError, shown
from llava_grounding.typed_values import is_whole

_NAMES = ("file_name", "image_file_name", "image")
_FILES = ("metadata.jsonl", "metadata.csv")
TEXTS = ("text", "caption", "captions", "description", "prompt")
"""Keys of captions."""
CATEGORIES = ("category", "categories", "label", "labels", "class")
_NO_NAMES = "category without a name"


class MetadataFolder(PictureRecords):
    """Records of a folder: captions, and boxes with their categories where there are `objects`."""

    title = "a folder of pictures with metadata, as Hugging Face's"
    has_texts = True

    @classmethod
    def from_files(
        cls,
        folder: str | Path,
        names: str | Path | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> MetadataFolder:
        """Reads a folder.

        Args:
            folder: in which `metadata.jsonl` or `metadata.csv` lies, or several below it, one per split.
            names: text file with a category per line, where they are numbers.
            exhaustive: whether every visible thing of the categories that occur is labelled.
            name: what the data is called in reports; by default the folder's name.

        Raises:
            DataError: if there is no such file, or it cannot be read.
        """
        root = Path(folder)
        root, paths = (root.parent, [root]) if root.is_file() else (root, _metadata(root))
        if not paths:
            raise DataError(f"`folder` must have a {' or '.join(_FILES)}, but there is none in {root}")
        listed = read_text_lines(names) if names is not None else []
        left_out, unread, forms = LeftOut(), Counter[str](), BoxForms()
        store = FolderImages(root)
        pictures: list[Picture] = []
        for path in paths:
            with naming(path):
                pictures += _read(_rows(path), path.parent.relative_to(root), listed, store, left_out, unread, forms)
                forms.refuse()
        return cls(name or root.absolute().name, pictures, store, left_out, exhaustive, unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if place.is_file():
            return Found({"folder": place}) if place.name in _FILES else None
        return Found({"folder": place}) if _metadata(place) else None


def _metadata(root: Path) -> list[Path]:
    beside = [root / one for one in _FILES if (root / one).is_file()]
    return beside[:1] or sorted(path for one in _FILES for path in root.glob(f"*/{one}"))


def _rows(path: Path) -> list[tuple[str, Any]]:
    if path.suffix.lower() != ".csv":
        return read_entries(path, "rows with `file_name`")
    try:
        text = read_file(path).decode("utf-8-sig")
        rows = [row for row in csv.DictReader(io.StringIO(text, newline=""))]  # noqa: C416
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return [(f"line {number}", row) for number, row in enumerate(rows, start=2)]


def _read(
    rows: list[tuple[str, Any]],
    folder: Path,
    names: list[str],
    store: ImageStore,
    left_out: LeftOut,
    unread: Counter[str],
    forms: BoxForms,
) -> Iterator[Picture]:
    for place, row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("row that is no object")
            said = file_name_of(next((row[key] for key in _NAMES if row.get(key)), None))
            name = said if folder == Path() else f"{folder.as_posix()}/{said}"
            objects = row.get("objects")
            picture = Picture(name, size_of(store, name) if objects else None)
            picture.captions += captions_of(row)
        except EntryError as why:
            left_out.add(label_id(row, _NAMES, place), why)
            continue
        known = {*_NAMES, "objects", "width", "height", "image_id", *TEXTS}
        unread.update(str(key)[:40] for key in row if key not in known and row[key] not in (None, ""))
        add_objects(picture, objects, names, left_out, forms)
        yield picture


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """What a row says of its picture.

    Raises:
        EntryError: if it cannot be learnt from.
    """
    values = [(key, text) for key in TEXTS for text in (row[key] if isinstance(row.get(key), list) else [row.get(key)])]
    return [plain_text(text, key) for key, text in values if text not in (None, "")]


def add_objects(picture: Picture, objects: Any, names: list[str], left_out: LeftOut, forms: BoxForms) -> None:
    """Boxes of a row: lists of boxes and categories, or a list of objects with one of each.

    Of a row without `objects` nobody has said what is in its picture, unlike of one whose lists are empty.
    """
    if not objects:
        picture.lost.update([None] if objects is None else ())
        return
    crowds: list[bool] = []
    if isinstance(objects, list):
        pairs = [(one.get("bbox"), _category(one)) if isinstance(one, Mapping) else (None, None) for one in objects]
        crowds = [isinstance(one, Mapping) and is_crowd(one) for one in objects]
    else:
        boxes = objects.get("bbox", objects.get("bboxes")) if isinstance(objects, Mapping) else None
        kinds = _category(objects) if isinstance(objects, Mapping) else None
        if not isinstance(boxes, list) or not isinstance(kinds, list) or len(boxes) != len(kinds):
            left_out.add(
                picture.name,
                EntryError("objects without boxes", f"objects must have a category per box, got {shown(objects)}"),
            )
            picture.lost.add(None)
            return
        pairs = list(zip(boxes, kinds, strict=True))
        said = objects.get("iscrowd")
        crowds = [is_crowd({"iscrowd": one}) for one in said] if isinstance(said, list) else []
    crowds += [False] * (len(pairs) - len(crowds))
    for number, (bbox, kind) in enumerate(pairs, start=1):
        category = names[kind] if isinstance(kind, int) and is_whole(kind) and 0 <= kind < len(names) else kind
        with picture.label(f"object {number}", category, left_out):
            if is_whole(category):
                raise EntryError(
                    _NO_NAMES, f"category {shown(kind)} has no name: say `names`, a file with one per line"
                )
            numbers = as_numbers(bbox)
            if not are_numbers(numbers, 4):
                raise EntryError(
                    "bbox that is not four finite numbers", f"bbox must be four numbers, got {shown(bbox)}"
                )
            assert picture.size_wh is not None
            forms.see(list(numbers), picture.size_wh)
            x, y, w, h = numbers
            picture.add(category, (x, y, x + w, y + h), kind="crowd" if crowds[number - 1] else "thing")


def _category(row: Mapping[str, Any]) -> Any:
    return next((row[key] for key in CATEGORIES if key in row), None)
