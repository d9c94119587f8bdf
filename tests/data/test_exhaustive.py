"""What a file does not know is never said: no label that was left out becomes an absence, a count or a full list."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from label_files import SIZE_WH, coco, labelled, picture, write_files, write_json
from llava_grounding.data.check import check_dataset
from llava_grounding.data.images import FolderImages
from llava_grounding.data.readers.coco import CocoPhotos, PhotoPack, read_label_sets
from llava_grounding.data.readers.coco_panoptic import CocoPanoptic
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.gvc import GvcDialogues
from llava_grounding.data.readers.parts.exhaustive import missing_names
from llava_grounding.data.readers.refcoco import RefCoco
from llava_grounding.data.record import Record
from llava_grounding.dialogues.builder import build_sample
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.dialogues.settings import DIALOGUE_KINDS, DialogueSettings
from llava_grounding.errors import DataError

DOG, CAT, OTHER_CAT = labelled(1, [0, 0, 4, 4]), labelled(2, [5, 1, 3, 3], category=2), labelled(3, [6, 5, 3, 3])
SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]


def files(folder: Path, data: dict[str, Any]) -> tuple[Path, Path]:
    write_files(folder, {row["file_name"]: picture() for row in data["images"] if "file_name" in row})
    return write_json(folder / "i.json", data), folder


def read_coco(folder: Path, data: dict[str, Any]) -> Any:
    return CocoPhotos.from_files(*files(folder, data))


def read_own(folder: Path, data: dict[str, Any]) -> Any:
    return CustomData.from_files(*files(folder, data), strict=False)


def read_gvc(folder: Path, data: dict[str, Any]) -> Any:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    talk = [{"image": row["file_name"], "conversations": turns} for row in data["images"]]
    return GvcDialogues.from_files(write_json(folder / "t.json", talk), *files(folder, data))


def read_refs(folder: Path, data: dict[str, Any]) -> Any:
    refs = write_json(folder / "r.json", [{"ann_id": 90, "image_id": 1, "sentences": ["it"]}])
    instances, images = files(folder, {**data, "annotations": [*data["annotations"], labelled(90, [1, 1, 2, 2])]})
    return RefCoco.from_files(refs, images, instances, all_instances=True)


def read_panoptic(folder: Path, data: dict[str, Any]) -> Any:
    pixels = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    write_files(folder / "png", {"1.png": stream.getvalue(), "2.png": stream.getvalue()})
    rows = {
        row["id"]: {"image_id": row["id"], "file_name": f"{row['id']}.png", "segments_info": []}
        for row in data["images"]
    }
    for row in data["annotations"]:
        if row.get("image_id") in rows:
            rows[row["image_id"]]["segments_info"].append(row)
    instances, images = files(folder, {**data, "annotations": list(rows.values())})
    return CocoPanoptic.from_files(instances, folder / "png", images)


READERS: list[Callable[[Path, dict[str, Any]], Any]] = [read_coco, read_own, read_gvc, read_refs, read_panoptic]
BOXED = [read_coco, read_own, read_gvc, read_refs]


def said(record: Record, seeds: int = 40) -> str:
    """All that is asked and answered of a record."""
    talk = DialogueSettings(**dict.fromkeys(DIALOGUE_KINDS, 1.0), max_kinds=3)  # type: ignore[arg-type]
    samples = [build_sample(record, np.random.default_rng(seed), talk) for seed in range(seeds)]
    samples += [photo_sample(record, np.random.default_rng(seed)) for seed in range(seeds)]
    return " ".join(text for one in samples for turn in one.turns for text in (turn.question, turn.answer)).lower()


@pytest.mark.parametrize("read", READERS)
def test_what_is_labelled_and_complete_may_be_said(tmp_path: Path, read: Callable[..., Any]) -> None:
    records = list(read(tmp_path, coco([DOG, CAT, labelled(4, [1, 1, 4, 4], image_id=2)], num_images=2)))
    assert records[0].exhaustive == {"dog", "cat"}
    if len(records) > 1:
        assert missing_names(records[1]) == ["cat"]


LOST = {
    "box without area": {"bbox": [1, 1, 0, 3]},
    "box outside": {"bbox": [90, 1, 3, 3]},
    "no box": {"bbox": None},
    "bad polygon": {"segmentation": [[6, 6, 7, 7]]},
    "mask of another size": {"segmentation": {"size": [3, 3], "counts": [9]}},
    "mask of another kind": {"segmentation": "mask.png"},
    "id used twice": {"id": 1},
}


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("read", BOXED)
def test_a_label_left_out_takes_its_category_from_its_image(
    tmp_path: Path, read: Callable[..., Any], fault: str
) -> None:
    lost = labelled(5, [5, 5, 3, 3], category=2) | LOST[fault]
    other = labelled(6, [1, 1, 4, 4], image_id=2, category=2)
    records = list(read(tmp_path, coco([DOG, CAT, lost, other], num_images=2)))
    assert records[0].exhaustive == {"dog"}
    assert all(record.exhaustive == {"dog", "cat"} for record in records[1:])
    text = said(records[0])
    assert "no cat" not in text
    assert "how many cats" not in text
    assert "a cat and" not in text
    assert "and <g_s> a cat" not in text


@pytest.mark.parametrize(
    ("lost", "others", "kept"),
    [
        ("puppy", ["dog", "cat"], {"cat"}),
        ("puppies", ["dogs", "cat"], {"cat"}),
        ("dog", ["puppy", "cat"], {"cat"}),
        ("woman", ["person", "man", "dog"], {"man", "dog"}),
        ("cat", ["dog", "puppy"], {"dog", "puppy"}),
    ],
)
def test_a_label_left_out_takes_what_else_its_thing_may_be_called(
    tmp_path: Path, lost: str, others: list[str], kept: set[str]
) -> None:
    names = [lost, *others]
    labels = [labelled(9, [0, 0, 0, 0])]
    labels += [labelled(number, [1, 1, 4, 4], image_id=2, category=number) for number in range(1, len(names) + 1)]
    data = coco(labels, num_images=2)
    data["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    first, second = read_coco(tmp_path, data)
    assert first.exhaustive == kept
    assert second.exhaustive == set(names)
    assert set(missing_names(first)) == kept


@pytest.mark.parametrize("name", [None, "1.png", "./1.png"])
def test_labels_of_an_image_named_by_its_address_alone_are_of_the_one_kept(tmp_path: Path, name: str | None) -> None:
    data = coco([DOG, labelled(2, [5, 1, 3, 3], image_id=2, category=2)], num_images=2)
    address = {"coco_url": "http://x.org/1.png"}
    data["images"][0] = {**data["images"][0], "file_name": "1.png"}
    data["images"][1] = {**data["images"][1], "file_name": name, **address}
    (record,) = CocoPhotos(data, FolderImages(tmp_path))
    assert record.exhaustive == {"dog"}
    assert missing_names(record) == []


@pytest.mark.parametrize("read", READERS)
def test_a_crowd_and_a_box_that_is_wrong_hide_their_category(tmp_path: Path, read: Callable[..., Any]) -> None:
    for fault in ({"iscrowd": 1}, {"bbox": [1, 1, 0, 3]}):
        records = list(read(tmp_path, coco([DOG, CAT, labelled(5, [5, 5, 3, 3], category=2) | fault])))
        assert records[0].exhaustive == {"dog"}


@pytest.mark.parametrize("read", BOXED)
@pytest.mark.parametrize("category", [None, 9, "dog", [1]])
def test_a_label_of_nobody_knows_what_takes_all_categories(
    tmp_path: Path, read: Callable[..., Any], category: Any
) -> None:
    labels = coco([DOG, CAT, labelled(5, [5, 5, 3, 3]) | {"category_id": category}], num_images=2)
    records = list(read(tmp_path, labels))
    assert records[0].exhaustive == frozenset()
    assert all(record.exhaustive == {"dog", "cat"} for record in records[1:])


@pytest.mark.parametrize("read", [read_coco, read_own, read_gvc])
def test_a_label_of_nobody_knows_which_image_takes_its_category_from_all(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    for image in (None, "x", [1]):
        labels = coco([DOG, CAT, labelled(5, [5, 5, 3, 3]) | {"image_id": image}], num_images=2)
        assert [record.exhaustive for record in read(tmp_path, labels)] == [{"cat"}, {"cat"}]
    assert [record.exhaustive for record in read(tmp_path, coco([DOG, CAT, None], num_images=2))] == [set(), set()]


@pytest.mark.parametrize("name", ["1.png", "./1.png"])
def test_labels_of_a_picture_that_is_listed_twice_are_lost_to_the_first(tmp_path: Path, name: str) -> None:
    labels = coco([DOG, CAT, labelled(5, [5, 5, 3, 3], image_id=7, category=2)])
    labels["images"].append({"id": 7, "file_name": name, "width": SIZE_WH[0], "height": SIZE_WH[1]})
    (record,) = read_coco(tmp_path, labels)
    assert record.exhaustive == {"dog"}


def test_labels_of_an_image_id_that_two_pictures_bear_are_of_neither(tmp_path: Path) -> None:
    labels = coco([DOG, labelled(5, [5, 5, 3, 3], image_id=2)], num_images=2)
    labels["images"].append({"id": 1, "file_name": "3.png", "width": SIZE_WH[0], "height": SIZE_WH[1]})
    photos = read_coco(tmp_path, labels)
    assert [record.id for record in photos] == ["2.png"]
    assert len(photos.dropped["image id used twice"]) == 2


def test_a_degenerate_polygon_beside_a_good_one_costs_nothing(tmp_path: Path) -> None:
    (record,) = read_coco(tmp_path, coco([DOG | {"segmentation": [*SQUARE, [6, 6, 7, 7]]}, CAT]))
    assert record.exhaustive == {"dog", "cat"}
    mask = record.load_mask(0)
    assert mask is not None
    assert mask.sum() == 16


@pytest.mark.parametrize("read", [read_coco, read_own, read_gvc, read_refs])
def test_a_federated_file_says_image_by_image_what_is_absent(tmp_path: Path, read: Callable[..., Any]) -> None:
    labels = coco([DOG, CAT], num_images=2)
    names = ("dog", "cat", "saddle", "spoon", "mouse_(animal)", "mouse_(computer)")
    labels["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    labels["images"][0] |= {"neg_category_ids": [3, 5], "not_exhaustive_category_ids": [1]}
    record = read(tmp_path, labels)[0]
    assert record.exhaustive == {"cat", "saddle"}  # of the computer's mouse nobody knows, and it is said alike
    assert missing_names(record) == ["saddle"]
    assert [one.exhaustive for one in read(tmp_path, labels)[1:]] in ([], [frozenset()])
    labels["images"][0]["not_exhaustive_category_ids"] = "all"
    assert read(tmp_path, labels)[0].exhaustive == frozenset()


@pytest.mark.parametrize("read", READERS)
def test_headings_backgrounds_and_categories_that_no_label_bears_are_not_absent(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    labels = coco([DOG, CAT, labelled(7, [0, 0, 2, 2], category=8), labelled(8, [0, 0, 2, 2], category=5)])
    labels["images"].append({"id": 2, "file_name": "2.png", "width": SIZE_WH[0], "height": SIZE_WH[1]})
    labels["annotations"][2:] = [row | {"image_id": 2} for row in labels["annotations"][2:]]
    labels["categories"] = [
        {"id": 1, "name": "dog", "supercategory": "animal"},
        {"id": 2, "name": "cat", "supercategory": "Animal"},
        {"id": 3, "name": "presence-of-pets", "supercategory": "none"},
        {"id": 4, "name": "_background_"},
        {"id": 5, "name": "animal"},
        {"id": 6, "name": "horse"},
        {"id": 8, "name": "other"},
    ]
    records = list(read(tmp_path, labels))
    assert records[0].exhaustive == {"dog", "cat"}
    text = " ".join(said(record, 20) for record in records)
    for name in ("background", "animal", "horse", "presence", "other"):
        assert f"no {name}" not in text
    assert "an other" not in text


def test_a_region_that_is_not_labelled_makes_nothing_complete(tmp_path: Path) -> None:
    labels = coco([DOG, CAT, labelled(5, [5, 5, 3, 3], category=3)])
    labels["categories"].append({"id": 3, "name": "Ignored-Regions"})
    (record,) = read_coco(tmp_path, labels)
    assert record.exhaustive == frozenset()
    assert [thing.kind for thing in record.instances] == ["thing", "thing", "crowd"]


def test_a_name_for_something_that_is_there_is_not_absent(tmp_path: Path) -> None:
    labels = coco([DOG, labelled(2, [1, 1, 3, 3], category=2, image_id=2)], num_images=2)
    for names, missing in (
        (("puppy", "dog"), []),
        (("dogs", "dog"), []),
        (("bicycle", "bike"), []),
        (("a", "b"), ["b"]),
    ):
        labels["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        assert missing_names(read_coco(tmp_path, labels)[0]) == missing


def test_the_recipe_says_that_a_file_is_not_complete_or_that_crowds_are_things(tmp_path: Path) -> None:
    place = files(tmp_path, coco([DOG, CAT | {"iscrowd": 1}]))
    for read in (CocoPhotos.from_files, CustomData.from_files):
        assert read(*place, exhaustive=False)[0].exhaustive == frozenset()
        assert read(*place)[0].exhaustive == {"dog"}
        record = read(*place, crowds_as_things=True)[0]
        assert record.exhaustive == {"dog", "cat"}
        assert [thing.kind for thing in record.instances] == ["thing", "thing"]


def test_label_sets_are_read_from_the_file_beside_the_labels(tmp_path: Path) -> None:
    labels = coco([DOG, CAT, CAT | {"id": 5, "bbox": [1, 1, 0, 0]}], num_images=2)
    for row, name in zip(labels["images"], ("pets", "nothing"), strict=True):
        row["label_set"] = name
    (tmp_path / "label_sets.json").write_text(json.dumps({"pets": ["dog", "cat", "llama"], "nothing": []}))
    assert [one.exhaustive for one in read_coco(tmp_path, labels)] == [{"dog", "llama"}, frozenset()]
    (tmp_path / "instances_val.json").write_text(json.dumps(labels))
    assert PhotoPack(tmp_path).split("val")[0].exhaustive == {"dog", "llama"}
    for wrong in ("[]", '{"a": "b"}', '{"a": [1]}', "{"):
        (tmp_path / "label_sets.json").write_text(wrong)
        with pytest.raises(DataError, match=r"label_sets\.json"):
            read_label_sets(tmp_path)


def test_a_photo_counts_and_lists_only_what_is_complete(tmp_path: Path) -> None:
    labels = coco([DOG, OTHER_CAT, CAT])
    labels["images"][0]["label_set"] = "cats"
    (tmp_path / "label_sets.json").write_text(json.dumps({"cats": ["cat"]}))
    text = said(read_coco(tmp_path, labels)[0])
    assert "a cat" in text
    assert "two dogs" not in text
    assert "how many dogs" not in text


def test_images_of_lvis_are_named_by_their_address_and_numbers_may_have_a_point(tmp_path: Path) -> None:
    labels = coco([DOG | {"image_id": 1.0, "category_id": 1.0}])
    labels["images"][0] |= {"id": 1.0, "width": 10.0, "coco_url": "http://example.org/train2017/000000000001.jpg"}
    del labels["images"][0]["file_name"]
    write_files(tmp_path, {"COCO_train2014_000000000001.jpg": picture()})
    photos = CocoPhotos.from_files(write_json(tmp_path / "i.json", labels), tmp_path)
    assert photos.dropped == {}
    assert photos[0].id == "000000000001.jpg"
    assert photos[0].load_image().shape == (8, 10, 3)
    assert check_dataset(photos).ok
