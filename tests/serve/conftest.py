"""A server for the tests of a room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_server import Live, serving


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """A server for all tests of a file that leave it as it was; gone before tests of other files fork the process."""
    with serving() as server:
        yield server
