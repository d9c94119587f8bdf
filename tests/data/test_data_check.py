"""The check of a data set: counts, what is missing or broken, what was left out; nothing in the data makes it fail."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from label_files import SIZE_WH, coco, labelled, picture, write_files, write_json
from llava_grounding.data.check import NUM_NAMED, check_dataset
from llava_grounding.data.images import FileBytes, NoBytes
from llava_grounding.data.readers.coco import CocoPhotos, PhotoPack
from llava_grounding.data.record import Annotation, Expression, GroundedText, Record, RecordedTurn
from llava_grounding.errors import DataError

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]


class Listed(Sequence[Record]):
    """A data set from a list; an exception in it is raised when it is asked for."""

    name = "listed"
    dropped: Mapping[str, Sequence[str]]

    def __init__(self, records: list[Any]) -> None:
        self.records = records
        self.dropped = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.records[index], Exception):
            raise self.records[index]
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def record(**more: Any) -> Record:
    fields: dict[str, Any] = {
        "id": "a",
        "image_id": 1,
        "image_size_wh": SIZE_WH,
        "instances": (),
        "captions": (),
        "statements": (),
        "questions": (),
        "exhaustive": frozenset(),
        "source": "",
        "license": "",
        "read_bytes": picture,
    }
    return Record(**(fields | more))


def photos(folder: Path, annotations: list[dict[str, Any]], num_images: int = 1) -> CocoPhotos:
    write_files(folder / "images", {f"{number}.png": picture() for number in range(1, num_images + 1)})
    labels = write_json(folder / "instances.json", coco(annotations, num_images))
    return CocoPhotos.from_files(labels, folder / "images")


def test_a_sound_data_set_is_counted_and_ok(tmp_path: Path) -> None:
    data = photos(tmp_path, [labelled(1, [0, 0, 4, 4], segmentation=SQUARE), labelled(2, [1, 1, 2, 2])])
    report = check_dataset(data)
    assert report.ok
    assert report.lines() == ["instances: ok", "  records: 1", "  instances: 2", "  instances with a mask: 1"]


def test_everything_a_record_holds_is_counted() -> None:
    boxed = Annotation("dog", (0, 0, 1, 1), None)
    turn = RecordedTurn("Where?", "<g_s> Here <g_e> <seg>", ((0,),), grounded=True)
    full = record(
        instances=(boxed,),
        captions=("a", "b"),
        statements=(("c", True),),
        questions=(("d", "yes"),),
        grounded_captions=(GroundedText("<g_s> a <g_e> <seg> <g_s> b <g_e> <seg>", ((0,), None)),),
        expressions=(Expression("x", (0,)),),
        dialogues=((turn, turn), (turn,)),
    )
    assert check_dataset(Listed([full, full])).counts == {
        "records": 2,
        "instances": 2,
        "instances with a mask": 0,
        "captions": 4,
        "grounded captions": 2,
        "phrases with a match": 8,
        "phrases without a match": 2,
        "expressions": 2,
        "statements": 2,
        "questions": 2,
        "dialogues": 4,
        "turns": 6,
    }


@pytest.mark.parametrize("read_images", [True, False])
def test_missing_images_are_counted_and_the_first_named(tmp_path: Path, read_images: bool) -> None:
    data = photos(tmp_path, [], num_images=25)
    for number in range(2, 26):
        (tmp_path / "images" / f"{number}.png").unlink()
    report = check_dataset(data, read_images=read_images)
    assert not report.ok
    assert report.missing_images.count == 24
    assert len(report.missing_images.named) == NUM_NAMED
    assert report.missing_images.named[0].startswith("2.png: cannot read ")
    assert "  missing images: 24" in report.lines()
    assert report.lines()[-1] == "      and 4 more"


def test_broken_images_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    data = photos(tmp_path, [labelled(1, [0, 0, 4, 4], segmentation=SQUARE)], num_images=4)
    write_files(
        tmp_path / "images",
        {"1.png": picture()[:50], "2.png": picture(size_wh=(3, 3)), "3.png": b"", "4.png": picture()},
    )
    report = check_dataset(data)
    assert not report.ok
    assert report.broken_images.count == 3
    assert "must be (10, 8) (width, height) as its labels say, got (3, 3)" in report.broken_images.named[1]
    assert report.missing_images.count == report.broken_masks.count == 0
    assert check_dataset(data, read_images=False).ok


def test_broken_masks_are_named_and_empty_ones_do_not_count_as_broken(tmp_path: Path) -> None:
    labels = [
        labelled(1, [0, 0, 4, 4], segmentation={"size": [8, 10], "counts": "~~"}),
        labelled(2, [0, 0, 4, 4], segmentation={"size": [8, 10], "counts": [81]}),
        labelled(3, [0, 0, 4, 4], segmentation=[[1, 1, 1.1, 1, 1.1, 1.1]]),
    ]
    data = photos(tmp_path, labels)
    for read_images in (True, False):
        report = check_dataset(data, read_images=read_images)
        assert not report.ok
        assert [named.partition(":")[0] for named in report.broken_masks.named] == ["1.png, dog 1", "1.png, dog 2"]
        assert report.empty_masks.named == ["1.png, dog 3"]
    good = [labelled(number, [0, 0, 4, 4], segmentation=SQUARE) for number in (7, 8)]
    assert check_dataset(photos(tmp_path, [*labels[2:], *good])).ok


def test_a_picture_with_many_dialogues_is_looked_at_once_and_counted_each_time() -> None:
    asked = []

    def read() -> bytes:
        asked.append(1)
        return picture()

    thin = Annotation("dog", (0, 0, 4, 4), [[0, 0, 4, 0, 0, 0]], id=7)
    other = replace(thin, segmentation=SQUARE, box_xyxy=(0, 0, 4, 3), id=8)
    records = [record(id=name, instances=(thin,), read_bytes=read) for name in "abc"]
    records += [record(id="a", instances=(thin, other), read_bytes=read), record(instances=(replace(thin, id=None),))]
    report = check_dataset(Listed(records))
    assert len(asked) == 2
    assert report.empty_masks.count == 5
    assert len(report.empty_masks.named) == 3
    assert report.counts["instances"] == 6


def test_what_the_reader_left_out_is_told_but_is_ok(tmp_path: Path) -> None:
    report = check_dataset(photos(tmp_path, [labelled(n, [0, 0, 0, 4]) for n in range(30)]))
    assert report.ok
    said = "bbox must have an area, got corners (0.0, 0.0, 0.0, 4.0)"
    named = [f"      annotation {number}: {said}" for number in (18, 19)]
    assert report.lines()[-3:] == [*named, "      and 10 more"]
    assert not check_dataset(photos(tmp_path, [labelled(1, [0, 0, 0, 4])]), strict=True).ok
    assert check_dataset(photos(tmp_path, [labelled(1, [0, 0, 1, 4])]), strict=True).ok
    assert report.to_dict()["dropped"]["bbox without area"]["count"] == 30


def test_the_report_is_plain_json(tmp_path: Path) -> None:
    report = check_dataset(photos(tmp_path, [labelled(1, [0, 0, 0, 4])]))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["name"] == "instances"
    assert plain["ok"] is True
    assert plain["missing_images"] == {"count": 0, "first": []}


def test_no_more_records_than_asked_for_are_looked_at(tmp_path: Path) -> None:
    data = photos(tmp_path, [], num_images=5)
    assert check_dataset(data, limit=2).counts["records"] == 2
    assert check_dataset(data, limit=99).counts["records"] == 5


def test_an_empty_data_set_is_not_ok() -> None:
    report = check_dataset(Listed([]))
    assert not report.ok
    assert report.lines() == ["listed: not ok", "  records: 0"]


def raising(error: Exception) -> Any:
    def read() -> bytes:
        raise error

    return read


@pytest.mark.parametrize(
    "error",
    [
        DataError("x"),
        OSError("x"),
        MemoryError(),
        RecursionError("x"),
        KeyError("x"),
        Image.DecompressionBombWarning("x"),
    ],
)
def test_nothing_in_the_data_makes_the_check_fail(error: Exception) -> None:
    holed = record(instances=(Annotation("dog", (0, 0, 1, 1), raising(error)),))
    report = check_dataset(Listed([record(read_bytes=raising(error)), holed, error, record()]))
    assert report.counts["records"] == 3
    assert report.broken_images.count == report.broken_masks.count == report.broken_records.count == 1


def test_images_of_unknown_size_are_measured() -> None:
    polygons = Annotation("dog", (0, 0, 1, 1), SQUARE)
    unsized = record(image_size_wh=None, instances=(polygons,))
    assert check_dataset(Listed([unsized])).ok
    assert check_dataset(Listed([unsized]), read_images=False).ok
    absent = replace(unsized, read_bytes=NoBytes("`a` is nowhere"))
    assert check_dataset(Listed([absent])).missing_images.named == ["a: `a` is nowhere"]


def test_the_miniature_pack_is_ok(mini_pack_root: Path) -> None:
    report = check_dataset(PhotoPack(mini_pack_root).split("val"))
    assert report.ok
    assert report.name == "photos_val"
    assert FileBytes(mini_pack_root / "photos_val_00.tar").exists()
