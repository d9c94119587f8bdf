"""The tokenizer of a released checkpoint: its files read, the ids of what matters looked up in them, never assumed.

The image's and the regions' placeholders get the two ids after the last one; the model has no rows for them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from llava_grounding.checkpoint_files import read_object
from llava_grounding.convert.piece_model import build_tokenizer, read_pieces
from llava_grounding.convert.plan import Rows
from llava_grounding.errors import CheckpointError, one_line
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG
from llava_grounding.processing.sentencepiece import BLANK
from llava_grounding.processing.tokenizer_files import MAX_TOKENIZER_BYTES, check_tokenizer
from llava_grounding.processing.tokens import IMAGE

_PIECES, _WHOLE, _ADDED, _SETTINGS = "tokenizer.model", "tokenizer.json", "added_tokens.json", "tokenizer_config.json"
_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GROUNDING_TOKENS = (PHRASE_START, PHRASE_END, SEG)


@dataclass(frozen=True)
class GrownVocabulary:
    """A vocabulary that has been given the grounding tokens."""

    tokenizer: PreTrainedTokenizerFast
    words: int
    """Tokens it had before; rows of the word embedding beyond them belong to none."""
    added: int
    """New tokens that need a row each, after those."""

    def rows(self, stored: int) -> Rows:
        """What becomes of a table with a row per word, of which `stored` are stored."""
        return Rows(stored, self.words, self.added)


def read_tokenizer(folder: Path, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a released folder, with our two placeholders at its end.

    Args:
        rows: of the word embedding; there must be as many tokens.

    Raises:
        CheckpointError: if a file is missing or damaged, a grounding token is missing, or tokens and rows differ.
    """
    tokenizer = _base_tokenizer(folder)
    _add_in_order(tokenizer, _added_tokens(folder), folder)
    words = tokenizer.get_vocab_size(with_added_tokens=True)
    if words != rows:
        raise CheckpointError(
            f"the tokenizer in `{folder}` has {words} tokens, but the word embedding has {rows} rows: "
            f"they do not belong together"
        )
    missing = [token for token in GROUNDING_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise CheckpointError(
            f"the tokenizer in `{folder}` lacks {', '.join(missing)}; is it of a grounding checkpoint?"
        )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (IMAGE, REGION)])
    return _wrapped(tokenizer, folder)


def grow_tokenizer(folder: Path, rows: int) -> GrownVocabulary:
    """The tokenizer of a checkpoint that knows nothing of grounding, with the grounding tokens and our placeholders.

    It takes text as it is: no blank is put before a stretch of text, so that a word has the same tokens within markup
    as without. Every added token is a special one.

    Args:
        rows: of the word embedding; may be more than there are tokens, which is common padding.

    Raises:
        CheckpointError: if a file is missing or damaged, or there are more tokens than rows.
    """
    # The whole one first: added tokens are surely in it.
    tokenizer = _whole_tokenizer(folder) if (folder / _WHOLE).is_file() else _base_tokenizer(folder)
    _add_in_order(tokenizer, _added_tokens(folder), folder)
    words = tokenizer.get_vocab_size(with_added_tokens=True)
    if words > rows:
        raise CheckpointError(
            f"the tokenizer in `{folder}` has {words} tokens, but the word embedding has only {rows} rows: "
            f"they do not belong together"
        )
    tokenizer = _taking_text_as_it_is(tokenizer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in GROUNDING_TOKENS])
    added = tokenizer.get_vocab_size(with_added_tokens=True) - words
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (IMAGE, REGION)])
    return GrownVocabulary(_wrapped(tokenizer, folder), words, added)


def rows_note(rows: Rows) -> tuple[str, ...]:
    """What a report should say of a table that was cut or grown."""
    notes = []
    if rows.stored > rows.kept:
        notes.append(f"{rows.stored - rows.kept:,d} rows of the vocabulary left out: they belong to no token")
    if rows.added:
        notes.append(f"{rows.added} rows of the vocabulary are new: the mean of the {rows.kept:,d} others")
    return tuple(notes)


def _taking_text_as_it_is(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary without the blank that SentencePiece puts before a text and takes away from it again.

    Byte-level vocabularies have no such blank and stay as they are.
    """
    values = json.loads(tokenizer.to_str())
    model = values["model"]
    if model.get("type") == "BPE" and model.get("byte_fallback") and BLANK in model["vocab"]:
        values["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
        values["pre_tokenizer"] = None
        back = {"type": "Replace", "pattern": {"String": BLANK}, "content": " "}
        values["decoder"] = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    for token in values["added_tokens"]:
        token |= {"special": True, "normalized": False, "lstrip": False, "rstrip": False}
    return Tokenizer.from_str(json.dumps(values))


def _wrapped(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer with the roles that tokenizer_config.json gives to tokens."""
    settings = _read_json(folder / _SETTINGS) if (folder / _SETTINGS).is_file() else {}
    roles = {role: _role(settings.get(role), default) for role, default in _ROLES.items()}
    # A byte-level vocabulary knows every character, and some texts begin with nothing.
    for role in ("bos_token", "unk_token"):
        if settings.get(role) is None and tokenizer.token_to_id(roles[role]) is None:
            del roles[role]
    roles["pad_token"] = _role(settings.get("pad_token"), roles.get("unk_token", roles["eos_token"]))
    absent = [token for token in roles.values() if tokenizer.token_to_id(token) is None]
    if absent:
        raise CheckpointError(
            f"{_SETTINGS} in `{folder}` names {', '.join(absent)}, which its vocabulary does not have"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **roles)


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The ids that a configuration states."""
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE),
        "seg_token_id": tokenizer.convert_tokens_to_ids(SEG),
        "region_token_id": tokenizer.convert_tokens_to_ids(REGION),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    assert all(isinstance(value, int) for value in ids.values())
    return ids


def _base_tokenizer(folder: Path) -> Tokenizer:
    if (folder / _PIECES).is_file():
        return build_tokenizer(read_pieces(folder / _PIECES))
    if (folder / _WHOLE).is_file():
        return _whole_tokenizer(folder)
    raise CheckpointError(f"`{folder}` has no tokenizer: expected {_PIECES} or {_WHOLE}")


def _whole_tokenizer(folder: Path) -> Tokenizer:
    try:
        check_tokenizer(read_object(folder / _WHOLE, MAX_TOKENIZER_BYTES), f"{_WHOLE} in `{folder}`")
        return Tokenizer.from_file(str(folder / _WHOLE))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises nothing more special
        reason = "it is nested too deep" if isinstance(error, RecursionError) else one_line(error, 300)
        raise CheckpointError(f"{_WHOLE} in `{folder}` is damaged: {reason}") from error


def _added_tokens(folder: Path) -> dict[str, int]:
    if not (folder / _ADDED).is_file():
        return {}
    values = _read_json(folder / _ADDED)
    if not all(type(value) is int and token for token, value in values.items()):
        raise CheckpointError(f"{_ADDED} in `{folder}` is damaged: expected an id for every token")
    return dict(values)


def _add_in_order(tokenizer: Tokenizer, added: Mapping[str, int], folder: Path) -> None:
    """Add tokens so that each gets the id it is stored with."""
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        if tokenizer.token_to_id(token) is None:
            plain = token not in GROUNDING_TOKENS
            tokenizer.add_tokens([AddedToken(token, normalized=False) if plain else _markup_token(token)])
        if tokenizer.token_to_id(token) != number:
            raise CheckpointError(
                f"{_ADDED} in `{folder}` gives `{token}` the id {number}, but the next one of its vocabulary is "
                f"{tokenizer.token_to_id(token)}"
            )


def _markup_token(token: str) -> AddedToken:
    """White space around it is dropped, as the original's tokenizer does."""
    return AddedToken(token, normalized=False, lstrip=True, rstrip=True)


def _role(value: Any, default: str) -> str:
    """A token of tokenizer_config.json, which stores it as text or with its flags."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else default


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, MAX_TOKENIZER_BYTES)
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{path.name} in `{path.parent}` is missing or damaged: {reason}") from error
