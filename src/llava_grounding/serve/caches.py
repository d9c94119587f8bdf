"""What is kept between requests within so many bytes: features of images, and what was read of dialogues.

Knows sizes and keys only. The entry that was used longest ago goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ByteBudgetCache(Generic[Key, Value]):
    """Values by key, of at most so many bytes together. To be used by one thread.

    Args:
        budget: bytes; 0 keeps nothing.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.nbytes = 0
        """Bytes held."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value, which counts as used now; None if it is not there."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Key, value: Value, nbytes: int) -> None:
        """Keep a value in place of the one the key had; one that is larger than the budget is not kept."""
        if key in self._entries:
            self.nbytes -= self._entries.pop(key)[1]
        if nbytes > self._budget:
            return
        self._entries[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self._budget:
            _, (_, size) = self._entries.popitem(last=False)
            self.nbytes -= size
