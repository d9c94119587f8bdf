"""Boxes in another unit or form, boxes unlike their masks, masks without a pixel: said, and never called ok."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from label_files import coco, labelled, picture, write_files, write_json
from llava_grounding.data.check import DatasetReport, check_dataset
from llava_grounding.data.images import FolderImages
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.coco_panoptic import CocoPanoptic
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.flickr30k import Flickr30kMdetr
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.refcoco import RefCoco
from llava_grounding.data.readers.visual_genome import VisualGenome
from llava_grounding.errors import DataError
from llava_grounding.masks import encode_rle

SIDE = (200, 150)
SHARES = [0.125, 0.1667, 0.5, 0.3333]
WRONG = [
    (SHARES, "1 of 1 lie within 0 to 1 and seem to be shares of the picture"),
    ([120, 90, 180, 140], "1 of 1 fit into their pictures only as corners"),
]


def labels(boxes: list[list[float]], **more: Any) -> dict[str, Any]:
    data = coco([labelled(number, box, **more) for number, box in enumerate(boxes, start=1)])
    data["images"][0] |= {"width": SIDE[0], "height": SIDE[1]}
    return data


def check(folder: Path, data: dict[str, Any]) -> DatasetReport:
    write_files(folder, {"1.png": picture(size_wh=SIDE)})
    return check_dataset(CocoPhotos.from_files(write_json(folder / "i.json", data), folder))


def as_coco(folder: Path, box: list[float]) -> Any:
    return CocoPhotos(labels([box]), FolderImages(folder))


def as_own(folder: Path, box: list[float]) -> Any:
    return CustomData.from_files(write_json(folder / "i.json", labels([box])), folder, strict=False)


def as_refs(folder: Path, box: list[float]) -> Any:
    return RefCoco(labels([box], sentences=["it"]), FolderImages(folder))


def as_panoptic(folder: Path, box: list[float]) -> Any:
    data = labels([box])
    data["annotations"] = [{"image_id": 1, "file_name": "1.png", "segments_info": data["annotations"]}]
    return CocoPanoptic(data, FolderImages(folder), FolderImages(folder))


def as_genome(folder: Path, box: list[float]) -> Any:
    region = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"region_id": 1, "phrase": "it"}
    image = {"image_id": 1, "width": SIDE[0], "height": SIDE[1]}
    return VisualGenome([image], [{"id": 1, "regions": [region]}], FolderImages(folder))


def as_mdetr(folder: Path, box: list[float]) -> Any:
    data = labels([box], tokens_positive=[[0, 2]])
    data["images"][0]["caption"] = "it is"
    return Flickr30kMdetr(data, FolderImages(folder))


@pytest.mark.parametrize(("box", "message"), WRONG)
@pytest.mark.parametrize("read", [as_coco, as_own, as_refs, as_panoptic, as_genome, as_mdetr])
def test_a_file_whose_boxes_have_another_form_is_refused(
    tmp_path: Path, read: Callable[..., Any], box: list[float], message: str
) -> None:
    read(tmp_path, [20, 30, 50, 60])
    with pytest.raises(DataError, match=rf"bbox must be \[x, y, width, height\] in pixels, but {message}"):
        read(tmp_path, box)


def test_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^\S*i\.json: bbox must be"):
        CocoPhotos.from_files(write_json(tmp_path / "i.json", labels([SHARES])), tmp_path)


def forms(boxes: list[list[float]], size_wh: tuple[int, int] = (1280, 960), polygons: Any = None) -> str:
    """What is said of a file's boxes; nothing if they are well."""
    seen = BoxForms()
    for number, box in enumerate(boxes):
        seen.see(box, size_wh, polygons[number] if polygons else None)
    try:
        seen.refuse()
    except DataError as error:
        return str(error)
    return ""


def test_boxes_in_pixels_are_well() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        corners = np.sort(draw.random((30, 2, 2)), axis=1) * (1280, 960)
        whole = [
            [float(x), float(y), float(w), float(h)]
            for (x, y), (w, h) in zip(corners[:, 0], corners[:, 1] - corners[:, 0], strict=True)
        ]
        assert forms(whole) == ""
    assert forms([[0, 0, 1, 1], [0, 0, 1, 1]]) == ""  # a pixel is a pixel
    assert forms([[0.5, 0.5, 0.4, 0.4]], size_wh=(2, 1)) == ""
    assert forms([[0, 0, 1280, 960]] * 5) == ""
    assert forms([[0.2, 0.2, 0.5, 0.5], [10, 10, 300, 200]]) == ""
    assert forms([["a"], None, [1, 2, 3], [1, 2, float("nan"), 3]]) == ""


def test_percent_and_thousandths_are_reported_from_pixels_where_there_are_enough() -> None:
    draw = np.random.default_rng(1)
    shares = (0.5 * draw.random((40, 4))).tolist()
    shares[0] = [0.02, 0.01, 0.9799, 0.9]
    assert "40 of 40 lie within 0 to 1 and" in forms(shares)
    assert "percent" in forms([[100 * side for side in box] for box in shares])
    assert "thousandths" in forms([[1000 * side for side in box] for box in shares], (4000, 3000))
    assert forms([[round(100 * side) for side in box] for box in shares]) == ""  # small things in a corner, perhaps


def test_whole_percent_are_warned_of_and_ok(tmp_path: Path) -> None:
    percent = [[11 + number, 21, 30, 40 + number] for number in range(12)]

    def report(boxes: list[list[float]], size_wh: tuple[int, int] = (640, 480)) -> DatasetReport:
        data = labels(boxes)
        data["images"][0] |= {"width": size_wh[0], "height": size_wh[1]}
        write_files(tmp_path, {"1.png": picture(size_wh=size_wh)})
        return check_dataset(CocoPhotos.from_files(write_json(tmp_path / "i.json", data), tmp_path))

    doubtful = report([*percent, [1, 1, 98, 98]])
    assert doubtful.ok
    assert "warning: all 13 boxes end within 99 pixels" in doubtful.lines()[1]
    assert "percent of the picture?" in doubtful.to_dict()["doubts"][0]
    assert report([*percent, [1, 1, 98, 98], [200, 100, 50, 50]]).doubts() == []
    assert report([*percent, [1, 1, 98, 98]], (180, 150)).doubts() == []
    assert report([[1, 1, 98, 98]]).doubts() == []


def test_corners_are_reported_by_polygons_or_by_what_leaves_the_picture() -> None:
    square = [[5, 5, 25, 5, 25, 15, 5, 15]]
    assert "1 of 1 fit their polygons only as corners" in forms([[5, 5, 25, 15]], (40, 30), [square])
    assert forms([[5, 5, 20, 10]], (40, 30), [square]) == ""
    assert forms([[5, 5, 25, 15]], (40, 30), ["mask.png"]) == ""
    assert "2 of 2 fit into their pictures only as corners" in forms([[900, 700, 1200, 900], [10, 10, 50, 50]])


def test_a_box_that_lies_for_the_most_part_beyond_its_picture_is_left_out(tmp_path: Path) -> None:
    report = check(tmp_path, labels([[150, 20, 4000, 3000], [20, 20, 50, 40], [-30, 10, 60, 80]]))
    assert not report.ok
    assert report.counts["instances"] == 2
    assert "1 of 3 boxes lie far beyond their pictures; are they in pixels?" in "\n".join(report.lines())
    assert check(tmp_path, labels([[150, 20, 4000, 3000], *[[20, 20, 50, 40]] * 20])).ok


def masked(box: list[float], rows: slice, columns: slice) -> dict[str, Any]:
    mask = np.zeros((SIDE[1], SIDE[0]), dtype=bool)
    mask[rows, columns] = True
    return {"bbox": box, "segmentation": encode_rle(mask)}


def test_boxes_unlike_their_masks_are_reported_and_many_are_not_ok(tmp_path: Path) -> None:
    well = masked([20, 30, 50, 60], slice(30, 90), slice(20, 70))
    wrong = masked([20, 30, 70, 90], slice(30, 90), slice(20, 70))  # corners
    data = labels([[0, 0, 1, 1]] * 4)
    data["annotations"] = [row | well for row in data["annotations"]]
    assert check(tmp_path, data).ok
    data["annotations"][0] |= wrong
    report = check(tmp_path, data)
    assert not report.ok
    assert "1 of 4 boxes do not fit their masks" in report.lines()[1]
    assert report.unlike_boxes.named == [
        "1.png, dog 1: box (20.0, 30.0, 90.0, 120.0), but its mask lies within (20.0, 30.0, 70.0, 90.0)"
    ]
    data["annotations"][0] |= masked([18, 28, 56, 64], slice(30, 90), slice(20, 70))
    assert check(tmp_path, data).unlike_boxes.count == 0
    data["annotations"] += [row | well | {"id": 50 + n} for n, row in enumerate(data["annotations"] * 4)]
    data["annotations"][0] |= wrong
    assert check(tmp_path, data).ok  # one slip in twenty


def test_masks_that_are_all_empty_are_not_ok(tmp_path: Path) -> None:
    thin = {"segmentation": [[30, 40, 30.1, 40, 30.1, 40.1]]}
    data = labels([[20, 30, 50, 60]] * 3)
    data["annotations"] = [row | thin for row in data["annotations"]]
    report = check(tmp_path, data)
    assert not report.ok
    assert "3 of 3 masks have not one pixel" in report.lines()[1]
    stream = io.BytesIO()
    Image.fromarray(np.full((SIDE[1], SIDE[0], 3), 9, dtype=np.uint8)).save(stream, "PNG")
    write_files(tmp_path / "png", {"1.png": stream.getvalue()})
    data["annotations"] = [
        {"image_id": 1, "file_name": "1.png", "segments_info": labels([[20, 30, 50, 60]])["annotations"]}
    ]
    other = CocoPanoptic(data, FolderImages(tmp_path / "png"), FolderImages(tmp_path))
    assert "1 of 1 masks have not one pixel" in "\n".join(check_dataset(other).lines())


def test_crowds_are_reported_and_nothing_but_crowds_is_not_ok(tmp_path: Path) -> None:
    data = labels([[20, 30, 50, 60]] * 3, iscrowd=1)
    report = check(tmp_path, data)
    assert not report.ok
    assert "all labels are crowds, which are never asked for" in report.lines()[1]
    data["annotations"][0]["iscrowd"] = 0
    report = check(tmp_path, data)
    assert report.ok
    assert "2 of 3 instances are crowds (`iscrowd: 1`), never asked for (`crowds_as_things: true`" in "\n".join(
        report.lines()
    )
    things = CocoPhotos.from_files(tmp_path / "i.json", tmp_path, crowds_as_things=True)
    assert check_dataset(things).crowds == 0


def test_pictures_that_are_all_missing_are_said_to_be(tmp_path: Path) -> None:
    path = write_json(tmp_path / "i.json", labels([[20, 30, 50, 60]]))
    report = check_dataset(CocoPhotos.from_files(path, tmp_path))
    assert "all pictures are missing; is `images` the right place?" in report.lines()[1]
