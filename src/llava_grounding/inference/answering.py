"""One answer from its question to its end: how it begins, and what each token adds to its text and regions.

Joins the token loop (`batching`) with the transcript and the grounder. `ask`, `stream`, `ask_batch` and the server all
begin their answers here and take them from here. Knows one question and what was read before it; keeps no dialogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llava_grounding.geometry import Letterbox
from llava_grounding.inference.batching import GenerationState, KVCache, RunningBatch, prefill_batch
from llava_grounding.inference.decoding import Decoding
from llava_grounding.inference.runtime import ImageContext, Runtime
from llava_grounding.markup import PhraseSpan
from llava_grounding.processing.processor import EncodedText, LlavaGroundingProcessor
from llava_grounding.processing.selection import PhraseSelection
from llava_grounding.processing.text_length import check_tokens
from llava_grounding.processing.transcript import Transcript
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Message


@dataclass(frozen=True)
class PrefixCache:
    """Key/value cache of a dialogue up to the end of an answer."""

    kv_cache: KVCache
    unread: tuple[int, ...] = ()
    """Ids after it that the model has written and not read."""

    @property
    def length(self) -> int:
        """Positions of it, read or not."""
        return self.kv_cache.length + len(self.unread)


@dataclass(frozen=True)
class AnswerRequest:
    """A question that waits for its answer, encoded: what the model is still to read, and how to answer."""

    image: ImageContext
    texts: tuple[EncodedText, ...]
    """The question, and before it what has not been read of the dialogue."""
    prefix: PrefixCache | None
    """What has been read before these texts."""
    decoding: Decoding
    grounded: bool
    """Ask for regions."""
    stream: bool = False
    """Ground each phrase when it closes, as well as all of them at the end."""

    @classmethod
    def encode(
        cls,
        runtime: Runtime,
        image: ImageContext,
        question: Message,
        grounded: bool,
        decoding: Decoding,
        *,
        history: Sequence[Message] = (),
        history_grounded: Sequence[bool] = (),
        prefix: PrefixCache | None = None,
        stream: bool = False,
    ) -> AnswerRequest:
        """Encode a question, and see to it that the answer stays within the positions the model was made for.

        Args:
            history: the turns before the question; with `prefix` they have been read and are not encoded again.
            history_grounded: per question of them, whether its answer was to be grounded.

        Raises:
            PromptError: if a question is empty or does not fit its prompts.
            UsageError: if the dialogue fills the positions, so that no answer has room.
        """
        processor, letterbox, limit = runtime.processor, image.letterbox, runtime.max_positions
        if processor.settings.demo_quirks:  # a question then changes how what was said before it is read
            messages, flags = (*history, question), (*history_grounded, grounded)
            texts, prefix = [processor.encode_conversation(messages, flags, letterbox, limit)], None
        else:
            texts = [processor.encode_question(question, grounded, not history, letterbox, limit)]
            if history and prefix is None:
                texts.insert(0, processor.encode_conversation(history, history_grounded, letterbox, limit))
        request = cls(image, tuple(texts), prefix, decoding, grounded, stream)
        return request._fitted(limit)

    def _fitted(self, max_positions: int | None) -> AnswerRequest:
        if max_positions is None:
            return self
        check_tokens(self.length, max_positions, room=1)
        room = max_positions - self.length
        return replace(self, decoding=replace(self.decoding, max_new_tokens=min(self.decoding.max_new_tokens, room)))

    @property
    def length(self) -> int:
        """Positions up to where the answer begins."""
        return sum(len(text.input_ids) for text in self.texts) + (0 if self.prefix is None else self.prefix.length)

    def after_prefix(self, kv_cache: KVCache) -> AnswerRequest:
        """The same where the beginning of its first text, in which no visual prompt is, has been read already."""
        first, *others = self.texts
        rest = replace(
            first, input_ids=first.input_ids[kv_cache.length :], loss_mask=first.loss_mask[kv_cache.length :]
        )
        return replace(self, texts=(rest, *others), prefix=PrefixCache(kv_cache))

    def embed(self, runtime: Runtime) -> Tensor:
        """Embeddings `[1, T, D]` of what is to be read."""
        parts = [runtime.embed(text, self.image) for text in self.texts]
        if self.prefix is not None and self.prefix.unread:
            parts.insert(0, runtime.embed_ids(self.prefix.unread))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True, eq=False)
class PrefilledAnswer:
    """An answer of which everything before its first token has been read."""

    runtime: Runtime
    request: AnswerRequest
    hidden: Tensor
    """Last hidden state `[D]`."""
    kv_cache: KVCache
    """Keys and values of the whole dialogue."""

    def join(self, batch: RunningBatch) -> RunningAnswer:
        """Let it run with the others of a batch."""
        generation = batch.join(self.request.decoding, self.hidden, self.kv_cache)
        return RunningAnswer(self.runtime, self.request, generation)


def prefill_answers(runtime: Runtime, requests: Sequence[AnswerRequest]) -> list[PrefilledAnswer]:
    """Read what comes before each answer, as far as it has not been read before; new dialogues in one pass."""
    embeds = [request.embed(runtime) for request in requests]
    past = [None if request.prefix is None else request.prefix.kv_cache for request in requests]
    prefilled = prefill_batch(runtime.model, embeds, past)
    return [PrefilledAnswer(runtime, request, *one) for request, one in zip(requests, prefilled, strict=True)]


@dataclass(frozen=True)
class TextDelta:
    """More of the answer's text. All of them together are the text of the final answer."""

    text: str


@dataclass(frozen=True)
class PhraseSelected:
    """A phrase is complete and its regions are selected; they are still in the model's frame."""

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
    """An answer on its way."""

    def __init__(self, runtime: Runtime, request: AnswerRequest, generation: GenerationState) -> None:
        self._runtime, self._score_threshold = runtime, request.decoding.score_threshold
        self._stream = request.stream and request.grounded
        self._grounded: list[PhraseSelection] | None = None
        self._taken = 0  # tokens
        self._finished = False
        self.image, self.grounded, self.prompt_tokens = request.image, request.grounded, request.length
        self.generation = generation
        self.transcript = Transcript(runtime.processor)

    def take(self) -> list[TextDelta | PhraseSelected]:
        """What has come since the last call; the text that was held back once the answer is done.

        Raises:
            LlavaGroundingError: if the model could not go on.
        """
        generation, events = self.generation, list[TextDelta | PhraseSelected]()
        if generation.error is not None:
            raise generation.error
        if self._finished:
            return events
        states, generation.states = generation.states, []
        for state in states:
            self.transcript.take_state(state)
        # Before the token: a model may know a state only when its `<seg>` has been read.
        events += self._closed()
        if generation.num_generated > self._taken:
            assert generation.token is not None
            self._taken = generation.num_generated
            text = self.transcript.take_token(generation.token)
            events += [TextDelta(text)] if text else []
            events += self._closed()
        if generation.done:
            self._finished = True
            text = self.transcript.finish()
            events += [TextDelta(text)] if text else []
        return events

    def _closed(self) -> list[PhraseSelected]:
        """Phrases that have just closed, grounded together with those before them."""
        if not self._stream:
            return []
        return [
            PhraseSelected(
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

    def prefix_cache(self) -> PrefixCache:
        """What was read of the dialogue with this answer, once it is done; a cut one gets the end token it lacks."""
        transcript, kv_cache = self.transcript, self.generation.kv_cache
        assert kv_cache is not None
        ids = transcript.ids if transcript.ended else [*transcript.ids, self._runtime.processor.tokens.ids.eos]
        return PrefixCache(kv_cache, tuple(ids[kv_cache.length - self.prompt_tokens :]))
