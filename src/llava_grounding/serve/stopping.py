"""Texts at which an answer ends: what may still become one is held back. Pure strings."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Takes the text of an answer as it comes and gives what is certain to belong to it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.length = 0
        """Characters given out."""
        self.found = False
        """One of the texts has come; nothing is given out any more."""

    def feed(self, text: str) -> str:
        """Take more text."""
        if self.found:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            return self._give(min(places))
        return self._give(len(self._held) - self._beginning())

    def finish(self) -> str:
        """The answer has ended by itself."""
        return "" if self.found else self._give(len(self._held))

    def _beginning(self) -> int:
        """How many of the last characters may be the beginning of a stop text."""
        longest = min(max(map(len, self._stops), default=0) - 1, len(self._held))
        for count in range(longest, 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0

    def _give(self, count: int) -> str:
        given, self._held = self._held[:count], self._held[count:]
        self.length += count
        return given
