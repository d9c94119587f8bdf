"""An engine that needs no model, for the tests of the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region, VisualPrompt

SIZE = (64, 48)


@dataclass(frozen=True)
class TextDelta:
    text: str


@dataclass(frozen=True)
class RegionsFound:
    phrase: GroundedPhrase


@dataclass(frozen=True)
class AnswerDone:
    answer: GroundedAnswer


def disc_phrase(number: int, text: str, start: int, size_wh: tuple[int, int], found: bool = True) -> GroundedPhrase:
    mask = np.zeros(size_wh[::-1], dtype=bool)
    mask[: max(1, size_wh[1] // 2), : max(1, size_wh[0] // 2)] = True
    region = Region((0, 0, max(1, size_wh[0] // 2), max(1, size_wh[1] // 2)), 0.75, mask)
    span = (start, start + len(text))
    return GroundedPhrase(number, text, span, (region,) if found else (), 0.75 if found else 0.1)


@dataclass
class FakeEngine:
    """Answers every question with "A disc, no birds.", the second phrase not found; remembers what it was asked."""

    name: str = "fake"
    loaded_with: tuple[str | None, str | None] | None = None
    limits: Any = None
    asked: list[tuple[str, tuple[VisualPrompt, ...], dict[str, Any]]] = field(default_factory=list)
    error: BaseException | None = None
    prints: str = ""

    def ask(
        self, image: Image.Image, question: str, prompts: Sequence[VisualPrompt] = (), **settings: Any
    ) -> GroundedAnswer:
        if self.prints:
            sys.stdout.write(self.prints)
        if self.error is not None:
            raise self.error
        self.asked.append((question, tuple(prompts), settings))
        found = not (settings.get("score_threshold") or 0) > 0.75
        phrases = (disc_phrase(0, "A disc", 0, image.size, found), disc_phrase(1, "no birds", 8, image.size, False))
        raw = "<g_s> A disc <g_e> <seg>, <g_s> no birds <g_e> <seg>."
        return GroundedAnswer("A disc, no birds.", phrases, image.size, raw, self.name, 7, 9, image=image)

    def conversation(self, image: Image.Image) -> FakeTalk:
        return FakeTalk(self, image)

    def ground(
        self, image: Image.Image, phrases: Sequence[str], threshold: float | None = None
    ) -> list[GroundedPhrase]:
        if self.error is not None:
            raise self.error
        return [disc_phrase(0, text.strip(), 0, image.size, "bird" not in text and not threshold) for text in phrases]


@dataclass
class FakeTalk:
    engine: FakeEngine
    image: Image.Image

    def stream(self, question: str, prompts: Sequence[VisualPrompt] = (), **settings: Any) -> Iterator[Any]:
        yield TextDelta("A ")
        answer = self.engine.ask(self.image, question, prompts, **settings)
        yield TextDelta("disc")
        yield RegionsFound(answer.phrases[0])
        yield TextDelta(", no birds.")
        yield AnswerDone(answer)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str
