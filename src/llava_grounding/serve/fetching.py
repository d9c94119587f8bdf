"""Images by https, from hosts that whoever started the server has named, and from nowhere else.

The address that was looked at is the one that is connected to, so that a name cannot change its meaning in between.
Nothing is followed, bytes and time are bounded, and what a far server says never reaches a client.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from llava_grounding.errors import ConfigError, ImageError, quoted

_HOST = re.compile(r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT = 443
_CHUNK = 65536
_LONGEST_URL = 4000

# What IANA's registries of special addresses say is not the internet at large, and older Pythons do not know.
_NOT_PUBLIC = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16", "64:ff9b:1::/48"))
)

Resolve = Callable[[str], list[str]]
Connect = Callable[[str, float], socket.socket]


def resolve(host: str) -> list[str]:
    """The addresses of a name."""
    found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[4][0]) for place in found))


def connect(address: str, timeout: float) -> socket.socket:
    """A connection to an address, not to a name."""
    return socket.create_connection((address, _PORT), timeout)


class Fetcher:
    """Gives the bytes behind a URL; see the module.

    Args:
        hosts: exact names.
        max_bytes: more is refused while it arrives.
        timeout: seconds for all of it.
        resolve, connect, context: replaced in tests.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        timeout: float,
        resolve: Resolve = resolve,
        connect: Connect = connect,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = frozenset(_checked_host(host) for host in hosts)
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._resolve = resolve
        self._connect = connect
        self._context = context or ssl.create_default_context()

    def __call__(self, url: str) -> bytes:
        """The picture's bytes.

        Raises:
            ImageError: if the URL or its host is not allowed, or it does not give a picture in time.
        """
        host, target = self._take_apart(url)
        deadline = time.monotonic() + self._timeout
        try:
            address = public_address(self._resolve(host))
            if address is None:
                raise ImageError(f"the host of the image, {host}, has an address that is not public")
            with self._connect(address, self._timeout) as plain:
                plain.settimeout(max(deadline - time.monotonic(), 0.01))
                with self._context.wrap_socket(plain, server_hostname=host) as secure:
                    return self._read(secure, host, target, deadline)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            raise ImageError(f"the image could not be fetched from {host}") from error

    def _take_apart(self, url: str) -> tuple[str, str]:
        """Host and what is asked of it."""
        refused = ImageError(
            "an image that is fetched must have a plain https URL of an allowed host, without port, name or password, "
            f"got {quoted(url)}"
        )
        if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise refused
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise refused from error
        host = (parts.netloc.partition(":")[0] if "@" not in parts.netloc else "").lower()
        if parts.scheme != "https" or port not in (None, _PORT) or host not in self._hosts:
            raise refused
        return host, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _read(self, secure: socket.socket, host: str, target: str, deadline: float) -> bytes:
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: image/*\r\nConnection: close\r\n\r\n"
        secure.sendall(request.encode("ascii"))
        response = http.client.HTTPResponse(secure, method="GET")
        try:
            response.begin()
            if response.status != http.client.OK:
                raise ImageError(f"the image could not be fetched from {host}: it answered {response.status}")
            data = bytearray()
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ImageError(f"the image could not be fetched from {host} in time")
                secure.settimeout(left)
                piece = response.read1(_CHUNK)
                if not piece:
                    return bytes(data)
                data += piece
                if len(data) > self._max_bytes:
                    allowed = f"{self._max_bytes / 1e6:g} MB"
                    raise ImageError(f"the image fetched from {host} has more than the {allowed} allowed")
        finally:
            response.close()


def public_address(addresses: Sequence[str]) -> str | None:
    """The first of a name's addresses, if every one of them is public; None otherwise."""
    return addresses[0] if addresses and all(map(is_public, addresses)) else None


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large, whatever it is wrapped in."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a zone, or no address at all
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # Each carries an IPv4 address inside, and leads there.
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        inner = [ip.sixtofour, *(ip.teredo or ())]
        nat64 = ipaddress.ip_address(int(ip) & 0xFFFFFFFF) if ip in ipaddress.ip_network("64:ff9b::/96") else None
        compatible = ipaddress.ip_address(int(ip)) if int(ip) < 2**32 else None
        if any(one is not None and not is_public(str(one)) for one in [*inner, nat64, compatible]):
            return False
        if ip.is_site_local:
            return False
    if any(ip in network for network in _NOT_PUBLIC):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def _checked_host(host: str) -> str:
    """A name as it is compared; addresses are none.

    Raises:
        ConfigError: if it is not a plain host name.
    """
    lower = host.lower()
    if not _HOST.fullmatch(lower):
        raise ConfigError(
            f"a host that images are fetched from must be a name as in images.example.org, got {quoted(host)}"
        )
    return lower
