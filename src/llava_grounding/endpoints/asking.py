"""The first pass: what the store lacks is asked, many requests at once, until all is answered or something says stop.

    task -> next_step -> [rate limit, budget] -> store "sent" -> endpoint -> store "answered" -> next_step -> ...

Stopping is always safe: what is under way is waited for, and everything else is in the store. Knows no tasks: what one
is, and how it is worded, is a `Questioner`'s business.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from llava_grounding.endpoints.client import AccessError, BusyError, CallError, Endpoint, RefusedError, Reply
from llava_grounding.endpoints.interrupts import run_interruptible
from llava_grounding.endpoints.limits import Budget, RateLimiter, guess_tokens
from llava_grounding.endpoints.store import Row, Store
from llava_grounding.errors import DataError

_T = TypeVar("_T")
_T_contra = TypeVar("_T_contra", contravariant=True)
LookUp = Callable[[str], Row | None]
"""What a store knows of the request with a key."""
_FAILED_IN_A_ROW = 20  # requests, after which an endpoint is given up
_TRIES_TO_CONNECT = 3
_YIELD_EVERY = 20  # samples
_LONGEST_WAIT = 60.0  # seconds between tries, but for what a server asks for


@dataclass(frozen=True)
class AskOptions:
    """How an endpoint is treated.

    Args:
        concurrency: requests under way at once.
        attempts: of one request.
        first_wait: seconds before the second attempt; it doubles with each.
        ask_batched: also ask what was written to a batch file and has not come back.
    """

    concurrency: int = 16
    attempts: int = 6
    first_wait: float = 1.0
    ask_batched: bool = False


@dataclass
class AskingProgress:
    """What has been done so far.

    Args:
        samples: looked at to the end, unusable ones included.
        answered, refused, failed: requests of this run.
        retries: attempts beyond the first.
        waiting: samples whose request is in a batch file.
        unfinished: samples without a whole answer.
        stopped: why not all was asked; None if it was.
    """

    samples: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    retries: int = 0
    waiting: int = 0
    unfinished: int = 0
    stopped: str | None = None
    budget: Budget = field(default_factory=Budget)


class Request(Protocol):
    """One call of a model."""

    @property
    def key(self) -> str:
        """Under which the store keeps it."""

    @property
    def body(self) -> dict[str, Any]:
        """The request as the API takes it; `messages` hold text alone."""


@dataclass(frozen=True)
class Pending:
    """A request that has no answer yet, and what the store knows of it."""

    request: Request
    row: Row | None

    @property
    def is_refused(self) -> bool:
        """Whether the endpoint will never take it."""
        return self.row is not None and self.row.state == "refused"


class Questioner(ABC, Generic[_T_contra]):
    """Says what is asked of one model about tasks of one kind.

    Args:
        model: as the endpoint calls it.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    @abstractmethod
    def next_step(self, task: _T_contra, look_up: LookUp) -> Pending | object:
        """The next request about a task; anything else where nothing is left to be asked.

        A function of the task and of what was answered alone, so that a run that was ended goes on where it was.
        """

    def note_first_answer(self, store: Store) -> None:
        """The endpoint has answered for the first time."""

    def change_after_refusal(self, refused: RefusedError, store: Store) -> bool:
        """Whether requests are worded in another way from now on; asked while the endpoint has answered nothing."""
        return False


class _Stop(Exception):  # noqa: N818  never leaves this file
    """Nothing more is to be asked."""


class RequestRunner(Generic[_T]):
    """Asks one model about many tasks.

    Args:
        on_progress: called when a sample is done.
    """

    def __init__(
        self,
        store: Store,
        endpoint: Endpoint,
        questioner: Questioner[_T],
        options: AskOptions | None = None,
        rate_limiter: RateLimiter | None = None,
        budget: Budget | None = None,
        on_progress: Callable[[AskingProgress], None] = lambda progress: None,
    ) -> None:
        self._store, self._endpoint, self._on_progress = store, endpoint, on_progress
        self._questioner = questioner
        self._options, self._rate_limiter = options or AskOptions(), rate_limiter or RateLimiter()
        self.progress = AskingProgress(budget=budget or Budget())
        self._under_way: dict[str, asyncio.Event] = {}
        self._in_a_row = 0
        self._stopping = False
        self._fatal: CallError | DataError | None = None
        self._random = random.Random()  # jitter needs no seed: it changes no output

    def run(self, tasks: Iterable[_T]) -> AskingProgress:
        """`ask`, in an event loop of its own. Ctrl-C lets what is under way come to its end; the second one does not.

        Raises:
            KeyboardInterrupt: at the second Ctrl-C.
            AccessError, BusyError, DataError: as `ask`.
        """
        return run_interruptible(lambda: self.ask(tasks), self._interrupt)

    def _interrupt(self) -> bool:
        """Somebody has pressed Ctrl-C; whether nothing is to be waited for."""
        again, self._stopping = self._stopping, True
        self.progress.stopped = "interrupted"
        return again

    async def ask(self, tasks: Iterable[_T]) -> AskingProgress:
        """Ask about all tasks.

        Raises:
            AccessError: if the endpoint takes no request at all.
            BusyError: if it cannot be reached, or answers no more.
            DataError: if the store cannot be written.
        """
        running: set[asyncio.Task[None]] = set()
        has_room = False
        try:
            for number, task in enumerate(tasks):
                if number % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)  # what is under way goes on while much is skipped
                if self._stopping:
                    self.progress.unfinished += 1
                    break
                if self._is_done(task):
                    continue
                if not has_room:
                    self._store.keep_room(self._options.concurrency)
                    has_room = True
                running.add(asyncio.create_task(self._whole(task)))
                # The first request goes alone: it shows whether there is any use in sending others.
                while len(running) >= (self._options.concurrency if self._met else 1):
                    running = await _one_of(running)
            while running:
                running = await _one_of(running)
        except BaseException:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        finally:
            self._store.give_up_room()
            await self._endpoint.close()
        if self._fatal is not None:
            raise self._fatal
        return self.progress

    @property
    def _met(self) -> bool:
        return self.progress.answered + self.progress.refused > 0

    def _is_done(self, task: _T) -> bool:
        """Whether nothing is left to be asked about a task."""
        step = self._questioner.next_step(task, self._store.get)
        if isinstance(step, Pending) and not step.is_refused:
            if step.row is not None and step.row.state == "batch" and not self._options.ask_batched:
                self.progress.waiting += 1
                self.progress.unfinished += 1
                self.progress.samples += 1
                return True
            return False
        self.progress.samples += 1
        self._on_progress(self.progress)
        return True

    async def _whole(self, task: _T) -> None:
        """All rounds about one task."""
        try:
            while True:
                step = self._questioner.next_step(task, self._store.get)
                if not isinstance(step, Pending) or step.is_refused:
                    break
                if not await self._once(step.request):
                    self.progress.unfinished += 1
                    break
        except _Stop:
            self.progress.unfinished += 1
        except (CallError, DataError) as error:
            self.progress.unfinished += 1
            self._fatal = self._fatal or error
            self._stopping = True
        self.progress.samples += 1
        self._on_progress(self.progress)

    async def _once(self, request: Request) -> bool:
        """Ask one request, or wait for whoever asks the same; whether the store has its answer, good or bad."""
        key = request.key
        if key in self._under_way:
            await self._under_way[key].wait()
            row = self._store.get(key)
            return row is not None and row.state in ("answered", "refused")
        self._under_way[key] = asyncio.Event()
        try:
            return await self._attempts(key, request)
        finally:
            self._under_way.pop(key).set()

    async def _attempts(self, key: str, request: Request) -> bool:
        body = request.body
        guess = guess_tokens(sum(len(message["content"]) for message in body["messages"]))
        most = int(body.get("max_tokens") or body.get("max_completion_tokens") or 1500)
        for attempt in range(self._options.attempts):
            reply, error = None, None
            if self._stopping:
                raise _Stop
            await self._reserve(guess, most)
            try:
                await self._rate_limiter.wait(guess + most // 4)
                if self._stopping:
                    raise _Stop
                self._store.sending(key, self._questioner.model)
                reply = await self._endpoint.complete(body)
            except RefusedError as refused:
                return self._note_refused(key, refused)
            except BusyError as busy:
                error = busy
            finally:
                self.progress.budget.release(guess, most)
            if reply is not None:
                self._note_answer(key, reply, guess)
                return True
            assert error is not None
            last = attempt + 1 == self._options.attempts
            if not self._met and not error.connected and attempt + 1 >= _TRIES_TO_CONNECT:
                raise error
            if not last:
                self.progress.retries += 1
                await self._rest(attempt, error.pause)
        self.progress.failed += 1
        self._store.failed(key, "failed", str(error))
        self._in_a_row += 1
        if self._in_a_row >= _FAILED_IN_A_ROW or not self._met:
            assert error is not None
            raise BusyError(f"{error}; given up, the same command resumes from here")
        return False

    async def _reserve(self, guess: int, most: int) -> None:
        """Set aside what a request may cost, when others under way have shown what they cost."""
        budget = self.progress.budget
        while not budget.reserve(guess, most):
            if not budget.reserved_tokens:
                self.progress.stopped = self.progress.stopped or "the budget is used up"
                self._stopping = True
            if self._stopping:
                raise _Stop
            await asyncio.sleep(0.05)

    def _note_answer(self, key: str, reply: Reply, guess: int) -> None:
        prompt = guess if reply.prompt_tokens is None else reply.prompt_tokens
        said = guess_tokens(len(reply.text)) if reply.completion_tokens is None else reply.completion_tokens
        if not self._met:
            self._questioner.note_first_answer(self._store)
        self._store.answered(key, self._questioner.model, reply.text, prompt, said)
        self.progress.budget.spend(prompt, said)
        self._rate_limiter.correct(prompt + said - guess)
        self.progress.answered += 1
        self._in_a_row = 0

    def _note_refused(self, key: str, refused: RefusedError) -> bool:
        if not self._met and self._questioner.change_after_refusal(refused, self._store):
            return True
        self.progress.refused += 1
        self._store.failed(key, "refused", str(refused))
        self._in_a_row += 1
        if self._in_a_row >= _FAILED_IN_A_ROW:
            raise AccessError(f"{_FAILED_IN_A_ROW} requests in a row were refused, the last one so: {refused}")
        return True

    async def _rest(self, attempt: int, pause: float | None) -> None:
        """Wait before the next attempt: twice as long each time, with jitter, and as long as the server asks."""
        wait = min(_LONGEST_WAIT, self._options.first_wait * 2**attempt) * self._random.uniform(0.5, 1.5)
        if pause is not None:
            self._rate_limiter.pause(pause)
            wait = pause + self._options.first_wait * self._random.uniform(0.0, 1.0)
        until = asyncio.get_running_loop().time() + wait
        while (left := until - asyncio.get_running_loop().time()) > 0:
            if self._stopping:
                raise _Stop
            await asyncio.sleep(min(left, 0.5))


async def _one_of(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that still run when at least one has ended; an error of one is raised."""
    done, left = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()
    return left
