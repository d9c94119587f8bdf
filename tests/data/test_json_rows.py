"""JSON of large files: what is read in less time and memory is what the standard library reads, faults included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from label_files import coco, labelled, picture, write_files, write_json
from llava_grounding.data.plain_files import parse_json, with_keys_once
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.parts.files import JsonRows, read_json
from llava_grounding.errors import DataError

TEXTS = [
    '{"a": 1, "b": [{"c": 1.0}, 2, {"d": null}]}',
    '[1, {"a": 1, "a": 2}]',
    '[[0, {"a": 1}], "\\":", {"a" : 2, "a": 3}]',
    '{"a" : 1, "a": 2}',
    '{"a": ":", "b": "\\":\\":", "a": ":"}',
    '{"a":1,"\\u0061":2}',
    "[18446744073709551616, 123456789012345678901234567890, -0, -0.0, 1e2, 0.1, 1e400, NaN, -Infinity]",
    '["\\ud800", "\\ud83d\\ude00", "é\\u0000"]',
    "1" * 5000,
    '{"a": 1} 2',
    '["\x01"]',
    "[01]",
    "",
    "[" * 5000,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_text_is_read_as_the_standard_library_reads_it(text: str, as_bytes: bool) -> None:
    given = text.encode() if as_bytes else text

    def outcome(read: Any) -> str:
        try:
            return repr(read(given))
        except (ValueError, RecursionError) as error:
            return f"{type(error).__name__}: {error}"

    assert outcome(parse_json) == outcome(lambda one: json.loads(one, object_pairs_hook=with_keys_once))


POLYGON = [1.5, 1, 6, 1, 6, 5]
ROWS = [
    labelled(1, [1, 1, 5, 4], segmentation=[POLYGON], area=12.5, iscrowd=0),
    labelled(2, [1.0, 1, 5, 4]),
    labelled(3, [1, 1, 5, 4], segmentation=[]),
    labelled(4, [1, 1, 5, 4], segmentation=[POLYGON[:5]]),
    labelled(5, [1, 1, 5, 4], segmentation=[[*POLYGON, 3]]),
    labelled(6, [1, 1, 5, 4], segmentation=[[*POLYGON, 1e12, 1e12]]),
    labelled(7, [1, 1, 5, 4], segmentation={"size": [6, 8], "counts": [0, 48]}),
    labelled(8, [1, 1, 500, 4]),
    labelled(9, [-1, -1, 5, 4]),
    labelled(10, [1, 1, 0, 0], segmentation=[POLYGON]),
    labelled(11, [1, 1, 5, 4], category=9),
    labelled(12, [1, 1, 5, 4], image_id=9),
    labelled(13, [1, 1, 5, 4], iscrowd=1),
    labelled(14, [1, 1, 5, 4], iscrowd=False, area=None),
    labelled(15, [1, 1, 5, 4], caption="the left one", score=0.5),
    labelled(16, [1, 1, 5, 4], id="x"),
    labelled(17, [1, 1, 5, 4], id=2**80),
    labelled(18, [1, 1, 5, 4], image_id=1.0, category_id="1"),
    labelled(2, [1, 1, 5, 4]),
    labelled(3, [2, 1, 5, 4]),
    labelled(19, [True, 1, 5, 4]),
    [],
    None,
]


@pytest.mark.parametrize("turned", [False, True])
def test_annotations_read_one_by_one_are_those_of_the_whole_file(tmp_path: Path, turned: bool) -> None:
    write_files(tmp_path, {"1.png": picture()})
    data = coco(ROWS[::-1] if turned else ROWS)
    path = write_json(tmp_path / "i.json", data)
    assert isinstance(read_json(path, rows="annotations")["annotations"], JsonRows)
    one_by_one = CocoPhotos.from_files(path, tmp_path, name="x")
    whole = CocoPhotos(data, one_by_one._images, name="x")
    assert list(map(repr, one_by_one)) == list(map(repr, whole))
    assert (one_by_one.dropped, one_by_one.examples, one_by_one.unread) == (whole.dropped, whole.examples, whole.unread)
    assert len(one_by_one[0].instances) > 9


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"iscrowd": 0', '"iscrowd": 0, "id": 7', r"must have each key once, got `id` twice"),
        ('"iscrowd": 0', '"iscrowd": 0, "id" : 7', r"must have each key once, got `id` twice"),
        ('"iscrowd": 0', '"iscrowd": 00', r"line 1 column \d\d+ \(char \d\d+\)"),
        ('"categories": ', '"categories": [], "categories": ', r"must have each key once, got `categories` twice"),
        ('"categories": ', '"annotations": [], "categories": ', r"must have each key once, got `annotations` twice"),
    ],
)
def test_a_fault_of_one_annotation_is_told_as_one_of_the_file(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = json.dumps(coco([labelled(1, [1, 1, 5, 4], iscrowd=0)]))
    (tmp_path / "i.json").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"^cannot read \S*i\.json: .*{said}"):
        CocoPhotos.from_files(tmp_path / "i.json", tmp_path)
