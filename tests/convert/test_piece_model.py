"""SentencePiece files read by hand: what is in them, and what is refused."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

from llava_grounding.convert.piece_model import VocabularyPiece, build_tokenizer, read_pieces
from llava_grounding.errors import CheckpointError
from small_release import FIXTURE

MODEL = b64decode(FIXTURE["sentencepiece_model_base64"])


def test_pieces_have_their_texts_scores_and_kinds(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(MODEL)
    pieces = read_pieces(path)
    assert len(pieces) == 1400
    assert pieces[0] == VocabularyPiece("<unk>", 0.0, 2)
    assert pieces[13] == VocabularyPiece("<0x0A>", 0.0, 6)
    assert pieces[1273] == VocabularyPiece("▁%", -116.0, 1)


def test_a_control_piece_is_never_made_of_letters(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(MODEL)
    tokenizer = build_tokenizer(read_pieces(path))
    assert tokenizer.token_to_id("</s>") not in [token.id for token in tokenizer.model.tokenize("</s>")]
    assert tokenizer.token_to_id("<0x0A>") not in [token.id for token in tokenizer.model.tokenize("<0x0A>")]


def message(number: int, content: bytes) -> bytes:
    """A nested message of protocol buffers."""
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no vocabulary of Llama"),
        (MODEL[:-3], "cannot be read as a SentencePiece model"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cannot be read"),
        (b"not a model", "cannot be read"),
        (message(1, message(1, b"a")), "differs in model_type, byte_fallback, remove_extra_whitespaces"),
        (MODEL + message(3, message(2, b"charsmap")), "differs in precompiled_charsmap"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint):
        read_pieces(path)


def test_a_vocabulary_must_have_every_piece_once() -> None:
    with pytest.raises(CheckpointError, match="every piece once"):
        build_tokenizer([VocabularyPiece("<unk>", 0, 2), VocabularyPiece("a", 0, 1), VocabularyPiece("a", -1, 1)])
    with pytest.raises(CheckpointError, match="one for what is unknown"):
        build_tokenizer([VocabularyPiece("a", 0, 1)])
