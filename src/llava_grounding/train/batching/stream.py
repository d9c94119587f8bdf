"""The batches of a run, made in worker processes: batch after batch from any step on, the same whoever makes them."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from llava_grounding.data.sample import Sample
from llava_grounding.dialogues.settings import DEFAULT_QUESTION_WEIGHTS
from llava_grounding.errors import ConfigError, DataError
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.batching.batches import (
    ChatBatch,
    ChatItem,
    ClassBatch,
    chat_item,
    class_batch,
    collate_chat,
    encode_sample_image,
    with_pointed,
)
from llava_grounding.train.batching.mixture import Broken, Mixture, Slot

_PATIENCE = 600.0  # seconds without a batch, after which a worker counts as lost


@dataclass(frozen=True)
class Portion:
    """Which part of every step one process handles, and in how many micro-batches."""

    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1

    @classmethod
    def of(cls, batch_size: int, micro_batch_size: int | None, rank: int = 0, world_size: int = 1) -> Portion:
        """Portion of a step of so many samples.

        Raises:
            ConfigError: if there is not a sample for everyone.
        """
        if batch_size < world_size:
            raise ConfigError(f"batch_size must be at least the number of processes, {world_size}, got {batch_size}")
        share = batch_size // world_size  # of the process with the fewest: all make the same number of micro-batches
        most = -(-batch_size // world_size)
        micro = 1 if micro_batch_size is None else -(-most // micro_batch_size)
        return cls(rank, world_size, min(micro, share))

    def slots(self, slots: list[Slot]) -> list[list[Slot]]:
        """The micro-batches of this process."""
        mine = slots[self.rank :: self.world_size]
        return [mine[index :: self.micro_batches] for index in range(self.micro_batches)]


@dataclass
class Delivery:
    """A batch, and what broke on the way to it."""

    batch: ChatBatch | ClassBatch
    broken: list[Broken]


@dataclass(frozen=True)
class BatchMaker:
    """Samples to batches.

    Args:
        class_index: class name -> column, where class names are a task.
        chat: whether batches have dialogues.
        seed: of the choice of turns.
    """

    processor: LlavaGroundingProcessor
    class_index: Mapping[str, int] | None
    chat: bool
    max_turns: int
    max_tokens: int | None
    seed: int
    point: bool = False
    """Whether things are pointed at, for the losses of the prompt encoder."""
    independent_turns: bool = False
    """See `Recipe`."""
    question_weights: Mapping[str, float] = field(default_factory=DEFAULT_QUESTION_WEIGHTS.copy)
    """See `Recipe`."""

    def item(self, sample: Sample, rng: np.random.Generator) -> Sample | ChatItem:
        """A sample made ready; raises DataError if nothing can be learnt from it."""
        if not self.chat:
            return sample
        item = chat_item(
            sample,
            self.processor,
            self.max_turns,
            rng,
            self.max_tokens,
            self.independent_turns,
            self.question_weights,
        )
        return with_pointed(item, rng) if self.point else item

    def collate(self, items: list[Sample | ChatItem]) -> ChatBatch | ClassBatch:
        """Items of one kind as a batch."""
        chats = [item for item in items if isinstance(item, ChatItem)]
        if self.chat:
            return collate_chat(chats, self.processor, self.class_index)
        samples = [item for item in items if isinstance(item, Sample)]
        images = [encode_sample_image(self.processor, sample) for sample in samples]
        return class_batch(samples, images, self.processor, self.class_index or {})


class BatchStream(IterableDataset[Delivery]):
    """Micro-batches of one process from `first_step` on; worker w of n makes every n-th one."""

    def __init__(self, mixture: Mixture, maker: BatchMaker, portion: Portion, steps: int, first_step: int = 0) -> None:
        self.mixture, self.maker, self.portion = mixture, maker, portion
        self.steps, self.first_step = steps, first_step

    def __iter__(self) -> Iterator[Delivery]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        per_step = self.portion.micro_batches
        for number in range(self.first_step * per_step + worker, self.steps * per_step, workers):
            yield self.batch(*divmod(number, per_step))

    def batch(self, step: int, micro: int = 0) -> Delivery:
        """One micro-batch of a step."""
        items, broken = [], []
        for slot in self.portion.slots(self.mixture.slots(step))[micro]:
            item, lost = self._item(slot)
            items.append(item)
            broken += lost
        return Delivery(self.maker.collate(items), broken)

    def _item(self, slot: Slot) -> tuple[Sample | ChatItem, list[Broken]]:
        """What fills a slot; samples that cannot be made ready count as broken, and another takes their place."""
        rng = np.random.default_rng((self.maker.seed, 4, slot.source, slot.number))
        return self.mixture.fill(slot, lambda sample: self.maker.item(sample, rng))


def batch_loader(stream: BatchStream, workers: int) -> DataLoader[Delivery]:
    """The stream, made ahead by worker processes; a worker that dies or hangs ends the run with an error."""
    return _Loader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_settle_worker,
        timeout=_PATIENCE if workers else 0,
    )


class _Loader(DataLoader[Delivery]):
    """A loader that remembers its workers: deaf to stop signals, they would outlast a program that forgot them."""

    def __iter__(self) -> Iterator[Delivery]:  # type: ignore[override]
        before = multiprocessing.active_children()
        batches = super().__iter__()
        _signal_ignoring.update(child for child in multiprocessing.active_children() if child not in before)
        return cast(Iterator[Delivery], batches)


_signal_ignoring: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """Runs before multiprocessing's own end, which sends its children SIGTERM and waits for them without a limit."""
    workers = set(_signal_ignoring).intersection(multiprocessing.active_children())
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where torch raises an error for every worker that is killed
    for worker in workers:
        worker.kill()


def _settle_worker(worker: int) -> None:
    """One thread; and stop signals, which launchers send to all processes, are for the main one to answer."""
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class SkippedSamples:
    """Samples that could not be read: each is reported once, too many end the run."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.found: dict[tuple[str, int], str] = {}

    def add(self, broken: list[Broken]) -> list[Broken]:
        """Take note, and give those that are new.

        Raises:
            DataError: if there are too many.
        """
        new = []
        for one in broken:
            if (one.source, one.number) not in self.found:
                self.found[one.source, one.number] = one.reason
                new.append(one)
        if len(self.found) > self.limit:
            last = new[-1]
            raise DataError(
                f"{len(self.found)} samples could not be read, more than the {self.limit} of `max_skipped_samples`; "
                f"the last, number {last.number} of {last.source}: {last.reason}"
            )
        return new
