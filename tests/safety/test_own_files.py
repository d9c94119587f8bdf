"""Files that a program keeps for itself beside its results: never written through a link, never waited for.

A folder may come from somebody else, with links in it to what its reader has, pipes, and files of other programs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llava_grounding.annotate.assemble import MANIFEST, read_manifest
from llava_grounding.annotate.batch_files import write_batches
from llava_grounding.benchmark.files import read_json_object, read_lines
from llava_grounding.benchmark.report import hash_weights
from llava_grounding.benchmark.runs import _part
from llava_grounding.endpoints.locking import locked
from llava_grounding.endpoints.store import STORE_FILE, Store
from llava_grounding.errors import DataError
from llava_grounding.labelling.progress import open_progress

TEXT = '{"images": []}'
LINKS: dict[str, Callable[[Path, Path], object]] = {
    "hard": os.link,
    "symbolic": lambda target, path: path.symlink_to(target),
}


@contextmanager
def store(path: Path) -> Iterator[None]:
    found = Store(path.parent)
    found.sending("key", "model")
    found.close()
    yield


WRITERS: dict[str, Callable[[Path], Any]] = {
    "lock": lambda path: locked(path.parent),
    STORE_FILE: store,
    f"{STORE_FILE}-wal": store,
    "shard-0.jsonl": _part,
    "labels.progress.jsonl": lambda path: open_progress(path, {"model": "nano"}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("link", LINKS)
def test_nothing_is_written_by_a_link(tmp_path: Path, name: str, link: str) -> None:
    victim = tmp_path / "instances.json"
    victim.write_text(TEXT)
    (tmp_path / "out").mkdir()
    LINKS[link](victim, tmp_path / "out" / name)
    with pytest.raises(DataError, match=f"{name} .*link"), WRITERS[name](tmp_path / "out" / name):
        pytest.fail("it was opened")
    assert victim.read_text() == TEXT
    os.unlink(tmp_path / "out" / name)  # noqa: PTH108
    with WRITERS[name](tmp_path / "out" / name):
        pass  # what is its own is written


@pytest.mark.parametrize("name", [one for one in WRITERS if one != f"{STORE_FILE}-wal"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError, match=name), WRITERS[name](tmp_path / name):
        pytest.fail("it was opened")


def test_a_link_that_stands_aside_is_replaced(tmp_path: Path) -> None:
    """Batch files are written under a name of which a reader of the folder knows beforehand."""

    class Noted:
        def exported(self, rows: Any, model: str) -> None:
            """Nothing to keep."""

    victim = tmp_path / "instances.json"
    victim.write_text(TEXT)
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches/.batch-0001.jsonl.part").symlink_to(victim)
    ((path, count),) = write_batches([("key", "{}")], tmp_path / "batches", "model", Noted())  # type: ignore[arg-type]
    assert (path.read_text(), count, victim.read_text()) == ("{}\n", 1, TEXT)


def test_somebody_s_own_file_is_no_progress_file(tmp_path: Path) -> None:
    """A file of one line, which looks like the half line of a process that was killed."""
    path = tmp_path / "notes.txt"
    path.write_text("notes of mine")
    with pytest.raises(DataError, match=r"notes\.txt is no progress file"), open_progress(path, {}):
        pytest.fail("it was opened")
    assert path.read_text() == "notes of mine"
    for half in ("", '{"llava', '{"llava_grounding_labels": 1, "sett'):
        path.write_text(half)
        with open_progress(path, {}):
            pass


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "read",
    [
        lambda path: list(read_lines(path)),
        read_json_object,
        lambda path: read_manifest(path.parent),
        lambda path: hash_weights(path.parent),
    ],
    ids=["lines", "object", "manifest", "weights"],
)
def test_nobody_waits_for_a_pipe(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    for name in (MANIFEST, "model.safetensors"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="no regular file"):
        read(tmp_path / MANIFEST)


def test_a_manifest_that_is_nested_deep_is_damaged(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 200_000)
    with pytest.raises(DataError, match="holds no finished annotations"):
        read_manifest(tmp_path)
