"""Label Studio tasks: one JSON to import, whose predictions people correct, and the labelling config that shows them.

Masks are brushes, boxes without a mask rectangles in percent of the photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from llava_grounding.labelling.brush import encode_brush
from llava_grounding.labelling.exporters import LabelledSet
from llava_grounding.labelling.labels import Label, LabelledPhoto, json_text
from llava_grounding.labelling.xml import xml_text
from llava_grounding.structures import Region

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files of its local storage."""
BRUSH, RECTANGLE, IMAGE = "brush", "rectangle", "image"
"""Names of the tags in the config, which results refer to."""


class LabelStudioExporter:
    """Tasks in the order of the photos.

    Args:
        address: put before the name of each photo, which is quoted as in a URL.
    """

    is_folder = False
    label_suffix = None

    def __init__(self, address: str = LOCAL_FILES) -> None:
        self._address = address

    def entries(self, name: str) -> tuple[str, ...]:
        return (f"{name.removesuffix('.json')}.config.xml", name)

    def write(self, labelled: LabelledSet, folder: Path, name: str) -> None:
        config, tasks = self.entries(name)
        (folder / config).write_text(labelling_config(labelled.categories, labelled.masks), encoding="utf-8")
        with (folder / tasks).open("w", encoding="utf-8", newline="\n") as stream:
            stream.write("[")
            for number, photo in enumerate(labelled.photos()):
                stream.write(",\n" if number else "\n")
                stream.write(json_text(self._task(photo, labelled.model)))
            stream.write("\n]\n")

    def _task(self, photo: LabelledPhoto, model: str) -> dict[str, Any]:
        address = self._address + quote(photo.name, errors="surrogateescape")
        return {"data": {"image": address}, "predictions": [prediction(photo.labels, photo.size_wh, model)]}


def prediction(
    labels: Sequence[Label],
    size_wh: tuple[int, int],
    model: str,
    names: tuple[str, str, str] = (BRUSH, RECTANGLE, IMAGE),
) -> dict[str, Any]:
    """What a model says of a task, in Label Studio's form.

    Args:
        names: of the config's tags for brushes and for rectangles, and of the picture's.
    """
    results = [_result(number, label, size_wh, names) for number, label in enumerate(labels)]
    score = sum(label.region.score for label in labels) / len(labels) if labels else 0.0
    return {"model_version": model, "score": round(score, 4), "result": results}


def _result(number: int, label: Label, size_wh: tuple[int, int], names: tuple[str, str, str]) -> dict[str, Any]:
    width, height = size_wh
    mask = label.region.mask
    if mask is not None:
        kind, value = "brushlabels", _brush(mask)
    else:
        kind, value = "rectanglelabels", _rectangle(label.region, size_wh)
    said = f"{number} {label.category} {label.region.box_xyxy.tolist()}"
    return {
        "id": hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[
            :10
        ],  # the same each time it is written
        "type": kind,
        "from_name": names[0] if mask is not None else names[1],
        "to_name": names[2],
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [label.category]},
        "score": label.region.score,
    }


def _brush(mask: np.ndarray) -> dict[str, Any]:
    return {"format": "rle", "rle": encode_brush(mask)}


def _rectangle(region: Region, size_wh: tuple[int, int]) -> dict[str, Any]:
    """A box in percent of the photo."""
    width, height = size_wh
    x0, y0, x1, y1 = region.box_xyxy.tolist()
    place = (x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)
    named = zip(("x", "y", "width", "height"), (round(100 * one, 4) for one in place), strict=True)
    return {**dict(named), "rotation": 0}


def labelling_config(categories: Sequence[str], masks: bool) -> str:
    """The labelling config of a project whose results are those written here."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=IMAGE, value="$image", zoom="true")
    tags = [("RectangleLabels", RECTANGLE)]
    for tag, name in [("BrushLabels", BRUSH), *tags] if masks else tags:
        labels = ElementTree.SubElement(view, tag, name=name, toName=IMAGE)
        for category in categories:
            ElementTree.SubElement(labels, "Label", value=xml_text(category))
    ElementTree.indent(view)
    return f"{ElementTree.tostring(view, encoding='unicode')}\n"
