"""Dialogues land on the picture they name: another release of COCO may spell it otherwise, other pictures may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from label_files import coco, labelled, picture, write_files
from llava_grounding.data.images import FolderImages
from llava_grounding.data.readers.labels import LabelledImages
from llava_grounding.data.readers.parts.numbers import EntryError

NUMBER = "000000000001"
SAME = [
    (f"{NUMBER}.jpg", f"COCO_train2014_{NUMBER}.jpg"),
    (f"{NUMBER}.jpg", f"coco/train2017/{NUMBER}.jpg"),
    (f"train2017/{NUMBER}.jpg", f"{NUMBER}.jpg"),
    (f"train2017/{NUMBER}.jpg", f"coco/train2014/COCO_train2014_{NUMBER}.jpg"),
    (f"{NUMBER}.jpg", f"COCO_val2014_{NUMBER}.JPG"),
    (f"cam1/{NUMBER}.jpg", f"./cam1/{NUMBER}.jpg"),
]
OTHER = [
    (f"cam1/{NUMBER}.png", f"cam2/{NUMBER}.png"),
    (f"a/cam/{NUMBER}.png", f"b/cam/{NUMBER}.png"),
    (f"{NUMBER}.png", f"{NUMBER}.jpg"),
    (f"{NUMBER}.png", f"cam2/{NUMBER}.png"),
    (f"cam1/{NUMBER}.png", f"{NUMBER}.png"),
]


def labels(folder: Path, known: str, files: list[str]) -> LabelledImages:
    data = coco([labelled(1, [0, 0, 4, 4])])
    data["images"][0]["file_name"] = known
    return LabelledImages(data, FolderImages(write_files(folder, dict.fromkeys(files, picture()))))


@pytest.mark.parametrize(("known", "name"), SAME)
def test_another_spelling_of_a_picture_of_coco_is_found(tmp_path: Path, known: str, name: str) -> None:
    assert labels(tmp_path, known, [known]).find(name) == 0


@pytest.mark.parametrize(("known", "name"), OTHER)
def test_another_picture_of_the_same_number_is_not_taken(tmp_path: Path, known: str, name: str) -> None:
    both = labels(tmp_path, known, [known, name])
    assert both.find(known) == 0
    with pytest.raises(EntryError, match="is not in the instances file"):
        both.find(name)
