"""Records as files in COCO's form: labels with masks, expressions beside them, and captions.

What is written here, the kind `custom` reads, and any reader of COCO reads the labels. Knows no dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.data.readers.parts.notation import write_answer, written_answer
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError
from llava_grounding.geometry import box_xyxy_to_xywh
from llava_grounding.markup import strip_markup
from llava_grounding.masks import encode_rle, mask_area


def coco_instances(records: Iterable[Record]) -> dict[str, Any]:
    """Images, annotations and categories of records; masks as run-length codes.

    Annotations keep their ids; where one has none, or text, all are numbered anew. Expressions that mean one annotation
    stand beside it as `expressions`.

    Raises:
        DataError: if the size of an image is not known.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for image_id, record in enumerate(records, start=1):
        if record.image_size_wh is None:
            raise DataError(f"the size of `{record.id}` must be known to write its labels")
        width, height = record.image_size_wh
        images.append({"id": image_id, "file_name": file_name(record), "width": width, "height": height})
        for index, thing in enumerate(record.instances):
            category = categories.setdefault(thing.category, len(categories) + 1)
            row = {"id": thing.id, "image_id": image_id, "category_id": category, **_geometry(record, index)}
            said = [expression.text for expression in record.expressions if expression.targets == (index,)]
            annotations.append({**row, "expressions": said} if said else row)
    ids = {row["id"] for row in annotations if isinstance(row["id"], int)}
    if len(ids) != len(annotations):
        for number, row in enumerate(annotations, start=1):
            row["id"] = number
    named = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}


def coco_captions(records: Iterable[Record]) -> dict[str, Any]:
    """Captions of records, numbered as `coco_instances` numbers the images; phrases with ids behind them, for `custom`.

    Raises:
        DataError: if a phrase names an annotation without an id.
    """
    rows: list[dict[str, Any]] = []
    images = []
    for image_id, record in enumerate(records, start=1):
        images.append({"id": image_id, "file_name": file_name(record)})
        tied = {strip_markup(one.text): written_answer(record, one) for one in record.grounded_captions}
        for caption in (*tied.values(), *(write_answer(one, ()) for one in record.captions if one not in tied)):
            rows.append({"id": len(rows) + 1, "image_id": image_id, "caption": caption})
    return {"images": images, "annotations": rows}


def file_name(record: Record) -> str:
    """Name of the record's picture."""
    return record.image_name or record.id


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """One line of JSON."""
    path.write_bytes(json_bytes(value))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """One line of JSON, in UTF-8."""
    return f"{json.dumps(value, ensure_ascii=False)}\n".encode()


def _geometry(record: Record, index: int) -> dict[str, Any]:
    """Box, mask and area of one annotation as COCO writes them."""
    thing, mask = record.instances[index], record.load_mask(index)
    box = [float(value) for value in box_xyxy_to_xywh(np.array(thing.box_xyxy))]
    return {
        "bbox": box,
        "area": box[2] * box[3] if mask is None else mask_area(mask),
        "segmentation": [] if mask is None else encode_rle(mask),
        "iscrowd": int(thing.kind == "crowd"),
    }
