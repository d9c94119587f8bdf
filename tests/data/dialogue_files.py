"""Invented miniatures that several readers of dialogue files are tested with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava_grounding.masks import encode_rle

SIZE_WH = (40, 30)


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE_WH[::-1], dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_picture(folder: Path, name: str, colour: tuple[int, int, int] = (90, 120, 200)) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", SIZE_WH, colour).save(folder / name)


def instances() -> dict[str, Any]:
    """Two images: cyclists 1201 and 1207 with a tram 1300, and a dog 2001."""
    width, height = SIZE_WH
    names = {12: "COCO_train2014_000000000012.jpg", 20: "dog.jpg"}
    things = [
        (1201, 12, 1, (2, 5, 12, 25), True),
        (1207, 12, 1, (14, 5, 22, 25), False),
        (1300, 12, 2, (24, 2, 40, 28), True),
        (2001, 20, 3, (5, 5, 30, 25), True),
    ]
    return {
        "images": [{"id": key, "file_name": name, "width": width, "height": height} for key, name in names.items()],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "segmentation": encode_rle(box_mask(*box)) if masked else [],
                "iscrowd": 0,
            }
            for number, image, category, box, masked in things
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "train"}, {"id": 3, "name": "dog"}],
    }


def write_labelled(folder: Path) -> dict[str, Path]:
    """The labels with their pictures, as `from_files` takes them."""
    data = instances()
    for row in data["images"]:
        write_picture(folder / "images", row["file_name"])
    return {"instances": write_json(folder / "instances.json", data), "images": folder / "images"}


def chat(*turns: str) -> list[dict[str, Any]]:
    """A LLaVA-style conversation, beginning with the human."""
    return [{"from": ("human", "gpt")[index % 2], "value": turn} for index, turn in enumerate(turns)]
