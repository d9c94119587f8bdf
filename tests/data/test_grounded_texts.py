"""Grounded texts of others: what was a placeholder points at the same place, and no placeholder is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from label_files import write_json
from llava_grounding.data.readers.registry import reader_of
from llava_grounding.data.record import Expression, RecordedTurn
from tool_files import TOOLS, H, W, pictures

DOG, CAT = (4, 8, 20, 24), (10, 2, 30, 12)


def boxes(record: Any) -> list[Any]:
    return [pytest.approx(thing.box_xyxy, abs=1e-6) for thing in record.instances]


def test_questions_of_osprey_point_and_descriptions_mean(tmp_path: Path) -> None:
    data = TOOLS["osprey"][0](tmp_path)
    assert data.dropped == {}
    assert [record.id for record in data] == ["a.png", "a.png#2"]
    first, second = data
    assert boxes(first) == [DOG, CAT]
    mask = first.load_mask(0)
    assert mask is not None
    assert 100 < mask.sum() < 156
    expected = RecordedTurn("What is <region> beside <region>?", "A cat at sits there.", (), (1, 0))
    assert first.dialogues == second.dialogues == ((expected,),)
    assert first.expressions == (Expression("a dog", (0,)), Expression("a cat", (1,)))
    assert data.unread == {"places in answers": 2}


def test_questions_of_ferret_point_at_the_boxes_of_their_turn(tmp_path: Path) -> None:
    (record,) = data = TOOLS["ferret"][0](tmp_path)
    assert boxes(record) == [DOG, CAT]
    assert record.dialogues == (
        (
            RecordedTurn("What is at <region>?", "A dog.", (), (0,)),
            RecordedTurn("And <region>?", "A cat.", (), (1,)),
        ),
    )
    assert data.unread == {"places in answers": 1}


def test_phrases_of_shikra_are_tied(tmp_path: Path) -> None:
    (record,) = data = TOOLS["shikra"][0](tmp_path)
    assert boxes(record) == [DOG, CAT]
    ((turn,),) = record.dialogues
    assert turn.question == "What is at <region>?"
    assert turn.answer.startswith("It is <g_s> a dog <g_e> <seg> beside <g_s> a cat <g_e> <seg>, as ")
    assert (turn.targets, turn.regions, turn.grounded) == (((0,), (1,)), (0,), True)
    assert data.unread == {"places in answers": 1}


def test_captions_of_kosmos_and_grit_are_tied(tmp_path: Path) -> None:
    first, second = TOOLS["kosmos2"][0](tmp_path)
    assert boxes(first) == [DOG, CAT]
    (said,) = first.grounded_captions
    assert (said.text, said.targets) == ("<g_s> A dog <g_e> <seg> and <g_s> a cat <g_e> <seg>.", ((0,), (1,)))
    (said,) = second.grounded_captions
    assert (said.text, said.targets) == ("<g_s> A dog <g_e> <seg> and a cat.", ((0,),))
    # Cells 256 and 752 of 32 x 32: rows 8 and 23, columns 0 and 16; from the middle of one to that of the other.
    assert boxes(second) == [(0.5 / 32 * W, 8.5 / 32 * H, 16.5 / 32 * W, 23.5 / 32 * H)]


def test_captions_of_grandf_have_masks(tmp_path: Path) -> None:
    first, second = data = TOOLS["grandf"][0](tmp_path)
    assert first.grounded_captions[0].text == "<g_s> A dog <g_e> <seg> sits."
    mask = first.load_mask(0)
    assert mask is not None
    assert mask[8:24, 4:6].all()
    assert mask.sum() == 32
    assert second.grounded_captions[0].text == "Look at <g_s> the cat <g_e> <seg>."
    assert boxes(second) == [CAT]
    assert {why: len(names) for why, names in data.dropped.items()} == {"phrase that is not in its caption": 1}


def test_objects_of_visual_genome_have_their_first_name_and_are_never_complete(tmp_path: Path) -> None:
    (record,) = data = TOOLS["visual_genome_objects"][0](tmp_path)
    assert [(thing.category, thing.box_xyxy, thing.id) for thing in record.instances] == [("dog", DOG, 70)]
    assert record.exhaustive == frozenset()
    assert data.unread == {"attributes": 2}
    assert sum(map(len, data.dropped.values())) == 2


JUNK: list[dict[str, Any]] = [
    {"image": "a.png"},
    {"image": "../a.png", "annotation": [{"bbox": [1, 1, 2, 2]}]},
    {"image": "a.png", "annotation": [{"bbox": [1, 1, 2, float("nan")]}], "conversations": []},
    {"image": "a.png", "annotation": 3, "box_x1y1x2y2": [[[3]]], "boxes": [[1, 2]], "noun_chunks": [[0, 1]], "text": 3},
    {"image": "a.png", "caption": "a", "noun_chunks": [[0, 99, 0, 0, 1, 1]], "groundings": {"b": 3}, "refs": 3},
    {"image": "a.png", "text": "<phrase>a</phrase><object><patch_index_9999><patch_index_0000></object>"},
    {"image": "a.png", "question": "<boxes>", "answer": "<seg>", "boxes": [], "question_boxes_seq": [[7]]},
    {"image": "a.png", "question": "<region>", "answer": "x", "boxes": [[0, 0, 1, 1]]},
    {
        "image": "a.png",
        "annotation": [{"bbox": [1, 1, 2, 2]}],
        "box_x1y1x2y2": [[[[0, 0, 1, 1]]]],
        "conversations": [{"from": "human", "value": "<region9> <bbox_location9>"}, {"from": "gpt", "value": "x"}],
    },
]


@pytest.mark.parametrize("kind", ["osprey", "ferret", "shikra", "kosmos2", "grandf"])
def test_entries_that_do_not_add_up_are_left_out(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path)
    data = reader_of(kind)(write_json(tmp_path / "x.json", [*JUNK, 3, None, []]), tmp_path)
    assert len(data) <= 1
    assert sum(map(len, data.dropped.values())) >= len(JUNK) + 2
    for record in data:
        assert not record.dialogues
