"""Pascal VOC: a folder with `Annotations/NAME.xml` for every photo, masks as indexed PNGs, and the list of names.

Boxes are whole pixels counted from 1, both corners inside. In `SegmentationObject` a pixel is the number of its object
in the XML, in `SegmentationClass` that of its class in `labels.txt`; where objects overlap, the surest has it.
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from llava_grounding.labelling.exporters import LabelledSet, label_file
from llava_grounding.labelling.labels import Label, LabelledPhoto
from llava_grounding.labelling.xml import xml_text

ANNOTATIONS, OBJECTS, CLASSES = "Annotations", "SegmentationObject", "SegmentationClass"
NAMES, LISTS = "labels.txt", "ImageSets"
_MOST_NUMBERS = 254  # 0 is the background, 255 what counts for nothing
_COLOURS = 256


class PascalVocExporter:
    """Photos belong into `JPEGImages/` beside the rest, under the names that they have here."""

    is_folder = True
    label_suffix = ".xml"

    def entries(self, name: str) -> tuple[str, ...]:
        return (ANNOTATIONS, OBJECTS, CLASSES, LISTS, NAMES)

    def write(self, labelled: LabelledSet, folder: Path, name: str) -> None:
        stems = []
        numbers = {category: number for number, category in enumerate(labelled.categories, start=1)}
        (folder / ANNOTATIONS).mkdir()
        for photo in labelled.photos():
            stems.append(label_file(photo.name, ""))
            path = folder / ANNOTATIONS / label_file(photo.name, self.label_suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_annotation(photo, labelled.masks), encoding="utf-8")
            if labelled.masks:
                _write_masks(photo, numbers, folder)
        (folder / LISTS / "Main").mkdir(parents=True)
        lines = {folder / LISTS / "Main" / "default.txt": stems, folder / NAMES: labelled.categories}
        for path, texts in lines.items():
            path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8", errors="surrogateescape")


def _annotation(photo: LabelledPhoto, masks: bool) -> str:
    root = ElementTree.Element("annotation")
    parent, _, name = photo.name.rpartition("/")
    width, height = photo.size_wh
    _add(root, "folder", parent)
    _add(root, "filename", name)
    _add(_add(root, "source"), "database", "llava-grounding")
    size = _add(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, tag, value)
    _add(root, "segmented", int(masks))
    for label in photo.labels:
        found = _add(root, "object")
        for tag, said in (("name", label.category), ("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
            _add(found, tag, said)
        box = _add(found, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), _whole_box(label, photo.size_wh), strict=True):
            _add(box, tag, value)
        _add(found, "score", label.region.score)
    ElementTree.indent(root)
    return f"{ElementTree.tostring(root, encoding='unicode')}\n"


def _add(parent: ElementTree.Element, tag: str, value: object = "") -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = xml_text(str(value)) or None
    return element


def _whole_box(label: Label, size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels that the box touches, counted from 1."""
    x0, y0, x1, y1 = label.region.box_xyxy.tolist()
    width, height = size_wh
    left, top = min(max(math.floor(x0) + 1, 1), width), min(max(math.floor(y0) + 1, 1), height)
    return left, top, min(max(math.ceil(x1), left), width), min(max(math.ceil(y1), top), height)


def _write_masks(photo: LabelledPhoto, numbers: dict[str, int], folder: Path) -> None:
    """Both kinds of masks; those beyond the numbers that a PNG has are left out."""
    objects = np.zeros(photo.size_wh[::-1], dtype=np.uint8)
    classes = np.zeros_like(objects)
    for place in sorted(range(len(photo.labels)), key=lambda one: photo.labels[one].region.score):
        mask, number = photo.labels[place].region.mask, numbers[photo.labels[place].category]
        if mask is None:
            continue
        if place < _MOST_NUMBERS:
            objects[mask] = place + 1
        if number <= _MOST_NUMBERS:
            classes[mask] = number
    for kind, pixels in ((OBJECTS, objects), (CLASSES, classes)):
        path = folder / kind / label_file(photo.name, ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels, "P")
        image.putpalette(_PALETTE)
        image.save(path, "PNG")


def _palette() -> list[int]:
    """VOC's colours: the bits of a number, spread over red, green and blue from the highest bit down."""
    colours = []
    for number in range(_COLOURS):
        for channel in range(3):
            bits = (number >> (channel + 3 * step) & 1 for step in range(3))
            colours.append(sum(bit << (7 - step) for step, bit in enumerate(bits)))
    return colours


_PALETTE = _palette()
