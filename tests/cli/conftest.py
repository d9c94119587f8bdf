"""A fake engine in place of the model, and a picture to ask it about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import SIZE, FakeEngine, Result
from PIL import Image

from llava_grounding.cli import common, main
from llava_grounding.image_files import ImageLimits


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()

    def load(model: str | None, device: str | None, limits: ImageLimits) -> FakeEngine:
        fake.loaded_with, fake.limits = (model, device), limits
        return fake

    monkeypatch.setattr(common, "load_engine", load)
    return fake


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as stopped:
            main.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Result(stopped.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", SIZE, (90, 120, 150)).save(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "results" / "first"
