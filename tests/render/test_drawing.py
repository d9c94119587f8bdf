"""A drawing shows every region where it is, in the colour of its phrase, and leaves the rest of the picture alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from render_examples import answer_of, disc, grey

from llava_grounding.errors import PromptError, ShapeError
from llava_grounding.render import draw_answer, draw_prompts, drawing
from llava_grounding.render.canvas import Canvas, display_scale
from llava_grounding.render.palette import phrase_color
from llava_grounding.render.parts import text_pieces
from llava_grounding.render.typeset import Typesetter
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region, VisualPrompt

SIZE = (800, 600)


def count(image: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == color).all(axis=-1).sum())


def test_a_region_is_tinted_and_framed_and_the_rest_untouched() -> None:
    drawing = draw_answer(grey(SIZE), answer_of(SIZE, ["see ", ("a disc", [disc(SIZE, 400, 300, 100)])]))
    pixels = np.asarray(drawing)
    color = np.array(phrase_color(0))
    assert drawing.width == 800
    assert drawing.height > 600
    np.testing.assert_allclose(pixels[300, 400], 128 + (color - 128) * 100 / 255, atol=1.5)
    assert (pixels[300, 301] == color).all()  # contour and frame meet here
    assert (pixels[201, 320] == color).all()  # the frame's upper edge
    assert (pixels[:150, :] == 128).all()
    assert (pixels[450:600, :] == 128).all()
    assert (pixels[250:350, :280] == 128).all()


def test_the_contour_has_a_dark_halo_outside() -> None:
    canvas = Canvas(grey(SIZE, 255), 2048)
    mask = np.zeros((600, 800), dtype=bool)
    mask[200:400, 300:500] = True
    canvas.tint(mask, (255, 0, 0))
    pixels = np.asarray(canvas.picture)
    assert pixels[300, 299].tolist() == [65, 65, 65]
    assert pixels[300, 300].tolist() == [255, 0, 0]
    assert pixels[300, 400].tolist() == [255, 155, 155]
    assert pixels[300, 290].tolist() == [255, 255, 255]


@pytest.mark.parametrize("size_wh", [(1, 1), (3, 2), (20, 4000), (4000, 20), (160, 120), (5000, 4000), (1, 5000)])
def test_any_picture_gets_a_drawing_of_a_size_to_look_at(size_wh: tuple[int, int]) -> None:
    region = disc(size_wh, size_wh[0] / 2, size_wh[1] / 2, max(0.6, min(size_wh) / 3))
    prompts = [VisualPrompt.click(size_wh[0] / 2, size_wh[1] / 2)]
    drawing = draw_answer(grey(size_wh), answer_of(size_wh, [("a thing", [region])]), prompts)
    assert 480 <= drawing.width <= 4096
    assert drawing.height <= 4300
    assert count(drawing, phrase_color(0)) > 20


@pytest.mark.parametrize(
    ("size_wh", "scale"),
    [((800, 600), 1), ((320, 200), 2), ((1, 1), 640), ((4096, 3000), 0.5), ((4000, 20), 1.024), ((1000, 10), 4.096)],
)
def test_pictures_are_scaled_to_be_readable(size_wh: tuple[int, int], scale: float) -> None:
    assert display_scale(size_wh, 2048) == pytest.approx(scale)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.data())
def test_no_region_or_prompt_inside_a_picture_ever_fails(width: int, height: int, data: st.DataObject) -> None:
    x = st.floats(0, width, exclude_max=True)
    y = st.floats(0, height, exclude_max=True)
    boxes = data.draw(st.lists(st.tuples(x, y, x, y), max_size=4))
    regions = [
        Region((min(a, c), min(b, d), max(a, c), max(b, d)), 0.5, np.indices((height, width)).sum(axis=0) % 2 == 0)
        for a, b, c, d in boxes
    ]
    prompts = [VisualPrompt.click(data.draw(x), data.draw(y)), VisualPrompt.scribble([(0, 0), (width - 1, height - 1)])]
    answer = answer_of((width, height), ["x ", ("things", regions)])
    assert draw_answer(grey((width, height)), answer, prompts).mode == "RGB"


def test_the_picture_given_is_not_drawn_on() -> None:
    image = grey(SIZE)
    draw_answer(image, answer_of(SIZE, [("a disc", [disc(SIZE, 400, 300, 100)])]))
    assert image.getcolors() == [(480_000, (128, 128, 128))]


def test_each_phrase_has_its_colour_in_the_text_too() -> None:
    answer = answer_of(SIZE, [("a disc", [disc(SIZE, 100, 300, 50)]), " and ", ("another", [disc(SIZE, 600, 300, 50)])])
    drawing = draw_answer(grey(SIZE), answer)
    legend = drawing.crop((0, 600, *drawing.size))
    assert count(legend, phrase_color(0)) > 100
    assert count(legend, phrase_color(1)) > 100
    assert count(legend, phrase_color(2)) == 0


def test_a_phrase_without_regions_is_grey_and_takes_no_colour() -> None:
    drawing = draw_answer(grey(SIZE), answer_of(SIZE, ["There are ", ("no birds", []), "."]))
    legend = drawing.crop((0, 600, *drawing.size))
    assert count(legend, phrase_color(0)) == 0
    assert count(legend, (110, 110, 110)) > 50
    with_region = draw_answer(grey(SIZE), answer_of(SIZE, ["There are ", ("no birds", [disc(SIZE, 9, 9, 5)]), "."]))
    assert count(with_region.crop((0, 600, *drawing.size)), phrase_color(0)) > 50


def test_three_hundred_phrases_are_drawn() -> None:
    size = (400, 300)
    regions = [Region((k % 20 * 20, k // 20 * 20, k % 20 * 20 + 18, k // 20 * 20 + 18), 0.5) for k in range(300)]
    answer = answer_of(size, [part for region in regions for part in (("thing", [region]), ", ")])
    drawing = draw_answer(grey(size), answer)
    assert drawing.height > 480 + 500


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "a" * 5000, "word " * 3000, "\x00\ud800", "שלום", "😀" * 50, "中" * 200]
)
def test_any_text_can_be_drawn(text: str) -> None:
    drawing = draw_answer(grey((64, 48)), answer_of((64, 48), [text]))
    assert drawing.height < 6000


def test_a_picture_of_another_size_is_refused() -> None:
    answer = answer_of(SIZE, ["x"])
    with pytest.raises(ShapeError, match="this answer is about an image of 800 x 600 pixels, got one of 600 x 800"):
        draw_answer(grey((600, 800)), answer)


def test_small_regions_lie_on_top_of_large_ones() -> None:
    small, large = disc(SIZE, 400, 300, 30), disc(SIZE, 400, 300, 200)
    for parts in ([("large", [large]), ("small", [small])], [("small", [small]), ("large", [large])]):
        answer = answer_of(SIZE, parts)
        within_its_frame = draw_answer(grey(SIZE), answer).crop((376, 276, 424, 324))
        color = phrase_color([phrase.text for phrase in answer.phrases].index("small"))
        assert count(within_its_frame, color) > 5  # its contour, with no tint over it


def test_tags_avoid_each_other() -> None:
    canvas = Canvas(grey(SIZE), 2048)
    box = np.array([100.0, 100, 300, 300])
    for number in range(12):
        canvas.tag(str(number), box, phrase_color(number))
    tags = np.array(canvas._tags)
    overlaps = [
        (i, j)
        for i in range(12)
        for j in range(i)
        if (np.minimum(tags[i, 2:], tags[j, 2:]) > np.maximum(tags[i, :2], tags[j, :2])).all()
    ]
    assert overlaps == []


def test_prompts_are_white_with_their_names() -> None:
    mask = np.zeros((600, 800), dtype=bool)
    mask[400:500, 100:200] = True
    prompts = [
        VisualPrompt.click(100, 100),
        VisualPrompt.box(300, 100, 500, 200),
        VisualPrompt.scribble([(600, 100), (700, 200), (600, 300)]),
        VisualPrompt.mask_of(mask),
    ]
    drawing = draw_prompts(grey(SIZE, 90), prompts)
    assert drawing.size == SIZE
    pixels = np.asarray(drawing)
    for where in (
        (slice(85, 115), slice(85, 115)),
        (slice(95, 205), slice(295, 505)),
        (slice(90, 310), slice(590, 710)),
    ):
        part = pixels[where]
        assert (part == 255).all(axis=-1).sum() > 15
        assert (part == 0).all(axis=-1).sum() > 15
    assert pixels[450, 150].tolist() == [155, 155, 155]
    assert (pixels[550:] == 90).all()


def test_a_prompt_outside_the_picture_is_refused() -> None:
    with pytest.raises(PromptError, match="click must lie inside the image of 800 x 600 pixels"):
        draw_prompts(grey(SIZE), [VisualPrompt.click(900, 100)])


def test_text_is_cut_at_its_phrases_and_adds_up() -> None:
    answer = answer_of(SIZE, ["see ", ("a dog", []), " and ", ("a cat", []), "."])
    assert text_pieces(answer) == [("see ", None), ("a dog", 0), (" and ", None), ("a cat", 1), (".", None)]


def test_of_overlapping_phrases_the_first_is_shown() -> None:
    phrases = (
        GroundedPhrase(0, "dog's tail", (2, 12), (), 0.1),
        GroundedPhrase(1, "a dog", (0, 5), (), 0.1),
        GroundedPhrase(2, "tail", (8, 12), (), 0.1),
    )
    answer = GroundedAnswer("a dog's tail", phrases, SIZE, "", "nano", 0, 0)
    assert text_pieces(answer) == [("a dog", 1), ("'s ", None), ("tail", 2)]


def notes_of(answer: GroundedAnswer) -> list[str]:
    lines = Typesetter(20).lines([(answer.text, 0)], 700)
    return drawing._notes(answer, lines)


def test_a_question_mark_is_explained_where_there_is_one() -> None:
    found, ghost = answer_of(SIZE, [("a disc", [disc(SIZE, 400, 300, 100)])]), answer_of(SIZE, [("a ghost", [])])
    assert notes_of(found) == []
    assert notes_of(ghost) == ["? = not found in the picture"]
    assert draw_answer(grey(SIZE), ghost).height > draw_answer(grey(SIZE), found).height


def test_letters_that_no_font_has_are_named() -> None:
    (note,) = notes_of(answer_of(SIZE, ["it is \u0378\u0379\u0380\u0381"]))
    assert note.startswith("Empty boxes: no font on this computer has U+0378, U+0379, U+0380 and others; a browser may")
    plain, boxes = (draw_answer(grey(SIZE), answer_of(SIZE, [text])) for text in ("it is aaaa", "it is \u0378"))
    assert boxes.height > plain.height
