"""Lines of a dialogue, from a terminal or a pipe. A line that is no text costs that line, in every locale."""

from __future__ import annotations

import sys
from typing import IO

from llava_grounding.errors import UsageError

MAX_BYTES = 2**20
"""Bytes of one line at most."""
_MARK = b"\xef\xbb\xbf"  # a byte order mark, as some editors put in front of UTF-8


class Lines:
    """Standard input, line by line.

    Attributes:
        interactive: whether a person types them; there is a prompt then, and a history.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        self._first = True
        if self.interactive:
            import readline  # noqa: F401  makes input() editable, with a history

    def next(self) -> str:
        """The next line without white space around it.

        Raises:
            EOFError: if there is none.
            UsageError: if it is too long, or no text; the one behind it can be read all the same.
        """
        if self.interactive:
            try:
                return input("> ").strip()
            except UnicodeDecodeError as error:
                raise UsageError("the line is not UTF-8 text; it is left out") from error
        stream: IO[bytes] | None = getattr(sys.stdin, "buffer", None)
        line = sys.stdin.readline(MAX_BYTES + 1).encode() if stream is None else stream.readline(MAX_BYTES + 1)
        if not line:
            raise EOFError
        first, self._first = self._first, False
        if len(line) > MAX_BYTES and not line.endswith(b"\n"):
            _skip_rest(stream)
            raise UsageError(f"a line must have at most {MAX_BYTES // 2**20} MiB; it is left out")
        return _decoded(line.removeprefix(_MARK) if first else line).strip()


def _skip_rest(stream: IO[bytes] | None) -> None:
    while stream is not None and (more := stream.readline(MAX_BYTES)):
        if more.endswith(b"\n"):
            return


def _decoded(line: bytes) -> str:
    """The line decoded as UTF-8, else as the locale has it."""
    for encoding in ("utf-8", getattr(sys.stdin, "encoding", None) or "utf-8"):
        try:
            return line.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    raise UsageError("the line is not UTF-8 text; it is left out")
