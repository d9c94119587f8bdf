"""A folder of photos, and the command with a made-up model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_model import MadeUpModel, photo_bytes

from llava_grounding.cli import common, main


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> MadeUpModel:
    made_up = MadeUpModel()
    monkeypatch.setattr(common, "load_engine", lambda *_: made_up)
    return made_up


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos in three folders, of which two cannot be read."""
    folder = tmp_path / "photos"
    (folder / "b" / "c").mkdir(parents=True)
    names = ["a.png", "b/1.webp", "b/2.PNG", "b/c/ünï & <b>.png", "z.png"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(photo_bytes(number, kind="WEBP" if name.endswith("webp") else "PNG"))
    (folder / "b" / "broken.jpg").write_bytes(b"no photo at all")
    (folder / "cut.png").write_bytes(photo_bytes(0)[:90])
    (folder / ".hidden.png").write_bytes(photo_bytes(0))
    (folder / "notes.txt").write_text("nothing to see")
    return folder


@pytest.fixture
def label(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `label` in this process; gives the exit code, stdout and stderr."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main.main(["label", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(str(stopped.value.code)), captured.out, captured.err

    return run
