"""Chats as `messages` and `images` in each of their forms; folders with `metadata.csv`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from label_files import picture, write_files, write_json
from llava_grounding.data.check import check_dataset
from llava_grounding.data.readers.llava import LlavaDialogues
from llava_grounding.data.readers.messages import ChatMessages
from llava_grounding.data.readers.metadata import MetadataFolder
from llava_grounding.data.readers.parts.notation import read_turn, written_dialogue
from llava_grounding.errors import DataError

ASKED = {"role": "user", "content": "<image>What is it?"}
ANSWERED = {"role": "assistant", "content": "A dog."}
PARTS = [{"type": "image", "image": "file:///data/a.png"}, {"type": "text", "text": "What is it?"}]
FORMS: dict[str, Any] = {
    "llamafactory": {"messages": [ASKED, ANSWERED], "images": ["a.png"]},
    "system": {"messages": [{"role": "system", "content": "Be kind."}, ASKED, ANSWERED], "images": "a.png"},
    "qwen": {"messages": [{"role": "user", "content": PARTS}, ANSWERED]},
    "openai": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, PARTS[1]]},
            {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        ]
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A dog."}],
        "images": [{"path": "a.png"}],
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lines", [True, False])
def test_a_chat_is_read_in_each_of_its_forms(tmp_path: Path, form: str, lines: bool) -> None:
    write_files(tmp_path, {"a.png": picture()})
    text = "\n".join([json.dumps(FORMS[form])] * 2) if lines else json.dumps([FORMS[form]] * 2)
    (tmp_path / "chat.json").write_text(text)
    data = ChatMessages.from_files(tmp_path / "chat.json")
    assert data.dropped == {}
    assert len(data) == 2
    for record in data:
        ((turn,),) = record.dialogues
        assert (turn.question, turn.answer) == ("What is it?", "A dog.")
        record.load_image()


WRONG: dict[str, Any] = {
    "several images": {"messages": [ASKED, ANSWERED], "images": ["a.png", "b.png"]},
    "no image": {"messages": [ASKED, ANSWERED]},
    "roles out of turn": {"messages": [ANSWERED, ASKED], "images": ["a.png"]},
    "no dialogue": {"messages": [ASKED], "images": ["a.png"]},
    "special token in the text": {"messages": [ASKED, {**ANSWERED, "content": "<seg>"}], "images": ["a.png"]},
    "placeholder of another model's file": {
        "messages": [ASKED, {**ANSWERED, "content": "<ref>a dog</ref><box>(1,2),(3,4)</box>"}],
        "images": ["a.png"],
    },
    "image outside its folder": {"messages": [ASKED, ANSWERED], "images": ["../a.png"]},
    "image missing": {"messages": [ASKED, ANSWERED], "images": ["b.png"]},
    "image inside of the file": {"messages": [ASKED, ANSWERED], "images": ["data:image/png;base64,AAAA"]},
    "message that is neither text nor image": {
        "messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, ANSWERED],
        "images": ["a.png"],
    },
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_chat_that_cannot_be_used_is_left_out_with_a_reason(tmp_path: Path, reason: str) -> None:
    write_files(tmp_path, {"a.png": picture()})
    data = ChatMessages.from_files(write_json(tmp_path / "chat.json", [WRONG[reason], FORMS["llamafactory"]]))
    assert {why: len(entries) for why, entries in data.dropped.items()} == {reason: 1}
    assert len(data) == 1


@pytest.mark.parametrize(
    ("marks", "in_loss"),
    [
        ([{"loss": False}, {}], [False, True]),
        ([{"weight": 0}, {"weight": 1}], [False, True]),
        ([{"loss": True}, {"loss": None}], [True, True]),
        ([{}, {"loss": False}], [True, False]),
    ],
)
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_an_answer_marked_as_not_to_be_learnt_is_only_read(
    tmp_path: Path, key: str, marks: list[dict[str, Any]], in_loss: list[bool]
) -> None:
    write_files(tmp_path, {"a.png": picture()})
    chat = {key: [row for mark in marks for row in (ASKED, {**ANSWERED, **mark})], "images": ["a.png"]}
    chat[key][2] = {"role": "user", "content": "And now?", "loss": False}
    (record,) = ChatMessages.from_files(write_json(tmp_path / "chat.json", [chat]))
    assert [turn.in_loss for turn in record.dialogues[0]] == in_loss
    written = written_dialogue(record, record.dialogues[0])["turns"]
    assert [read_turn(turn).in_loss for turn in written] == in_loss


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ({"loss": False}, "answer not to be learnt"),
        ({"weight": 0.5}, "weight of an answer"),
        ({"loss": "no"}, "weight of an answer"),
    ],
)
def test_a_chat_with_nothing_to_learn_is_left_out(tmp_path: Path, mark: dict[str, Any], reason: str) -> None:
    write_files(tmp_path, {"a.png": picture()})
    chats = [{"messages": [ASKED, {**ANSWERED, **mark}], "images": ["a.png"]}, FORMS["llamafactory"]]
    data = ChatMessages.from_files(write_json(tmp_path / "chat.json", chats))
    assert list(data.dropped) == [reason]
    assert len(data) == 1


def test_other_dialogues_with_such_an_answer_are_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": picture()})
    said = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dog.", "loss": False}]
    entries = [
        {"image": "a.png", "conversations": said * 2},
        {"image": "a.png", "conversations": [said[0], {**said[1], "loss": True}]},
    ]
    data = LlavaDialogues.from_files(write_json(tmp_path / "talk.json", entries), tmp_path)
    assert list(data.dropped) == ["answer not to be learnt"]
    assert len(data) == 1


def test_captions_of_a_table_and_categories_by_number_are_read(tmp_path: Path) -> None:
    write_files(
        tmp_path / "x",
        {"a b.png": picture(), "metadata.csv": '\ufefffile_name,text,mood\na b.png,"A dog, asleep",calm\n'.encode()},
    )
    data = MetadataFolder.from_files(tmp_path / "x")
    assert data[0].captions == ("A dog, asleep",)
    assert data.unread == {"mood": 1}
    objects = {"bbox": [[1, 1, 4, 4]], "category": [1], "id": [3]}
    write_files(tmp_path / "y", {"a.png": picture(), "names.txt": b"cat\ndog\n"})
    (tmp_path / "y/metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "objects": objects}))
    assert list(MetadataFolder.from_files(tmp_path / "y").dropped) == ["category without a name"]
    (record,) = MetadataFolder.from_files(tmp_path / "y", names=tmp_path / "y/names.txt")
    assert [(one.category, one.box_xyxy) for one in record.instances] == [("dog", (1, 1, 5, 5))]
    objects["bbox"] = [[0.1, 0.1, 0.4, 0.4]]
    (tmp_path / "y/metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "objects": objects}))
    with pytest.raises(DataError, match="seem to be shares of the picture"):
        MetadataFolder.from_files(tmp_path / "y", names=tmp_path / "y/names.txt")


def test_boxes_that_no_text_names_are_said_to_be_unread(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": picture()})
    chat = {"messages": [ASKED, ANSWERED], "images": ["a.png"]}
    objects = [{"ref": ["a dog", "a cat"], "bbox": [[1, 2, 3, 4], [1, 2, 5, 6]]}, {"ref": []}, [], None]
    write_json(tmp_path / "chat.json", [{**chat, "objects": one} for one in objects])
    report = check_dataset(ChatMessages.from_files(tmp_path / "chat.json"))
    assert report.unread == {"objects": 2}
    assert any("not read: `objects` of 2 labels" in line for line in report.lines())
