"""Reading LLaVA's captions and instructions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from dialogue_files import chat, write_json, write_picture

from llava_grounding.data.readers.llava import LlavaDialogues
from llava_grounding.errors import DataError


def read(folder: Path, *entries: Any) -> LlavaDialogues:
    write_picture(folder / "images", "a.jpg")
    return LlavaDialogues.from_files(write_json(folder / "chat.json", list(entries)), folder / "images")


def entry(*turns: str, image: str = "a.jpg", name: str = "one") -> dict[str, Any]:
    return {"id": name, "image": image, "conversations": chat(*turns)}


@pytest.mark.parametrize(
    "question", ["Describe it.\n<image>", "<image>\nDescribe it.", "<image> Describe it. ", "Describe it."]
)
def test_a_caption_pair_is_one_plain_turn_without_its_image_token(tmp_path: Path, question: str) -> None:
    (record,) = read(tmp_path, entry(question, "a red barn \n"))
    ((turn,),) = record.dialogues
    assert (turn.question, turn.answer) == ("Describe it.", "a red barn")
    assert not turn.grounded
    assert turn.targets == turn.regions == ()
    assert (record.image_id, record.image_size_wh) == (None, None)
    assert record.load_image().shape == (30, 40, 3)


def test_an_instruction_keeps_all_its_turns_and_their_line_breaks(tmp_path: Path) -> None:
    (record,) = read(tmp_path, entry("<image>\nWhy?", "Because:\n\n1. a\n2. b", "And then?", "Nothing."))
    (dialogue,) = record.dialogues
    assert [(turn.question, turn.answer) for turn in dialogue] == [
        ("Why?", "Because:\n\n1. a\n2. b"),
        ("And then?", "Nothing."),
    ]


def test_ids_that_occur_twice_become_unique(tmp_path: Path) -> None:
    data = read(tmp_path, entry("a", "b"), entry("c", "d"))
    assert [record.id for record in data] == ["one", "one#2"]


def test_what_cannot_be_learnt_from_is_left_out_and_counted(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        {"id": "text", "conversations": chat("Say hello.", "Hello.")},
        entry("<image>\nA <image> or not?", "No.", name="two images"),
        entry("Where?", "At <g_s> the barn <g_e> <seg> .", name="markup"),
        entry("What is <region>?", "A barn.", name="pointer"),
        entry("<image>", "a barn", name="no question"),
        entry("What?", " ", name="no answer"),
        entry("What?", "A \ud800.", name="half"),
        {"id": "turned", "image": "a.jpg", "conversations": chat("a", "b")[::-1]},
        entry("odd", name="odd"),
        {"id": "list", "image": "a.jpg", "conversations": [*chat("a", "b")[:1], {"from": "gpt", "value": ["b"]}]},
        entry("a", "b", image="../a.jpg", name="outside"),
        entry("a", "b", image="/a.jpg", name="absolute"),
        entry("a", "b", image="b.jpg", name="missing"),
        entry("a", "b", name="good"),
        "nonsense",
    )
    assert [record.id for record in data] == ["good"]
    assert data.dropped == {
        "no image": ("text",),
        "special token in the text": ("two images", "markup", "pointer"),
        "empty text": ("no question", "no answer"),
        "not valid Unicode": ("half",),
        "roles out of turn": ("turned",),
        "no dialogue": ("odd", "entry 15"),
        "not text": ("list",),
        "image outside its folder": ("outside", "absolute"),
        "image missing": ("missing",),
    }


def test_lines_of_json_are_read_as_well(tmp_path: Path) -> None:
    write_picture(tmp_path / "images", "a.jpg")
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(entry("a", "b")) + "\n\n" + json.dumps(entry("c", "d")) + "\n")
    assert len(LlavaDialogues.from_files(path, tmp_path / "images")) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"images": []}, "must be a list of dialogues"),
        ([{"id": 1}], "with `conversations`"),
        ([3], "with `conversations`"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LlavaDialogues.from_files(write_json(tmp_path / "chat.json", value), tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_bytes(b"\xff[")
    with pytest.raises(DataError, match=r"cannot read .*chat\.json"):
        LlavaDialogues.from_files(tmp_path / "chat.json", tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"cannot read .*deep\.json"):
        LlavaDialogues.from_files(tmp_path / "deep.json", tmp_path)


def test_it_travels_to_workers(tmp_path: Path) -> None:
    data = read(tmp_path, entry("a", "b"))
    copy = pickle.loads(pickle.dumps(data))
    assert copy[0] == data[0]
    assert copy[:1] == list(data)
    assert (copy[-1].load_image() == data[0].load_image()).all()
