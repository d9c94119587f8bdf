"""What was left out of a data set: which entries, for which reason, and the first of them in a sentence each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llava_grounding.data.plain_files import is_unicode
from llava_grounding.data.readers.parts.numbers import (
    EntryError,
)
from llava_grounding.errors import DataError, cut_short, shown

_NAMED = 300  # characters of what an entry is called; no file system has longer names
_SHORT = 40  # characters; a longer name is not said twice in one line
_LISTED = 5  # faults reported at once
_KEPT = 20  # of each reason, entries whose fault is remembered


class LeftOut:
    """Entries that were not read: which ones by reason, and the first of them in a sentence each.

    Attributes:
        examples: of each reason the first entries, with what is wrong with them.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[str]] = {}
        self._reported: list[str] = []
        self.examples: dict[str, list[str]] = {}

    @property
    def by_reason(self) -> dict[str, tuple[str, ...]]:
        """What they are called, in order."""
        return {reason: tuple(entries) for reason, entries in self._entries.items()}

    def add(self, entry: object, why: EntryError | str) -> None:
        """Note that `entry` is left out."""
        reason = why.reason if isinstance(why, EntryError) else why
        name = cut_short(printable(str(entry)), _NAMED)
        self._entries.setdefault(reason, []).append(name)
        if len(self._reported) < _LISTED:
            self._reported.append(_in_a_sentence(name, "", str(why)))
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _KEPT:
            examples.append(_in_a_sentence(name, reason, str(why)))

    def join(self, other: LeftOut) -> None:
        """Add what another part of the same data left out."""
        for reason, entries in other._entries.items():
            self._entries.setdefault(reason, []).extend(entries)
            self.examples[reason] = (self.examples.get(reason, []) + other.examples[reason])[:_KEPT]
        self._reported = (self._reported + other._reported)[:_LISTED]

    def keep(self, entry: object, read: Callable[[], None]) -> bool:
        """Read an entry, or note that it is left out; whether it could be read."""
        try:
            read()
        except EntryError as why:
            self.add(entry, why)
            return False
        return True

    def refuse(self, path: str | Path) -> None:
        """Refuse the file if anything was left out.

        Raises:
            DataError: naming the file, and the first entries with what is wrong with them.
        """
        if self._reported:
            count = sum(map(len, self._entries.values()))
            more = f"; and {count - len(self._reported)} more" if count > len(self._reported) else ""
            raise DataError(f"{path}: {'; '.join(self._reported)}{more} (`strict: false` leaves such entries out)")


def _in_a_sentence(name: str, reason: str, detail: str) -> str:
    """What an entry is called with what is wrong with it; a long name is said once."""
    if detail == reason:
        return name
    said_already = len(name) > _SHORT and (name.partition(" ")[2] or name) in detail
    return detail if said_already else f"{name}: {detail}"


def printable(text: str) -> str:
    """The text as it can be printed and written, half characters as `\\ud800`."""
    return text if is_unicode(text) else text.encode("utf-8", "backslashreplace").decode()


def named(value: object) -> str:
    """A name in a message, whole."""
    return shown(value, _NAMED)
