"""Quirks of files that people have: names, numbers, repeated rows, words beside labels, and what a file is instead."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from label_files import SIZE_WH, coco, labelled, picture, write_files, write_json, write_tar, write_zip
from llava_grounding.data.check import check_dataset
from llava_grounding.data.images import FolderImages, open_images
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.coco_panoptic import CocoPanoptic
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.flickr30k import Flickr30kMdetr
from llava_grounding.data.readers.llava import LlavaDialogues
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.refcoco import RefCoco
from llava_grounding.data.record import Expression
from llava_grounding.errors import DataError

DOG = labelled(1, [1, 1, 4, 4])
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]


def read_refs(labels: Any, folder: Path) -> PackedRecords:
    rows = [row | {"sentences": ["it"]} for row in labels["annotations"]]
    return RefCoco({**labels, "annotations": rows}, FolderImages(folder))


def read_mdetr(labels: Any, folder: Path) -> PackedRecords:
    images = [row | {"caption": "a dog"} for row in labels["images"]]
    rows = [row | {"tokens_positive": [[0, 5]]} for row in labels["annotations"]]
    return Flickr30kMdetr({**labels, "images": images, "annotations": rows}, FolderImages(folder))


def read_own(labels: Any, folder: Path) -> PackedRecords:
    return CustomData.from_files(write_json(folder / "i.json", labels), folder)


def read_coco(labels: Any, folder: Path) -> PackedRecords:
    return CocoPhotos.from_files(write_json(folder / "i.json", labels), folder)


BOXED = [read_coco, read_own, read_refs, read_mdetr]

NAMES = {
    "images\\1.png": "images/1.png",
    "images/1.png": "1.png",
    "C:\\data\\images\\1.png": "1.png",
    "a%20b.png": "a b.png",
    "one.PNG": "One.png",
    "https://host.org/set/1.png?size=2": "deep/1.png",
    "1.png": "deep/1.png",
    "./x//1.png": "x/1.png",
    "train2017/000000000001.jpg": "val2017/000000000001.jpg",
    "frankfurt_1_gtFine_leftImg8bit.png": "frankfurt/frankfurt_1_leftImg8bit.png",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_picture_that_a_file_spells_otherwise_is_found(tmp_path: Path, kind: str, name: str) -> None:
    files = {NAMES[name]: picture(7), "other.png": picture(9)}
    root = tmp_path / "images"
    if kind == "folder":
        write_files(root, files)
    else:
        {"tar": write_tar, "zip": write_zip}[kind](root / f"a.{kind}", files)
    store = open_images(root)
    found = store.locate(name)
    assert found.exists()
    assert found() == picture(7)
    assert not store.has("cam1/1.png")


def test_a_picture_of_another_folder_is_not_taken_but_suggested(tmp_path: Path) -> None:
    write_files(tmp_path, {"cam2/1.png": picture(), "cam1/x.png": picture()})
    labels = coco([DOG])
    labels["images"][0]["file_name"] = "cam1/1.png"
    with pytest.raises(
        DataError, match=r"there is no image 'cam1/1\.png'; there is 'cam2/1\.png', did you mean that\?"
    ):
        CustomData.from_files(write_json(tmp_path / "i.json", labels), tmp_path)
    write_files(tmp_path, {"A.png": picture(1), "a.PNG": picture(2)})
    assert not open_images(tmp_path).has("a.png")  # it may be either


def test_a_long_name_is_told_once_and_whole(tmp_path: Path) -> None:
    name = f"kitchen_{'shelf_' * 20}.rf.0a1b2c3d.png"
    labels = coco([DOG])
    labels["images"][0]["file_name"] = name
    own = CustomData.from_files(write_json(tmp_path / "i.json", labels), tmp_path, strict=False)
    (line,) = own.examples["image missing"]
    assert line.count(name) == 1
    assert name in own.dropped["image missing"][0]


@pytest.mark.parametrize("read", BOXED)
def test_numbers_may_be_text_and_a_mask_may_come_without_a_box(
    tmp_path: Path, read: Callable[[Any, Path], PackedRecords]
) -> None:
    write_files(tmp_path, {"1.png": picture()})
    rows = [
        labelled(1, ["1", "1.0", 4, "4"]),  # type: ignore[list-item]
        {**labelled(2, []), "segmentation": [SQUARE]},
        {**labelled(3, [0, 0, 0, 0]), "segmentation": [[*map(str, SQUARE)]]},
        {**labelled(4, None), "segmentation": {"size": [8, 10], "counts": [9, 4, 4, 4, 4, 4, 4, 4, 43]}},  # type: ignore[arg-type]
        {**labelled(5, [1, 1, 4, 4]), "segmentation": [[[1, 1], [5, 1], [5, 5], [1, 5]]]},
    ]
    labels = coco(rows)
    labels["images"][0] |= {"width": "10.0", "height": 8.0}
    data = read(labels, tmp_path)
    assert data.dropped == {}
    assert [thing.box_xyxy for thing in data[0].instances] == [(1, 1, 5, 5)] * 5
    masks = [data[0].load_mask(index) for index in range(1, 5)]
    assert all(mask is not None and mask.sum() == 16 for mask in masks)


@pytest.mark.parametrize("read", [read_coco, read_own])
def test_a_row_that_is_repeated_says_nothing_new(tmp_path: Path, read: Callable[[Any, Path], PackedRecords]) -> None:
    write_files(tmp_path, {"1.png": picture()})
    row = DOG | {"caption": "the dog"}
    labels = coco([row, {**row}, labelled(2, [5, 5, 2, 2], category=2)])
    labels["images"] *= 2
    data = read(labels, tmp_path)
    assert data.dropped == {}
    assert data[0].exhaustive == {"dog", "cat"}
    assert data[0].expressions == (Expression("the dog", (0,)),)
    labels["annotations"][1]["caption"] = "the other dog"
    assert CocoPhotos(labels, FolderImages(tmp_path)).dropped == {"annotation id used twice": ("annotation 1",)}


@pytest.mark.parametrize("read", [read_coco, read_own])
@pytest.mark.parametrize(
    "words",
    [{"caption": "a dented kettle"}, {"sentences": [{"raw": "a dented kettle"}]}, {"expressions": ["a dented kettle"]}],
)
def test_what_an_annotation_says_of_itself_is_learnt(
    tmp_path: Path, read: Callable[[Any, Path], PackedRecords], words: dict[str, Any]
) -> None:
    write_files(tmp_path, {"1.png": picture()})
    labels = coco([DOG | words | {"score": 0.5}, labelled(2, [1, 1, 2, 2]) | {"attributes": {}}])
    labels["categories"][0]["name"] = "object"
    data = read(labels, tmp_path)
    assert data[0].expressions == (Expression("a dented kettle", (0,)),)
    assert [thing.category for thing in data[0].instances] == (
        ["", "object"] if "expressions" not in words or read is read_coco else ["object"] * 2
    )
    assert data.unread == {"score": 1}
    assert "  not read: `score` of 1 labels" in check_dataset(data).lines()


def test_surfaces_of_coco_are_named_as_people_say_them(tmp_path: Path) -> None:
    wall, other, kettle = labelled(1, [0, 0, 9, 3]), labelled(2, [0, 3, 9, 3]), labelled(3, [1, 1, 2, 2])
    labels = coco([wall | {"category_id": 171}, other | {"category_id": 183}, kettle])
    labels["categories"] = [
        {"id": 171, "name": "wall-brick"},
        {"id": 183, "name": "other"},
        {"id": 1, "name": "wall-clock"},
    ]
    (record,) = CocoPhotos(labels, FolderImages(tmp_path))
    said = [(thing.category, thing.kind) for thing in record.instances]
    assert said == [("brick wall", "stuff"), ("", "stuff"), ("wall-clock", "thing")]
    labels["categories"][0] |= {"id": 5, "isthing": 0}
    labels["annotations"][0]["category_id"] = 5
    assert CocoPhotos(labels, FolderImages(tmp_path))[0].instances[0].kind == "stuff"


def test_words_of_a_phrase_given_one_by_one_are_one_phrase(tmp_path: Path) -> None:
    labels = coco(
        [
            DOG | {"tokens_positive": [[4, 11], [0, 3], [17, 20]]},
            labelled(2, [1, 1, 2, 2]) | {"tokens_positive": [[4, 11]]},
        ]
    )
    labels["images"][0] |= {"caption": "two kettles on a box. a spoon."}
    (record,) = Flickr30kMdetr(labels, FolderImages(tmp_path))
    (said,) = record.grounded_captions
    assert said.text == "<g_s> two kettles <g_e> <seg> on a <g_s> box <g_e> <seg>. a spoon."
    assert said.targets == ((0,), (0,))


def test_panoptic_labels_of_cityscapes_are_read(tmp_path: Path) -> None:
    ids = np.zeros(SIZE_WH[::-1], dtype=np.uint8)
    ids[:4] = 26
    buffer = io.BytesIO()
    Image.fromarray(np.stack([ids, ids * 0, ids * 0], axis=-1)).save(buffer, "PNG")
    name = "bonn_000000_000019"
    write_files(
        tmp_path, {f"p/{name}_gtFine_panoptic.png": buffer.getvalue(), f"val/bonn/{name}_leftImg8bit.png": picture()}
    )
    data = {
        "images": [{"id": name, "width": 10, "height": 8, "file_name": f"{name}_gtFine_leftImg8bit.png"}],
        "annotations": [
            {
                "image_id": name,
                "file_name": f"{name}_gtFine_panoptic.png",
                "segments_info": [{"id": 26, "category_id": 26, "area": 40, "bbox": [0, 0, 10, 4], "iscrowd": 0}],
            }
        ],
        "categories": [{"id": 26, "name": "car", "supercategory": "vehicle", "color": [0, 0, 142], "isthing": 1}],
    }
    cars = CocoPanoptic.from_files(write_json(tmp_path / "p.json", data), tmp_path / "p", tmp_path / "val")
    report = check_dataset(cars)
    assert report.ok, report.lines()
    assert report.counts["instances with a mask"] == 1


@pytest.mark.parametrize("labelled_size", [(10, 8), (8, 10)])
def test_labels_of_a_picture_before_or_after_it_was_turned_fit(tmp_path: Path, labelled_size: tuple[int, int]) -> None:
    pixels = np.arange(80, dtype=np.uint8).reshape(8, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "PNG", exif=exif)
    write_files(tmp_path, {"1.png": buffer.getvalue()})
    labels = coco([DOG])
    labels["images"][0] |= {"width": labelled_size[0], "height": labelled_size[1]}
    image = CocoPhotos(labels, FolderImages(tmp_path))[0].load_image()[:, :, 0]
    np.testing.assert_array_equal(image, pixels if labelled_size == (10, 8) else np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("orientation", "size_wh", "doubtful"),
    [(6, (8, 8), True), (3, (10, 8), True), (6, (10, 8), False), (1, (8, 8), False)],
)
def test_labels_that_may_be_of_the_picture_before_it_was_turned_are_told(
    tmp_path: Path, orientation: int, size_wh: tuple[int, int], doubtful: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size_wh).save(tmp_path / "1.png", exif=exif)
    labels = coco([DOG])
    labels["images"][0] |= {"width": size_wh[0], "height": size_wh[1]}
    report = check_dataset(CocoPhotos(labels, FolderImages(tmp_path)))
    assert report.ok
    assert [("1 pictures with labels are turned by their EXIF (1.png)" in one) for one in report.doubts()] == (
        [True] * doubtful
    )
    labels["annotations"] = []
    assert "EXIF" not in "".join(check_dataset(CocoPhotos(labels, FolderImages(tmp_path))).doubts())


TALK = {"image": "1.png", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]}


def test_one_object_per_line_is_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": picture()})
    (tmp_path / "talk.json").write_text(f"{json.dumps(TALK)}\n{json.dumps(TALK)}\n")
    assert len(LlavaDialogues.from_files(tmp_path / "talk.json", tmp_path)) == 2
    refs = [{"ann_id": 1, "image_id": 1, "sentences": ["dog"], "split": "train"}] * 2
    (tmp_path / "refs.json").write_text("\n".join(map(json.dumps, refs)))
    labels = write_json(tmp_path / "i.json", coco([DOG]))
    assert len(RefCoco.from_files(tmp_path / "refs.json", tmp_path, labels)[0].expressions) == 2
    (tmp_path / "talk.json").write_text(f"{json.dumps(TALK)}\n{{broken\n")
    with pytest.raises(DataError, match=r"talk\.json, line 2: "):
        LlavaDialogues.from_files(tmp_path / "talk.json", tmp_path)


OTHER = {
    "a.xml": (
        b"<?xml version='1.0'?><annotation><filename>a</filename></annotation>",
        "XML, of Pascal VOC as it seems",
    ),
    "b.xml": (b"<annotations><version>1.1</version></annotations>", "XML, of CVAT as it seems"),
    "c.csv": (b"name,x\n1,2\n", r"a table \(CSV\)"),
    "d.json": (picture(), "a PNG picture"),
    "e.json": (b"PK\x03\x04", "a zip file"),
    "f.json": (b"", "an empty file"),
    "g.yaml": (b"names: [dog]", "YAML"),
    "folder": (None, "a folder"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_file_that_is_no_json_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    data, words = OTHER[name]
    if data is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(data)
    for read in (CocoPhotos, LlavaDialogues, CustomData):
        with pytest.raises(DataError, match=rf"cannot read \S*{name}: it is {words}.*, expected JSON"):
            read.from_files(tmp_path / name, tmp_path)
