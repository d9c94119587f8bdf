"""What `annotate` keeps beside its results, damaged or from elsewhere; names and errors that no database can hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_grounding.annotate.batch_files import import_batch
from llava_grounding.annotate.label_index import open_index
from llava_grounding.data.images import NamesOnly
from llava_grounding.endpoints.store import Store
from llava_grounding.errors import DataError

HALF = "\ud83d"
"""Of a surrogate pair, as JSON may hold it and an answer that was cut off ends."""


def instances(path: Path, **image: object) -> Path:
    thing = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    rows = [{"id": 1, "width": 40, "height": 30, **image}]
    path.write_text(json.dumps({"images": rows, "annotations": [thing], "categories": [{"id": 1, "name": "dog"}]}))
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: [path.unlink(), os.mkfifo(path)],  # type: ignore[func-returns-value]
        lambda path: [path.rename(path.with_name("x")), path.symlink_to("x")],
    ],
    ids=["empty", "text", "cut", "pipe", "link"],
)
def test_an_index_that_is_damaged_is_told_with_its_name(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    source = instances(tmp_path / "i.json", file_name="a.jpg")
    open_index(source, tmp_path).close()
    (path,) = tmp_path.glob("labels-*")
    damage(path)
    with pytest.raises(DataError, match=rf"{path.name} is .*index of labels.*; remove it"):
        open_index(source, tmp_path)


def test_images_are_named_by_the_path_of_their_address(tmp_path: Path) -> None:
    source = instances(tmp_path / "i.json", coco_url="https://x.org/val/a%20b.jpg?key=1/2")
    index = open_index(source, tmp_path)
    assert index.labelled(["a b.jpg"], NamesOnly()).file_name(0) == "a b.jpg"
    index.close()


def test_half_a_character_ends_nothing(tmp_path: Path) -> None:
    open_index(instances(tmp_path / "i.json", file_name=f"{HALF}.jpg"), tmp_path).close()
    store = Store(tmp_path)
    store.sending("key", "model")
    store.failed("key", "failed", f"the server said {HALF}")
    row = store.get("key")
    assert row is not None
    assert row.error == "the server said ?"
    body = {"choices": [{"message": {"content": "x"}}]}
    (tmp_path / "r.jsonl").write_text(json.dumps({"custom_id": HALF, "response": {"status_code": 200, "body": body}}))
    with pytest.raises(DataError, match="which was never written from this store"):
        import_batch(tmp_path / "r.jsonl", store, "model")
    store.close()
