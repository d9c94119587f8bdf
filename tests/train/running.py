"""Runs of a tiny model for tests: to their end, until something kills them, alone or as several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hand_made import DOG, TURNS, four_samples, sample
from small_training import training_setup
from torch import Tensor
from transformers import TrainerCallback

from llava_grounding.data.sample import Sample, Turn
from llava_grounding.train import run
from llava_grounding.train.trainer import GroundingTrainer
from llava_grounding.train.training_setup import TrainingSetup

PATIENCE = 60.0  # seconds, after which a child counts as hanging
UNEQUAL = [
    sample(turns=TURNS[:1]),
    sample((DOG,), (Turn("How many things are there in the image?", "One.", grounded=False, kind="count"),)),
    *four_samples()[:2],
]
"""Samples with very different numbers of tokens, objects and phrases; one has no phrase at all."""


class StoppedError(Exception):
    """Somebody pulled the plug."""


class Listed:
    """A source of given samples."""

    name = "given samples"

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    @property
    def size(self) -> int:
        return len(self.samples)

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        return self.samples[number]


def finish(folder: Path, held: Sequence[Sample] = (), **values: Any) -> tuple[TrainingSetup, dict[str, float]]:
    """A run to its end, or from its last checkpoint to its end; looks at the samples held."""
    setup = training_setup(folder, **values)
    setup.held_out = list(held) or setup.held_out
    return setup, run.run_stage(setup, "cpu")


class AtStep(TrainerCallback):
    """Does something once a step, counted from 1, has been done, before anything is saved."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action()


def finish_with(callback: TrainerCallback, folder: Path, **values: Any) -> tuple[TrainingSetup, dict[str, float]]:
    """A run with one more callback."""
    honest = run._trainer

    def with_callback(*arguments: Any) -> GroundingTrainer:
        trainer = honest(*arguments)
        trainer.add_callback(callback)
        return trainer

    with mock.patch.object(run, "_trainer", with_callback):
        return finish(folder, **values)


def interrupt() -> None:
    raise StoppedError


def run_until(step: int, folder: Path, **values: Any) -> None:
    """A run that dies at the end of a step."""
    with pytest.raises(StoppedError):
        finish_with(AtStep(step, interrupt), folder, **values)


def weights(setup: TrainingSetup) -> dict[str, Tensor]:
    return setup.training_module.state_dict()


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Names of what is not the same to the last bit."""
    assert ours.keys() == theirs.keys()
    return [name for name, value in ours.items() if not torch.equal(value, theirs[name])]


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def in_children(count: int, job: Callable[[], None], patience: float = PATIENCE) -> list[int | None]:
    """Exit codes of forked processes that all do the job, as processes of one run if there are several.

    Forked, since importing torch and transformers anew takes far longer than the jobs. A child that takes longer than
    `patience` seconds is killed and has the code None.
    """
    context = multiprocessing.get_context("fork")
    port = _free_port()
    children = [context.Process(target=_child, args=(rank, count, port, job)) for rank in range(count)]
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads; torch's sleep here.
        warnings.simplefilter("ignore", DeprecationWarning)
        for child in children:
            child.start()
    codes: list[int | None] = []
    for child in children:
        child.join(patience)
        codes.append(child.exitcode)
        if child.exitcode is None:
            child.kill()
            child.join()
    return codes


def _child(rank: int, count: int, port: int, job: Callable[[], None]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun sets it
    torch.set_num_threads(1)
    job()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
