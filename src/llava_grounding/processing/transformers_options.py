"""The keyword arguments of a processor of transformers: honoured, or refused by name.

Knows no text and no tensors. Arguments that ask for nothing (None, or False for something to be returned) pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from transformers.processing_utils import AudioKwargs, ImagesKwargs, TextKwargs, VideosKwargs

from llava_grounding.errors import UsageError, did_you_mean, shown
from llava_grounding.typed_values import is_whole

_NESTED = ("common_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs")
_PADDINGS = (True, "longest", "max_length", False, "do_not_pad", None)
_CUTS = (True, "longest_first", "only_first")
_NO_CUTS = (False, "do_not_truncate", None)
# Besides what transformers lists: what its callers pass along.
_OTHERS = frozenset({"videos", "audio", "text_pair", "text_target", "text_pair_target", "load_audio_from_video"})


@dataclass(frozen=True)
class TextOptions:
    """How texts become a batch.

    Raises:
        UsageError: if a value is none of those that are known.
    """

    return_tensors: str | None = "pt"
    """None gives tensors as well: nothing else can be read by the model."""
    padding: bool | str | None = True
    """True or "longest"; "max_length"; False or "do_not_pad" for texts that are of one length already."""
    padding_side: str | None = "left"
    truncation: bool | str | None = None
    """True cuts texts at their end, but never an image or a region."""
    max_length: int | None = None
    """Tokens; without it, as many as the model reads. A longer text is cut, or refused without `truncation`."""
    pad_to_multiple_of: int | None = None
    add_special_tokens: bool | None = True
    """False leaves out the token that begins a text, for templates that have one."""

    def __post_init__(self) -> None:
        for name, known in (
            ("return_tensors", ("pt", None)),
            ("padding", _PADDINGS),
            ("padding_side", ("left", "right", None)),
            ("truncation", (*_CUTS, *_NO_CUTS)),
            ("add_special_tokens", (True, False, None)),
        ):
            value = getattr(self, name)
            value = getattr(value, "value", value)  # transformers has enumerations of these words
            if not any(value is one or (isinstance(value, str) and value == one) for one in known):
                raise UsageError(f"{name} must be {_listed(known)}, got {shown(value)}")
            object.__setattr__(self, name, value)
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (not is_whole(value) or value < 1):
                raise UsageError(f"{name} must be a whole number from 1 on, got {shown(value)}")
        if self.padding == "max_length" and self.max_length is None:
            raise UsageError('padding="max_length" needs max_length')

    @property
    def cuts(self) -> bool:
        """Whether longer texts are cut."""
        return self.truncation in _CUTS

    @property
    def pads(self) -> bool:
        """Whether shorter texts are padded."""
        return self.padding not in (False, "do_not_pad", None)

    def padded_length(self, longest: int) -> int:
        """How long the rows of a batch are."""
        length = self.max_length if self.padding == "max_length" and self.max_length is not None else longest
        step = self.pad_to_multiple_of or 1
        return -(-max(length, longest) // step) * step


OPTION_NAMES = frozenset(option.name for option in fields(TextOptions))
_TEXT = frozenset(TextKwargs.__annotations__) | _OTHERS
_PICTURES = (
    frozenset(ImagesKwargs.__annotations__) | VideosKwargs.__annotations__.keys() | AudioKwargs.__annotations__.keys()
)
STANDARD_NAMES = OPTION_NAMES | _TEXT | _PICTURES | frozenset(_NESTED)
"""Every argument that a processor of transformers may be given beside images and text."""


def read_options(given: Mapping[str, Any], where: str) -> TextOptions:
    """The options among the arguments of a call.

    Args:
        given: by name; those of `text_kwargs` and the like count as if they stood beside them.
        where: how the call is written, for messages.

    Raises:
        UsageError: if an argument is not known, or asks for something that is not done.
    """
    flat = {name: value for name, value in given.items() if name not in _NESTED}
    for group in _NESTED:
        flat |= dict(given.get(group) or {})
    for name, value in flat.items():
        if name in OPTION_NAMES or value is None or name == "verbose":
            continue
        if name not in STANDARD_NAMES:
            raise UsageError(f"{where} has no argument `{name}`{did_you_mean(name, STANDARD_NAMES)}")
        if (name in _TEXT and value is False) or (name == "return_attention_mask" and value is True):
            continue
        if name in _TEXT:
            raise UsageError(f"{where} cannot do `{name}={shown(value)}`; it knows {', '.join(sorted(OPTION_NAMES))}")
        raise UsageError(f"{where} cannot take `{name}`: how a picture is prepared is part of the checkpoint")
    return TextOptions(**{name: value for name, value in flat.items() if name in OPTION_NAMES})


def _listed(values: tuple[Any, ...]) -> str:
    texts = [f'"{value}"' if isinstance(value, str) else repr(value) for value in values if value is not None]
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
