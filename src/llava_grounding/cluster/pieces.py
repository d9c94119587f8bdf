"""A function over pieces of work, on the workers of a running Dask scheduler; a lost worker's pieces are done again.

Results come as they are done, in any order. Knows nothing of what the pieces are; the function must be importable
on the workers, and give the same for the same piece wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from llava_grounding.cluster.connection import connect

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")
_RETRIES = 3  # of a piece whose worker raised; those of lost workers are tried as often as the scheduler allows


def map_pieces(
    address: str, work: Callable[[_Piece], _Result], pieces: Mapping[int, _Piece], at_once: int = 1000
) -> Iterator[tuple[int, _Result]]:
    """The result of every piece with its number, as they are done.

    Args:
        address: of the scheduler, as `tcp://127.0.0.1:8786`.
        at_once: pieces handed over and not yet done, so that millions of them need no more memory.

    Raises:
        MissingExtraError, UsageError: as `connect`.
    """
    with connect(address) as client:
        from distributed import as_completed

        waiting = iter(pieces.items())
        numbers: dict[Any, int] = {}

        def hand_over(some: Iterable[tuple[int, _Piece]]) -> list[Any]:
            futures = []
            for number, piece in some:
                future = client.submit(work, piece, pure=False, retries=_RETRIES)
                numbers[future.key] = number
                futures.append(future)
            return futures

        done = as_completed(hand_over(_first(waiting, at_once)), loop=client.loop)
        for future in done:
            yield numbers.pop(future.key), future.result()
            for more in hand_over(_first(waiting, 1)):
                done.add(more)


def _first(items: Iterator[tuple[int, _Piece]], count: int) -> list[tuple[int, _Piece]]:
    return list(islice(items, count))
