"""Text with markup to ids and back, whole and token by token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava_grounding.errors import CheckpointError
from llava_grounding.markup import format_markup
from llava_grounding.processing.tokens import MarkupTokenizer, RawDecoder, SpecialIds
from llava_grounding.train.tokenizer import SPECIAL_TOKENS
from tiny_model import WORDS, tiny_config, tiny_processor

TOKENS = tiny_processor(tiny_config()).tokens
IDS = TOKENS.ids

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
markup_soup = st.lists(
    st.sampled_from(["<g_s>", "<g_e>", "<seg>", "<region>", "</s>", "<", ">", " ", "a dog", "🐕‍🦺", "é", "\n", "犬"]),
    max_size=12,
).map("".join)


@st.composite
def grounded_texts(draw: st.DrawFn) -> str:
    """A sentence with canonical markup around some of its words."""
    words = draw(st.lists(st.sampled_from(["a", "dog", "犬", "🐕‍🦺", "naïve", "2", "x,"]), min_size=1, max_size=8))
    text, spans = "", []
    for word in words:
        text += draw(st.sampled_from(["", " ", "  "])) if text else draw(st.sampled_from(["", " "]))
        if draw(st.booleans()):
            spans.append((len(text), len(text) + len(word)))
        text += word
    return format_markup(text, spans)


@settings(max_examples=60)
@given(raw=st.one_of(any_text, markup_soup, grounded_texts()))
def test_any_text_comes_back_from_its_ids(raw: str) -> None:
    assert TOKENS.decode(TOKENS.encode_answer(raw)) == raw


@settings(max_examples=40)
@given(raw=grounded_texts())
def test_every_phrase_of_an_answer_gets_its_three_tokens(raw: str) -> None:
    ids = TOKENS.encode_answer(raw)
    for token, name in ((IDS.phrase_start, "<g_s>"), (IDS.phrase_end, "<g_e>"), (IDS.seg, "<seg>")):
        assert ids.count(token) == raw.count(name)


@given(text=st.one_of(any_text, markup_soup))
def test_nothing_a_user_writes_becomes_a_special_token(text: str) -> None:
    special = set(TOKENS.tokenizer.added_tokens_decoder)
    assert not special & set(TOKENS.encode_plain(text))
    assert not special & set(TOKENS.encode_question(text, 0))


def test_only_the_expected_regions_of_a_question_are_placeholders() -> None:
    question = "Is <region> like <region> or <region>?"
    assert [TOKENS.encode_question(question, count).count(IDS.region) for count in (0, 1, 2, 3)] == [0, 1, 2, 3]
    ids = TOKENS.encode_question(question, 2)
    place = ids.index(IDS.region)
    assert TOKENS.decode(ids[:place]) == "Is "
    assert TOKENS.decode(ids) == question


def test_a_phrase_is_tokenised_like_the_same_words_in_running_text() -> None:
    plain = TOKENS.encode_plain("There is a red dog to the left.")
    marked = TOKENS.encode_answer("There is <g_s> a red dog <g_e> <seg> to the left.")
    assert [token for token in marked if token not in (IDS.phrase_start, IDS.phrase_end, IDS.seg)] == plain


@pytest.mark.parametrize(
    ("raw", "segs"),
    [
        ("<g_s> a <g_s> dog <g_e> <seg>.", 1),
        ("<g_s> a <g_e> dog <g_e> <seg>.", 0),
        ("<g_s> dog <g_e>.", 0),
        ("<seg> dog", 0),
        ("<g_s>  <g_e> <seg>", 0),
        ("<g_s>dog<g_e><seg>", 0),
    ],
)
def test_markup_that_is_no_phrase_is_encoded_as_plain_text(raw: str, segs: int) -> None:
    ids = TOKENS.encode_answer(raw)
    assert ids.count(IDS.seg) == ids.count(IDS.phrase_start) == segs
    assert TOKENS.decode(ids) == raw


@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 511), max_size=30))
def test_whatever_ids_a_model_writes_the_pieces_add_up_and_hold_no_other_special_token(ids: list[int]) -> None:
    ids = [token for token in ids if token < len(TOKENS.tokenizer)]
    decoder = RawDecoder(TOKENS)
    pieces = [decoder.feed(token) for token in ids] + [decoder.finish()]
    assert "".join(pieces) == TOKENS.decode(ids)
    plain = [token for token in ids if token >= len(SPECIAL_TOKENS)]
    if plain == ids:
        assert TOKENS.decode(ids) == TOKENS.tokenizer.decode(ids)
    for name in ("<pad>", "</s>", "<s>", "<unk>", "<mark>", "<image>"):
        assert name not in "".join(pieces)


def test_a_character_is_held_back_until_its_last_byte() -> None:
    ids = TOKENS.encode_plain("é🐕")
    assert len(ids) > 2
    decoder = RawDecoder(TOKENS)
    pieces = [decoder.feed(token) for token in ids]
    assert [piece for piece in pieces if piece] == ["é", "🐕"]
    assert pieces[-1] == "🐕"


def test_bytes_that_never_make_a_character_are_shown_in_the_end() -> None:
    broken = TOKENS.encode_plain("🐕")[:1]
    decoder = RawDecoder(TOKENS)
    assert decoder.feed(broken[0]) == ""
    assert decoder.feed(IDS.seg) == "� <seg>"
    pieces = [decoder.feed(broken[0]) for _ in range(20)]
    assert "".join(pieces).count("�") >= 12


def test_empty_and_doubled_phrase_tokens_are_written_out_as_they_stand() -> None:
    assert TOKENS.decode([IDS.phrase_start, IDS.phrase_end, IDS.seg]) == "<g_s>  <g_e> <seg>"
    assert TOKENS.decode([IDS.seg, IDS.phrase_end]) == " <seg> <g_e>"
    assert TOKENS.decode([IDS.phrase_start]) == "<g_s> "


def test_a_tokenizer_that_writes_blanks_only_between_words_loses_none() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIAL_TOKENS)))
    tokens = MarkupTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>"))
    assert tokens.decode(tokens.encode_plain("There is a red dog to the left.")) == "There is a red dog to the left."


def test_a_tokenizer_without_the_grounding_tokens_is_refused_by_name() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<g_s>", "<g_e>", "</s>"]))
    with pytest.raises(CheckpointError, match="grounding tokens, but it lacks <seg>, <region>, <image>"):
        SpecialIds.of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>"))
    tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIAL_TOKENS)))
    with pytest.raises(CheckpointError, match="lacks an end token"):
        SpecialIds.of(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert SpecialIds.of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")).pad == 1
