"""The tokenizer of a released checkpoint: its files read, the ids of what matters looked up in them, never assumed.

The image's and the regions' placeholders get the two ids after the last one; the model has no rows for them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from llava_grounding.convert.piece_model import build_tokenizer, read_pieces
from llava_grounding.errors import CheckpointError
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG
from llava_grounding.processing.tokens import IMAGE

_PIECES, _WHOLE, _ADDED, _SETTINGS = "tokenizer.model", "tokenizer.json", "added_tokens.json", "tokenizer_config.json"
_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GROUNDING_TOKENS = (PHRASE_START, PHRASE_END, SEG)


def read_tokenizer(folder: Path, rows: int, add_grounding: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a released folder, with our two placeholders at its end.

    Args:
        rows: of the word embedding; there must be as many tokens.
        add_grounding: the checkpoint has no grounding tokens; they get the next ids, beyond `rows`.

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
    if add_grounding:
        tokenizer.add_tokens([_markup_token(token) for token in GROUNDING_TOKENS])
    missing = [token for token in GROUNDING_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise CheckpointError(
            f"the tokenizer in `{folder}` lacks {', '.join(missing)}; is it of a grounding checkpoint?"
        )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (IMAGE, REGION)])
    settings = _read_json(folder / _SETTINGS) if (folder / _SETTINGS).is_file() else {}
    roles = {role: _role(settings.get(role), default) for role, default in _ROLES.items()}
    absent = [token for token in roles.values() if tokenizer.token_to_id(token) is None]
    if absent:
        raise CheckpointError(
            f"{_SETTINGS} in `{folder}` names {', '.join(absent)}, which its vocabulary does not have"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_role(settings.get("pad_token"), roles["unk_token"]),
        clean_up_tokenization_spaces=False,
        **roles,
    )


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
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
        try:
            return Tokenizer.from_file(str(folder / _WHOLE))
        except Exception as error:  # the library raises nothing more special
            raise CheckpointError(f"{_WHOLE} in `{folder}` is damaged: {error}") from error
    raise CheckpointError(f"`{folder}` has no tokenizer: expected {_PIECES} or {_WHOLE}")


def _added_tokens(folder: Path) -> dict[str, int]:
    if not (folder / _ADDED).is_file():
        return {}
    values = _read_json(folder / _ADDED)
    if not all(isinstance(value, int) for value in values.values()):
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
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} in `{path.parent}` is missing or damaged: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} in `{path.parent}` is damaged: expected a JSON object")
    return values
