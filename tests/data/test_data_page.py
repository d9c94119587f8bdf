"""The page about data names every file of its rooms."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest

from house import PACKAGE, ROOT


@pytest.mark.parametrize("room", ["data", "data/readers", "data/readers/parts", "scenes", "dialogues", "language"])
def test_the_tables_name_every_file_and_none_that_is_not_there(room: str) -> None:
    tables = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("```")[0].split("|---|---|")
    heads = [re.findall(r"\| `?([\w/]+)`? \|[^|]*\|\n$", table)[-1] for table in tables[:-1]]
    table = tables[1 + heads.index({"data": "file"}.get(room, f"{room.removeprefix('data/')}/"))]
    named = re.findall(r"`([\w*]+\.py)`", table)
    files = {path.name for path in (PACKAGE / room).glob("*.py")} - {"__init__.py"}
    assert [name for name in named if not any(fnmatch(file, name) for file in files)] == []
    assert {file for file in files if not any(fnmatch(file, name) for name in named)} == set()
