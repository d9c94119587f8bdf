"""labelme: a JSON file per picture with polygons, rectangles, circles and masks. Knows no other format."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.data.image_names import DATA_SUFFIXES
from llava_grounding.data.images import FolderImages, open_images
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import checked_size
from llava_grounding.data.readers.parts.left_out import LeftOut, named
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers
from llava_grounding.data.readers.parts.pictures import (
    Picture,
    PictureRecords,
    SeveralPicturesError,
    check_own_name,
    corners,
    ellipse,
    polygons,
    size_of,
)
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import list_under
from llava_grounding.errors import DataError, ImageError, shown
from llava_grounding.image_files import DATA_LIMITS, load_stored


@dataclass(frozen=True)
class LabelmeBytes:
    """The picture inside of a labelme file, unpacked when it is read."""

    path: Path

    def __call__(self) -> bytes:
        data = read_json(self.path)
        try:
            return base64.b64decode(data["imageData"])
        except (TypeError, LookupError, ValueError, binascii.Error) as error:
            raise DataError(f"`imageData` of {self.path} must be a picture in base64") from error

    def exists(self) -> bool:
        return self.path.is_file()


class Labelme(PictureRecords):
    """Records of a folder of labelme files; shapes of one label and one `group_id` are one thing."""

    title = "labelme"

    @classmethod
    def from_files(
        cls,
        labels: str | Path,
        images: str | Path | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> Labelme:
        """Reads a folder of JSON files.

        Args:
            labels: folder of the files, or one of them.
            images: folder, tar shards or zip of the pictures; by default where the files lie. A picture that is not
                there is taken out of its file.
            exhaustive: whether every visible thing of the labels that occur is labelled.
            name: what the data is called in reports; by default the folder's name.

        Raises:
            DataError: if there are no such files.
        """
        root = Path(labels)
        paths = [root] if root.is_file() else sorted(root.rglob("*.json"))
        root = root.parent if root.is_file() else root
        if not paths:
            raise DataError(f"`labels` must be a folder of labelme's JSON files, but there are none in {root}")
        store = open_images(images) if images is not None else FolderImages(root)
        left_out, unread = LeftOut(), Counter[str]()
        pictures = _read(paths, root, store, images is None, left_out, unread)
        return cls(name or root.absolute().name, pictures, store, left_out, exhaustive, unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        return Found({"labels": place}, per_picture=True) if "shapes" in place.table else None


def _read(
    paths: list[Path], root: Path, store: Any, beside: bool, left_out: LeftOut, unread: Counter[str]
) -> Iterator[Picture]:
    for path in paths:
        try:
            data = _parsed(path)
            picture = _picture(data, path, root, store, beside)
            shapes = list_under(data, "shapes", "file")
        except EntryError as why:
            left_out.add(named(path.name), why)
            yield from why.pictures if isinstance(why, SeveralPicturesError) else ()
            continue
        flags = data.get("flags")
        picture.may_have(name for name, on in flags.items() if on) if isinstance(flags, Mapping) else None
        for group in _groups(shapes):
            category = group[0][1].get("label")
            with picture.label(f"shape {group[0][0]}", category, left_out):
                _add(picture, category, [shape for _, shape in group], unread)
        yield picture


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        data = read_json(path)
    except DataError as error:
        raise EntryError("file that is no JSON", str(error)) from error
    if not isinstance(data, Mapping) or "shapes" not in data:
        raise EntryError("JSON of another kind", f"labelme's file must be an object with `shapes`, got {shown(data)}")
    return data


def _picture(data: Mapping[str, Any], path: Path, root: Path, store: Any, beside: bool) -> Picture:
    said = data.get("imagePath")
    # Some name the file of labels itself.
    tail = said.replace("\\", "/") if isinstance(said, str) and not said.lower().endswith(".json") else ""
    folder = path.parent.relative_to(root).as_posix()
    base = tail.rpartition("/")[2]
    # `..\images\1.jpg` is meant from the file; a folder beside the files is found by its name.
    names = [tail, base, f"{folder}/{base}", *(f"{folder}/{path.stem}{end}" for end in DATA_SUFFIXES)]
    names = [one.removeprefix("./") for one in names if one and not one.startswith(("/", ".."))]
    there = [one for one in names if store.has(one)]
    name = next(iter(there), None)
    check_own_name(tail, path, there, store)
    inside = LabelmeBytes(path) if name is None and isinstance(data.get("imageData"), str) else None
    called = name or base or path.with_suffix(".jpg").name
    if data.get("imageWidth") and data.get("imageHeight"):
        return Picture(called, checked_size(data["imageWidth"], data["imageHeight"]), inside)
    if inside is not None:
        raise EntryError("no size", "a file must have `imageWidth` and `imageHeight`")
    return Picture(called, size_of(store, called))


def _groups(shapes: list[Any]) -> list[list[tuple[int, Mapping[str, Any]]]]:
    """Shapes with their places, those of one thing together."""
    groups: dict[object, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, shape in enumerate(shapes, start=1):
        row = shape if isinstance(shape, Mapping) else {}
        group = row.get("group_id")
        key = number if group is None else (str(row.get("label")), str(group))
        groups.setdefault(key, []).append((number, row))
    return list(groups.values())


def _add(picture: Picture, category: Any, shapes: list[Mapping[str, Any]], unread: Counter[str]) -> None:
    parts: list[Any] = []
    boxes: list[Any] = []
    texts = [
        one["description"] for one in shapes if isinstance(one.get("description"), str) and one["description"].strip()
    ]
    for shape in shapes:
        unread["flags"] += bool(shape.get("flags"))
        kind, points = shape.get("shape_type") or "polygon", shape.get("points")
        if not isinstance(points, list) or not all(are_numbers(point, 2) for point in points):
            raise EntryError(
                "points that are no pairs of numbers", f"points must be pairs of numbers, got {shown(points)}"
            )
        if kind == "rectangle" and len(points) in (2, 4):
            flat = np.array(points)
            boxes.append(corners([*flat.min(axis=0).tolist(), *flat.max(axis=0).tolist()]))
        elif kind == "circle" and len(points) == 2:
            (x, y), (edge_x, edge_y) = points
            parts += ellipse(x, y, *(float(np.hypot(edge_x - x, edge_y - y)),) * 2)
        elif kind in ("polygon", "rotation", "oriented_rectangle"):
            parts.append([place for point in points for place in point])
        elif kind == "mask" and len(points) == 2 and len(shapes) == 1:
            left, top = (round(min(point[axis] for point in points)) for axis in (0, 1))
            picture.add_mask(category, _mask(shape.get("mask")), (left, top), texts)
            return
        else:
            raise EntryError("shape without an area", f"a shape must be a polygon or have an area, got {shown(kind)}")
    assert picture.size_wh is not None
    drawn = polygons(parts, picture.size_wh) if parts else None
    if boxes and not parts:
        (x0, y0), (x1, y1) = np.min(boxes, axis=0)[:2].tolist(), np.max(boxes, axis=0)[2:].tolist()
        picture.add(category, (x0, y0, x1, y1), texts=texts)
    else:
        picture.add(category, None, drawn, texts=texts)


def _mask(data: Any) -> np.ndarray:
    """A mask (h, w) that is a PNG in base64."""
    try:
        return np.asarray(load_stored(base64.b64decode(data), DATA_LIMITS, ("PNG",)).convert("L")) > 0
    except (TypeError, ValueError, ImageError) as error:
        raise EntryError("mask that is no PNG", f"`mask` must be a PNG in base64: {error}") from error
