"""Answers written side by side: each begins when it comes and leaves when it is done, between any two tokens.

Knows embeddings, ids and keys and values; knows no image, no text, no request. The rules of one answer (limits, end
token, when a phrase state is known) are those of `decoding.TokenLoop`, which writes a fixed batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from llava_grounding.errors import LlavaGroundingError
from llava_grounding.inference import decoding
from llava_grounding.inference.decoding import Decoding
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration

_COLUMNS = 256  # by which the room for positions grows


@dataclass
class KeysAndValues:
    """What the language model keeps of a text it has read: per layer keys and values `[heads, T, D]`."""

    layers: list[tuple[Tensor, Tensor]]

    @property
    def length(self) -> int:
        """Positions read."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def first(self, count: int) -> KeysAndValues:
        """A copy of the first positions."""
        return KeysAndValues([(keys[:, :count].clone(), values[:, :count].clone()) for keys, values in self.layers])

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer)


class PrefixReader:
    """Reads one text, from its beginning or behind one that was read before, which stays as it is."""

    def __init__(self, model: LlavaGroundingForConditionalGeneration, before: KeysAndValues | None = None) -> None:
        self._model = model
        self._cache = Cache(layer_class_to_replicate=DynamicLayer)
        if before is not None:
            for number, (keys, values) in enumerate(before.layers):
                self._cache.update(keys[None], values[None], number)

    @torch.inference_mode()
    def read(self, embeds: Tensor) -> tuple[Tensor, KeysAndValues]:
        """Read `[1, T, D]` and give the last hidden state `[D]` and all that is kept of the text."""
        output = self._model.language_model(inputs_embeds=embeds, past_key_values=self._cache, use_cache=True)
        layers = []
        for layer in self._cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layers.append((layer.keys[0], layer.values[0]))
        return output.last_hidden_state[0, -1], KeysAndValues(layers)


@dataclass(eq=False)
class Writing:
    """One answer being written, and what the last step added to it."""

    decoding: Decoding
    hidden: Tensor
    """Last hidden state `[D]`."""
    length: int
    """Positions read."""
    written: int = 0
    token: int | None = None
    """What the last step wrote; None if it only read."""
    states_before: list[Tensor] = field(default_factory=list)
    """Phrase states `[D]` that became known before `token`."""
    states_after: list[Tensor] = field(default_factory=list)
    """Phrase states that became known by reading `token`."""
    done: bool = False
    kept: KeysAndValues | None = None
    """What was read of it, once it is done and if it was wanted."""
    error: LlavaGroundingError | None = None
    """Why it could not go on; it is then done."""

    def __post_init__(self) -> None:
        self.chooser = decoding.TokenSampler(self.decoding)


class RunningBatch:
    """The answers being written; all of them are read in one pass per token.

    Rows end in one common column, so that distances between positions are right also for layers with a window.

    Args:
        keep: whether keys and values of a finished answer are handed out.
    """

    def __init__(self, model: LlavaGroundingForConditionalGeneration, keep: bool = True) -> None:
        self._model = model
        self._at_seg = model.config.phrase_state == "at_seg"
        self._keep = keep
        self._rows = _Rows()
        self.writings: list[Writing] = []
        """Those that run, in the order of the rows."""

    def __len__(self) -> int:
        return len(self.writings)

    def join(self, decoding: Decoding, hidden: Tensor, read: KeysAndValues) -> Writing:
        """Begin an answer behind a text that was read; `hidden` is its last hidden state."""
        writing = Writing(decoding, hidden, read.length)
        self._rows.add(read)
        self.writings.append(writing)
        return writing

    def leave(self, writing: Writing) -> None:
        """End an answer where it stands."""
        row = self.writings.index(writing)
        if self._keep:
            writing.kept = self._rows.copy_of(row)
        writing.done = True
        self._rows.remove(row)
        last = self.writings.pop()  # takes the place of the row that left, as in the rows
        if row < len(self.writings):
            self.writings[row] = last

    def step(self) -> None:
        """Write one token of every answer; those that are done leave."""
        for writing in self.writings:
            writing.token, writing.states_before, writing.states_after = None, [], []
        config = self._model.config
        last_reads = []
        for writing in self._choose():
            if writing.token == config.seg_token_id and not self._at_seg:
                writing.states_before.append(writing.hidden)
            writing.written += 1
            ended = writing.token == config.eos_token_id or writing.written >= writing.decoding.max_new_tokens
            if ended and self._at_seg and writing.token == config.seg_token_id:
                last_reads.append(writing)  # its state is known when it has been read
            elif ended:
                self.leave(writing)
        if not self.writings:
            return
        self._read()
        for writing in self.writings:
            if self._at_seg and writing.token == config.seg_token_id:
                writing.states_after.append(writing.hidden)
        for writing in last_reads:
            self.leave(writing)

    @torch.inference_mode()
    def _choose(self) -> list[Writing]:
        """Choose the next token of every answer; one that has no numbers to choose from leaves."""
        logits = self._model.logits(torch.stack([writing.hidden for writing in self.writings]))
        running = list(self.writings)
        for row, writing in enumerate(running):
            try:
                writing.token = writing.chooser.choose(logits[row])
            except LlavaGroundingError as error:
                writing.error = error
        for writing in running:
            if writing.error is not None:
                self.leave(writing)
        return [writing for writing in running if writing.error is None]

    @torch.inference_mode()
    def _read(self) -> None:
        rows = self._rows
        rows.make_room()
        ids = torch.tensor([[writing.token] for writing in self.writings], device=self._model.device)
        output = self._model.language_model(
            inputs_embeds=self._model.get_input_embeddings()(ids),
            attention_mask=rows.mask(ids.device),
            position_ids=torch.tensor([[writing.length] for writing in self.writings], device=ids.device),
            past_key_values=rows.cache,
            use_cache=True,
        )
        rows.advance()
        for writing, hidden in zip(self.writings, output.last_hidden_state[:, -1], strict=True):
            writing.hidden = hidden
            writing.length += 1


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

    def add(self, read: KeysAndValues) -> None:
        """Add a row, the last one."""
        if not self._layers:
            self.cache.layers += [_RowsLayer(self, keys, values) for keys, values in read.layers]
        if read.length > self.end:
            self._move_to(read.length)
        row = len(self.lengths)
        if row == self._layers[0].keys.shape[0]:
            self._resize(max(2 * row, 1), self._columns)
        self.lengths.append(read.length)
        self._write(row, read)

    def _write(self, row: int, read: KeysAndValues) -> None:
        # What a row held before is masked, but a weight of zero times a number that is not finite is none either.
        place = slice(self.end - read.length, self.end)
        for layer, (keys, values) in zip(self._layers, read.layers, strict=True):
            layer.keys[row].zero_()[:, place] = keys
            layer.values[row].zero_()[:, place] = values

    def copy_of(self, row: int) -> KeysAndValues:
        """A row by itself."""
        place = slice(self.end - self.lengths[row], self.end)
        return KeysAndValues(
            [(one.keys[row, :, place].clone(), one.values[row, :, place].clone()) for one in self._layers]
        )

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
