"""Files that commands write: never over what they read, each whole, and a set of them exchanged as one.

`refuse_overwriting` and `check_out` are asked before any work is done, `write_files` writes; `exchanged_files` is for
what does not fit into memory.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from llava_grounding.aside import aside_folder, sync_folder, sync_tree, umask, write_file
from llava_grounding.errors import UsageError, quoted

Inputs = Iterable[tuple[str, str | os.PathLike[str]]]
"""What a command reads: what it is called, and its path."""
_PATH = 300  # characters a message shows of a path
_AT_FDCWD, _EXCHANGE = -100, 2


def given_path(text: str) -> Path:
    """A path from the command line.

    Raises:
        UsageError: if the text is empty, which would mean the working folder, or no path.
    """
    if not text.strip():
        raise UsageError("a path must not be empty; `.` is the working folder")
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise UsageError(f"no path can be called {quoted(text, _PATH)}")
    return Path(text)


def refuse_overwriting(inputs: Inputs, outputs: Iterable[Path]) -> None:
    """Refuse outputs that are, or hold, what a command reads, under whatever name.

    Compares what the paths lead to, so links, other spellings and upper and lower case count.

    Args:
        inputs: what each is called in the message, as "image", and its path; what is not there is passed over.
        outputs: what would be written or replaced, files or folders.

    Raises:
        UsageError: naming the output and the input.
    """
    written = {key: output for output in outputs if (key := _identity(output)) is not None}
    for what, path in inputs if written else ():
        output = next((written[key] for key in _identities(path) if key in written), None)
        if output is not None:
            raise UsageError(
                f"the output {quoted(str(output), _PATH)} would overwrite the {what} {quoted(str(path), _PATH)}; "
                f"give another place"
            )


def refuse_replacing_part(folders: Inputs, output: Path, is_earlier: Callable[[Path], bool]) -> None:
    """Refuse an output in the place of a file in a folder that is read, of which any may count.

    Args:
        folders: what each is called in the message, and its path; what is no folder is passed over.
        is_earlier: whether the file that is there is an earlier output.

    Raises:
        UsageError: naming the output.
    """
    for what, folder in folders:
        if output.exists() and Path(folder).resolve() in output.resolve().parents and not is_earlier(output):
            raise UsageError(
                f"the output {quoted(str(output), _PATH)} would overwrite a file of the {what}; give another place"
            )


def check_out(
    out: Path | None, names: Iterable[str] = (), inputs: Inputs = (), option: str = "--out", are_files: bool = True
) -> None:
    """Refuse an output folder that cannot be one, before any work is done.

    Args:
        option: which named it.
        names: what would be written or replaced in it.
        inputs: what is read; see `refuse_overwriting`.
        are_files: whether all that would be written are files, in whose place no folder may stand.

    Raises:
        UsageError: if the path or what stands at a name is of the wrong kind, the first folder above it that exists may
            not be written to, or an input would be overwritten.
    """
    if out is None:
        return
    said = quoted(str(out), _PATH)
    above = out
    try:
        while not above.exists() and not above.is_symlink() and above != above.parent:
            above = above.parent
        is_folder = above.is_dir()
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {said} cannot be a folder: {getattr(error, 'strerror', None) or error}") from error
    if not is_folder:
        raise UsageError(f"{option} must be a folder, but {quoted(str(above), _PATH)} is none")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {said} cannot be written: no permission in {quoted(str(above), _PATH)}")
    outputs = [out / name for name in names]
    for output in outputs if are_files else ():
        if output.is_dir():
            raise UsageError(f"{quoted(str(output), _PATH)} would be written, but is a folder; give another {option}")
    refuse_overwriting(inputs, outputs)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files or none; whatever ends the process, the older files and the newer ones never stand together.

    Everything is written aside and to the disk first. One file is then renamed. Of several, a folder that holds nothing
    else is exchanged as a whole, in one step where the file system can; in a folder with other things the older files
    are removed before the newer ones are put there, the first of them last: while it is missing there is no set.
    Folders that are missing are made, and removed again if writing fails; what a killed process left behind is removed.

    Raises:
        OSError: if something cannot be written.
    """
    for name in contents:  # before anything is removed
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if len(contents) == 1:
            folder.mkdir(exist_ok=True)
            ((name, content),) = contents.items()
            _write_one(folder / name, content)
        else:
            _write_set(folder, contents)
    except BaseException as error:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError) and error.strerror:  # of what was meant to be written, not of what is aside
            place = folder if len(contents) > 1 else folder / next(iter(contents))
            raise OSError(error.errno, error.strerror, str(place)) from error
        raise


def _write_one(path: Path, content: bytes) -> None:
    if path.exists() and not path.is_file():  # a device or a pipe takes what comes
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as file:
            os.set_blocking(file.fileno(), True)
            file.write(content)
        return
    write_file(path, content)


def _write_set(folder: Path, contents: Mapping[str, bytes]) -> None:
    with exchanged_files(folder, contents) as aside:
        for name, content in contents.items():
            (aside / name).write_bytes(content)


@contextmanager
def exchanged_files(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """A folder aside to write files into, which at the end take the place of those in `folder` as a set.

    As `write_files` puts several files in place, for what does not fit into memory. Of `names` those that were not
    written are removed from `folder`; the first is put there last. If the block raises, nothing changes.

    Raises:
        OSError: if something cannot be written; it names the folder where it names no file.
    """
    named = tuple(names)
    with _naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if _may_be_exchanged(folder, named):
            with aside_folder(folder.parent, folder.name) as aside:
                yield aside
                sync_tree(aside)
                if _exchange(aside, folder, named):
                    sync_folder(folder.parent)
                    return
                _replace_one_by_one(aside, folder, named)
            return
        folder.mkdir(exist_ok=True)
        with aside_folder(folder, named[0]) as aside:
            yield aside
            sync_tree(aside)
            _replace_one_by_one(aside, folder, named)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Errors of writing that name no file, as those of a full disk, name the folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(folder)
        raise


def _replace_one_by_one(aside: Path, folder: Path, names: Iterable[str]) -> None:
    """Remove the older files, then put the newer ones there, the first of them last."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for name in reversed(list(names)):
        if (aside / name).exists():
            (aside / name).replace(folder / name)
    sync_folder(folder)


def _may_be_exchanged(folder: Path, names: Collection[str]) -> bool:
    """Whether the folder is new, or our own with older files of the set and nothing else, and nobody stands in it."""
    if not os.access(folder.parent, os.W_OK | os.X_OK) or folder.is_symlink() or folder.name in ("", ".", ".."):
        return False
    if not folder.exists():
        return True
    if folder.samefile(Path.cwd()) or folder.is_mount() or folder.stat().st_uid != os.geteuid():
        return False
    return all(entry.name in names and entry.is_file() for entry in folder.iterdir())


def _exchange(new: Path, folder: Path, names: Iterable[str]) -> bool:
    """Put a folder in the place of an older one in one step; whether that could be done."""
    mode = folder.stat().st_mode if folder.exists() else 0o777 & ~umask()
    new.chmod(stat.S_IMODE(mode))
    try:
        new.rename(folder)  # nothing, or an empty folder, is replaced in one step everywhere
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            return False
    if not _swap(new, folder):
        return False
    for name in names:
        (new / name).unlink(missing_ok=True)
    for late in list(new.iterdir()):  # somebody put it there at the last moment
        if not (folder / late.name).exists():
            late.rename(folder / late.name)
    return True


def _swap(one: Path, other: Path) -> bool:
    """Exchange two paths in one step, where the system and the file system can."""
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):  # Linux
        return library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _EXCHANGE) == 0
    if hasattr(library, "renamex_np"):  # macOS
        return library.renamex_np(first, second, _EXCHANGE) == 0
    return False


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and number of what a path leads to; None if nothing is there."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _identities(path: str | os.PathLike[str]) -> Iterator[tuple[int, int]]:
    """Identities of what a path leads to and of all folders it lies in; none if nothing is there."""
    if _identity(path) is None:
        return
    real = Path(path).resolve()
    yield from filter(None, map(_identity, (real, *real.parents)))
