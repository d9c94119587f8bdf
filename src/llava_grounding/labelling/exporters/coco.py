"""COCO instances: one JSON of images, annotations and categories; masks as compressed run-length codes.

Written as it is read, so that it takes no memory in proportion to the photos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from llava_grounding.geometry import box_xyxy_to_xywh
from llava_grounding.labelling.exporters import LabelledSet
from llava_grounding.labelling.labels import json_text


class CocoExporter:
    """Ids count from 1: images and annotations in the order of the photos, categories in theirs."""

    is_folder = False
    label_suffix = None

    def entries(self, name: str) -> tuple[str, ...]:
        return (name,)

    def write(self, labelled: LabelledSet, folder: Path, name: str) -> None:
        categories = [{"id": number, "name": one} for number, one in enumerate(labelled.categories, start=1)]
        with (folder / name).open("w", encoding="utf-8", newline="\n") as stream:
            stream.write("{")
            _write_list(stream, "images", _images(labelled))
            stream.write(",\n")
            _write_list(stream, "annotations", _annotations(labelled))
            stream.write(",\n")
            _write_list(stream, "categories", categories)
            stream.write("}\n")


def _images(labelled: LabelledSet) -> Iterator[dict[str, Any]]:
    for number, photo in enumerate(labelled.photos(), start=1):
        width, height = photo.size_wh
        yield {"id": number, "file_name": photo.name, "width": width, "height": height}


def _annotations(labelled: LabelledSet) -> Iterator[dict[str, Any]]:
    numbers = {name: number for number, name in enumerate(labelled.categories, start=1)}
    count = 0
    for image_id, photo in enumerate(labelled.photos(), start=1):
        for label in photo.labels:
            count += 1
            yield {
                "id": count,
                "image_id": image_id,
                "category_id": numbers[label.category],
                "bbox": box_xyxy_to_xywh(label.region.box_xyxy).round(2).tolist(),
                "area": label.region.area,
                "segmentation": label.region.mask_rle or [],
                "iscrowd": 0,
                "score": label.region.score,
            }


def _write_list(stream: IO[str], key: str, rows: Iterable[Any]) -> None:
    stream.write(f"{json_text(key)}: [")
    for number, row in enumerate(rows):
        stream.write(",\n" if number else "\n")
        stream.write(json_text(row))
    stream.write("\n]")
