"""Files that somebody else names, read only if they lie in allowed folders; links are followed, then judged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from llava_grounding.errors import ImageError, quoted


class AllowedFolders:
    """The only folders from which named pictures are read.

    Args:
        folders: they must exist; what they are links to counts.
        called: what messages call them.

    Raises:
        OSError: if one does not exist.
    """

    def __init__(self, folders: Sequence[Path], called: str = "the allowed folders") -> None:
        self.folders = tuple(Path(os.path.realpath(folder, strict=True)) for folder in folders)
        self._called = called

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of a picture.

        Args:
            name: a path, absolute or below one of the folders.
            max_bytes: a file that is larger is refused before it is read.

        Raises:
            ImageError: if there is no such file in them, in the same words whether it is elsewhere or nowhere, or it is
                too large.
        """
        refused = ImageError(f"there is no picture {quoted(name)} in {self._called}")
        for folder in self.folders:
            try:
                real = os.path.realpath(folder / name, strict=True)
                if not Path(real).is_relative_to(folder):
                    continue
                number = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                with os.fdopen(number, "rb") as stream:
                    return self._read(stream.fileno(), real, name, max_bytes)
            except (OSError, ValueError):
                continue
        raise refused

    def _read(self, number: int, real: str, name: str, max_bytes: int) -> bytes:
        status = os.fstat(number)
        # A folder on the way may have become a link between the two steps.
        if os.path.realpath(real, strict=True) != real or not os.path.samestat(status, os.stat(real)):  # noqa: PTH116
            raise OSError("the file was exchanged while it was opened")
        if not os.path.isfile(real):  # noqa: PTH113
            raise OSError("it is no regular file")
        if status.st_size > max_bytes:
            raise ImageError(f"{quoted(name)} has more than the {max_bytes / 1e6:g} MB allowed")
        with os.fdopen(os.dup(number), "rb") as stream:
            return stream.read(max_bytes + 1)
