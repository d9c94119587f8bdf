"""One answer as its tokens come: what each adds to the text, and the regions of a phrase as soon as it closes.

Joins the token loop (`batching`) with the transcript and the grounder. `ask`, `stream`, `ask_batch` and the server all
take their answers from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llava_grounding.geometry import Letterbox
from llava_grounding.inference.batching import GenerationState
from llava_grounding.inference.runtime import Runtime, SeenImage
from llava_grounding.markup import PhraseSpan
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.selection import PhraseSelection
from llava_grounding.processing.transcript import Transcript
from llava_grounding.structures import GroundedAnswer, GroundedPhrase


@dataclass(frozen=True)
class TextDelta:
    """More of the answer's text. All of them together are the text of the final answer."""

    text: str


@dataclass(frozen=True)
class PhraseClosed:
    """A phrase is complete; its regions are still in the model's frame."""

    number: int
    span: PhraseSpan
    selection: PhraseSelection
    letterbox: Letterbox

    def phrase(self, processor: LlavaGroundingProcessor, packed: bool = False) -> GroundedPhrase:
        """The phrase with its regions in the picture; takes time in proportion to its size.

        Args:
            packed: keep masks as run-length codes.
        """
        return processor.decode_phrase(self.span, self.number, self.selection, self.letterbox, packed=packed)


class RunningAnswer:
    """An answer on its way.

    Args:
        prompt_tokens: positions before the answer.
        grounded: ask for regions.
        stream: ground each phrase when it closes, as well as all of them at the end.
        score_threshold: above which a region is kept; None is the model's own.
    """

    def __init__(
        self,
        runtime: Runtime,
        image: SeenImage,
        writing: GenerationState,
        prompt_tokens: int,
        grounded: bool,
        stream: bool = False,
        score_threshold: float | None = None,
    ) -> None:
        self._runtime, self._score_threshold = runtime, score_threshold
        self._stream = stream and grounded
        self._grounded: list[PhraseSelection] | None = None
        self._taken = 0  # tokens
        self._finished = False
        self.image, self.writing, self.prompt_tokens, self.grounded = image, writing, prompt_tokens, grounded
        self.transcript = Transcript(runtime.processor)

    def take(self) -> list[TextDelta | PhraseClosed]:
        """What has come since the last call; the text that was held back once the answer is done.

        Raises:
            LlavaGroundingError: if the model could not go on.
        """
        writing, events = self.writing, list[TextDelta | PhraseClosed]()
        if writing.error is not None:
            raise writing.error
        if self._finished:
            return events
        states, writing.states = writing.states, []
        for state in states:
            self.transcript.take_state(state)
        # Before the token: a model may know a state only when its `<seg>` has been read.
        events += self._closed()
        if writing.written > self._taken:
            assert writing.token is not None
            self._taken = writing.written
            text = self.transcript.take_token(writing.token)
            events += [TextDelta(text)] if text else []
            events += self._closed()
        if writing.done:
            self._finished = True
            text = self.transcript.finish()
            events += [TextDelta(text)] if text else []
        return events

    def _closed(self) -> list[PhraseClosed]:
        """Phrases that have just closed, grounded together with those before them."""
        if not self._stream:
            return []
        return [
            PhraseClosed(
                phrase.number,
                phrase.span,
                self._ground(phrase.num_states)[-1],
                self.image.letterbox,
            )
            for phrase in self.transcript.closed_phrases()
        ]

    def selections(self) -> list[PhraseSelection]:
        """What each phrase of the whole answer names, all grounded together; none if that was not asked for."""
        return list(self._ground(len(self.transcript.states))) if self.grounded else []

    def _ground(self, num_states: int) -> list[PhraseSelection]:
        """The first phrases grounded together; kept, as those of the last to close are most often those of the end."""
        if self._grounded is None or len(self._grounded) != num_states:
            states = self.transcript.states[:num_states]
            self._grounded = self._runtime.ground_together(self.image, states, self._score_threshold)
        return self._grounded

    def answer(self, model: str) -> GroundedAnswer:
        """The answer, once it is done.

        Args:
            model: what it calls the model.
        """
        return self.transcript.answer(
            self.selections(),
            self.image.letterbox,
            grounded=self.grounded,
            model=model,
            prompt_tokens=self.prompt_tokens,
            image=self.image.picture,
        )

    def unread(self) -> list[int]:
        """Ids that end the turn and that the model has not read; one that was cut short gets the end token it lacks."""
        transcript, kept = self.transcript, self.writing.kept
        assert kept is not None
        ids = transcript.ids if transcript.ended else [*transcript.ids, self._runtime.processor.tokens.ids.eos]
        return ids[kept.length - self.prompt_tokens :]
