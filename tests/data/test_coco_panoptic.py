"""COCO panoptic labels: masks from PNG colours, names as people say them, broken segments left out."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from label_files import SIZE_WH, picture, write_files, write_json, write_zip
from llava_grounding.data.images import FileBytes
from llava_grounding.data.readers.coco_panoptic import CocoPanoptic, SegmentMap
from llava_grounding.data.readers.parts.category_names import natural_name
from llava_grounding.errors import DataError

DOG, CROWD, SKY = 7, 300, 70000
"""Segment ids; they need one, two and three of the PNG's channels."""


def segment_ids() -> np.ndarray:
    ids = np.zeros(SIZE_WH[::-1], dtype=np.int32)
    ids[:3] = SKY
    ids[4:7, 2:6] = DOG
    ids[6:, 7:] = CROWD
    return ids


def png_of(ids: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def segment(number: int, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"id": number, "category_id": category, "bbox": bbox, "area": 1, "iscrowd": 0, **more}


SEGMENTS = [
    segment(SKY, 187, [0, 0, 10, 3]),
    segment(DOG, 18, [2, 4, 4, 3]),
    segment(CROWD, 1, [7, 6, 3, 2], iscrowd=1),
]


def write(folder: Path, segments: list[Any] = SEGMENTS, **annotation: Any) -> Path:
    write_files(folder, {"images/1.jpg": picture(), "png/1.png": png_of(segment_ids())})
    row = {"image_id": 1, "file_name": "1.png", "segments_info": segments}
    categories = [
        {"id": 1, "name": "person", "isthing": 1},
        {"id": 18, "name": "dog", "isthing": 1},
        {"id": 187, "name": "sky-other-merged", "isthing": 0},
    ]
    images = [{"id": 1, "file_name": "1.jpg", "width": SIZE_WH[0], "height": SIZE_WH[1]}]
    data = {"images": images, "annotations": [row | annotation], "categories": categories}
    return write_json(folder / "panoptic_val2017.json", data)


def read(folder: Path, **annotation: Any) -> CocoPanoptic:
    return CocoPanoptic.from_files(write(folder, **annotation), folder / "png", folder / "images")


def test_things_stuff_and_crowds_have_the_masks_of_their_colours(tmp_path: Path) -> None:
    photos = read(tmp_path)
    (record,) = photos
    assert photos.name == "panoptic_val2017"
    assert [(i.category, i.kind, i.id) for i in record.instances] == [
        ("sky", "stuff", SKY),
        ("dog", "thing", DOG),
        ("person", "crowd", CROWD),
    ]
    assert record.instances[1].box_xyxy == (2, 4, 6, 7)
    for index, number in enumerate((SKY, DOG, CROWD)):
        np.testing.assert_array_equal(record.load_mask(index), segment_ids() == number)
    assert record.load_image().shape == (8, 10, 3)
    assert record.exhaustive == {"sky", "dog"}
    assert photos.dropped == {}


def test_the_png_is_decoded_once_per_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = read(tmp_path)[0]
    opened = []
    real = FileBytes.__call__
    monkeypatch.setattr(FileBytes, "__call__", lambda self: opened.append(self.path.name) or real(self))
    for index in range(3):
        record.load_mask(index)
    assert opened == ["1.png"]


def test_a_record_travels_without_its_decoded_png(tmp_path: Path) -> None:
    record = read(tmp_path)[0]
    before = len(pickle.dumps(record))
    record.load_mask(0)
    sent = pickle.dumps(record)
    assert len(sent) == before < 3000
    np.testing.assert_array_equal(pickle.loads(sent).load_mask(1), record.load_mask(1))


def test_pngs_may_lie_in_a_zip_with_a_folder(tmp_path: Path) -> None:
    labels = write(tmp_path)
    write_zip(tmp_path / "png.zip", {"panoptic_val2017/1.png": png_of(segment_ids())})
    record = CocoPanoptic.from_files(labels, tmp_path / "png.zip", tmp_path / "images")[0]
    mask = record.load_mask(1)
    assert mask is not None
    assert mask.sum() == 12


BROKEN = {
    "segment that is no object": 5,
    "segment id that is no whole number": segment(1, 18, [0, 0, 1, 1]) | {"id": 0.5},
    "segment of an unknown category": segment(1, 99, [0, 0, 1, 1]),
    "segment id used twice, or no colour": segment(SKY, 18, [0, 0, 1, 1]),
    "bbox without area": segment(1, 18, [0, 0, 0, 1]),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_segment_is_left_out_counted_and_named(tmp_path: Path, reason: str) -> None:
    photos = read(tmp_path, segments_info=[*SEGMENTS, BROKEN[reason]])
    assert len(photos[0].instances) == 3
    assert list(photos.dropped) == [reason]
    assert photos.dropped[reason][0].startswith("1.jpg: ")


@pytest.mark.parametrize("wrong", [{"image_id": 9}, {"file_name": None}, {"segments_info": "x"}, {"image_id": []}])
def test_an_image_without_usable_segments_is_left_out(tmp_path: Path, wrong: dict[str, Any]) -> None:
    photos = read(tmp_path, **wrong)
    assert len(photos) == 0
    assert sum(map(len, photos.dropped.values())) in (1, 2)


def test_a_png_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    record = read(tmp_path)[0]
    (tmp_path / "png" / "1.png").write_bytes(picture()[:40])
    with pytest.raises(DataError, match=r"cannot read the panoptic PNG of .*1\.png"):
        record.load_mask(0)
    Image.new("L", SIZE_WH).save(tmp_path / "png" / "1.png")
    with pytest.raises(DataError, match="must have colours, got mode L"):
        record.load_mask(0)
    (tmp_path / "png" / "1.png").write_bytes(picture(size_wh=(3, 3)))
    with pytest.raises(DataError, match=r"must be \(8, 10\), got \(3, 3\)"):
        record.load_mask(0)


def test_an_instances_file_is_not_a_panoptic_one(tmp_path: Path) -> None:
    write(tmp_path)
    write_json(tmp_path / "other.json", {"images": [], "annotations": []})
    with pytest.raises(DataError, match="a COCO panoptic file must have a list `categories`"):
        CocoPanoptic.from_files(tmp_path / "other.json", tmp_path / "png", tmp_path / "images")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sky-other-merged", "sky"),
        ("door-stuff", "door"),
        ("tree-merged", "tree"),
        ("wall-brick", "brick wall"),
        ("window-blind", "window blind"),
        ("dining table", "dining table"),
        ("-other", "-other"),
    ],
)
def test_names_are_as_people_say_them(name: str, said: str) -> None:
    assert natural_name(name) == said


def test_maps_of_the_same_png_are_equal() -> None:
    assert SegmentMap(FileBytes(Path("a"))) == SegmentMap(FileBytes(Path("a"))) != SegmentMap(FileBytes(Path("b")))
