"""Visual Genome: every region is a box and an expression; image folders of both layouts; broken regions left out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from label_files import picture, write_files, write_json, write_zip
from llava_grounding.data.readers.visual_genome import VisualGenome
from llava_grounding.data.record import Expression
from llava_grounding.errors import DataError

IMAGES = [
    {"image_id": 7, "width": 10, "height": 8, "url": "https://example.org/rak/VG_100K_2/7.jpg", "coco_id": None},
    {"image_id": 8, "width": 10, "height": 8, "url": "https://example.org/rak/VG_100K/8.jpg"},
    {"image_id": 9, "width": 10, "height": 8, "url": "https://example.org/rak/VG_100K/9.jpg"},
]


def region(number: int, phrase: Any, box: list[Any], **more: Any) -> dict[str, Any]:
    x, y, width, height = box
    return {"region_id": number, "phrase": phrase, "x": x, "y": y, "width": width, "height": height} | more


REGIONS = [
    {"id": 7, "regions": [region(1, "a  red hat ", [1, 2, 4, 3]), region(2, "the sky", [-1, 0, 30, 2])]},
    {"id": 8, "regions": [region(3, "grass", [0, 5, 10, 3])]},
]
FILES = {"VG_100K_2/7.jpg": picture(7), "VG_100K/8.jpg": picture(8), "VG_100K/9.jpg": picture(9)}


def read(folder: Path, regions: Any = REGIONS, images: Any = IMAGES) -> VisualGenome:
    if not (folder / "images").exists():
        write_files(folder / "images", FILES)
    data, described = write_json(folder / "image_data.json", images), write_json(folder / "regions.json", regions)
    return VisualGenome.from_files(image_data=data, regions=described, images=folder / "images")


def test_every_region_is_a_box_and_an_expression(tmp_path: Path) -> None:
    data = read(tmp_path)
    first, second = data
    assert (first.id, first.image_id, first.image_size_wh) == ("VG_100K_2/7.jpg", 7, (10, 8))
    assert [(i.category, i.box_xyxy, i.segmentation, i.id) for i in first.instances] == [
        ("", (1, 2, 5, 5), None, 1),
        ("", (0, 0, 10, 2), None, 2),
    ]
    assert first.expressions == (Expression("a red hat", (0,)), Expression("the sky", (1,)))
    assert first.load_mask(0) is None
    assert (first.load_image()[0, 0, 0], second.load_image()[0, 0, 0]) == (7, 8)
    assert data.dropped == {"image without regions": ("VG_100K/9.jpg",)}


def test_images_may_lie_all_in_one_folder(tmp_path: Path) -> None:
    write_files(tmp_path / "images", {name.rpartition("/")[2]: data for name, data in FILES.items()})
    assert [record.load_image()[0, 0, 0] for record in read(tmp_path)] == [7, 8]


def test_images_may_lie_in_the_two_zips_of_the_release(tmp_path: Path) -> None:
    for number, (name, data) in enumerate(list(FILES.items())[:2]):
        write_zip(tmp_path / "images" / f"images{number}.zip", {name: data})
    assert [record.load_image()[0, 0, 0] for record in read(tmp_path)] == [7, 8]


BROKEN: dict[str, Any] = {
    "region that is no object": [],
    "not text": region(9, None, [0, 0, 1, 1]),
    "special token in the text": region(9, "a <g_s> b", [0, 0, 1, 1]),
    "region whose x, y, width and height are not finite numbers": region(9, "a", [0, 0, None, 1]),
    "bbox without area": region(9, "a", [0, 0, 0, 1]),
    "bbox outside the image": region(9, "a", [10, 0, 1, 1]),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_region_is_left_out_counted_and_named(tmp_path: Path, reason: str) -> None:
    data = read(tmp_path, [{"id": 7, "regions": [BROKEN[reason], *REGIONS[0]["regions"]]}], IMAGES[:1])
    assert [expression.targets for expression in data[0].expressions] == [(0,), (1,)]
    assert {name: len(ids) for name, ids in data.dropped.items()} == {reason: 1}


@pytest.mark.parametrize("junk", [None, {}, {"id": 7, "regions": None}, {"id": 99, "regions": []}, [1]])
def test_junk_among_the_rows_is_left_out(tmp_path: Path, junk: Any) -> None:
    data = read(tmp_path, [*REGIONS, junk], [*IMAGES, junk])
    assert len(data) == 2


def test_an_address_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "7.jpg").write_bytes(picture(7))
    data = read(tmp_path, REGIONS, [IMAGES[0] | {"url": "http://x/../7.jpg"}])
    assert not data[0].read_bytes.exists()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="a file name must stay inside"):
        data[0].load_image()


def test_files_of_another_kind_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"region_descriptions.json of Visual Genome must be a list, got dict"):
        read(tmp_path, {})
    with pytest.raises(DataError, match=r"image_data.json of Visual Genome must be a list, got dict"):
        read(tmp_path, [], {})


def test_the_data_set_travels_whole(tmp_path: Path) -> None:
    data = read(tmp_path)
    assert list(pickle.loads(pickle.dumps(data))) == list(data)
