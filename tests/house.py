"""What the tests of the house itself share: where things are, code blocks of pages, help texts as they are printed.

Run as a script it brings the help texts in docs/cli.md up to date (`make docs`).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "llava_grounding"
CLI_PAGE = ROOT / "docs" / "cli.md"
_LEFT_OUT = {".git", ".venv", ".venv-lowest", "demo", "runs", "shared", "build", "dist"}
_BLOCK = re.compile(r"((?:<!-- [^\n]*? -->\n)?)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HELP = re.compile(r"^```\n\$ llava-grounding(?P<command>[a-z -]*) --help\n.*?^```$", re.MULTILINE | re.DOTALL)
_HELP_COLUMNS = "80"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    note: str
    """The comment in the line above, such as `<!-- needs: model -->`, or nothing."""
    line: int
    """Of its first line in the page, from 1."""


def pages() -> list[Path]:
    """Every Markdown page of the repository."""
    return sorted(path for path in files() if path.suffix == ".md")


def files() -> Iterator[Path]:
    """Every file of the repository but caches, environments and what runs leave behind."""
    for entry in sorted(ROOT.iterdir()):
        if entry.is_file():
            yield entry
        elif entry.name not in _LEFT_OUT and not entry.name.endswith("_cache") and entry.name != ".hypothesis":
            yield from (path for path in sorted(entry.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[2], match[3], match[1].strip(), text.count("\n", 0, match.start(3)) + 1)
        for match in _BLOCK.finditer(text)
    ]


def help_text(*command: str) -> str:
    """What `llava-grounding COMMAND --help` prints, 80 columns wide."""
    from llava_grounding.cli.main import run

    printed = io.StringIO()
    with redirect_stdout(printed), mock.patch.dict(os.environ, {"COLUMNS": _HELP_COLUMNS}):
        run([*command, "--help"])
    return printed.getvalue()


def with_current_help(page: str) -> str:
    """The page with every block that begins with `$ llava-grounding ... --help` as it would be printed now."""

    def current(match: re.Match[str]) -> str:
        command = match["command"]
        return f"```\n$ llava-grounding{command} --help\n{help_text(*command.split())}```"

    return _HELP.sub(current, page)


if __name__ == "__main__":
    CLI_PAGE.write_text(with_current_help(CLI_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
