"""CVAT's XML 1.1 for images: boxes, polygons, ellipses and masks per picture. Knows no other format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.numbers import whole_number
from llava_grounding.data.readers.pictures import (
    Picture,
    PictureRecords,
    corners,
    ellipse,
    polygons,
    rotated_box,
)
from llava_grounding.data.readers.reading import (
    EntryError,
    LeftOut,
    are_numbers,
    checked_size,
    file_name_of,
    named,
    naming,
)
from llava_grounding.data.readers.rows import image_store
from llava_grounding.data.readers.xml_files import parse_xml
from llava_grounding.errors import DataError, shown


class CvatXml(PictureRecords):
    """Records of one file; shapes of one label and one `group_id` stay things of their own, as CVAT groups anything."""

    @classmethod
    def from_files(
        cls,
        labels: str | Path,
        images: str | Path | ImageStore | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> CvatXml:
        """Reads a file.

        Args:
            labels: `annotations.xml` of an export "CVAT for images 1.1", or the folder in which it lies.
            images: folder, tar shards or zip; by default `images` beside the file, else its folder.
            exhaustive: whether every visible thing of the labels that occur is labelled.
            name: what the data is called in reports; by default the file's stem.

        Raises:
            DataError: if it cannot be read, or is of another kind.
        """
        path = Path(labels) / "annotations.xml" if Path(labels).is_dir() else Path(labels)
        with naming(path):
            try:
                root = parse_xml(path)
            except EntryError as error:
                raise DataError(str(error)) from error
            if root.tag != "annotations":
                raise DataError(f"CVAT's file must have the root `annotations`, got `{root.tag[:60]}`")
            if root.find("track") is not None:
                raise DataError("tracks of a film are not read; export as `CVAT for images 1.1`, or COCO")
            if images is None:
                images = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
            store, left_out, unread = image_store(images), LeftOut(), Counter[str]()
            pictures = _read(root, left_out, unread)
            return cls(name or path.stem, pictures, store, left_out, exhaustive, unread)


def _read(root: ElementTree.Element, left_out: LeftOut, unread: Counter[str]) -> Iterator[Picture]:
    for image in root.iterfind("image"):
        try:
            picture = Picture(
                file_name_of(image.get("name"), from_root=True), checked_size(image.get("width"), image.get("height"))
            )
        except EntryError as why:
            left_out.add(f"image {named(image.get('name', 'without name'))}", why)
            continue
        for number, shape in enumerate(image, start=1):
            if shape.tag == "tag":
                unread["tag"] += 1
                continue
            category = shape.get("label")
            unread["attribute"] += shape.find("attribute") is not None
            with picture.label(f"{shape.tag} {number}", category, left_out):
                _add(picture, shape, category)
        yield picture


def _numbers(shape: ElementTree.Element, *keys: str) -> list[float]:
    try:
        values = [float(shape.get(key, "")) for key in keys]
    except ValueError:
        values = []
    if not are_numbers(values, len(keys)):
        raise EntryError(
            "attributes that are not finite numbers", f"a {shape.tag} must have numbers as {', '.join(keys)}"
        )
    return values


def _add(picture: Picture, shape: ElementTree.Element, category: str | None) -> None:
    assert picture.size_wh is not None
    degrees = _numbers(shape, "rotation")[0] if shape.get("rotation") else 0.0
    if shape.tag == "box":
        x0, y0, x1, y1 = corners(_numbers(shape, "xtl", "ytl", "xbr", "ybr"))
        if degrees:
            picture.add(category, None, rotated_box((x0, y0, x1, y1), degrees, about_centre=True))
        else:
            picture.add(category, (x0, y0, x1, y1))
    elif shape.tag == "polygon":
        points = [point.split(",") for point in shape.get("points", "").split(";") if point]
        picture.add(category, None, polygons([[place for point in points for place in point]], picture.size_wh))
    elif shape.tag == "ellipse":
        x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
        picture.add(category, None, polygons(ellipse(x, y, rx, ry, degrees), picture.size_wh))
    elif shape.tag == "mask":
        _add_mask(picture, shape, category)
    else:
        raise EntryError(
            "shape without an area", f"a shape must be box, polygon, ellipse or mask, got {shown(shape.tag)}"
        )


def _add_mask(picture: Picture, shape: ElementTree.Element, category: str | None) -> None:
    """Run lengths of a part of the picture, row by row, those of zeros first."""
    assert picture.size_wh is not None
    left, top, width, height = (whole_number(shape.get(key), key) for key in ("left", "top", "width", "height"))
    if min(width, height) < 1 or width > picture.size_wh[0] or height > picture.size_wh[1]:
        raise EntryError("mask outside the image", f"a mask must lie within {picture.size_wh}")
    try:
        runs = np.array([int(run) for run in shape.get("rle", "").split(",")], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise EntryError("broken run lengths", "`rle` must be run lengths") from error
    if (runs < 0).any() or (runs > width * height).any() or runs.sum() != width * height:
        raise EntryError("broken run lengths", f"`rle` must describe {width} x {height} pixels")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    picture.add_mask(category, part, (left, top))
