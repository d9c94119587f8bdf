"""Marked-up text to plain text and spans: canonical, broken, streamed, and back."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_grounding.errors import MarkupError
from llava_grounding.markup import (
    PHRASE_END,
    PHRASE_START,
    REGION,
    SEG,
    SPECIAL_TOKENS,
    PhraseSpan,
    StreamParser,
    format_markup,
    parse,
    parse_strict,
    strip_markup,
)

PIECES = [
    *SPECIAL_TOKENS,
    " ",
    "  ",
    "\n",
    "\u3000",
    "\u00a0",
    "<",
    ">",
    "</",
    "<g_",
    "s>",
    "eg>",
    "<se",
    "<region",
    ".",
    ",",
]
WORDS = ["dog", "a red bus", "犬", "كلب", "e\u0301", "👩‍👩‍👧", "🇩🇪", "\u200b", "'s"]
RAW = st.lists(st.sampled_from(PIECES + WORDS) | st.text(max_size=4), max_size=24).map("".join)
PLAIN = RAW.filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))
many = settings(max_examples=300, deadline=None)


@st.composite
def texts_with_spans(draw):
    text = draw(PLAIN)
    cuts = sorted(set(draw(st.lists(st.integers(0, len(text)), max_size=8))))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False)) + list(zip(cuts[1::2], cuts[2::2], strict=False))
    kept = draw(st.lists(st.sampled_from(sorted(pairs)), unique=True)) if pairs else []
    return text, [(a, b) for a, b in sorted(kept) if text[a:b] == text[a:b].strip()]


@st.composite
def chunkings(draw):
    raw = draw(RAW)
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def phrases_of(raw, **options):
    return [(phrase.text, phrase.span, phrase.seg_index) for phrase in parse(raw, **options).phrases]


def test_a_phrase_becomes_plain_text_with_a_span():
    parsed = parse("See <g_s> a dog <g_e> <seg>, ok")
    assert parsed.text == "See a dog, ok"
    assert parsed.phrases == (PhraseSpan("a dog", (4, 9), 0),)
    assert parsed.num_segs == 1


@pytest.mark.parametrize(
    "raw", ["<g_s>two dogs<g_e><seg>", "<g_s>  two dogs\n<g_e> \t<seg>", "<g_s>two dogs <g_e><seg>"]
)
def test_any_white_space_inside_the_markup_belongs_to_it(raw):
    assert parse(raw).text == "two dogs"
    assert phrases_of(raw) == [("two dogs", (0, 8), 0)]


def test_white_space_around_the_markup_is_text():
    assert parse(" \n <g_s> a <g_e> <seg>  <g_s> b <g_e> <seg>\t").text == " \n a  b\t"


@pytest.mark.parametrize(
    ("raw", "text", "phrases"),
    [
        ("", "", []),
        ("plain words", "plain words", []),
        ("It is <seg>.", "It is.", []),
        ("<seg>.", ".", []),
        ("see <seg> here", "see here", []),
        ("<g_s> a dog", "a dog", []),
        ("a <g_s> dog <g_e> runs", "a dog runs", []),
        ("a <g_s> dog <g_e>", "a dog", []),
        ("a dog <g_e> <seg> runs", "a dog runs", []),
        ("see <g_s> <g_e> <seg> there", "see there", []),
        ("see <g_s><g_e><seg> there", "see there", []),
        ("<g_s> a dog <seg> runs <g_e> <seg>", "a dog runs", []),
        ("<g_s> a dog <g_e> , <seg>", "a dog ,", []),
        ("<g_s> a <g_s> dog <g_e> <seg> runs <g_e> <seg>", "a dog runs", [("dog", (2, 5), 0)]),
        ("<g_s> a dog <g_e> <seg> <seg>", "a dog", [("a dog", (0, 5), 0)]),
        ("<seg> <g_s> a dog <g_e> <seg>", " a dog", [("a dog", (1, 6), 1)]),
        ("<g_s> the object <region> <g_e> <seg>", "the object", [("the object", (0, 10), 0)]),
        ("<g_s> a dog <g_e> <region> <seg>", "a dog", []),
        ("<g_s> 犬👩‍👩‍👧 <g_e> <seg>。", "犬👩‍👩‍👧。", [("犬👩‍👩‍👧", (0, 6), 0)]),
    ],
)
def test_broken_markup_becomes_plain_text(raw, text, phrases):
    assert parse(raw).text == text
    assert phrases_of(raw) == phrases


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<g_<seg>s> dog <g_e> <seg>", "<g_s dog"),
        ("<g_s<seg>>>> dog", "<g_s dog"),
        ("<se<g_s>g> dog <g_e> <seg>", "<seg dog"),
        ("<reg<seg>ion> dog", "<region dog"),
        ("<g_ <seg>e> dog", "<g_e dog"),
    ],
)
def test_halves_of_a_token_do_not_join_to_a_token(raw, text):
    assert parse(raw).text == text


@many
@given(RAW)
@example("<se<g_s>g> dog <g_e> <seg>")
@example("<g_s<g_s>> <g_e> <seg>")
@example("<g_s<g_s>> x<g_e> <seg>")
def test_no_text_crashes_keeps_a_token_or_gets_a_wrong_span(raw):
    for tidy in (False, True):
        parsed = parse(raw, tidy=tidy)
        assert not any(token in parsed.text for token in SPECIAL_TOKENS)
        assert parsed.num_segs == raw.count(SEG)
        end = 0
        for phrase in parsed.phrases:
            assert end <= phrase.span[0] < phrase.span[1]
            end = phrase.span[1]
            assert parsed.text[phrase.span[0] : phrase.span[1]] == phrase.text == phrase.text.strip() != ""
        indices = [phrase.seg_index for phrase in parsed.phrases]
        assert indices == sorted(set(indices))
        assert all(index < parsed.num_segs for index in indices)


@many
@given(RAW)
def test_only_markup_and_white_space_are_lost(raw):
    words = "".join(re.split("|".join(SPECIAL_TOKENS), raw))
    # A `>` may go where removed markup would leave a whole token behind.
    assert _ink(strip_markup(raw)).replace(">", "") == _ink(words).replace(">", "")


def _ink(text):
    return "".join(text.split())


@many
@given(texts_with_spans())
def test_format_and_parse_give_back_text_and_spans(case):
    text, spans = case
    raw = format_markup(text, spans)
    parsed = parse(raw)
    assert parsed.text == text == strip_markup(raw)
    assert [phrase.span for phrase in parsed.phrases] == spans
    assert [phrase.seg_index for phrase in parsed.phrases] == list(range(len(spans)))
    assert parse_strict(raw) == parsed
    assert format_markup(parsed.text, [phrase.span for phrase in parsed.phrases]) == raw


def test_format_writes_the_canonical_form():
    assert format_markup("See a dog, ok", [(4, 9)]) == "See <g_s> a dog <g_e> <seg>, ok"


@pytest.mark.parametrize(
    ("text", "spans", "message"),
    [
        ("a <seg>", [], "text to mark up must hold no special tokens, got `<seg>` at character 2"),
        ("dog", [(0, 4)], "span must lie within the 3 characters and not be empty, got [0, 4)"),
        ("dog", [(-1, 2)], "span must lie within the 3 characters and not be empty, got [-1, 2)"),
        ("dog", [(1, 1)], "span must lie within the 3 characters and not be empty, got [1, 1)"),
        ("dog cat", [(0, 3), (2, 5)], "spans must be in reading order and apart, got [2, 5) after one up to 3"),
        ("dog cat", [(4, 7), (0, 3)], "spans must be in reading order and apart, got [0, 3) after one up to 7"),
        ("a dog", [(1, 5)], "a phrase must not begin or end with white space, got ' dog' at [1, 5)"),
    ],
)
def test_format_refuses_spans_that_could_not_come_back(text, spans, message):
    with pytest.raises(MarkupError) as caught:
        format_markup(text, spans)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "One big a dog <seg> runs",
            '`<seg>` at character 14 closes no phrase; expected EXPECTED, got "One big a dog <seg>"',
        ),
        ("a dog <g_e> <seg>", '`<g_e>` at character 6 ends no phrase; expected EXPECTED, got "a dog <g_e>"'),
        ("<g_s> <g_e> <seg>", '`<g_e>` at character 6 ends an empty phrase; expected EXPECTED, got "<g_s> <g_e>"'),
        ("<g_s> a dog", 'the last `<g_s>` is never closed; expected EXPECTED, got "<g_s> a dog"'),
        ("<g_s> a dog <g_e>", "the last phrase 'a dog' has no `<seg>`; expected EXPECTED, got \"<g_s> a dog <g_e>\""),
        (
            "<g_s> a <g_s> dog <g_e> <seg>",
            "`<g_s>` at character 8 comes before the phrase in front of it is complete; expected EXPECTED, "
            'got "<g_s> a <g_s>"',
        ),
        (
            "<g_s> a dog <g_e> runs far away <seg>",
            "the phrase 'a dog' has text where its `<seg>` should be; expected EXPECTED, "
            'got "... a dog <g_e> runs far aw"',
        ),
        ("<g_s> a <seg>", '`<seg>` at character 8 closes no phrase; expected EXPECTED, got "<g_s> a <seg>"'),
        ("see <region>", '`<region>` at character 4 belongs in a question; expected EXPECTED, got "see <region>"'),
    ],
)
def test_strict_parsing_names_the_first_thing_wrong(raw, message):
    with pytest.raises(MarkupError) as caught:
        parse_strict(raw)
    assert str(caught.value) == message.replace("EXPECTED", "`<g_s> ... <g_e> <seg>`")


@many
@given(RAW)
def test_strict_parsing_agrees_with_parsing_or_refuses(raw):
    try:
        strict = parse_strict(raw)
    except MarkupError:
        return
    assert strict == parse(raw)
    assert raw.count(PHRASE_START) == raw.count(PHRASE_END) == raw.count(SEG) == len(strict.phrases)
    assert REGION not in raw


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("A <g_s> red dog <g_e> <seg> is near a <g_s> bus <g_e> <seg>  .", "A red dog is near a bus."),
        ("<g_s> a dog <g_e> <seg> , <g_s> a cat <g_e> <seg> !", "a dog, a cat!"),
        ("<g_s> 犬 <g_e> <seg> 。", "犬。"),
        ("<g_s> a dog <g_e> <seg> (big)", "a dog (big)"),
        ("It costs .5 or so , see <g_s> a tag <g_e> <seg>", "It costs .5 or so , see a tag"),
        ("<seg> .", "."),
        ("it <g_s> <g_e> .", "it."),
    ],
)
def test_tidy_removes_blanks_that_tokenizers_leave_before_punctuation(raw, text):
    assert parse(raw, tidy=True).text == text


@many
@given(chunkings(), st.booleans())
@example(["<", "g", "_s> a", " ", "dog ", "<g_e", "> ", "<se", "g>", " ."], True)
@example(["<g_s", "<g_s>", ">", ">", " x", "<g_e><seg>"], False)
def test_however_the_text_is_cut_the_stream_adds_up_to_the_whole(chunks, tidy):
    parser = StreamParser(tidy=tidy)
    text, phrases = "", []
    for delta in [*map(parser.feed, chunks), parser.finish()]:
        text += delta.text
        phrases += delta.phrases
        # A phrase is told only after all of its words.
        assert all(text[phrase.span[0] : phrase.span[1]] == phrase.text for phrase in delta.phrases)
    whole = parse("".join(chunks), tidy=tidy)
    assert (text, tuple(phrases)) == (whole.text, whole.phrases)
    assert parser.parsed == whole


@many
@given(chunkings(), RAW)
def test_what_was_streamed_is_never_taken_back(chunks, rest):
    parser = StreamParser()
    text = "".join(parser.feed(chunk).text for chunk in chunks)
    assert parse("".join(chunks) + rest).text.startswith(text)


@pytest.mark.parametrize(
    ("pieces", "deltas"),
    [
        (["See <g_", "s> a dog"], ["See", " a dog"]),
        (["a < b", "<", "c"], ["a < b", "", "<c"]),
        (["<g_s>", " a", " dog", " <g", "_e>", " ", "<seg>", ","], ["", "a", " dog", "", "", "", "", ","]),
        (["word ", "word"], ["word", " word"]),
        (["<g_s> dog <g_e> ", "runs"], ["dog", " runs"]),
    ],
)
def test_only_what_may_still_be_markup_is_held_back(pieces, deltas):
    parser = StreamParser()
    assert [parser.feed(piece).text for piece in pieces] == deltas


def test_a_phrase_is_told_as_soon_as_its_seg_is_whole():
    parser = StreamParser()
    assert parser.feed("<g_s> a dog <g_e> <se").phrases == ()
    assert parser.feed("g>").phrases == (PhraseSpan("a dog", (0, 5), 0),)


def test_the_end_gives_what_was_held_back():
    parser = StreamParser()
    assert parser.feed("a <se").text == "a"
    assert parser.finish().text == " <se"


@pytest.mark.parametrize("raw", ["<g_s> a <g_e> <seg> " * 20000, "<" * 200000, "<g_s" + "<seg>>" * 40000, " " * 200000])
def test_long_hostile_text_takes_time_in_proportion(raw):
    # Quadratic work on any of these would run into the time limit of the suite.
    assert parse(raw).num_segs == raw.count(SEG)
    parser = StreamParser()
    for start in range(0, len(raw), 7):
        parser.feed(raw[start : start + 7])
    parser.finish()
    assert parser.parsed.num_segs == raw.count(SEG)
