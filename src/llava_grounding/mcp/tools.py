"""What the tools do: files to pictures, the model's answers to plain values that a language model can read.

Masks are too long to be read: an answer is kept under an id, and drawn when that is wanted. Knows no protocol.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from llava_grounding.confined_files import AllowedFolders
from llava_grounding.errors import PromptError, UsageError, quoted
from llava_grounding.image_files import ImageLimits, load_image
from llava_grounding.processing.found_phrases import as_answer
from llava_grounding.render import draw_answer
from llava_grounding.structures import GroundedAnswer, VisualPrompt

if TYPE_CHECKING:
    from llava_grounding.inference.protocol import SingleEngine

MAX_PHRASES = 32
"""Phrases of one call at most."""
KEPT_ANSWERS = 16
"""Answers that can be drawn; older ones are forgotten."""
_DIGITS = 1


@dataclass
class FoundRegion:
    """A thing in the picture: its box as x0, y0, x1, y1 in pixels, its area in pixels, and a score from 0 to 1."""

    box: list[float]
    area: int
    score: float


@dataclass
class FoundPhrase:
    """A phrase and the things it names, the surest first; none if nothing was found.

    `doubtful` means that about every second phrase like it is wrong.
    """

    text: str
    regions: list[FoundRegion]
    doubtful: bool


@dataclass
class FoundAnswer:
    """An answer. `answer_id` is what draw_answer takes; `image_size` is width and height in pixels."""

    answer_id: str
    text: str
    image_size: list[int]
    phrases: list[FoundPhrase]


class Tools:
    """The tools over one model, which is loaded when it is first needed.

    Args:
        load: gives the model.
        folders: where pictures may lie.
        limits: what pictures are refused for their size.
    """

    def __init__(self, load: Callable[[], SingleEngine], folders: AllowedFolders, limits: ImageLimits) -> None:
        self._load = load
        self._engine: SingleEngine | None = None
        self._folders = folders
        self._limits = limits
        self._lock = threading.Lock()  # the model is used by one thread at a time
        self._answers: OrderedDict[str, tuple[str, bytes, GroundedAnswer]] = OrderedDict()
        self._count = 0

    def ask_image(self, image: str, question: str, regions: Sequence[Sequence[float]] = ()) -> FoundAnswer:
        """Ask about a picture.

        Args:
            regions: for the k-th `<region>` of the question, two numbers x, y of a click or four x0, y0, x1, y1 of a
                box, in pixels.

        Raises:
            LlavaGroundingError: if something given cannot be used; the message says what.
        """
        prompts = [_prompt(one) for one in regions]
        picture, digest = self._picture(image)
        with self._lock:
            return self._kept(image, digest, self._model().ask(picture, question, prompts))

    def ground_phrases(self, image: str, phrases: Sequence[str]) -> FoundAnswer:
        """Find what phrases name in a picture, each by itself; errors as of `ask_image`."""
        if not 1 <= len(phrases) <= MAX_PHRASES:
            raise UsageError(f"phrases must be 1 to {MAX_PHRASES}, got {len(phrases)}")
        picture, digest = self._picture(image)
        with self._lock:
            model = self._model()
            return self._kept(image, digest, as_answer(picture, model.ground(picture, phrases), model.name))

    def draw_answer(self, answer_id: str) -> bytes:
        """An earlier answer drawn into its picture, as a PNG.

        Raises:
            LlavaGroundingError: if the answer is not known any more, or its picture is another or gone.
        """
        with self._lock:
            known = self._answers.get(answer_id)
        if known is None:
            raise UsageError(f"there is no answer {quoted(answer_id)} to draw; the last {KEPT_ANSWERS} are kept")
        name, digest, answer = known
        picture, now = self._picture(name)
        if now != digest:
            raise UsageError(f"the answer {quoted(answer_id)} is about the picture that was at {quoted(name)} before")
        buffer = io.BytesIO()
        draw_answer(picture, answer).save(buffer, "PNG")
        return buffer.getvalue()

    def _model(self) -> SingleEngine:
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    def _picture(self, name: str) -> tuple[Image.Image, bytes]:
        """A picture, and the hash of its file."""
        data = self._folders.read(name, self._limits.max_bytes)
        return load_image(data, self._limits, name=f"image {quoted(name)}"), hashlib.sha256(data).digest()

    def _kept(self, name: str, digest: bytes, answer: GroundedAnswer) -> FoundAnswer:
        """The answer as it is told; itself it is kept without its picture, with packed masks."""
        self._count += 1
        answer_id = f"answer-{self._count}"
        self._answers[answer_id] = (name, digest, GroundedAnswer.from_dict(answer.to_dict(), self._limits))
        while len(self._answers) > KEPT_ANSWERS:
            self._answers.popitem(last=False)
        phrases = [
            FoundPhrase(
                phrase.text,
                [
                    FoundRegion(one.box_xyxy.round(_DIGITS).tolist(), one.area, round(one.score, 3))
                    for one in phrase.regions
                ],
                phrase.doubtful,
            )
            for phrase in answer.phrases
        ]
        return FoundAnswer(answer_id, answer.text, list(answer.image_size_wh), phrases)


def _prompt(numbers: Sequence[float]) -> VisualPrompt:
    if len(numbers) == 2:
        return VisualPrompt.click(*numbers)
    if len(numbers) == 4:
        return VisualPrompt.box(*numbers)
    raise PromptError(f"a region must be x, y or x0, y0, x1, y1, got {len(numbers)} numbers")
