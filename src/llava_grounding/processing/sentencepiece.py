"""Text to ids as the original does it: the slow Llama tokenizer of its day, for converted checkpoints only.

Markup tokens are cut out of the text first, white space around them is dropped, and every stretch between is encoded by
itself with a blank in front. Knows the vocabulary of a converted checkpoint, not SentencePiece's file format.
"""

import codecs
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from llava_grounding.errors import CheckpointError
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG
from llava_grounding.processing.tokens import AnswerDecoder, MarkupTokenizer, SpecialIds

BLANK = "▁"
"""How SentencePiece writes a blank."""
PERCENT = f"{BLANK}%"
"""The ordinary word that the original writes where a region prompt belongs."""
_MARKUP = re.compile(f"({re.escape(PHRASE_START)}|{re.escape(PHRASE_END)}|{re.escape(SEG)})")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_REPLACEMENT = "�"


class SentencePieceTokenizer(MarkupTokenizer):
    """Encodes as the original's tokenizer (transformers 4.31, `use_fast=False`, legacy).

    Goes around normalizer and added tokens of the wrapped tokenizer: what a user types is never a special token, and
    blanks around markup are the ones described in the module's head, not those of today's tokenizers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        vocabulary = tokenizer.get_vocab()
        if backend is None or PERCENT not in vocabulary or BLANK not in vocabulary:
            raise CheckpointError("SentencePiece text needs the tokenizer of a converted Llama checkpoint")
        if self.ids.bos is None:
            raise CheckpointError("SentencePiece text needs a tokenizer with a token for the beginning of a text")
        self._model = backend.model
        self.percent = vocabulary[PERCENT]
        """Id of a percent sign with a blank before it."""
        self.pieces: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))  # type: ignore[assignment]

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text by itself, in which nothing is special."""
        return self._encode_run(BLANK + text) if text else []

    def encode_question(self, text: str, num_regions: int) -> list[int]:
        """Ids of a stretch that begins a text or follows an image or an end token.

        The first `num_regions` `<region>` are placeholders. Each stands for a percent sign with one blank before it;
        that blank is no token of its own.
        """
        first, *rest = text.split(REGION, num_regions)
        ids = self.encode_plain(first.removesuffix(" ") if rest else first)
        for number, piece in enumerate(rest, start=1):
            ids.append(self.ids.region)
            ids += self._encode_run(piece.removesuffix(" ") if number < len(rest) else piece)
        return ids

    def encode_answer(self, raw: str) -> list[int]:
        """Ids of an answer that goes on from the question before it; every markup token in it is one."""
        return self._encode_marked(raw, continues=True)

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text by itself, in which every markup token is one."""
        return self._encode_marked(text, continues=False)

    def decoder(self) -> AnswerDecoder:
        """A decoder of one answer."""
        return SentencePieceDecoder(self)

    def _encode_marked(self, text: str, continues: bool) -> list[int]:
        parts = _MARKUP.split(text)  # text and markup in turn
        ids: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(_markup_id(self.ids, part))
                continue
            if index > 0:
                part = part.lstrip()
            if index < len(parts) - 1:
                part = part.rstrip()
            if part:
                ids += self._encode_run(part if continues and index == 0 else BLANK + part)
        return ids

    def _encode_run(self, run: str) -> list[int]:
        return [token.id for token in self._model.tokenize(run.replace(" ", BLANK))] if run else []


class SentencePieceDecoder:
    """Joins stretches of text and markup tokens by single blanks, as the original's tokenizer decodes.

    End, pad and unknown tokens leave no trace, nor does the blank that begins a stretch.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        ids = tokenizer.ids
        self._pieces: Sequence[str] = tokenizer.pieces
        self._markup = {ids.phrase_start: PHRASE_START, ids.phrase_end: PHRASE_END, ids.seg: SEG, ids.region: REGION}
        special = tokenizer.tokenizer.all_special_ids
        self._no_trace = ({ids.bos, ids.eos, ids.pad, ids.image} | set(special)) - self._markup.keys()
        self._begun = False  # something has been written
        self._in_run = False
        self._bytes = _new_byte_decoder()

    def feed(self, token: int) -> str:
        """The text that `token` makes certain."""
        if token in self._no_trace:
            return ""
        if token in self._markup:
            return self.finish() + self._separator() + self._markup[token]
        piece, text = self._pieces[token], ""
        if not self._in_run:
            self._in_run, text = True, self._separator()
            piece = piece.removeprefix(BLANK)
        byte = _BYTE.fullmatch(piece)
        data = bytes([int(byte[1], 16)]) if byte else piece.replace(BLANK, " ").encode()
        return text + _readable(self._bytes.decode(data))

    def finish(self) -> str:
        """What was held back."""
        text = _readable(self._bytes.decode(b"", final=True))
        self._bytes = _new_byte_decoder()
        self._in_run = False
        return text

    def _separator(self) -> str:
        blank, self._begun = " " if self._begun else "", True
        return blank


def _markup_id(ids: SpecialIds, token: str) -> int:
    return {PHRASE_START: ids.phrase_start, PHRASE_END: ids.phrase_end, SEG: ids.seg}[token]


def _new_byte_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("surrogateescape")


def _readable(text: str) -> str:
    """Text with a replacement character for every byte that is no text."""
    return re.sub("[\udc80-\udcff]", _REPLACEMENT, text)
