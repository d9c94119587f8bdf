"""One record of a finished folder as a picture: its phrases with masks, or its marks."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from llava_grounding.annotate.finished import FinishedLabels, FinishedRecord, iter_records
from llava_grounding.annotate.json_stream import iter_rows
from llava_grounding.annotate.write import MARKS
from llava_grounding.data.mark_drawing import draw_marks
from llava_grounding.errors import DataError, UsageError
from llava_grounding.render import draw_answer

Drawn = tuple[Image.Image, list[str]]


def record_number(folder: Path, number: int) -> FinishedRecord:
    """The record of this number, from 1.

    Raises:
        UsageError: if there are not as many.
    """
    found = next(islice(iter_records(folder), number - 1, None), None)
    if found is None:
        raise UsageError(f"{folder} has no record {number}; `annotate stats` tells how many there are")
    return found


def draw_record(folder: Path, number: int, labels: FinishedLabels) -> Drawn:
    """The first answer with phrases, drawn into its picture, and all texts as lines."""
    found = record_number(folder, number)
    record = labels.record(found.image_id)
    text = next((one for one in found.texts if one.phrases), found.texts[0])
    drawing = draw_answer(Image.fromarray(record.load_image()), labels.answer(record, text))
    lines = [f"{found.id} · {found.image}"]
    for one in found.texts:
        lines.append(f"{one.label}: {one.text}")
        lines += [f"    {phrase['text']}: {phrase['annotations']}" for phrase in one.phrases]
    return drawing, lines


def draw_marked(folder: Path, number: int, labels: FinishedLabels) -> Drawn:
    """The picture with its numbers, and its dialogue as lines.

    Raises:
        DataError: if the record has no marks.
    """
    found, place = None, 0
    for row in iter_rows(folder / "records.jsonl"):
        marked = "marks" in row.value["in"]
        if row.number == number:
            found = row.value if marked else None
            break
        place += marked
    if found is None:
        raise DataError(f"record {number} of {folder} has no marks")
    entry = next(islice(iter_rows(folder / MARKS), place, None)).value
    record = labels.record(int(found["image_id"]))
    rows = {thing.id: index for index, thing in enumerate(record.instances)}
    indices = [rows[one] for one in entry["marks"]]
    boxes = np.array([record.instances[index].box_xyxy for index in indices]).reshape(-1, 4)
    masks = [record.load_mask(index) for index in indices]
    picture = draw_marks(record.load_image(), masks, boxes, range(1, len(indices) + 1))
    return Image.fromarray(picture), [f"{turn['from']}: {turn['value']}" for turn in entry["conversations"]]
