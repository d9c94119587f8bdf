"""The same work on a Dask cluster: batches go to its workers, each of which loads the model once.

Photos travel with their batch, so that workers need no disk of ours; as many are under way as keep all workers busy.
What a lost worker had is done again elsewhere; a photo that takes its workers with it is given up by itself. Needs the
extra `cluster`, and the same release of this package wherever workers run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llava_grounding.cluster.connection import connect
from llava_grounding.cluster.pieces import as_done
from llava_grounding.data.images import NoBytes
from llava_grounding.errors import DataError, LlavaGroundingError, missing_extra
from llava_grounding.labelling.labeller import Labeller, LabelSettings
from llava_grounding.labelling.labels import BrokenPhoto, Result
from llava_grounding.labelling.photos import Photo
from llava_grounding.labelling.run import Batch, LoadEngine, Work

if TYPE_CHECKING:
    from distributed import Client

_AHEAD = 2  # batches per thread of a worker that are under way, so that none waits for its next
_LOCK = threading.Lock()  # a model is used by one thread at a time


@dataclass(frozen=True)
class HeldBytes:
    """The encoded bytes of a photo, carried along."""

    data: bytes

    def __call__(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class _NoStamp:
    def __call__(self) -> str:
        return ""


def work_on_cluster(address: str, load: LoadEngine, settings: LabelSettings) -> Work:
    """Work for `run.label_rest` that a cluster does.

    Args:
        address: of its scheduler, as tcp://host:8786.
        load: sent to the workers, so it must be importable there.

    Raises:
        MissingExtraError: if Dask is not installed.
        UsageError: when it begins, if the scheduler cannot be reached, has no worker, or workers have another release.
    """
    if find_spec("distributed") is None:
        raise missing_extra("cluster", "working on a cluster")

    def work(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Sequence[Result]]]:
        with connect(address) as client:
            yield from _Sender(client, load, settings).results(batches)

    return work


class _Sender:
    """Keeps the workers busy with batches, and gets their results in whatever order they come."""

    def __init__(self, client: Client, load: LoadEngine, settings: LabelSettings) -> None:
        self._client = client
        self._load = load
        self._settings = settings

    def results(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Sequence[Result]]]:
        threads = sum(self._client.nthreads().values()) or 1
        for batch, future in as_done(self._client, self._submit, batches, _AHEAD * threads):
            yield batch, self._result(future, batch)

    def _submit(self, photos: Sequence[Photo]) -> Any:
        return self._client.submit(_label, self._load, self._settings, [_carried(one) for one in photos], pure=False)

    def _result(self, future: Any, batch: Batch) -> Sequence[Result]:
        """What came of a batch; where it was the end of several workers, each photo is tried by itself."""
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            if len(batch) > 1:
                return [self._result(self._submit([photo]), [photo])[0] for photo in batch]
            return [BrokenPhoto(batch[0].name, f"every worker that was given it was lost: {error.last_worker}")]
        except LlavaGroundingError:
            raise
        except Exception as error:  # whatever a worker or the way to it fails with
            raise DataError(
                f"the cluster failed: {type(error).__name__}: {error}; run the same command again"
            ) from error


def _carried(photo: Photo) -> Photo:
    """The photo with its bytes, or with why there are none."""
    try:
        return Photo(photo.name, HeldBytes(photo.read()), _NoStamp())
    except (LlavaGroundingError, MemoryError) as error:
        return Photo(photo.name, NoBytes(str(error)), _NoStamp())


def _label(load: LoadEngine, settings: LabelSettings, photos: Sequence[Photo]) -> list[Result]:
    """On a worker: label photos with a model that is loaded once."""
    with _LOCK:
        return _labeller(load, settings).label(photos)


@lru_cache(maxsize=1)
def _labeller(load: LoadEngine, settings: LabelSettings) -> Labeller:
    """The worker keeps its last model alone: another run's takes its place in memory."""
    return Labeller(load(), settings)
