"""Regions, phrases, answers and messages: what they accept, how they compare, and their JSON form."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_grounding.errors import DataError, ShapeError, UsageError
from llava_grounding.structures import (
    GroundedAnswer,
    GroundedPhrase,
    Message,
    Region,
    VisualPrompt,
)
from made_answers import a_mask, an_answer, answers

many = settings(max_examples=100, deadline=None)


AS_JSON = {
    "version": 1,
    "text": "A dog sees the cat.",
    "image_size": [4, 3],
    "phrases": [
        {
            "id": 0,
            "text": "A dog",
            "span": [0, 5],
            "regions": [
                {"box": [1.0, 1.0, 3.0, 2.0], "score": 0.75, "area": 2, "mask": {"size": [3, 4], "counts": "41202"}}
            ],
            "score": 0.75,
        },
        {"id": 1, "text": "the cat", "span": [11, 18], "regions": [], "score": 0.125},
    ],
    "raw": "<g_s> A dog <g_e> <seg> sees <g_s> the cat <g_e> <seg>.",
    "model": "nano",
    "usage": {"prompt_tokens": 190, "completion_tokens": 21},
}


def changed(path, value):
    """The JSON of an answer with one value replaced, or removed where it is `...`."""
    data = copy.deepcopy(AS_JSON)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


def test_an_answer_is_written_as_documented():
    assert an_answer().to_dict() == AS_JSON
    assert list(an_answer().to_dict()) == list(AS_JSON)


@many
@given(answers())
def test_an_answer_survives_json(answer):
    back = GroundedAnswer.from_dict(json.loads(json.dumps(answer.to_dict())))
    assert back == answer
    assert hash(back) == hash(answer)
    assert back.to_dict() == answer.to_dict()


def test_a_phrase_without_score_takes_that_of_its_best_region():
    data = changed(("phrases", 0, "score"), ...)
    del data["phrases"][1]["score"]
    assert [phrase.score for phrase in GroundedAnswer.from_dict(data).phrases] == [0.75, 0.0]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 2, "an answer must have version 1, got 2"),
        (("version",), ..., "an answer must have version 1, got None"),
        (("version",), True, "an answer must have version 1, got True"),
        (("text",), ..., "an answer must have `text`, it is missing"),
        (("usage",), {}, "an answer must have `prompt_tokens`, it is missing"),
        (("text",), 5, "an answer must have text where 5 stands"),
        (("phrases", 0, "span"), [0, 4], "span of phrase 0 must cover 'A dog' in the text, got (0, 4)"),
        (("phrases", 0, "span"), [0, 500], "span of phrase 0 must cover 'A dog' in the text, got (0, 500)"),
        (("phrases", 0, "score"), 1.5, "score must be in [0, 1], got 1.5"),
        (("phrases", 0, "score"), float("nan"), "score must be in [0, 1], got nan"),
        (
            ("phrases", 0, "regions", 0, "box"),
            [3, 1, 1, 2],
            "an answer has a value that does not fit: box_xyxy must be four finite numbers, x0 <= x1 and y0 <= y1, "
            "got [3.0, 1.0, 1.0, 2.0]",
        ),
        (
            ("phrases", 0, "regions", 0, "mask", "size"),
            [60000, 60000],
            "masks must have the size of the image, [3, 4], got [60000, 60000]",
        ),
        (
            ("phrases", 0, "regions", 0, "mask", "counts"),
            "9",
            "run-length code must describe 3 x 4 = 12 pixels, got 9",
        ),
        (
            ("image_size",),
            [0, 3],
            "an answer has a value that does not fit: image_size_wh must be at least (1, 1) pixels, got (0, 3)",
        ),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_in_a_sentence(path, value, message):
    with pytest.raises(DataError) as caught:
        GroundedAnswer.from_dict(changed(path, value))
    assert str(caught.value) == message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
PATHS = [
    ("text",), ("image_size",), ("phrases",), ("phrases", 0), ("phrases", 0, "id"), ("phrases", 0, "text"),
    ("phrases", 0, "span"), ("phrases", 0, "regions"), ("phrases", 0, "regions", 0), ("phrases", 0, "score"),
    ("phrases", 0, "regions", 0, "box"), ("phrases", 0, "regions", 0, "score"), ("phrases", 0, "regions", 0, "mask"),
    ("phrases", 0, "regions", 0, "mask", "size"), ("phrases", 0, "regions", 0, "mask", "counts"), ("raw",),
    ("model",), ("usage",), ("usage", "prompt_tokens"),
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PATHS), JSON_VALUES | st.just(...))
def test_any_damage_to_the_json_is_read_or_refused(path, value):
    try:
        answer = GroundedAnswer.from_dict(changed(path, value))
    except DataError:
        return
    assert GroundedAnswer.from_dict(answer.to_dict()) == answer


@pytest.mark.parametrize("data", [None, [], "text", {}])
def test_what_is_no_answer_is_refused(data):
    with pytest.raises(DataError, match=r"^an answer must have version 1, got None$"):
        GroundedAnswer.from_dict(data)


def test_answers_are_equal_by_content_and_apart_from_the_picture():
    assert an_answer() == an_answer(image=Image.new("RGB", (4, 3)))
    assert an_answer() != an_answer(text="A dog sees the cat!")
    other_mask = Region(np.array([1.0, 1, 3, 2]), 0.75, ~a_mask())
    other = GroundedPhrase(0, "A dog", (0, 5), (other_mask,), 0.75)
    assert an_answer() != an_answer(phrases=(other, an_answer().phrases[1]))
    assert "image" not in repr(an_answer(image=Image.new("RGB", (4, 3)))).replace("image_size_wh", "")


@pytest.mark.parametrize("spans", [(0, 4), (-19, -14), (5, 5)])
def test_a_phrase_must_stand_where_its_span_says(spans):
    with pytest.raises(DataError, match=r"^span of phrase 0 must cover 'A dog' in the text, got "):
        an_answer(phrases=(GroundedPhrase(0, "A dog", spans, (), 0.5),))


def test_a_mask_must_have_the_size_of_the_image():
    with pytest.raises(ShapeError, match=r"^masks must be \(2, 4\) like the image, got \(3, 4\)$"):
        an_answer(image_size_wh=(4, 2))


def test_a_region_without_mask_has_the_area_of_its_box():
    assert Region(np.array([0.0, 0, 2.5, 3]), 1).area == 8
    assert Region(np.array([0.0, 0, 2.5, 3]), 1, a_mask()).area == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Region(np.zeros(3), 0.5),
            "box_xyxy must be four finite numbers, x0 <= x1 and y0 <= y1, got [0.0, 0.0, 0.0]",
        ),
        (lambda: Region(np.zeros(4), 0.5, np.zeros((2, 2))), "mask must be (H, W) bool, got (2, 2) float64"),
        (lambda: Region(np.zeros(4), 0.5, np.zeros(4, dtype=bool)), "mask must be (H, W) bool, got (4,) bool"),
    ],
)
def test_a_region_of_the_wrong_shape_is_refused(make, message):
    with pytest.raises(ShapeError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_scores_are_shares(score):
    with pytest.raises(DataError, match=r"^score must be in \[0, 1\], got "):
        Region(np.zeros(4), score)


def test_numpy_scalars_become_plain_numbers():
    region = Region(np.array([0, 0, 1, 1], dtype=np.float32), np.float32(0.5))
    phrase = GroundedPhrase(0, "A dog", (np.int64(0), np.int64(5)), [region], np.float32(0.5))
    answer = an_answer(phrases=[phrase], image_size_wh=(np.int64(4), np.int64(3)))
    assert json.loads(json.dumps(answer.to_dict()))["phrases"][0]["span"] == [0, 5]
    assert isinstance(answer.phrases, tuple)
    hash(answer)


def test_a_message_knows_its_role_and_its_prompts():
    message = Message("user", "What is <region>?", [VisualPrompt.click(1, 2)])
    assert message == Message("user", "What is <region>?", (VisualPrompt.click(1, 2),))
    assert hash(message) is not None
    with pytest.raises(
        UsageError, match=r"^role of a message must be one of `user`, `assistant`, `system`, got 'robot'$"
    ):
        Message("robot", "hello")


def test_a_region_is_described_in_a_line() -> None:
    region = Region(np.array([1.0, 1, 3, 2.5]), 0.75, a_mask())
    assert repr(region) == f"Region((1, 1, 3, 2.5), score 0.750, mask of {a_mask().sum()} pixels)"
    assert repr(Region(np.array([0.0, 0, 2.5, 3]), 0.5)) == "Region((0, 0, 2.5, 3), score 0.500)"


def test_regions_of_a_phrase_as_columns() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:5] = True
    first, second = Region(np.array([2.0, 1, 5, 3]), 0.9, mask), Region(np.array([0.0, 0, 1, 1]), 0.4, ~mask)
    phrase = GroundedPhrase(0, "dogs", (0, 4), (first, second), 0.9)
    assert phrase.boxes_xyxy.tolist() == [[2, 1, 5, 3], [0, 0, 1, 1]]
    assert phrase.scores.tolist() == [0.9, 0.4]
    assert phrase.masks is not None
    assert (phrase.masks == np.stack([mask, ~mask])).all()
    assert GroundedPhrase(0, "dogs", (0, 4), (first, Region(np.zeros(4), 0.1)), 0.9).masks is None
    nothing = GroundedPhrase(0, "dogs", (0, 4), (), 0.1)
    assert (nothing.boxes_xyxy.shape, nothing.scores.shape, nothing.masks.shape) == ((0, 4), (0,), (0, 0, 0))
