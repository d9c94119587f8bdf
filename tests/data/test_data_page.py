"""The page about data names every file of the room."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from house import PACKAGE, ROOT


def test_the_table_names_every_file_and_none_that_is_not_there() -> None:
    table = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("```")[0]
    named = re.findall(r"`([\w*]+\.py)`", table)
    files = {path.name for path in (PACKAGE / "data").glob("*.py")} - {"__init__.py"}
    assert [name for name in named if not any(fnmatch(file, name) for file in files)] == []
    assert {file for file in files if not any(fnmatch(file, name) for name in named)} == set()
