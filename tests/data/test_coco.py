"""Reading COCO-format files and photo packs."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_grounding.data.check import check_dataset
from llava_grounding.data.images import FileBytes, FolderImages
from llava_grounding.data.readers.coco import CocoPhotos, PhotoPack
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.errors import DataError


def write_coco(folder: Path, annotations: list[dict[str, Any]], **image: Any) -> Path:
    """An instances file about one 10 x 8 PNG beside it."""
    Image.new("RGB", (10, 8), (200, 10, 10)).save(folder / "a.png")
    path = folder / "instances.json"
    images = [{"id": 1, "file_name": "a.png", "width": 10, "height": 8, **image}]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def annotation(box: list[float], **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, **more}


def test_a_pack_gives_records_with_labels_captions_and_statements(mini_pack_root: Path) -> None:
    photos = PhotoPack(mini_pack_root).split("val")
    assert len(photos) == 4
    record = photos[0]
    assert record.id == "yard/dogs.jpg"
    assert [i.category for i in record.instances] == ["dog", "dog", "person"]
    assert record.instances[0].box_xyxy == (2, 30, 22, 50)
    assert record.captions == ("Two dogs next to a man .", "a photo of the yard")
    assert record.statements == (("The person is left of the hot dog.", False),)
    assert record.questions[0] == ("Is there a dog in the image?", "yes")
    assert record.source == "yard"


def test_pixels_and_masks_are_read_when_asked_for(mini_pack_root: Path) -> None:
    record = PhotoPack(mini_pack_root).split("val")[1]
    image = record.load_image()
    assert image.shape == (60, 80, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.mean(axis=(0, 1)), (70, 90, 120), atol=2)
    assert record.load_mask(0) is None
    mask = PhotoPack(mini_pack_root).split("val")[0].load_mask(1)
    assert mask is not None
    assert mask.sum() == 38 * 40
    assert mask[10:50, 40:78].all()


def test_the_label_set_says_what_is_exhaustive(mini_pack_root: Path) -> None:
    coco, voc, words, street = PhotoPack(mini_pack_root).split("val")
    assert {"dog", "hot dog", "car"} <= coco.exhaustive
    assert "sky" not in coco.exhaustive
    assert "dining table" in voc.exhaustive
    assert words.exhaustive == frozenset()
    assert "sky" in street.exhaustive
    assert street.instances[0].kind == "class"


def test_a_record_travels_to_workers_without_the_index(mini_pack_root: Path) -> None:
    record = PhotoPack(mini_pack_root).split("val")[0]
    sent = pickle.dumps(record)
    assert len(sent) < 4000
    np.testing.assert_array_equal(pickle.loads(sent).load_image(), record.load_image())


CAT = annotation([7, 1, 2, 2]) | {"id": 77, "category_id": 2}


def test_a_plain_coco_file_covers_all_its_categories_and_reads_polygons(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [annotation([2, 1, 4, 5], segmentation=[[2, 1, 6, 1, 6, 6, 2, 6]]), CAT])
    record = CocoPhotos.from_files(path, tmp_path)[0]
    assert record.exhaustive == {"dog", "cat"}
    mask = record.load_mask(0)
    assert mask is not None
    assert mask.sum() == 20
    assert mask[1:6, 2:6].all()
    assert record.load_image()[0, 0].tolist() == [200, 10, 10]


def test_a_crowd_is_marked_and_its_category_is_not_exhaustive(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [annotation([2, 1, 4, 5], iscrowd=1), CAT])
    record = CocoPhotos.from_files(path, tmp_path)[0]
    assert record.instances[0].kind == "crowd"
    assert record.exhaustive == {"cat"}


def test_boxes_are_clipped_and_those_outside_dropped(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [annotation([-3, 2, 20, 3]), annotation([12, 0, 5, 5])])
    instances = CocoPhotos.from_files(path, tmp_path)[0].instances
    assert [i.box_xyxy for i in instances] == [(0, 2, 10, 5)]


def test_slices_and_iteration_agree_with_indexing(mini_pack_root: Path) -> None:
    photos = PhotoPack(mini_pack_root).split("val")
    assert photos[1:3] == [photos[1], photos[2]]
    assert list(photos) == [photos[i] for i in range(4)]
    assert photos[-1].id == "street/cars.jpg"


def test_an_unknown_split_names_those_there_are(mini_pack_root: Path) -> None:
    with pytest.raises(DataError, match=r"has no split `test`; it has \['val'\]"):
        PhotoPack(mini_pack_root).split("test")


def test_without_a_place_the_message_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAVA_GROUNDING_DATA", raising=False)
    with pytest.raises(DataError, match="set LLAVA_GROUNDING_DATA"):
        PhotoPack()


def test_the_variable_is_read(monkeypatch: pytest.MonkeyPatch, mini_pack_root: Path) -> None:
    monkeypatch.setenv("LLAVA_GROUNDING_DATA", str(mini_pack_root))
    assert PhotoPack().splits == ("val",)


def test_damage_is_one_sentence(tmp_path: Path) -> None:
    wrong_size = CocoPhotos.from_files(write_coco(tmp_path, [], width=11), tmp_path)
    with pytest.raises(DataError, match=r"image `a\.png` must be \(11, 8\)"):
        wrong_size[0].load_image()
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot read image `a\.png`"):
        wrong_size[0].load_image()
    with pytest.raises(DataError, match="ends early: expected 99 bytes"):
        FileBytes(tmp_path / "a.png", 2, 99)()
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        CocoPhotos.from_files(tmp_path / "instances.json", tmp_path)


@pytest.mark.parametrize("wrong", ["coco8", "cars", 80, ["voc20"], {}])
def test_an_unknown_label_set_is_refused_when_the_file_is_opened(tmp_path: Path, wrong: Any) -> None:
    path = write_coco(tmp_path, [], label_set=wrong)
    for read in (CocoPhotos.from_files, CustomData.from_files):
        with pytest.raises(DataError, match=r"so `label_sets\.json` must lie beside the file"):
            read(path, tmp_path)
    (tmp_path / "label_sets.json").write_text('{"coco80": ["dog"], "coco80+stuff": ["dog", "sky"], "voc20": []}')
    for read in (CocoPhotos.from_files, CustomData.from_files):
        with pytest.raises(DataError, match=r"unknown label_set `.*known are coco80, coco80\+stuff, voc20$") as caught:
            read(path, tmp_path)
    assert ("; did you mean `coco80`? known are" in str(caught.value)) == (wrong == "coco8")


BROKEN = {
    "annotation of an unknown category": {"category_id": 9},
    "annotation of an unknown image": {"image_id": 5},
    "image id that is neither a number nor text": {"image_id": None},
    "bbox that is not four finite numbers": {"bbox": [1, 2, float("nan"), 3]},
    "bbox without area": {"bbox": [1, 1, -2, 3]},
    "bbox outside the image": {"bbox": [10, 1, 2, 3]},
    "segmentation that is neither run lengths nor polygons": {"segmentation": "abc"},
    "polygon that is not three or more points": {"segmentation": [[1, 1, 4, 1, 4, 4, 1]]},
    "polygon that is not finite numbers": {"segmentation": [[1, 1, 4, 1, 4, float("inf")]]},
    "mask of another size than its image": {"segmentation": {"size": [10, 8], "counts": "0"}},
    "annotation id used twice": {"id": 1, "bbox": [1, 1, 2, 3]},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_annotation_is_left_out_counted_and_named(tmp_path: Path, reason: str) -> None:
    broken = annotation([1, 1, 2, 2]) | {"id": 7} | BROKEN[reason]
    photos = CocoPhotos.from_files(write_coco(tmp_path, [annotation([1, 1, 2, 2]), broken]), tmp_path)
    assert photos.dropped == {reason: (f"annotation {broken['id']}",)}
    assert [instance.id for instance in photos[0].instances] == [1]


@pytest.mark.parametrize(
    "wrong",
    [math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**400)],
    ids=["nan", "inf", "-inf", "1e300", "1e400", "-1e400"],
)
@pytest.mark.parametrize("place", range(4))
def test_numbers_that_no_picture_has_are_left_out_wherever_they_stand(tmp_path: Path, wrong: float, place: int) -> None:
    good = {"bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 4, 1, 4, 4]]}
    rows = [annotation([1, 1, 2, 2])]
    for number, against in enumerate((0, -wrong), start=2):  # with what would make up for it in a sum
        box, polygon = [1, 1, 2, 2], [1, 1, 4, 1, 4, 4]
        box[place], polygon[place] = wrong, wrong
        box[place - 1], polygon[place - 1] = against, against
        rows.append(annotation(box, segmentation=good["segmentation"]) | {"id": 10 * number})
        rows.append(annotation(good["bbox"], segmentation=[polygon]) | {"id": 10 * number + 1})
    path = write_coco(tmp_path, rows)
    for photos in (CocoPhotos.from_files(path, tmp_path), CustomData.from_files(path, tmp_path, strict=False)):
        assert photos.dropped == {
            "bbox that is not four finite numbers": ("annotation 20", "annotation 30"),
            "polygon that is not finite numbers": ("annotation 21", "annotation 31"),
        }
        assert [instance.id for instance in photos[0].instances] == [1]


@pytest.mark.parametrize("junk", [None, 3, "x", [], {"id": []}, {"id": 1, "image_id": {}}])
def test_junk_among_the_rows_is_left_out(tmp_path: Path, junk: Any) -> None:
    path = write_coco(tmp_path, [annotation([1, 1, 2, 2])])
    labels = json.loads(path.read_text())
    path.write_text(json.dumps({key: [junk, *rows] for key, rows in labels.items()}))
    photos = CocoPhotos.from_files(path, tmp_path)
    assert len(photos[0].instances) == len(photos) == 1
    assert sum(map(len, photos.dropped.values())) == 3


def test_a_category_id_used_twice_is_named_and_with_two_names_it_means_nothing(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [annotation([1, 1, 2, 2]), annotation([4, 4, 2, 2]) | {"id": 2, "category_id": 2}])
    labels = json.loads(path.read_text())
    labels["categories"] += [{"id": 2, "name": "cat"}, {"id": "1", "name": "wolf"}]
    path.write_text(json.dumps(labels))
    photos = CocoPhotos.from_files(path, tmp_path)
    assert [instance.category for instance in photos[0].instances] == ["cat"]
    assert photos[0].exhaustive == frozenset()  # the annotation left out may be of any category
    assert photos.dropped == {
        "category id used twice": ("category 2", "category 1"),
        "annotation of an unknown category": ("annotation 1",),
    }
    with pytest.raises(DataError, match=r"category 1: 1 is `dog` already, got `wolf`"):
        CustomData.from_files(path, tmp_path)


@pytest.mark.parametrize("data", [[], {}, {"images": []}, {"images": {}, "annotations": [], "categories": []}, "x"])
def test_a_file_that_is_not_coco_at_all_is_an_error(tmp_path: Path, data: Any) -> None:
    (tmp_path / "other.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"a COCO instances file must have a list `images|annotations|categories`"):
        CocoPhotos.from_files(tmp_path / "other.json", tmp_path)


def test_captions_that_hold_nothing_or_markup_are_left_out(tmp_path: Path) -> None:
    texts = ["  A dog\nsleeps ", "", "a <seg> b", None]
    rows = [{"id": number, "image_id": 1, "caption": text} for number, text in enumerate(texts)]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": [*rows, {"id": 9, "image_id": 2}]}))
    photos = CocoPhotos.from_files(write_coco(tmp_path, []), tmp_path, tmp_path / "captions.json")
    assert photos[0].captions == ("A dog sleeps",)
    assert photos.dropped == {
        "empty text": ("caption 1",),
        "special token in the text": ("caption 2",),
        "not text": ("caption 3",),
        "caption of an unknown image": ("caption 9",),
    }


GOOD_STATEMENT = {"image_id": 1, "statement": "The dog sits.", "label": 1}
GOOD_QUESTION = {"image_id": 1, "question": "Is there a dog?", "answer": "yes"}
BROKEN_ROWS = [
    ("statements", {"statement": "a", "label": 1}, "image id that is neither a number nor text"),
    ("statements", GOOD_STATEMENT | {"image_id": 9}, "statement of an unknown image"),
    ("statements", GOOD_STATEMENT | {"image_id": {}}, "image id that is neither a number nor text"),
    ("statements", GOOD_STATEMENT | {"statement": 3}, "not text"),
    ("statements", GOOD_STATEMENT | {"label": "no"}, "statement that is neither true nor false"),
    ("statements", {"image_id": 1, "statement": "a"}, "statement that is neither true nor false"),
    ("statements", ["a"], "statement that is no object"),
    ("questions", {"image_id": 1}, "not text"),
    ("questions", GOOD_QUESTION | {"answer": "maybe"}, "question without yes or no"),
    ("questions", GOOD_QUESTION | {"question": "<image>?"}, "special token in the text"),
    ("questions", None, "question that is no object"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), BROKEN_ROWS)
def test_a_broken_statement_or_question_is_left_out_and_named(tmp_path: Path, kind: str, row: Any, reason: str) -> None:
    labels = json.loads(write_coco(tmp_path, []).read_text())
    rows: dict[str, list[Any]] = {"statements": [GOOD_STATEMENT], "questions": [GOOD_QUESTION]}
    rows[kind].append(row)
    photos = CocoPhotos(labels, FolderImages(tmp_path), **rows)
    assert photos.dropped == {reason: (f"{kind[:-1]} 2",)}
    assert photos[0].statements == (("The dog sits.", True),)
    assert photos[0].questions == (("Is there a dog?", "yes"),)


def test_a_pack_with_damaged_files_says_which(mini_pack_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "pack"
    shutil.copytree(mini_pack_root, root)
    (root / "vsr_val.jsonl").write_text('{"image_id": 1, "statement": "It is.", "label": 1}\n{"image_id"')
    with pytest.raises(DataError, match=r"cannot read .*vsr_val\.jsonl, line 2"):
        PhotoPack(root).split("val")
    (root / "vsr_val.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"cannot read .*vsr_val\.jsonl, line 1"):
        PhotoPack(root).split("val")
    (root / "vsr_val.jsonl").unlink()
    shard = root / "photos_val_00.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    report = check_dataset(PhotoPack(root).split("val"))
    assert not report.ok
    assert report.broken_images.count == 2
    assert "photos_val_00.tar ends early" in report.broken_images.named[0]
    (root / "index_val.json").write_text("[1]")
    with pytest.raises(DataError, match=r"index_val\.json must be an object of names, got list"):
        PhotoPack(root).split("val")


def test_a_data_set_has_a_name_and_travels_whole(tmp_path: Path) -> None:
    photos = CocoPhotos.from_files(write_coco(tmp_path, [annotation([1, 1, 2, 2])]), tmp_path)
    assert photos.name == "instances"
    again = pickle.loads(pickle.dumps(photos))
    assert list(again) == list(photos)
    assert (again.name, again.dropped) == (photos.name, photos.dropped)


@pytest.mark.pack
def test_the_real_pack_has_what_its_readme_counts(photo_pack_root: Path) -> None:
    photos = PhotoPack(photo_pack_root).split("val")
    records = list(photos)
    assert len(records) == 1206
    assert sum(len(r.instances) for r in records) == 3528
    assert sum(len(r.captions) for r in records) == 3855
    assert sum(len(r.questions) for r in records) == 738
    assert sum(len(r.statements) for r in records) == 23
    for record in records[::40]:
        record.load_image()
        for index in range(len(record.instances)):
            record.load_mask(index)
