"""YOLO: a folder with `labels/NAME.txt` for every photo, a line per label, and `data.yaml` with the classes.

With masks a line is a class and an outline (YOLO-seg), else a class and a box by centre and size; all in parts of the
photo's sides. An outline is one closed walk: parts and holes are joined by bridges that are walked there and back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from llava_grounding.geometry import box_xyxy_to_cxcywh
from llava_grounding.labelling.exporters import LabelledSet, label_file
from llava_grounding.labelling.labels import Label, LabelledPhoto
from llava_grounding.render.outline import mask_to_polygons
from llava_grounding.structures import Region

LABELS, DATA = "labels", "data.yaml"


class YoloExporter:
    """Photos belong into `images/` beside `labels/`, under the names that they have here."""

    is_folder = True
    label_suffix = ".txt"

    def entries(self, name: str) -> tuple[str, ...]:
        return (LABELS, DATA)

    def write(self, labelled: LabelledSet, folder: Path, name: str) -> None:
        numbers = {category: number for number, category in enumerate(labelled.categories)}
        (folder / LABELS).mkdir()
        for photo in labelled.photos():
            path = folder / LABELS / label_file(photo.name, self.label_suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [_line(numbers[label.category], label, photo, labelled.masks) for label in photo.labels]
            path.write_text("".join(lines), encoding="utf-8")
        data = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(labelled.categories))}
        text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
        (folder / DATA).write_text(text, encoding="utf-8", errors="replace")


def _line(number: int, label: Label, photo: LabelledPhoto, masks: bool) -> str:
    size = np.array(photo.size_wh, dtype=np.float64)
    if masks:
        parts = np.array(outline_of(label.region)).reshape(-1, 2) / size
    else:
        parts = box_xyxy_to_cxcywh(label.region.box_xyxy).reshape(-1, 2) / size
    return " ".join([str(number), *(f"{value:.6f}" for value in parts.reshape(-1).clip(0, 1))]) + "\n"


def outline_of(region: Region) -> list[float]:
    """One closed walk x0, y0, x1, y1, ... in pixels that has the region inside by the even-odd rule.

    Of a region without a mask its box.
    """
    mask = region.mask
    polygons = [] if mask is None else mask_to_polygons(mask)
    if not polygons:
        x0, y0, x1, y1 = region.box_xyxy.tolist()
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    first, *others = polygons
    walk = list(first)
    for polygon in others:  # out to each from where the walk began, once around it, and back
        walk += [*first[:2], *polygon, *polygon[:2]]
    return walk + first[:2] if others else walk
