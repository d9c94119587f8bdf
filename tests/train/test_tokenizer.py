"""The trained tokenizer: every text comes back, special tokens have their places, what is frequent is short."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_grounding.errors import ConfigError
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG
from llava_grounding.model.presets import preset
from llava_grounding.processing.tokens import IMAGE, MarkupTokenizer
from llava_grounding.train.tokenizer import END, PAD, SPECIAL_TOKENS, train_tokenizer

CORPUS = ["There is a dog in the image.", "The dog is to the left of the dog house.", "Are there 12 dogs?"] * 3
FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(CORPUS, 320)


@pytest.fixture(scope="module")
def loaded(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@example(text="")
@example(text="  two  blanks , and a comma .\n\n\ttab \r\n")
@example(text=f"a {FAMILY} family \U0001f1e9\U0001f1ea cafe\u0301")
@example(text="'s n't 're \u2581 \u0120 \ufffd \x00 \u202e")
@example(text="<seg> </s> <pad> <image> <g_s> dog <g_e> <region> <unk> <mark> <s>")
def test_any_text_comes_back_as_it_was(
    tokenizer: PreTrainedTokenizerFast, loaded: PreTrainedTokenizerFast, text: str
) -> None:
    for one in (tokenizer, loaded):
        tokens = MarkupTokenizer(one)
        ids = tokens.encode_plain(text)
        assert one.decode(ids) == text
        assert tokens.decode(ids) == text
        assert min(ids, default=10) >= len(SPECIAL_TOKENS)


def test_special_tokens_stand_where_preset_nano_expects_them(
    tokenizer: PreTrainedTokenizerFast, loaded: PreTrainedTokenizerFast
) -> None:
    nano = preset("nano")
    for one in (tokenizer, loaded):
        assert one.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
        ids = MarkupTokenizer(one).ids
        assert (ids.image, ids.seg, ids.region) == (nano.image_token_id, nano.seg_token_id, nano.region_token_id)
        assert (ids.eos, ids.pad) == (nano.eos_token_id, nano.pad_token_id)
        assert one.convert_ids_to_tokens([ids.phrase_start, ids.phrase_end]) == [PHRASE_START, PHRASE_END]
        assert (one.eos_token, one.pad_token) == (END, PAD)
    assert {IMAGE, SEG, REGION} < set(SPECIAL_TOKENS)


def test_each_special_token_is_one_id_when_it_is_meant(tokenizer: PreTrainedTokenizerFast) -> None:
    for number, token in enumerate(SPECIAL_TOKENS):
        assert tokenizer.encode(token, add_special_tokens=False) == [number]


def test_frequent_words_are_one_token_and_digits_stay_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(MarkupTokenizer(tokenizer).encode_plain(" dog")) == 1
    assert len(MarkupTokenizer(tokenizer).encode_plain("2023")) == 4


def test_the_vocabulary_is_as_large_as_asked_and_no_larger(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= 320
    texts = [f"{first}{second} is a word of {second}{first}" for first in "abcdefghij" for second in "klmnopqrst"]
    assert len(train_tokenizer(texts, 300)) == 300


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    assert train_tokenizer(iter(CORPUS), 320).get_vocab() == tokenizer.get_vocab()


def test_a_vocabulary_that_cannot_hold_every_byte_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        train_tokenizer(CORPUS, 100)
    assert str(caught.value) == "vocab_size must be at least 266, for 256 bytes and 10 special tokens, got 100"
    assert len(train_tokenizer(CORPUS, 266)) == 266
