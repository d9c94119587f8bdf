"""Text of converted checkpoints to ids and back, as the original's tokenizer does it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings
from llava_grounding.processing.sentencepiece import SentencePieceTokenizer
from small_release import FIXTURE, release_processor, release_tokenizer
from tiny_model import tiny_config, tiny_processor

TOKENS = release_processor().tokens
assert isinstance(TOKENS, SentencePieceTokenizer)
IDS = TOKENS.ids
PERCENT = 1273

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
markup_soup = st.lists(
    st.sampled_from(["<g_s>", "<g_e>", "<seg>", "<region>", "</s>", "<s>", " ", "a dog", "%", "50 %", "🐕", "\n"]),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda case: case["text"])
def test_recorded_texts_have_the_originals_ids(case: dict) -> None:
    ended = case["text"].endswith("</s>")
    ids = [IDS.bos, *TOKENS.encode_marked(case["text"].removesuffix("</s>")), *[IDS.eos] * ended]
    assert ids == case["ids"]
    assert TOKENS.decode(case["ids"]) == case["decode_skip_special"]
    # So does the tokenizer that is saved, for whoever uses it without our processor.
    assert release_tokenizer()(case["text"]).input_ids == case["ids"]


def test_blanks_around_markup_do_not_matter() -> None:
    tight, loose = "<g_s>a dog<g_e><seg>.", "<g_s>  a dog <g_e>  <seg>  ."
    assert TOKENS.encode_answer(tight) == TOKENS.encode_answer(loose) == TOKENS.encode_marked(tight)


def test_an_answer_resumes_from_the_question() -> None:
    whole = TOKENS.encode_plain("USER: hi ASSISTANT: A dog is here.")
    assert TOKENS.encode_question("USER: hi ASSISTANT:", 0) + TOKENS.encode_answer(" A dog is here.") == whole


def test_a_region_stands_for_a_percent_sign_with_its_blank() -> None:
    for text in ("Where is the object % and what is it doing?", "object %, and % again", "%", "Is % % red?"):
        ids = TOKENS.encode_question(text.replace("%", "<region>"), text.count("%"))
        assert [PERCENT if token == IDS.region else token for token in ids] == TOKENS.encode_plain(text)


def test_a_percent_sign_that_somebody_writes_is_a_word() -> None:
    ids = TOKENS.encode_question("Are 50 % of <region> red?", 1)
    assert ids.count(IDS.region) == 1
    assert ids.count(PERCENT) == 1
    assert ids.index(PERCENT) < ids.index(IDS.region)


@given(text=st.one_of(any_text, markup_soup))
def test_nothing_a_user_writes_becomes_a_special_token(text: str) -> None:
    special = set(TOKENS.tokenizer.added_tokens_decoder)
    assert not special & set(TOKENS.encode_plain(text))
    assert not special & set(TOKENS.encode_question(text, 0))


@settings(max_examples=60)
@given(raw=st.one_of(any_text, markup_soup))
def test_text_comes_back_with_single_blanks_around_markup(raw: str) -> None:
    ids = TOKENS.encode_marked(raw)
    text = TOKENS.decode(ids)
    assert TOKENS.encode_marked(text) == TOKENS.encode_marked(TOKENS.decode(TOKENS.encode_marked(text)))
    if not any(token in raw for token in ("<g_s>", "<g_e>", "<seg>", "▁")):
        assert text == raw


@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 1404), max_size=20))
def test_tokens_one_by_one_give_the_text_of_all_of_them(ids: list[int]) -> None:
    decoder = TOKENS.decoder()
    pieces = [decoder.feed(token) for token in ids]
    assert "".join(pieces) + decoder.finish() == TOKENS.decode(ids)
    assert "�" not in "".join(pieces[:-1]) or "�" in TOKENS.decode(ids)


def test_a_character_of_several_bytes_is_held_back_until_it_is_whole() -> None:
    ids = TOKENS.encode_plain("é🐕")
    decoder = TOKENS.decoder()
    pieces = [decoder.feed(token) for token in ids]
    assert "".join(pieces) == "é🐕"
    assert all("�" not in piece for piece in pieces)
    broken = TOKENS.decoder()
    assert [broken.feed(token) for token in ids[-4:-1]] == ["", "", ""]
    assert broken.finish() == "���"


def test_the_end_is_silent_and_markup_is_not() -> None:
    ids = [IDS.bos, IDS.phrase_start, *TOKENS.encode_plain("A dog"), IDS.phrase_end, IDS.seg, IDS.pad, IDS.eos]
    assert TOKENS.decode(ids) == "<g_s> A dog <g_e> <seg>"


def test_another_tokenizer_is_refused() -> None:
    ours = tiny_processor(tiny_config()).tokenizer
    settings = ProcessorSettings(4, tokenisation="sentencepiece")
    with pytest.raises(CheckpointError, match="needs the tokenizer of a converted Llama checkpoint"):
        LlavaGroundingProcessor(ours, settings)
    with pytest.raises(ConfigError, match="must be markup or sentencepiece, got `sentence_piece`; did you mean"):
        ProcessorSettings(4, tokenisation="sentence_piece")
    with pytest.raises(ConfigError, match="demo_quirks need tokenisation `sentencepiece`, got `markup`"):
        ProcessorSettings(4, demo_quirks=True)
