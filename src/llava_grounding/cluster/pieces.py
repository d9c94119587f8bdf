"""A function over pieces of work, on the workers of a running Dask scheduler; a lost worker's pieces are done again.

Results come as they are done, in any order. Knows nothing of what the pieces are; the function must be importable
on the workers, and give the same for the same piece wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from llava_grounding.cluster.connection import connect

if TYPE_CHECKING:
    from distributed import Client, Future

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

        def submit(entry: tuple[int, _Piece]) -> Future:
            return client.submit(work, entry[1], pure=False, retries=_RETRIES)

        for (number, _), future in as_done(client, submit, iter(pieces.items()), at_once):
            yield number, future.result()


def as_done(
    client: Client, submit: Callable[[_Piece], Future], pieces: Iterator[_Piece], at_once: int
) -> Iterator[tuple[_Piece, Future]]:
    """Every piece with the future of its result, as they are done; another piece is submitted for each that is.

    Args:
        at_once: pieces submitted and not yet taken.
    """
    from distributed import as_completed

    waiting: dict[Future, _Piece] = {}
    finished = as_completed(loop=client.loop)

    def send(count: int) -> None:
        for piece in islice(pieces, count):
            future = submit(piece)
            waiting[future] = piece
            finished.add(future)

    send(at_once)
    while waiting:
        future = next(finished)
        yield waiting.pop(future), future
        future.release()
        send(1)
