"""What Prometheus is told. Knows counts and seconds, no content of any request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        name = "llava_grounding"
        self.requests = Counter(f"{name}_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            f"{name}_request_seconds", "From a request to the end of its answer.", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            f"{name}_first_token_seconds", "From a request to the first text.", buckets=_SECONDS, registry=registry
        )
        self.waiting = Gauge(f"{name}_queue_depth", "Requests that wait for a place in the batch.", registry=registry)
        self.running = Gauge(f"{name}_running", "Answers being written.", registry=registry)
        self.tokens = Counter(f"{name}_completion_tokens", "Tokens written.", registry=registry)
        self.prompt_tokens = Counter(f"{name}_prompt_tokens", "Tokens read that no cache had.", registry=registry)
        self.cancelled = Counter(f"{name}_cancelled", "Requests whose client left.", registry=registry)
        self.image_cache = Counter(f"{name}_image_cache", "Images by where their features were.", ["outcome"],
                                   registry=registry)  # fmt: skip
        self.dialogue_cache = Counter(f"{name}_dialogue_cache", "Answers by whether their dialogue was known.",
                                      ["outcome"], registry=registry)  # fmt: skip
        self.cache_bytes = Gauge(f"{name}_cache_bytes", "Held between requests.", ["cache"], registry=registry)

    def page(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self._registry)
