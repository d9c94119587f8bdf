"""How fast and how much may be asked: requests and tokens a minute, evenly paced; tokens and money altogether.

Knows no endpoint. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 3.5
"""Guess at the length of a prompt before it is sent; English in usual vocabularies has 3.5 to 4.5."""


def guess_tokens(characters: int) -> int:
    """Tokens of a text of so many characters, rather too many than too few."""
    return int(characters / CHARACTERS_PER_TOKEN) + 8


def cost_of(prompt_tokens: int, completion_tokens: int, prices: tuple[float, float]) -> float:
    """The cost in the unit of the prices, which are of a million tokens."""
    return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6


class RateLimiter:
    """Requests evenly spread over each minute, no more of them and of their tokens than allowed.

    Args:
        requests_per_minute, tokens_per_minute: None = no limit.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._free = self._free_tokens = self._paused_until = 0.0

    async def wait(self, tokens: int) -> None:
        """Wait for the turn of a request of so many tokens."""
        clock = asyncio.get_running_loop().time
        now = clock()
        start = max(now, self._free, self._free_tokens)
        self._free = max(self._free, now) + self._per_request
        self._free_tokens = max(self._free_tokens, now) + tokens * self._per_token
        while (left := max(start, self._paused_until) - clock()) > 0:
            await asyncio.sleep(left)

    def pause(self, seconds: float) -> None:
        """Let nothing start for so long, as a server that is too busy asks."""
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)

    def correct(self, more_tokens: int) -> None:
        """Count tokens that were not foreseen; below 0 for those that were not needed."""
        self._free_tokens += more_tokens * self._per_token


@dataclass
class Budget:
    """Tokens and money that may be spent, what is spent, and what requests under way may still cost.

    Args:
        max_tokens, max_cost: None = no limit.
        prices: of a million prompt and completion tokens.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    prices: tuple[float, float] = (0.0, 0.0)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reserved_tokens: int = 0
    reserved_cost: float = 0.0

    @property
    def cost(self) -> float:
        """What has been spent so far."""
        return cost_of(self.prompt_tokens, self.completion_tokens, self.prices)

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Set aside what a request may cost at most; whether there is as much."""
        tokens, cost = prompt_tokens + completion_tokens, cost_of(prompt_tokens, completion_tokens, self.prices)
        spent = self.prompt_tokens + self.completion_tokens + self.reserved_tokens
        if self.max_tokens is not None and spent + tokens > self.max_tokens:
            return False
        if self.max_cost is not None and self.cost + self.reserved_cost + cost > self.max_cost:
            return False
        self.reserved_tokens += tokens
        self.reserved_cost += cost
        return True

    def release(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was set aside."""
        self.reserved_tokens -= prompt_tokens + completion_tokens
        self.reserved_cost -= cost_of(prompt_tokens, completion_tokens, self.prices)

    def spend(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what a request has cost."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
