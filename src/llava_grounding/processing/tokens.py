"""Grounded text to token ids and back: the special tokens by name, their ids looked up once.

Knows the markup, not the conversation. Special tokens written by a user are plain text unless the caller says that the
text is trusted; a `<region>` is a placeholder only where the caller expects one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llava_grounding.errors import CheckpointError
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import, and a question is checked without it

IMAGE = "<image>"
_INSIDE = rf"(?:(?!{PHRASE_START}|{PHRASE_END}|{SEG}).)+?"
_PHRASE = re.compile(rf"( ?){PHRASE_START} (?=\S)({_INSIDE})(?<=\S) {PHRASE_END} {SEG}", re.DOTALL)
_REPLACEMENT = "�"
_LONGEST_CHARACTER = 8  # tokens after which text that does not decode is shown as it is


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that mean something to the model."""

    phrase_start: int
    phrase_end: int
    seg: int
    region: int
    image: int
    eos: int
    pad: int
    bos: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
        """Look the ids up.

        Raises:
            CheckpointError: if the tokenizer lacks one of them.
        """
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (PHRASE_START, PHRASE_END, SEG, REGION, IMAGE) if token not in vocabulary]
        if missing or tokenizer.eos_token_id is None:
            lacks = ", ".join(missing) or "an end token"
            raise CheckpointError(f"the tokenizer must have the grounding tokens, but it lacks {lacks}")
        pad = tokenizer.pad_token_id
        return cls(
            phrase_start=vocabulary[PHRASE_START],
            phrase_end=vocabulary[PHRASE_END],
            seg=vocabulary[SEG],
            region=vocabulary[REGION],
            image=vocabulary[IMAGE],
            eos=tokenizer.eos_token_id,
            pad=tokenizer.eos_token_id if pad is None else pad,
            bos=tokenizer.bos_token_id,
        )


class AnswerDecoder(Protocol):
    """Turns the ids of one answer into its raw text as they come."""

    def feed(self, token: int) -> str:
        """The text that `token` makes certain."""

    def finish(self) -> str:
        """What was held back."""


class MarkupTokenizer:
    """Encodes text with grounding markup and region placeholders.

    The blank before a phrase moves inside it (`see <g_s> a dog …` gives `see`, `<g_s>`, ` a dog`, …), so that a phrase
    is tokenised like the same words in running text and decoding restores the raw text exactly.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids = SpecialIds.of(tokenizer)
        self.longest = max(map(len, tokenizer.get_vocab()))
        """Characters of the longest token: no token stands for more of them."""

    def encode_plain(self, text: str) -> list[int]:
        """Ids of text in which nothing is special."""
        if not text:
            return []
        try:
            return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the Rust library, which has no class to import
                raise
            raise CheckpointError(f"the model's tokenizer cannot read this text: {error}") from error

    def encode_question(self, text: str, num_regions: int) -> list[int]:
        """Ids of a question whose first `num_regions` `<region>` are placeholders."""
        pieces = text.split(REGION, num_regions)
        ids = self.encode_plain(pieces[0])
        for piece in pieces[1:]:
            ids += [self.ids.region, *self.encode_plain(piece)]
        return ids

    def encode_answer(self, raw: str) -> list[int]:
        """Ids of an answer in canonical markup, as a model learns or has written it."""
        ids: list[int] = []
        end = 0
        for match in _PHRASE.finditer(raw):
            ids += self.encode_plain(raw[end : match.start()])
            ids += [self.ids.phrase_start, *self.encode_plain(match[1] + match[2]), self.ids.phrase_end, self.ids.seg]
            end = match.end()
        return ids + self.encode_plain(raw[end:])

    def decode(self, ids: Iterable[int]) -> str:
        """Raw text with markup in its canonical form; end, pad and image tokens leave no trace."""
        decoder = self.decoder()
        return "".join([decoder.feed(token) for token in ids]) + decoder.finish()

    def decoder(self) -> AnswerDecoder:
        """A decoder of one answer."""
        return RawDecoder(self)


class RawDecoder:
    """Decodes ids one by one into pieces of raw text; a character split over tokens is held back until whole.

    Markup is written in its canonical form; every other special token leaves no trace.
    """

    def __init__(self, tokenizer: MarkupTokenizer) -> None:
        ids = tokenizer.ids
        self._tokenizer = tokenizer.tokenizer
        self._phrase_start = ids.phrase_start
        self._names = {ids.phrase_end: f" {PHRASE_END}", ids.seg: f" {SEG}", ids.region: REGION}
        special = {token for token, added in self._tokenizer.added_tokens_decoder.items() if added.special}
        self._silent = (special | {ids.eos, ids.pad, ids.image}) - {ids.phrase_start, *self._names}
        self._run: list[int] = []  # plain tokens since the last special one, as far as they are still needed
        self._shown = 0  # how many of them have been given out
        self._opening = False

    def feed(self, token: int) -> str:
        """The text that `token` makes certain."""
        if token in self._silent:
            return ""
        if token == self._phrase_start:
            piece = self._flush()
            self._opening = True
            return piece
        if token in self._names:
            return self._flush() + self._names[token]
        self._run.append(token)
        return self._new_text(hold_back=len(self._run) - self._shown < _LONGEST_CHARACTER)

    def finish(self) -> str:
        """What was held back."""
        return self._flush()

    def _flush(self) -> str:
        text = self._new_text(hold_back=False)
        if self._opening:  # a phrase without a word
            text = self._open("")
        self._run, self._shown = [], 0
        return text

    def _new_text(self, hold_back: bool) -> str:
        """The text of the tokens not shown yet, read with the shown ones before them: some tokenizers write the blank
        between two words only when they see both."""
        before = self._text(self._run[: self._shown])
        text = self._text(self._run)[len(before) :]
        if not text or (hold_back and text.endswith(_REPLACEMENT)):
            return ""
        self._run = self._run[self._shown :]
        self._shown = len(self._run)
        return self._open(text)

    def _open(self, text: str) -> str:
        if not self._opening:
            return text
        self._opening = False
        if text.startswith(" "):
            return f" {PHRASE_START} {text[1:]}"
        return f"{PHRASE_START} {text}"

    def _text(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # a list only for a list of lists
        return text
