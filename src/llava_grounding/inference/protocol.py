"""What others need of `GroundedChat`, so that they know an engine by what it does. Imports no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

if TYPE_CHECKING:
    from llava_grounding.image_files import ImageSource
    from llava_grounding.inference.decoding import GenerationOptions
    from llava_grounding.inference.engine import Question
    from llava_grounding.structures import GroundedAnswer, GroundedPhrase, VisualPrompt


class Dialogue(Protocol):
    """A dialogue about one image."""

    def stream(
        self,
        question: str,
        prompts: Sequence[VisualPrompt] = (),
        grounded: bool = True,
        **generation: Unpack[GenerationOptions],
    ) -> Iterator[Any]:
        """Events with `text`, then `phrase`, at last `answer`."""


class SingleEngine(Protocol):
    """Answers about one image at a time."""

    name: str

    def ask(
        self,
        image: ImageSource,
        question: str,
        prompts: Sequence[VisualPrompt] = (),
        grounded: bool = True,
        **generation: Unpack[GenerationOptions],
    ) -> GroundedAnswer:
        """Answer one question."""

    def ground(
        self, image: ImageSource, phrases: Sequence[str], score_threshold: float | None = None
    ) -> list[GroundedPhrase]:
        """Find what each phrase names."""


class BatchEngine(Protocol):
    """Answers about several images at once."""

    def ask_batch(
        self,
        questions: Iterable[Question | Mapping[str, Any] | tuple[Any, ...]],
        batch_size: int = 16,
        **generation: Unpack[GenerationOptions],
    ) -> list[GroundedAnswer]:
        """Answer questions about images."""

    def ground_batch(
        self,
        images: Iterable[ImageSource],
        phrases: Sequence[str],
        score_threshold: float | None = None,
        batch_size: int = 16,
    ) -> list[list[GroundedPhrase]]:
        """Find the same phrases in several images."""


class Engine(SingleEngine, BatchEngine, Protocol):
    """All of it, with dialogues."""

    def conversation(self, image: ImageSource) -> Dialogue:
        """Begin a dialogue."""
