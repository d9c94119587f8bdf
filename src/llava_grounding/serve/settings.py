"""What a server is started with: where it listens, what it refuses, how much it keeps. Plain values."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from llava_grounding.errors import ConfigError, shown
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits
from llava_grounding.inference.conversation import MAX_PROMPTS
from llava_grounding.inference.decoding import MAX_NEW_TOKENS
from llava_grounding.serve.task_pictures import LabelStudioSettings

_MIB = 2**20


@dataclass(frozen=True)
class ServeSettings:
    """Everything about a server but its model.

    Raises:
        ConfigError: if a number is out of its range, or the server would be open to others without a key.
    """

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """0 takes a free one."""
    api_key: str | None = None
    """What clients send as `Authorization: Bearer ...`; needed on any address but loopback."""
    allowed_hosts: Sequence[str] = ()
    """Names under which the server may be asked beside its own; a page of another name is then not served by it."""
    batch_size: int = 16
    """Answers written at once."""
    queue_size: int = 64
    """Requests that wait for one of them to end; more are refused."""
    max_per_client: int = 0
    """Requests of one address under way at once; more get a 429. 0 sets no limit, as behind a proxy all have one."""
    timeout_seconds: float = 120.0
    """Seconds from the arrival of a request to its last word."""
    body_timeout_seconds: float = 30.0
    """Seconds that a request's body may take to arrive."""
    grace_seconds: float = 30.0
    """Seconds that running requests have to end when the server is stopped."""
    image_limits: ImageLimits = DEFAULT_LIMITS
    """What images are refused for their size."""
    max_images: int = 8
    """Most images in one request."""
    max_regions: int = MAX_PROMPTS
    """Most visual prompts in one question."""
    max_phrases: int = 32
    """Most phrases of one request for regions."""
    max_tokens: int = MAX_NEW_TOKENS
    """Most new tokens that may be asked for."""
    max_body_bytes: int = 40_000_000
    """Most bytes of one request's body."""
    max_bodies_bytes: int = 400_000_000
    """Most bytes of the bodies of all requests under way; more are refused."""
    image_cache_bytes: int = 512 * _MIB
    """Most bytes of kept features of images."""
    dialogue_cache_bytes: int = 512 * _MIB
    """Most bytes of kept keys and values of dialogues."""
    fetch_hosts: Sequence[str] = field(default_factory=tuple)
    """Hosts that images are fetched from by https; none by default."""
    fetch_timeout_seconds: float = 10.0
    """Seconds that fetching an image may take."""
    label_studio: LabelStudioSettings | None = None
    """Whether Label Studio is answered too, and where its pictures are."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_images", "max_regions", "max_phrases", "max_tokens", "max_body_bytes"):
            self._check_least(name, 1)
        for name in ("queue_size", "max_per_client", "image_cache_bytes", "dialogue_cache_bytes", "grace_seconds"):
            self._check_least(name, 0)
        for name in ("timeout_seconds", "body_timeout_seconds", "fetch_timeout_seconds"):
            self._check_least(name, 0.01)
        for name, most in (("max_tokens", MAX_NEW_TOKENS), ("max_regions", MAX_PROMPTS), ("port", 65535)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} must be at most {most}, got {shown(getattr(self, name))}")
        if self.api_key is not None and (not self.api_key.isascii() or not self.api_key.isprintable()):
            raise ConfigError("the API key must be printable ASCII characters")
        if not self.api_key and not is_loopback(self.host):
            raise ConfigError(
                f"on {shown(self.host)} others can reach the server, so it needs an API key: set --api-key or the "
                "environment variable LLAVA_GROUNDING_API_KEY, or listen on 127.0.0.1"
            )

    def _check_least(self, name: str, least: float) -> None:
        if not getattr(self, name) >= least:
            raise ConfigError(f"{name} must be at least {least}, got {shown(getattr(self, name))}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; names but `localhost` count as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
