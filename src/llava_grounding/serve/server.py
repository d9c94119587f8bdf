"""The server as a process: listens, and on a signal lets those it has accepted finish before it goes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from llava_grounding.errors import UsageError
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.serve.api import GroundedServer, create_app
from llava_grounding.serve.settings import ServeSettings

_BACKLOG = 128
_TIME_TO_TELL = 5  # seconds after the time of grace for refusals to be sent


def serve(chat: GroundedChat, settings: ServeSettings, listening: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        listening: told the address of the page once it can be asked for.

    Raises:
        UsageError: if the address cannot be listened on.
    """
    bound = bind(settings)
    port = bound.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    logging.getLogger("llava_grounding.access").setLevel(logging.INFO)
    Server(create_app(chat, settings), lambda: listening(f"http://{host}:{port}/")).run(sockets=[bound])


class Server(uvicorn.Server):
    """uvicorn's, which also tells when it can be asked, and the scheduler that the end has come."""

    def __init__(self, app: GroundedServer, listening: Callable[[], None] = lambda: None) -> None:
        settings = app.settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=int(settings.grace_seconds) + _TIME_TO_TELL,
                lifespan="on",
                ws="none",
            )
        )
        self._grounded = app
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On a signal: no new requests; a second one ends at once."""
        self._grounded.service.scheduler.drain()
        super().handle_exit(sig, frame)


def bind(settings: ServeSettings) -> socket.socket:
    """A socket at the address of the settings; it listens later.

    Raises:
        UsageError: if the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Of a socket without a protocol asyncio leaves Nagle's algorithm on: 40 ms until what follows the headers is sent.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another --port"
        ) from error
    return bound
