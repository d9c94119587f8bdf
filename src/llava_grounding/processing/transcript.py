"""One answer as it is written: token ids and phrase states come in, text, phrases and at last the answer go out.

Runs no model. What a phrase is decides `markup`, what it keeps decides the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from llava_grounding.geometry import Letterbox
from llava_grounding.markup import SEG, PhraseSpan, StreamParser, strip_markup
from llava_grounding.structures import GroundedAnswer

if TYPE_CHECKING:
    from llava_grounding.processing.processor import LlavaGroundingProcessor
    from llava_grounding.processing.selection import PhraseSelection


@dataclass(frozen=True)
class ClosedPhrase:
    """A phrase whose `<seg>` has been written and whose state is known."""

    number: int
    """Its place among the phrases of the answer, from 0."""
    span: PhraseSpan
    num_states: int
    """How many phrase states the answer had up to and with this one's, which is the last of them."""


class Transcript:
    """Collects the tokens of one answer into its text and phrases."""

    def __init__(self, processor: LlavaGroundingProcessor) -> None:
        self._processor = processor
        self._decoder = processor.tokens.decoder()
        self._parser = StreamParser()
        self._prefix = processor.settings.template.answer_prefix
        self._raw = ""
        self._begun = False  # the prefix has been taken off
        self._segs: list[int] = []  # per `<seg>` token, which `<seg>` of the raw text it is
        self._waiting: list[tuple[int, PhraseSpan]] = []
        self._num_phrases = 0
        self.ids: list[int] = []
        """Every token the model wrote, the end token too."""
        self.states: list[Tensor] = []
        """Per `<seg>` token, in order."""

    @property
    def raw(self) -> str:
        """The text with its markup, so far."""
        return self._raw

    @property
    def text(self) -> str:
        """The plain text, once the answer is finished."""
        return strip_markup(self._raw)

    @property
    def ended(self) -> bool:
        """The model wrote its end token."""
        return bool(self.ids) and self.ids[-1] == self._processor.tokens.ids.eos

    def take_token(self, token: int) -> str:
        """Take the next token and give the text it makes certain."""
        self.ids.append(token)
        delta = self._take_raw(self._decoder.feed(token))
        if token == self._processor.tokens.ids.seg:
            # A model may also spell `<seg>` out in plain tokens: the text then has more of them than there are states.
            self._segs.append(self._raw.count(SEG) - 1)
        return delta

    def take_state(self, state: Tensor) -> None:
        """Take the phrase state of the next `<seg>`."""
        self.states.append(state)

    def finish(self) -> str:
        """End the answer and give the text that was held back."""
        delta = self._take_raw(self._decoder.finish(), last=True)
        closing = self._parser.finish()
        self._wait_for(closing.phrases)
        return delta + closing.text

    def closed_phrases(self) -> list[ClosedPhrase]:
        """Phrases that are complete, with their state, since the last call; those spelled without `<seg>` never are."""
        known = {seg: number for number, seg in enumerate(self._segs[: len(self.states)], start=1)}
        ready = [
            ClosedPhrase(number, span, known[span.seg_index])
            for number, span in self._waiting
            if span.seg_index in known
        ]
        self._waiting = [(number, span) for number, span in self._waiting if span.seg_index not in known]
        return ready

    def answer(
        self,
        selections: Sequence[PhraseSelection],
        letterbox: Letterbox,
        *,
        grounded: bool,
        model: str,
        prompt_tokens: int,
        image: Image.Image | None,
        packed: bool = False,
    ) -> GroundedAnswer:
        """The answer, once it is finished.

        Args:
            selections: one per phrase state.
            grounded: False leaves out phrases that the model marked unasked.
            packed: keep masks as run-length codes; see `decode_regions` of the processor.
        """
        by_seg: list[PhraseSelection | None] = [None] * self._raw.count(SEG)
        for seg, selection in zip(self._segs, selections, strict=False):
            by_seg[seg] = selection
        answer = self._processor.decode_answer(
            self._raw,
            by_seg,
            letterbox,
            model=model,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(self.ids) - self.ended,
            image=image,
            packed=packed,
        )
        return answer if grounded else replace(answer, phrases=())

    def _take_raw(self, piece: str, last: bool = False) -> str:
        self._raw += piece
        if not self._begun:
            # The blank between `ASSISTANT:` and the answer is the template's; it may come in pieces.
            if not last and len(self._raw) < len(self._prefix) and self._prefix.startswith(self._raw):
                return ""
            self._begun = True
            self._raw = piece = self._raw.removeprefix(self._prefix)
        delta = self._parser.feed(piece)
        self._wait_for(delta.phrases)
        return delta.text

    def _wait_for(self, phrases: Sequence[PhraseSpan]) -> None:
        for span in phrases:
            self._waiting.append((self._num_phrases, span))
            self._num_phrases += 1
