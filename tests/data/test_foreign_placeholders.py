"""What stands for regions and pictures in other models' files is never read as words."""

from __future__ import annotations

from pathlib import Path

import pytest

from label_files import coco, labelled, picture, write_files, write_json
from llava_grounding.data.check import check_dataset
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.llava import LlavaDialogues
from llava_grounding.data.readers.parts.placeholders import find_placeholder
from llava_grounding.data.readers.parts.texts import PLACEHOLDER
from llava_grounding.data.readers.set_of_mark import SetOfMarkDialogues
from llava_grounding.errors import DataError

FOREIGN = [
    ("What is at <bbox_location0>?", "Ferret"),
    ("What is <region1>?", "Osprey"),
    ("Tell me of <bbox>.", "ms-swift"),
    ("Find <ref-object>.", "ms-swift"),
    ("A <p>kettle</p> [SEG].", "GLaMM"),
    ("It is here: [SEG].", "LISA"),
    ("See <boxes> there.", "Shikra"),
    ("<phrase>a kettle</phrase>", "Kosmos-2"),
    ("<object><patch_index_0044></object>", "Kosmos-2"),
    ("<ref>kettle</ref><box>(1,2),(3,4)</box>", "Qwen-VL"),
    ("a <loc0123><loc0456> kettle", "PaliGemma"),
    ("<loc_12><loc_99>", "Florence-2"),
    ("a kettle {<12><34><56><78>}", "MiniGPT-v2"),
    ("[grounding] describe it", "MiniGPT-v2"),
    ("<video> What happens?", "films"),
    ("<image_1> and <image_2>", "several pictures"),
    ("<|object_ref_start|>kettle<|object_ref_end|>", "chat model"),
    ("That is all.</s>", "chat model"),
]


@pytest.mark.parametrize(("text", "owner"), FOREIGN)
def test_a_placeholder_is_known_with_its_owner(text: str, owner: str) -> None:
    for spelling in (text, text.upper() if "[" not in text else text):
        found = find_placeholder(spelling)
        assert found is not None
        assert owner in found[1]


@pytest.mark.parametrize(
    "text",
    ["The dog <3> and <12>.", "2 < 3 > 1", "a [sic] b [1]", "[a red balloon](3, 7)", "<b>bold</b>", "I <3 it", "a|b"],
)
def test_words_are_words(text: str) -> None:
    assert find_placeholder(text) is None


@pytest.mark.parametrize("text", [text for text, _ in FOREIGN])
def test_a_dialogue_with_placeholders_is_left_out_and_its_owner_named(tmp_path: Path, text: str) -> None:
    write_files(tmp_path, {"1.png": picture()})
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": text}]
    asked = [{"from": "human", "value": f"<image>\nWhat? {text}"}, {"from": "gpt", "value": "This."}]
    for conversations in (turns, asked):
        talk = write_json(tmp_path / "t.json", [{"image": "1.png", "conversations": conversations}])
        for read in (LlavaDialogues.from_files, SetOfMarkDialogues.from_files):
            data = read(talk, tmp_path)
            if "[grounding]" in text and conversations is asked:
                continue  # only a beginning is one
            assert list(data.dropped) == [PLACEHOLDER]
            report = check_dataset(data)
            assert not report.ok
            assert "which are not read here" in "\n".join(report.lines())


def test_the_kind_that_reads_a_placeholder_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": picture()})
    turns = [{"from": "human", "value": "What is <bbox_location0>?"}, {"from": "gpt", "value": "A dog."}]
    talk = write_json(tmp_path / "t.json", [{"image": "1.png", "conversations": turns}])
    lines = check_dataset(LlavaDialogues.from_files(talk, tmp_path)).lines()
    assert "as files of Ferret (`kind: ferret`) do, which are not read here" in "\n".join(lines)


def test_so_it_is_with_own_data_captions_and_names(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": picture()})
    labels = coco([labelled(1, [0, 0, 4, 4])])
    instances = write_json(tmp_path / "i.json", labels)
    talk = [{"image": "1.png", "turns": [{"question": "What is <region1>?", "answer": "A dog."}]}]
    with pytest.raises(DataError, match=r"t\.json: entry 1: turn 1: a question must be words, but holds '<region1>'"):
        CustomData.from_files(instances, tmp_path, dialogues=write_json(tmp_path / "t.json", talk))
    captions = write_json(tmp_path / "c.json", {"annotations": [{"image_id": 1, "caption": "a <p>dog</p>"}]})
    assert list(CocoPhotos.from_files(instances, tmp_path, captions).dropped) == [PLACEHOLDER]
    labels["categories"][0]["name"] = "[SEG]"
    assert PLACEHOLDER in CocoPhotos.from_files(write_json(tmp_path / "i.json", labels), tmp_path).dropped
