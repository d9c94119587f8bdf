"""A client of a running Dask scheduler, whose workers have the same release of this package as we."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_grounding import __version__
from llava_grounding.errors import UsageError, missing_extra, quoted

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = 30


def connect(address: str) -> Client:
    """A client, to be closed.

    Args:
        address: of the scheduler, as tcp://host:8786.

    Raises:
        MissingExtraError: if Dask is not installed.
        UsageError: if the scheduler cannot be reached, has no worker, or workers have another release.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise missing_extra("cluster", "working on a cluster") from error
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {quoted(address)}: {error}") from error
    try:
        releases = client.run(_release)
        if not releases:
            raise UsageError(f"the cluster at {quoted(address)} has no worker; start some with `dask worker {address}`")
        other = next(((one, said) for one, said in releases.items() if said != __version__), None)
        if other is not None:
            raise UsageError(f"workers must have llava-grounding {__version__}, got {other[1]} on {other[0]}")
    except BaseException:
        client.close()
        raise
    return client


def _release() -> str:
    """Version of this package, on a worker."""
    return __version__
