"""The work behind the routes: bodies to tasks in a few threads, tasks to the scheduler, events to answers.

The event loop only waits. Whatever takes time in proportion to a picture or a body is done in threads.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from llava_grounding.errors import quoted
from llava_grounding.inference.answering import PhraseSelected, TextDelta
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.processing.text_length import check_characters_fit
from llava_grounding.render import answer_to_html, draw_answer
from llava_grounding.serve import wire
from llava_grounding.serve.disconnects import unless_left
from llava_grounding.serve.event_bridge import EventBridge
from llava_grounding.serve.fetching import Fetcher
from llava_grounding.serve.images import ImageReader
from llava_grounding.serve.jobs import AnswerWritten, Event, Failed, Job, PhrasesFound
from llava_grounding.serve.metrics import Metrics
from llava_grounding.serve.problems import ApiError, from_error, from_validation, too_slow
from llava_grounding.serve.scheduler import Scheduler
from llava_grounding.serve.schemas import ChatRequest, GroundRequest, RenderRequest
from llava_grounding.serve.settings import ServeSettings
from llava_grounding.serve.tasks import ChatTask, GroundTask, chat_task, grounding_options, num_characters
from llava_grounding.structures import GroundedAnswer, GroundedPhrase

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
_READERS = 2  # threads that decode pictures, draw, and unpack masks; each may hold one large picture
_GRACE_TO_TELL = 2.0  # seconds after its deadline that the scheduler has to say so itself
_LOG = logging.getLogger(__name__)


class Service:
    """What the server does.

    Args:
        chat: from `start` on used by nobody else.
    """

    def __init__(self, chat: GroundedChat, settings: ServeSettings, metrics: Metrics) -> None:
        self._chat = chat
        self._settings = settings
        self._metrics = metrics
        self._created = int(time.time())
        self.scheduler = Scheduler(chat, settings, metrics)
        fetch = (
            Fetcher(settings.fetch_hosts, settings.image_limits.max_bytes, settings.fetch_timeout_seconds)
            if settings.fetch_hosts
            else None
        )
        self.images = ImageReader(chat.processor.encode_image, settings.image_limits, fetch)
        self._bridge: EventBridge | None = None
        self._threads = ThreadPoolExecutor(_READERS, "reader")

    def start(self) -> None:
        """Begin."""
        self.scheduler.start()

    async def close(self) -> None:
        """End; what is left is refused."""
        await asyncio.to_thread(self.scheduler.close)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._chat.name

    @property
    def healthy(self) -> bool:
        """The thread of the model lives."""
        return self.scheduler.alive

    @property
    def ready(self) -> bool:
        """Requests are taken."""
        return self.scheduler.alive and not self.scheduler.draining

    def card(self) -> dict[str, Any]:
        """The model as `/v1/models` shows it."""
        selection = self._chat.processor.settings.selection
        return {
            "id": self._chat.name,
            "object": "model",
            "created": self._created,
            "owned_by": "llava-grounding",
            "score_threshold": selection.score_threshold,
            "doubt_threshold": selection.doubt_threshold,
            "max_model_len": self._chat.runtime.max_positions,
        }

    def check_model(self, name: str | None) -> None:
        """Refuse another model than the one that is served."""
        if name is not None and name != self._chat.name:
            said = f"there is no model {quoted(name)}; this server has {quoted(self._chat.name)}"
            raise ApiError(404, said, "model_not_found", "model")

    async def chat(self, request: Request) -> dict[str, Any] | AsyncIterator[bytes]:
        """An answer, at once or as events."""
        began = time.monotonic()
        deadline = began + self._settings.timeout_seconds
        body, task = await self._read(request, ChatRequest, deadline, self._chat_task)
        events = self._events(task, began, deadline)
        if body.stream:
            first = await unless_left(request, anext(events))  # a question's faults are told by the status
            return self._stream(request, body, first, events)
        async with aclosing(events):
            return await unless_left(request, self._whole(request, body, events))

    def _chat_task(self, body: ChatRequest) -> ChatTask:
        self.check_model(body.model)
        longest_token, limit = self._chat.processor.tokens.longest, self._chat.runtime.max_positions
        check_characters_fit(num_characters(body.messages), longest_token, limit)
        return chat_task(body, self.images, self._settings)

    async def _whole(self, request: Request, body: ChatRequest, events: AsyncIterator[Event]) -> dict[str, Any]:
        written = None
        async for event in events:
            if isinstance(event, AnswerWritten):
                written = event
        assert written is not None
        options = grounding_options(body)
        answer = await self.in_thread(written.answer)
        self._check_required(body, answer)
        _note(request, written)
        completion = wire.Completion(self._chat.name, options.masks)
        return await self.in_thread(lambda: completion.whole(written, answer))

    def _check_required(self, body: ChatRequest, answer: GroundedAnswer) -> None:
        if grounding_options(body).mode == "required" and not any(phrase.regions for phrase in answer.phrases):
            raise ApiError(422, "the answer has no region, and grounding is required", "nothing_grounded", "grounding")

    async def _stream(
        self, request: Request, body: ChatRequest, first: Event, events: AsyncGenerator[Event]
    ) -> AsyncIterator[bytes]:
        completion = wire.Completion(self._chat.name, grounding_options(body).masks)
        # Sent together, as far as it comes together: each piece that is sent costs as much as what is in ten of them.
        sent, event = wire.event(completion.first()), first
        async with aclosing(events):
            try:
                while True:
                    for value in await self._chunks(request, body, completion, event):
                        sent += wire.event(value)
                    if isinstance(event, AnswerWritten):
                        break
                    yield sent
                    sent = b""
                    event = await anext(events)
            except Exception as error:  # noqa: BLE001  the status has been sent: what went wrong is the last event
                sent += wire.event(self.problem(error).body())
            yield sent + wire.DONE

    async def _chunks(
        self, request: Request, body: ChatRequest, completion: wire.Completion, event: Event
    ) -> list[dict[str, Any]]:
        """The chunks that an event makes."""
        if isinstance(event, TextDelta):
            return [completion.text(event.text)]
        if isinstance(event, PhraseSelected):
            closed = event
            return [await self.in_thread(lambda: completion.phrase(closed.phrase(self._chat.processor, packed=True)))]
        if not isinstance(event, AnswerWritten):
            return []
        written = event
        answer = await self.in_thread(written.answer)
        self._check_required(body, answer)
        _note(request, written)
        chunks = [await self.in_thread(lambda: completion.last(written, answer))]
        if body.stream_options is not None and body.stream_options.include_usage:
            chunks.append(completion.usage(written))
        return chunks

    async def ground(self, request: Request) -> dict[str, Any]:
        """Regions of phrases."""
        began = time.monotonic()
        deadline = began + self._settings.timeout_seconds
        body, task = await self._read(request, GroundRequest, deadline, self._ground_task)
        events = self._events(task, began, deadline)
        async with aclosing(events):
            found = await unless_left(request, anext(events))
        assert isinstance(found, PhrasesFound)
        return {
            "object": "grounding",
            "model": self._chat.name,
            "image_size": list(task.picture.size_wh),
            "phrases": await self.in_thread(
                lambda: [wire.phrase_value(one, body.masks) for one in found.phrases(self._chat.processor)]
            ),
        }

    def _ground_task(self, body: GroundRequest) -> GroundTask:
        self.check_model(body.model)
        if len(body.phrases) > self._settings.max_phrases:
            said = f"a request may have at most {self._settings.max_phrases} phrases, got {len(body.phrases)}"
            raise ApiError(400, said, "invalid_value", "phrases")
        return GroundTask(self.images.read(body.image.url), tuple(body.phrases), body.threshold)

    async def last(self, task: ChatTask | GroundTask) -> AnswerWritten | PhrasesFound:
        """What comes of a task in the end."""
        began = time.monotonic()
        event: Event | None = None
        events = self._events(task, began, began + self._settings.timeout_seconds)
        async with aclosing(events):
            async for event in events:  # noqa: B007  the last is what is wanted
                pass
        assert isinstance(event, (AnswerWritten, PhrasesFound))
        return event

    def phrases(self, found: PhrasesFound) -> list[GroundedPhrase]:
        """Phrases with their regions in the picture; takes time in proportion to them."""
        return found.phrases(self._chat.processor)

    async def render(self, request: Request) -> tuple[bytes, str]:
        """A file of an answer, and its type."""
        deadline = time.monotonic() + self._settings.timeout_seconds
        _, rendered = await self._read(request, RenderRequest, deadline, self._rendered)
        return rendered

    def _rendered(self, body: RenderRequest) -> tuple[bytes, str]:
        answer = GroundedAnswer.from_dict(body.answer, self._settings.image_limits)
        if body.format == "coco":
            return json.dumps(answer.to_coco(body.file_name)).encode(), "application/json"
        picture = self.images.picture(body.image.url)
        if picture.size != answer.image_size_wh:
            (width, height), (wide, high) = answer.image_size_wh, picture.size
            message = f"the answer is about an image of {width}x{height} pixels, and this one has {wide}x{high}"
            raise ApiError(400, message, "invalid_value", "image")
        if body.format == "html":
            return answer_to_html(picture, answer).encode(), "text/html"
        buffer = io.BytesIO()
        draw_answer(picture, answer).save(buffer, "PNG")
        return buffer.getvalue(), "image/png"

    async def _read(
        self, request: Request, kind: type[Body], deadline: float, then: Callable[[Body], Result]
    ) -> tuple[Body, Result]:
        """The body as it should be, and what is made of it."""
        data = await request.body()

        def work() -> tuple[Body, Result]:
            body = _parsed(data, kind)
            return body, then(body)

        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self.in_thread(work)
        except TimeoutError:
            raise too_slow() from None
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets no text of it
            raise self.problem(error) from None

    def problem(self, error: Exception) -> ApiError:
        """What a client is told; the rest goes to the log."""
        problem = from_error(error)
        if problem.status == 500:
            _LOG.error("a request failed", exc_info=error)
        return problem

    async def _events(self, task: ChatTask | GroundTask, began: float, deadline: float) -> AsyncGenerator[Event]:
        """What the scheduler tells of a task, until its last event; leaving it cancels the task."""
        loop, queue, bridge = asyncio.get_running_loop(), asyncio.Queue[Event](), self._bridge_to_loop()
        job = Job(task, lambda event: bridge.put(queue, event), deadline)
        self.scheduler.submit(job)
        left = max(deadline - time.monotonic(), 0) + _GRACE_TO_TELL
        timer = loop.call_later(left, queue.put_nowait, Failed(too_slow()))
        text_came = False
        try:
            while True:
                event = await queue.get()
                if isinstance(event, Failed):
                    raise self.problem(event.error)
                if not text_came and isinstance(event, TextDelta):
                    text_came = True
                    self._metrics.first_token_seconds.observe(time.monotonic() - began)
                yield event
                if isinstance(event, (AnswerWritten, PhrasesFound)):
                    return
        finally:
            timer.cancel()
            self.scheduler.cancel(job)

    def _bridge_to_loop(self) -> EventBridge:
        """The way from the scheduler's thread to the loop that runs."""
        loop = asyncio.get_running_loop()
        if self._bridge is None or self._bridge.loop is not loop:
            self._bridge = EventBridge(loop)
        return self._bridge

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """What takes time, in one of a few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _parsed(data: bytes, kind: type[Body]) -> Body:
    """A body of JSON, checked."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False), _plain(data)) from None


def _plain(data: bytes) -> Any:
    """A body as plain values; None if it is no JSON."""
    try:
        return from_json(data)
    except ValueError:
        return None


def _note(request: Request, written: AnswerWritten) -> None:
    """Keep the counts of an answer for the access log."""
    request.state.notes.update(
        prompt_tokens=written.prompt_tokens,
        cached_tokens=written.cached_tokens,
        completion_tokens=written.completion_tokens,
        finish_reason=written.finish_reason,
    )
