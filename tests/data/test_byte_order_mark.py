"""Files that begin with a byte order mark, as some editors write them, read as those without."""

from __future__ import annotations

import codecs
import shutil
from pathlib import Path

import pytest
from dialogue_files import chat, write_labelled
from dialogue_files import write_json as write_dialogues

from label_files import coco, labelled, picture, write_files, write_json, write_tar
from llava_grounding.data.images import open_images
from llava_grounding.data.readers.coco import PhotoPack
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.flickr30k import Flickr30kEntities
from llava_grounding.data.readers.llava import LlavaDialogues
from llava_grounding.data.readers.refcoco import RefCoco

TEXT = {".json", ".jsonl", ".txt", ".xml"}


def mark(folder: Path) -> int:
    """Put a mark before every text below the folder, and give how many there were."""
    paths = [path for path in folder.rglob("*") if path.suffix in TEXT]
    for path in paths:
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    return len(paths)


def test_a_photo_pack(mini_pack_root: Path, tmp_path: Path) -> None:
    shutil.copytree(mini_pack_root, tmp_path / "pack")
    expected = list(PhotoPack(tmp_path / "pack").split("val"))
    assert mark(tmp_path / "pack") == 6
    assert list(PhotoPack(tmp_path / "pack").split("val")) == expected


@pytest.mark.parametrize("name", ["talk.json", "talk.jsonl"])
def test_own_data_and_dialogues(tmp_path: Path, name: str) -> None:
    paths = write_labelled(tmp_path)
    captions = write_dialogues(tmp_path / "captions.json", {"annotations": [{"image_id": 20, "caption": "a dog"}]})
    own = {"image": "dog.jpg", "turns": [{"question": "What?", "answer": "A dog."}]}
    llava = {"id": "1", "image": "dog.jpg", "conversations": chat("What?", "A dog.")}
    for folder, entry in (("own", own), ("llava", llava)):
        (tmp_path / folder).mkdir()
        write_dialogues(tmp_path / folder / name, [entry] if name.endswith("json") else entry)
    assert mark(tmp_path) == 4
    (_, dog) = CustomData.from_files(**paths, captions=captions, dialogues=tmp_path / "own" / name)
    assert dog.captions == ("a dog",)
    assert len(dog.dialogues) == 1
    assert len(LlavaDialogues.from_files(tmp_path / "llava" / name, paths["images"])) == 1


def test_lists_sentences_and_annotations_of_flickr30k(tmp_path: Path) -> None:
    size = "<size><width>10</width><height>8</height></size>"
    files = {
        "Annotations/11.xml": f"<annotation>{size}</annotation>".encode(),
        "Sentences/11.txt": b"A [/EN#1/people man] waves .",
        "train.txt": b"11\n",
    }
    write_files(tmp_path, {**files, "11.jpg": picture()})
    assert mark(tmp_path) == 3
    data = Flickr30kEntities.from_files(tmp_path, tmp_path)
    assert data.dropped == {}
    assert data[0].grounded_captions[0].text == "A <g_s> man <g_e> <seg> waves."


def test_refs_as_json_and_the_index_of_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"1.png": picture()})
    write_json(tmp_path / "index_0.json", {"1.png": ["0.tar", 512, len(picture())]})
    instances = write_json(tmp_path / "instances.json", coco([labelled(7, [0, 0, 4, 4])]))
    refs = write_json(tmp_path / "refs.json", [{"ann_id": 7, "image_id": 1, "sentences": ["dog"]}])
    assert mark(tmp_path) == 3
    assert RefCoco.from_files(refs, tmp_path, instances)[0].expressions[0].text == "dog"
    assert open_images(tmp_path).locate("1.png")() == picture()
