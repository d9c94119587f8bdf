"""What stands before every route: who may ask, how large and how slow a body may be, how much at once; and the log.

Plain ASGI, so that a client that leaves is noticed. Bodies are read here to their end, within limits, before a route
sees them. Knows no route and no model.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from llava_grounding.serve.metrics import Metrics
from llava_grounding.serve.problems import ApiError, busy, internal, too_many
from llava_grounding.serve.settings import ServeSettings, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NEEDS_KEY = ("/v1", "/metrics", "/label-studio")
"""Everything else is asked without one: the page with its files, health, the description."""
ACCESS_LOG = logging.getLogger("llava_grounding.access")
_LOG = logging.getLogger(__name__)

# The page loads its own files and nothing else; pictures are also those that the user gives it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


async def send_json(send: Send, status: int, body: Any, headers: Sequence[tuple[str, str]] = ()) -> None:
    """A whole response."""
    data = json.dumps(body).encode()
    pairs = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    pairs += [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": data})


class Guard:
    """Lets a request through to the routes, or answers it itself."""

    def __init__(self, app: App, settings: ServeSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._body_bytes = 0
        self._under_way: Counter[str] = Counter()
        self._hosts = _hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        record = _Record(scope, self._metrics)
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS, (b"x-request-id", record.id.encode())]
            await send(message)

        held, client = 0, ""
        try:
            self._check(scope)
            client = self._let_in(scope)
            body = b""
            if scope["method"] in ("POST", "PUT", "PATCH"):
                body = await self._body(scope, receive)
                held = record.body_bytes = len(body)
            await self._app(scope, _replay(body, receive), send_on)
        except ApiError as problem:
            if not started:
                await send_json(send_on, problem.status, problem.body(), list(problem.headers.items()))
        except _ClientLeftError:
            record.status = 499
        except Exception:  # noqa: BLE001  the last place; the client gets no text of it
            _LOG.exception("request %s failed", record.id)
            record.status = 500
            if not started:
                await send_json(send_on, 500, internal().body())
        finally:
            self._body_bytes -= held
            self._under_way -= Counter([client] if client else [])
            record.close()

    def _let_in(self, scope: Scope) -> str:
        """Count a request of its client; gives the client, or nothing if it is not counted."""
        limit = self._settings.max_per_client
        if not limit or scope["method"] != "POST" or not scope.get("client"):
            return ""
        client = str(scope["client"][0])
        if self._under_way[client] >= limit:
            raise too_many()
        self._under_way[client] += 1
        return client

    def _check(self, scope: Scope) -> None:
        """Whether this request may be made at all."""
        headers = dict(reversed(scope["headers"]))
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts is not None and _name_of(host) not in self._hosts:
            raise ApiError(421, "this server is not reached under that name; see --allowed-host", "unknown_host")
        path = scope["path"]
        if self._settings.api_key and any(path == one or path.startswith(f"{one}/") for one in NEEDS_KEY):
            given = _given_key(headers.get(b"authorization", b""))
            if not hmac.compare_digest(given, self._settings.api_key.encode("ascii")):
                raise ApiError(401, "an API key is needed: Authorization: Bearer KEY", "invalid_api_key")
        if scope["method"] == "POST":
            # A page of another site may send forms and plain text without asking first, but not JSON.
            kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "the body must be JSON: Content-Type: application/json", "unsupported_media_type")
            if headers.get(b"content-encoding", b"identity") != b"identity":
                raise ApiError(415, "the body must not be compressed", "unsupported_encoding")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, within its limits of size and time."""
        limit = self._settings.max_body_bytes
        too_large = ApiError(413, f"the body has more than the {limit / 1e6:g} MB allowed", "body_too_large")
        length = dict(reversed(scope["headers"])).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientLeftError
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    size += len(piece)
                    self._body_bytes += len(piece)
                    if size > limit:
                        raise too_large
                    if self._body_bytes > self._settings.max_bodies_bytes:
                        raise busy()
                    parts.append(piece)
            return b"".join(parts)
        except TimeoutError:
            self._body_bytes -= size
            raise ApiError(408, "the body did not arrive in time", "body_timeout") from None
        except BaseException:
            self._body_bytes -= size
            raise


def _given_key(header: bytes) -> bytes:
    """The key of an Authorization header: a bearer's, or the password of a client that knows only those."""
    kind, _, given = header.partition(b" ")
    if kind.lower() == b"bearer":
        return given.strip()
    if kind.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then whatever else comes: that the client has left."""
    given: list[bytes] = [body]

    async def next_message() -> Message:
        if given:
            return {"type": "http.request", "body": given.pop(), "more_body": False}
        return await receive()

    return next_message


class _ClientLeftError(Exception):
    """The client has gone before its request was whole."""


class _Record:
    """What the access log says of a request: nothing that anybody wrote or showed."""

    def __init__(self, scope: Scope, metrics: Metrics) -> None:
        self._scope = scope
        self._metrics = metrics
        self._began = time.monotonic()
        self.id = f"req_{uuid.uuid4().hex}"
        self.status = 499
        self.body_bytes = 0
        scope.setdefault("state", {})["notes"] = {}

    def close(self) -> None:
        """The request is over."""
        route = getattr(self._scope.get("route"), "path", "other")
        seconds = time.monotonic() - self._began
        method = self._scope["method"] if self._scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self._metrics.requests.labels(route, str(self.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        line = {
            "id": self.id,
            "method": method,
            "route": route,
            "status": self.status,
            "milliseconds": round(1000 * seconds, 1),
            "body_bytes": self.body_bytes,
            **self._scope["state"]["notes"],
        }
        ACCESS_LOG.info("%s", json.dumps(line))


def _hosts(settings: ServeSettings) -> frozenset[str] | None:
    """Names under which the server may be asked; None for any.

    On loopback without a key, anybody's page could otherwise reach it under a name that it lets point there.
    """
    if settings.api_key and not is_loopback(settings.host):
        return frozenset(map(str.lower, settings.allowed_hosts)) or None
    return frozenset(
        {"127.0.0.1", "localhost", "[::1]", settings.host.lower(), *map(str.lower, settings.allowed_hosts)}
    )


def _name_of(host: str) -> str:
    """A Host header without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
