"""Referring expressions: pickles read without running them, JSON, merged files, splits, and broken refs."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from label_files import coco, labelled, picture, write_files, write_json
from llava_grounding.data.readers.refcoco import RefCoco, read_refs
from llava_grounding.data.record import Expression
from llava_grounding.errors import DataError

INSTANCES = coco(
    [
        labelled(11, [0, 0, 4, 4], segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]]),
        labelled(12, [5, 1, 4, 4]),
        labelled(13, [1, 5, 4, 3], category=2),
        labelled(21, [0, 0, 9, 7], image_id=2),
        labelled(22, [0, 0, 9, 7], image_id=2, iscrowd=1),
    ],
    num_images=2,
)


def ref(ann_id: Any, *texts: str, image_id: int = 1, split: str = "train", **more: Any) -> dict[str, Any]:
    sentences = [{"raw": text.upper() + ".", "sent": text, "tokens": text.split(), "sent_id": 0} for text in texts]
    name = f"COCO_train2014_00000000000{image_id}_0.jpg"
    return {
        "ref_id": ann_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "file_name": name,
        "category_id": 1,
        "split": split,
        "sentences": sentences,
        "sent_ids": [0],
        **more,
    }


REFS = [
    ref(12, "right dog", "the dog on the right"),
    ref(21, "the big dog", image_id=2, split="testA"),
    ref(13, "cat"),
    ref(21, "dog in the grass", image_id=2, split="testB"),
]


def write(folder: Path, refs: Any = REFS, protocol: int = 2) -> Path:
    write_files(folder, {"images/1.png": picture(1), "images/2.png": picture(2)})
    write_json(folder / "instances.json", INSTANCES)
    path = folder / "refs(unc).p"
    path.write_bytes(pickle.dumps(refs, protocol=protocol))
    return path


def read(folder: Path, refs: Any = REFS, **more: Any) -> RefCoco:
    return RefCoco.from_files(write(folder, refs), folder / "images", folder / "instances.json", **more)


@pytest.mark.parametrize("protocol", range(5))
def test_refs_are_grouped_by_image_with_the_objects_they_mean(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path, protocol=protocol)
    (record,) = RefCoco.from_files(path, tmp_path / "images", tmp_path / "instances.json")
    assert record.id == "1.png"
    assert [instance.id for instance in record.instances] == [12, 13]
    assert record.expressions == (
        Expression("right dog", (0,)),
        Expression("the dog on the right", (0,)),
        Expression("cat", (1,)),
    )
    assert record.exhaustive == frozenset()
    assert record.load_image()[0, 0, 0] == 1


def test_all_instances_of_the_image_may_come_along(tmp_path: Path) -> None:
    (record,) = read(tmp_path, all_instances=True)
    assert [instance.id for instance in record.instances] == [11, 12, 13]
    assert [expression.targets for expression in record.expressions] == [(1,), (1,), (2,)]
    mask = record.load_mask(0)
    assert mask is not None
    assert mask.sum() == 16
    assert record.exhaustive == {"dog", "cat"}
    assert read(tmp_path, split="testA", all_instances=True)[0].exhaustive == {"cat"}  # there is a crowd of dogs


def test_splits_are_those_of_the_file_and_test_means_all_tests(tmp_path: Path) -> None:
    def texts(split: str | None) -> list[str]:
        return [expression.text for record in read(tmp_path, split=split) for expression in record.expressions]

    assert texts("testA") == ["the big dog"]
    assert texts("test") == ["the big dog", "dog in the grass"]
    assert len(texts(None)) == 5
    with pytest.raises(DataError, match=r"split must be one of \['testA', 'testB', 'train'\], got `val`"):
        texts("val")


def test_the_json_form_reads_the_same(tmp_path: Path) -> None:
    pickled = read(tmp_path)
    path = write_json(tmp_path / "refs.json", REFS)
    again = RefCoco.from_files(path, tmp_path / "images", tmp_path / "instances.json")
    assert list(again) == list(pickled)
    assert (again.name, pickled.name) == ("refs_train", f"{tmp_path.name}_train")


def test_a_merged_file_needs_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path)
    rows: list[dict[str, Any]] = [
        {"id": 1, "ann_id": 11, "image_id": 1, "bbox": [0, 0, 4, 4], "sentences": [{"raw": "Left DOG"}]},
        {"id": 2, "ann_id": 11, "image_id": 1, "bbox": [0, 0, 4, 4], "sentences": [{"raw": "dog,  left"}]},
        {"id": 3, "ann_id": 12, "image_id": 1, "bbox": [0, 0, 0, 4], "sentences": [{"raw": "nothing"}]},
        {"id": 4, "ann_id": 13, "image_id": 7, "bbox": [0, 0, 4, 4], "sentences": [{"raw": "elsewhere"}]},
    ]
    path = write_json(tmp_path / "grounding_train2017.json", {"images": INSTANCES["images"], "annotations": rows})
    merged = RefCoco.from_files(path, tmp_path / "images")
    (record,) = merged
    assert [instance.box_xyxy for instance in record.instances] == [(0, 0, 4, 4)]
    assert record.expressions == (Expression("left dog", (0,)), Expression("dog, left", (0,)))
    assert merged.dropped == {"bbox without area": ("3",), "ref to an unknown image": ("4",)}


def test_one_expression_may_mean_several(tmp_path: Path) -> None:
    (record,) = read(tmp_path, [ref([11, 12, 11], "both dogs")])
    assert record.expressions == (Expression("both dogs", (0, 1)),)


@pytest.mark.parametrize("first_is_broken", [False, True])
def test_an_expression_whose_annotation_id_two_things_bear_is_not_given_to_one_of_them(
    tmp_path: Path, first_is_broken: bool
) -> None:
    path = write(tmp_path, [ref(12, "which"), ref(11, "fine"), ref([11, 12], "both")])
    rows = [*INSTANCES["annotations"], labelled(12, [0, 5, 4, 3])]
    if first_is_broken:
        rows[1] = rows[1] | {"bbox": None}
    labels = coco(rows, num_images=2)
    write_json(tmp_path / "instances.json", labels)
    data = RefCoco.from_files(path, tmp_path / "images", tmp_path / "instances.json")
    assert [expression.text for record in data for expression in record.expressions] == ["fine"]
    assert data.dropped["ref to an annotation id used twice"] == ("12", "[11, 12]")


def test_a_merged_file_whose_annotation_id_means_two_boxes_ties_no_words_to_the_wrong_one(tmp_path: Path) -> None:
    write(tmp_path)
    box = {"ann_id": 11, "image_id": 1, "sentences": ["left dog"]}
    rows = [{**box, "id": 1, "bbox": [0, 0, 4, 4]}, {**box, "id": 2, "bbox": [5, 0, 4, 4], "sentences": ["right dog"]}]
    path = write_json(tmp_path / "merged.json", {"images": INSTANCES["images"], "annotations": rows})
    data = RefCoco.from_files(path, tmp_path / "images")
    assert data[0].expressions == (Expression("left dog", (0,)),)
    assert data.dropped == {"annotation id of two objects": ("2",)}


BROKEN: dict[str, Any] = {
    "ref that is no object": 3,
    "ref to an unknown image": ref(11, "a", image_id=9),
    "ref to an unknown annotation": ref(99, "a"),
    "ref that means nothing in the image": ref([-1], "a"),
    "ref to a crowd": ref(22, "a", image_id=2),
    "annotation id that is neither a number nor text": ref({}, "a"),
    "ref without a list `sentences`": ref(11, "a") | {"sentences": None},
    "empty text": ref(11, " "),
    "special token in the text": ref(11, "a <seg>"),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_ref_is_left_out_counted_and_named(tmp_path: Path, reason: str) -> None:
    data = read(tmp_path, [ref(11, "fine"), BROKEN[reason]])
    assert [expression.text for record in data for expression in record.expressions] == ["fine"]
    assert list(data.dropped) == [reason]


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_would_run_something_is_refused_and_does_not(tmp_path: Path, protocol: int, nested: bool) -> None:
    mark = tmp_path / "was_run"
    evil = Evil(f"touch {mark}")
    path = write(tmp_path, [ref(11, "a", hidden=evil)] if nested else evil, protocol)
    with pytest.raises(DataError, match=r"it asks for `\w+\.system`, but only plain lists, texts and numbers are read"):
        read_refs(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02]q\x00",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02\x82\x01.",  # an extension
        b"P1\n.",  # something outside the file
        b"i__builtin__\neval\n.",
        b"no pickle at all",
        b'[{"ref_id": 1',
        b"[" * 100_000,
        b"(" * 100_000 + b".",
        b"\x80\x02" + b"]" * 5_000 + b"a" * 4_999 + b".",  # lists in lists
        b"\x80\x02]" + b")" + b"\x85" * 5_000 + b"a.",  # tuples in tuples in a list
        pickle.dumps(collections.OrderedDict(a=1)),
        pickle.dumps(Path("x")),
    ],
)
def test_other_bytes_are_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "refs.p").write_bytes(data)
    with pytest.raises(DataError, match="cannot read"):
        read_refs(tmp_path / "refs.p")


def test_refs_that_lie_too_deep_in_each_other_are_one_sentence(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    hidden = read(tmp_path, [ref(11, "fine"), deep, ref(12, "a", sentences=deep), ref(13, "a", split=deep)], split=None)
    assert hidden.dropped.keys() >= {"ref that is no object", "not text"}
    path = tmp_path / "deep.p"
    path.write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(DataError, match=r"cannot read the pickle .*deep\.p: its values lie too deep in each other"):
        read_refs(path)


def test_numbers_of_thousands_of_digits_are_named_with_their_ref(tmp_path: Path) -> None:
    huge = 10**6000
    rows = [ref(11, "fine"), huge, ref(huge, "a"), ref(12, "a") | {"sentences": huge}, {"id": huge}]
    data = read(tmp_path, rows)
    assert [expression.text for record in data for expression in record.expressions] == ["fine"]
    assert "int too large to show" in data.dropped["ref that is no object"]


@given(st.binary(max_size=60))
def test_random_bytes_are_plain_values_or_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.p"
    path.write_bytes(data)
    try:
        value = read_refs(path)
    except DataError:
        return
    assert value is None or isinstance(value, bool | int | float | str | bytes | list | dict | tuple | set | frozenset)


def test_texts_of_python_2_are_read_as_utf_8_or_else_latin_1(tmp_path: Path) -> None:
    for encoding in ("utf-8", "latin-1"):
        word = "café".encode(encoding)
        (tmp_path / "refs.p").write_bytes(b"\x80\x02U" + bytes([len(word)]) + word + b".")
        assert read_refs(tmp_path / "refs.p") == "café"


@pytest.mark.parametrize("refs", [{}, {"images": [], "annotations": [{"id": 1}]}, "x", 3])
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, refs: Any) -> None:
    path = write(tmp_path, refs)
    with pytest.raises(DataError, match="a file of referring expressions"):
        RefCoco.from_files(path, tmp_path / "images")


def test_a_list_needs_the_file_its_ids_point_into(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs `instances`"):
        RefCoco.from_files(write(tmp_path), tmp_path / "images")


def test_the_data_set_travels_whole(tmp_path: Path) -> None:
    data = read(tmp_path)
    again = pickle.loads(pickle.dumps(data))
    assert list(again) == list(data)
    assert again[0].load_image().shape == (8, 10, 3)
