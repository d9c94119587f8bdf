"""A label that a file has, and that a reader might pass by, never makes its picture one that holds no such thing.

Pictures under two spellings, entries given twice, tags without a place, rows that say nothing, text files spelt as no
one expects; and entries that belong to either of two pictures.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from label_files import SIZE_WH, coco, labelled, picture, write_files, write_json, write_zip
from llava_grounding.data.readers.parts.exhaustive import exhaustive_names, missing_names
from llava_grounding.data.readers.registry import reader_of
from llava_grounding.errors import DataError
from tool_files import H, W, voc_object, voc_xml

PICTURE = picture(size_wh=(W, H))
BOX = (4, 8, 20, 24)
Read = Callable[[Path], Any]


def pictures(folder: Path, *names: str) -> Path:
    return write_files(folder, dict.fromkeys(names or ("a.png", "b.png"), PICTURE))


def createml(folder: Path, *entries: tuple[str, list[str]]) -> Any:
    where = {"x": 12, "y": 16, "width": 16, "height": 16}
    rows = [
        {"image": name, "annotations": [{"label": one, "coordinates": where} for one in labels]}
        for name, labels in entries
    ]
    pictures(folder)
    return reader_of("createml")(write_json(folder / "l.json", rows))


def region(label: str, number: int = 1, kind: str = "rectanglelabels") -> dict[str, Any]:
    value = {"x": 10, "y": 25, "width": 40, "height": 50, "rotation": 0}
    return {"id": str(number), "type": kind, "to_name": "i", "value": {**value, kind: [label]}}


def label_studio(folder: Path, task: dict[str, Any]) -> Any:
    pictures(folder)
    both = {"annotations": [{"result": [region("dog"), region("cat", 2)]}]}
    tasks = [{"data": {"image": "b.png"}} | both, {"data": {"image": "a.png"}} | task]
    return reader_of("label_studio")(write_json(folder / "l.json", tasks))


def chosen(label: str) -> dict[str, Any]:
    return {"id": "9", "type": "choices", "to_name": "i", "value": {"choices": [label]}}


def cvat_with_tag(folder: Path) -> Any:
    image = '<image id="{}" name="{}" width="40" height="32">{}</image>'
    box = '<box label="{}" xtl="4" ytl="8" xbr="20" ybr="24"></box>'
    rows = image.format(0, "b.png", box.format("dog") + box.format("cat"))
    rows += image.format(1, "a.png", box.format("dog") + '<tag label="cat"/>')
    pictures(folder)
    (folder / "annotations.xml").write_text(f"<annotations>{rows}</annotations>")
    return reader_of("cvat")(folder)


def labelme_with_flag(folder: Path) -> Any:
    pictures(folder)
    for name, labels, flags in (("b", ("dog", "cat"), {}), ("a", ("dog",), {"cat": True, "bird": False})):
        shapes = [{"label": one, "points": [[4, 8], [20, 24]], "shape_type": "rectangle"} for one in labels]
        data = {"imagePath": f"{name}.png", "imageWidth": W, "imageHeight": H, "shapes": shapes, "flags": flags}
        write_json(folder / f"{name}.json", data)
    return reader_of("labelme")(folder)


def via_with_attribute(folder: Path) -> Any:
    def one(name: str, labels: list[str], about: dict[str, Any]) -> dict[str, Any]:
        shape = {"name": "rect", "x": 4, "y": 8, "width": 16, "height": 16}
        regions = [{"shape_attributes": shape, "region_attributes": {"label": label}} for label in labels]
        return {"filename": name, "regions": regions, "file_attributes": about}

    pictures(folder)
    rows = {"b": one("b.png", ["dog", "cat"], {}), "a": one("a.png", ["dog"], {"seen": {"cats": True}})}
    return reader_of("via")(write_json(folder / "v.json", rows))


def metadata(folder: Path, row: dict[str, Any]) -> Any:
    pictures(folder)
    box = [4, 8, 16, 16]
    rows: list[dict[str, Any]] = [
        {"file_name": "b.png", "objects": {"bbox": [box, box], "category": ["dog", "cat"]}},
        {"file_name": "a.png", **row},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return reader_of("metadata")(folder)


def parquet(folder: Path, objects: Any) -> Any:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    box = [4.0, 8.0, 16.0, 16.0]
    rows = [
        {"image": {"bytes": PICTURE, "path": "a.png"}, "objects": one}
        for one in (objects, {"bbox": [box, box], "category": ["dog", "cat"]})
    ]
    files.write_table(arrow.Table.from_pylist(rows), folder / "x.parquet")
    return reader_of("parquet")(folder / "x.parquet")


def yolo(folder: Path, labels: str, images: str = "images/a.png", text: bytes = b"1 .3 .5 .4 .5\n") -> Any:
    top = images.partition("/")[0]
    write_files(folder, {images: PICTURE, f"{top}/b.png": PICTURE, "classes.txt": b"dog\ncat\n"})
    write_files(folder, {labels: text, f"{labels.partition('/')[0]}/b.txt": b"0 .3 .5 .4 .5\n1 .3 .5 .4 .5\n"})
    return reader_of("yolo")(folder, split=None)


def same_file(folder: Path, first: str, second: str, **files: bytes) -> Any:
    """A COCO file of two names that lead to one picture, the first with a dog, the second with a cat."""
    data = coco([labelled(1, [0, 0, 4, 4]), labelled(2, [5, 1, 3, 3], 2, 2)], 3)
    data["annotations"] += [labelled(3, [0, 0, 4, 4], 3), labelled(4, [5, 1, 3, 3], 3, 2)]
    for row, name in zip(data["images"], (first, second, "c.png"), strict=True):
        row["file_name"] = name
    write_files(folder, {"images/1.png": picture(), "c.png": picture()} | files)
    return reader_of("coco")(write_json(folder / "i.json", data), folder)


HIDDEN: dict[str, Read] = {
    "entry given twice": lambda folder: createml(folder, ("a.png", ["dog"]), ("a.png", ["cat"]), ("b.png", ["cat"])),
    "first of two is empty": lambda folder: createml(folder, ("a.png", []), ("a.png", ["cat"]), ("b.png", ["cat"])),
    "second by capitals": lambda folder: createml(folder, ("a.png", ["dog"]), ("A.PNG", ["cat"]), ("b.png", ["cat"])),
    "predictions alone": lambda folder: label_studio(folder, {"predictions": [{"result": [region("cat")]}]}),
    "another annotator": lambda folder: label_studio(
        folder, {"annotations": [{"result": [region("cat")]}, {"result": [region("dog")]}]}
    ),
    "choice for the picture": lambda folder: label_studio(
        folder, {"annotations": [{"result": [region("dog"), chosen("cat")]}]}
    ),
    "tag of CVAT": cvat_with_tag,
    "flag of labelme": labelme_with_flag,
    "attribute of VIA": via_with_attribute,
    "row without objects": lambda folder: metadata(folder, {"text": "a cat"}),
    "row of a crowd": lambda folder: metadata(
        folder, {"objects": [{"bbox": [4, 8, 16, 16], "category": "cat", "iscrowd": 1}]}
    ),
    "cell of no objects": lambda folder: parquet(folder, None),
    "1.png.txt": lambda folder: yolo(folder, "labels/a.png.txt"),
    "capital ending": lambda folder: yolo(folder, "labels/A.TXT"),
    "capital folders": lambda folder: yolo(folder, "Labels/a.txt", "Images/a.png"),
    "text file of no picture": lambda folder: yolo(folder, "labels/a_1.txt"),
    "UTF-16": lambda folder: yolo(folder, "labels/a.txt", text="1 .3 .5 .4 .5\r\n".encode("utf-16")),
    "COCO by capitals": lambda folder: same_file(folder, "images/1.png", "images/1.PNG"),
    "COCO by folders": lambda folder: same_file(folder, "images/1.png", "1.png"),
    "COCO by address": lambda folder: same_file(folder, "1.png", "https://x.org/1.png?key=a/b"),
}


@pytest.mark.parametrize("form", HIDDEN)
def test_no_label_that_is_passed_by_becomes_an_absence(tmp_path: Path, form: str) -> None:
    data = HIDDEN[form](tmp_path)
    absent = {record.image_name or record.id: missing_names(record) for record in data}
    assert absent
    assert not any("cat" in names for names in absent.values()), (absent, data.dropped)


def test_what_is_complete_is_still_said(tmp_path: Path) -> None:
    """The other side of it: a text file that is there and empty, lists that are empty, a task with nothing found."""
    forms: dict[str, Read] = {
        "yolo": lambda folder: yolo(folder, "labels/a.txt", text=b""),
        "metadata": lambda folder: metadata(folder, {"objects": {"bbox": [], "category": []}}),
        "label studio": lambda folder: label_studio(folder, {"annotations": [{"result": []}]}),
        "true one": lambda folder: label_studio(
            folder, {"annotations": [{"result": [], "ground_truth": True}, {"result": [region("cat")]}]}
        ),
        "parquet": lambda folder: parquet(folder, {"bbox": [], "category": []}),
    }
    for number, read in enumerate(forms.values()):
        (tmp_path / str(number)).mkdir()
        records = [one for one in read(tmp_path / str(number)) if not one.instances]
        assert [missing_names(one) for one in records] == [["cat", "dog"]]


@pytest.mark.parametrize("more", [{"ignore": 1}, {"IsGroupOf": 1}, {"is_crowd": True}])
def test_a_label_that_is_to_be_ignored_is_no_thing(tmp_path: Path, more: dict[str, Any]) -> None:
    labels = [labelled(1, [0, 0, 4, 4], **more), labelled(2, [5, 1, 3, 3], category=2)]
    data = coco([*labels, labelled(3, [0, 0, 4, 4], 2)], 2)
    write_files(tmp_path, {row["file_name"]: picture() for row in data["images"]})
    first, _ = reader_of("coco")(write_json(tmp_path / "i.json", data), tmp_path)
    assert [one.kind for one in first.instances] == ["crowd", "thing"]
    assert exhaustive_names(first) == {"cat"}


@pytest.mark.parametrize(
    "names",
    [
        ("traffic_light", "traffic-light"),
        ("Dog", "dog"),
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
        ("traffic light", "traffic\u200b light"),
        ("TrafficLight", "traffic light"),
    ],
)
def test_two_spellings_of_a_category_are_one(tmp_path: Path, names: tuple[str, str]) -> None:
    """A picture with either has the other, and one with both is not counted by either."""
    labels = [labelled(1, [0, 0, 4, 4]), labelled(2, [5, 1, 3, 3], 2, 2)]
    data = coco([*labels, labelled(3, [0, 0, 4, 4], 3), labelled(4, [5, 1, 3, 3], 3, 2)], 3)
    for row, name in zip(data["categories"], names, strict=True):
        row["name"] = name
    write_files(tmp_path, {row["file_name"]: picture() for row in data["images"]})
    first, second, both = reader_of("coco")(write_json(tmp_path / "i.json", data), tmp_path)
    assert missing_names(first) == missing_names(second) == []
    assert len(exhaustive_names(both)) == (0 if names[0] != "Dog" else 1)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("archive", [False, True])
def test_a_name_with_accents_is_found_however_they_are_composed(tmp_path: Path, stored: str, archive: bool) -> None:
    forms = [unicodedata.normalize("NFC", "café/é.png"), unicodedata.normalize("NFD", "café/é.png")]
    said, there = forms if stored == "NFD" else forms[::-1]
    files = {there: picture()}
    place = tmp_path / "images"
    place = write_zip(tmp_path / "x.zip", files) if archive else write_files(place, files)
    talk = [{"image": said, "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]}]
    data = reader_of("llava")(write_json(tmp_path / "t.json", talk), place)
    assert (len(data), data.dropped) == (1, {})
    assert data[0].read_bytes() == picture()


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"data\\sub\\a.png": picture(), "data\\b.png": picture()}, "sub/a.png"),
        ({"data/sub/a.png": picture(), "data/2/a.png": picture(), "__MACOSX/data/sub/._a.png": b"\0"}, "sub/a.png"),
    ],
)
def test_zips_of_windows_and_macs_are_read(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    from llava_grounding.data.images import open_images

    assert open_images(write_zip(tmp_path / "x.zip", files)).locate(name)() == picture()


@pytest.mark.parametrize("kind", ["voc", "labelme"])
def test_a_file_called_like_one_picture_that_names_another_is_of_neither(tmp_path: Path, kind: str) -> None:
    """Files left from before pictures were renamed: `a` names `b.png`, and both pictures are there."""
    pictures(tmp_path, "a.png", "b.png", "c.png")
    for stem, label, named in (("a", "cat", "b.png"), ("b", "dog", "b.png"), ("c", "cat", "c.png")):
        if kind == "voc":
            (tmp_path / f"{stem}.xml").write_text(voc_xml(named, voc_object(label, BOX)))
        else:
            shape = {"label": label, "points": [[4, 8], [20, 24]], "shape_type": "rectangle"}
            data = {"imagePath": named, "imageWidth": W, "imageHeight": H, "shapes": [shape]}
            write_json(tmp_path / f"{stem}.json", data)
    found = reader_of(kind)(tmp_path)
    assert {one.id: [thing.category for thing in one.instances] for one in found} == {
        "b.png": ["dog"],
        "c.png": ["cat"],
    }
    assert [missing_names(one) for one in found] == [[], ["dog"]]
    assert list(found.dropped) == ["file called like another picture than it names"]


def test_boxes_of_tools_in_shares_of_the_picture_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "a.xml").write_text(voc_xml("a.png", voc_object("dog", (0.1, 0.2, 0.5, 0.75))))
    with pytest.raises(DataError, match=r"boxes must be in pixels, but 1 of 1 .* shares of the picture"):
        reader_of("voc")(tmp_path)


def test_names_of_classes_are_what_is_written(tmp_path: Path) -> None:
    """YAML has words that mean yes and no, and a list in another character set is not guessed at."""
    write_files(tmp_path, {"images/a.png": PICTURE, "labels/a.txt": b"0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n2 .5 .5 .2 .2\n"})
    (tmp_path / "data.yaml").write_text("train: images\nnames: [no, 1.0, cat]\n")
    assert [one.category for one in reader_of("yolo")(tmp_path)[0].instances] == ["no", "1.0", "cat"]
    (tmp_path / "names.txt").write_bytes("café\ndog\ncat\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"names\.txt must be text in UTF-8"):
        reader_of("yolo")(tmp_path, names=tmp_path / "names.txt")
    (tmp_path / "names.txt").write_bytes("café\ndog\ncat\n".encode("utf-16"))
    found = reader_of("yolo")(tmp_path, names=tmp_path / "names.txt")[0]
    assert [one.category for one in found.instances] == ["café", "dog", "cat"]


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = [("user", "assistant")[place % 2] for place in range(len(texts))]
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)], **more}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"label": False}, "answer that is marked as bad"),
        ({"videos": ["v.mp4"]}, "no picture but a film or a sound"),
        ({"image": "b.png"}, "several images"),
    ],
)
def test_a_chat_that_says_it_is_not_to_be_learnt_is_left_out(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    pictures(tmp_path)
    rows = [chat("What?", "This.", images=["a.png"], **more), chat("What?", "That.", images=["a.png"], label=True)]
    data = reader_of("messages")(write_json(tmp_path / "t.json", rows))
    assert (len(data), list(data.dropped)) == (1, [reason])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"file_name": "COCO_train2014_000000000002_1.jpg"}, "ref to another image"),
        ({"file_name": "COCO_train2014_000000000001_1.jpg"}, None),
    ],
)
def test_a_ref_that_contradicts_its_annotation_is_left_out(
    tmp_path: Path, more: dict[str, Any], reason: str | None
) -> None:
    data = coco([labelled(1, [0, 0, 4, 4]), labelled(2, [0, 0, 4, 4], 2, 2)], 2)
    for number, row in enumerate(data["images"], start=1):
        row["file_name"] = f"{number:012}.jpg"
    refs = [{"image_id": 1, "ann_id": 1, "sentences": ["it"], **more}]
    read = reader_of("refcoco")
    found = read(write_json(tmp_path / "r.json", refs), tmp_path, write_json(tmp_path / "i.json", data), split=None)
    assert (len(found), list(found.dropped)) == ((1, []) if reason is None else (0, [reason]))


def test_regions_of_genome_are_of_the_image_that_they_name(tmp_path: Path) -> None:
    width, height = SIZE_WH
    image = {"image_id": 1, "width": width, "height": height, "url": "https://x.org/VG_100K/1.png?key=a/b"}
    region = {"x": 1, "y": 1, "width": 4, "height": 4, "phrase": "a dog"}
    write_files(tmp_path, {"VG_100K/1.png": picture()})
    regions = [
        {"id": 1, "regions": [region | {"region_id": 1, "image_id": 2}, region | {"region_id": 2, "image_id": 1}]}
    ]
    read = reader_of("visual_genome")
    data = read(write_json(tmp_path / "i.json", [image]), write_json(tmp_path / "r.json", regions), tmp_path)
    assert data.dropped == {"region of another image": ("1",)}
    assert ([one.id for one in data[0].instances], data[0].read_bytes()) == ([2], picture())


def test_spans_with_blanks_around_are_phrases_without_them(tmp_path: Path) -> None:
    pictures(tmp_path)
    spans = [(0, 6), (6, 7), (5, 7), (10, 16), (13, 16)]
    chunks = [[*span, 0.1, 0.1, 0.5, 0.5, 0.9] for span in spans]
    entry = {"key": "a.png", "caption": "a dog  and a cat", "width": W, "height": H, "noun_chunks": chunks}
    data: Any = reader_of("kosmos2")(write_json(tmp_path / "t.json", [entry]), tmp_path)
    (said,) = data[0].grounded_captions
    assert said.text == "<g_s> a dog <g_e> <seg>  and <g_s> a cat <g_e> <seg>"
    assert data.unread == {"phrases that overlap another": 3}


def test_text_beside_a_region_is_words_alone(tmp_path: Path) -> None:
    beside = {"id": "1", "type": "textarea", "to_name": "i", "value": {"text": ["hello <seg> there"]}}
    data = label_studio(tmp_path, {"annotations": [{"result": [region("dog"), beside]}]})
    assert all(not record.expressions for record in data)
    assert list(data.dropped) == ["special token in the text"]
