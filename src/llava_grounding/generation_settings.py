"""What a checkpoint's files may say about generating: one closed list of settings, each with its type and range.

Knows plain values only, neither torch nor transformers. The other settings that transformers knows choose code
elsewhere, caches of a size that the file names, or objects; they are for the caller of `generate` and not for a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llava_grounding.errors import CheckpointError, shown
from llava_grounding.typed_values import is_number, is_whole

_MAX_INTEGER = 2**53
_MAX_IDS, _MAX_TEXTS, _MAX_TEXT = 1_000, 16, 100
_MAX_BEAMS = 32


@dataclass(frozen=True)
class _Kind:
    """What a setting may be, in words and as a check."""

    words: str
    fits: Callable[[Any], bool]


def _whole(low: int, high: int) -> _Kind:
    return _Kind(
        f"a whole number from {low:,} to {high:,}" if low != high else f"{low}",
        lambda value: is_whole(value) and low <= value <= high,
    )


def _number(low: float, high: float) -> _Kind:
    return _Kind(
        f"a number from {low:g} to {high:g}",
        lambda value: is_number(value) and math.isfinite(value) and low <= value <= high,
    )


def _are(kind: _Kind, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and 0 < len(value) <= most and all(kind.fits(one) for one in value)


_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_LENGTH = _whole(0, _MAX_INTEGER)
_ID = _whole(0, 2**31 - 1)
_IDS = _Kind(f"a list of at most {_MAX_IDS:,} token ids", _are(_ID, _MAX_IDS))
_ID_OR_IDS = _Kind(f"a token id or {_IDS.words}", lambda value: _ID.fits(value) or _IDS.fits(value))
_LISTS = _Kind(f"lists of token ids, at most {_MAX_IDS:,} of each", _are(_IDS, _MAX_IDS))
_TEXT = _Kind("a text", lambda value: isinstance(value, str) and 0 < len(value) <= _MAX_TEXT)
_TEXTS = _Kind(
    f"a text of at most {_MAX_TEXT} characters, or {_MAX_TEXTS} of them",
    lambda value: _TEXT.fits(value) or _are(_TEXT, _MAX_TEXTS)(value),
)
_STOPPING = _Kind('true, false or "never"', lambda value: isinstance(value, bool) or value == "never")

_TOKENS = {"pad_token_id": _ID, "bos_token_id": _ID, "eos_token_id": _ID_OR_IDS, "decoder_start_token_id": _ID}
_SETTINGS: dict[str, _Kind] = {
    **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "min_new_tokens"), _LENGTH),
    "max_time": _number(0, _MAX_INTEGER),
    "stop_strings": _TEXTS,
    "do_sample": _FLAG,
    "num_beams": _whole(1, _MAX_BEAMS),
    "num_beam_groups": _whole(1, 1),
    "num_return_sequences": _whole(1, 1),
    "early_stopping": _STOPPING,
    "use_cache": _FLAG,
    "temperature": _number(0, 100),
    "top_k": _whole(0, 1_000_000),
    **dict.fromkeys(("top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"), _number(0, 1)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), _number(1e-3, 100)),
    "length_penalty": _number(-100, 100),
    "guidance_scale": _whole(1, 1),
    "no_repeat_ngram_size": _whole(0, 1_000),
    "bad_words_ids": _LISTS,
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _IDS),
    **dict.fromkeys(("renormalize_logits", "remove_invalid_values", "disable_compile"), _FLAG),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "output_scores", "output_logits"), _FLAG),
    "return_dict_in_generate": _FLAG,
    **_TOKENS,
    "_from_model_config": _FLAG,
    "transformers_version": _TEXT,
    "_commit_hash": _TEXT,
}
_ELSEWHERE = "chooses code of another repository, and no code of a checkpoint is run"
_OF_A_SIZE = "chooses a cache of a size that the file names, which is up to the caller of `generate`"
_OF_THE_CALLER = "is up to the caller of `generate`, and no file may set it"
# Older versions of transformers wrote these down where they change nothing, as null, false or 0.
_REFUSED = {
    **dict.fromkeys(
        ("penalty_alpha", "dola_layers", "force_words_ids", "constraints", "diversity_penalty"), _ELSEWHERE
    ),
    **dict.fromkeys(("cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size"), _OF_A_SIZE),
    **dict.fromkeys(
        (
            *("compile_config", "continuous_batching_config", "watermarking_config", "sequence_bias", "low_memory"),
            *("token_healing", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id"),
            *("encoder_no_repeat_ngram_size", "forced_decoder_ids", "use_mtp", "speculation_type", "is_assistant"),
            *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
            *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
            *("prompt_lookup_num_tokens", "max_matching_ngram_size"),
        ),
        _OF_THE_CALLER,
    ),
}
LENGTHS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")
"""Settings that count positions; whoever loads a model cuts them to those it has."""


def check_generation(values: Mapping[str, Any], where: str) -> None:
    """Refuse what is no setting of generating, what only a caller may set, and what is of another type or range.

    Args:
        values: of generation_config.json.
        where: is said first, such as "generation_config.json in `folder`".

    Raises:
        CheckpointError: naming the setting.
    """
    for key, value in values.items():
        if key not in _SETTINGS and key not in _REFUSED:
            raise CheckpointError(f"{where}: {shown(key)} is no setting of generating that a file may have; remove it")
        _check_setting(key, value, where)


def check_generation_within(values: Mapping[str, Any], where: str) -> None:
    """The same for a configuration of a model, among whose own values transformers looks for such settings.

    Raises:
        CheckpointError: naming the setting.
    """
    for key, value in values.items():
        if key not in _TOKENS:  # which are the model's own, and compared with its tokenizer
            _check_setting(key, value, where)


def _check_setting(key: str, value: Any, where: str) -> None:
    if value is None:
        return
    if key in _REFUSED and not (isinstance(value, (bool, int, float)) and value == 0):
        raise CheckpointError(f"{where}: `{key}` {_REFUSED[key]}; remove it")
    kind = _SETTINGS.get(key)
    if kind is not None and not kind.fits(value):
        raise CheckpointError(f"{where}: `{key}` must be {kind.words}, got {shown(value)}")
