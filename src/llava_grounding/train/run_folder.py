"""The folder of a run: one run at a time, nothing of somebody else, and no leftovers of one that was killed.

Knows no model; what a checkpoint holds is the business of `checkpoint.py`.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from llava_grounding.aside import write_file
from llava_grounding.errors import UsageError
from llava_grounding.own_files import is_own, open_own
from llava_grounding.train.checkpoint import REMOVED, WRITING, checkpoints, numbered, recover, remove

try:
    import fcntl
except ImportError:  # only Unix has it; elsewhere nobody keeps a second run out
    fcntl = None  # type: ignore[assignment]

RECIPE_FILE = "recipe.json"
"""Every value of the run's recipe; what makes a folder the folder of a run."""
LOG_FILE = "log.jsonl"
_LOCK = ".lock"
_FOLDERS = ("best", "last", "pictures")
_RESULTS = (*_FOLDERS, LOG_FILE)
_MAX_RECIPE_BYTES = 2**24
_HOLDER = b"process "  # what the lock begins with
_held: set[int] = set()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while inside, and remove what a killed run has left half done.

    The lock is the operating system's: it ends with the process that holds it, however that ends.

    Raises:
        UsageError: if another run holds the folder, it is a file, or it has things in it that are not of a run.
            Links and pipes under the names of a run's files are such things: what they lead to is somebody else's.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"a run needs a folder for its results, and `{folder}` is a file; give another with --out")
    _check_own(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"a run needs a folder for its results, and `{folder}` cannot be made: {error.strerror or error}; give "
            f"another with --out"
        ) from error
    handle = _lock(folder)
    try:
        _tidy(folder)
        yield
    finally:
        if handle is not None:
            (folder / _LOCK).unlink(missing_ok=True)
            _held.discard(handle)
            os.close(handle)


def _check_own(folder: Path) -> None:
    """What is there would be written over, so it must be of a run."""
    folders = [*numbered(folder), *(folder / name for name in _FOLDERS)]
    strange = [path.name for path in folders if os.path.lexists(path) and (path.is_symlink() or not path.is_dir())]
    strange += [name for name in (RECIPE_FILE, LOG_FILE) if not _is_own_file(folder / name)]
    if strange:
        _refuse(folder, strange)
    try:
        values = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = [name for name in _RESULTS if (folder / name).exists()] + [one.name for one in checkpoints(folder)]
    except (OSError, ValueError, RecursionError):
        return  # damaged, and no loss
    else:
        of_run = isinstance(values, dict) and "stage" in values
        found = [] if of_run or (folder / LOG_FILE).exists() else [RECIPE_FILE]
    if found:
        _refuse(folder, found)


def _refuse(folder: Path, names: list[str]) -> NoReturn:
    raise UsageError(
        f"`{folder}` has {', '.join(names)} in it that no run wrote there, and a run would write over it; "
        f"give an empty folder with --out"
    )


def _is_own_file(path: Path) -> bool:
    """Whether a run may write to it: it is missing, or a file of this one name, and not too large for a recipe."""
    try:
        found = path.lstat()
    except OSError:
        return True
    small = path.name != RECIPE_FILE or found.st_size <= _MAX_RECIPE_BYTES
    return is_own(found) and small


def _lock(folder: Path) -> int | None:
    """A handle that holds the folder; None where files cannot be locked."""
    if fcntl is None:
        return None
    path = folder / _LOCK
    while True:
        handle = _open_lock(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip()
            os.close(handle)
            raise UsageError(
                f"another run{f' ({holder})' if holder else ''} writes to `{folder}`; wait for its end, or give "
                f"another folder with --out"
            ) from None
        except OSError:  # a file system without locks
            os.close(handle)
            return None
        try:
            if path.stat().st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # whoever held it removed it on the way out: this is no longer the folder's
    if os.pread(handle, len(_HOLDER), 0) not in (b"", _HOLDER):
        os.close(handle)
        _refuse(folder, [_LOCK])
    os.ftruncate(handle, 0)
    os.write(handle, _HOLDER + f"{os.getpid()} on {socket.gethostname()}\n".encode())
    _held.add(handle)
    return handle


def _open_lock(path: Path) -> int:
    """A handle of the file that is locked; never of one that is elsewhere too."""
    try:
        return open_own(path)
    except OSError as error:
        if error.errno == errno.EEXIST:
            _refuse(path.parent, [path.name])
        raise UsageError(
            f"a run holds its folder by `{path}`, which cannot be opened as a file: {error.strerror or error}; remove "
            f"it, or give another folder with --out"
        ) from error


def _forget() -> None:
    """Lets go of the folder in a forked child: a worker that outlives its run must not hold it."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _tidy(folder: Path) -> None:
    for name in ("best", "last"):
        recover(folder / name)
    for leftover in (folder / WRITING, *folder.glob(f".*{REMOVED}")):
        remove(leftover)
    _end_last_line(folder / LOG_FILE)


def _end_last_line(log: Path) -> None:
    """Drop half a line that a full disk has left, or the next one would be written behind it."""
    if log.is_file():
        with log.open("rb+") as file:
            file.seek(max(0, log.stat().st_size - 65_536))
            start, tail = file.tell(), file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(start + tail.rfind(b"\n") + 1)


def write_recipe(folder: Path, text: str) -> None:
    """Replace the recipe's values, whole or not at all."""
    write_file(folder / RECIPE_FILE, text.encode())
