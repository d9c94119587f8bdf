"""The way to the terminal: whatever is written there, nothing that a file or a model says can steer it.

`printable` is what every text passes: what commands say (`report`), log records, warnings and tracebacks. Standard
streams that are closed or cannot be written to are as if they were the null device.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any, TextIO

from llava_grounding.errors import STAND_IN, cut_short, printable_character

MAX_LINE = 4000
"""Characters of a log record or a warning, and of an error."""
_NULL: list[IO[Any]] = []  # what stands for streams that were closed
# Marks, embeddings, overrides and isolates: they turn the direction of what stands beside them.
_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# What JSON may hold as it is, yet a terminal may obey: DEL, C1 controls, separators, directions.
_IN_JSON = re.compile(rf"[\x7f-\x9f\u2028\u2029]|{_DIRECTIONS.pattern}")


def printable(text: str) -> str:
    """The text with a stand-in for every character that steers a terminal: controls and text directions.

    Line ends stay; other white space that is a control becomes a blank.
    """
    return _DIRECTIONS.sub(STAND_IN, "".join(map(printable_character, text)))


def one_line(text: str) -> str:
    """A message as one line that is not endless."""
    return cut_short(" ".join(text.split()), MAX_LINE)


def escape_json(text: str) -> str:
    """JSON that means the same, with every character escaped that could steer a terminal."""
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write(text: str, stream: TextIO | None) -> None:
    """Write a text as `printable` and as the encoding can hold it.

    Raises:
        OSError: if the stream cannot be written to, as a full disk or a pipe that nobody reads.
    """
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(printable(text).encode(encoding, "replace").decode(encoding))
    stream.flush()


@contextmanager
def guarded() -> Iterator[None]:
    """While inside, log records, warnings and tracebacks are printable, whoever makes them."""
    kept = (
        logging.getLogRecordFactory(),
        logging.raiseExceptions,
        warnings.formatwarning,
        sys.excepthook,
        threading.excepthook,
        sys.unraisablehook,
    )
    logging.setLogRecordFactory(_Record)
    logging.raiseExceptions = False  # a log that nobody can read is no reason to write a traceback into it
    warnings.formatwarning = _warning_line
    sys.excepthook = _show_error
    threading.excepthook = lambda given: _show_error(given.exc_type, given.exc_value, given.exc_traceback)
    sys.unraisablehook = lambda given: _show_error(given.exc_type, given.exc_value, given.exc_traceback)
    try:
        yield
    finally:
        logging.setLogRecordFactory(kept[0])
        logging.raiseExceptions = kept[1]
        warnings.formatwarning, sys.excepthook, threading.excepthook, sys.unraisablehook = kept[2:]


@contextmanager
def open_streams() -> Iterator[None]:
    """While inside, standard streams that are closed are the null device, before anything else takes their numbers."""
    opened: list[tuple[str, IO[Any]]] = []
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        opened.append((name, open(os.devnull, mode, encoding="utf-8")))  # noqa: SIM115, PTH123  closed below
        setattr(sys, name, opened[-1][1])
        _NULL.append(opened[-1][1])
    try:
        yield
    finally:
        for name, stream in opened:
            setattr(sys, name, None)
            _NULL.remove(stream)
            stream.close()


def has_stdin() -> bool:
    """Whether standard input was open when the command began."""
    return sys.stdin is not None and all(sys.stdin is not stream for stream in _NULL)


def give_up(stream: TextIO) -> None:
    """Send what is still to come to the null device, since the stream cannot be written to any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # no real file, as in tests
        os.dup2(null, stream.fileno())
    os.close(null)


class _Record(logging.LogRecord):
    """A record whose message is one printable line, and whose traceback is printable, for whatever handler."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.exc_info, tuple) and self.exc_info[0] is not None:
            self.exc_text = printable("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:  # noqa: N802  the name logging calls
        return printable(one_line(super().getMessage()))


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return printable(f"{filename}:{lineno}: {category.__name__}: {one_line(str(message))}\n")


def _show_error(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """A traceback of what nobody caught, in a thread or while the process ends."""
    with suppress(OSError, ValueError):  # nobody is there to be told
        write("".join(traceback.format_exception(kind, error, trace)), sys.stderr)
