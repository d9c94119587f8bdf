"""Answers as others take them: COCO, supervision, a drawing and a page."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from llava_grounding import detections
from llava_grounding.errors import MissingExtraError, UsageError
from llava_grounding.image_files import load_image
from llava_grounding.render import answer_to_html, draw_answer, draw_prompts
from llava_grounding.structures import (
    GroundedPhrase,
    Region,
    VisualPrompt,
    category_name,
)
from made_answers import a_mask, an_answer, answers

many = settings(max_examples=100, deadline=None)


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
