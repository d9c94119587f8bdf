"""A server for the tests of a room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_server import Live, serving


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """A server for all tests that leave it as it was."""
    with serving() as server:
        yield server
