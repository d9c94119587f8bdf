"""The tokenizer of a checkpoint's folder: tokenizer.json and nothing else, after a look at what is in it.

It is plain data, yet some kinds of it make much of little text or never end: those are refused. The class a file names
is never imported, since tokenizer.json says everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from llava_grounding.checkpoint_files import TOKENIZER, TOKENIZER_CONFIG, check_values, read_json, read_object
from llava_grounding.errors import CheckpointError, did_you_mean
from llava_grounding.processing.patterns import MAX_PATTERN, is_bounded

MAX_TOKENIZER_BYTES = 64 * 2**20
_KINDS: dict[str, tuple[str, ...]] = {
    "normalizer": (
        *("Sequence", "Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip"),
        *("StripAccents", "BertNormalizer", "ByteLevel"),
    ),
    "pre_tokenizer": (
        *("Sequence", "ByteLevel", "Digits", "Metaspace", "Split", "Whitespace", "WhitespaceSplit", "Punctuation"),
        *("BertPreTokenizer", "UnicodeScripts", "CharDelimiterSplit"),
    ),
    "decoder": (
        *("Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "WordPiece"),
        "BPEDecoder",
    ),
    "post_processor": ("Sequence", "TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing"),
}
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer")
_NAMED = {name.removesuffix("Fast") for name in TOKENIZER_MAPPING_NAMES.values() if isinstance(name, str)}
_LOADING_ARGUMENTS = ("is_local", "local_files_only")  # how it was found; transformers would save them with it
_MAX_STEPS = 32  # of a sequence
_MAX_GROWTH = 64  # characters made of one
_COMPOSED = 18  # that one character of a compatibility form may become


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: if it is missing or damaged, or of a kind that is not read.
    """
    try:
        _check(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except CheckpointError:
        raise
    except Exception as error:  # the libraries raise anything, and `Exception` itself
        reason = "it is nested too deep" if isinstance(error, RecursionError) else _first_line(error)
        raise CheckpointError(
            f"the tokenizer of the checkpoint in `{folder}` is missing or damaged: {reason}"
        ) from error
    for name in _LOADING_ARGUMENTS:
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def _check(folder: Path) -> None:
    if (folder / TOKENIZER_CONFIG).exists():
        settings = read_json(folder, TOKENIZER_CONFIG)
        check_values(settings, f"{TOKENIZER_CONFIG} in `{folder}`")
        name = settings.get("tokenizer_class")
        if name is not None and str(name).removesuffix("Fast") not in _NAMED and name not in _CLASSES:
            raise CheckpointError(
                f"{TOKENIZER_CONFIG} in `{folder}` names the class {str(name)[:80]!r}, which transformers does not have"
                f"{did_you_mean(str(name)[:80], (*_CLASSES, *_NAMED))}"
            )
    check_tokenizer(read_object(folder / TOKENIZER, MAX_TOKENIZER_BYTES), f"{TOKENIZER} in `{folder}`")


def check_tokenizer(values: Mapping[str, Any], where: str) -> None:
    """Refuse a tokenizer whose cost does not follow from its text.

    Args:
        values: of a tokenizer.json.
        where: is said first.

    Raises:
        CheckpointError: naming the part.
        ValueError: if it is no tokenizer.
    """
    model = values.get("model")
    kind = model.get("type") if isinstance(model, Mapping) else None
    if kind not in _MODELS:
        raise ValueError(f"its model must be one of {', '.join(_MODELS)}, got {str(kind)[:80]}")
    padding = values.get("padding")
    if padding is not None and (not isinstance(padding, Mapping) or padding.get("strategy") != "BatchLongest"):
        raise CheckpointError(f"{where}: `padding` must be null or to the longest of a batch")
    for part, kinds in _KINDS.items():
        growth, steps = 1.0, 0
        for step in _steps(values.get(part)):
            steps += 1
            if step.get("type") not in kinds:
                raise CheckpointError(f"{where}: `{part}` of the kind {str(step.get('type'))[:80]!r} is not read")
            problem = _pattern_problem(step.get("pattern"))
            if problem:
                raise CheckpointError(f"{where}: `{part}` {problem}")
            growth *= _growth(step)
        if growth > _MAX_GROWTH or steps > _MAX_STEPS:
            raise CheckpointError(f"{where}: `{part}` makes too much of a text: its steps are too many or add too much")


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """A part and everything in it, whatever the parts of a sequence are called."""
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            yield one
            for name in ("normalizers", "pretokenizers", "decoders", "processors"):
                inner = one.get(name)
                waiting += inner if isinstance(inner, list) else []


def _growth(step: Mapping[str, Any]) -> float:
    """How many characters one may become, at most."""
    if step.get("type") in ("NFKC", "NFKD"):
        return _COMPOSED
    if step.get("type") == "Prepend":
        return 1.0 if len(str(step.get("prepend"))) <= _COMPOSED else float(_MAX_GROWTH + 1)
    if step.get("type") != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), str(step.get("content"))
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    # A regular expression may match nothing at all, between any two characters.
    return max(1.0, len(content) / len(text)) if text else 1.0 + len(content)


def _pattern_problem(pattern: Any) -> str | None:
    """Why a regular expression is refused: it could take for ever."""
    text = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > MAX_PATTERN:
        return f"has a regular expression that is no text of at most {MAX_PATTERN:,} characters"
    return None if is_bounded(text) else f"has a regular expression that could take for ever: {text[:80]!r}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
