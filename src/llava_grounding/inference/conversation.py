"""A dialogue about one image: what has been read and computed is kept, so that a question costs only what is new.

Knows no files and no checkpoints; the pieces come from `engine.GroundedChat`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Unpack

from llava_grounding.errors import PromptError, UsageError
from llava_grounding.inference.answering import AnswerRequest, PrefixCache, RunningAnswer, TextDelta, prefill_answers
from llava_grounding.inference.batching import RunningBatch
from llava_grounding.inference.decoding import GenerationOptions, StopSignal, read_options
from llava_grounding.inference.runtime import ImageContext, Runtime
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Message, VisualPrompt

MAX_PROMPTS = 32
"""Visual prompts one question may have."""


@dataclass(frozen=True)
class RegionsFound:
    """A phrase has closed, and this is what was found for it.

    The same phrase comes again in the final answer: with the same regions where the image alone picks the object
    queries (`phrase_queries: image`, as in `nano`). Where the phrases pick them together, as in the original, a later
    phrase may still change the regions of an earlier one a little, and those of the final answer count.
    """

    phrase: GroundedPhrase


@dataclass(frozen=True)
class AnswerDone:
    """The answer is complete; exactly what `ask` would have returned."""

    answer: GroundedAnswer


StreamEvent = TextDelta | RegionsFound | AnswerDone


class Conversation:
    """Questions and answers about one image; made by `GroundedChat.conversation`.

    An answer that was cut short, by the token limit or by `stop`, is part of the dialogue as far as it came. One that
    failed, or whose stream was left before its end, is not: the next question goes on from the last complete answer.
    To be used by one thread at a time.

    Args:
        messages: a dialogue held earlier, to go on from: user and assistant in turn, ending with the assistant.
        grounded: per question of it, whether its answer was to be grounded.

    Raises:
        PromptError: if roles do not alternate, or a question does not fit its prompts.
    """

    def __init__(
        self,
        runtime: Runtime,
        image: ImageContext,
        model_name: str,
        messages: Sequence[Message] = (),
        grounded: Sequence[bool] = (),
    ) -> None:
        self._runtime = runtime
        self._image = image
        self._model_name = model_name
        _check_history(runtime, image, messages, grounded)
        self._prefix: PrefixCache | None = None  # complete turns
        self._messages = tuple(messages)
        self._grounded = tuple(grounded)
        self._answers: tuple[GroundedAnswer, ...] = ()
        self._turn: object = None  # of the question being answered

    @property
    def messages(self) -> tuple[Message, ...]:
        """Questions and raw answers so far, in turn."""
        return self._messages

    @property
    def answers(self) -> tuple[GroundedAnswer, ...]:
        """The answers given in this conversation."""
        return self._answers

    def ask(
        self,
        question: str,
        prompts: Sequence[VisualPrompt] = (),
        grounded: bool = True,
        **generation: Unpack[GenerationOptions],
    ) -> GroundedAnswer:
        """Answer the next question; see `GroundedChat.ask` for the arguments."""
        *_, done = self._start(question, prompts, grounded, generation, stream=False)
        assert isinstance(done, AnswerDone)
        return done.answer

    def stream(
        self,
        question: str,
        prompts: Sequence[VisualPrompt] = (),
        grounded: bool = True,
        **generation: Unpack[GenerationOptions],
    ) -> Iterator[StreamEvent]:
        """Like `ask`, as it comes: text, regions of each phrase as soon as it closes, and the answer as last event.

        A question that cannot be asked raises here, before the first event.
        """
        return self._start(question, prompts, grounded, generation, stream=True)

    def _start(
        self,
        question: str,
        prompts: Sequence[VisualPrompt],
        grounded: bool,
        generation: GenerationOptions,
        stream: bool,
    ) -> Iterator[StreamEvent]:
        decoding, stop = read_options(generation)
        message = question_message(question, prompts)
        request = AnswerRequest.encode(
            self._runtime,
            self._image,
            message,
            grounded,
            decoding,
            history=self._messages,
            history_grounded=self._grounded,
            prefix=self._prefix,
            stream=stream,
        )
        self._turn = turn = object()
        return self._events(turn, message, request, stop)

    def _events(
        self, turn: object, message: Message, request: AnswerRequest, stop: StopSignal | None
    ) -> Iterator[StreamEvent]:
        self._check_turn(turn)
        runtime = self._runtime
        batch = RunningBatch(runtime.model)
        running = prefill_answers(runtime, [request])[0].join(batch)  # no name: the batch has its keys and values
        for _ in batch.generate(stop):
            for event in running.take():
                if isinstance(event, TextDelta):
                    yield event
                else:
                    yield RegionsFound(event.phrase(runtime.processor))
                self._check_turn(turn)
        answer = running.answer(self._model_name)
        self._keep(message, answer, running)
        yield AnswerDone(answer)

    def _keep(self, message: Message, answer: GroundedAnswer, running: RunningAnswer) -> None:
        """Make the turn part of the dialogue."""
        self._prefix = running.prefix_cache()
        self._messages = (*self._messages, message, Message("assistant", answer.raw))
        self._grounded = (*self._grounded, running.grounded)
        self._answers = (*self._answers, answer)

    def _check_turn(self, turn: object) -> None:
        if self._turn is not turn:
            raise UsageError("this answer was given up when the next question was asked; its stream cannot go on")


def _check_history(
    runtime: Runtime, image: ImageContext, messages: Sequence[Message], grounded: Sequence[bool]
) -> None:
    """Refuse an earlier dialogue that cannot be gone on from."""
    if len(messages) % 2 or len(grounded) != len(messages) // 2:
        raise PromptError(
            f"an earlier dialogue must be pairs of question and answer, with one `grounded` per pair, "
            f"got {len(messages)} messages and {len(grounded)} values"
        )
    for message in messages:
        _check_prompts(message.prompts)
    if messages:
        runtime.processor.encode_conversation(messages, grounded, image.letterbox, runtime.max_positions)


def question_message(question: str, prompts: Sequence[VisualPrompt]) -> Message:
    """A question with its visual prompts, checked as far as no image is needed."""
    if not isinstance(question, str):
        raise UsageError(f"the question must be text, got {type(question).__name__}")
    return Message("user", question, _check_prompts(prompts))


def _check_prompts(prompts: Sequence[VisualPrompt]) -> tuple[VisualPrompt, ...]:
    if not isinstance(prompts, (VisualPrompt, Iterable)):
        raise PromptError(f"prompts must be a list of VisualPrompt values, got {type(prompts).__name__}")
    given = (prompts,) if isinstance(prompts, VisualPrompt) else tuple(islice(prompts, MAX_PROMPTS + 1))
    if len(given) > MAX_PROMPTS:
        count = len(prompts) if isinstance(prompts, Sized) else "more"
        raise PromptError(f"a question may have at most {MAX_PROMPTS} region prompts, got {count}")
    for prompt in given:
        if not isinstance(prompt, VisualPrompt):
            raise PromptError(f"prompts must be VisualPrompt values, got {type(prompt).__name__}")
    return given
