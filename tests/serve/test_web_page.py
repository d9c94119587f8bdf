"""The page in a browser, against a real server: what a person sees, points at, hears and takes away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from live_server import Live, serving
from playwright.sync_api import Browser, Page, Request, expect

from answer_checks import RAW, TEXT
from browsers import chromium
from llava_grounding.checkpoints import find_checkpoint
from llava_grounding.errors import LlavaGroundingError
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.structures import GroundedAnswer, VisualPrompt
from tiny_model import picture, saying

PHONE = {"width": 390, "height": 844}
SIZE_WH = (900, 600)
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens the page; at the end nothing was asked of any other place, and nothing went wrong in it."""
    faults: list[str] = []
    contexts = []

    def open_at(live: Live, **options: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)

        def asked(request: Request) -> None:
            if not request.url.startswith((live.url, "data:", "blob:")):
                faults.append(request.url)

        page.on("request", asked)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(live.url)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    picture(size_wh=SIZE_WH).save(path)
    return path


def take(page: Page, photo: Path) -> None:
    page.locator("#file").set_input_files(photo)
    expect(page.locator("#photo")).to_be_visible()


def ask(page: Page, question: str, answers: int = 1) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()
    finished(page, answers)


def finished(page: Page, answers: int) -> None:
    expect(page.get_by_role("button", name="Copy text")).to_have_count(answers)


def drag(page: Page, *shares: tuple[float, float]) -> None:
    """Draw with the mouse through places given as shares of the picture."""
    frame = page.locator("#photo").bounding_box()
    assert frame is not None
    places = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in shares]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def tool(page: Page, name: str) -> None:
    page.locator("#tools").get_by_text(name, exact=True).click()


def test_a_first_minute(open_page: Open) -> None:
    try:
        find_checkpoint(None)
    except LlavaGroundingError:
        pytest.skip("the embedded model is not in this checkout")
    chat = GroundedChat.from_pretrained()
    with serving(chat) as live:
        page = open_page(live)
        page.get_by_role("button", name="three birds").click()
        ask(page, "Describe the image.")
        example = live.http.get("/web/birds.jpg").content
        expected = chat.ask(example, "Describe the image.")
        expect(page.locator(".said")).to_have_text(expected.text)
        expect(page.locator(".phrase")).to_have_text([phrase.text for phrase in expected.phrases])
        expect(page.locator(".region")).to_have_count(sum(len(phrase.regions) for phrase in expected.phrases))
        ask(page, "How many birds are there?", 2)
        assert live.number("llava_grounding_dialogue_cache_total") == 2
        assert live.number("llava_grounding_image_cache_total") == 2


@pytest.mark.slow
def test_pointing_at_a_phrase_lights_its_masks_and_the_reverse(open_page: Open, live: Live, photo: Path) -> None:
    page = open_page(live)
    take(page, photo)
    with saying(live.chat, RAW):
        ask(page, "Describe the image.")
    phrase = page.locator(".phrase:not(.nothing)").last
    phrase.hover()
    lit = page.locator(".region.lit")
    number = phrase.get_attribute("data-phrase")
    assert lit.count() == page.locator(f'.region[data-phrase="{number}"]').count() > 0
    expect(page.locator(".lighting")).to_have_count(1)
    page.mouse.move(2, 2)
    expect(lit).to_have_count(0)
    phrase.focus()  # by keyboard as well
    assert lit.count() > 0
    page.get_by_label("Question").focus()
    expect(lit).to_have_count(0)
    top = page.locator(".region").last
    top.dispatch_event("pointerover")
    number = top.get_attribute("data-phrase")
    expect(page.locator(f'.phrase.lit[data-phrase="{number}"]')).to_have_count(1)


@pytest.mark.slow
def test_regions_are_drawn_numbered_and_spoken_of(open_page: Open, live: Live, photo: Path) -> None:
    page = open_page(live)
    take(page, photo)
    page.get_by_label("Question").fill("Is")
    tool(page, "Box")
    drag(page, (0.1, 0.1), (0.5, 0.6))
    tool(page, "Click")
    drag(page, (0.8, 0.5))
    for name in ("Scribble", "Lasso", "Brush"):
        tool(page, name)
        drag(page, (0.2, 0.2), (0.6, 0.3), (0.4, 0.7))
    expect(page.get_by_label("Question")).to_have_value("Is [1] [2] [3] [4] [5]")
    tool(page, "Erase")
    drag(page, (0.8, 0.5))
    expect(page.locator("#regions li")).to_have_count(4)
    page.get_by_role("button", name="Remove region 4").click()
    page.get_by_label("Question").fill("Is [5] like [1] and [3]? [9]")
    with page.expect_request("**/v1/chat/completions") as sent, saying(live.chat, RAW):
        page.get_by_label("Question").press("Enter")
        finished(page, 1)
    image, text, *regions = json.loads(sent.value.post_data or "")["messages"][0]["content"]
    assert image["type"] == "image_url"
    assert text["text"] == "Is <region> like <region> and <region>? [9]"
    assert [next(key for key in part if key != "type") for part in regions] == ["mask", "box", "scribble"]
    assert regions[1]["box"] == pytest.approx([90, 60, 450, 360], abs=3)
    expect(page.locator(".asked")).to_have_text("Is [5] like [1] and [3]? [9]")
    expect(page.locator("#regions li")).to_have_count(0)


@pytest.mark.slow
def test_everything_can_be_done_with_the_keyboard(open_page: Open, live: Live, photo: Path) -> None:
    page = open_page(live)
    take(page, photo)
    page.get_by_role("radio", name="Look").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Box")).to_be_checked()
    page.keyboard.press("Tab")
    expect(page.locator("#stage")).to_be_focused()
    page.keyboard.press("Enter")
    for key in ["ArrowRight"] * 6 + ["ArrowDown"] * 4:
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("#regions")).to_contain_text("[1] box")
    page.get_by_label("Question").focus()
    page.keyboard.press("End")
    page.keyboard.type(" what?")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Enter")
        finished(page, 1)
    box = json.loads(sent.value.post_data or "")["messages"][0]["content"][2]["box"]
    VisualPrompt.box(*box).validate(SIZE_WH)


@pytest.mark.slow
def test_what_is_not_there_is_asked_again_and_both_answers_stay(open_page: Open, live: Live, photo: Path) -> None:
    page = open_page(live)
    take(page, photo)
    other = "There is <g_s> a red dog <g_e> <seg>."
    with saying(live.chat, RAW, other):
        ask(page, "Describe the image.")
        with page.expect_request("**/v1/chat/completions") as sent:
            page.get_by_role("button", name="two white cats is not there").click()
            finished(page, 2)
    messages = json.loads(sent.value.post_data or "")["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["grounding"]["raw"] == RAW
    assert messages[2]["content"][0]["text"] == "There are no white cats. Describe the image."
    expect(page.locator(".answers.two .said")).to_have_text([TEXT, "There is a red dog."])
    before, after = (page.locator(".answer").nth(number).bounding_box() for number in (0, 1))
    assert before is not None
    assert after is not None
    assert before["x"] + before["width"] <= after["x"] + 1
    page.locator(".answer").first.locator(".phrase").nth(2).hover()  # regions of the older one
    expect(page.locator('.region.lit[data-phrase="2"]').first).to_be_attached()


@pytest.mark.slow
def test_the_slider_hides_what_is_less_sure_and_files_have_what_is_shown(
    open_page: Open, live: Live, photo: Path, tmp_path: Path
) -> None:
    page = open_page(live)
    take(page, photo)
    with saying(live.chat, RAW):
        ask(page, "Describe the image.")

    def saved(name: str) -> Path:
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {name}").click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
        return tmp_path / download.value.suggested_filename

    expect(page.get_by_label("Show regions from")).to_have_value("0.5")  # as the model has it
    scores = [region.score for phrase in read(saved("JSON")).phrases for region in phrase.regions]
    assert len(scores) == page.locator(".region").count() > 0
    assert min(scores) > 0.5
    page.get_by_label("Show regions from").fill("0.1")
    assert page.locator(".region").count() > len(scores)
    page.get_by_label("Show regions from").fill("0.9")
    shown = read(saved("JSON"))
    regions = [region for phrase in shown.phrases for region in phrase.regions]
    assert len(regions) == page.locator(".region").count() < len(scores)
    assert (tmp_path / "photo.json").is_file()
    assert len(json.loads(saved("COCO").read_text())["annotations"]) == len(regions)
    assert saved("PNG").read_bytes().startswith(b"\x89PNG")
    html = saved("HTML").read_text()
    assert html.lower().startswith("<!doctype html>")
    assert "two white cats" in html


def read(path: Path) -> GroundedAnswer:
    return GroundedAnswer.from_dict(json.loads(path.read_text()))


@pytest.mark.slow
def test_words_are_never_html(open_page: Open, live: Live, photo: Path) -> None:
    page = open_page(live)
    take(page, photo)
    image = '<img src="/nowhere" onerror="alert(1)">'
    with saying(live.chat, f"{image} <g_s> {image} <g_e> <seg>"):
        ask(page, image)
    expect(page.locator(".asked")).to_have_text(image)
    expect(page.locator(".said")).to_have_text(f"{image} {image}")
    assert page.locator("#turns img").count() == 0
    policy = live.http.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.slow
def test_an_answer_can_be_stopped_and_what_is_wrong_is_said(open_page: Open, live: Live, photo: Path) -> None:
    page = open_page(live)
    take(page, photo)
    with saying(live.chat, [20] * 400):
        page.get_by_label("Question").fill("What?")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".said")).not_to_be_empty()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status")).to_contain_text("Stopped")
        box = page.get_by_role("status").bounding_box()
        assert box is not None
        beneath = "([x, y]) => document.elementFromPoint(x, y)?.id"
        assert page.evaluate(beneath, [box["x"] + 5, box["y"] + box["height"] / 2]) != "status"  # taps go through it
    live.wait_until_idle()
    page.get_by_label("Question").fill("long " * 700)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("this model reads at most")
    page.locator("#file").set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("status")).to_contain_text("no picture that the browser can read")


@pytest.mark.slow
def test_a_key_is_asked_for_where_one_is_needed(open_page: Open, photo: Path) -> None:
    with serving(api_key="sesame") as live:
        page = open_page(live)
        page.get_by_label("API key").fill("sesame")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#model")).to_have_text("model tiny-shared")
        take(page, photo)
        ask(page, "What?")


@pytest.mark.slow
def test_the_page_is_accessible_and_fits(open_page: Open, live: Live, photo: Path) -> None:
    page = open_page(live)
    assert_accessible(page)
    take(page, photo)
    with saying(live.chat, RAW, RAW):
        ask(page, "Describe the image.")
        page.get_by_role("button", name="a red dog is not there").click()
        finished(page, 2)
    tool(page, "Box")
    drag(page, (0.1, 0.1), (0.5, 0.6))
    page.locator(".phrase").first.hover()
    assert_accessible(page)


def assert_accessible(page: Page) -> None:
    """In a wide window and on a phone, in light and in dark."""
    wide = page.viewport_size
    assert wide is not None
    for size in (PHONE, wide):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = Axe().run(page)
            assert found.violations_count == 0, (size, scheme, found.generate_report())
