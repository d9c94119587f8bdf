"""Batch files: out in order, back in any order, partial, twice, with errors, or of another run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_model import answer, completion, read_prompt
from miniature import captions, images, write

from llava_grounding.annotate import batch_files
from llava_grounding.annotate.assemble import Inputs, assemble
from llava_grounding.annotate.batch_files import import_batch, iter_batch_lines, write_batches
from llava_grounding.annotate.label_index import open_index
from llava_grounding.annotate.rounds import ModelSettings, StoredAnswers
from llava_grounding.endpoints.store import Store
from llava_grounding.errors import DataError

SETTINGS = ModelSettings("m")


def results(path: Path) -> list[dict[str, object]]:
    """What a service gives back for a batch file."""
    lines = []
    for line in path.read_text().splitlines():
        request = json.loads(line)
        body = request["body"]
        reply = completion(body, answer(*read_prompt(body), schema=True))
        lines.append(
            {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": reply}, "error": None}
        )
    return lines


def save(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_results_are_taken_once_whatever_the_service_makes_of_them(tmp_path: Path) -> None:
    paths = write(tmp_path / "in", 4)
    inputs = Inputs(paths["instances"], paths["captions"], "captions", images(tmp_path))
    index, store = open_index(paths["instances"], tmp_path), Store(tmp_path)

    def export(again: bool = False) -> list[tuple[Path, int]]:
        lines = iter_batch_lines(inputs.tasks(index), SETTINGS, store, again)
        return write_batches(lines, tmp_path / "batches", "m", store)

    ((path, count),) = export()
    assert (path.name, count) == ("batch-0001.jsonl", 8)
    assert export() == []
    lines = results(path)
    broken = [
        {**lines[0], "response": {"status_code": 429, "body": None}},
        {**lines[1], "response": None, "error": {"code": "batch_expired"}},
        {**lines[2], "response": {"status_code": 200, "body": {"choices": []}}},
    ]
    part = save(tmp_path / "part.jsonl", [lines[7], *broken, lines[3], lines[7]])
    taken = import_batch(part, store, "m")
    assert (taken.new, taken.known) == (2, 1)
    assert taken.failed == {"status 429": 1, "'batch_expired'": 1, "no message": 1}
    assert import_batch(part, store, "m").new == 0
    # What failed there goes into the next file; what is still out does not, unless it is wanted again.
    ((second, count),) = export()
    assert count == 3
    assert import_batch(save(tmp_path / "rest.jsonl", lines[::-1]), store, "m").new == 6
    assert import_batch(save(tmp_path / "late.jsonl", results(second)), store, "m").known == 3
    assert export(again=True) == []
    (tmp_path / "out").mkdir()
    manifest = assemble(inputs, index, StoredAnswers(store, SETTINGS), tmp_path / "out")
    assert (manifest["counts"]["accepted"], manifest["usage"]["requests"]) == (8, 8)
    index.close()
    store.close()


def test_a_file_of_another_run_is_named_and_nothing_of_it_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.exported({"known": "batch-0001.jsonl"}, "m")
    good = {
        "custom_id": "known",
        "response": {"status_code": 200, "body": completion({"messages": [], "model": "m"}, "x")},
    }
    path = save(tmp_path / "r.jsonl", [good, {**good, "custom_id": "foreign"}])
    with pytest.raises(DataError, match=r"r\.jsonl, line 2 answers request `foreign`, which was never written"):
        import_batch(path, store, "m")
    row = store.get("known")
    assert row is not None
    assert row.state == "batch"
    with pytest.raises(DataError, match=r"line 1 must be a result with `custom_id`, got \{'id': 3\}"):
        import_batch(save(tmp_path / "s.jsonl", [{"id": 3}]), store, "m")
    store.close()


@pytest.mark.parametrize("again", [False, True])
def test_a_text_that_comes_again_in_a_later_file_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    monkeypatch.setattr(batch_files, "MAX_REQUESTS", 2)
    paths = write(tmp_path / "in", 3)
    rows = captions(3)["annotations"]
    paths["captions"].write_text(json.dumps({"annotations": [*rows, *rows[::-1], *rows]}))
    store, index = Store(tmp_path), open_index(paths["instances"], tmp_path)
    tasks = Inputs(paths["instances"], paths["captions"], "captions", images(tmp_path)).tasks(index)
    written = write_batches(iter_batch_lines(tasks, SETTINGS, store, again), tmp_path / "out", "m", store)
    assert [count for _, count in written] == [2, 2, 2]
    index.close()
    store.close()


def test_a_batch_file_is_on_the_disk_before_its_requests_are_noted_and_half_a_one_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    fsync, folder = os.fsync, tmp_path / "out"

    def ending() -> Iterator[tuple[str, str]]:
        yield "00", "{}"
        raise RuntimeError("the source ends")

    store = Store(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_ino), fsync(handle))[1])
    monkeypatch.setattr(store, "exported", lambda keys, model: done.append(set(keys)))
    ((path, _),) = write_batches([("00", "{}")], folder, "m", store)
    assert done == [path.stat().st_ino, folder.stat().st_ino, {"00"}]
    with pytest.raises(RuntimeError, match="the source ends"):
        write_batches(ending(), folder, "m", store)
    assert list(folder.iterdir()) == [path]
    store.close()
