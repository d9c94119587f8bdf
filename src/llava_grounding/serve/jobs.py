"""A task on its way through the scheduler, and what comes back from it, event by event.

What crosses between threads is here; knows no HTTP and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llava_grounding.geometry import Letterbox
from llava_grounding.inference.answering import PhraseSelected, TextDelta
from llava_grounding.markup import PhraseSpan, format_markup
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.selection import PhraseSelection
from llava_grounding.processing.transcript import Transcript
from llava_grounding.serve.tasks import ChatTask, GroundTask
from llava_grounding.structures import GroundedAnswer, GroundedPhrase


@dataclass(frozen=True)
class AnswerWritten:
    """An answer is complete; its regions are still in the model's frame."""

    transcript: Transcript
    selections: Sequence[PhraseSelection]
    letterbox: Letterbox
    grounded: bool
    model: str
    prompt_tokens: int
    cached_tokens: int
    """How many of them had been read before."""
    cut_at: int | None
    """Characters of the text before a stop text; None if none came."""

    @property
    def completion_tokens(self) -> int:
        """What the model wrote, without its end token."""
        return len(self.transcript.ids) - self.transcript.ended

    @property
    def finish_reason(self) -> str:
        """Why the answer ended, in the words of OpenAI's API."""
        return "stop" if self.transcript.ended or self.cut_at is not None else "length"

    def answer(self) -> GroundedAnswer:
        """The answer with its regions in the picture; takes time in proportion to its size."""
        answer = self.transcript.answer(
            self.selections,
            self.letterbox,
            grounded=self.grounded,
            model=self.model,
            prompt_tokens=self.prompt_tokens,
            image=None,
            packed=True,
        )
        return answer if self.cut_at is None else cut_answer(answer, self.cut_at)


@dataclass(frozen=True)
class PhrasesFound:
    """What a `GroundTask` asked for."""

    found: Sequence[tuple[PhraseSpan, PhraseSelection]]
    letterbox: Letterbox

    def phrases(self, processor: LlavaGroundingProcessor) -> list[GroundedPhrase]:
        """The phrases with their regions in the picture."""
        return [
            processor.decode_phrase(span, number, selection, self.letterbox, packed=True)
            for number, (span, selection) in enumerate(self.found)
        ]


@dataclass(frozen=True)
class Failed:
    """The task was not done; the last event, as are `AnswerWritten` and `PhrasesFound`."""

    error: Exception


Event = TextDelta | PhraseSelected | AnswerWritten | PhrasesFound | Failed


@dataclass(eq=False)
class Job:
    """A task, whom to emit, and until when.

    Args:
        emit: called from the scheduler's thread with every event; must not wait.
        deadline: of `time.monotonic`.
    """

    task: ChatTask | GroundTask
    emit: Callable[[Event], None]
    deadline: float
    cancelled: bool = False
    """Nobody waits for it any more; set from any thread."""


def cut_answer(answer: GroundedAnswer, length: int) -> GroundedAnswer:
    """The first characters of an answer, with the phrases that are whole in them."""
    text = answer.text[:length]
    phrases = tuple(phrase for phrase in answer.phrases if phrase.span[1] <= length)
    return GroundedAnswer(
        text,
        phrases,
        answer.image_size_wh,
        format_markup(text, [phrase.span for phrase in phrases]),
        answer.model,
        answer.prompt_tokens,
        answer.completion_tokens,
    )
