"""Several sources as one endless, deterministic stream: sample k of step t is the same whatever process makes it.

Each step takes its parts of every source by weight, as the paper mixes batches; a source is gone through without
repetition before it begins anew, in another order. Knows samples, not tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from llava_grounding.data.sample import Sample
from llava_grounding.errors import ConfigError, DataError, ImageError, PromptError, ShapeError

_GOLDEN = 0.6180339887498949  # multiples of it, without their whole parts, are spread evenly
_BLOCK = 4096  # steps counted at once
_TRIES = 100  # records read for one sample before its source is given up
Item = TypeVar("Item")


class SampleSource(Protocol):
    """Samples by number. Picklable, for worker processes."""

    @property
    def name(self) -> str:
        """What it is called in logs."""

    @property
    def size(self) -> int | None:
        """How many there are; None for those without end."""

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        """One of them, the same for the same number and state of `rng`; raises DataError if it cannot be read."""

    def class_names(self) -> frozenset[str]:
        """Every class that one of them may show."""


@dataclass(frozen=True)
class Slot:
    """One place of a batch."""

    source: int
    number: int
    """How many samples of this source came before, since the first step."""


@dataclass(frozen=True)
class Broken:
    """A sample that could not be read."""

    source: str
    number: int
    reason: str


class Mixture:
    """Sources mixed by weight.

    Args:
        sources: with their weights; when these sum up to the batch size, they are parts of every batch.
        batch_size: slots of a step, over all processes.
        seed: of the order and of everything a source draws.
    """

    def __init__(self, sources: Sequence[tuple[SampleSource, float]], batch_size: int, seed: int) -> None:
        weights = np.array([weight for _, weight in sources], dtype=np.float64)
        if not len(weights) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
            raise ConfigError(f"weights of sources must be positive numbers, got {weights.tolist()}")
        empty = [source.name for source, weight in sources if source.size == 0 and weight > 0]
        if empty:
            raise DataError(f"there is nothing to learn from in {', '.join(empty)}")
        self.sources = [source for source, _ in sources]
        self.batch_size, self.seed = batch_size, seed
        # Where the part of each source ends; rounded, so that whole parts stay whole.
        self._ends = np.round(np.cumsum(weights) / weights.sum() * batch_size, 9)
        self._before = np.zeros((1, len(weights)), dtype=np.int64)  # samples before each block of steps
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def parts(self, step: int) -> list[int]:
        """How many samples of each source a step takes."""
        return [int(count) for count in self._counts(step, step + 1)[0]]

    def slots(self, step: int) -> list[Slot]:
        """The batch of a step, sources dealt out in turn so that every share of it sees all of them."""
        block = step // _BLOCK
        while len(self._before) <= block:
            start = (len(self._before) - 1) * _BLOCK
            total = self._counts(start, start + _BLOCK).sum(axis=0)
            self._before = np.concatenate([self._before, self._before[-1:] + total])
        counts = self._counts(block * _BLOCK, step + 1)
        first = self._before[block] + counts[:-1].sum(axis=0)
        slots = [
            Slot(source, int(first[source]) + number)
            for source, count in enumerate(counts[-1])
            for number in range(count)
        ]
        order = np.random.default_rng((self.seed, 1, step)).permutation(len(slots))
        return [slots[index] for index in order]

    def fill(self, slot: Slot, prepare: Callable[[Sample], Item]) -> tuple[Item, list[Broken]]:
        """What fills a slot, and the samples that were tried before it and could not be used.

        Args:
            prepare: makes something of a sample; may raise DataError too.

        Raises:
            DataError: if nothing of the source can be used.
        """
        source = self.sources[slot.source]
        broken: list[Broken] = []
        for attempt in range(_TRIES):
            rng = np.random.default_rng((self.seed, 2, slot.source, slot.number, attempt))
            number = self._number(slot, attempt, rng)
            try:
                return prepare(source.sample(number, rng)), broken
            except (DataError, ImageError, PromptError, ShapeError) as error:
                broken.append(Broken(source.name, number, str(error)))
        reasons = "; ".join(dict.fromkeys(one.reason for one in broken[:3]))
        raise DataError(f"{_TRIES} samples of {source.name} in a row could not be used: {reasons}")

    def _counts(self, first: int, end: int) -> np.ndarray:
        """Samples of each source in each of some steps, [steps, sources]."""
        shift = (np.arange(first, end) * _GOLDEN) % 1.0
        upto = np.ceil(self._ends[None] - shift[:, None])
        upto[:, -1] = self.batch_size
        return np.diff(np.clip(upto, 0, self.batch_size), axis=1, prepend=0).astype(np.int64)

    def _number(self, slot: Slot, attempt: int, rng: np.random.Generator) -> int:
        """Which of its source a slot takes."""
        size = self.sources[slot.source].size
        if size is None:
            return int(rng.integers(2**31))
        if attempt:
            return int(rng.integers(size))
        epoch, place = divmod(slot.number, size)
        key = (slot.source, epoch)
        if key not in self._orders:
            self._orders = {old: order for old, order in self._orders.items() if old[0] != slot.source}
            self._orders[key] = np.random.default_rng((self.seed, 3, *key)).permutation(size)
        return int(self._orders[key][place])
