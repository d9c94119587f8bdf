"""Labelling on a Dask cluster: the same file as here, also when a worker is killed while it works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_up_model import MadeUpModel, photo_bytes

from llava_grounding.cli.label import label as label_command
from llava_grounding.cluster import connection
from llava_grounding.errors import UsageError
from llava_grounding.labelling import cluster
from llava_grounding.labelling.labeller import LabelSettings
from llava_grounding.labelling.photos import find_photos
from llava_grounding.labelling.progress import open_progress
from llava_grounding.labelling.run import label_rest

distributed = pytest.importorskip("distributed")


class LoadDying:
    """Loads a model that kills its process once, with the first photo that has a black corner."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self) -> MadeUpModel:
        return MadeUpModel(die_once=str(self.flag))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoadDying) and other.flag == self.flag

    def __hash__(self) -> int:
        return hash(self.flag)


@contextmanager
def two_workers() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler in this process, and two workers that nobody starts again."""
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with distributed.LocalCluster(n_workers=0, processes=True, dashboard_address=":0", silence_logs=50) as local:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", local.scheduler_address, *options]
        workers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        try:
            with distributed.Client(local, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
            yield local.scheduler_address, workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait(30)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_that_loses_a_worker_gives_the_same_file(
    model: MadeUpModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, flag = tmp_path / "photos", tmp_path / "died"
    photos.mkdir()
    for number in range(11):
        corner = (0, 0, 0) if number == 5 else (90, 90, 90)
        (photos / f"{number:02}.png").write_bytes(photo_bytes(number, corner))
    (photos / "broken.png").write_bytes(b"nothing")
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    label_command(photos, here, "jsonl", class_=["dog"], batch_size=3)
    settings = LabelSettings(("dog",))
    with two_workers() as (address, workers):
        work = cluster.work_on_cluster(address, LoadDying(flag), settings)
        found, told = find_photos(photos), []
        about = {"model": "nano", **settings.to_dict()}
        with open_progress(there.with_name("there.jsonl.progress.jsonl"), about) as progress:
            label_rest(found, 3, progress, work, told.extend)
        assert sorted(str(worker.poll()) for worker in workers) == ["-9", "None"]  # one was killed with its batch
        monkeypatch.setattr(connection, "__version__", "0.0.0")
        with pytest.raises(UsageError, match=r"^workers must have llava-grounding 0\.0\.0, got "):
            list(work(iter([found[:1]])))
    assert flag.exists()
    assert len(told) == len(found) == 12
    label_command(photos, there, "jsonl", class_=["dog"], batch_size=3)
    assert there.read_bytes() == here.read_bytes()
    assert sum(model.batches) == 11  # of the first file alone
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match=r"^no Dask scheduler answers at `tcp://127\.0\.0\.1:9`: "):
        list(cluster.work_on_cluster("tcp://127.0.0.1:9", LoadDying(flag), settings)(iter([found])))
