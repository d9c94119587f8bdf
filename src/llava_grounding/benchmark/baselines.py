"""Systems that do not look at the image: what any score must beat. They answer through the same protocol as a model.

Knows the training samples they copy from, and no metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from llava_grounding.data.sample import Sample
from llava_grounding.errors import DataError
from llava_grounding.language.nouns import with_article
from llava_grounding.markup import format_markup, parse
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region, VisualPrompt

_KEY_WORDS = 2
_CENTRE_BOX = np.array([0.25, 0.25, 0.75, 0.75])


Request = tuple[np.ndarray, str, tuple[VisualPrompt, ...], bool]
"""An image, a question, what its `<region>`s point at, and whether regions are asked for."""


class AnsweringSystem(Protocol):
    """Anything that answers questions about images given as (H, W, 3) uint8 arrays: an `Engine`, or a baseline, which
    has no options."""

    def ask_batch(self, questions: Sequence[Request], /) -> Sequence[GroundedAnswer]: ...

    def ground(self, image: np.ndarray, phrases: Sequence[str], /) -> Sequence[GroundedPhrase]: ...


class _BlindChat(ABC):
    """Answers from the question alone; every phrase gets the same box, given as fractions of the image."""

    def __init__(self, name: str, box_norm: np.ndarray) -> None:
        self.name = name
        self.box_norm = box_norm

    @abstractmethod
    def raw_answer(self, question: str) -> str:
        """The answer in markup."""

    def ask(
        self, image: np.ndarray, question: str, prompts: Sequence[VisualPrompt] = (), grounded: bool = True
    ) -> GroundedAnswer:
        raw = self.raw_answer(question)
        parsed = parse(raw)
        phrases = tuple(
            GroundedPhrase(number, phrase.text, phrase.span, (self._region(image),), 1.0)
            for number, phrase in enumerate(parsed.phrases if grounded else ())
        )
        return GroundedAnswer(parsed.text, phrases, (image.shape[1], image.shape[0]), raw, self.name, 0, 0)

    def ask_batch(self, requests: Sequence[Request]) -> Sequence[GroundedAnswer]:
        return [self.ask(*request) for request in requests]

    def ground(self, image: np.ndarray, phrases: Sequence[str]) -> Sequence[GroundedPhrase]:
        region = self._region(image)
        return [GroundedPhrase(n, text, (0, len(text)), (region,), 1.0) for n, text in enumerate(phrases)]

    def _region(self, image: np.ndarray) -> Region:
        """The box, with a mask that fills it."""
        height, width = image.shape[:2]
        box = self.box_norm * (width, height, width, height)
        mask = np.zeros((height, width), dtype=bool)
        x0, y0, x1, y1 = np.round(box).astype(int)
        mask[y0:y1, x0:x1] = True
        return Region(box, 1.0, mask)


class CentreBoxBaseline(_BlindChat):
    """Says that the commonest thing of the training samples is there, in a box over the middle half of the image."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        super().__init__("centre box", _CENTRE_BOX)
        counts = Counter(instance.category for sample in samples for instance in sample.instances)
        if not counts:
            raise DataError("a baseline needs training samples with instances, got none")
        self.phrase = with_article(_commonest(counts))

    def raw_answer(self, question: str) -> str:
        before = "There is "
        return format_markup(f"{before}{self.phrase}.", [(len(before), len(before) + len(self.phrase))])


class MostFrequentAnswerBaseline(_BlindChat):
    """Gives the commonest training answer to questions that begin alike, and the median box of training targets."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        boxes: list[np.ndarray] = []
        for sample in samples:
            width, height = sample.image_size_wh
            boxes.extend(instance.box_xyxy / (width, height, width, height) for instance in sample.instances)
            for turn in sample.turns:
                answers[_key(turn.question)][turn.answer] += 1
        if not answers or not boxes:
            raise DataError("a baseline needs training samples with instances and turns, got none")
        super().__init__("most frequent answer", np.median(np.stack(boxes), axis=0))
        self._answers = {key: _commonest(counts) for key, counts in answers.items()}
        self._fallback = _commonest(sum(answers.values(), Counter()))

    def raw_answer(self, question: str) -> str:
        return self._answers.get(_key(question), self._fallback)


def _key(question: str) -> str:
    """The first words of a question, which tell its kind: `how many`, `is there`."""
    return " ".join(question.lower().split()[:_KEY_WORDS])


def _commonest(counts: Counter[str]) -> str:
    """The commonest entry; among equals the first in the alphabet, so that the order of samples does not matter."""
    return min(counts, key=lambda entry: (-counts[entry], entry))
