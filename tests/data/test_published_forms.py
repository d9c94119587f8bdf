"""Forms that published files have and no description of their format tells of, each with the right value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from label_files import picture, write_files, write_json
from llava_grounding.data.check import check_dataset
from llava_grounding.data.readers.cvat import CvatXml
from llava_grounding.data.readers.flickr30k import Flickr30kMdetr
from llava_grounding.data.readers.label_studio import LabelStudio
from llava_grounding.data.readers.labelme import Labelme
from llava_grounding.data.readers.messages import ChatMessages
from llava_grounding.data.readers.via import Via
from llava_grounding.data.readers.yolo import Yolo
from llava_grounding.data.recognise import recognise
from llava_grounding.dialogues.settings import DialogueSettings
from llava_grounding.dialogues.turns import possible_kinds
from llava_grounding.errors import DataError
from llava_grounding.masks import encode_rle
from tool_files import TRIANGLE, H, W

PICTURE = picture(size_wh=(W, H))
HALF = "0 0.5 0.5 0.5 0.5\n"


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_a_labelme_file_that_names_itself_means_the_picture_beside_it(name: str, tmp_path: Path) -> None:
    write_files(tmp_path, {name: PICTURE})
    shape = {"label": "dog", "points": [[4, 8], [20, 8], [4, 24]], "shape_type": "polygon"}
    write_json(tmp_path / "a.json", {"shapes": [shape], "imagePath": "a.json", "imageWidth": W, "imageHeight": H})
    (record,) = Labelme.from_files(tmp_path)
    assert record.id == name
    assert record.load_image().shape == (H, W, 3)


def test_a_chat_that_shows_one_picture_again_is_about_one_picture(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PICTURE})
    said = ["<image>Who are they?", "Two players.", "What are they doing?<image>", "They are celebrating."]
    rows = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    write_json(tmp_path / "chat.json", [{"messages": rows, "images": ["a.png", "a.png"]}])
    data = ChatMessages.from_files(tmp_path / "chat.json")
    assert data.dropped == {}
    ((first, second),) = data[0].dialogues
    assert (first.question, second.question) == ("Who are they?", "What are they doing?")


def test_a_picture_that_is_first_shown_later_leaves_its_chat_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PICTURE})
    said = ["Hello.", "Show me a picture.", "<image>What is it?", "A dog."]
    rows = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    write_json(tmp_path / "chat.json", [{"messages": rows, "images": ["a.png"]}])
    data = ChatMessages.from_files(tmp_path / "chat.json")
    assert (len(data), list(data.dropped)) == (0, ["special token in the text"])


def yolo_folder(folder: Path, config: str, inner: str = "") -> Path:
    write_files(folder / inner / "images/train", {"a.png": PICTURE})
    write_files(folder / inner / "labels/train", {"a.txt": HALF.encode()})
    (folder / "data.yaml").write_text(config)
    return folder / "data.yaml"


def test_classes_with_an_ampersand_are_no_anchors(tmp_path: Path) -> None:
    config = "train: images/train\nnames:\n  0: Kitchen & dining room table\ndownload: |\n  dir.glob('*.txt')\n"
    path = yolo_folder(tmp_path, config)
    (found,) = recognise(path)
    assert (found.kind, found.missing, found.values["split"]) == ("yolo", {}, "train")
    assert [thing.category for thing in Yolo.from_files(path)[0].instances] == ["Kitchen & dining room table"]
    assert [one.kind for one in recognise(tmp_path)] == ["yolo"]


def test_anchors_of_a_data_yaml_are_refused(tmp_path: Path) -> None:
    path = yolo_folder(tmp_path, "train: images/train\nnames: &a [dog]\nothers: [*a, *a]\n")
    with pytest.raises(DataError, match="must be YAML without anchors"):
        Yolo.from_files(path)


@pytest.mark.parametrize("inner", ["birds", "datasets/birds", ""])
@pytest.mark.parametrize("said", ["birds", "../datasets/birds"])
def test_the_folder_of_a_data_yaml_is_found_where_ultralytics_puts_it(tmp_path: Path, inner: str, said: str) -> None:
    path = yolo_folder(tmp_path, f"path: {said}\ntrain: images/train\nnames: [dog]\n", inner)
    assert [len(record.instances) for record in Yolo.from_files(path)] == [1]


def test_pictures_that_a_data_yaml_names_elsewhere_are_missed_with_the_way_out(tmp_path: Path) -> None:
    path = yolo_folder(tmp_path / "recipes", "path: ../birds\ntrain: images/val\nnames: [dog]\n")
    with pytest.raises(DataError, match=r"no such folder or list below .*recipes; put data\.yaml beside its folders"):
        Yolo.from_files(path)


@pytest.mark.parametrize("inside", [False, True])
def test_the_two_folders_of_visual_genome_are_found_as_one(tmp_path: Path, inside: bool) -> None:
    names = {"VG_100K_2/1.jpg": PICTURE, "VG_100K/2.jpg": PICTURE}
    place = tmp_path / "images" if inside else tmp_path
    write_files(place, names)
    row = {"width": W, "height": H, "coco_id": None, "flickr_id": None}
    addresses = [f"https://cs.stanford.edu/people/rak248/{name}" for name in names]
    write_json(
        tmp_path / "image_data.json", [row | {"image_id": 1 + at, "url": url} for at, url in enumerate(addresses)]
    )
    thing = {"synsets": ["tree.n.01"], "h": 8, "object_id": 1058549, "merged_object_ids": [], "names": ["trees"]}
    objects = [{"image_id": number, "objects": [thing | {"w": 9, "y": 0, "x": 0}]} for number in (1, 2)]
    write_json(tmp_path / "objects.json", objects)
    region = {"region_id": 1382, "width": 8, "height": 9, "phrase": "the clock is green", "y": 7, "x": 2}
    regions = [{"id": number, "regions": [region | {"image_id": number}]} for number in (1, 2)]
    write_json(tmp_path / "region_descriptions.json", regions)
    found = recognise(tmp_path)
    assert sorted(one.kind for one in found) == ["visual_genome", "visual_genome_objects"]
    assert {one.values["images"] for one in found} == {place}


def nameless(folder: Path) -> Via:
    write_files(folder, {"a.png": PICTURE})
    shape = {"name": "polygon", "all_points_x": TRIANGLE[::2], "all_points_y": TRIANGLE[1::2]}
    regions = {"0": {"shape_attributes": shape, "region_attributes": {}}}
    return Via.from_files(write_json(folder / "v.json", {"a.png77": {"filename": "a.png", "regions": regions}}))


def test_labels_without_a_name_are_nothing_to_talk_about(tmp_path: Path) -> None:
    (record,) = nameless(tmp_path)
    assert possible_kinds(record, DialogueSettings(categories=1.0, region_names=1.0)) == ()


def test_the_check_tells_where_nothing_can_be_learnt(tmp_path: Path) -> None:
    report = check_dataset(nameless(tmp_path))
    assert report.doubts() == [
        "warning: nothing can be said of 1 pictures: there is no label with a name, caption, phrase or dialogue"
    ]
    assert report.ok
    assert report.to_dict()["nameless"] == 1


def test_points_of_a_skeleton_are_told_once_with_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"frame_000000.PNG": PICTURE})
    points = '<points frame="0" outside="0" points="4,8"></points>'
    skeleton = '<skeleton frame="0" outside="0" points="4,8;5,9"></skeleton>'
    inner = f'<track id="0" label="1">{points}</track>'
    size = f"<meta><original_size><width>{W}</width><height>{H}</height></original_size></meta>"
    text = f'<annotations>{size}<track id="3" label="person">{skeleton}{inner}</track></annotations>'
    (tmp_path / "annotations.xml").write_text(text)
    data = CvatXml.from_files(tmp_path)
    assert data.dropped == {"shape without an area": ("'frame_000000.PNG': track 3: skeleton",)}


def test_masks_that_sam_made_for_captions_of_flickr_are_read(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PICTURE})
    mask = np.zeros((H, W), dtype=bool)
    mask[8:24, 4:20] = True
    image = {"id": 1, "file_name": "a.png", "width": W, "height": H, "caption": "Two dogs."}
    row: dict[str, Any] = {"id": 5, "image_id": 1, "bbox": [4, 8, 16, 16], "tokens_positive": [[0, 8]]}
    data = {"images": [image], "annotations": [row | {"segmentation": [], "sam_mask": encode_rle(mask)}]}
    (tmp_path / "flickr_mergedGT_GCG_train.json").write_text(json.dumps(data))
    (record,) = Flickr30kMdetr.from_files(tmp_path / "flickr_mergedGT_GCG_train.json", tmp_path)
    read = record.load_mask(0, (W, H))
    assert read is not None
    assert np.array_equal(read, mask)


def storage_of_label_studio(folder: Path, form: str) -> None:
    """A file per annotation, named by its id alone, or a file per task, as Label Studio had them before version 1."""
    corner = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["dog"]}
    size = {"original_width": W, "original_height": H, "image_rotation": 0, "from_name": "label", "to_name": "image"}
    result = [{"id": "r1", "type": "rectanglelabels", "value": corner, **size}]
    for number, name in enumerate(("a", "b"), start=1):
        task = {"id": number, "data": {"image": f"s3://bucket/photos/{name}.png"}}
        if form == "completions":
            done = {"id": number * 1000 + 1, "lead_time": 7.1, "result": result * number}
            write_json(folder / f"{number}.json", {"completions": [done], **task})
            continue
        common = {"completed_by": {"id": 1, "email": "a@example.com"}, "ground_truth": False, "lead_time": 7.1}
        # The second to be saved is the tenth of its kind: names sort otherwise than numbers.
        for key, things, given_up in ((9, [], False), (10, result * number, False), (11, [], True)):
            one = {"id": 100 * number + key, "task": task, "result": things, "was_cancelled": given_up, **common}
            (folder / str(100 * number + key)).write_text(json.dumps(one))


@pytest.mark.parametrize("form", ["annotation", "completions"])
def test_what_label_studio_writes_to_a_storage_is_read(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "storage"
    write_files(tmp_path, {"images/a.png": PICTURE, "images/b.png": PICTURE, "storage/.keep": b""})
    storage_of_label_studio(folder, form)
    (found,) = recognise(folder)
    assert (found.kind, dict(found.values), found.missing) == ("label_studio", {"labels": folder}, {})
    data = LabelStudio.from_files(folder)
    assert {record.id: len(record.instances) for record in data} == {"a.png": 1, "b.png": 2}
    assert data[0].instances[0].box_xyxy == (0, 0, W / 2, H / 2)
    assert (data.dropped, data.unread) == ({}, {})
    one = next(path for path in folder.iterdir() if path.name in ("1.json", "110"))
    (alone,) = recognise(one)
    assert (alone.kind, alone.values["labels"]) == ("label_studio", one)
    assert [len(record.instances) for record in LabelStudio.from_files(one, tmp_path / "images")] == [1]


def test_what_is_no_task_in_a_storage_of_label_studio_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "storage"
    write_files(folder, {"a.png": PICTURE, "b.png": PICTURE, "broken.json": b"{", "none.json": b"5"})
    write_files(tmp_path, {"images/of_something_else.png": PICTURE})
    storage_of_label_studio(folder, "completions")
    data = LabelStudio.from_files(folder)
    assert len(data) == 2
    assert data.dropped == {"file that is no JSON": ("broken.json",), "task that is no object": ("task 5",)}
    with pytest.raises(DataError, match="must be a list of tasks with `data`, got a folder without such files"):
        LabelStudio.from_files(write_files(tmp_path / "empty", {"a.png": PICTURE}))
