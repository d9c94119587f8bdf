"""Asking a whole set, whatever happens: a folder of predictions that the same command resumes.

Samples are asked in blocks, always the same ones, so answers do not depend on where a run was ended, on how many
processes share the work, or on which machine does a block. A block is one line of `parts/`, written when it is done;
when all are there they become `predictions.jsonl`, in the order of the set. Knows no metric.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import llava_grounding
from llava_grounding.benchmark.about import AboutSet
from llava_grounding.benchmark.files import as_json, read_json_object, read_lines, write_aside
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.systems import System, SystemSpec, load_system
from llava_grounding.benchmark.tasks import Task, find_task
from llava_grounding.cluster.pieces import map_pieces
from llava_grounding.errors import DataError, UsageError, shown
from llava_grounding.own_files import open_own

CONFIG, PREDICTIONS, PARTS = "config.json", "predictions.jsonl", "parts"
RUN_VERSION = 1
_LIBRARIES = ("torch", "transformers", "numpy", "pillow")

OnProgress = Callable[[int, int], None]
Block = tuple[BenchmarkSample, ...]


@dataclass(frozen=True)
class Rank:
    """Which process of how many this is, as a launcher numbers them: it does every `count`-th block."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(f"a rank must be 0 to {self.count - 1} of {self.count}, got {self.index}")

    @classmethod
    def of_launcher(cls) -> Rank:
        """The rank that `torchrun` says; the only one where nothing does."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@dataclass(frozen=True)
class ClusterPiece:
    """A block with all that a worker needs to answer it.

    Args:
        rows: the samples as plain data.
        key_variable: environment variable of the worker that holds the key of an endpoint.
    """

    spec: SystemSpec
    task: str
    rows: tuple[Mapping[str, Any], ...]
    key_variable: str = ""


def answer_piece(piece: ClusterPiece) -> list[dict[str, Any]]:
    """Predictions of a block as plain data; the system is loaded once in a process."""
    system = load_system(piece.spec, os.environ.get(piece.key_variable, "none") if piece.key_variable else "none")
    block = tuple(BenchmarkSample.from_dict(row) for row in piece.rows)
    return [one.to_dict() for one in answer_block(system, find_task(piece.task), block)]


def answer_block(system: System, task: Task, block: Block) -> list[Prediction]:
    """Predictions of samples that are asked together, one each."""
    found = system.answer([(sample, task.ask(sample)) for sample in block])
    if [one.id for one in found] != [sample.id for sample in block]:
        raise DataError("a system must give one prediction per sample, in order")
    return found


def resolved_config(samples: SampleSet, spec: SystemSpec, block_size: int) -> dict[str, Any]:
    """All that decides the answers, as it is kept beside them."""
    return {
        "run_version": RUN_VERSION,
        "task": samples.task,
        "set": asdict(AboutSet.of(samples)),
        "system": spec.about(),
        "block_size": block_size,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of what it computes with."""
    found = {"llava-grounding": llava_grounding.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


class Run:
    """A run in a folder.

    Args:
        folder: made where it is missing.
        block_size: samples that are asked together.

    Raises:
        UsageError: if the folder holds a run of another configuration.
        DataError: if it cannot be written.
    """

    def __init__(self, folder: Path, samples: SampleSet, spec: SystemSpec, block_size: int = 1) -> None:
        if block_size < 1:
            raise UsageError(f"block size must be 1 or more, got {block_size}")
        self.folder, self.samples, self.spec = folder, samples, spec
        rows = samples.samples
        self.blocks: list[Block] = [rows[start : start + block_size] for start in range(0, len(rows), block_size)]
        self.config = resolved_config(samples, spec, block_size)
        path = folder / CONFIG
        if path.exists():
            _check_same(read_json_object(path), self.config, folder)
        else:
            write_aside(path, as_json(self.config, indent=2).encode())

    @property
    def is_done(self) -> bool:
        return (self.folder / PREDICTIONS).exists()

    def work(
        self, system: System, rank: Rank | None = None, on_progress: OnProgress = lambda done, total: None
    ) -> bool:
        """Ask what is missing of the blocks of a process; whether the whole run is done."""
        rank = rank or Rank()
        mine = [number for number in self.missing() if number % rank.count == rank.index]
        task = find_task(self.samples.task)
        answers = (
            (number, [one.to_dict() for one in answer_block(system, task, self.blocks[number])]) for number in mine
        )
        return self._take(answers, f"shard-{rank.index}", len(mine), on_progress)

    def work_on_cluster(
        self, address: str, key_variable: str = "", on_progress: OnProgress = lambda done, total: None
    ) -> bool:
        """Have what is missing asked by the workers of a Dask scheduler."""
        pieces = {
            number: ClusterPiece(
                self.spec, self.samples.task, tuple(one.to_dict() for one in self.blocks[number]), key_variable
            )
            for number in self.missing()
        }
        return self._take(map_pieces(address, answer_piece, pieces), "cluster", len(pieces), on_progress)

    def missing(self) -> list[int]:
        """Blocks that nobody has answered."""
        if self.is_done:
            return []
        done = self._done()
        return [number for number in range(len(self.blocks)) if number not in done]

    def _take(
        self, answers: Iterator[tuple[int, list[dict[str, Any]]]], name: str, count: int, on_progress: OnProgress
    ) -> bool:
        if count:
            with _part(self.folder / PARTS / f"{name}.jsonl") as part:
                on_progress(0, count)
                for done, (number, predictions) in enumerate(answers, start=1):
                    part.write(as_json({"block": number, "predictions": predictions}).encode())
                    part.flush()
                    on_progress(done, count)
        return self._finish()

    def _done(self) -> dict[int, list[Any]]:
        """Predictions by block; of a block that two have done the first counts, they are the same."""
        done: dict[int, list[Any]] = {}
        for path in sorted((self.folder / PARTS).glob("*.jsonl")):
            for _, value in read_lines(path):
                if not isinstance(value, Mapping):
                    continue  # the last line of a process that was killed
                number, predictions = value.get("block"), value.get("predictions")
                if isinstance(number, int) and 0 <= number < len(self.blocks) and isinstance(predictions, list):
                    done.setdefault(number, predictions)
        return done

    def _finish(self) -> bool:
        if self.is_done:
            return True
        done = self._done()
        if len(done) < len(self.blocks):
            return False
        lines = [as_json(one) for number in range(len(self.blocks)) for one in done[number]]
        write_aside(self.folder / PREDICTIONS, "".join(lines).encode())
        for path in (self.folder / PARTS).glob("*.jsonl"):
            path.unlink(missing_ok=True)
        return True


@contextmanager
def _part(path: Path) -> Iterator[BinaryIO]:
    """A file to append lines to, without the torn one that a killed process left at its end.

    Raises:
        DataError: if another process writes it, or it is no file of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = open_own(path)
    except OSError as error:
        raise DataError(f"{path} must be a file of this run: {error.strerror or error}; remove it") from error
    with os.fdopen(handle, "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another process is writing {path}; give each its own RANK, or wait") from error
        stream.seek(0)
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)
        stream.seek(0, os.SEEK_END)
        yield stream


def _check_same(there: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    differs = sorted(_differences(there, wanted))
    if differs:
        raise UsageError(
            f"{folder} holds a run of another configuration ({', '.join(differs[:5])}); give another --out, or the "
            "same options as before"
        )


def _differences(there: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*there, *wanted}):
            yield from _differences(there.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif there != wanted:
        yield f"{name} was {shown(there)}, is {shown(wanted)}"
