"""Grounded text to token ids and back: the special tokens by name, their ids looked up once.

Knows the markup, not the conversation. Special tokens written by a user are plain text unless the caller says that the
text is trusted; a `<region>` is a placeholder only where the caller expects one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from llava_grounding.errors import CheckpointError
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG

IMAGE = "<image>"
_PHRASE = re.compile(rf"( ?){PHRASE_START} (.+?) {PHRASE_END} {SEG}", re.DOTALL)
_REPLACEMENT = "�"


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

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialIds":
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
        )


class MarkupTokenizer:
    """Encodes text with grounding markup and region placeholders.

    The blank before a phrase moves inside it (`see <g_s> a dog …` gives `see`, `<g_s>`, ` a dog`, …), so that a phrase
    is tokenised like the same words in running text and decoding restores the raw text exactly.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids = SpecialIds.of(tokenizer)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of text in which nothing is special."""
        if not text:
            return []
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

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
        decoder = RawDecoder(self)
        return "".join([decoder.feed(token) for token in ids]) + decoder.finish()


class RawDecoder:
    """Decodes ids one by one into pieces of raw text; a character split over tokens is held back until whole."""

    def __init__(self, tokenizer: MarkupTokenizer) -> None:
        self._tokenizer = tokenizer
        self._names = {tokenizer.ids.phrase_end: f" {PHRASE_END}", tokenizer.ids.seg: f" {SEG}"}
        self._names[tokenizer.ids.region] = REGION
        self._silent = {tokenizer.ids.eos, tokenizer.ids.pad, tokenizer.ids.image}
        self._pending: list[int] = []
        self._opening = False

    def feed(self, token: int) -> str:
        """The text that `token` makes certain."""
        if token in self._silent:
            return ""
        if token == self._tokenizer.ids.phrase_start:
            piece = self._flush()
            self._opening = True
            return piece
        if token in self._names:
            return self._flush() + self._names[token]
        self._pending.append(token)
        text = self._text(self._pending)
        if text.endswith(_REPLACEMENT) and len(self._pending) < 8:
            return ""
        self._pending.clear()
        return self._open(text)

    def finish(self) -> str:
        """What was held back."""
        return self._flush()

    def _flush(self) -> str:
        text = self._text(self._pending) if self._pending else ""
        self._pending.clear()
        return self._open(text)

    def _open(self, text: str) -> str:
        if not self._opening:
            return text
        self._opening = False
        if text.startswith(" "):
            return f" {PHRASE_START} {text[1:]}"
        return f"{PHRASE_START} {text}"

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
