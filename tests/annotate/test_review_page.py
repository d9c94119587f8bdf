"""The review page in a browser, by its keys alone, and what becomes of its verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import annotate
from miniature import captions, write
from playwright.sync_api import Browser, Page, expect

from browsers import chromium

HOSTILE = "</script><script>alert(1)</script> 😀 A dog & <img src=x onerror=alert(2)> sits."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def press(page: Page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


@pytest.mark.slow
def test_what_a_person_says_with_keys_is_in_the_corrected_files(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, out, html = write(tmp_path / "in", pictures=True), tmp_path / "gvc", tmp_path / "review.html"
    rows = captions(3)
    rows["annotations"].insert(1, {"id": 99, "image_id": 1, "caption": HOSTILE})
    paths["captions"].write_text(json.dumps(rows))
    labels = json.loads(paths["instances"].read_text())
    for one in labels["annotations"]:  # numbers that are one and the same to a browser
        one["id"] += 2**60
    paths["instances"].write_text(json.dumps(labels))
    assert annotate("run", "--instances", paths["instances"], "--captions", paths["captions"], "--out", out) == 0
    assert annotate("review", out, "--images", tmp_path / "in", "--page", html) == 0

    faults: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(html.as_uri())
        named, phrase = page.locator("#things button[aria-pressed=true]"), page.locator("#text mark")
        expect(phrase).to_have_text("Two people")
        expect(named).to_have_text(["1 person", "2 person"])
        press(page, "p")  # `walk` is free, but `a dog` behind it is another phrase
        expect(phrase).to_have_text("Two people walk")
        press(page, "pa")
        expect(page.locator("#message")).to_contain_text("press f to keep the change")
        press(page, "ur")
        expect(phrase).to_have_text("a dog")
        press(page, "f")
        expect(page.locator("#message")).to_contain_text("Nothing is changed yet")
        press(page, "a")
        expect(page.locator("#text")).to_have_text(HOSTILE)
        expect(phrase).to_have_text("A dog")
        press(page, "w")
        expect(phrase).to_have_text("dog")
        page.locator("#things button", has_text="3 dog").press("Enter")
        press(page, "f")
        expect(page.locator("#message")).to_contain_text("Choose the things")
        page.locator("#things button", has_text="2 person").press("Enter")
        press(page, "f")
        page.keyboard.press("ArrowLeft")  # what was said is shown again
        expect(phrase).to_have_text("dog")
        expect(named).to_have_text(["2 person"])
        expect(page.locator("#fix")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#about")).to_contain_text("3 with a verdict")
        page.keyboard.press("ArrowRight")
        total = int(page.locator("#progress").get_attribute("max") or 0)
        press(page, "a" * (total - 3))
        expect(page.locator("#message")).to_contain_text("All phrases have a verdict")
        with page.expect_download() as download:
            press(page, "s")
        download.value.save_as(tmp_path / "verdicts.json")
    assert faults == []

    capsys.readouterr()
    fixed = tmp_path / "fixed"
    assert annotate("review", out, "--verdicts", tmp_path / "verdicts.json", "--out", fixed) == 0
    said = capsys.readouterr().out
    assert f"{total - 2} of {total} right" in said
    assert "of the 2 others 1 were fixed" in said
    before, after = (json.loads((folder / "gvc.json").read_text()) for folder in (out, fixed))
    assert after[0]["conversations"][1]["value"] == "Two people walk <g_s> a dog <g_e> <seg>."
    assert after[1]["conversations"][1]["value"] == HOSTILE.replace(" dog", " <g_s> dog <g_e> <seg>", 1)
    assert after[1]["gd_ls"] == [[2**60 + 1001]]
    assert after[2:] == before[2:]
    assert "rejected in review" in (fixed / "dropped_phrases.jsonl").read_text()
