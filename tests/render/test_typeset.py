"""Text in any script is broken into lines that fit, in reading order, and nothing of it is lost."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_grounding.render import typeset
from llava_grounding.render.typeset import NO_BREAK, TextRun, Typesetter, clean

NOBODY_WRITES = "\u0378"  # unassigned, so no font has it


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(typeset, "_SYSTEM_FONTS", ())
    yield
    typeset._can_write.cache_clear()
    typeset._load_font.cache_clear()


def shown(line: list[TextRun]) -> str:
    return "".join(run.text for run in line)


def test_words_go_to_lines_that_fit_and_none_is_lost() -> None:
    text = "A man rides a brown horse along the beach while two dogs run after them."
    lines = Typesetter(20).lines([(text, 0)], 200)
    assert len(lines) > 3
    assert [word for line in lines for word in shown(line).split()] == text.split()
    assert all(line[-1].x + line[-1].width <= 200 for line in lines)
    assert all(line[0].x == 0 and not shown(line).startswith(" ") for line in lines)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), st.integers(0, 5)), max_size=6), st.integers(30, 400))
def test_any_text_is_set_within_its_width(pieces: list[tuple[str, int]], width: int) -> None:
    setter = Typesetter(18)
    for line in setter.lines(pieces, width):
        assert all(before.x + before.width == pytest.approx(after.x) for before, after in pairwise(line))
        fits = not line or line[-1].x + line[-1].width <= 1.1 * width  # shaped together, letters may need a little more
        assert fits or len(line) == 1  # one letter wider than the line


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200), st.integers(20, 300))
def test_no_ascii_word_is_lost_at_any_width(text: str, width: int) -> None:
    lines = Typesetter(16).lines([(text, 0)], width)
    assert "".join("".join(map(shown, lines)).split()) == "".join(text.split())


def test_a_style_changes_inside_a_word_without_breaking_it() -> None:
    lines = Typesetter(20).lines([("see (", 0), ("dogs", 1), ("), and cats", 0)], 1000)
    assert [(run.text, run.style) for run in lines[0] if run.style] == [("dogs", 1)]
    narrow = Typesetter(20).lines([("see (", 0), ("dogs", 1), ("), and cats", 0)], 75)
    assert [shown(line) for line in narrow] == ["see", "(dogs),", "and", "cats"]


def test_a_number_stays_with_its_words_at_the_end_of_a_line() -> None:
    number = f"{NO_BREAK}7{NO_BREAK}"
    for width in range(60, 200, 4):
        lines = Typesetter(20).lines([("one two three ", 0), (number, 1), ("the blanket", 2)], width)
        line = next(line for line in lines if "7" in shown(line))
        assert shown(line).endswith(" 7 the") or " 7 the " in shown(line)
        assert line[0].x == 0


def test_newlines_break_and_empty_lines_stay() -> None:
    assert [shown(line) for line in Typesetter(20).lines([("a\n", 0), ("\nb", 1)], 100)] == ["a", "", "b"]


def test_a_word_longer_than_the_line_is_broken() -> None:
    lines = Typesetter(20).lines([("x" * 100, 0)], 100)
    assert "".join(map(shown, lines)) == "x" * 100
    assert len(lines) > 5


def test_chinese_breaks_between_characters_but_not_before_a_full_stop() -> None:
    lines = Typesetter(20).lines([("红色的公共汽车停在路边。", 0)], 61)
    assert len(lines) > 2
    assert "".join(map(shown, lines)) == "红色的公共汽车停在路边。"
    assert not any(shown(line).startswith("。") for line in lines)


def test_hebrew_words_run_from_right_to_left() -> None:
    (line,) = Typesetter(20).lines([("אחד שתיים שלוש", 0)], 400)
    assert [run.text for run in line if run.text.strip()] == ["שלוש", "שתיים", "אחד"]
    assert line[-1].x + line[-1].width == pytest.approx(400)


def test_foreign_words_keep_their_own_direction() -> None:
    (line,) = Typesetter(20).lines([("see אחד שתיים now", 0)], 400)
    assert [run.text for run in line if run.text.strip()] == ["see", "שתיים", "אחד", "now"]
    (line,) = Typesetter(20).lines([("אחד red car שתיים", 0)], 400)
    assert [run.text for run in line if run.text.strip()] == ["שתיים", "red", "car", "אחד"]


def test_the_number_of_a_hebrew_phrase_stands_where_it_begins() -> None:
    (line,) = Typesetter(20).lines([("a ", 0), (f"{NO_BREAK}3{NO_BREAK}", 1), ("כלב", 2)], 400)
    assert [run.style for run in line if run.style] == [2, 1]


def test_too_many_lines_end_in_an_ellipsis() -> None:
    lines = Typesetter(20).lines([("a\n" * 50, 0)], 100, max_lines=5)
    assert [shown(line) for line in lines] == ["a", "a", "a", "a", "..."]


def test_what_no_font_can_write_is_marked_and_takes_room() -> None:
    (line,) = Typesetter(20).lines([(f"ab {NOBODY_WRITES}{NOBODY_WRITES}", 0)], 200)
    unwritable = [run for run in line if run.font is None]
    assert sum(run.width for run in unwritable) == pytest.approx(28)
    assert "".join(run.text for run in unwritable) == 2 * NOBODY_WRITES


@pytest.mark.usefixtures("no_system_fonts")
def test_without_system_fonts_accents_are_dropped_and_signs_become_similar_ones() -> None:
    (line,) = Typesetter(20).lines([("café — naïve ×２ 中", 0)], 400)
    assert shown(line) == "cafe - naive x2 中"
    assert [run.text for run in line if run.font is None] == ["中"]


def test_an_emoji_family_is_one_letter() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert list(typeset._clusters(f"a{family}e\u0301\U0001f1e9\U0001f1ea\U0001f44d\U0001f3fd")) == [
        "a",
        family,
        "e\u0301",
        "\U0001f1e9\U0001f1ea",
        "\U0001f44d\U0001f3fd",
    ]


@given(st.text(st.characters(exclude_categories=[])))
def test_cleaning_keeps_every_position_and_can_be_encoded(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    cleaned.encode()
    assert not any(c < " " and c != "\n" for c in cleaned)


def test_cleaning_replaces_only_what_cannot_be_shown() -> None:
    assert clean("a\tb\r\n\x00\ud800é😀") == "a b \n\ufffd\ufffdé😀"
