"""The page and its files, as they lie in `web/`: a closed list, read once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/web/`."""
    for entry in files("llava_grounding.serve").joinpath("web").iterdir():
        kind = _TYPES.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if entry.name == "index.html" else f"/web/{entry.name}"
            app.add_api_route(path, _giver(entry.read_bytes(), kind), include_in_schema=False, methods=["GET"])


def _giver(data: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def give() -> Response:
        return Response(data, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return give
