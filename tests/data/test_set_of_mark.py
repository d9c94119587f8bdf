"""Set-of-Mark: numbers in texts, numbers in pictures, and the files that have them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dialogue_files import box_mask, chat, write_json, write_labelled, write_picture
from PIL import Image
from scipy.ndimage import label

from llava_grounding.data.mark_drawing import draw_marks
from llava_grounding.data.readers.set_of_mark import SetOfMarkDialogues, find_marks, with_prompts
from llava_grounding.data.record import RecordedTurn
from llava_grounding.errors import DataError, ShapeError

GREY = np.full((120, 160, 3), 128, dtype=np.uint8)
RED, BLUE = (213, 94, 0), (0, 114, 178)


def disk(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:120, :160]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def boxes_of(masks: list[np.ndarray]) -> np.ndarray:
    corners = []
    for mask in masks:
        rows, columns = mask.nonzero()
        corners.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return np.array(corners, dtype=float)


def label_box(marked: np.ndarray, ink: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Where the largest patch of the ink lies: the label, since an outline is thin."""
    patches, _ = label((marked == ink).all(axis=2))
    largest = 1 + int(np.argmax(np.bincount(patches.ravel())[1:]))
    rows, columns = (patches == largest).nonzero()
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_texts_name_marks_and_marks_name_annotations() -> None:
    mentions = find_marks("The dog <3> sits beside <1>, not <b> or <3.5>.", (7, 8, 9))
    assert [(mention.number, mention.annotation) for mention in mentions] == [(3, 9), (1, 7)]
    assert mentions[0].span == (8, 11)
    assert find_marks("the dog <3>")[0].annotation is None
    assert find_marks("no dog") == ()


@pytest.mark.parametrize("text", ["the dog <4>", "the dog <0>", "the dog <00>"])
def test_a_mark_that_is_not_there_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="a mark must be 1 to 3"):
        find_marks(text, (7, 8, 9))


def test_marks_of_a_question_can_be_pointed_at_instead() -> None:
    turn = with_prompts(RecordedTurn("Is <2> above <1>?", "Yes."), (7, 8))
    assert turn == RecordedTurn("Is <region> above <region>?", "Yes.", regions=(8, 7))
    with pytest.raises(DataError, match="must name none"):
        with_prompts(RecordedTurn("Where?", "At <2>."), (7, 8))
    with pytest.raises(DataError, match="marks or regions"):
        with_prompts(RecordedTurn("What is <region>?", "A dog.", regions=(0,)), (7, 8))


def test_a_number_stands_deep_inside_its_thing() -> None:
    masks = [disk(50, 60, 35)]
    marked = draw_marks(GREY, masks, boxes_of(masks), [1])
    x0, y0, x1, y1 = label_box(marked, RED)
    assert abs((x0 + x1) / 2 - 50) < 3
    assert abs((y0 + y1) / 2 - 60) < 3
    assert 10 <= y1 - y0 <= 20


def test_a_crescent_has_its_number_on_itself_not_in_its_hollow() -> None:
    masks = [disk(70, 60, 50) & ~disk(90, 60, 45)]
    x0, y0, x1, y1 = label_box(draw_marks(GREY, masks, boxes_of(masks), [1]), RED)
    assert masks[0][(y0 + y1) // 2, (x0 + x1) // 2]


def test_a_large_thing_leaves_the_small_one_on_it_its_place() -> None:
    masks = [disk(80, 60, 55), disk(80, 60, 18)]
    marked = draw_marks(GREY, masks, boxes_of(masks), [1, 2])
    first, second = label_box(marked, RED), label_box(marked, BLUE)
    assert masks[1][(second[1] + second[3]) // 2, (second[0] + second[2]) // 2]
    assert not masks[1][(first[1] + first[3]) // 2, (first[0] + first[2]) // 2]


def test_numbers_do_not_cover_each_other_while_there_is_room() -> None:
    masks = [disk(60 + 8 * (k % 4), 50 + 8 * (k // 4), 3) for k in range(8)]
    marked = draw_marks(GREY, masks, boxes_of(masks), range(1, 9))
    inks = {tuple(int(v) for v in row) for row in marked.reshape(-1, 3)}
    labels = [label_box(marked, ink) for ink in [RED, BLUE, (0, 158, 115), (230, 159, 0)] if ink in inks]
    assert len(labels) == 4
    for index, (x0, y0, x1, y1) in enumerate(labels):
        assert min(x1 - x0, y1 - y0) >= 10, "something covers it"
        for u0, v0, u1, v1 in labels[:index]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0


def test_the_tint_is_as_strong_as_alpha_and_the_picture_is_left_alone() -> None:
    masks = [disk(50, 60, 40)]
    before = GREY.copy()
    faint, full, none = (draw_marks(GREY, masks, boxes_of(masks), [1], alpha) for alpha in (0.1, 1.0, 0.0))
    np.testing.assert_array_equal(before, GREY)
    assert faint[60, 20].tolist() == [round(0.9 * 128 + 0.1 * value) for value in RED]
    assert full[60, 20].tolist() == list(RED)
    assert none[60, 20].tolist() == [128, 128, 128]
    assert none[60, 10].tolist() == list(RED), "the outline"
    assert (faint[:10] == 128).all()


def test_where_only_a_box_is_known_it_is_outlined() -> None:
    marked = draw_marks(GREY, [None], np.array([[10.0, 10.0, 90.0, 70.0]]), [12])
    assert marked[10, 40].tolist() == marked[69, 40].tolist() == marked[40, 10].tolist() == list(RED)
    assert marked[20, 20].tolist() == [128, 128, 128]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_pictures_of_any_size_take_marks(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), dtype=np.uint8)
    masks = [np.ones(size, dtype=bool), np.zeros(size, dtype=bool), None]
    boxes = np.array([[0, 0, size[1], size[0]], [-5, -5, 0, 0], [0, 0, 1, 1]], dtype=float)
    assert draw_marks(image, masks, boxes, [1, 2, 333]).shape == image.shape
    assert (draw_marks(image, [], np.zeros((0, 4)), []) == image).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="as many, got 1, 1 and 2"):
        draw_marks(GREY, [None], np.zeros((1, 4)), [1, 2])
    with pytest.raises(ShapeError, match="size of the image"):
        draw_marks(GREY, [np.ones((2, 2), dtype=bool)], np.zeros((1, 4)), [1])
    with pytest.raises(DataError, match=r"alpha must be in \[0, 1\], got 2"):
        draw_marks(GREY, [], np.zeros((0, 4)), [], 2)


def entry(*turns: str, name: str = "one", **more: Any) -> dict[str, Any]:
    return {"id": name, "image": "COCO_train2014_000000000012.jpg", "conversations": chat(*turns), **more}


def test_marks_are_drawn_when_the_picture_is_read(tmp_path: Path) -> None:
    file = write_json(
        tmp_path / "marks.json",
        [entry("<image>\nWhat is <1>?", "The tram <1> behind the man <2>.", marks=[1300, 1207])],
    )
    (record,) = SetOfMarkDialogues.from_files(file, **write_labelled(tmp_path), alpha=0.5)
    ((turn,),) = record.dialogues
    assert (turn.question, turn.answer) == ("What is <1>?", "The tram <1> behind the man <2>.")
    assert record.marks == (2, 1)
    assert [record.instances[m.annotation or 0].id for m in find_marks(turn.answer, record.marks)] == [1300, 1207]
    pixels = record.load_image().astype(int)
    plain = np.asarray(Image.open(tmp_path / "images" / record.image_name)).astype(int)
    outside = ~box_mask(24, 2, 40, 28) & ~box_mask(14, 5, 22, 25)
    assert (np.abs(pixels - plain).sum(axis=2)[box_mask(24, 2, 40, 28)] > 30).mean() > 0.8
    assert (np.abs(pixels - plain).sum(axis=2)[outside] > 30).mean() < 0.3


def test_a_picture_may_come_with_its_marks(tmp_path: Path) -> None:
    write_picture(tmp_path / "images", "COCO_train2014_000000000012.jpg")
    file = write_json(tmp_path / "marks.json", [entry("What is <7>?", "A tram.")])
    data = SetOfMarkDialogues.from_files(file, tmp_path / "images")
    assert data[0].marks == ()
    assert data[0].instances == ()
    assert data[0].dialogues[0][0].question == "What is <7>?"


def test_entries_whose_marks_do_not_add_up_are_left_out(tmp_path: Path) -> None:
    entries = [
        entry("What is <3>?", "A tram.", name="too high", marks=[1300, 1207]),
        entry("What is <0>?", "A tram.", name="zero"),
        entry("What is <1>?", "A dog.", name="foreign", marks=[2001]),
        entry("What is <1>?", "A dog.", name="twice", marks=[1300, 1300]),
        entry("What is <1>?", "A dog.", name="none", marks={"1": 1300}),
        entry("What is <1>?", "A <seg>.", name="markup", marks=[1300]),
    ]
    data = SetOfMarkDialogues.from_files(write_json(tmp_path / "m.json", entries), **write_labelled(tmp_path))
    assert len(data) == 0
    assert data.dropped == {
        "mark that is not there": ("too high", "zero"),
        "annotation of another image": ("foreign",),
        "one thing with two marks": ("twice",),
        "not annotation ids": ("none",),
        "special token in the text": ("markup",),
    }


def test_ids_without_the_file_they_are_of_are_an_error(tmp_path: Path) -> None:
    file = write_json(tmp_path / "m.json", [entry("What is <1>?", "A tram.", marks=[1300])])
    with pytest.raises(DataError, match="so `instances` must name the file"):
        SetOfMarkDialogues.from_files(file, tmp_path)


def test_it_travels_to_workers(tmp_path: Path) -> None:
    file = write_json(tmp_path / "m.json", [entry("What is <1>?", "A tram.", marks=[1300])])
    data = SetOfMarkDialogues.from_files(file, **write_labelled(tmp_path))
    (copy,) = pickle.loads(pickle.dumps(list(data)))
    assert copy == data[0]
    assert (copy.load_image() == data[0].load_image()).all()
