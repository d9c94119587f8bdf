"""A picture is found under another name only where that is its name in another release of COCO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from label_files import coco, labelled, picture, write_files, write_json, write_tar, write_zip
from llava_grounding.data.check import check_dataset
from llava_grounding.data.image_names import coco_number, coco_spellings
from llava_grounding.data.images import open_images
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.labels import LabelledImages
from llava_grounding.data.readers.llava import LlavaDialogues
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.errors import DataError
from llava_grounding.train.batching.mixture import Mixture
from llava_grounding.train.batching.sources import open_sources

OLD, NEW = "COCO_train2014_000000000009.jpg", "000000000009.jpg"


def labels_of(*names: str) -> dict[str, Any]:
    data = coco([labelled(number, [0, 0, 4, 4], image_id=number) for number in range(1, len(names) + 1)], len(names))
    for row, name in zip(data["images"], names, strict=True):
        row["file_name"] = name
    return data


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("harbour_1.png", "harbour_2.png"),
        ("celeba/000001.jpg", "COCO_train2014_000000000001.jpg"),
        ("pier_1.png", "harbour_1.png"),
        ("000000000001.jpg", "x/000000000002.jpg"),
        ("1.png", "harbour_1.png"),
    ],
)
def test_a_dialogue_never_lands_on_a_picture_of_another_name(tmp_path: Path, asked: str, there: str) -> None:
    write_files(tmp_path, {there: picture()})
    instances = write_json(tmp_path / "i.json", labels_of(there))
    talk = [{"image": asked, "turns": [{"question": "What?", "answer": "A tug."}]}]
    dialogues = write_json(tmp_path / "t.json", talk)
    with pytest.raises(DataError, match=r"t\.json: entry 1: image '.*' is not in the instances file"):
        CustomData.from_files(instances, tmp_path, dialogues=dialogues)
    own = CustomData.from_files(instances, tmp_path, dialogues=dialogues, strict=False)
    assert [record.dialogues for record in own] == [()]


def test_the_names_of_releases_are_one_picture() -> None:
    labels = LabelledImages(
        labels_of(OLD, "000000000010.jpg", "a/000000000011.jpg", "b/000000000011.jpg"), open_images(".")
    )
    assert labels.find(NEW) == labels.find(f"coco/train2017/{NEW}") == labels.find(OLD) == 0
    assert labels.find("COCO_val2014_000000000010.jpg") == 1
    assert labels.find("b/000000000011.jpg") == 3
    for name in ("000000000011.jpg", "000000009.jpg", "x000000000009.jpg"):
        with pytest.raises(EntryError):
            labels.find(name)
    assert (coco_number(OLD), coco_number("9.jpg"), coco_number("COCO_x_000000000009.jpg")) == (9, None, None)
    assert OLD in coco_spellings(NEW)
    assert NEW in coco_spellings(OLD)
    assert coco_spellings("harbour_1.png") == ()


def as_folder(place: Path) -> Path:
    return write_files(place / "f", {OLD: picture()})


def as_tar(place: Path) -> Path:
    return write_tar(place / "x.tar", {f"train2014/{OLD}": picture()})


def as_zip(place: Path) -> Path:
    return write_zip(place / "x.zip", {f"train2014/{OLD}": picture()})


@pytest.mark.parametrize("store", [as_folder, as_tar, as_zip])
def test_dialogues_of_llava_find_pictures_of_either_release(tmp_path: Path, store: Callable[[Path], Path]) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    talk = write_json(tmp_path / "t.json", [{"id": "9", "image": NEW, "conversations": turns}])
    data = LlavaDialogues.from_files(talk, store(tmp_path))
    assert check_dataset(data).ok
    assert data[0].load_image().shape == (8, 10, 3)


def test_training_says_that_all_pictures_are_missing(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    write_json(tmp_path / "t.json", [{"id": "9", "image": NEW, "conversations": turns}] * 3)
    (tmp_path / "images").mkdir()
    sources = [{"kind": "llava", "dialogues": "t.json", "images": "images"}]
    with pytest.raises(
        DataError, match=r"nothing to learn from in llava: all pictures are missing, 3 of 3 \(9: there is"
    ):
        Mixture(open_sources(sources, tmp_path), 1, 0)
