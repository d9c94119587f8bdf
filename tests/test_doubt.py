"""A phrase that the model doubts says so wherever its answer is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from llava_grounding.cli.report import phrase_lines
from llava_grounding.errors import DataError
from llava_grounding.render import drawing
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region

IMAGE = Image.new("RGB", (80, 60), (90, 120, 90))


def answer(doubtful: bool, found: bool = True) -> GroundedAnswer:
    regions = (Region([10, 10, 40, 40], 0.4),) if found else ()  # type: ignore[arg-type]
    phrase = GroundedPhrase(0, "A sun", (0, 5), regions, 0.4, doubtful)
    return GroundedAnswer("A sun.", (phrase,), IMAGE.size, "<g_s> A sun <g_e> <seg>.", "m", 1, 1, image=IMAGE)


def test_its_regions_say_so_in_text() -> None:
    assert list(phrase_lines(answer(True))) == ["   1  A sun: box 10,10,40,40  score 0.40  doubtful"]
    assert list(phrase_lines(answer(False))) == ["   1  A sun: box 10,10,40,40  score 0.40"]
    assert list(phrase_lines(answer(True, found=False))) == ["   1  A sun: not found (best score 0.40)"]


def test_an_answer_is_doubtful_where_nothing_was_surely_found() -> None:
    sure, doubted, missing = answer(False), answer(True), answer(False, found=False)
    assert [one.doubtful for one in (sure, doubted, missing)] == [False, True, True]
    assert not replace(sure, phrases=()).doubtful


def test_its_words_have_a_mark_in_drawing_and_page_and_a_line_says_what_it_means() -> None:
    for shown in (True, False):
        pieces = "".join(text for text, _ in drawing._legend_pieces(answer(shown)))
        assert ("(?)" in pieces) == shown
        assert drawing._notes(answer(shown), []) == ["(?) = doubtful"] * shown
        page = answer(shown).to_html()
        assert ('<span class="mark">(?)</span>' in page) == ("(?) = doubtful" in page) == shown
        assert ('title="doubtful, score 0.40"' in page) == shown
    assert answer(True).draw().size == answer(True, found=False).draw().size
    assert "(?)" not in answer(True, found=False).to_html()


def test_json_has_it_only_where_it_is_true() -> None:
    assert answer(True).to_dict()["phrases"][0]["doubtful"] is True
    assert "doubtful" not in answer(False).to_dict()["phrases"][0]
    for shown in (True, False):
        assert GroundedAnswer.from_dict(answer(shown).to_dict()) == answer(shown)
    data = answer(True).to_dict()
    data["phrases"][0]["doubtful"] = "yes"
    with pytest.raises(DataError, match="`doubtful` of an answer must be true or false"):
        GroundedAnswer.from_dict(data)
    assert replace(answer(True).phrases[0], doubtful=False) == answer(False).phrases[0]
