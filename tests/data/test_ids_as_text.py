"""Ids written as text: every reader gives the same records as for numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from label_files import coco, labelled, picture, write_files, write_json
from llava_grounding.data.images import FolderImages
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.coco_labels import LabelOptions
from llava_grounding.data.readers.coco_panoptic import CocoPanoptic
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.flickr30k import Flickr30kMdetr
from llava_grounding.data.readers.parts.numbers import whole_number
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.refcoco import RefCoco
from llava_grounding.data.readers.visual_genome import VisualGenome

Change = Callable[[Any], Any]
THINGS = [labelled(7, [0, 0, 4, 4], expressions=["the left dog"]), labelled(8, [5, 0, 4, 4], category=2)]
IDS = ("id", "image_id", "category_id", "ann_id", "region_id")


def as_text(value: Any) -> Any:
    """The same with text for numbers under the keys of ids."""
    if isinstance(value, list):
        return [as_text(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: str(one) if key in IDS and isinstance(one, int) else as_text(one) for key, one in value.items()}


def pack(folder: Path, change: Change) -> PackedRecords:
    labels = coco(THINGS)
    labels["images"][0] |= {"label_set": "balloon1", "source": "yard", "license": "drawn"}
    labels["categories"].append({"id": 3, "name": "balloon"})
    captions = {"annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}
    statements = [{"image_id": 1, "statement": "It is.", "label": 1}]
    questions = [{"image_id": 1, "question": "Is there a dog?", "answer": "yes"}]
    parts = [change(part) for part in (captions, statements, questions)]
    sets = {"balloon1": frozenset({"balloon"})}
    return CocoPhotos(change(labels), FolderImages(folder), *parts, options=LabelOptions(label_sets=sets))


def own(folder: Path, change: Change) -> PackedRecords:
    labels = write_json(folder / "i.json", change(coco(THINGS)))
    captions = {"annotations": [{"image_id": 1, "caption": "[a dog](7) and a cat"}]}
    talk = [{"image": "1.png", "turns": [{"question": "What is [](8)?", "answer": "[A cat](8)."}]}]
    paths = write_json(folder / "c.json", change(captions)), write_json(folder / "t.json", talk)
    return CustomData.from_files(labels, folder, *paths)


def refs(folder: Path, change: Change) -> PackedRecords:
    rows = [{"ann_id": 7, "image_id": 1, "sentences": ["left dog"]}]
    return RefCoco(change(rows), FolderImages(folder), change(coco(THINGS)), all_instances=True)


def merged(folder: Path, change: Change) -> PackedRecords:
    return RefCoco(change(coco([thing | {"sentences": ["it"]} for thing in THINGS])), FolderImages(folder))


def mdetr(folder: Path, change: Change) -> PackedRecords:
    labels = coco([labelled(7, [0, 0, 4, 4], tokens_positive=[[0, 5]])])
    labels["images"][0]["caption"] = "A dog waits."
    return Flickr30kMdetr(change(labels), FolderImages(folder))


def panoptic(folder: Path, change: Change) -> PackedRecords:
    segments = [{"id": 7, "category_id": 1, "bbox": [0, 0, 4, 4]}, {"id": 8, "category_id": 2, "bbox": [5, 0, 4, 4]}]
    labels = coco([{"image_id": 1, "file_name": "1.png", "segments_info": segments}])
    labels["categories"][1] |= {"name": "sky-other-merged", "isthing": 0}
    return CocoPanoptic(change(labels), FolderImages(folder), FolderImages(folder))


def genome(folder: Path, change: Change) -> PackedRecords:
    image = {"image_id": 1, "width": 10, "height": 8}
    region = {"region_id": 7, "phrase": "a dog", "x": 0, "y": 0, "width": 4, "height": 4}
    return VisualGenome(change([image]), change([{"id": 1, "regions": [region]}]), FolderImages(folder))


@pytest.mark.parametrize("read", [pack, own, refs, merged, mdetr, panoptic, genome])
def test_ids_as_text_give_the_records_of_ids_as_numbers(
    tmp_path: Path, read: Callable[[Path, Change], PackedRecords]
) -> None:
    write_files(tmp_path, {"1.png": picture()})
    expected, found = read(tmp_path, lambda data: data), read(tmp_path, as_text)
    assert found.dropped == expected.dropped == {}
    assert list(found) == list(expected)
    (record,) = found
    assert record.image_id == 1
    assert [thing.id for thing in record.instances][:1] == [7]


def as_names(value: Any) -> Any:
    """The same with words for numbers under the keys of images, annotations and categories."""
    if isinstance(value, list):
        return [as_names(one) for one in value]
    if not isinstance(value, dict):
        return value
    plain = "segments_info" not in value and "bbox" in value and "image_id" not in value  # a segment: a colour
    kept = ("id",) if plain else ()
    return {
        key: f"no {one}" if key in IDS and key not in kept and isinstance(one, int) else as_names(one)
        for key, one in value.items()
    }


@pytest.mark.parametrize("read", [pack, refs, merged, mdetr, panoptic, genome])
def test_an_id_may_be_any_name(tmp_path: Path, read: Callable[[Path, Change], PackedRecords]) -> None:
    write_files(tmp_path, {"1.png": picture()})
    expected, found = read(tmp_path, lambda data: data), read(tmp_path, as_names)
    assert found.dropped == expected.dropped == {}
    (wanted,), (record,) = expected, found
    assert record.image_id == "no 1"
    numbers = [thing.id for thing in record.instances]
    assert numbers == [7, 8] if read is panoptic else set(numbers) <= {"no 7", "no 8"}
    for key in ("captions", "statements", "questions", "exhaustive", "expressions", "grounded_captions"):
        assert getattr(record, key) == getattr(wanted, key)
    for one, other in zip(record.instances, wanted.instances, strict=True):
        assert (one.category, one.box_xyxy, one.kind) == (other.category, other.box_xyxy, other.kind)


@pytest.mark.parametrize("number", [2**64, -(2**64), "9" * 20, 2**61 * 10**9])
def test_an_id_of_any_length_is_read_and_kept_apart_from_others(number: Any, tmp_path: Path) -> None:
    photos = CocoPhotos(coco([*THINGS, labelled(number, [0, 0, 4, 4])]), FolderImages(tmp_path))
    assert not photos.dropped
    assert [thing.id for thing in photos[0].instances] == [7, 8, str(number)]
    assert whole_number(2**64 - 1) == whole_number(str(2**64 - 1)) == 2**64 - 1


def test_an_image_id_as_text_keeps_its_label_set(tmp_path: Path) -> None:
    (record,) = pack(tmp_path, as_text)
    assert (record.exhaustive, record.source, record.license) == ({"balloon"}, "yard", "drawn")
