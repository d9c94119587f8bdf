"""The one rule for text from files: what no reader may take for words, however it is written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from dialogue_files import chat, write_labelled

from label_files import coco, picture, write_files, write_json
from llava_grounding.data.check import check_dataset
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.gvc import GvcDialogues
from llava_grounding.data.readers.llava import LlavaDialogues
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.texts import plain_text, words_of
from llava_grounding.data.readers.refcoco import RefCoco

HALF = json.loads(r'"half \ud83d of it"')
TOKENS = ["<g_s>", "<G_E>", "<Seg>", "<SEG>", "<Region>", "<image>", "<IMAGE>", "<obj>", "<Obj>"]


@pytest.mark.parametrize("read", [words_of, plain_text])
@pytest.mark.parametrize("token", TOKENS)
def test_no_special_token_passes_for_words_in_capital_or_small_letters(read: Any, token: str) -> None:
    with pytest.raises(EntryError, match=f"a caption must not hold `{token}`") as caught:
        read(f"a{token}b", "a caption")
    assert caught.value.reason == "special token in the text"


@pytest.mark.parametrize("read", [words_of, plain_text])
@pytest.mark.parametrize(
    ("value", "reason"), [(HALF, "not valid Unicode"), ("\n ", "empty text"), (None, "not text"), (["a"], "not text")]
)
def test_both_ways_to_read_text_refuse_the_same(read: Any, value: Any, reason: str) -> None:
    with pytest.raises(EntryError, match="a caption must ") as caught:
        read(value, "a caption")
    assert caught.value.reason == reason
    str(caught.value).encode()


def test_words_keep_their_lines_and_plain_text_has_one() -> None:
    assert words_of(" a <b>\n<1> <segment> ", "it") == "a <b>\n<1> <segment>"
    assert plain_text(" a <b>\n<1> <segment> ", "it") == "a <b> <1> <segment>"
    assert words_of("<seg>", "it", ("<seg>",)) == "<seg>"
    with pytest.raises(EntryError, match="`<SEG>`"):
        words_of("<SEG>", "it", ("<seg>",))


def test_what_is_put_in_lower_case_does_not_become_markup(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": picture()})
    box = {"id": 1, "ann_id": 1, "image_id": 1, "bbox": [0, 0, 4, 4]}
    rows = [{**box, "sentences": [{"raw": text}]} for text in ("left <SEG>", "The <IMAGE>", "dog")]
    path = write_json(tmp_path / "merged.json", coco(rows))
    data = RefCoco.from_files(path, tmp_path)
    assert [said.text for said in data[0].expressions] == ["dog"]
    assert data.dropped == {"special token in the text": ("1", "1")}


def test_half_characters_of_a_file_are_named_and_left_out_and_all_that_is_told_can_be_printed(tmp_path: Path) -> None:
    labels = coco([{"id": HALF, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], num_images=2)
    labels["images"][1]["file_name"] = HALF
    labels["categories"][1]["name"] = HALF
    captions = {"annotations": [{"id": HALF, "image_id": 1, "caption": HALF}]}
    write_files(tmp_path, {"1.png": picture()})
    paths = write_json(tmp_path / "i.json", labels), tmp_path, write_json(tmp_path / "c.json", captions)
    for data in (CocoPhotos.from_files(*paths), CustomData.from_files(*paths, strict=False)):
        assert len(data.dropped["not valid Unicode"]) == 3
        "\n".join(check_dataset(data).lines()).encode()


def test_half_characters_in_names_of_dialogues_do_not_reach_what_is_printed(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": picture()})
    entries = [{"id": HALF, "image": image, "conversations": chat("a", "b")} for image in ("1.png", "2.png", HALF)]
    data = LlavaDialogues.from_files(write_json(tmp_path / "l.json", entries), tmp_path)
    assert [record.id for record in data] == [r"half \ud83d of it"]
    assert list(data.dropped) == ["image missing", "not valid Unicode"]
    assert all(name == r"half \ud83d of it" for names in data.dropped.values() for name in names)
    paths = write_labelled(tmp_path)
    talk = [{"image": "dog.jpg", "turns": [{"question": "What?", "answer": HALF}]}]
    own = CustomData.from_files(**paths, dialogues=write_json(tmp_path / "t.json", talk), strict=False)
    assert own.dropped == {"not valid Unicode": ("entry 1",)}
    assert list(pickle.loads(pickle.dumps(own))) == list(own)


def test_markup_in_other_letters_is_no_markup(tmp_path: Path) -> None:
    paths = write_labelled(tmp_path)
    asked, said = "Who? (with grounding)", "<G_S> A tram <G_E> <SEG>."
    entries = [{"id": "1", "image": "dog.jpg", "conversations": chat(asked, said), "gd_ls": [[2001]]}]
    entries += [{"id": "2", "image": "dog.jpg", "conversations": chat("What is <OBJ>?", "A dog."), "q_gd_ls": [[2001]]}]
    data = GvcDialogues.from_files(write_json(tmp_path / "g.json", entries), **paths)
    assert sorted(name for names in data.dropped.values() for name in names) == ["1", "2"]


def test_a_list_of_what_is_left_out_can_be_printed() -> None:
    left_out = LeftOut()
    left_out.add(HALF, EntryError("why", "that"))
    assert left_out.by_reason == {"why": (r"half \ud83d of it",)}
