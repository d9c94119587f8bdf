"""Parquet files and saved folders as they are published: an image with its bytes, and what is said of it."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from label_files import picture, write_files, write_json
from llava_grounding.data.check import check_dataset
from llava_grounding.data.readers.parquet import Parquet
from llava_grounding.data.recognise import recognise
from llava_grounding.errors import DataError, MissingExtraError
from tool_files import BOXES, H, W, write_parquet

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PICTURE = {"bytes": picture(size_wh=(W, H)), "path": None}
ASKED = ("What is it?", "A dog.")
CHATS: dict[str, dict[str, Any]] = {
    "messages": {
        "messages": [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "A dog."}]
    },
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        ]
    },
    "conversations": {"conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dog."}]},
    "pairs": {"texts": [{"user": "What is it?", "assistant": "A dog.", "source": "x"}]},
    "question": {"question": "What is it?", "answer": "A dog."},
}


def write_rows(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def test_objects_captions_and_chats_are_read_with_the_pictures_of_their_rows(tmp_path: Path) -> None:
    data = write_parquet(tmp_path)
    assert data.dropped == {}
    for record, things in zip(data, BOXES.values(), strict=True):
        assert [(one.category, one.box_xyxy) for one in record.instances] == things
        assert record.captions == ("a picture",)
        assert [(turn.question, turn.answer) for turn in record.dialogues[0]] == [ASKED]
        assert record.load_image().shape == (H, W, 3)
        assert record.exhaustive == {"cat", "dog"}
    assert check_dataset(data).ok
    (found,) = recognise(tmp_path)
    assert (found.kind, found.values) == ("parquet", {"data": tmp_path, "split": "train"})


@pytest.mark.parametrize("form", CHATS)
@pytest.mark.parametrize("column", ["image", "images"])
def test_a_chat_is_read_in_each_of_its_forms(tmp_path: Path, form: str, column: str) -> None:
    red = {"bytes": picture(red=9, size_wh=(W, H)), "path": "x.png"}
    pictures = [PICTURE, red] if column == "image" else [[PICTURE], [red]]
    rows = [{column: one, **CHATS[form]} for one in pictures]
    first, second = data = Parquet.from_files(write_rows(tmp_path / "x.parquet", rows, row_group_size=1))
    assert [[(turn.question, turn.answer) for turn in record.dialogues[0]] for record in data] == [[ASKED]] * 2
    assert (first.load_image()[0, 0, 0], second.load_image()[0, 0, 0]) == (200, 9)


def test_a_saved_folder_is_read_split_by_split(tmp_path: Path) -> None:
    for place, split in enumerate(("train", "test")):
        table = pyarrow.Table.from_pylist([{"image": PICTURE, "text": f"{split} {one}"} for one in range(place + 1)])
        (tmp_path / split).mkdir()
        with pyarrow.ipc.new_stream(str(tmp_path / split / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table)
        write_json(tmp_path / split / "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    write_json(tmp_path / "dataset_dict.json", {"splits": ["train", "test"]})
    captions = [record.captions for record in Parquet.from_files(tmp_path, "test")]
    assert captions == [("test 0",), ("test 1",)]
    assert len(Parquet.from_files(tmp_path)) == 3
    assert Parquet.from_files(tmp_path / "train")[0].load_image().shape == (H, W, 3)
    assert recognise(tmp_path)[0].splits == ("train",)
    with pytest.raises(DataError, match=r"split must be one of \['test', 'train'\], got `val`"):
        Parquet.from_files(tmp_path, "val")
    write_json(tmp_path / "train" / "state.json", {"_data_files": [{"filename": "../test/data-00000-of-00001.arrow"}]})
    with pytest.raises(DataError, match="must lie in the folder"):
        Parquet.from_files(tmp_path / "train")


def test_pictures_may_be_beside_the_file_or_missing(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": picture(size_wh=(W, H))})
    gone = {"bytes": None, "path": None}
    rows = [{"image": one, "text": "a dog"} for one in (gone, {"bytes": None, "path": "a.png"}, PICTURE)]
    data = Parquet.from_files(write_rows(tmp_path / "x.parquet", rows))
    assert [record.load_image().shape for record in data] == [(H, W, 3)] * 2
    assert data.dropped == {"no image": ("row x.parquet/1",)}
    rows = [{"images": one, "text": "a dog"} for one in ([PICTURE, PICTURE], [], [PICTURE])]
    data = Parquet.from_files(write_rows(tmp_path / "y.parquet", rows))
    assert data.dropped == {"several images": ("row y.parquet/1",), "no image": ("row y.parquet/2",)}
    data = Parquet.from_files(write_rows(tmp_path / "metadata.parquet", [{"file_name": "a.png", "caption": "a dog"}]))
    assert (data[0].id, data[0].captions) == ("a.png", ("a dog",))


def test_what_is_no_picture_or_damaged_is_told(tmp_path: Path) -> None:
    bad = {"bytes": b"<svg/>", "path": None}
    objects = {"bbox": [[0, 0, 4, 4]], "category": ["dog"]}
    path = write_rows(tmp_path / "x.parquet", [{"image": bad, "text": "a dog"}, {"image": PICTURE, "text": "a cat"}])
    report = check_dataset(Parquet.from_files(path))
    assert not report.ok
    assert "cannot read image `x.parquet/1`" in "\n".join(report.lines())
    rows = [{"image": bad, "objects": objects}, {"image": PICTURE, "objects": objects}]
    data = Parquet.from_files(write_rows(tmp_path / "y.parquet", rows))
    assert (list(data.dropped), len(data)) == (["picture that cannot be read"], 1)
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-8] + b"\xff" * 4 + b"PAR1",
        b"PAR1",
        b"ARROW1",
        b"\xff" * 99,
        b"",
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.parquet"):
            Parquet.from_files(path)
    path = write_rows(tmp_path / "z.parquet", [{"text": "a dog"}])
    with pytest.raises(DataError, match=r"must have a column of pictures, one of image, .*; it has \['text'\]"):
        Parquet.from_files(path)


def test_without_pyarrow_the_line_to_type_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "x.parquet", [{"image": PICTURE, "text": "a dog"}])
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "llava-grounding\[parquet\]"'):
        Parquet.from_files(path)


def test_names_of_categories_are_those_of_the_file_or_of_a_list(tmp_path: Path) -> None:
    rows = [{"image": PICTURE, "width": W, "height": H, "objects": [{"bbox": [0, 0, 4.5, 4], "category": 1}]}]
    path = write_rows(tmp_path / "x.parquet", rows)
    assert list(Parquet.from_files(path).dropped) == ["category without a name"]
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert Parquet.from_files(path, names=tmp_path / "names.txt")[0].instances[0].category == "dog"
    with pytest.raises(DataError, match=r"cannot read .*none\.txt"):
        Parquet.from_files(path, names=tmp_path / "none.txt")
    feature = [{"bbox": {"_type": "Sequence"}, "category": {"names": ["cat", "kite"], "_type": "ClassLabel"}}]
    about = json.dumps({"info": {"features": {"objects": feature}}})
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": about})
    parquet.write_table(table, path)
    assert Parquet.from_files(path)[0].instances[0].category == "kite"


def test_a_file_of_pictures_alone_has_a_record_for_each(tmp_path: Path) -> None:
    rows = [{"image": PICTURE}] * 3
    data = Parquet.from_files(write_rows(tmp_path / "x.parquet", rows, row_group_size=2))
    assert [record.load_image().shape for record in data] == [(H, W, 3)] * 3


def test_columns_that_mean_nothing_are_not_unpacked(tmp_path: Path) -> None:
    """A time of day in nanoseconds cannot be one of Python."""
    times = pyarrow.array([1, 2], pyarrow.timestamp("ns"))
    table = pyarrow.table({"image": pyarrow.array([PICTURE] * 2), "text": ["one", "two"], "taken": times})
    parquet.write_table(table, tmp_path / "x.parquet")
    data = Parquet.from_files(tmp_path / "x.parquet")
    assert [record.captions for record in data] == [("one",), ("two",)]
    assert data.unread == {"taken": 2}


def test_values_that_no_python_has_name_the_file(tmp_path: Path) -> None:
    torn = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, *pyarrow.array([b"\xff\xfe"]).buffers()[1:]])
    parquet.write_table(pyarrow.table({"image": pyarrow.array([PICTURE]), "text": torn}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"cannot read .*x\.parquet"):
        Parquet.from_files(tmp_path / "x.parquet")
    far = pyarrow.array([2**31 - 1], pyarrow.date32())
    parquet.write_table(pyarrow.table({"image": pyarrow.array([PICTURE]), "text": far}), tmp_path / "far.parquet")
    with pytest.raises(DataError, match=r"cannot read .*far\.parquet"):
        Parquet.from_files(tmp_path / "far.parquet")


def test_equal_values_cannot_grow_beyond_the_limit_of_a_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_grounding.data.readers.parquet._MOST_BYTES", 2**20)
    rows = [{"image": PICTURE, "text": "x" * 2**16}] * 40
    path = write_rows(tmp_path / "x.parquet", rows)
    assert path.stat().st_size < 2**15
    with pytest.raises(DataError, match=r"a row group must have at most 1048576 bytes, got \d+ or more"):
        Parquet.from_files(path)
    assert len(Parquet.from_files(write_rows(tmp_path / "y.parquet", rows, row_group_size=10))) == 40


def test_a_saved_folder_that_names_no_files_is_told(tmp_path: Path) -> None:
    for said, words in (
        (5, "must be a list of files, got 5"),
        ([{"filename": "../x.arrow"}], "must name files beside it"),
    ):
        write_json(tmp_path / "state.json", {"_data_files": said})
        with pytest.raises(DataError, match=words):
            Parquet.from_files(tmp_path)
    with pytest.raises(DataError, match=r"there is no .*none\.parquet"):
        Parquet.from_files(tmp_path / "none.parquet")


def test_an_arrow_file_is_opened_once_for_all_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.Table.from_pylist([{"image": PICTURE, "text": "a"}] * 6)
    with pyarrow.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    data = Parquet.from_files(tmp_path / "x.arrow")
    opened = []
    whole = pyarrow.ipc.open_file
    monkeypatch.setattr(pyarrow.ipc, "open_file", lambda source: opened.append(source) or whole(source))
    assert [data[place].load_image().shape for place in (0, 5, 2, 1)] == [(H, W, 3)] * 4
    assert len(opened) == 1
