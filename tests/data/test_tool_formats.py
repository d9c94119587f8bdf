"""Formats of labelling tools: one scene written in each is read alike, quirks are read, and what is odd is left out."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from label_files import picture, write_files, write_json
from llava_grounding.data.check import check_dataset
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.cvat import CvatXml
from llava_grounding.data.readers.label_studio import LabelStudio, decode_brush
from llava_grounding.data.readers.labelme import Labelme
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.registry import READERS, reader_of
from llava_grounding.data.readers.via import Via
from llava_grounding.data.readers.voc import PascalVoc
from llava_grounding.data.readers.yolo import Yolo
from llava_grounding.data.recognise import recognise
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError
from tool_files import BOXES, TOOLS, TRIANGLE, H, W, pictures, voc_object, voc_xml, write_cvat, write_via


def by_name(data: Any) -> dict[str, Record]:
    return {record.image_name.rpartition("/")[2]: record for record in data}


@pytest.mark.parametrize("kind", list(TOOLS)[:8])
def test_every_format_gives_the_same_things(tmp_path: Path, kind: str) -> None:
    data = TOOLS[kind][0](tmp_path)
    assert data.dropped == {}
    records = by_name(data)
    found = {name: [(one.category, one.box_xyxy) for one in record.instances] for name, record in records.items()}
    for name, things in BOXES.items():
        assert [kind for kind, _ in found[name]] == [kind for kind, _ in things]
        for (_, box), (_, wanted) in zip(found[name], things, strict=True):
            assert box == pytest.approx(wanted, abs=1e-9)
        assert records[name].load_image().shape == (H, W, 3)
        assert records[name].exhaustive == {"dog", "cat"}
    report = check_dataset(data)
    assert report.ok, report.lines()
    assert (report.counts["records"], report.counts["instances"]) == (3, 3)
    assert list(pickle.loads(pickle.dumps(data))) == list(data)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_polygons_of_every_tool_are_the_mask_that_coco_draws(tmp_path: Path) -> None:
    shares = [place / (H if number % 2 else W) for number, place in enumerate(TRIANGLE)]
    points = [TRIANGLE[place : place + 2] for place in (0, 2, 4)]
    for folder in "ylcvsx":
        pictures(tmp_path / folder)
    (tmp_path / "y/a.txt").write_text("0 " + " ".join(map(str, shares)))
    (tmp_path / "y/classes.txt").write_text("dog\n")
    shape = {"label": "dog", "points": points, "shape_type": "polygon", "group_id": 1}
    write_json(tmp_path / "l/a.json", {"shapes": [shape], "imagePath": "a.png", "imageWidth": W, "imageHeight": H})
    polygon = f'<polygon label="dog" points="{";".join(f"{x},{y}" for x, y in points)}"/>'
    (tmp_path / "c/annotations.xml").write_text(
        f'<annotations><image id="0" name="a.png" width="{W}" height="{H}">{polygon}</image></annotations>'
    )
    attributes = {"name": "polygon", "all_points_x": TRIANGLE[::2], "all_points_y": TRIANGLE[1::2]}
    regions = {"0": {"shape_attributes": attributes, "region_attributes": {"label": "dog"}}}
    write_json(tmp_path / "v/via.json", {"a.png9": {"filename": "a.png", "regions": regions}})
    value = {"points": [[x * 100 / W, y * 100 / H] for x, y in points], "polygonlabels": ["dog"]}
    minimal = {"image": "a.png", "label": [value | {"original_width": W, "original_height": H}], "annotation_id": 1}
    write_json(tmp_path / "s/min.json", [minimal])
    corners = "".join(
        f"<{'xy'[place % 2]}{place // 2 + 1}>{side}</{'xy'[place % 2]}{place // 2 + 1}>"
        for place, side in enumerate(TRIANGLE)
    )
    (tmp_path / "x/a.xml").write_text(
        voc_xml("a.png", voc_object("dog", (4, 8, 20, 24), f"<polygon>{corners}</polygon>"))
    )
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": W, "height": H}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 8, 16, 16], "segmentation": [TRIANGLE]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    expected = CocoPhotos.from_files(write_json(tmp_path / "coco.json", coco), tmp_path / "y")[0].load_mask(0)
    theirs = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE], H, W))[..., 0] != 0
    assert expected is not None
    assert (expected != theirs).sum() <= 16  # pycocotools counts half of the slanted edge's pixels otherwise
    read = [
        Yolo.from_files(tmp_path / "y", split=None),
        Labelme.from_files(tmp_path / "l"),
        CvatXml.from_files(tmp_path / "c"),
        Via.from_files(tmp_path / "v/via.json"),
        LabelStudio.from_files(tmp_path / "s/min.json"),
        PascalVoc.from_files(tmp_path / "x"),
    ]
    for data in read:
        record = by_name(data)["a.png"]
        np.testing.assert_array_equal(record.load_mask(0), expected)
        assert record.instances[0].box_xyxy == pytest.approx((4, 8, 20, 24))


def test_frames_of_a_film_are_pictures_and_what_is_outside_is_not_there(tmp_path: Path) -> None:
    def box(frame: int, x: int, more: str = "") -> str:
        return f'<box frame="{frame}" outside="0" xtl="{x}" ytl="2" xbr="{x + 4}" ybr="6" keyframe="0" {more}/>'

    left = box(1, 11).replace('outside="0"', 'outside="1"')
    tracks = {
        "dog": box(0, 10) + left + box(3, 13, 'rotation="90"'),
        "cat": "".join(box(frame, 20 + frame) for frame in (0, 1, 2, 3)) + box(7, 1).replace('frame="7"', ""),
        "bird": '<polygon frame="2" outside="0" points="4,8;20,8;20,24"/>',
        "fish": box(1, 30) + box(3, 32),  # of frame 2 nothing is said
    }
    rows = "".join(
        f'<track id="{k}" label="{name}">{shapes}</track>' for k, (name, shapes) in enumerate(tracks.items())
    )
    size = f"<meta><task><original_size><width>{W}</width><height>{H}</height></original_size></task></meta>"
    for number in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (W, H)).save(tmp_path / f"images/frame_{number:06d}.PNG")
    (tmp_path / "annotations.xml").write_text(f"<annotations><version>1.1</version>{size}{rows}</annotations>")
    data = CvatXml.from_files(tmp_path)
    told = [(one.id, [thing.category for thing in one.instances], sorted(one.exhaustive)) for one in data]
    everything = ["bird", "cat", "dog", "fish"]
    assert told == [
        ("frame_000000.PNG", ["dog", "cat"], everything),
        ("frame_000001.PNG", ["cat", "fish"], everything),
        ("frame_000002.PNG", ["cat", "bird"], []),
    ]
    assert data[1].instances[0].box_xyxy == (21, 2, 25, 6)
    assert {reason: len(names) for reason, names in data.dropped.items()} == {
        "image missing": 1,  # frame 3
        "shape without a frame": 1,
    }
    (tmp_path / "annotations.xml").write_text(f"<annotations>{rows}</annotations>")  # sizes are those of the pictures
    for place in (tmp_path / "images").iterdir():
        place.rename(place.with_name(f"{int(place.stem[-6:]):05d}.png"))
    assert [one.id for one in CvatXml.from_files(tmp_path)] == ["00000.png", "00001.png", "00002.png"]


def test_via_as_csv_is_what_it_is_as_json(tmp_path: Path) -> None:
    expected = list(write_via(tmp_path))
    regions = json.loads((tmp_path / "via.json").read_text())["_via_img_metadata"]
    with (tmp_path / "via.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        table = csv.writer(stream)
        head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        table.writerow(head.split(","))
        for entry in regions.values():
            for number, region in enumerate(entry["regions"]):
                said = [json.dumps(region[key]) for key in ("shape_attributes", "region_attributes")]
                table.writerow([entry["filename"], 99, "{}", len(entry["regions"]), number, *said])
            if not entry["regions"]:
                table.writerow([entry["filename"], 99, "{}", 0, 0, "{}", "{}"])
    assert list(Via.from_files(tmp_path / "via.csv")) == expected
    (tmp_path / "via.json").unlink()
    assert [one.kind for one in recognise(tmp_path)] == ["via"]
    for text, message in [
        ("# CSV_HEADER = metadata_id,file_list,flags\n", "must have the columns filename, region_count"),
        ((tmp_path / "via.csv").read_text().replace('"{""', '"{{""', 1), "line 2 must have JSON"),
    ]:
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            Via.from_files(tmp_path / "bad.csv")


def test_the_challenge_counts_pixels_from_one_and_names_its_pictures_loosely(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "a.xml").write_text(voc_xml("a", voc_object("dog", (5, 9, 20, 24)), "The VOC2012 Database"))
    (tmp_path / "b.xml").write_text(voc_xml("gone.jpg", voc_object("dog", ("4.0", "8.0", " 20 ", "24"))))
    (tmp_path / "c.xml").write_text(voc_xml("", voc_object("dog", (1, 1, 1, 5)) + "<object><name/></object>"))
    data = PascalVoc.from_files(tmp_path)
    assert [record.instances[0].box_xyxy for record in data if record.instances] == [(4, 8, 20, 24)] * 2
    assert sorted(by_name(data)) == ["a.png", "b.png", "c.png"]
    assert set(data.dropped) == {"bbox without area", "object without a name"}


def test_turned_boxes_ellipses_and_masks_cover_what_they_should(tmp_path: Path) -> None:
    part = "".join(
        (
            '<box label="turned" xtl="10" ytl="12" xbr="18" ybr="16" rotation="90.0"/>',
            '<ellipse label="round" cx="20" cy="16" rx="8" ry="8"/>',
            '<mask label="brush" rle="1, 2, 3, 2, 4" left="30" top="2" width="4" height="3"/>',
            '<polyline label="line" points="1,1;2,2"/><tag label="indoor"/>',
        )
    )
    data = write_cvat(tmp_path, part)
    record = by_name(data)["a.png"]
    things = {one.category: (one, record.load_mask(number)) for number, one in enumerate(record.instances)}
    assert things["turned"][0].box_xyxy == pytest.approx((12, 10, 16, 18))
    assert things["turned"][1].sum() == 32  # type: ignore[union-attr]
    assert abs(things["round"][1].sum() - np.pi * 64) < 8  # type: ignore[union-attr]
    assert things["brush"][0].box_xyxy == (31, 2, 34, 4)
    expected = np.zeros((H, W), dtype=bool)
    expected[2:5, 30:34] = np.array([0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0], dtype=bool).reshape(3, 4)
    np.testing.assert_array_equal(things["brush"][1], expected)
    assert data.unread == {"tag": 1}
    assert list(data.dropped) == ["shape without an area"]
    assert record.exhaustive >= {"dog", "cat"}


def packed(values: list[int]) -> list[int]:
    """Bytes in Label Studio's code, by the plainest way of writing it: each byte a block of its own, or a run."""
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    place = 0
    while place < len(values):
        run = 1
        while place + run < len(values) and values[place + run] == values[place] and run < 2**16:
            run += 1
        bits += f"1{3:02b}{run - 1:016b}{values[place]:08b}" if run > 2 else f"0{0:02b}{0:03b}{values[place]:08b}"
        place += run if run > 2 else 1
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def test_what_a_brush_painted_in_label_studio_is_read_and_what_is_written_beside_it(tmp_path: Path) -> None:
    pictures(tmp_path)
    mask = np.zeros((H, W), dtype=bool)
    mask[3:9, 5:30] = True
    mask[12, 7] = True
    rgba = np.repeat(mask[:, :, None], 4, axis=2).astype(np.uint8) * 255
    codes = packed(rgba.reshape(-1).tolist())
    np.testing.assert_array_equal(decode_brush(codes, rgba.size), rgba.reshape(-1))
    for broken in (codes[:-5], codes[:9], "x", [300]):
        with pytest.raises(EntryError):
            decode_brush(broken, rgba.size)
    size = {"original_width": W, "original_height": H}
    result = [
        {"id": "r", "type": "brushlabels", "value": {"format": "rle", "rle": codes, "brushlabels": ["dog"]}, **size},
        {"id": "r", "type": "textarea", "value": {"text": ["the dog\n on the left"]}, **size},
        {"id": "q", "type": "choices", "value": {"choices": ["x"]}},
        {
            "id": "e",
            "type": "ellipselabels",
            "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10, "ellipselabels": ["cat"]},
            **size,
        },
        {
            "id": "n",
            "type": "rectanglelabels",
            "value": {"x": 1, "y": 1, "width": 1, "height": 1, "rectanglelabels": []},
            **size,
        },
    ]
    task = {"id": 7, "data": {"image": "/data/local-files/?d=up%2Fa.png"}, "annotations": [{"result": result}]}
    data = LabelStudio.from_files(
        write_json(tmp_path / "x.json", [task, {"id": 8, "data": {"image": "b.png"}, "annotations": []}])
    )
    (record,) = data
    np.testing.assert_array_equal(record.load_mask(0), mask)
    assert record.instances[1].box_xyxy == pytest.approx((16, 12.8, 24, 19.2), abs=0.1)
    assert [(one.text, one.targets) for one in record.expressions] == [("the dog on the left", (0,))]
    assert data.unread == {"choices": 1}
    assert set(data.dropped) == {"region without one label", "task that nobody has done"}
    assert record.exhaustive == frozenset()  # the label that is lost may have been of either


def test_masks_groups_and_pictures_inside_of_labelme_files_are_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    part = np.array([[1, 0, 1], [1, 1, 1]], dtype=bool)
    Image.fromarray(part).save(buffer, "PNG")
    shapes = [
        {
            "label": "dog",
            "points": [[2, 3], [4, 4]],
            "shape_type": "mask",
            "mask": base64.b64encode(buffer.getvalue()).decode(),
        },
        {"label": "cat", "points": [[1, 1], [5, 1], [5, 5]], "group_id": 3, "description": "the torn cat"},
        {"label": "cat", "points": [[9, 9], [15, 9], [15, 15]], "group_id": 3},
        {"label": "sun", "points": [[20, 20], [24, 20]], "shape_type": "circle"},
        {"label": "line", "points": [[1, 1], [2, 2]], "shape_type": "line"},
        "odd",
    ]
    inside = base64.b64encode(picture(9, (W, H))).decode()
    data = {"shapes": shapes, "imagePath": "gone.png", "imageData": inside, "imageWidth": W, "imageHeight": H}
    write_json(tmp_path / "a.json", data)
    write_json(tmp_path / "other.json", {"images": []})
    read = Labelme.from_files(tmp_path)
    (record,) = read
    assert record.load_image()[0, 0].tolist() == [9, 10, 10]
    mask = record.load_mask(0)
    assert mask is not None
    np.testing.assert_array_equal(mask[3:5, 2:5], part)
    assert mask.sum() == 5
    assert record.instances[1].box_xyxy == (1, 1, 15, 15)
    assert record.expressions[0].targets == (1,)
    assert record.instances[2].box_xyxy == pytest.approx((16, 16, 24, 24))
    assert set(read.dropped) == {"JSON of another kind", "shape without an area", "points that are no pairs of numbers"}


YOLO_LINES = {
    "0 0.5 0.5 0.2 0.2 0.9": (1, None),
    "0 0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3": (1, None),
    "7 0.5 0.5 0.2 0.2": (0, "class without a name"),
    "0 20 10 5 5": (0, "numbers that are no shares"),
    "0 0.5 0.5 nan 0.2": (0, "numbers that are no shares"),
    "0 0.5 0.5 0.2": (0, "neither box nor polygon"),
    "x 0.5 0.5 0.2 0.2": (0, "class that is no whole number"),
    "0 a b c d": (0, "numbers that are none"),
    "0.0 0.5 0.5 0.2 0.2": (1, None),
}


@pytest.mark.parametrize("line", YOLO_LINES)
def test_lines_of_yolo_are_read_or_left_out_with_a_reason(tmp_path: Path, line: str) -> None:
    pictures(tmp_path / "images/val")
    write_files(
        tmp_path,
        {"labels/val/a.txt": line.encode(), "data.yaml": b"path: /data/me/set\nval: images/val\nnames: {0: dog}\n"},
    )
    count, reason = YOLO_LINES[line]
    data = Yolo.from_files(tmp_path / "data.yaml", split="val")
    assert len(by_name(data)["a.png"].instances) == count
    assert list(data.dropped) == ([reason] if reason else [])
    with pytest.raises(DataError, match=r"split must be one of \['val'\], or null for all, got `train`"):
        Yolo.from_files(tmp_path)


BOMB = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><annotation><filename>&z;</filename></annotation>'
HOSTILE = [
    BOMB.encode(),
    BOMB.encode("utf-16"),
    b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
    b"<annotation>" + b"<a>" * 200_000,
    b"<annotation><size><width>1</width>",
    b"\xff\xfe\x00",
    b"<html/>",
    b"",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_xml_is_left_out_and_touches_nothing(tmp_path: Path, number: int) -> None:
    pictures(tmp_path)
    (tmp_path / "a.xml").write_bytes(HOSTILE[number])
    data = PascalVoc.from_files(tmp_path)
    assert len(data) == 0
    assert [len(entries) for entries in data.dropped.values()] == [1]
    with pytest.raises(DataError):
        CvatXml.from_files(tmp_path / "a.xml")


JUNK: list[Any] = [None, 3, "x", [], {}, [3], ["x"], [[]], {"a": 3}, [{"data": {"image": 3}}], [{"messages": 3}]]
JUNK += [
    {"a": {"regions": 3}},
    [{"image": "a.png", "annotations": [3, {"label": "x", "coordinates": {"x": 1e300}}]}],
    [{"file_name": "../a.png", "objects": {"bbox": 3}}],
    [{"file_name": "a.png", "objects": {"bbox": [[0, 0, 1]], "category": [3]}}],
    {"shapes": [{"points": [[1, "x"]]}], "imageWidth": 10**9, "imageHeight": 1, "imagePath": "a.png"},
    [{"data": {"image": "a.png"}, "annotations": [{"result": [{"value": {"x": None, "rectanglelabels": ["a"]}}]}]}],
    [{"messages": [{"role": "user", "content": [{"type": "video"}]}], "images": ["/etc/passwd"]}],
]


@pytest.mark.parametrize(
    "kind", ["labelme", "via", "label_studio", "createml", "messages", "metadata", "cvat", "voc", "yolo"]
)
def test_junk_is_left_out_or_refused_and_nothing_else_happens(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path)
    assert kind in READERS
    name = {"metadata": "metadata.jsonl", "yolo": "data.yaml"}.get(kind, "x.json")
    for junk in JUNK:
        (tmp_path / name).write_text(json.dumps(junk))
        with suppress(DataError):
            for record in reader_of(kind)(tmp_path / name):
                assert not record.instances
                record.load_image()
