"""Fixtures of several rooms: the photo pack where there is one, and an invented miniature of it."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker and its children: more would only wait for each other. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import faulthandler
import gc
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
import pytest
from PIL import Image

from llava_grounding.masks import encode_rle

# No deadline per example: how long one takes says more about what else the machine does.
hypothesis.settings.register_profile("llava-grounding", deadline=None)
hypothesis.settings.load_profile("llava-grounding")

# transformers compiles a pattern for each weight of a model that it loads, and Python keeps 512 patterns: without these
# more, every loading of the same tiny model compiled all of them anew, a third of what loading takes.
re._MAXCACHE = 50_000  # type: ignore[attr-defined]

_SECONDS_TO_END = 120


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector, which every training run calls, need not look at it each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """A process that has run its tests and does not end says where it waits, and fails."""
    faulthandler.dump_traceback_later(_SECONDS_TO_END, exit=True)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What a test writes outlives the death of a process as it is; only a power cut would take it back.

    A run of four steps calls `fsync` sixty times. A handle that is not open is still refused.
    """
    with mock.patch.object(os, "fsync", os.fstat):
        yield


MINI_SIZE_WH = (80, 60)
_CATEGORIES = {1: "person", 2: "bicycle", 3: "car", 17: "cat", 18: "dog", 58: "hot dog", 187: "sky", 149: "road"}
# file name, label set, [(category id, x0, y0, x1, y1, kind of mask)]
_PHOTOS: list[tuple[str, str, list[tuple[int, int, int, int, int, str]]]] = [
    (
        "yard/dogs.jpg",
        "coco80",
        [(18, 2, 30, 22, 50, "exact"), (18, 40, 10, 78, 50, "exact"), (1, 24, 5, 36, 55, "exact")],
    ),
    ("yard/cat.jpg", "voc20", [(17, 30, 20, 60, 50, "none")]),
    ("words/only.jpg", "captions", []),
    ("street/cars.jpg", "camvid11", [(187, 0, 0, 80, 20, "semantic"), (3, 10, 30, 70, 50, "semantic")]),
]
_LABEL_SETS = {
    "coco80": ["person", "bicycle", "car", "cat", "dog", "hot dog"],
    "voc20": ["person", "bicycle", "car", "cat", "dog", "dining table"],
    "captions": [],
    "camvid11": ["sky", "road", "car", "person"],
}
_CAPTIONS = {
    1: ["Two dogs next to a man .", "a photo of the yard"],
    3: ["A puppy sleeps"],
}


@pytest.fixture(scope="session")
def photo_pack_root() -> Path:
    """Folder of the real photo pack; the test is skipped without one."""
    place = os.environ.get("LLAVA_GROUNDING_DATA")
    if not place:
        pytest.skip("no photo pack: set LLAVA_GROUNDING_DATA to its folder")
    return Path(place)


@pytest.fixture(scope="session")
def mini_pack_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of four drawn photos in the layout of the photo pack, split `val`."""
    root = tmp_path_factory.mktemp("pack")
    index = _write_shard(root)
    _write(root / "index_val.json", index)
    _write(root / "instances_val.json", _instances())
    _write(root / "label_sets.json", _LABEL_SETS)
    captions = [{"image_id": key, "caption": text} for key, texts in _CAPTIONS.items() for text in texts]
    _write(root / "captions_val.json", {"annotations": captions})
    statements = [
        {"image_id": 1, "statement": "The person is left of the hot dog.", "label": 0, "relation": "left of"},
        {"image_id": 2, "statement": "The cat is alone.", "label": 1, "relation": "alone"},
    ]
    questions = [
        {"image_id": 1, "question": "Is there a dog in the image?", "answer": "yes"},
        {"image_id": 1, "question": "Is there a car in the image?", "answer": "no"},
    ]
    for name, rows in (("vsr_val.jsonl", statements), ("pope_val.jsonl", questions)):
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


def _write_shard(root: Path) -> dict[str, list[Any]]:
    index: dict[str, list[Any]] = {}
    with tarfile.open(root / "photos_val_00.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
        for number, (name, _, _) in enumerate(_PHOTOS):
            buffer = io.BytesIO()
            Image.new("RGB", MINI_SIZE_WH, (40 * number + 30, 90, 120)).save(buffer, "JPEG", quality=90)
            entry = tarfile.TarInfo(name)
            entry.size = buffer.tell()
            index[name] = ["photos_val_00.tar", shard.offset + 512, entry.size]
            shard.addfile(entry, io.BytesIO(buffer.getvalue()))
    return index


def _instances() -> dict[str, Any]:
    width, height = MINI_SIZE_WH
    images, annotations = [], []
    for image_id, (name, label_set, things) in enumerate(_PHOTOS, start=1):
        row = {"id": image_id, "file_name": name, "width": width, "height": height, "label_set": label_set}
        images.append({**row, "source": name.split("/")[0], "license": "drawn"})
        for category, x0, y0, x1, y1, kind in things:
            mask = np.zeros((height, width), dtype=bool)
            mask[y0:y1, x0:x1] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": encode_rle(mask) if kind != "none" else [],
                    "iscrowd": 0,
                    "mask": kind,
                }
            )
    categories = [{"id": key, "name": name} for key, name in _CATEGORIES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")
