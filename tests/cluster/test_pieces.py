"""Pieces of work on two worker processes of 127.0.0.1, one of which is killed."""

from __future__ import annotations

import os
import signal

import pytest

from llava_grounding.cluster.pieces import map_pieces
from llava_grounding.errors import UsageError

distributed = pytest.importorskip("distributed")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
def test_the_pieces_of_a_worker_that_is_killed_are_done_again() -> None:
    def work(piece: int) -> tuple[int, int]:
        import os
        import time

        time.sleep(0.05)
        return piece * piece, os.getpid()

    pieces = {number: number + 1 for number in range(30)}
    found: dict[int, int] = {}
    workers = set()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        victim = cluster.workers[0].pid
        for number, (result, worker) in map_pieces(cluster.scheduler_address, work, pieces, at_once=8):
            if len(found) == 3:
                os.kill(victim, signal.SIGKILL)
            assert number not in found
            found[number] = result
            workers.add(worker)
    assert found == {number: (number + 1) ** 2 for number in range(30)}
    assert len(workers) >= 2


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_grounding.cluster.connection._CONNECT_SECONDS", 0.2)
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        next(map_pieces("tcp://127.0.0.1:1", abs, {0: 1}))
