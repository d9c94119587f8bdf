"""A SentencePiece vocabulary (`tokenizer.model` of Llama) read without SentencePiece, as a tokenizer of `tokenizers`.

Only what Llama uses: byte-pair pieces with a fallback to bytes, and text that is taken as it is.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from llava_grounding.checkpoint_files import plain_bytes
from llava_grounding.errors import CheckpointError
from llava_grounding.processing.sentencepiece import BLANK

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_BYTE_PAIRS = 2  # of model_type
_MAX_BYTES, _LONGEST_PIECE = 64 * 2**20, 512  # the ways to take a piece apart grow with its square
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5  # wire types of protocol buffers


@dataclass(frozen=True)
class VocabularyPiece:
    """An entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: int


def read_pieces(path: Path) -> list[VocabularyPiece]:
    """The vocabulary of a SentencePiece file.

    Raises:
        CheckpointError: if the file is damaged, or its model is not of Llama's kind.
    """
    try:
        message = list(_fields(plain_bytes(path, _MAX_BYTES)))
        pieces = [_piece(value) for number, value in message if number == 1]
        trainer = {field: value for number, part in message if number == 2 for field, value in _fields(_bytes(part))}
        rules = {field: value for number, part in message if number == 3 for field, value in _fields(_bytes(part))}
    except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
        raise CheckpointError(f"`{path}` is missing or damaged: it cannot be read as a SentencePiece model") from error
    # Field numbers of TrainerSpec and NormalizerSpec, with the defaults of the format.
    unlike = [
        what
        for what, given, wanted in [
            ("model_type", trainer.get(3, 1), _BYTE_PAIRS),
            ("byte_fallback", trainer.get(35, 0), 1),
            ("precompiled_charsmap", rules.get(2, b""), b""),
            ("add_dummy_prefix", rules.get(3, 1), 1),
            ("remove_extra_whitespaces", rules.get(4, 1), 0),
            ("escape_whitespaces", rules.get(5, 1), 1),
        ]
        if given != wanted
    ]
    if not pieces or unlike:
        raise CheckpointError(f"`{path}` is no vocabulary of Llama: it differs in {', '.join(unlike) or 'having none'}")
    return pieces


def build_tokenizer(pieces: list[VocabularyPiece]) -> Tokenizer:
    """A tokenizer of the `tokenizers` library that splits text into the same pieces."""
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.kind == _UNKNOWN), None)
    if len(ids) != len(pieces) or unknown is None:
        raise CheckpointError("the vocabulary must have every piece once, and one for what is unknown")
    model = models.BPE(vocab=ids, merges=_merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [piece.text for piece in pieces if piece.kind in (_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    if "<s>" in ids:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    return tokenizer


def _merges(pieces: list[VocabularyPiece]) -> list[tuple[str, str]]:
    """All ways of joining two pieces to a third, those of the best scored third first."""
    joinable = {piece.text: piece.score for piece in pieces if piece.kind in (_NORMAL, _USER_DEFINED)}
    order = {text: index for index, text in enumerate(joinable)}
    found = []
    for text, score in joinable.items():
        ways = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        ways = [(left, right) for left, right in ways if left in joinable and right in joinable]
        found += [(-score, order[left], order[right], (left, right)) for left, right in ways]
    return [way for *_, way in sorted(found)]


def _piece(message: int | bytes) -> VocabularyPiece:
    values = dict(_fields(_bytes(message)))
    (score,) = struct.unpack("<f", _bytes(values.get(2, bytes(4))))
    kind = values.get(3, _NORMAL)
    if not isinstance(kind, int):
        raise ValueError("the kind of a piece must be a number")
    text = _bytes(values[1]).decode()
    if len(text) > _LONGEST_PIECE:
        raise ValueError(f"a piece of {len(text):,} characters")
    return VocabularyPiece(text, score, kind)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("expected bytes, found a number")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one message of protocol buffers.

    Raises:
        ValueError, IndexError: if it is none.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        wire = key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if wire == _COUNTED:
            length, place = _varint(data, place)
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            length = 4 if wire == _FOUR_BYTES else 8
        else:
            raise ValueError(f"unknown wire type {wire}")
        if place + length > len(data):
            raise ValueError("cut short")
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")
