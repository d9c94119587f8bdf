"""Pascal VOC: an XML file per picture, as the challenge and LabelImg, CVAT, Roboflow and Label Studio write it; turned
boxes of roLabelImg, outlines of the LabelMe of the web, which CVAT exports as well.

The challenge counts pixels from 1, tools from 0: its own files say whose they are. Knows no other format.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from llava_grounding.data.image_names import DATA_SUFFIXES
from llava_grounding.data.images import FolderImages, ImageStore, open_images
from llava_grounding.data.plain_files import read_file, stays_inside
from llava_grounding.data.readers.parts.image_rows import checked_size
from llava_grounding.data.readers.parts.left_out import LeftOut, named
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers, as_numbers
from llava_grounding.data.readers.parts.pictures import (
    Picture,
    PictureRecords,
    SeveralPicturesError,
    check_own_name,
    corners,
    file_stem,
    polygons,
    rotated_box,
    size_of,
)
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.xml_files import parse_xml, text_of
from llava_grounding.data.record import Segmentation
from llava_grounding.errors import DataError

_MAX_BYTES = 2**26  # of one file


class PascalVoc(PictureRecords):
    """Records of a folder of XML files; things of VOC's `difficult` are things as well."""

    title = "Pascal VOC"

    @classmethod
    def from_files(
        cls,
        annotations: str | Path,
        images: str | Path | None = None,
        split: str | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> PascalVoc:
        """Reads a folder.

        Args:
            annotations: folder of XML files, or the one above `Annotations`.
            images: folder, tar shards or zip of the pictures; by default `JPEGImages` or `images` beside
                `Annotations`, else where the XML files lie.
            split: a list in `ImageSets/Main`, such as `train`, or a folder, as Roboflow has it; None takes all.
            exhaustive: whether every visible thing of the categories is labelled.
            name: what the data is called in reports; by default the folder's name.

        Raises:
            DataError: if there are no XML files, or no such split.
        """
        root = Path(annotations)
        if root.is_file() and root.suffix.lower() == ".xml":
            paths, root = [root], root.parent
        else:
            if not root.is_dir():
                raise DataError(f"`annotations` must be a folder of XML files of Pascal VOC, got {root}")
            paths = _files(root, split)
        if not paths:
            raise DataError(f"`annotations` must be a folder of XML files of Pascal VOC, but there are none in {root}")
        store = open_images(images if images is not None else _images(root, paths))
        left_out, unread = LeftOut(), Counter[str]()
        pictures = _read(paths, store, left_out, unread)
        label = f"_{split}" if split else ""
        return cls(name or f"{root.absolute().name}{label}", pictures, store, left_out, exhaustive, unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        first = next((one for one in place.files if one.suffix.lower() == ".xml"), place)
        return Found({"annotations": place}) if first.root_tag == "annotation" else None


def _files(root: Path, split: str | None) -> list[Path]:
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    if split is None:
        return sorted(folder.rglob("*.xml"))
    if not stays_inside(split):
        raise DataError(f"split must be the name of a list, got `{split}`")
    listing = next((one / f"{split}.txt" for one in _lists(root) if (one / f"{split}.txt").is_file()), None)
    if listing is not None:
        lines = read_file(listing).decode("utf-8-sig", errors="replace").splitlines()
        ids = [line.split()[0] for line in lines if line.strip()]
        return [folder / f"{one}.xml" for one in ids if stays_inside(one)]
    if (folder / split).is_dir():
        return sorted((folder / split).rglob("*.xml"))
    known = sorted({path.stem for one in _lists(root) for path in one.glob("*.txt")})
    known += sorted(path.name for path in folder.iterdir() if path.is_dir())
    raise DataError(f"split must be one of {known[:20]}, got `{split}`")


def _lists(root: Path) -> list[Path]:
    above = root.parent if root.name == "Annotations" else root
    return [above / "ImageSets" / one for one in ("Main", "Segmentation")]


def _images(root: Path, paths: list[Path]) -> Path:
    above = root.parent if root.name == "Annotations" else root
    return next((above / one for one in ("JPEGImages", "images", "Images") if (above / one).is_dir()), root)


def _read(paths: list[Path], store: ImageStore, left_out: LeftOut, unread: Counter[str]) -> Iterator[Picture]:
    for path in paths:
        try:
            root = parse_xml(path, _MAX_BYTES)
            if root.tag != "annotation":
                raise EntryError("XML of another kind", f"the root must be `annotation`, got `{root.tag[:60]}`")
            name = _name(root, path, store)
            picture = Picture(name, _size(root, name, store))
        except EntryError as why:
            left_out.add(named(path.name), why)
            yield from why.pictures if isinstance(why, SeveralPicturesError) else ()
            continue
        from_one = text_of(root, "source/database").lower().startswith("the voc")
        for number, thing in enumerate(root.iterfind("object"), start=1):
            category = text_of(thing, "name")
            unread.update(key for key in ("attributes", "part") if thing.find(key) is not None)
            if text_of(thing, "deleted") == "1":
                continue  # the LabelMe of the web keeps what was taken back
            with picture.label(f"object {number}", category, left_out):
                _add(picture, thing, category, from_one)
        yield picture


def _name(root: ElementTree.Element, path: Path, store: ImageStore) -> str:
    """Name of the picture: as the file says, or like the XML file, whichever is there."""
    said = text_of(root, "filename")
    names = [said, *(f"{said}{suffix}" for suffix in DATA_SUFFIXES if said and "." not in said)]
    below = isinstance(store, FolderImages) and store.root in path.parents
    folder = path.parent.relative_to(store.root).as_posix() if isinstance(store, FolderImages) and below else ""
    names += [f"{folder}/{one}" for one in names if one and folder not in ("", ".")]
    names += [f"{path.stem}{suffix}" for suffix in DATA_SUFFIXES]
    names += [f"{folder}/{path.stem}{suffix}" for suffix in DATA_SUFFIXES if folder not in ("", ".")]
    there = [one for one in names if stays_inside(one) and store.has(one)]
    found = next(iter(there), None)
    check_own_name(said, path, there, store)
    found = found or next((one for one in (text_of(root, "path"),) if one and store.has(one)), None)
    if found is None and not said:
        raise EntryError("no image", f"`filename` must name the picture, and none is called `{file_stem(path.name)}`")
    return found or said


def _size(root: ElementTree.Element, name: str, store: ImageStore) -> tuple[int, int]:
    width, height = text_of(root, "size/width"), text_of(root, "size/height")
    if width in ("", "0") or height in ("", "0"):
        return size_of(store, name)
    return checked_size(width, height)


def _add(picture: Picture, thing: ElementTree.Element, category: str, from_one: bool) -> None:
    if not category:
        raise EntryError("object without a name", "an object must have a `name`")
    assert picture.size_wh is not None
    places = thing.find("polygon")
    mask = None
    if places is not None:
        points = [text_of(places, f"{axis}{number}") for number in range(1, len(places) // 2 + 1) for axis in "xy"]
        points = points if any(points) else [text_of(one, axis) for one in places.iterfind("pt") for axis in "xy"]
        if any(points):
            mask = polygons([points], picture.size_wh)
    if thing.find("robndbox") is not None:
        mask = _turned_box(thing)
    box = None
    if thing.find("bndbox") is not None or mask is None:
        box = corners([text_of(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")], "bndbox")
        if from_one:
            box = (box[0] - 1, box[1] - 1, box[2], box[3])
    picture.add(category, box, mask)


def _turned_box(thing: ElementTree.Element) -> Segmentation:
    """A box of roLabelImg, by its centre, sides and angle in radians."""
    numbers = as_numbers([text_of(thing, f"robndbox/{key}") for key in ("cx", "cy", "w", "h", "angle")])
    if not are_numbers(numbers, 5):
        raise EntryError("turned box that is not five finite numbers", f"got {named(numbers)}")
    x, y, w, h, angle = numbers
    return rotated_box((x - w / 2, y - h / 2, x + w / 2, y + h / 2), math.degrees(angle), about_centre=True)
