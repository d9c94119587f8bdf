"""What is written aside: whose it is, and what is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_grounding import aside


def test_what_is_being_written_by_another_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "_YOUNG", 0.0)
    with aside.aside_folder(tmp_path, "folder") as first:
        with aside.aside_folder(tmp_path, "folder"):
            assert first.exists()
        assert first.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    def fail() -> None:
        with aside.file_aside(path) as new:
            new.write_bytes(b"half")
            raise RuntimeError("in the middle")

    path = tmp_path / "list.json"
    aside.write_file(path, b"old")
    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("list.json", b"old")]
