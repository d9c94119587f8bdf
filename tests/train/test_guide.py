"""The guide from a COCO file to a model of one's own: every command of it, in order, on a few drawn scenes."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from llava_grounding.checkpoints import EMBEDDED_MODEL, find_checkpoint
from llava_grounding.cli.main import run
from llava_grounding.errors import LlavaGroundingError

ROOT = Path(__file__).parents[2]
QUICK = ["steps=2", "batch_size=2", "save_steps=2", "eval_steps=2", "logging_steps=1", "workers=0", "pictures=1"]


def commands() -> list[list[str]]:
    """The indented lines of the guide's first part."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    part = text.partition("## From a COCO file")[2].partition("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    (\S.*)$", part, re.MULTILINE)]


@pytest.fixture
def needs_nano() -> None:
    try:
        find_checkpoint(EMBEDDED_MODEL)
    except LlavaGroundingError:
        pytest.skip("the embedded model is not in this checkout")


@pytest.mark.slow
@pytest.mark.usefixtures("needs_nano")
def test_every_command_of_the_guide_works_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    ran = []
    for words in commands():
        program, *arguments = words
        ran.append(arguments[0])
        if program == "python":
            monkeypatch.setattr(sys, "argv", [arguments[0], arguments[1], "6"])
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
            continue
        assert program == "llava-grounding"
        assert run([*arguments, *(QUICK if arguments[0] == "train" else [])]) == 0, (words, capsys.readouterr().err)
    assert ran == ["examples/write_data_set.py", "train", "train", "train", "chat"]
    said = capsys.readouterr().out
    assert "own data: ok" in said
    assert "parameters are trainable" in said
    assert {path.name for path in (tmp_path / "runs/mine").iterdir()} >= {"best", "last", "pictures", "log.jsonl"}
    assert list((tmp_path / "runs/mine/pictures").glob("step_*/0.png"))
