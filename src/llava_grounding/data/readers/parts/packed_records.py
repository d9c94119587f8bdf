"""Records in one block of memory, which worker processes share. Knows no file format."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, overload

import numpy as np

from llava_grounding.data.readers.parts.left_out import (
    LeftOut,
)
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError


class PackedRecords(Sequence[Record]):
    """A data set whose records lie encoded in one block of memory.

    Worker processes forked from this one share the block; ordinary objects would be copied into each of them bit by
    bit, as reading one changes its reference count.

    Args:
        name: what the data is called in reports.
        rows: records, or whatever `_record` makes one of.
        left_out: read when the rows have been.
        unread: counted when the rows have been; see below.

    Attributes:
        unread: what a file says of labels that is not read, by its key there, and how many labels have it.
        dropped: what reading left out: a reason, and the entries it befell.
        examples: of each reason the first entries, with what is wrong with them.
        title: what this kind of data is called.
        has_texts: whether there may be more to learn from than labels, so that a recipe needs to ask for nothing.
    """

    title: ClassVar[str]
    has_texts: ClassVar[bool] = False

    def __init__(
        self, name: str, rows: Iterable[Any], left_out: LeftOut, unread: Mapping[str, int] | None = None
    ) -> None:
        self.name = name
        self._block, ends = bytearray(), [0]
        for row in rows:
            try:
                self._block += pickle.dumps(row, protocol=pickle.HIGHEST_PROTOCOL)
            except RecursionError as error:
                raise DataError(f"entry {len(ends)} of {name} holds values that lie too deep in each other") from error
            ends.append(len(self._block))
        self._ends = np.array(ends)
        self.unread: Mapping[str, int] = {key: count for key, count in (unread or {}).items() if count}
        self.dropped: Mapping[str, Sequence[str]] = left_out.by_reason
        self.examples: Mapping[str, Sequence[str]] = {why: tuple(names) for why, names in left_out.examples.items()}

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        numbers = range(len(self))[index]
        return self._at(numbers) if isinstance(numbers, int) else [self._at(number) for number in numbers]

    def __iter__(self) -> Iterator[Record]:
        return map(self._at, range(len(self)))

    def _at(self, number: int) -> Record:
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        with memoryview(self._block) as block:
            return self._record(pickle.loads(block[start:end]))

    def _record(self, row: Any) -> Record:
        return row
