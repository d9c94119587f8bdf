"""Drawn scenes as a data set, and as files."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.record import open_record
from llava_grounding.errors import ConfigError
from llava_grounding.markup import SEG, parse_strict
from llava_grounding.scenes.records import HELD_OUT, DrawnScenes, write_scenes
from llava_grounding.scenes.synthetic import SceneConfig, draw_scene

SCENES = DrawnScenes(12)


def test_a_record_shows_what_the_scene_shows() -> None:
    for seed, record in enumerate(SCENES):
        scene, opened = draw_scene(seed), open_record(record)
        np.testing.assert_array_equal(opened.image, scene.image)
        np.testing.assert_array_equal(opened.masks, scene.masks)
        assert [thing.category for thing in opened.instances] == [thing.category for thing in scene.instances]


def test_every_turn_is_in_exactly_one_dialogue_with_what_it_points_at() -> None:
    for seed, record in enumerate(SCENES):
        scene = draw_scene(seed)
        said = [(turn.question, turn.answer, turn.targets) for talk in record.dialogues for turn in talk]
        assert sorted(map(str, said)) == sorted(str((t.question, t.answer, t.targets)) for t in scene.turns)
        by_text = {(turn.question, turn.answer): turn for talk in record.dialogues for turn in talk}
        for turn in scene.turns:
            for prompt, index in zip(turn.prompts, by_text[turn.question, turn.answer].regions, strict=True):
                x0, y0, x1, y1 = prompt.bounds(scene.image_size_wh).astype(int)
                assert scene.masks[index][y0 : y1 + 1, x0 : x1 + 1].any()
                if prompt.kind == "click":
                    assert scene.masks[index][y0, x0]


def test_a_follow_up_stays_behind_its_turn() -> None:
    for seed, record in enumerate(SCENES):
        follows = {
            (turn.question, turn.answer, before.question, before.answer)
            for before, turn in pairwise(draw_scene(seed).turns)
            if turn.kind == "followup"
        }
        neighbours = {
            (turn.question, turn.answer, before.question, before.answer)
            for talk in record.dialogues
            for before, turn in pairwise(talk)
        }
        assert follows <= neighbours


def test_every_kind_of_training_finds_something() -> None:
    assert all(record.captions and record.grounded_captions and record.expressions for record in SCENES)
    assert any(turn.regions for record in SCENES for talk in record.dialogues for turn in talk)
    assert any(not turn.grounded for record in SCENES for talk in record.dialogues for turn in talk)
    for record in SCENES:
        assert {thing.category for thing in record.instances} <= record.exhaustive
        for caption in record.grounded_captions:
            assert parse_strict(caption.text).num_segs == caption.text.count(SEG) == len(caption.targets)


def test_ids_of_annotations_are_unique_over_all_scenes() -> None:
    numbers = [thing.id for record in SCENES for thing in record.instances]
    assert len(set(numbers)) == len(numbers)


def test_scenes_are_the_same_by_number_slice_and_process() -> None:
    assert SCENES[-1] == SCENES[11] == SCENES[10:][1] == pickle.loads(pickle.dumps(SCENES))[11]
    assert DrawnScenes(2, seed_offset=5)[1] == SCENES[6]
    assert DrawnScenes(1, HELD_OUT)[0].id == f"scene-{HELD_OUT}"
    assert len(pickle.dumps(SCENES[0].read_bytes)) < 4000
    with pytest.raises(IndexError):
        SCENES[12]


def test_the_configuration_is_kept() -> None:
    (record,) = DrawnScenes(1, config=SceneConfig(categories=("dog",), num_objects=(2, 2)))
    assert [thing.category for thing in record.instances] == ["dog", "dog"]


@pytest.mark.parametrize(("count", "offset"), [(0, 0), (3, -1), (3, HELD_OUT - 1)])
def test_scenes_that_cannot_be_are_refused(count: int, offset: int) -> None:
    with pytest.raises(ConfigError):
        DrawnScenes(count, offset)


def test_written_scenes_are_read_as_somebodys_own_data(tmp_path: Path) -> None:
    data = CustomData.from_files(**write_scenes(tmp_path, 5, seed=3))
    assert data.dropped == {}
    for read, drawn in zip(data, DrawnScenes(5, 3), strict=True):
        assert read.dialogues == drawn.dialogues
        assert read.captions == drawn.captions
        assert read.grounded_captions == drawn.grounded_captions
        assert [(e.text, e.targets) for e in read.expressions] == sorted(
            ((e.text, e.targets) for e in drawn.expressions if len(e.targets) == 1), key=lambda said: said[1]
        )
        opened, original = open_record(read), open_record(drawn)
        np.testing.assert_array_equal(opened.image, original.image)
        np.testing.assert_array_equal(opened.masks, original.masks)
        assert opened.instances == original.instances


def test_writing_twice_writes_the_same(tmp_path: Path) -> None:
    first, second = write_scenes(tmp_path / "a", 2), write_scenes(tmp_path / "b", 2)
    for key in ("instances", "captions", "dialogues"):
        assert first[key].read_bytes() == second[key].read_bytes()
