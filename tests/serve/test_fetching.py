"""Images by https: only from hosts that were named, only public addresses, the one that was looked at."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_grounding.errors import ConfigError, ImageError
from llava_grounding.serve.fetching import Fetcher, is_public, public_address
from llava_grounding.serve.images import ImageReader

PUBLIC = "93.184.216.34"
HOST = "images.example.org"


class Wire:
    """Stands for the network: what a name means, who was connected to, what a server says."""

    def __init__(self, reply: bytes | Callable[[socket.socket], None], *meanings: list[str]) -> None:
        self.reply = reply
        self.meanings = iter(meanings or ([PUBLIC],))
        self.connected: list[str] = []
        self.asked = b""

    def resolve(self, host: str) -> list[str]:
        assert host == HOST
        return next(self.meanings)

    def connect(self, address: str, timeout: float) -> socket.socket:
        self.connected.append(address)
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours

    def _serve(self, theirs: socket.socket) -> None:
        with theirs:
            while b"\r\n\r\n" not in self.asked:
                self.asked += theirs.recv(65536)
            if isinstance(self.reply, bytes):
                theirs.sendall(self.reply)
            else:
                self.reply(theirs)


class NoTls(ssl.SSLContext):
    """The encryption is Python's and not tried here."""

    def wrap_socket(self, sock: socket.socket, *args: Any, server_hostname: Any = None, **kwargs: Any) -> Any:
        assert server_hostname == HOST
        return sock


def fetcher(wire: Wire, max_bytes: int = 1000, timeout: float = 5) -> Fetcher:
    context = NoTls(ssl.PROTOCOL_TLS_CLIENT)
    return Fetcher([HOST], max_bytes, timeout, wire.resolve, wire.connect, context)


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_an_allowed_picture_is_fetched_from_the_address_that_was_looked_at() -> None:
    wire = Wire(reply(b"pixels"), [PUBLIC, "2606:2800:220:1::1"], ["127.0.0.1"])  # then the name changes its meaning
    assert fetcher(wire)(f"https://{HOST}/a/b.png?size=1#x") == b"pixels"
    assert wire.connected == [PUBLIC]
    assert wire.asked.startswith(b"GET /a/b.png?size=1 HTTP/1.1\r\nHost: images.example.org\r\n")


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/a.png",
        "https://other.example.org/a.png",
        f"https://{HOST}.evil.example/a.png",
        f"https://evil.example/{HOST}",
        f"https://{HOST}@evil.example/a.png",
        f"https://user:word@{HOST}/a.png",
        f"https://{HOST}:8443/a.png",
        f"https://{HOST}:99999/a.png",
        f"https://{HOST}\\@evil.example/",
        f"https://{HOST}/a b.png",
        f"https://{HOST}/a\r\nX-Evil: 1",
        f"https://{HOST}./a.png",
        "https://2130706433/a.png",
        "https://0177.0.0.1/a.png",
        "https://0x7f.1/a.png",
        "https://127.1/a.png",
        "https://[::1]/a.png",
        "https://[::ffff:127.0.0.1]/a.png",
        "https://localhost/a.png",
        "https://ımages.example.org/a.png",
        "https:///a.png",
        "https://",
        f"https://{HOST}/" + "a" * 5000,
    ],
)
def test_no_other_url_is_asked_for(url: str) -> None:
    wire = Wire(reply(b"pixels"))
    with pytest.raises(ImageError, match=r"must have a plain https URL of an allowed host|does not fetch"):
        ImageReader(lambda image: None, fetch=fetcher(wire)).read(url)  # type: ignore[arg-type, return-value]
    assert wire.connected == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "240.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "64:ff9b:1::7f00:1",
        "2001:0:7f00:1::1",
        "no address",
    ],
)
def test_an_address_that_is_not_public_is_not_connected_to(address: str) -> None:
    assert not is_public(address)
    assert public_address([PUBLIC, address]) is None  # one of several is enough
    wire = Wire(reply(b"pixels"), [address])
    with pytest.raises(ImageError, match="not public"):
        fetcher(wire)(f"https://{HOST}/a.png")
    assert wire.connected == []


def test_public_addresses_are() -> None:
    assert all(map(is_public, [PUBLIC, "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8"]))


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "307 Temporary", "404 Not Found", "500 Error", "206 Part"]
)
def test_nothing_is_followed(status: str) -> None:
    wire = Wire(reply(b"", status, "Location: https://127.0.0.1/secret"))
    with pytest.raises(ImageError, match=f"it answered {status[:3]}") as refused:
        fetcher(wire)(f"https://{HOST}/a.png")
    assert "secret" not in str(refused.value)
    assert len(wire.connected) == 1


def endless(theirs: socket.socket) -> None:
    theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        while True:
            theirs.sendall(b"400\r\n" + bytes(1024) + b"\r\n")
    except OSError:
        pass


def dripping(theirs: socket.socket) -> None:
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    try:
        for _ in range(900):
            theirs.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        pass


@pytest.mark.parametrize(
    "answer", [endless, dripping, b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"b" * 99_999]
)
def test_a_server_that_lies_or_drips_is_given_up(answer: Any) -> None:
    began = time.monotonic()
    with pytest.raises(ImageError, match="fetched from"):
        fetcher(Wire(answer), timeout=0.5)(f"https://{HOST}/a.png")
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "*.example.org", "example.org:443", "", "a b.org", "[::1]"])
def test_a_host_that_is_no_name_is_refused_when_the_server_starts(host: str) -> None:
    with pytest.raises(ConfigError, match="must be a name"):
        Fetcher([host], 1, 1)


def test_a_fetched_picture_passes_the_same_door(tmp_path: Path) -> None:
    wire = Wire(reply(b"GIF89a"))
    with pytest.raises(ImageError, match="JPEG, PNG or WebP"):
        ImageReader(lambda image: None, fetch=fetcher(wire)).read(f"https://{HOST}/a.png")  # type: ignore[arg-type, return-value]
