"""The token loop: answers generated side by side, each beginning when it comes and leaving when it is done.

Feeds the language model, chooses the next token of every answer, collects the phrase states on the way. Knows
embeddings, ids and keys and values; knows no image, no text, no markup. One loop serves a single answer, a batch, and a
server whose requests join between any two tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from llava_grounding.errors import LlavaGroundingError
from llava_grounding.inference.decoding import Decoding, StopSignal, TokenSampler, stop_requested
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration

_COLUMNS = 256  # by which the room for positions grows


@dataclass
class KVCache:
    """Key/value cache of one text: per layer keys and values `[heads, T, D]`."""

    layers: list[tuple[Tensor, Tensor]]

    @property
    def length(self) -> int:
        """Positions it holds."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def first(self, count: int) -> KVCache:
        """A copy of the first positions."""
        return KVCache([(keys[:, :count].clone(), values[:, :count].clone()) for keys, values in self.layers])

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer)


@torch.inference_mode()
def prefill(
    model: LlavaGroundingForConditionalGeneration, embeds: Tensor, past: KVCache | None = None
) -> tuple[Tensor, KVCache]:
    """Read one text, from its beginning or after one whose cache is given, which stays as it is.

    Args:
        embeds: `[1, T, D]`.

    Returns:
        The last hidden state `[D]`, and the cache of both texts.
    """
    cache = _cache()
    if past is not None:
        for number, (keys, values) in enumerate(past.layers):
            cache.update(keys[None], values[None], number)
    output = model.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
    return output.last_hidden_state[0, -1], _row_of(cache, 0, slice(None))


@torch.inference_mode()
def prefill_batch(
    model: LlavaGroundingForConditionalGeneration,
    embeds: Sequence[Tensor],
    past: Sequence[KVCache | None] | None = None,
) -> list[tuple[Tensor, KVCache]]:
    """Read several texts `[1, T, D]`, in one pass if none has a past; each as `prefill` gives it."""
    past = [None] * len(embeds) if past is None else past
    if len(embeds) == 1 or any(one is not None for one in past):
        return [prefill(model, text, one) for text, one in zip(embeds, past, strict=True)]
    cache = _cache()
    hidden, _ = forward_padded(model, embeds, cache)
    return [(hidden[row, -1], _row_of(cache, row, slice(-text.shape[1], None))) for row, text in enumerate(embeds)]


@torch.inference_mode()
def forward_padded(
    model: LlavaGroundingForConditionalGeneration, embeds: Sequence[Tensor], cache: Cache | None = None
) -> tuple[Tensor, Tensor]:
    """Hidden states `[B, T, D]` of several texts `[1, T, D]`, padded on the left, and which positions are real."""
    longest = max(text.shape[1] for text in embeds)
    mask = torch.zeros(len(embeds), longest, dtype=torch.bool, device=embeds[0].device)
    for row, text in enumerate(embeds):
        mask[row, longest - text.shape[1] :] = True
    output = model.language_model(
        inputs_embeds=torch.cat([pad(text, (0, 0, longest - text.shape[1], 0)) for text in embeds]),
        attention_mask=mask.long(),
        position_ids=(mask.long().cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return output.last_hidden_state, mask


def _cache() -> Cache:
    """Keeps all positions of every layer, also of models with a sliding window, which is then only a mask."""
    return Cache(layer_class_to_replicate=DynamicLayer)


def _row_of(cache: Cache, row: int, place: slice) -> KVCache:
    layers = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        layers.append((layer.keys[row, :, place], layer.values[row, :, place]))
    return KVCache(layers)


@dataclass(eq=False)
class GenerationState:
    """One answer being generated."""

    decoding: Decoding
    hidden: Tensor
    """Last hidden state `[D]`."""
    length: int
    """Positions read."""
    num_generated: int = 0
    """Tokens so far."""
    token: int | None = None
    """The last of them; None before its first token."""
    unread: bool = False
    """The model has not read its last token."""
    states: list[Tensor] = field(default_factory=list)
    """Phrase states `[D]`, one per `<seg>`, that have become known since its last token was chosen."""
    done: bool = False
    kv_cache: KVCache | None = None
    """Its cache, once it is done and if it was wanted."""
    error: LlavaGroundingError | None = None
    """Why it could not go on; it is then done."""

    def __post_init__(self) -> None:
        self.sampler = TokenSampler(self.decoding)


class RunningBatch:
    """The answers being generated; all of them are read in one pass per token.

    Rows end in one common column, so that distances between positions are right also for layers with a window.

    Args:
        keep: whether keys and values of a finished answer are handed out.
    """

    def __init__(self, model: LlavaGroundingForConditionalGeneration, keep: bool = True) -> None:
        self._model = model
        self._phrases = model.phrase_rule
        self._keep = keep
        self._rows = _Rows()
        self.generations: list[GenerationState] = []
        """Those that run, in the order of the rows."""

    def __len__(self) -> int:
        return len(self.generations)

    def join(self, decoding: Decoding, hidden: Tensor, kv_cache: KVCache) -> GenerationState:
        """Begin an answer after a text that was read; `hidden` is its last hidden state."""
        generation = GenerationState(decoding, hidden, kv_cache.length)
        self._rows.add(kv_cache)
        self.generations.append(generation)
        return generation

    def leave(self, generation: GenerationState) -> None:
        """End an answer where it stands."""
        row = self.generations.index(generation)
        if self._keep:
            generation.kv_cache = self._rows.copy_of(row)
        generation.done = True
        self._rows.remove(row)
        last = self.generations.pop()  # takes the place of the row that left, as in the rows
        if row < len(self.generations):
            self.generations[row] = last

    def sample_tokens(self) -> None:
        """Choose the next token of every answer whose last one has been read; those that end with it leave."""
        for generation in self._choose():
            if self._phrases.known_when_chosen(generation.token):
                generation.states.append(generation.hidden)
            generation.num_generated += 1
            if self._ended(generation) and not self._waits_for_state(generation):
                self.leave(generation)

    def decode_tokens(self) -> None:
        """Read the tokens just chosen, one of every answer; one that only waited for the state of its last leaves."""
        if not self.generations:
            return
        self._read()
        for generation in list(self.generations):
            if self._waits_for_state(generation):
                generation.states.append(generation.hidden)
                if self._ended(generation):
                    self.leave(generation)

    def generate(self, stop: StopSignal | None = None) -> Iterator[None]:
        """Generate until every answer is done; gives way whenever there may be something new.

        Args:
            stop: asked before each token; true ends all answers where they stand.
        """
        while self.generations:
            if stop_requested(stop):
                for generation in list(self.generations):
                    self.leave(generation)
            else:
                self.sample_tokens()
            yield
            if self.generations:
                self.decode_tokens()
                yield

    def _ended(self, generation: GenerationState) -> bool:
        limit = generation.decoding.max_new_tokens
        return generation.token == self._model.config.eos_token_id or generation.num_generated >= limit

    def _waits_for_state(self, generation: GenerationState) -> bool:
        """Its last token is a `<seg>` whose state is known when it has been read."""
        return self._phrases.known_when_read(generation.token)

    @torch.inference_mode()
    def _choose(self) -> list[GenerationState]:
        """Choose the next token of every answer that is due; one that has no numbers to choose from leaves."""
        due = [generation for generation in self.generations if not generation.unread]
        if not due:
            return []
        logits = self._model.logits(torch.stack([generation.hidden for generation in due]))
        for row, generation in enumerate(due):
            generation.states = []
            try:
                generation.token = generation.sampler.sample(logits[row])
                generation.unread = True
            except LlavaGroundingError as error:
                generation.error = error
        for generation in due:
            if generation.error is not None:
                self.leave(generation)
        return [generation for generation in due if generation.error is None]

    @torch.inference_mode()
    def _read(self) -> None:
        rows = self._rows
        rows.make_room()
        device = self.generations[0].hidden.device
        ids = torch.tensor([[generation.token] for generation in self.generations], device=device)
        output = self._model.language_model(
            inputs_embeds=self._model.get_input_embeddings()(ids),
            attention_mask=rows.mask(device),
            position_ids=torch.tensor([[generation.length] for generation in self.generations], device=device),
            past_key_values=rows.cache,
            use_cache=True,
        )
        rows.advance()
        for generation, hidden in zip(self.generations, output.last_hidden_state[:, -1], strict=True):
            generation.hidden = hidden
            generation.length += 1
            generation.unread = False


class _Rows:
    """Keys and values of several texts in one place per layer, with room for more positions; all end in one column."""

    def __init__(self) -> None:
        self.cache = Cache(layers=[])
        self.lengths: list[int] = []
        self.end = 0
        """Column in which the next position of every row goes."""

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def _layers(self) -> list[_RowsLayer]:
        return self.cache.layers  # type: ignore[return-value]  # no others are in it

    @property
    def _columns(self) -> int:
        return self._layers[0].keys.shape[2] if self._layers and self._layers[0].keys is not None else 0

    def add(self, kv_cache: KVCache) -> None:
        """Add a row, the last one."""
        if not self._layers:
            self.cache.layers += [_RowsLayer(self, keys, values) for keys, values in kv_cache.layers]
        if kv_cache.length > self.end:
            self._move_to(kv_cache.length)
        row = len(self.lengths)
        if row == self._layers[0].keys.shape[0]:
            self._resize(max(2 * row, 1), self._columns)
        self.lengths.append(kv_cache.length)
        self._write(row, kv_cache)

    def _write(self, row: int, kv_cache: KVCache) -> None:
        # What a row held before is masked, but a weight of zero times a number that is not finite is none either.
        place = slice(self.end - kv_cache.length, self.end)
        for layer, (keys, values) in zip(self._layers, kv_cache.layers, strict=True):
            layer.keys[row].zero_()[:, place] = keys
            layer.values[row].zero_()[:, place] = values

    def copy_of(self, row: int) -> KVCache:
        """A row by itself."""
        place = slice(self.end - self.lengths[row], self.end)
        return KVCache([(one.keys[row, :, place].clone(), one.values[row, :, place].clone()) for one in self._layers])

    def remove(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        last = len(self.lengths) - 1
        moved = self.copy_of(last) if row < last else None
        length = self.lengths.pop()
        if moved is not None:
            self.lengths[row] = length
            self._write(row, moved)
        if not self.lengths:
            self.end = 0

    def make_room(self) -> None:
        """Have a column for one more position of every row."""
        if self.end == self._columns:
            self._move_to(self.longest)

    def advance(self) -> None:
        """Every row has been read on by one position."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def mask(self, device: torch.device) -> Tensor | None:
        """Which positions, with the one to come, are a row's own `[B, T]`; None if all are."""
        longest = self.longest
        if min(self.lengths) == longest:
            return None
        first = torch.tensor([[longest - length] for length in self.lengths], device=device)
        return torch.arange(longest + 1, device=device)[None] >= first

    def _move_to(self, end: int) -> None:
        """Let all rows end in another column, with room behind it."""
        columns = self._columns
        if end + 1 + _COLUMNS // 2 > columns:
            columns = (end // _COLUMNS + 2) * _COLUMNS
        source, shift = slice(self.end - self.longest, self.end), end - self.end
        target = slice(source.start + shift, source.stop + shift)
        rows = len(self.lengths)
        for layer in self._layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros(*old.shape[:2], columns, old.shape[3]) if columns != old.shape[2] else old
                new[:rows, :, target] = old[:rows, :, source].clone()
                setattr(layer, name, new)
        self.end = end

    def _resize(self, rows: int, columns: int) -> None:
        for layer in self._layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old
                setattr(layer, name, new)


class _RowsLayer(DynamicLayer):
    """One layer of the rows, as attention sees it: the columns of the longest row."""

    keys: Tensor
    values: Tensor

    def __init__(self, rows: _Rows, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._rows = rows
        self.dtype, self.device = keys.dtype, keys.device
        self.keys = keys.new_zeros(1, keys.shape[0], 0, keys.shape[2])
        self.values = values.new_zeros(1, values.shape[0], 0, values.shape[2])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        rows = self._rows
        place, end = slice(0, key_states.shape[0]), rows.end + key_states.shape[2]
        self.keys[place, :, rows.end : end] = key_states
        self.values[place, :, rows.end : end] = value_states
        start = rows.end - rows.longest
        return self.keys[place, :, start:end], self.values[place, :, start:end]

    def get_seq_length(self) -> int:
        return self._rows.longest
