"""How long a text may be: what the model reads, held against it before and after the text has become tokens.

Turning text into tokens costs time in proportion to its length, so a text that cannot fit is refused by its characters.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from llava_grounding.errors import UsageError

_UNKNOWN = 10**9  # transformers writes a far larger number into a tokenizer that knows no limit
_COMPOSED = 4  # characters that a tokenizer may join to one before it looks at them, as a letter and its accents


def check_tokens(num_tokens: int, max_tokens: int | None, room: int = 0, at_least: bool = False) -> None:
    """Refuse a dialogue that fills more positions than the model has.

    Args:
        room: positions that must be left for an answer.
        at_least: the number is a lower bound.

    Raises:
        UsageError: if so.
    """
    if max_tokens is not None and num_tokens + room > max_tokens:
        raise UsageError(
            f"the dialogue has {'at least ' if at_least else ''}{num_tokens} tokens, but this model reads at most "
            f"{max_tokens}; ask a shorter question or begin a new conversation"
        )


def check_characters_fit(num_characters: int, longest_token: int, max_tokens: int | None) -> None:
    """Refuse a text that has more characters than any tokens that the model reads could stand for.

    Raises:
        UsageError: if so.
    """
    check_tokens(-(-num_characters // (longest_token * _COMPOSED)), max_tokens, at_least=True)


def max_tokens_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest text a tokenizer says its model reads; None if it does not say."""
    return None if tokenizer.model_max_length > _UNKNOWN else int(tokenizer.model_max_length)


def limit_to_model(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Let a tokenizer know the positions of the model in its folder, if there is one and it says."""
    try:
        positions = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"][
            "max_position_embeddings"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return  # a processor alone; whoever loads the model finds what is wrong with its configuration
    limit_to_positions(tokenizer, positions)


def limit_to_positions(tokenizer: PreTrainedTokenizerBase, positions: object) -> None:
    """Let a tokenizer know how many positions the model has; anything but a positive whole number says nothing."""
    if isinstance(positions, int) and positions > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
