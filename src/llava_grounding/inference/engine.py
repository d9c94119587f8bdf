"""GroundedChat: load a model once, then answer questions about images, with regions for the phrases of each answer.

The way in for programs. Knows no HTTP and no command line; what it is made of lives in `checkpoints` (finding and
loading), `conversation` (turns), `batching` (tokens) and `runtime` (the model on its device).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Unpack

import torch
from PIL import Image

from llava_grounding.checkpoints import load_checkpoint
from llava_grounding.errors import LlavaGroundingError, UsageError, shown
from llava_grounding.geometry import Letterbox
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image
from llava_grounding.inference.answering import AnswerRequest, prefill_answers
from llava_grounding.inference.batching import RunningBatch, forward_padded
from llava_grounding.inference.conversation import Conversation, question_message
from llava_grounding.inference.decoding import Decoding, GenerationOptions, StopSignal, check_threshold, read_options
from llava_grounding.inference.runtime import PHRASES_PER_PASS, ImageContext, Runtime
from llava_grounding.markup import PhraseSpan
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.conversation import MAX_PHRASES, referring_turn
from llava_grounding.processing.phrases import as_spoken
from llava_grounding.processing.processor import EncodedText, LlavaGroundingProcessor
from llava_grounding.processing.selection import PhraseSelection
from llava_grounding.processing.text_length import check_characters_fit
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Message, VisualPrompt
from llava_grounding.typed_values import is_whole

MAX_QUESTIONS = 100_000
"""Most questions of one `ask_batch`, whose answers are held until the last is there."""
_NO_IMAGE = Letterbox.fit((1, 1), (1, 1))  # for texts without visual prompts


@dataclass(frozen=True)
class Question:
    """One question of `ask_batch`."""

    image: ImageSource
    question: str
    prompts: Sequence[VisualPrompt] = ()
    grounded: bool = True


class GroundedChat:
    """A loaded model that answers questions about images.

    To be used by one thread at a time: tokenizers are not safe to share. A server keeps one per worker, or a lock.

    Args:
        model: in float32, on its device; put into evaluation mode here.
        processor: of the same checkpoint.
        name: what answers call the model.
        autocast: see `Runtime`.
        limits: what images are refused for their size.
    """

    def __init__(
        self,
        model: LlavaGroundingForConditionalGeneration,
        processor: LlavaGroundingProcessor,
        name: str = "model",
        *,
        autocast: torch.dtype | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        self.name = name
        self._runtime = Runtime(model.eval(), processor, autocast)
        self._limits = limits

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        quantization: str | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> GroundedChat:
        """Load a checkpoint.

        Args:
            model: None or "nano" for the embedded model; a folder; or a hub id as "organisation/name".
            device: "cpu", "cuda", "cuda:1", "mps"; None takes a CUDA device if there is one, else the CPU.
            dtype: "float32", "bfloat16" or "float16" for the language side; None is float32. The vision modules keep
                float32 weights; with bfloat16 their products are computed in it, with float16 they are not.
            quantization: "int8" or "int4" for the linear layers of the language model; the rest of it is then in
                bfloat16 unless `dtype` says otherwise. Needs the extra `quantize`; on CUDA and CPU.
            limits: what images are refused for their size.

        Raises:
            UsageError: if there is no such model or device, or nothing quantises on it.
            CheckpointError: if it is damaged; the message names the file.
        """
        loaded = load_checkpoint(model, device, dtype, quantization)
        return cls(loaded.model, loaded.processor, loaded.name, autocast=loaded.autocast, limits=limits)

    @property
    def model(self) -> LlavaGroundingForConditionalGeneration:
        """The transformers model underneath."""
        return self._runtime.model

    @property
    def processor(self) -> LlavaGroundingProcessor:
        """Turns pictures and words into tensors, and tensors into answers."""
        return self._runtime.processor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._runtime.device

    @property
    def runtime(self) -> Runtime:
        """The model part by part, for whoever writes several answers token by token, as the server does."""
        return self._runtime

    def ask(
        self,
        image: ImageSource,
        question: str,
        prompts: Sequence[VisualPrompt] = (),
        grounded: bool = True,
        **generation: Unpack[GenerationOptions],
    ) -> GroundedAnswer:
        """Answer one question about an image.

        Args:
            image: path, bytes, PIL image or array; see `load_image`.
            question: with one `<region>` per prompt.
            prompts: what the k-th `<region>` points at, at most 32, in pixels of the upright image.
            grounded: ask for regions; without, the answer has no phrases.
            generation: `max_new_tokens`, `temperature`, `seed`, `score_threshold` and `stop`, see `GenerationOptions`.

        Returns:
            The answer. A phrase for which nothing was found has no regions, and a score that says how near it was.

        Raises:
            ImageError, PromptError, UsageError: if something given cannot be used; the message says what.
        """
        return self.conversation(image).ask(question, prompts, grounded, **generation)

    def conversation(
        self, image: ImageSource, messages: Sequence[Message] = (), grounded: bool | Sequence[bool] = True
    ) -> Conversation:
        """Begin a dialogue about an image, or go on with one held earlier.

        Args:
            messages: the earlier dialogue: user and assistant in turn, ending with the assistant.
            grounded: whether the answers of it were to be grounded; one value for all, or one per question.
        """
        if not isinstance(messages, Sequence) or not all(isinstance(message, Message) for message in messages):
            raise UsageError(f"messages must be a list of Message values, got {shown(messages)}")
        if not isinstance(grounded, (bool, Iterable)):
            raise UsageError(f"grounded must be true or false, or a list of them, got {shown(grounded)}")
        pairs = len(messages) // 2
        flags = [grounded] * pairs if isinstance(grounded, bool) else list(islice(grounded, pairs + 1))
        return Conversation(self._runtime, self._encode_images([image])[0], self.name, messages, flags)

    def ask_batch(
        self,
        questions: Iterable[Question | Mapping[str, Any] | tuple[Any, ...]],
        batch_size: int = 16,
        **generation: Unpack[GenerationOptions],
    ) -> list[GroundedAnswer]:
        """Answer many questions, several at once; the answers equal those of `ask` with the same arguments.

        Args:
            questions: `Question` values, or tuples or mappings of their fields, e.g. `(image, question)`. An image that
                is given several times is encoded once per `batch_size` questions.
            batch_size: how many are answered at once; it trades memory for speed.
            generation: as of `ask`.

        Raises:
            ImageError, PromptError, UsageError: as `ask`; the message begins with the number of the question, from 0.
        """
        decoding, stop = read_options(generation)
        _check_batch_size(batch_size)
        if not isinstance(questions, Iterable):
            raise UsageError(f"questions must be a list of Question values, got {shown(questions)}")
        asked = [_question(index, value) for index, value in enumerate(islice(questions, MAX_QUESTIONS + 1))]
        if len(asked) > MAX_QUESTIONS:  # it may have no end
            raise UsageError(f"questions must be at most {MAX_QUESTIONS:,} at a time, got more")
        answers: list[GroundedAnswer] = []
        for start in range(0, len(asked), batch_size):
            answers += self._answer_together(asked[start : start + batch_size], start, decoding, stop)
        return answers

    def ground(
        self, image: ImageSource, phrases: Sequence[str], score_threshold: float | None = None
    ) -> list[GroundedPhrase]:
        """Find what each phrase names, without chat; phrases do not influence each other.

        Args:
            phrases: at most 10,000, as anybody would type them: a bare noun is found as with its article, see
                `as_spoken`.
            score_threshold: above which a region is kept, in [0, 1]; None is the model's own.

        Returns:
            One per phrase, in order, with its text as it was given; the span covers the phrase itself.

        Raises:
            PromptError: if a phrase is empty or holds special tokens.
            UsageError: if phrases are no list of texts, too many, or one is longer than the model reads.
        """
        check_threshold(score_threshold)
        phrases = _checked_phrases(phrases)
        texts = [self._referring_text(phrase) for phrase in phrases]
        return self._ground_in(self._encode_images([image])[0], phrases, texts, score_threshold)

    def ground_batch(
        self,
        images: Iterable[ImageSource],
        phrases: Sequence[str],
        score_threshold: float | None = None,
        batch_size: int = 16,
    ) -> list[list[GroundedPhrase]]:
        """Find the same phrases in many images, several of which are looked at at once; equals `ground` of each.

        Args:
            score_threshold: above which a region is kept, in [0, 1]; None is the model's own.
            batch_size: images looked at at once; it trades memory for speed.

        Raises:
            ImageError: as `ground`; the message begins with the number of the image, from 0.
            PromptError, UsageError: as `ground`, and if images are no list of them.
        """
        _check_batch_size(batch_size)
        check_threshold(score_threshold)
        if isinstance(images, (str, bytes, os.PathLike)) or not isinstance(images, Iterable):
            raise UsageError(f"images must be a list of images, got {shown(images)}")
        phrases = _checked_phrases(phrases)
        texts = [self._referring_text(phrase) for phrase in phrases]
        found: list[list[GroundedPhrase]] = []
        left = iter(images)
        while part := list(islice(left, batch_size)):
            pictures = []
            for number, image in enumerate(part, start=len(found)):
                with _naming("image", number):
                    pictures.append(load_image(image, self._limits))
            for context in self._runtime.encode_images(pictures):
                found.append(self._ground_in(context, phrases, texts, score_threshold))
        return found

    def _ground_in(
        self, image: ImageContext, phrases: Sequence[str], texts: Sequence[EncodedText], score_threshold: float | None
    ) -> list[GroundedPhrase]:
        return [
            self.processor.decode_phrase(span, number, selection, image.letterbox)
            for number, (span, selection) in enumerate(self._select(image, phrases, texts, score_threshold))
        ]

    def select_phrases(
        self, image: ImageContext, phrases: Sequence[str], score_threshold: float | None = None
    ) -> list[tuple[PhraseSpan, PhraseSelection]]:
        """What `ground` finds in an image that the model has encoded, not yet as regions of the picture.

        Args:
            score_threshold: above which a region is kept; None is the model's own.
        """
        phrases = _checked_phrases(phrases)
        return self._select(image, phrases, [self._referring_text(phrase) for phrase in phrases], score_threshold)

    def _select(
        self,
        image: ImageContext,
        phrases: Sequence[str],
        texts: Sequence[EncodedText],
        score_threshold: float | None = None,
    ) -> list[tuple[PhraseSpan, PhraseSelection]]:
        said = [phrase.strip() for phrase in phrases]
        found: list[tuple[PhraseSpan, PhraseSelection]] = []
        for start in range(0, len(texts), PHRASES_PER_PASS):
            states = self._seg_states(texts[start : start + PHRASES_PER_PASS], image)
            for selection in self._runtime.ground_apart(image, states, score_threshold):
                text = said[len(found)]
                found.append((PhraseSpan(text, (0, len(text)), 0), selection))
        return found

    def _encode_images(self, images: Iterable[ImageSource]) -> list[ImageContext]:
        return self._runtime.encode_images([load_image(image, self._limits) for image in images])

    def _referring_text(self, phrase: str) -> EncodedText:
        """The dialogue that names a phrase; refused, if it is too long, before it costs anything."""
        limit = self._runtime.max_positions
        check_characters_fit(len(phrase), self.processor.tokens.longest, limit)
        return self.processor.encode_conversation(referring_turn(as_spoken(phrase)), [True], _NO_IMAGE, limit)

    @torch.inference_mode()
    def _seg_states(self, texts: Sequence[EncodedText], image: ImageContext) -> torch.Tensor:
        """The phrase state `[G, D]` of the one `<seg>` of each text."""
        hidden, mask = forward_padded(self.model, [self._runtime.embed(text, image) for text in texts])
        ids = self.processor.collate_texts(texts, padding_side="left")["input_ids"].to(self.device)
        return self.model.phrase_states(hidden, ids, mask)[0][:, 0]

    def _answer_together(
        self,
        questions: Sequence[Question],
        first: int,
        decoding: Decoding,
        stop: StopSignal | None,
    ) -> list[GroundedAnswer]:
        requests = []
        images = self._encode_images_of(questions, first)
        for number, (question, image) in enumerate(zip(questions, images, strict=True), start=first):
            with _naming("question", number):
                message = question_message(question.question, question.prompts)
                requests.append(AnswerRequest.encode(self._runtime, image, message, question.grounded, decoding))
        batch = RunningBatch(self.model, keep=False)
        running = [prefilled.join(batch) for prefilled in prefill_answers(self._runtime, requests)]
        for _ in batch.generate(stop):
            for one in running:
                one.take()
        return [one.answer(self.name) for one in running]

    def _encode_images_of(self, questions: Sequence[Question], first: int) -> list[ImageContext]:
        """The image of every question; one that several questions share is encoded once."""
        pictures: dict[object, Image.Image] = {}
        keys = [_image_key(question.image) for question in questions]
        for number, (key, question) in enumerate(zip(keys, questions, strict=True), start=first):
            if key not in pictures:
                with _naming("question", number):
                    pictures[key] = load_image(question.image, self._limits)
        contexts = dict(zip(pictures, self._runtime.encode_images(list(pictures.values())), strict=True))
        return [contexts[key] for key in keys]


def _checked_phrases(phrases: Iterable[str]) -> list[str]:
    """The phrases of any iterable, which may have no end.

    Raises:
        UsageError: if they are no texts, or too many.
    """
    if isinstance(phrases, str):
        raise UsageError(f'phrases must be a list of texts, as in ["{phrases:.40}"], got one text')
    if not isinstance(phrases, Iterable):
        raise UsageError(f"phrases must be a list of texts, got {shown(phrases)}")
    listed = list(islice(phrases, MAX_PHRASES + 1))
    if len(listed) > MAX_PHRASES:
        raise UsageError(f"phrases must be at most {MAX_PHRASES:,} at a time, got more; ask for the rest by itself")
    for phrase in listed:
        if not isinstance(phrase, str):
            raise UsageError(f"phrases must be a list of texts, got one of type {type(phrase).__name__}")
    return listed


def _check_batch_size(batch_size: object) -> None:
    if not is_whole(batch_size) or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number from 1 on, got {shown(batch_size)}")


def _image_key(image: ImageSource) -> object:
    """Equal for the same file or the very same object."""
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else id(image)


def _question(index: int, value: Question | Mapping[str, Any] | tuple[Any, ...]) -> Question:
    if isinstance(value, Question):
        return value
    names = [field.name for field in fields(Question)]
    try:
        return Question(**value) if isinstance(value, Mapping) else Question(*value)
    except TypeError as error:
        raise UsageError(
            f"question {index} must have the fields {', '.join(names)}, of which the first two are needed, "
            f"got {_shown(value)}"
        ) from error


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping with " + (", ".join(f"`{key}`" for key in value) or "nothing")
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")


@contextmanager
def _naming(kind: str, index: int) -> Iterator[None]:
    """Put the number of a question or an image in front of what is wrong with it."""
    try:
        yield
    except LlavaGroundingError as error:
        raise type(error)(f"{kind} {index}: {error}") from error
