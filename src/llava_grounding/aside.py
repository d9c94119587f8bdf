"""Writing aside: what is written appears under its name when it is whole and on the disk, or not at all.

Whatever is written aside lies in a hidden folder that is gone afterwards, also when the process that wrote into it was
killed: the next one that writes there removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
_YOUNG = 10.0  # seconds in which a set that another machine writes may not have been locked yet


@contextmanager
def aside_folder(folder: Path, name: str) -> Iterator[Path]:
    """A hidden folder to write into, gone afterwards; those of processes that were killed are removed as well."""
    for path in folder.glob(f".{plain_name(name)}.*{PART}"):
        _remove_if_left(path)
    place = Path(tempfile.mkdtemp(prefix=f".{plain_name(name)}.{os.getpid()}.", suffix=PART, dir=folder))
    lock = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


@contextmanager
def file_aside(path: Path) -> Iterator[Path]:
    """A path to write a file at, which takes the place of `path` at the end; if the block raises, nothing changes."""
    with aside_folder(path.parent, path.name) as folder:
        yield folder / path.name
        put(folder / path.name, path)
    sync_folder(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with file_aside(path) as aside:
        aside.write_bytes(content)


def put(aside: Path, path: Path) -> None:
    """Rename a file that was written aside once the disk has it; its folder remains to be synchronised."""
    sync(aside)
    aside.replace(path)


def sync(path: Path) -> None:
    """Wait until the disk has a file: renamed before that, it could be empty after a failure of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has everything in a folder."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a failure of the machine, where the system can."""
    with suppress(OSError):
        sync(folder)


def _remove_if_left(path: Path) -> None:
    """Remove what a process was writing that no longer runs."""
    with suppress(OSError, LookupError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(handle).st_mtime > _YOUNG or not _runs(path.suffixes[-3][1:]):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(handle)


def _runs(process: str) -> bool:
    """Whether a process of this number runs here, which may not be where it was started."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:  # of somebody else
        return True
    return True


def plain_name(name: str) -> str:
    """A name without what `glob` would take for a pattern, short enough to be part of another."""
    return "".join(one if one.isalnum() or one in "-_." else "_" for one in name)[:40]


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def share(folder: Path) -> None:
    """Give the files of a folder the permissions of new ones: safetensors writes weights for their owner alone."""
    mode = 0o666 & ~umask()
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)
