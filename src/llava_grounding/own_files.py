"""Files that are kept and written on, such as locks, stores and lists of progress.

Never by a link, which may lead to what somebody else has.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_own(path: Path) -> int:
    """A handle of a file to read and write, made where it is missing.

    Raises:
        OSError: if it cannot be opened, or is no file of this one name alone: what is written would be elsewhere too.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not is_own(os.fstat(handle)):
        os.close(handle)
        raise OSError(errno.EEXIST, "it is a link to something else, or no file", str(path))
    return handle


def is_own(found: os.stat_result) -> bool:
    """Whether something is a file of one name alone; of a path, as `lstat` tells of it."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink <= 1
