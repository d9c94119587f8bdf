"""One thread that owns the model: requests wait in a bounded queue, join between tokens and leave when they are done.

Everything of the model and its tokenizer runs here, so that nothing of them is shared between threads. What a turn of
the loop does to an answer is in `continuous_batching`. Knows no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from llava_grounding.inference.engine import GroundedChat
from llava_grounding.serve.continuous_batching import ActiveRequest, ContinuousBatcher, ImageResults
from llava_grounding.serve.jobs import Failed, Job, PhrasesFound
from llava_grounding.serve.metrics import Metrics
from llava_grounding.serve.problems import busy, stopping, too_slow
from llava_grounding.serve.settings import ServeSettings
from llava_grounding.serve.tasks import GroundTask

_JOINS_PER_TURN = 4
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """How much there is to do."""

    waiting: int
    running: int


class Scheduler:
    """Runs jobs; `start` begins, `close` ends.

    Args:
        chat: used by nobody else from `start` on, but for what its processor does without the tokenizer.
    """

    def __init__(self, chat: GroundedChat, settings: ServeSettings, metrics: Metrics) -> None:
        self._chat = chat
        self._settings = settings
        self._metrics = metrics
        self._batcher = ContinuousBatcher(chat, settings, metrics)
        self._running: list[ActiveRequest] = []
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._draining = self._closed = False
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def load(self) -> Load:
        """How much there is to do now."""
        return Load(len(self._waiting), len(self._running))

    @property
    def draining(self) -> bool:
        """No more requests are taken."""
        return self._draining

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job in the queue.

        Raises:
            ApiError: if there is no place in it, or no more are taken.
        """
        with self._changed:
            if self._draining:
                raise stopping()
            room = self._settings.batch_size - len(self._running)
            if len(self._waiting) >= self._settings.queue_size + max(room, 0):
                raise busy()
            self._waiting.append(job)
            self._note_load()
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more; it is told nothing from now on."""
        job.cancelled = True
        with self._changed:
            self._changed.notify()

    def drain(self) -> None:
        """Take no more jobs; those there are go on for the time of grace, then they are refused."""
        with self._changed:
            if not self._draining:
                self._draining = True
                self._give_up_at = time.monotonic() + self._settings.grace_seconds
            self._changed.notify()

    def close(self, timeout: float = 10.0) -> None:
        """End now: what is left is refused."""
        with self._changed:
            self._draining = self._closed = True
            self._give_up_at = 0.0
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._running and not self._closed:
                    self._changed.wait()
                if self._closed and not self._waiting and not self._running:
                    return
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001  the thread goes on, whatever happened to some
                _LOG.exception("the model failed; what was running is refused")
                self._refuse_running(error)

    def _turn(self) -> None:
        """Let go whom nobody waits for, let others join, generate one token of every answer."""
        self._drop()
        joining = self._next()
        results = self._batcher.encode_images(joining)
        for job in joining:
            self._begin(job, results)
            self._batcher.sample_tokens(self._running)  # its first word does not wait for the next job to be read
        self._batcher.sample_tokens(self._running)
        self._batcher.decode_tokens(self._running)
        self._running = [active for active in self._running if not active.done]
        self._note_load()

    def _drop(self) -> None:
        now = time.monotonic()
        with self._changed:
            waiting = list(self._waiting)
            for job in waiting:
                if job.cancelled or now > min(job.deadline, self._give_up_at):
                    self._waiting.remove(job)
                    self._refuse(job, now)
        for active in list(self._running):
            if active.job.cancelled or now > min(active.job.deadline, self._give_up_at):
                self._batcher.give_up(active)
                self._running.remove(active)
                self._refuse(active.job, now)

    def _refuse(self, job: Job, now: float) -> None:
        if job.cancelled:
            self._metrics.cancelled.inc()
        else:
            job.emit(Failed(too_slow() if now > job.deadline else stopping()))

    def _next(self) -> list[Job]:
        """Jobs for which there is room."""
        with self._changed:
            count = min(self._settings.batch_size - len(self._running), _JOINS_PER_TURN, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)]

    def _begin(self, job: Job, results: ImageResults) -> None:
        try:
            if isinstance(job.task, GroundTask):
                image = self._batcher.image_of(job, results)
                found = self._chat.select_phrases(image, job.task.phrases, job.task.score_threshold)
                job.emit(PhrasesFound(found, image.letterbox))
            else:
                self._running.append(self._batcher.begin(job, results))
        except Exception as error:  # noqa: BLE001  one request that cannot be answered harms no other
            job.emit(Failed(error))

    def _refuse_running(self, error: Exception) -> None:
        for active in self._running:
            active.job.emit(Failed(error))
        self._running = []
        self._batcher.reset()
        self._note_load()

    def _note_load(self) -> None:
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.running.set(len(self._running))
