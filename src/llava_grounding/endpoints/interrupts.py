"""An event loop that Ctrl-C ends in good order, whenever it comes: also while the loop is being made or closed.

Knows nothing of what the loop does.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run_interruptible(main: Callable[[], Coroutine[Any, Any, _T]], on_interrupt: Callable[[], bool]) -> _T:
    """`asyncio.run` of what `main` makes, with a handler of Ctrl-C that is there before the loop and until it is gone.

    That of `asyncio.run` is installed when the loop is half made, lets the interpreter's own raise KeyboardInterrupt
    amid the making before, and forgets a signal that comes as it begins to count: a CancelledError is then all that is
    left of it. And the handler is the interpreter's, which runs at once: one of the loop's runs two rounds later, and
    would be forgotten when the last answer comes in between.

    Args:
        on_interrupt: told each time; true cancels what runs, false lets it come to its end by itself.

    Raises:
        KeyboardInterrupt: if it was cancelled so.
    """
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        return asyncio.run(main())
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    cancelled = False

    def interrupt(_signal: int, _frame: object) -> None:
        nonlocal cancelled
        cancelled = on_interrupt() or cancelled
        for loop, task in running:
            if not task.done():
                if cancelled:
                    task.cancel()
                loop.call_soon_threadsafe(lambda: None)  # wakes it

    async def whole() -> _T:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        if cancelled:
            raise asyncio.CancelledError
        return await main()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        return asyncio.run(whole())
    except asyncio.CancelledError:
        if not cancelled:
            raise
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
