"""Command lines that nobody should type: each ends at once, with an exit code and one sentence, or is answered."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import SIZE, FakeEngine, Result
from PIL import Image

Call = Callable[..., Result]
LONG = "n" * 300
DONE, FAILED, WRONG = 0, 1, 2
ASK = ["chat", "p.png", "What?"]
POINT = ["chat", "p.png", "What is <region>?"]
DRAW = ["render", "a.json", "p.png"]
LINES: list[tuple[list[str], int, str]] = [
    ([*ASK, "--out", "/dev/full"], WRONG, "--out must be a folder, but `/dev/full` is none"),
    ([*ASK, "--out", "loop"], WRONG, "--out must be a folder, but `loop` is none"),
    ([*ASK, "--out", "dangling"], WRONG, "--out must be a folder, but `dangling` is none"),
    ([*ASK, "--out", "dangling/x"], WRONG, "--out must be a folder, but `dangling` is none"),
    ([*ASK, "--out", "p.png/x"], WRONG, "--out must be a folder, but `p.png` is none"),
    ([*ASK, "--out", LONG], WRONG, "cannot be a folder: File name too long"),
    ([*ASK, "--out", "a/" * 3000], WRONG, "cannot be a folder: File name too long"),
    ([*ASK, "--out", "\ud800"], WRONG, r"no path can be called `\ud800`"),
    ([*ASK, "--out", "a\0b"], WRONG, r"no path can be called `a\x00b`"),
    ([*ASK, "--out", "нова 文件夹 🌞"], DONE, "Written to нова 文件夹 🌞"),
    ([*ASK, "--out", "-"], DONE, "Written to -"),
    (["chat", "p.png", "?" * 10**6], DONE, ""),
    (["chat", "p.png", "\ud800"], WRONG, "text must be valid Unicode"),
    (["chat", "p\0.png", "What?"], WRONG, "embedded null byte"),
    (["chat", "pipe.png", "What?"], WRONG, "is not a regular file"),
    (["chat", "/dev/zero", "What?"], WRONG, "is not a regular file"),
    (["chat", "folder.png", "What?"], WRONG, "is a folder"),
    (["chat", "loop", "What?"], WRONG, "Too many levels of symbolic links"),
    (["chat", LONG, "What?"], WRONG, "File name too long"),
    (["chat", "", "What?"], WRONG, "the image path is empty"),
    (["chat", "-p.png", "What?"], WRONG, "No such option: -p"),
    (["chat", "--", "-p.png", "What?"], DONE, ""),
    ([*POINT, "--click", f"{'1' * 5000},1"], WRONG, "a click must have finite coordinates"),
    ([*POINT, "--click", "1,2,3"], WRONG, "--click must be X,Y"),
    ([*POINT, "--box", "x" * 10**6], WRONG, "--box must be X0,Y0,X1,Y1 as in `10,20,90,200`, in pixels, got `xxx"),
    ([*POINT, "--mask", "pipe.png"], WRONG, "is not a regular file"),
    ([*POINT, "--mask", "a.json"], WRONG, "is not an image"),
    ([*ASK, "--max-new-tokens", "9" * 5000], WRONG, "'--max-new-tokens'"),
    ([*ASK, "--temperature", "nan"], WRONG, "'--temperature'"),
    ([*ASK, "--seed", "1" * 5000], WRONG, "'--seed'"),
    ([*ASK, "--seed", "-1"], WRONG, "'--seed'"),
    (["ground", "p.png", ""], WRONG, "a phrase to ground must not be empty"),
    (["ground", "p.png", *["sun"] * 500], DONE, ""),
    (["ground", "p.png", "<seg>" + "x" * 10**6], WRONG, "a phrase to ground must hold no special tokens"),
    (["ground", "p.png", "-x"], WRONG, "No such option: -x"),
    (["ground", "--", "p.png", "-x"], DONE, ""),
    ([*DRAW, "/dev/full"], WRONG, "the output must end in .png or .html, got `full`"),
    ([*DRAW, ""], WRONG, "a path must not be empty"),
    ([*DRAW, "folder.png"], WRONG, "is a folder; expected a file"),
    ([*DRAW, f"{LONG}.png"], FAILED, "File name too long"),
    ([*DRAW, "no/out.png"], WRONG, "the folder `no` does not exist; make it first"),
    ([*DRAW, "pipe.png"], FAILED, "No such device or address `pipe.png`"),
    ([*DRAW, "out.png", "extra"], WRONG, "unexpected extra argument"),
    (["render", "pipe.png", "p.png", "out.png"], WRONG, "is a device or a pipe; give a file, or - for standard input"),
    (["render", "/dev/zero", "p.png", "out.png"], WRONG, "is a device or a pipe"),
    (["render", "deep.json", "p.png", "out.png"], FAILED, "an answer must have version 1"),
    (["render", "large.json", "p.png", "out.png"], FAILED, "version 1, got [['xxxxxxxxxxxxxx"),
    (["render", "number.json", "p.png", "out.png"], FAILED, "does not hold JSON"),
    (["render", "steering.json", "p.png", "out.png"], FAILED, r"got '\ud800\x1b[31m'"),
    (["render", "p.png", "a.json", "out.png"], FAILED, "does not hold JSON"),
    (["render", "-", "p.png", "out.png"], FAILED, "`-` does not hold JSON"),
    (["label", "folder.png", "--out", "x", "--classes", "pipe.png"], WRONG, "`pipe.png`: it is no regular file"),
    (["label", "folder.png", "--out", "x", "--classes", "/dev/zero"], WRONG, "`/dev/zero`: it is no regular file"),
    (
        ["label", "folder.png", "--out", "x", "--classes", "no"],
        WRONG,
        "file of classes `no`: No such file or directory",
    ),
    (["label", "pipe.png", "--out", "x"], WRONG, "a tar or a zip, but pipe.png is a device or a pipe"),
    (["label", "no.zip", "--out", "x"], WRONG, "a tar or a zip, but nothing is at no.zip"),
    (["data", "pipe.png"], FAILED, "expected a file or a folder, but pipe.png is a device or a pipe"),
    (
        ["annotate", "run", "--instances", "pipe.png", "--captions", "a.json", "--out", "x"],
        WRONG,
        "pipe.png is a device or a",
    ),
    (
        ["annotate", "run", "--instances", "a.json", "--captions", "folder.png", "--out", "x"],
        WRONG,
        "folder.png is a folder",
    ),
    (["train", "pipe.png", "--check"], WRONG, "is no file, but a device or a pipe; give a file"),
    (["convert"], WRONG, "Missing command"),
    (["convert", "nope"], WRONG, "No such command 'nope'"),
    (["doctor", "extra"], WRONG, "unexpected extra argument"),
    (["benchmark", "x"], WRONG, "'x' is not one of 'scenes', 'photos'"),
    (["benchmark", "scenes", "--limit", "0"], WRONG, "'--limit'"),
    ([""], WRONG, "No such command"),
    (["--"], WRONG, "Missing command"),
    (["x" * 10**6], WRONG, "No such command"),
]


@pytest.fixture
def place(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder full of traps."""
    monkeypatch.chdir(tmp_path)
    for name in ("p.png", "-p.png"):
        Image.new("RGB", SIZE, "orange").save(tmp_path / name)
    answer = engine.ask(Image.new("RGB", SIZE), "What?").to_dict()
    engine.asked.clear()
    contents = {
        "a.json": json.dumps(answer),
        "deep.json": "[" * 900 + "]" * 900,
        "large.json": json.dumps({"version": [["x" * 10**6] * 5]}),
        "number.json": f'{{"version": 1{"0" * 10_000}}}',
        "steering.json": '{"version": "\\ud800\\u001b[31m"}',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    os.mkfifo("pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    return tmp_path


@pytest.mark.parametrize(("arguments", "code", "words"), LINES, ids=range(len(LINES)))
def test_it_ends_with_an_exit_code_and_one_sentence(
    call: Call, place: Path, arguments: list[str], code: int, words: str
) -> None:
    before = sorted(path.name for path in place.iterdir())
    start = time.process_time()
    result = call(*arguments)
    assert time.process_time() - start < 20
    assert result.code == code, result
    assert words in result.err
    assert "unexpected" not in result.err.replace("unexpected extra argument", "")
    assert len(result.err) < 6000
    if code != DONE:
        assert result.out == ""
        assert result.err.startswith("Error: ")
        assert result.err.count("\n") == 1
        assert sorted(path.name for path in place.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(call: Call, place: Path) -> None:
    (place / "locked").mkdir(mode=0o500)
    for out in ("locked", "locked/new"):
        result = call(*ASK, "--out", out)
        assert (result.code, result.out) == (2, "")
        assert "no permission in `locked`" in result.err
