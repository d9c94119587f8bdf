"""Somebody's own data: the notation, every optional file, and messages that say where the fault is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from dialogue_files import instances, write_json, write_labelled
from hypothesis import given

from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.parts.notation import (
    read_answer,
    read_question,
    read_turn,
    write_answer,
    write_question,
)
from llava_grounding.data.record import Expression, GroundedText, RecordedTurn
from llava_grounding.errors import DataError, LlavaGroundingError
from llava_grounding.markup import SPECIAL_TOKENS, format_markup

TRAM = "COCO_train2014_000000000012.jpg"


def read(folder: Path, *entries: Any, **more: Any) -> CustomData:
    return CustomData.from_files(
        **write_labelled(folder), dialogues=write_json(folder / "talk.json", list(entries)), **more
    )


def talk(question: Any, answer: Any, image: str = TRAM, **more: Any) -> dict[str, Any]:
    return {"image": image, "turns": [{"question": question, "answer": answer, **more}]}


def test_labels_alone_are_enough(tmp_path: Path) -> None:
    tram, dog = CustomData.from_files(**write_labelled(tmp_path))
    assert [thing.category for thing in tram.instances] == ["person", "person", "train"]
    assert tram.captions == tram.dialogues == tram.expressions == ()
    assert tram.exhaustive == {"person", "train", "dog"}
    assert dog.load_image().shape == (30, 40, 3)
    mask = dog.load_mask(0)
    assert mask is not None
    assert mask.sum() == 25 * 20


def test_labels_that_are_not_complete_answer_no_question_of_how_many(tmp_path: Path) -> None:
    assert all(not record.exhaustive for record in CustomData.from_files(**write_labelled(tmp_path), exhaustive=False))


def test_dialogues_are_written_with_ids_in_parentheses(tmp_path: Path) -> None:
    record, _ = read(
        tmp_path,
        talk("What is [](1300)?", "[A tram](1300) behind [two men](1201, 1207) and [the sky](?)."),
        talk("Does [the man](1201) look at [the tram](1300)?", "No."),
        talk("Is there a dog?", "No, there is none.", grounded=True),
    )
    assert record.dialogues == (
        (
            RecordedTurn(
                "What is <region>?",
                "<g_s> A tram <g_e> <seg> behind <g_s> two men <g_e> <seg> and <g_s> the sky <g_e> <seg>.",
                ((2,), (0, 1), None),
                (2,),
                True,
            ),
        ),
        (RecordedTurn("Does the man <region> look at the tram <region>?", "No.", regions=(0, 2)),),
        (RecordedTurn("Is there a dog?", "No, there is none.", grounded=True),),
    )


def test_dialogues_may_be_written_in_markup_with_lists_of_ids(tmp_path: Path) -> None:
    record, _ = read(
        tmp_path,
        talk("What is <region>?", "<g_s>A tram<g_e><seg>.", targets=[[1300]], regions=[1300]),
        talk("[Who](?", "<g_s> A man <g_e> <seg> [sic](?).", targets=[None], regions=[]),
    )
    first, second = (turns[0] for turns in record.dialogues)
    assert first == RecordedTurn("What is <region>?", "<g_s> A tram <g_e> <seg>.", ((2,),), (2,), True)
    assert (second.question, second.answer) == ("[Who](?", "<g_s> A man <g_e> <seg> [sic](?).")


def test_lines_of_json_are_reported_of_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    lines = [talk("What?", "A tram."), talk("What?", "[A dog](2001).")]
    path.write_text(json.dumps(lines[0]) + "\n\n" + json.dumps(lines[1]))
    with pytest.raises(DataError, match=r"talk\.jsonl: line 3: turn 1: a phrase names annotation 2001, which is on"):
        CustomData.from_files(**write_labelled(tmp_path), dialogues=path)
    path.write_text(json.dumps(lines[0]) + "\n{")
    with pytest.raises(DataError, match=r"cannot read .*talk\.jsonl, line 2"):
        CustomData.from_files(**write_labelled(tmp_path), dialogues=path)


def test_captions_are_tied_to_labels_by_hand_or_by_their_words(tmp_path: Path) -> None:
    rows = [
        {"image_id": 20, "caption": "a dog"},
        {"image_id": 20, "caption": "A calm day"},
        {"image_id": 12, "caption": "[A yellow thing](1300) and [somebody](1207)"},
    ]
    captions = write_json(tmp_path / "captions.json", {"annotations": rows})
    tram, dog = CustomData.from_files(**write_labelled(tmp_path), captions=captions)
    assert dog.captions == ("a dog", "A calm day")
    assert dog.grounded_captions == (GroundedText("<g_s> A dog <g_e> <seg>.", ((0,),)),)
    assert tram.captions == ("A yellow thing and somebody",)
    assert tram.grounded_captions[0].targets == ((2,), (1,))


def test_annotations_may_have_expressions(tmp_path: Path) -> None:
    paths, data = write_labelled(tmp_path), instances()
    data["annotations"][2]["expressions"] = ["the tram", "what they wait for"]
    write_json(paths["instances"], data)
    assert CustomData.from_files(**paths)[0].expressions == (
        Expression("the tram", (2,)),
        Expression("what they wait for", (2,)),
    )
    for wrong in ("the tram", ["<seg>"], [3]):
        data["annotations"][2]["expressions"] = wrong
        write_json(paths["instances"], data)
        with pytest.raises(DataError, match=r"instances\.json: image .*annotation 1300 must"):
            CustomData.from_files(**paths)


WRONG_TURNS = [
    (talk("What?", "[A tram](13, x)."), "stand annotation ids or `?`"),
    (talk("What?", "[A tram]()."), "stand annotation ids or `?`"),
    (talk("What?", "See [the page](https://example.org)."), r"a bracket is `\\["),
    (talk("What?", "[](1300)"), "a phrase must be words"),
    (talk("What?", "[ a tram ](1300)"), "without blanks around"),
    (talk("What?", "[A tram](99)."), "names annotation 99, which is not there or unusable"),
    (talk("What is [](1300, 1201)?", "Both."), "points at one annotation"),
    (talk("What is [](?)?", "That."), "points at one annotation"),
    (talk("What is <region>?", "That."), "must not hold `<region>`"),
    (talk("What?", "<g_s> A tram <g_e> <seg>."), "must not hold `<g_s>`"),
    (talk("What?", "<s[eg](1300)>."), "must not hold `<seg>`"),
    (talk("What is <reg\\[ion>?", "[<s](1300)[eg>](1201)."), "must not hold `<seg>`"),
    (talk("What?", "<g_s> A tram <g_e>.", targets=[]), "expected `<g_s> ... <g_e> <seg>`"),
    (talk("What?", "<g_s> A tram <g_e> <seg>.", targets=[]), "one entry per `<seg>`"),
    (talk("What?", "<g_s> A tram <g_e> <seg>.", targets=[[]]), "a list of ids or null"),
    (talk("What is <region>?", "That.", regions=[]), "one id per `<region>`"),
    (talk("What is <region>?", "That.", regions=["1300"]), "must be a list of annotation ids"),
    (talk("What?", "[A tram](1300).", grounded=False), "grounded must be true where phrases are"),
    (talk("What?", "A tram.", grounded="no"), "grounded must be true"),
    (talk("What?", "A tram.", target=[]), "a turn has no `target`"),
    (talk("What?", ""), "an answer must not be empty"),
    (talk(None, "A tram."), "a question must be text, got None"),
    (talk("What?", "A tram.", image="cat.jpg"), "image 'cat.jpg' is not in the instances file"),
    (talk("What?", "A tram.", image="../dog.jpg"), "must lie in the folder"),
    ({"turns": []}, "must name an image file, got None"),
    ({"image": TRAM, "turns": []}, "turns must be a list"),
    ({"image": TRAM, "turns": ["What?"]}, "must have `question` and `answer`"),
    ("What?", "must be an object"),
]


@pytest.mark.parametrize(("entry", "message"), WRONG_TURNS, ids=[message for _, message in WRONG_TURNS])
def test_a_fault_is_told_by_file_and_entry_or_left_out_and_counted(tmp_path: Path, entry: Any, message: str) -> None:
    good = talk("What?", "A tram.")
    with pytest.raises(DataError) as caught:
        read(tmp_path, good, entry)
    assert "talk.json: entry 2: " in str(caught.value)
    assert message.replace("\\\\", "\\") in str(caught.value)
    data = read(tmp_path, good, entry, strict=False)
    assert sum(map(len, data.dropped.values())) == 1
    assert [len(record.dialogues) for record in data] == [1, 0]


def test_several_faults_are_reported_of_together(tmp_path: Path) -> None:
    wrong = talk("What?", "")
    with pytest.raises(
        DataError, match=r"entry 1: .*; entry 5: .*; and 3 more \(`strict: false` leaves such entries out\)$"
    ):
        read(tmp_path, *[wrong] * 8)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("annotations", 1, "bbox"), [1, 2, 0, 4], "annotation 1207: bbox must"),
        (("annotations", 0, "bbox"), [1, 2, 3, 10**400], "annotation 1201: bbox must"),
        (("annotations", 0, "bbox"), [1, 2, 3, True], "annotation 1201: bbox must"),
        (("annotations", 1, "bbox"), None, "annotation 1207: bbox must"),
        (("annotations", 0, "category_id"), 9, "annotation 1201: category_id 9 is no category"),
        (("annotations", 0, "image_id"), [12], r"annotation 1201: image id must be a number or text, got \[12\]"),
        (("annotations", 0, "id"), [7], r"annotation \[7\]: annotation id must be a number or text, got \[7\]"),
        (("annotations", 0, "id"), 1207, "annotation 1207: annotation id used twice"),
        (("annotations", 0, "segmentation"), {"size": [9, 9], "counts": "1"}, "the size of a mask must be"),
        (("annotations", 0, "segmentation"), {"size": [30, 40], "counts": "~"}, "run-length code must"),
        (("annotations", 0, "segmentation"), [[1, 2, 3]], "a polygon must be"),
        (("annotations", 0, "segmentation"), "mask.png", "segmentation must be polygons"),
        (("images", 0, "width"), 0, "image 12: width and height must be 1 to 65536"),
        (("images", 0, "width"), 10**9, "image 12: width and height must be 1 to 65536"),
        (("images", 0, "file_name"), ["a.jpg"], "image 12: must name an image file"),
        (("images", 0, "file_name"), "../../secret", "image 12: image must lie in the folder"),
        (("images", 0, "file_name"), "a" * 5000, "image 'aaa.*: there is no image"),
        (("images", 0, "file_name"), "none.jpg", "image 'none.jpg': there is no image"),
        (("images", 1, "file_name"), TRAM, "image 20: file name used twice"),
        (("categories", 0, "name"), "", "category 1: category must not be empty"),
    ],
)
def test_labels_are_checked_one_by_one(tmp_path: Path, place: tuple[str, int, str], value: Any, message: str) -> None:
    paths, data = write_labelled(tmp_path), instances()
    kind, number, key = place
    data[kind][number][key] = value
    write_json(paths["instances"], data)
    with pytest.raises(DataError, match=rf"instances\.json: .*{message}"):
        CustomData.from_files(**paths)
    lenient = CustomData.from_files(**paths, strict=False)
    assert lenient.dropped
    for record in lenient:
        for index in range(len(record.instances)):
            record.load_mask(index)


def test_what_names_an_id_that_two_annotations_bear_is_left_out_with_it(tmp_path: Path) -> None:
    paths, data = write_labelled(tmp_path), instances()
    data["annotations"].append(data["annotations"][3] | {"expressions": ["the wrong one"]})
    write_json(paths["instances"], data)
    talk_of_it = write_json(tmp_path / "talk.json", [talk("What?", "[A dog](2001).", image="dog.jpg")])
    own = CustomData.from_files(**paths, dialogues=talk_of_it, strict=False)
    assert own.dropped == {"annotation id used twice": ("annotation 2001", "entry 1")}
    assert own[1].expressions == own[1].dialogues == ()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    paths = write_labelled(tmp_path)
    with pytest.raises(DataError, match="must be a COCO captions file"):
        CustomData.from_files(**paths, captions=write_json(tmp_path / "captions.json", []))
    with pytest.raises(DataError, match="must hold dialogues with `image` and `turns`"):
        CustomData.from_files(**paths, dialogues=write_json(tmp_path / "talk.json", [{"conversations": []}]))
    with pytest.raises(DataError, match=r"talk\.json: a COCO instances file must have a list `images`"):
        CustomData.from_files(write_json(tmp_path / "talk.json", {}), paths["images"])
    with pytest.raises(DataError, match="cannot read"):
        CustomData.from_files(tmp_path / "nothing.json", paths["images"])


@pytest.mark.parametrize("row", [{"image_id": 99, "caption": "a"}, {"caption": "a"}, {"image_id": 12}, 3])
def test_captions_are_checked_one_by_one(tmp_path: Path, row: Any) -> None:
    captions = write_json(tmp_path / "captions.json", {"annotations": [row]})
    with pytest.raises(DataError, match=r"captions\.json: caption 1: "):
        CustomData.from_files(**write_labelled(tmp_path), captions=captions)


def test_it_travels_to_workers(tmp_path: Path) -> None:
    data = read(tmp_path, talk("What is [](1300)?", "[A tram](1300)."))
    assert list(pickle.loads(pickle.dumps(data))) == list(data)


WORDS = st.text(alphabet="ab \\[]()<>?1é", min_size=1, max_size=12).map(str.strip).filter(bool)


@given(pieces=st.lists(st.tuples(WORDS, st.none() | st.lists(st.integers(1, 999), min_size=1, max_size=3))))
def test_what_the_notation_writes_it_reads(pieces: list[tuple[str, list[int] | None]]) -> None:
    text, spans, targets = "So", [], []
    for number, (words, ids) in enumerate(pieces):
        text += " "
        if number % 3 != 2:
            spans.append((len(text), len(text) + len(words)))
            targets.append(None if ids is None else tuple(ids))
        text += words
    markup = format_markup(text, spans) if spans else text
    assert read_answer(write_answer(markup, targets)) == (markup, tuple(targets))
    question = " <region> ".join(["So", *(words for words, _ in pieces)])
    ids = list(range(1, len(pieces) + 1))
    assert read_question(write_question(question, ids)) == (question, tuple(ids))


@given(
    st.dictionaries(
        st.sampled_from(["question", "answer", "regions", "targets", "grounded"]),
        st.text("[](1,?)<seg> \\g_ion") | st.lists(st.integers() | st.none()) | st.booleans(),
    )
)
def test_hostile_turns_are_read_or_refused(turn: dict[str, Any]) -> None:
    try:
        read_back = read_turn(turn)
    except LlavaGroundingError:
        return
    RecordedTurn(read_back.question, read_back.answer, read_back.targets, read_back.regions, read_back.grounded)
    if not read_back.grounded:
        assert not any(token in read_back.answer for token in SPECIAL_TOKENS)
