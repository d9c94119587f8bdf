"""Labels of files of any size: on the disk as in memory, and what a damaged file is told to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from miniature import instances, write

from llava_grounding.annotate.json_stream import iter_rows
from llava_grounding.annotate.label_index import open_index
from llava_grounding.data.images import FolderImages
from llava_grounding.data.readers.labels import LabelledImages
from llava_grounding.errors import DataError


def test_labels_on_the_disk_are_those_in_memory(tmp_path: Path) -> None:
    paths = write(tmp_path, 7)
    value = instances(7)
    value["annotations"] += [{**value["annotations"][0], "bbox": [1, 2]}, {"id": 5}, 3]
    value["images"].append({**value["images"][0], "file_name": "other.jpg"})  # nobody knows which image 1 is
    # Annotations before images, blanks, and a mark of the byte order.
    text = json.dumps({key: value[key] for key in ("annotations", "categories", "images")}, indent=3)
    paths["instances"].write_text(f"\ufeff{text}\n", encoding="utf-8")
    store = FolderImages(tmp_path)
    index = open_index(paths["instances"], tmp_path)
    on_disk = index.labelled([2, 5, "COCO_val2014_000000000003.jpg", 99], store)
    in_memory = LabelledImages(value, store)
    assert len(on_disk) == 3
    for name in ("000000000002.jpg", "000000000005.jpg", "COCO_val2014_000000000003.jpg"):
        assert on_disk.record(on_disk.find(name)) == in_memory.record(in_memory.find(name))
    assert len(index.labelled([1], store)) == 0
    index.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be an object with `images`"),
        ('{"images": []', "expected"),
        ('{"images": [1, ]}', "expected another entry"),
        ('{"images": {}}', "must have a list under `images`"),
        ('{"other": []}', r"must have a list `images`, got keys \['other'\]"),
        ('{"images": [], "images": []}', "each key once"),
        ('{"images": [{"a": 1, "a": 2}]}', "each key once"),
        ('{"images": []} x', "expected nothing more"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(iter_rows(tmp_path / "x.json", ("images",)))
