"""The page holds the text and nothing but the text, lights what belongs together, and runs no script but its own."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from render_examples import answer_of, disc, grey

from llava_grounding.errors import PromptError, ShapeError
from llava_grounding.render import answer_to_html
from llava_grounding.render.palette import css, phrase_color
from llava_grounding.render.typeset import clean
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, VisualPrompt

SIZE = (320, 240)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'--></p></style>$script ${style}"


class Page(HTMLParser):
    """The elements of a page, and the text of the answer without numbers and question marks."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.answer, self.scripts = "", []
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "image", "path", "rect"):
            self._open.append((tag, dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        classes = [name for _, name in self._open]
        if "answer" in classes and classes[-1] not in ("number", "mark"):
            self.answer += data
        if self._open and self._open[-1][0] == "script":
            self.scripts.append(data)

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = attributes.items()
        return [found for name, found in self.elements if name == tag and wanted <= found.items()]


def example() -> tuple[Image.Image, GroundedAnswer]:
    parts = [
        ("A disc", [disc(SIZE, 90, 90, 30)]),
        " near ",
        ("a box", [disc(SIZE, 200, 90, 30, False)]),
        ", ",
        ("no birds", []),
    ]
    return grey(SIZE), answer_of(SIZE, [*parts, "."])


def test_the_text_of_the_page_is_the_text_of_the_answer() -> None:
    image, answer = example()
    assert Page(answer_to_html(image, answer)).answer == "A disc near a box, no birds."


def test_words_masks_and_numbers_of_a_phrase_share_their_mark_and_colour() -> None:
    page = Page(answer_to_html(*example()))
    for k in range(2):
        marked = [(tag, found) for tag, found in page.elements if found.get("data-phrase") == str(k)]
        assert [tag for tag, _ in marked] == ["g", "span", "span"]
        assert all(css(phrase_color(k)) in (found["style"] or "") for _, found in marked)
    assert len(page.of("path")) == 2  # halo and outline of the one mask
    assert len(page.of("rect", **{"class": "alone"})) == 1  # a box without mask is pointed at by its inside


def test_every_phrase_can_be_reached_with_the_keyboard() -> None:
    page = Page(answer_to_html(*example()))
    phrases = [found for found in page.of("span") if (found.get("class") or "").startswith("phrase")]
    assert [found["tabindex"] for found in phrases] == ["0", "0", "0"]


def test_a_phrase_without_regions_says_so_with_its_score() -> None:
    (doubtful,) = Page(answer_to_html(*example())).of("span", **{"class": "phrase doubtful"})
    assert doubtful["title"] == "not found in the picture (best score 0.12)"
    assert "pixels · ? = not found in the picture</p>" in answer_to_html(*example())
    assert "style" not in doubtful


def test_hostile_text_stays_text() -> None:
    answer = answer_of(SIZE, [HOSTILE, (HOSTILE, [disc(SIZE, 90, 90, 30)]), (HOSTILE, [])], model=HOSTILE)
    html = answer_to_html(grey(SIZE), answer)
    page = Page(html)
    assert page.answer == answer.text
    assert len(page.of("script")) == 1
    assert page.of("img") == []
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert html.count("<style>") == html.count("</style>") == 1


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=60), st.data())
def test_any_text_with_any_phrases_survives(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    phrases = [GroundedPhrase(k, text[a:b], (a, b), (), 0.0) for k, (a, b) in enumerate(spans)]
    answer = GroundedAnswer(text, tuple(phrases), (4, 3), text, text, 0, 0)
    html = answer_to_html(grey((4, 3)), answer)
    html.encode()
    assert Page(html).answer == (clean(text) or "(no text)")


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched() -> None:
    html = answer_to_html(*example())
    page = Page(html)
    (policy,) = [found["content"] for found in page.of("meta") if found.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"(?:https?:)?//[a-z]", html.replace(page.scripts[0], ""))
    assert [found["href"][:22] for found in page.of("image") if found["href"]] == ["data:image/jpeg;base64"]


def test_the_picture_inside_is_the_picture() -> None:
    colourful = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    (found,) = Page(answer_to_html(colourful, answer_of((32, 24), ["x"]))).of("image")
    assert found["class"] == "pixels"
    head, data = (found["href"] or "").split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(colourful))


def test_a_huge_picture_is_reduced_but_keeps_its_coordinates() -> None:
    size = (5000, 2500)
    page = Page(answer_to_html(grey(size), answer_of(size, [("a disc", [disc(size, 2500, 1250, 300)])])))
    (svg,), (found,) = page.of("svg"), page.of("image")
    assert svg["viewbox"] == "0 0 5000 2500"
    assert (found["width"], found["height"]) == ("5000", "2500")
    with Image.open(io.BytesIO(base64.b64decode((found["href"] or "").split(",")[1]))) as image:
        assert image.size == (2048, 1024)
    (box,) = [found for found in page.of("rect") if found["class"] != "halo"]
    assert (box["x"], box["y"], box["width"], box["height"]) == ("2200", "950", "600", "600")


def test_light_and_dark_are_both_styled() -> None:
    html = answer_to_html(*example())
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="color-scheme" content="light dark">' in html


def test_prompts_are_shown_with_their_names() -> None:
    image, answer = example()
    mask = np.zeros((240, 320), dtype=bool)
    mask[5:9, 5:9] = True
    prompts = [
        VisualPrompt.click(10, 20),
        VisualPrompt.box(1, 2, 30, 40),
        VisualPrompt.scribble([(1, 2), (3, 4), (5, 6)]),
        VisualPrompt.mask_of(mask),
    ]
    html = answer_to_html(image, answer, prompts)
    page = Page(html)
    assert len(page.of("g", **{"class": "prompt"})) == 4
    assert [name for name in ("R1", "R2", "R3", "R4", "R5") if f">{name}</span>" in html] == ["R1", "R2", "R3", "R4"]
    assert {found["points"] for found in page.of("polyline")} == {"1 2 3 4 5 6"}


def test_wrong_pictures_and_prompts_are_refused() -> None:
    image, answer = example()
    with pytest.raises(ShapeError, match="about an image of 320 x 240 pixels, got one of 9 x 9"):
        answer_to_html(grey((9, 9)), answer)
    with pytest.raises(PromptError, match="must lie inside the image"):
        answer_to_html(image, answer, [VisualPrompt.click(-1, 0)])
