"""Continuous batching: how an answer is begun, generated and ended; what was computed for one serves the next.

Runs in the scheduler's thread only. The rules of a dialogue are those of `inference.conversation`, for many at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llava_grounding.inference.answering import (
    AnswerRequest,
    PhraseSelected,
    PrefixCache,
    RunningAnswer,
    TextDelta,
    prefill_answers,
)
from llava_grounding.inference.batching import KVCache, RunningBatch
from llava_grounding.inference.conversation import question_message
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.inference.runtime import ImageContext
from llava_grounding.serve.caches import ByteBudgetCache
from llava_grounding.serve.jobs import AnswerWritten, Event, Failed, Job
from llava_grounding.serve.metrics import Metrics
from llava_grounding.serve.settings import ServeSettings
from llava_grounding.serve.stopping import StopTexts
from llava_grounding.serve.tasks import ChatTask
from llava_grounding.structures import Message

ImageResults = Mapping[bytes, ImageContext | Exception]
"""By the key of its picture, an image, or why it could not be encoded."""
DialogueKey = tuple[object, ...]


@dataclass(frozen=True)
class CachedDialogue:
    """A dialogue up to an answer and with it, as it is cached."""

    prefix: PrefixCache
    raws: tuple[str, ...]
    """Its answers with their markup."""


@dataclass(eq=False)
class ActiveRequest:
    """A request whose answer is being generated."""

    job: Job
    task: ChatTask
    running: RunningAnswer
    stops: StopTexts
    raws: tuple[str, ...]
    """Answers before this one."""
    cached_tokens: int
    held: list[PhraseSelected] = field(default_factory=list)
    """Phrases of which not all text has been given out."""
    done: bool = False


class ContinuousBatcher:
    """Begins, generates and ends answers; they join and leave its batch between any two tokens."""

    def __init__(self, chat: GroundedChat, settings: ServeSettings, metrics: Metrics) -> None:
        self._chat = chat
        self._runtime = chat.runtime
        self._metrics = metrics
        self._images: ByteBudgetCache[bytes, ImageContext] = ByteBudgetCache(settings.image_cache_bytes)
        self._dialogues: ByteBudgetCache[DialogueKey, CachedDialogue] = ByteBudgetCache(settings.dialogue_cache_bytes)
        # A model that reads old questions differently once there is a new one begins anew each time.
        self._keep = settings.dialogue_cache_bytes > 0 and not chat.processor.settings.demo_quirks
        self.reset()

    def reset(self) -> None:
        """Forget what is running."""
        self._batch = RunningBatch(self._runtime.model, self._keep)

    def encode_images(self, jobs: Sequence[Job]) -> ImageResults:
        """Encode the images of these jobs, those that are new in one pass."""
        results: dict[bytes, ImageContext | Exception] = {}
        new = {}
        for job in jobs:
            picture = job.task.picture
            known = self._images.get(picture.key)
            self._metrics.image_cache.labels("miss" if known is None else "hit").inc()
            if known is not None:
                results[picture.key] = known
            else:
                new[picture.key] = picture
        if not new:
            return results
        try:
            images = self._runtime.encode_prepared([one.encoded for one in new.values()], [None] * len(new))
        except Exception as error:  # noqa: BLE001  those who ask about these images are told; answers that run go on
            return {**results, **dict.fromkeys(new, error)}
        for key, image in zip(new, images, strict=True):
            results[key] = image
            self._keep_image(key, image)
        return results

    def _keep_image(self, key: bytes, image: ImageContext) -> None:
        self._images.put(key, image, image.features.nbytes)
        self._metrics.cache_bytes.labels("images").set(self._images.nbytes)

    def image_of(self, job: Job, results: ImageResults) -> ImageContext:
        """The image of a job, encoded."""
        image = results[job.task.picture.key]
        if isinstance(image, Exception):
            raise image
        return image

    def begin(self, job: Job, results: ImageResults) -> ActiveRequest:
        """Read a dialogue up to where its next answer begins, as far as it has not been read before."""
        task, image = job.task, self.image_of(job, results)
        assert isinstance(task, ChatTask)
        known = self._known(task)
        request = self._request(task, image, known)
        ids = request.texts[0].input_ids
        start = self._start_of(task, ids) if request.prefix is None else None
        [prefilled] = prefill_answers(self._runtime, [request if start is None else request.after_prefix(start)])
        if any(len(text.prompts.types) for text in request.texts):
            self._keep_image(task.picture.key, image)  # it may have grown by what the visual prompt encoder reads
        prefix = prefilled.request.prefix
        if prefix is None:
            self._keep_start(task, ids, prefilled.kv_cache)
        cached = 0 if prefix is None else prefix.kv_cache.length
        self._metrics.prompt_tokens.inc(request.length - cached)
        self._metrics.dialogue_cache.labels("miss" if known is None else "hit").inc()
        raws = tuple(turn.raw for turn in task.turns) if known is None else known.raws
        return ActiveRequest(job, task, prefilled.join(self._batch), StopTexts(task.stop), raws, cached)

    def _request(self, task: ChatTask, image: ImageContext, known: CachedDialogue | None) -> AnswerRequest:
        history: list[Message] = []
        for turn in task.turns:
            history += [question_message(turn.question.text, turn.question.prompts), Message("assistant", turn.raw)]
        return AnswerRequest.encode(
            self._runtime,
            image,
            question_message(task.question.text, task.question.prompts),
            task.grounded,
            task.decoding,
            history=history,
            history_grounded=[turn.grounded for turn in task.turns],
            prefix=None if known is None else known.prefix,
            stream=task.stream,
        )

    def _start_length(self, ids: Sequence[int]) -> int:
        """How many ids up to the image's end are the same for every first question about it; most of a short prompt."""
        tokens = self._chat.processor.tokens.ids
        count = 1 + max((place for place, token in enumerate(ids) if token == tokens.image), default=-1)
        return 0 if tokens.region in ids[:count] else count

    def _start_of(self, task: ChatTask, ids: Sequence[int]) -> KVCache | None:
        """The cache of a dialogue about the same image, up to the image's end."""
        count = self._start_length(ids) if self._keep else 0
        known = self._dialogues.get((task.picture.key, tuple(ids[:count]))) if count else None
        return None if known is None else known.prefix.kv_cache

    def _keep_start(self, task: ChatTask, ids: Sequence[int], kv_cache: KVCache) -> None:
        count = self._start_length(ids) if self._keep else 0
        if count:
            start = kv_cache.first(count)
            key = (task.picture.key, tuple(ids[:count]))
            self._dialogues.put(key, CachedDialogue(PrefixCache(start), ()), start.nbytes)

    def _known(self, task: ChatTask) -> CachedDialogue | None:
        """The dialogue before this question, if the answers in it are the ones that were given."""
        if not task.turns or not self._keep:
            return None
        pairs = [(turn.question.key, turn.answer) for turn in task.turns]
        known = self._dialogues.get((task.picture.key, *pairs))
        if known is None:
            return None
        same = all(not turn.grounded or turn.raw == raw for turn, raw in zip(task.turns, known.raws, strict=True))
        return known if same else None

    def sample_tokens(self, requests: Sequence[ActiveRequest]) -> None:
        """Choose the next token of every answer that has none to be read, and tell what came of it."""
        self._metrics.tokens.inc(sum(not active.running.generation.unread for active in requests if not active.done))
        self._batch.sample_tokens()
        self._take_all(requests)

    def decode_tokens(self, requests: Sequence[ActiveRequest]) -> None:
        """Read the tokens that were chosen, and tell what came of it."""
        self._batch.decode_tokens()
        self._take_all(requests)

    def _take_all(self, requests: Sequence[ActiveRequest]) -> None:
        for active in requests:
            if not active.done:
                self._take(active)

    def _take(self, active: ActiveRequest) -> None:
        try:
            events = self._events(active)
        except Exception as error:  # noqa: BLE001  what is wrong with one answer harms no other
            self.give_up(active)
            events = [Failed(error)]
        for event in events:
            active.job.emit(event)

    def give_up(self, active: ActiveRequest) -> None:
        """End an answer that nobody gets."""
        active.done = True
        if not active.running.generation.done:
            self._batch.leave(active.running.generation)

    def _events(self, active: ActiveRequest) -> list[Event]:
        generation, stops, events = active.running.generation, active.stops, list[Event]()
        for event in active.running.take():
            if isinstance(event, PhraseSelected):
                active.held.append(event)
                events += self._release(active)
            else:
                events += self._said(active, stops.feed(event.text))
        if stops.found and not generation.done:
            self._batch.leave(generation)
            active.running.take()  # nothing of it is given out
        if generation.done:
            events += self._said(active, stops.finish())
            events.append(self._end(active))
            active.done = True
        return events

    def _said(self, active: ActiveRequest, text: str) -> list[Event]:
        """Text that may be given out, and the phrases that waited for it."""
        return [*([TextDelta(text)] if text else []), *self._release(active)]

    def _release(self, active: ActiveRequest) -> list[Event]:
        """Phrases whose text has been given out."""
        held, ready = active.held, 0
        while ready < len(held) and held[ready].span.span[1] <= active.stops.length:
            ready += 1
        active.held = held[ready:]
        return list(held[:ready])

    def _end(self, active: ActiveRequest) -> AnswerWritten:
        """Ground all phrases together and keep what was read for the next question."""
        running, stops = active.running, active.stops
        if not stops.found:
            self._keep_dialogue(active)
        return AnswerWritten(
            running.transcript,
            running.selections(),
            running.image.letterbox,
            running.grounded,
            self._chat.name,
            running.prompt_tokens,
            active.cached_tokens,
            stops.length if stops.found else None,
        )

    def _keep_dialogue(self, active: ActiveRequest) -> None:
        running, task = active.running, active.task
        kv_cache, transcript = running.generation.kv_cache, running.transcript
        if kv_cache is None or not self._keep:
            return
        pairs = [(turn.question.key, turn.answer) for turn in task.turns]
        key = (task.picture.key, *pairs, (task.question.key, transcript.text))
        dialogue = CachedDialogue(running.prefix_cache(), (*active.raws, transcript.raw))
        self._dialogues.put(key, dialogue, kv_cache.nbytes)
        self._metrics.cache_bytes.labels("dialogues").set(self._dialogues.nbytes)
