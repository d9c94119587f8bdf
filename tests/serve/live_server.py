"""A real server on a free port of this machine, with a tiny model, and clients of it."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from PIL import Image

from llava_grounding.inference.engine import GroundedChat
from llava_grounding.serve.api import GroundedServer, create_app
from llava_grounding.serve.server import Server
from llava_grounding.serve.settings import ServeSettings
from tiny_model import picture, tiny_chat

_START_SECONDS = 60


def data_url(image: Image.Image | None = None, kind: str = "PNG") -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_part(image: Image.Image | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def asking(*parts: str | dict[str, Any], image: Image.Image | None = None) -> list[dict[str, Any]]:
    """One message of a user about a picture."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": [*content, image_part(image)]}]


@dataclass
class Live:
    """A server that runs."""

    chat: GroundedChat
    app: GroundedServer
    url: str
    http: httpx2.Client
    server: Server

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.http.post(path, json=body)

    def complete(self, messages: list[dict[str, Any]], **others: Any) -> httpx2.Response:
        return self.post("/v1/chat/completions", {"model": self.chat.name, "messages": messages, **others})

    def number(self, name: str) -> float:
        """One of the server's metrics."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)

    def wait_until_idle(self, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while self.app.service.scheduler.load.running or self.app.service.scheduler.load.waiting:
            assert time.monotonic() < end, "the server is still busy"
            time.sleep(0.01)


@contextmanager
def serving(chat: GroundedChat | None = None, **settings: Any) -> Iterator[Live]:
    """Run a server in a thread."""
    chat = chat or tiny_chat()
    app = create_app(chat, ServeSettings(port=0, **settings))
    server = Server(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + _START_SECONDS
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Live(chat, app, url, http, server)
    finally:
        server.should_exit = True
        thread.join(30)
        server.force_exit = True  # a browser may keep a connection open; how work is drained has tests of its own
        thread.join(30)
        assert not thread.is_alive()
