"""What the newest exporters of labelling tools write: projects of several tasks, masks and choices of new kinds."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from label_files import coco, labelled, picture, write_files, write_json
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.createml import CreateMl
from llava_grounding.data.readers.cvat import CvatXml
from llava_grounding.data.readers.label_studio import LabelStudio
from llava_grounding.data.readers.messages import ChatMessages
from llava_grounding.data.readers.metadata import MetadataFolder
from llava_grounding.data.readers.via import Via
from llava_grounding.data.readers.voc import PascalVoc
from llava_grounding.data.readers.yolo import Yolo
from llava_grounding.data.recognise import recognise
from llava_grounding.errors import DataError
from tool_files import TRIANGLE, H, W, pictures, voc_xml

PICTURE = picture(size_wh=(W, H))
BOX = (4, 8, 20, 24)
CVAT_BOX = '<box {} xtl="4" ytl="8" xbr="20" ybr="24" label="dog"></box>'


def things(data: Any) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    return {
        record.id: [(one.category, tuple(round(side, 6) for side in one.box_xyxy)) for one in record.instances]
        for record in data
    }


def cvat(folder: Path, inner: str) -> CvatXml:
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{inner}</annotations>")
    return CvatXml.from_files(folder)


def test_pictures_of_a_project_of_cvat_are_those_of_their_subset(tmp_path: Path) -> None:
    image = '<image id="0" name="a.png" subset="{}" task_id="{}" width="40" height="32">' + CVAT_BOX.format("")
    rows = "".join(image.format(subset, task) + "</image>" for subset, task in (("train", 3), ("val", 4)))
    write_files(tmp_path / "images", {"train/a.png": PICTURE, "val/a.png": PICTURE})
    assert things(cvat(tmp_path, rows)) == {"train/a.png": [("dog", BOX)], "val/a.png": [("dog", BOX)]}
    flat = write_files(tmp_path / "flat/images", {"a.png": PICTURE}).parent
    data = cvat(flat, rows)
    assert (len(data), data.dropped) == (0, {"picture of several tasks": ("image 'a.png'",) * 2})


def test_frames_of_a_project_of_cvat_are_those_of_their_task(tmp_path: Path) -> None:
    track = '<track id="0" label="dog" task_id="{}" subset="{}">' + CVAT_BOX.format('frame="0" outside="0"')
    tracks = "".join(track.format(task, subset) + "</track>" for task, subset in ((3, "train"), (4, "val")))
    size = "<original_size><width>{}</width><height>32</height></original_size>"
    sizes = "".join(f"<task><id>{task}</id>{size.format(width)}</task>" for task, width in ((3, 40), (4, 41)))
    meta = f"<meta><project><tasks>{sizes}</tasks></project></meta>"
    wide = picture(size_wh=(W + 1, H))
    write_files(tmp_path / "images", {"train/frame_000000.PNG": PICTURE, "val/frame_000000.PNG": wide})
    data = cvat(tmp_path, meta + tracks)
    assert things(data) == {f"{one}/frame_000000.PNG": [("dog", BOX)] for one in ("train", "val")}
    assert [record.image_size_wh for record in data] == [(W, H), (W + 1, H)]
    flat = write_files(tmp_path / "flat/images", {"frame_000000.PNG": PICTURE}).parent
    assert list(cvat(flat, meta + tracks).dropped) == ["image missing"]


def png_url(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


PAINTED = np.zeros((H, W, 4), dtype=np.uint8)
PAINTED[8:24, 4:20] = 255
VALUE = {"x": 10, "y": 25, "width": 40, "height": 50, "rotation": 0}
CORNERS = [(10, 25), (50, 25), (10, 75)]
VERTICES = [{"id": str(number), "x": x, "y": y} for number, (x, y) in enumerate(CORNERS)]
DOG: dict[str, Any] = {"id": "r", "type": "rectanglelabels", "value": {**VALUE, "rectanglelabels": ["dog"]}}
READ: dict[str, list[dict[str, Any]]] = {
    "choices": [
        {"id": "r", "type": "rectangle", "value": VALUE},
        {"id": "r", "type": "choices", "value": {**VALUE, "choices": ["dog"]}},
    ],
    "taxonomy": [
        {"id": "r", "type": "rectangle", "value": VALUE},
        {"id": "r", "type": "taxonomy", "value": {**VALUE, "taxonomy": [["animal", "dog"]]}},
    ],
    "labels": [
        {"id": "r", "type": "rectangle", "value": VALUE},
        {"id": "r", "type": "labels", "value": {**VALUE, "labels": ["dog"]}},
    ],
    "bitmask": [
        {"id": "r", "type": "bitmask", "value": {"imageDataURL": png_url(PAINTED), "bitmasklabels": ["dog"]}},
    ],
    "vector": [{"type": "vectorlabels", "value": {"vertices": VERTICES, "closed": True, "vectorlabels": ["dog"]}}],
}
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "point": ({"type": "keypointlabels", "value": {**VALUE, "keypointlabels": ["cat"]}}, "shape without an area"),
    "line": (
        {"type": "vectorlabels", "value": {"vertices": VERTICES, "vectorlabels": ["cat"]}},
        "shape without an area",
    ),
    "turned": ({**DOG, "image_rotation": 90}, "label of a picture turned in the tool"),
    "nameless": ({"id": "x", "type": "rectangle", "value": VALUE}, "region without one label"),
    "small": (
        {"value": {"imageDataURL": png_url(PAINTED[1:]), "bitmasklabels": ["cat"]}},
        "mask of another size than its image",
    ),
    "no PNG": ({"value": {"imageDataURL": "data:,x", "bitmasklabels": ["cat"]}}, "mask that is no PNG"),
}


def label_studio(folder: Path, result: list[dict[str, Any]], data: dict[str, Any] | None = None) -> LabelStudio:
    size = {"original_width": W, "original_height": H}
    task = {"id": 1, "data": data or {"image": "a.png"}, "annotations": [{"result": [one | size for one in result]}]}
    return LabelStudio.from_files(write_json(folder / "export.json", [task]))


@pytest.mark.parametrize("form", READ)
def test_a_region_of_label_studio_is_read_however_it_is_labelled(tmp_path: Path, form: str) -> None:
    pictures(tmp_path)
    data = label_studio(tmp_path, READ[form])
    assert (things(data), data.dropped, data.unread) == ({"a.png": [("dog", BOX)]}, {}, {})
    if form == "bitmask":
        mask = data[0].load_mask(0)
        assert mask is not None
        assert np.array_equal(mask, PAINTED[:, :, 3] > 0)


@pytest.mark.parametrize("form", LEFT_OUT)
def test_a_region_of_label_studio_that_is_left_out_takes_its_label_along(tmp_path: Path, form: str) -> None:
    pictures(tmp_path)
    result, reason = LEFT_OUT[form]
    data = label_studio(tmp_path, [DOG, result])
    assert (things(data), list(data.dropped)) == ({"a.png": [("dog", BOX)]}, [reason])
    assert data[0].exhaustive == (set() if form in ("turned", "nameless") else {"dog"})


@pytest.mark.parametrize(
    ("result", "data", "reason"),
    [
        ([{**DOG, "to_name": "1"}, {**DOG, "to_name": "2"}], {"image": "a.png", "image2": "b.png"}, "several images"),
        ([{**DOG, "item_index": 1}], {"images": ["a.png", "b.png"]}, "several images"),
        ([DOG], {"images": ["a.png", "b.png"]}, "several images"),
        ([DOG], {"image": "data:image/png;base64,iVBORw0KGgo="}, "image inside of the file"),
    ],
)
def test_a_task_of_label_studio_about_several_pictures_is_left_out(
    tmp_path: Path, result: list[dict[str, Any]], data: dict[str, Any], reason: str
) -> None:
    pictures(tmp_path)
    found = label_studio(tmp_path, result, data)
    assert (len(found), found.dropped) == (0, {reason: ("task 1",)})


def test_ids_and_choices_of_label_studio_may_be_anything(tmp_path: Path) -> None:
    pictures(tmp_path)
    odd = [DOG | {"id": ["x"], "to_name": ["image"]}, {"id": "y", "type": "choices", "value": {"choices": 5}}]
    data = label_studio(tmp_path, [DOG | {"to_name": ["image"]}, *odd])
    assert things(data) == {"a.png": [("dog", BOX)] * len(data[0].instances)}
    assert data[0].instances


def test_files_of_a_view_of_via_3_may_be_anything(tmp_path: Path) -> None:
    pictures(tmp_path)
    project: dict[str, Any] = {"project": {}, "attribute": {}, "config": {}, "metadata": {}}
    project["file"] = {"1": {"fid": 1, "fname": "a.png", "type": 2}}
    project["view"] = {"1": {"fid_list": [1]}, "2": {"fid_list": [[1]]}, "3": {"fid_list": ["7"]}}
    data = Via.from_files(write_json(tmp_path / "project.json", project))
    assert things(data) == {"a.png": []}
    assert data.dropped == {"no image": ("view 2", "view 3")}


def test_a_dialogue_about_code_names_no_marks(tmp_path: Path) -> None:
    def kind(*answers: str) -> str:
        talks = [[{"from": "human", "value": "<image>\nSay"}, {"from": "gpt", "value": answer}] for answer in answers]
        rows = [{"id": n, "image": "a.png", "conversations": talk} for n, talk in enumerate(talks)]
        return recognise(write_json(tmp_path / "talks.json", rows))[0].kind

    pictures(tmp_path)
    assert kind("A dog.", "Use vector<1> here.", "A cat.") == "llava"
    assert kind("The dog <1>.", "The cat <2> and <1>.", "Nothing.") == "set_of_mark"
    odd = write_json(tmp_path / "odd.json", [{"id": 1, "image": "a.png", "conversations": 5, "images": 5}])
    assert all(found.kind for found in recognise(odd))


def test_a_project_of_via_3_is_read(tmp_path: Path) -> None:
    pictures(tmp_path)
    shapes: list[tuple[str, list[float], dict[str, str]]] = [
        ("1", [2, 4, 8, 16, 16], {"1": "0", "2": "big"}),
        ("1", [7, *TRIANGLE], {"1": "1"}),
        ("1", [8, 12, 8, 4, 16, 20, 16, 12, 24], {"1": "0"}),
        ("1", [3, 10, 10, 4], {"1": "0,1"}),
        ("1", [1, 10, 10], {"1": "0"}),
        ("2", [], {"1": "0"}),
        ("9", [2, 4, 8, 16, 16], {"1": "0"}),
    ]
    names = {"1": "a.png", "2": "b.png", "3": "film.mp4"}
    project = {
        "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": ["1", "2", "3", "4"]},
        "config": {},
        "attribute": {
            "1": {"aname": "label", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "dog", "1": "cat"}},
            "2": {"aname": "size", "anchor_id": "FILE1_Z0_XY1", "type": 1, "options": {}},
        },
        "file": {fid: {"fid": fid, "fname": name, "type": 4 if fid == "3" else 2} for fid, name in names.items()},
        "view": {**{fid: {"fid_list": [fid]} for fid in names}, "4": {"fid_list": ["1", "2"]}},
        "metadata": {
            f"{vid}_{number}": {"vid": vid, "z": [], "xy": xy, "av": av} for number, (vid, xy, av) in enumerate(shapes)
        },
    }
    path = write_json(tmp_path / "project.json", project)
    data = Via.from_files(path)
    assert things(data) == {"a.png": [("dog", BOX), ("cat", BOX), ("dog", BOX)], "b.png": []}
    assert [len(entries) for entries in data.dropped.values()] == [1] * 5
    assert {"several images", "no picture but a film or a sound", "shape without an area"} <= set(data.dropped)
    assert data[0].exhaustive == set()  # of the circle nobody knows which of two it is
    assert recognise(path)[0].kind == "via"


def test_turned_boxes_and_outlines_of_points_are_read_from_xml(tmp_path: Path) -> None:
    pictures(tmp_path)
    turned = "<robndbox><cx>12</cx><cy>16</cy><w>16</w><h>16</h><angle>1.5707963267948966</angle></robndbox>"
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in zip(TRIANGLE[::2], TRIANGLE[1::2], strict=True))
    outline = f"<deleted>{{}}</deleted><polygon><username/>{points}</polygon>"
    inner = "".join(f"<object><name>dog</name>{one}</object>" for one in (turned, outline.format(0), outline.format(1)))
    (tmp_path / "a.xml").write_text(voc_xml("a.png", inner))
    data = PascalVoc.from_files(tmp_path)
    assert (things(data), data.dropped) == ({"a.png": [("dog", BOX), ("dog", BOX)]}, {})
    assert data[0].instances[1].segmentation == [[*map(float, TRIANGLE)]] or data[0].load_mask(1) is not None


def test_lists_of_cvat_and_lines_of_ultralytics_are_read_as_yolo(tmp_path: Path) -> None:
    line = f"0 {12 / W} {16 / H} {16 / W} {16 / H}\n"
    folder = write_files(tmp_path / "cvat", {"images/train/a.png": PICTURE})
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_text(line)
    (folder / "data.yaml").write_text("names:\n  0: dog\npath: .\ntrain: train.txt\n")
    (folder / "train.txt").write_text("data/images/train/a.png\n")
    assert things(Yolo.from_files(folder)) == {"images/train/a.png": [("dog", BOX)]}
    (folder / "data.yaml").write_text("nc: 1\ntrain: images/train\n")
    (folder / "names.txt").write_text("dog\n")
    assert recognise(folder)[0].missing
    assert things(Yolo.from_files(folder, names=folder / "names.txt")) == {"images/train/a.png": [("dog", BOX)]}

    shares = [place / (H if number % 2 else W) for number, place in enumerate(TRIANGLE)]
    image = {"type": "image", "width": W, "height": H}
    rows: list[dict[str, Any]] = [
        {"type": "dataset", "task": "segment", "class_names": {"0": "dog"}},
        {**image, "file": "a.png", "split": "train", "annotations": {"segments": [[0, *shares], [7, *shares]]}},
        {**image, "file": "b.png", "split": "val", "annotations": {"boxes": [[0, *map(float, line.split()[1:])]]}},
    ]
    folder = write_files(tmp_path / "lines", {"images/train/a.png": PICTURE, "b.png": PICTURE})
    (folder / "d.ndjson").write_text("\n".join(map(json.dumps, rows)))
    data = Yolo.from_files(folder / "d.ndjson")
    assert (things(data), list(data.dropped)) == ({"images/train/a.png": [("dog", BOX)]}, ["class without a name"])
    assert things(Yolo.from_files(folder / "d.ndjson", "val")) == {"b.png": [("dog", BOX)]}
    assert (recognise(folder)[0].kind, recognise(folder / "d.ndjson")[0].kind) == ("yolo", "yolo")
    with pytest.raises(DataError, match=r"split must be one of \['train', 'val'\]"):
        Yolo.from_files(folder / "d.ndjson", "test")


ROWS: dict[str, tuple[Callable[[Path], Any], list[dict[str, Any]]]] = {
    "createml": (
        CreateMl.from_files,
        [
            {
                "imagefilename": "a.png",
                "annotation": [{"label": "dog", "coordinates": {"x": 12, "y": 16, "width": 16, "height": 16}}],
            }
        ],
    ),
    "metadata": (
        lambda path: MetadataFolder.from_files(path.rename(path.with_name("metadata.jsonl"))),
        [{"image_file_name": "a.png", "objects": [{"bbox": [4, 8, 16, 16], "category": "dog"}]}],
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_other_names_of_keys_are_known(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path)
    read, rows = ROWS[kind]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows) if kind == "createml" else json.dumps(rows[0]))
    assert recognise(path)[0].kind == kind if kind == "createml" else True
    assert things(read(path)) == {"a.png": [("dog", BOX)]}


@pytest.mark.parametrize(
    "row",
    [
        {"query": "<image>What?", "response": "A dog."},
        {"query": "And?", "response": "A cat.", "history": [["<image>What?", "A dog."]]},
        {"prompt": [{"role": "user", "content": "What?"}], "completion": [{"role": "assistant", "content": "A dog."}]},
    ],
)
def test_a_question_with_its_answer_is_a_chat(tmp_path: Path, row: dict[str, Any]) -> None:
    pictures(tmp_path)
    path = write_json(tmp_path / "x.json", [row | {"images": ["a.png"]}])
    (record,) = ChatMessages.from_files(path)
    said = [(turn.question, turn.answer) for turn in record.dialogues[0]]
    assert said == [("What?", "A dog."), ("And?", "A cat.")][: 1 + ("history" in row)]
    assert recognise(path)[0].kind == "messages"


def test_points_of_coco_may_be_objects_and_pictures_lie_two_folders_down(tmp_path: Path) -> None:
    write_files(tmp_path, {"images/default/1.png": picture()})
    polygon = [{"x": 1, "y": 1}, {"x": 6, "y": 1}, {"x": 6, "y": 5}]
    (tmp_path / "annotations").mkdir()
    path = write_json(tmp_path / "annotations/i.json", coco([labelled(1, [1, 1, 5, 4], segmentation=[polygon])]))
    (found,) = recognise(path)
    assert found.values["images"] == tmp_path / "images/default"
    (record,) = CocoPhotos.from_files(path, tmp_path / "images")
    assert record.instances[0].segmentation == [[1, 1, 6, 1, 6, 5]]
    assert record.load_image().shape[2] == 3
