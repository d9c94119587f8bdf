"""What a request asks of the model, once its form and its pictures are read. No HTTP, no tensors of answers.

Also the way from the wire to there: messages of parts become questions with visual prompts and answers given earlier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_grounding.errors import ImageError, PromptError, UsageError
from llava_grounding.inference.decoding import Decoding
from llava_grounding.markup import REGION, SEG, strip_markup
from llava_grounding.serve.images import ImageReader, Picture
from llava_grounding.serve.schemas import (
    ChatRequest,
    GroundingOptions,
    ImagePart,
    Message,
    RegionPart,
    TextPart,
)
from llava_grounding.serve.settings import ServeSettings
from llava_grounding.structures import VisualPrompt
from llava_grounding.visual_prompts import prompt_from_dict


@dataclass(frozen=True)
class ChatQuestion:
    """What a user said."""

    text: str
    prompts: tuple[VisualPrompt, ...] = ()

    @property
    def key(self) -> tuple[str, bytes]:
        """Equal for equal questions, small."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            array = next(a for a in (prompt.points_xy, prompt.box_xyxy, prompt.mask) if a is not None)
            digest.update(f"{prompt.kind}{array.shape}".encode())
            digest.update(array.tobytes())
        return self.text, digest.digest()


@dataclass(frozen=True)
class ChatTurn:
    """A question and its answer, given earlier."""

    question: ChatQuestion
    answer: str
    """Its plain text."""
    raw: str
    """With markup, if the client sent it along; else the plain text."""

    @property
    def grounded(self) -> bool:
        """Whether the answer was to have regions, as far as can be seen."""
        return SEG in self.raw


@dataclass(frozen=True)
class ChatTask:
    """The next answer of a dialogue about an image."""

    picture: Picture
    turns: tuple[ChatTurn, ...]
    question: ChatQuestion
    grounded: bool
    decoding: Decoding
    stop: tuple[str, ...] = ()
    stream: bool = False
    """Regions are wanted as soon as their phrase has closed."""


@dataclass(frozen=True)
class GroundTask:
    """Phrases to be found in an image."""

    picture: Picture
    phrases: tuple[str, ...]
    score_threshold: float | None = None


def grounding_options(request: ChatRequest) -> GroundingOptions:
    """The wishes of a request, in full."""
    wish = request.grounding
    return GroundingOptions.model_validate({"mode": wish}) if isinstance(wish, str) else wish


def chat_task(request: ChatRequest, images: ImageReader, settings: ServeSettings) -> ChatTask:
    """Read a chat request: its pictures are decoded here.

    Raises:
        UsageError: if something in it cannot be used; the message says what.
    """
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None and limit > settings.max_tokens:
        raise UsageError(f"max_tokens must be at most {settings.max_tokens}, got {limit:.3g}")
    options = grounding_options(request)
    tokens = limit or min(Decoding.max_new_tokens, settings.max_tokens)
    decoding = Decoding(tokens, request.temperature or 0.0, request.seed, options.threshold)
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    system, dialogue = _without_system(request.messages)
    _check_counts(dialogue, settings)
    picture = _the_picture(dialogue, images)
    questions = [_question(message, picture, images) for message in dialogue[::2]]
    if system:
        questions[0] = ChatQuestion(f"{system}\n{questions[0].text}", questions[0].prompts)
    answers = [_answer(message) for message in dialogue[1::2]]
    turns = tuple(ChatTurn(question, *answer) for question, answer in zip(questions, answers, strict=False))
    return ChatTask(
        picture,
        turns,
        questions[-1],
        grounded=options.mode != "off",
        decoding=decoding,
        stop=stop,
        stream=bool(request.stream),
    )


def _without_system(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """What system messages say, and the dialogue behind them: user and assistant in turn, the user last."""
    count = next((n for n, one in enumerate(messages) if one.role not in ("system", "developer")), len(messages))
    said = [_words(message) for message in messages[:count]]
    dialogue = list(messages[count:])
    for number, message in enumerate(dialogue):
        expected = "user" if number % 2 == 0 else "assistant"
        if message.role != expected:
            raise UsageError(f"message {count + number} must be from the {expected}, got one from the {message.role}")
    if len(dialogue) % 2 == 0:
        raise UsageError("the last message must be from the user")
    return "\n".join(text for text in said if text), dialogue


def _words(message: Message) -> str:
    """The text of a message that has nothing else."""
    if not isinstance(message.content, list):
        return message.content or ""
    texts = [part.text for part in message.content if isinstance(part, TextPart)]
    if len(texts) < len(message.content):
        raise UsageError(f"a message of the {message.role} may have text only")
    return " ".join(texts)


def _answer(message: Message) -> tuple[str, str]:
    """The plain text of an earlier answer, and the raw one if it is known and belongs to it."""
    text = strip_markup(_words(message))
    raw = (message.grounding or {}).get("raw")
    return text, raw if isinstance(raw, str) and strip_markup(raw) == text else text


def _parts(message: Message) -> list[TextPart | ImagePart | RegionPart]:
    content = message.content
    return content if isinstance(content, list) else [TextPart(type="text", text=content or "")]


def num_characters(messages: Sequence[Message]) -> int:
    """How many characters a dialogue says, markup that came along included."""
    texts = [part.text for message in messages for part in _parts(message) if isinstance(part, TextPart)]
    raws = [(message.grounding or {}).get("raw") for message in messages]
    return sum(len(text) for text in [*texts, *raws] if isinstance(text, str))


def _check_counts(dialogue: Sequence[Message], settings: ServeSettings) -> None:
    """Refuse too many images or regions before any of them is read."""
    images = sum(isinstance(part, ImagePart) for message in dialogue for part in _parts(message))
    if images > settings.max_images:
        raise ImageError(f"a request may have at most {settings.max_images} images, got {images}")
    if not images:
        raise ImageError('a dialogue needs an image: a part {"type": "image_url", ...} in a message of the user')
    for message in dialogue[::2]:
        regions = sum(isinstance(part, RegionPart) for part in _parts(message))
        if regions > settings.max_regions:
            raise PromptError(f"a question may have at most {settings.max_regions} regions, got {regions}")


def _the_picture(dialogue: Sequence[Message], images: ImageReader) -> Picture:
    """The one image that a dialogue is about; it may be sent with every turn."""
    first: Picture | None = None
    urls: set[str] = set()
    for message in dialogue:
        for part in _parts(message):
            if not isinstance(part, ImagePart) or part.image_url.url in urls:
                continue
            if message.role != "user":
                raise UsageError("an answer may have text only")
            urls.add(part.image_url.url)
            picture = images.read(part.image_url.url, f"image {len(urls)}")
            if first is not None and picture.key != first.key:
                raise ImageError("a dialogue is about one image, got several; begin another dialogue for the next")
            first = picture
    assert first is not None
    return first


def _question(message: Message, picture: Picture, images: ImageReader) -> ChatQuestion:
    """Words and visual prompts of a user's message, in whatever order the parts are."""
    parts = [part for part in _parts(message) if not isinstance(part, ImagePart)]
    prompts = tuple(_prompt(part, images) for part in parts if isinstance(part, RegionPart))
    for number, prompt in enumerate(prompts, start=1):
        try:
            prompt.validate(picture.size_wh)
        except PromptError as error:
            raise PromptError(f"region {number}: {error}") from None
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if prompts and not any(REGION in text for text in texts):
        texts = [REGION if isinstance(part, RegionPart) else part.text for part in parts]  # each stands for itself
    return ChatQuestion(" ".join(text.strip() for text in texts if text.strip()), prompts)


def _prompt(part: RegionPart, images: ImageReader) -> VisualPrompt:
    def read_mask(mask: Mapping[str, Any] | str) -> VisualPrompt:
        return VisualPrompt.mask_of(images.mask(mask)) if isinstance(mask, str) else VisualPrompt.mask_from_rle(mask)

    return prompt_from_dict(part.model_dump(), read_mask)
