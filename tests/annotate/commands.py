"""`annotate` as tests call it, and the files it has written."""

from __future__ import annotations

from pathlib import Path

from llava_grounding.annotate.write import FILES
from llava_grounding.cli.main import run


def annotate(*arguments: object) -> int:
    return run(["annotate", *map(str, arguments)])


def inputs(paths: dict[str, Path], kind: str = "captions") -> list[object]:
    return ["--instances", paths["instances"], f"--{kind}", paths[kind]]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
