"""The token loop: feeds the language model, chooses the next tokens, collects the phrase states on the way.

Knows embeddings, ids and the key/value cache; knows no image, no text and no markup. One loop serves a single answer
and a batch.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llava_grounding.errors import LlavaGroundingError, UsageError, shown
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration

MAX_NEW_TOKENS = 2000
"""Longest answer that may be asked for."""
_GREEDY_BELOW = 1e-4  # temperatures below this are greedy, as in the original
_MAX_TEMPERATURE = 100.0


@runtime_checkable
class Flag(Protocol):
    """Something like `threading.Event`."""

    def is_set(self) -> bool:
        """True once it has been raised."""


StopSignal = Callable[[], bool] | Flag
"""Asked between tokens; true ends the answer where it stands."""


@dataclass(frozen=True)
class Decoding:
    """How an answer is written.

    Raises:
        UsageError: if a setting is out of its range.
    """

    max_new_tokens: int = 256
    """Tokens after which the answer is cut."""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher values vary more."""
    seed: int | None = None
    """Makes sampling repeatable, on any device alike; None draws a new one."""

    def __post_init__(self) -> None:
        if not _is_int(self.max_new_tokens) or not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise UsageError(
                f"max_new_tokens must be a whole number from 1 to {MAX_NEW_TOKENS}, got {shown(self.max_new_tokens)}"
            )
        if not _is_number(self.temperature) or not 0 <= self.temperature <= _MAX_TEMPERATURE:
            raise UsageError(
                f"temperature must be a number from 0 to {_MAX_TEMPERATURE:g}, got {shown(self.temperature)}"
            )
        if self.seed is not None and (not _is_int(self.seed) or not 0 <= self.seed < 2**63):
            raise UsageError(f"seed must be a whole number from 0 to 2^63 - 1, got {shown(self.seed)}")
        object.__setattr__(self, "temperature", float(self.temperature))  # of any kind of number


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number or a fraction beyond all floats
        return False


class TokenSampler:
    """Chooses the next token of one answer."""

    def __init__(self, decoding: Decoding) -> None:
        self._temperature = decoding.temperature
        self._generator: torch.Generator | None = None
        if self._temperature >= _GREEDY_BELOW:
            # On the CPU whatever the model runs on: the same seed then draws the same numbers everywhere.
            self._generator = torch.Generator()
            if decoding.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(int(decoding.seed))

    def choose(self, logits: Tensor) -> int:
        """The next token for logits `[V]`.

        Raises:
            LlavaGroundingError: if they are not numbers.
        """
        logits = logits.float()
        best = int(logits.argmax())
        if not math.isfinite(float(logits[best])):
            raise LlavaGroundingError(
                "the model gave a number that is not finite; its weights are damaged, or the dtype is too narrow for "
                "it (try float32)"
            )
        if self._generator is None:
            return best
        chances = (logits.cpu() / self._temperature).softmax(dim=-1)
        return int(torch.multinomial(chances, 1, generator=self._generator))


class Reader:
    """What the language model has read so far: its key/value cache, and for a padded batch who is padding."""

    def __init__(self, model: LlavaGroundingForConditionalGeneration) -> None:
        self._model = model
        # Made without a config, every layer keeps all positions (also of models with a sliding window, which is then
        # only a mask), so that the cache can always be cut back.
        self._cache = DynamicCache()
        self._mask: Tensor | None = None
        self.length = 0
        """Positions read."""

    @torch.inference_mode()
    def feed(self, embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read on.

        Args:
            embeds: `[B, T, D]`.
            mask: `[B, T]` bool, False where a row is padded; None reads everything.

        Returns:
            Last hidden states `[B, T, D]`.
        """
        positions = None
        if mask is not None or self._mask is not None:
            new = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask
            self._mask = new if self._mask is None else torch.cat([self._mask, new], dim=1)
            positions = (self._mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        output = self._model.language_model(
            inputs_embeds=embeds,
            attention_mask=None if self._mask is None else self._mask.long(),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self.length += embeds.shape[1]
        return output.last_hidden_state

    def cut_back(self, length: int) -> None:
        """Forget everything after the first `length` positions, also what a failed `feed` left behind."""
        for layer in self._cache.layers:
            assert isinstance(layer, DynamicLayer)
            extra = layer.get_seq_length() - length
            if extra > 0:
                layer.crop(-extra)
        if self._mask is not None:
            self._mask = self._mask[:, :length]
        self.length = length


@dataclass(frozen=True)
class Step:
    """One turn of the loop."""

    tokens: tuple[int | None, ...]
    """What each row wrote; None where it has ended."""
    states: tuple[tuple[int, Tensor], ...]
    """Phrase states that have become known, as (row, `[D]`); in each row one per `<seg>`, in order."""


class TokenLoop:
    """Writes one answer per row of what a reader has read.

    Args:
        hidden: last hidden state of every row, `[B, D]`.
        decodings: per row.
        stop: ends all rows; asked between tokens.
    """

    def __init__(
        self,
        model: LlavaGroundingForConditionalGeneration,
        reader: Reader,
        hidden: Tensor,
        decodings: Sequence[Decoding],
        stop: StopSignal | None = None,
    ) -> None:
        self._model = model
        self._reader = reader
        self._hidden = hidden
        self._limits = [decoding.max_new_tokens for decoding in decodings]
        self._choosers = [TokenSampler(decoding) for decoding in decodings]
        self._stop = stop
        self._at_seg = model.config.phrase_state == "at_seg"

    def steps(self) -> Iterator[Step]:
        """The loop, until every row has ended; no step at all if it is stopped before the first token.

        A `<seg>` that is a row's last token still gives its state.
        """
        config = self._model.config
        running = [True] * len(self._limits)
        states: list[tuple[int, Tensor]] = []
        if stop_requested(self._stop):
            return
        for written in range(1, max(self._limits) + 1):
            tokens = self._choose(running)
            at_seg = [row for row, token in enumerate(tokens) if token == config.seg_token_id]
            if not self._at_seg:
                states = [(row, self._hidden[row]) for row in at_seg]
            yield Step(tuple(tokens), tuple(states))
            for row, token in enumerate(tokens):
                running[row] = token not in (None, config.eos_token_id) and written < self._limits[row]
            if stop_requested(self._stop):
                running = [False] * len(running)
            states = []
            if not any(running) and not (self._at_seg and at_seg):
                return
            self._read(tokens)
            if self._at_seg:
                states = [(row, self._hidden[row]) for row in at_seg]
            if not any(running):
                yield Step((None,) * len(running), tuple(states))
                return

    @torch.inference_mode()
    def _choose(self, running: Sequence[bool]) -> list[int | None]:
        logits = self._model.logits(self._hidden)
        return [chooser.choose(logits[row]) if running[row] else None for row, chooser in enumerate(self._choosers)]

    @torch.inference_mode()
    def _read(self, tokens: Sequence[int | None]) -> None:
        filler = self._model.config.pad_token_id or 0
        ids = torch.tensor([[filler if token is None else token] for token in tokens], device=self._hidden.device)
        self._hidden = self._reader.feed(self._model.get_input_embeddings()(ids))[:, -1]


def check_stop(stop: object) -> None:
    """Refuse what cannot be asked between tokens.

    Raises:
        UsageError: if it is neither a function nor something like `threading.Event`.
    """
    if stop is not None and not isinstance(stop, Flag) and not callable(stop):
        raise UsageError(f"stop must be a function or a threading.Event, got {shown(stop)}")


def stop_requested(stop: StopSignal | None) -> bool:
    """Ask a stop signal of either kind."""
    if stop is None:
        return False
    return stop.is_set() if isinstance(stop, Flag) else bool(stop())
