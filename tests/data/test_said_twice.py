"""What a file, an index or a folder says twice in two ways is never settled without a word, and exact names win."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from label_files import coco, labelled, picture, write_files, write_json, write_tar, write_zip
from llava_grounding.data.images import open_images, read_index
from llava_grounding.data.plain_files import parse_json
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.parts.rows import read_entries
from llava_grounding.data.readers.refcoco import read_refs
from llava_grounding.errors import DataError

TWICE = r"an object must have each key once, got `a` twice with different values"


def test_a_list_of_annotations_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(coco([labelled(1, [0, 0, 4, 4])]))
    path = tmp_path / "i.json"
    path.write_text('{"annotations": [], ' + text[1:])
    with pytest.raises(DataError, match=r"cannot read \S*i\.json: .* got `annotations` twice"):
        CocoPhotos.from_files(path, tmp_path)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_a_key_that_stands_twice_is_refused_wherever_json_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('[{"a": 1, "b": {"a": 1, "a": 2}}]')
    with pytest.raises(DataError, match=TWICE):
        read_entries(path, "dialogues")
    with pytest.raises(DataError, match=TWICE):
        read_refs(path)
    path.write_text('{"a": 1, "a": [2]}')
    with pytest.raises(DataError, match=TWICE):
        read_index([path])
    assert parse_json('{"a": [1], "b": 2, "a": [1]}') == {"a": [1], "b": 2}


def test_two_indexes_that_put_a_picture_in_different_places_are_refused(tmp_path: Path) -> None:
    indexes = [write_json(tmp_path / f"index_{one}.json", {"1.png": [f"{one}.tar", 512, 9]}) for one in "ab"]
    with pytest.raises(
        DataError, match=r"`1\.png` must be in one place, but \S*index_b\.json says \['b\.tar', 512, 9\]"
    ):
        read_index(indexes)
    assert read_index(indexes[:1] * 2) == {"1.png": ["a.tar", 512, 9]}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_plain_picture_of_that_very_name_goes_before_one_in_the_folder_of_an_archive(
    tmp_path: Path, kind: str
) -> None:
    packed = {"x/1.png": picture(red=1), "x/2.png": picture(red=2)}
    {"tar": write_tar, "zip": write_zip}[kind](tmp_path / f"a.{kind}", packed)
    write_files(tmp_path, {"1.png": picture(red=3)})
    store = open_images(tmp_path)
    assert store.locate("1.png")() == picture(red=3)
    assert store.locate("x/1.png")() == picture(red=1)
    assert store.locate("2.png")() == picture(red=2)
    assert not store.has("3.png")
