"""Reading and writing grounded visual chat: ids, markup, filters, prompts, round trips."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dialogue_files import chat, instances, write_json, write_labelled

from llava_grounding.data.readers.gvc import GvcDialogues, RegionCaptions, write_gvc
from llava_grounding.data.record import RecordedTurn
from llava_grounding.errors import DataError
from llava_grounding.markup import parse_strict
from llava_grounding.scenes.records import DrawnScenes, write_scenes

ASKED = "What is happening here? (with grounding)\n<image>"
ANSWERED = "<g_s> Two cyclists <g_e> <seg> wait beside <g_s> a tram <g_e> <seg> ."


def entry(*turns: str, name: str = "000000000012", **more: Any) -> dict[str, Any]:
    return {"id": name, "image": "000000000012.jpg", "conversations": chat(*turns), **more}


def read(folder: Path, *entries: Any) -> GvcDialogues:
    return GvcDialogues.from_files(write_json(folder / "gvc.json", list(entries)), **write_labelled(folder))


def only_turn(data: GvcDialogues) -> RecordedTurn:
    assert data.dropped == {}
    ((turn,),) = data[0].dialogues
    return turn


def test_phrases_name_the_annotations_of_their_image(tmp_path: Path) -> None:
    data = read(tmp_path, entry(ASKED, ANSWERED, gd_ls=[[1201, 1207], None]))
    turn = only_turn(data)
    assert turn.question == "What is happening here?"
    assert turn.answer == "<g_s> Two cyclists <g_e> <seg> wait beside <g_s> a tram <g_e> <seg>."
    assert turn.targets == ((0, 1), None)
    assert turn.grounded
    assert data[0].instances[1].id == 1207
    assert data[0].image_name == "COCO_train2014_000000000012.jpg"
    assert data[0].load_image().shape == (30, 40, 3)


@pytest.mark.parametrize(
    "answer",
    [
        "<g_s>Two cyclists<g_e><seg> wait.",
        "<g_s> Two cyclists <g_e><seg> wait.",
        "<g_s>  Two cyclists <g_e> <seg>wait.",
    ],
)
def test_whatever_the_blanks_the_markup_is_canonical(tmp_path: Path, answer: str) -> None:
    turn = only_turn(read(tmp_path, entry(ASKED, answer, gd_ls=[[1201]])))
    assert turn.answer == "<g_s> Two cyclists <g_e> <seg> wait."
    assert parse_strict(turn.answer).text == "Two cyclists wait."


def test_the_suffix_says_which_answers_are_grounded(tmp_path: Path) -> None:
    talk = ["<image>\nWho? (with grounding)", "<g_s> Two cyclists <g_e> <seg>.", "Why?", "They rest."]
    (dialogue,) = read(tmp_path, entry(*talk, gd_ls=[[1201, 1207, 1201]]))[0].dialogues
    assert [turn.grounded for turn in dialogue] == [True, False]
    assert [turn.targets for turn in dialogue] == [((0, 1),), ()]


def test_each_entry_is_a_record_so_images_with_more_dialogues_come_more_often(tmp_path: Path) -> None:
    talk = entry(ASKED, ANSWERED, gd_ls=[None, None])
    data = read(tmp_path, talk, talk)
    assert [record.id for record in data] == ["000000000012", "000000000012#2"]
    assert [record.image_id for record in data] == [12, 12]


BROKEN = {
    "gd_ls does not fit": entry(ASKED, ANSWERED, gd_ls=[[1201]]),
    "unknown annotation": entry(ASKED, ANSWERED, gd_ls=[[1], None]),
    "annotation of another image": entry(ASKED, ANSWERED, gd_ls=[[2001], None]),
    "not annotation ids": entry(ASKED, ANSWERED, gd_ls=["1201", None]),
    "broken markup": entry(ASKED, "<g_s> <g_e> <seg> wait.", gd_ls=[None]),
    "markup without suffix": entry("What?", ANSWERED, gd_ls=[None, None]),
    "grounded without phrases": entry(ASKED, "Nothing.", gd_ls=[]),
    "refusal": entry("What?", "Please provide an image."),
    "unknown image": {**entry("What?", "That."), "image": "000000000099.jpg"},
    "special token in the text": entry("What?", "The <obj> waits."),
    "empty text": entry("(with grounding)", "Nothing."),
    "q_gd_ls does not fit": entry("What is <obj>?", "A tram."),
    "roles out of turn": {**entry(), "conversations": chat("a", "b")[::-1]},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_entry_is_left_out_with_its_reason(tmp_path: Path, reason: str) -> None:
    data = read(tmp_path, BROKEN[reason], entry("What?", "That.", name="good"))
    assert [record.id for record in data] == ["good"]
    assert list(data.dropped) == [reason]


def test_objects_of_a_question_become_regions(tmp_path: Path) -> None:
    talk = ["<image>\nWill <obj> pass <obj>?", "Yes.", "And then?", "It stops."]
    (record,) = read(tmp_path, entry(*talk, q_gd_ls=[[1300, 1201], None]))
    first, second = record.dialogues[0]
    assert (first.question, first.regions) == ("Will <region> pass <region>?", (2, 0))
    assert second.regions == ()
    assert not first.grounded


def test_an_entry_without_any_object_has_no_region(tmp_path: Path) -> None:
    turn = only_turn(read(tmp_path, entry("What?", "A tram.", q_gd_ls=[None])))
    assert turn.regions == ()


@pytest.mark.parametrize(
    "ids", [[[1300]], [[1300, 1201, 1207]], [[1300, 1201], None], [1300, 1201], "1300", [[None, 1]]]
)
def test_prompts_that_do_not_add_up_are_left_out(tmp_path: Path, ids: Any) -> None:
    data = read(tmp_path, entry("Will <obj> pass <obj>?", "Yes.", q_gd_ls=ids))
    assert len(data) == 0


def test_answers_may_be_grounded_in_dialogues_with_prompts(tmp_path: Path) -> None:
    talk = entry("What is <obj>? (with grounding)", "<g_s> A tram <g_e> <seg>.", q_gd_ls=[[1300]], gd_ls=[[1300]])
    turn = only_turn(read(tmp_path, talk))
    assert (turn.regions, turn.targets, turn.grounded) == ((2,), ((2,),), True)


def test_broken_labels_are_counted_and_what_names_them_is_left_out(tmp_path: Path) -> None:
    data = instances()
    data["annotations"][0]["bbox"] = [1, 2, 3, float("nan")]
    data["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    data["annotations"].append({**data["annotations"][1], "id": 1207, "bbox": [1, 1, 5, 5]})
    paths = write_labelled(tmp_path)
    write_json(paths["instances"], data)
    file = write_json(tmp_path / "gvc.json", [entry(ASKED, ANSWERED, gd_ls=[[1201], None])])
    read_data = GvcDialogues.from_files(file, **paths)
    assert read_data.dropped == {
        "bbox that is not four finite numbers": ("annotation 1201",),
        "polygon that is not three or more points": ("annotation 1300",),
        "annotation id used twice": ("annotation 1207",),
        "unknown annotation": ("000000000012",),
    }


def test_a_missing_picture_is_counted(tmp_path: Path) -> None:
    paths = write_labelled(tmp_path)
    (paths["images"] / "COCO_train2014_000000000012.jpg").unlink()
    file = write_json(tmp_path / "gvc.json", [entry("What?", "That.")])
    assert GvcDialogues.from_files(file, **paths).dropped == {"image missing": ("000000000012",)}


@pytest.mark.parametrize("value", [[], {"images": []}, {"images": {}, "annotations": [], "categories": []}, None])
def test_labels_of_another_kind_are_refused(tmp_path: Path, value: Any) -> None:
    file = write_json(tmp_path / "gvc.json", [])
    with pytest.raises(DataError, match=r"instances\.json: a COCO instances file must have a list"):
        GvcDialogues.from_files(file, write_json(tmp_path / "instances.json", value), tmp_path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    talk = [
        entry(ASKED, ANSWERED, gd_ls=[[1201, 1207], None]),
        entry(
            "Will <obj> pass <obj>?",
            "Yes.",
            "Who? (with grounding)",
            ANSWERED,
            q_gd_ls=[[1300, 1201], None],
            gd_ls=[None, [1300]],
        ),
        entry("What?", "That."),
    ]
    data = read(tmp_path, *talk)
    assert write_gvc(tmp_path / "again.json", data) == 3
    again = GvcDialogues.from_files(tmp_path / "again.json", tmp_path / "instances.json", tmp_path / "images")
    assert again.dropped == {}
    assert [record.dialogues for record in again] == [record.dialogues for record in data]
    write_gvc(tmp_path / "third.json", again)
    first, third = (json.loads((tmp_path / name).read_text()) for name in ("again.json", "third.json"))
    assert [row["conversations"] for row in first] == [row["conversations"] for row in third]


def test_drawn_scenes_survive_the_format(tmp_path: Path) -> None:
    places = write_scenes(tmp_path, 4)
    scenes = DrawnScenes(4)
    count = write_gvc(tmp_path / "gvc.json", scenes)
    data = GvcDialogues.from_files(tmp_path / "gvc.json", places["instances"], places["images"])
    written = [dialogue for scene in scenes for dialogue in scene.dialogues]
    lost = sum(map(len, data.dropped.values()))
    assert data.dropped.keys() <= {"grounded without phrases"}  # "No, there is no dog.", which the format cannot say
    assert len(data) + lost == count == len(written)
    kept = [record.dialogues[0] for record in data]
    assert kept == [one for one in written if any(t.targets for t in one) or not any(t.grounded for t in one)]


def test_an_annotation_without_an_id_cannot_be_written(tmp_path: Path) -> None:
    (record,) = read(tmp_path, entry(ASKED, ANSWERED, gd_ls=[[1201], None]))
    nameless = replace(record, instances=tuple(replace(thing, id=None) for thing in record.instances))
    with pytest.raises(DataError, match="annotation 0 of `000000000012` must have an id"):
        write_gvc(tmp_path / "again.json", [nameless])


def test_it_travels_to_workers(tmp_path: Path) -> None:
    data = read(tmp_path, entry(ASKED, ANSWERED, gd_ls=[[1201], None]))
    assert list(pickle.loads(pickle.dumps(data))) == list(data)


def test_lists_of_sentences_are_captions_of_regions(tmp_path: Path) -> None:
    def pair(image: str, ids: Any, *sentences: Any) -> dict[str, Any]:
        talk = [{"from": "human", "value": "<image>\nWhat is this % ?"}, {"from": "gpt", "value": list(sentences)}]
        return {"id": image, "image": image, "conversations": talk, "q_gd_ls": ids}

    entries = [
        pair("000000000012.jpg", [[1201]], "left cyclist", "man at the back"),
        pair("dog.jpg", [[2001]], "the dog"),
        pair("000000000012.jpg", [[1300]], "tram"),
        pair("dog.jpg", [[1300]], "the tram"),
        pair("dog.jpg", [None], "the dog"),
        pair("dog.jpg", [[2001]]),
        pair("dog.jpg", [[2001]], "<seg>"),
    ]
    file = write_json(tmp_path / "instruct.json", entries)
    data = RegionCaptions.from_files(file, **write_labelled(tmp_path))
    assert [[(e.text, e.targets) for e in record.expressions] for record in data] == [
        [("left cyclist", (0,)), ("man at the back", (0,)), ("tram", (2,))],
        [("the dog", (0,))],
    ]
    assert data.dropped == {
        "annotation of another image": ("dog.jpg",),
        "not annotation ids": ("dog.jpg",),
        "no sentences": ("dog.jpg",),
        "special token in the text": ("dog.jpg",),
    }
    assert list(pickle.loads(pickle.dumps(data))) == list(data)
