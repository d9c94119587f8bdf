"""One process at a time works on a store; the system gives the lock back however a process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_grounding.errors import DataError
from llava_grounding.own_files import open_own

_LOCK = "lock"


@contextmanager
def locked(folder: Path, otherwise: str = "") -> Iterator[None]:
    """Hold the lock of a folder.

    Args:
        otherwise: what to do but wait, for the message.

    Raises:
        DataError: if another process holds it, or it is no file of its own.
    """
    try:
        handle = open_own(folder / _LOCK)
    except OSError as error:
        raise DataError(
            f"{folder / _LOCK} must be a file that nothing else is in: {error.strerror or error}; remove it"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            raise DataError(
                f"another process ({owner}) works in {folder.parent}; wait for it{otherwise and f', or {otherwise}'}"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
