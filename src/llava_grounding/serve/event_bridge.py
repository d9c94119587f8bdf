"""From the thread of the scheduler to the event loop. Knows no HTTP and no task."""

from __future__ import annotations

import asyncio
from collections import deque

from llava_grounding.serve.jobs import Event


class EventBridge:
    """Brings events from the scheduler's thread to queues of an event loop, all that have come with one wake of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[asyncio.Queue[Event], Event]] = deque()
        self._waking = False

    def put(self, queue: asyncio.Queue[Event], event: Event) -> None:
        """From any one thread; the loop may have ended meanwhile."""
        self._events.append((queue, event))
        if not self._waking and not self.loop.is_closed():
            self._waking = True
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False  # first: what comes from now on wakes the loop again
        while self._events:
            queue, event = self._events.popleft()
            queue.put_nowait(event)
