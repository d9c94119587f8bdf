"""Prompts, regions and answers: what they accept, how they compare, and their JSON and COCO forms."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from llava_grounding import detections
from llava_grounding.errors import DataError, MissingExtraError, PromptError, ShapeError, UsageError
from llava_grounding.image_files import load_image
from llava_grounding.render import answer_to_html, draw_answer, draw_prompts
from llava_grounding.structures import (
    GroundedAnswer,
    GroundedPhrase,
    Message,
    Region,
    VisualPrompt,
    category_name,
)

many = settings(max_examples=100, deadline=None)
SCORES = st.floats(0, 1)


@st.composite
def regions(draw, size_wh):
    (x0, x1), (y0, y1) = (sorted(draw(st.tuples(st.floats(0, side), st.floats(0, side)))) for side in size_wh)
    mask = draw(st.none() | npst.arrays(bool, size_wh[::-1]))
    return Region(np.array([x0, y0, x1, y1]), draw(SCORES), mask)


@st.composite
def answers(draw):
    size_wh = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    words = draw(st.lists(st.text(min_size=1, max_size=5), max_size=6))
    phrases, start = [], 0
    for number, word in enumerate(words):
        found = tuple(draw(st.lists(regions(size_wh), max_size=2)))
        phrases.append(GroundedPhrase(number, word, (start, start + len(word)), found, draw(SCORES)))
        start += len(word) + 1
    return GroundedAnswer(" ".join(words), tuple(phrases), size_wh, draw(st.text(max_size=5)), "nano", 3, 5)


def a_mask():
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    return mask


def an_answer(**changes):
    dog = GroundedPhrase(0, "A dog", (0, 5), (Region(np.array([1.0, 1, 3, 2]), 0.75, a_mask()),), 0.75)
    cat = GroundedPhrase(1, "the cat", (11, 18), (), 0.125)
    fields = {
        "text": "A dog sees the cat.",
        "phrases": (dog, cat),
        "image_size_wh": (4, 3),
        "raw": "<g_s> A dog <g_e> <seg> sees <g_s> the cat <g_e> <seg>.",
        "model": "nano",
        "prompt_tokens": 190,
        "completion_tokens": 21,
    }
    return GroundedAnswer(**{**fields, **changes})


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


def test_coco_gets_an_annotation_per_region_and_a_category_per_kind():
    dogs = [
        GroundedPhrase(0, "A dog", (0, 5), (Region(np.array([1.0, 1, 3, 2]), 0.75, a_mask()),), 0.75),
        GroundedPhrase(1, "the Dog", (6, 13), (Region(np.array([0.0, 0, 2.5, 3]), 0.5),), 0.5),
        GroundedPhrase(2, "a cat", (14, 19), (), 0.1),
    ]
    coco = an_answer(text="A dog the Dog a cat", phrases=dogs).to_coco("street.jpg", image_id=7)
    assert coco["images"] == [{"id": 7, "file_name": "street.jpg", "width": 4, "height": 3}]
    assert coco["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    first, second = coco["annotations"]
    assert first == {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "bbox": [1.0, 1.0, 2.0, 1.0],
        "area": 2,
        "segmentation": {"size": [3, 4], "counts": "41202"},
        "iscrowd": 0,
        "score": 0.75,
    }
    assert (second["id"], second["category_id"], second["bbox"]) == (2, 1, [0.0, 0.0, 2.5, 3.0])
    assert (second["segmentation"], second["area"]) == ([], 8)
    json.dumps(coco)


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_supervision_gets_all_regions_with_the_words_that_name_them(monkeypatch):
    supervision = pytest.importorskip("supervision")
    masked = Region(np.array([1.0, 1, 3, 2]), 0.75, a_mask())
    dogs = (
        GroundedPhrase(0, "A dog", (0, 5), (masked,), 0.75),
        GroundedPhrase(3, "the Dog", (6, 13), (masked,), 0.5),
        GroundedPhrase(4, "a cat", (14, 19), (Region(np.array([0.0, 0, 2.5, 3]), 0.5, ~a_mask()),), 0.5),
        GroundedPhrase(5, "a cow", (20, 25), (), 0.1),
    )
    answer = an_answer(text="A dog the Dog a cat a cow", phrases=dogs)
    found = answer.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert (found.class_id.tolist(), found["class_name"].tolist()) == ([0, 0, 1], ["dog", "dog", "cat"])
    assert (found["phrase"].tolist(), found["phrase_id"].tolist()) == (["A dog", "the Dog", "a cat"], [0, 3, 4])
    assert found.xyxy.tolist() == [[1, 1, 3, 2], [1, 1, 3, 2], [0, 0, 2.5, 3]]
    assert found.confidence.tolist() == [0.75, 0.75, 0.5]
    assert (found.mask == np.array([a_mask(), a_mask(), ~a_mask()])).all()
    assert found[found["class_name"] == "cat"].area.tolist() == [(~a_mask()).sum()]
    boxed = GroundedPhrase(6, "A dog", (0, 5), (Region(np.array([0.0, 0, 2, 2]), 0.5), masked), 0.75)
    assert an_answer(text="A dog", phrases=(boxed,)).to_supervision().mask is None  # never an invented mask
    assert len(an_answer(text="", phrases=()).to_supervision()) == 0
    monkeypatch.setattr(detections, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'type `pip install "llava-grounding\[supervision\]"`'):
        answer.to_supervision()


@many
@given(answers())
def test_pycocotools_reads_the_coco_form(answer):
    coco_mask = pytest.importorskip("pycocotools.mask")
    annotations = answer.to_coco()["annotations"]
    found = [region for phrase in answer.phrases for region in phrase.regions]
    for region, annotation in zip(found, annotations, strict=True):
        if region.mask is not None:
            assert coco_mask.area(annotation["segmentation"]) == annotation["area"] == region.mask.sum()


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("A man", "man"),
        ("An  old\nman", "old man"),
        ("THE RED BUS", "red bus"),
        ("the", "the"),
        ("a", "a"),
        ("another man", "another man"),
        ("theatre", "theatre"),
        ("the the band", "the band"),
        ("犬", "犬"),
    ],
)
def test_a_category_is_the_phrase_without_its_article(phrase, name):
    assert category_name(phrase) == name


def test_an_answer_without_picture_says_how_to_give_one():
    for method in (an_answer().draw, an_answer().to_html):
        with pytest.raises(
            UsageError, match=r"^this answer carries no image; give it one, as in `answer.draw\(image\)`$"
        ):
            method()


def test_an_answer_draws_itself_into_its_picture():
    image = Image.new("RGB", (4, 3))
    drawn = an_answer(image=image).draw()
    assert isinstance(drawn, Image.Image)
    assert drawn.tobytes() == an_answer().draw(image).tobytes()
    assert "A dog" in an_answer(image=image).to_html()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_drawn_on_as_it_was_asked_about(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8))
    stored.save(tmp_path / "photo.png", exif=exif)
    photo = Image.open(tmp_path / "photo.png")
    upright = load_image(photo)
    mask = np.zeros(upright.size[::-1], dtype=bool)
    mask[2:4, 1:5] = True
    dog = GroundedPhrase(0, "A dog", (0, 5), (Region(np.array([1.0, 2, 5, 4]), 0.75, mask),), 0.75)
    answer = an_answer(phrases=(dog,), image_size_wh=upright.size, image=upright)
    expected_drawing, expected_page = answer.draw().tobytes(), answer.to_html()
    buffer = (tmp_path / "photo.png").open("rb")
    sources = [photo, tmp_path / "photo.png", (tmp_path / "photo.png").read_bytes(), buffer, np.asarray(upright)]
    for source in sources:
        assert answer.draw(source).tobytes() == expected_drawing
        assert answer.to_html(source) == expected_page
        assert draw_answer(source, answer).tobytes() == expected_drawing
        assert answer_to_html(source, answer) == expected_page
        draw_prompts(source, [VisualPrompt.box(0, 0, *upright.size)])
    buffer.close()


PROMPTS = {
    "click": lambda: VisualPrompt.click(2, 1),
    "box": lambda: VisualPrompt.box(1, 0, 3, 2),
    "scribble": lambda: VisualPrompt.scribble([(0, 0), (3, 2)]),
    "mask": lambda: VisualPrompt.mask_of(a_mask()),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_a_prompt_holds_its_own_kind_of_place_and_nothing_else(kind):
    prompt = PROMPTS[kind]()
    assert prompt.kind == kind
    held = {name: getattr(prompt, name) for name in ("points_xy", "box_xyxy", "mask")}
    given = [name for name, value in held.items() if value is not None]
    assert given == [{"box": "box_xyxy", "mask": "mask"}.get(kind, "points_xy")]
    assert held[given[0]].dtype == (np.bool_ if kind == "mask" else np.float64)
    prompt.validate((4, 3))


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_are_equal_by_content_and_cannot_be_changed(kind):
    first, second = PROMPTS[kind](), PROMPTS[kind]()
    assert first == second == copy.deepcopy(first) == pickle.loads(pickle.dumps(first))
    assert hash(first) == hash(second)
    assert [PROMPTS[other]() == first for other in PROMPTS] == [other == kind for other in PROMPTS]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.kind = "box"
    array = next(a for a in (first.points_xy, first.box_xyxy, first.mask) if a is not None)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


def test_prompts_at_other_places_are_other_prompts():
    assert VisualPrompt.click(1, 2) != VisualPrompt.click(2, 1)
    assert VisualPrompt.click(1, 2) != VisualPrompt.scribble([(1, 2)])
    assert VisualPrompt.mask_of(np.ones((2, 3))) != VisualPrompt.mask_of(np.ones((3, 2)))
    assert VisualPrompt.click(0.0, 1) == VisualPrompt.click(-0.0, 1)
    assert hash(VisualPrompt.click(0.0, 1)) == hash(VisualPrompt.click(-0.0, 1))
    assert VisualPrompt.click(1, 2) != "click"


def test_a_prompt_is_not_changed_through_the_array_it_was_made_of():
    mask = a_mask()
    prompt = VisualPrompt.mask_of(mask)
    mask[:] = True
    assert np.array_equal(prompt.mask, a_mask())
    region = Region(np.array([0.0, 0, 1, 1]), 0.5, mask)
    mask[:] = False
    assert region.mask.all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: VisualPrompt("blob"),
            "kind of a visual prompt must be one of `click`, `box`, `scribble`, `mask`, got 'blob'",
        ),
        (lambda: VisualPrompt("box"), "a box must have box_xyxy and nothing else, got nothing"),
        (
            lambda: VisualPrompt("box", points_xy=np.zeros((1, 2)), box_xyxy=np.zeros(4)),
            "a box must have box_xyxy and nothing else, got `points_xy`, `box_xyxy`",
        ),
        (lambda: VisualPrompt.click("a", 2), "a click must be one point (x, y), got [['a', 2]]"),
        (
            lambda: VisualPrompt.box(1, 2, 3, float("nan")),
            "a box must have finite coordinates in pixels, got [1.0, 2.0, 3.0, nan]",
        ),
        (lambda: VisualPrompt.click(1e300, 0), "a click must have finite coordinates in pixels, got [[1e+300, 0.0]]"),
        (lambda: VisualPrompt.scribble([]), "a scribble must be one or more points (x, y), got []"),
        (
            lambda: VisualPrompt.scribble([(1, 2), (3,)]),
            "a scribble must be one or more points (x, y), got [(1, 2), (3,)]",
        ),
        (
            lambda: VisualPrompt.mask_of(np.zeros((2, 2, 3))),
            "a mask must be a (H, W) array of numbers, got (2, 2, 3) float64",
        ),
    ],
)
def test_a_prompt_that_is_no_place_is_refused(make, message):
    with pytest.raises(PromptError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (VisualPrompt.click(4, 1), "a click must lie inside the image of 4 x 3 pixels, got (4, 1)"),
        (VisualPrompt.click(-0.5, 1), "a click must lie inside the image of 4 x 3 pixels, got (-0.5, 1)"),
        (VisualPrompt.scribble([(9, 9), (8, 8)]), "a scribble must lie inside the image of 4 x 3 pixels, got (9, 9)"),
        (VisualPrompt.box(1, 1, 1, 2), "a box must have x0 < x1 and y0 < y1, got (1, 1, 1, 2)"),
        (VisualPrompt.box(3, 1, 1, 2), "a box must have x0 < x1 and y0 < y1, got (3, 1, 1, 2)"),
        (VisualPrompt.box(4, 0, 9, 3), "a box must overlap the image of 4 x 3 pixels, got (4, 0, 9, 3)"),
        (VisualPrompt.mask_of(a_mask().T), "a mask must have the size of the image of 4 x 3 pixels, got 3 x 4 pixels"),
        (VisualPrompt.mask_of(np.zeros((3, 4))), "a mask must have at least one pixel set, got an empty one"),
    ],
)
def test_a_prompt_that_does_not_fit_the_image_is_refused(prompt, message):
    with pytest.raises(PromptError) as caught:
        prompt.validate((4, 3))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("prompt", "bounds"),
    [
        (VisualPrompt.click(2, 1), [1.5, 0.5, 2.5, 1.5]),
        (VisualPrompt.click(0, 2.9), [0, 2.4, 0.5, 3]),
        (VisualPrompt.box(1, 0, 30, 2), [1, 0, 4, 2]),
        (VisualPrompt.scribble([(3, 2), (1, 0)]), [1, 0, 3, 2]),
        (VisualPrompt.scribble([(0, 1), (3, 1)]), [0, 0.5, 3, 1.5]),
        (VisualPrompt.scribble([(-9, 1), (2, 2)]), [0, 1, 2, 2]),
        (VisualPrompt.mask_of(a_mask()), [1, 1, 3, 2]),
    ],
)
def test_bounds_are_the_box_around_a_prompt_cut_to_the_image(prompt, bounds):
    assert prompt.bounds((4, 3)).tolist() == bounds


@many
@given(
    st.lists(st.tuples(st.floats(-9, 30), st.floats(-9, 30)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_a_valid_prompt_has_bounds_with_area_inside_the_image(points, width, height):
    for prompt in (VisualPrompt.scribble(points), VisualPrompt.click(*points[0])):
        try:
            prompt.validate((width, height))
        except PromptError:
            continue
        x0, y0, x1, y1 = prompt.bounds((width, height))
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


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
