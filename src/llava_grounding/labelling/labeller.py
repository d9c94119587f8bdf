"""Asks the model about some photos at once. Whatever is wrong with a photo costs that photo, and is said in a sentence.

Knows an engine by what it does, and no files but what a photo gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from llava_grounding.errors import DataError, LlavaGroundingError, UsageError, one_line, shown
from llava_grounding.geometry import box_iou
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits, load_image
from llava_grounding.labelling.labels import BrokenPhoto, Label, LabelledPhoto, Result
from llava_grounding.labelling.photos import Photo
from llava_grounding.language.nouns import lexicon
from llava_grounding.language.synonyms import DETERMINERS, MANY_WORDS, NUMBER_WORDS
from llava_grounding.structures import GroundedPhrase, PackedRegion, Region, category_name
from llava_grounding.typed_values import is_number

if TYPE_CHECKING:
    from llava_grounding.inference.protocol import BatchEngine

DEFAULT_QUESTION = "List everything you see."
"""What is asked where no classes are given."""
MAX_PIXELS = 2**26
"""Pixels of the photos that are held decoded at once, unless a single one has more."""
_SAME_THING = 0.7  # box IoU from which two regions of a category are one thing that was named twice
_FAULTS_IN_A_ROW = 8
_BOX_DIGITS, _SCORE_DIGITS = 2, 4
_COUNTING = DETERMINERS | MANY_WORDS | frozenset(NUMBER_WORDS)


@dataclass(frozen=True)
class LabelSettings:
    """How photos are labelled; all of it decides what comes out.

    Raises:
        UsageError: if a value is out of its range.
    """

    classes: tuple[str, ...] | None = None
    """What to look for, as people would say it; None labels what the model sees."""
    threshold: float | None = None
    """Score from which a region is kept, in [0, 1]; None is the model's own."""
    masks: bool = True
    """Whether labels have masks beside their boxes."""
    question: str = DEFAULT_QUESTION
    """What is asked where there are no classes."""
    limits: ImageLimits = DEFAULT_LIMITS
    """What photos are refused for their size."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not (is_number(self.threshold) and 0 <= self.threshold <= 1):
            raise UsageError(f"threshold must be a number from 0 to 1, got {shown(self.threshold)}")
        if self.classes is not None and not self.classes:
            raise UsageError("classes must be at least one name, got none")
        if not self.question.strip():
            raise UsageError("the question must not be empty")

    def to_dict(self) -> dict[str, Any]:
        """The settings as the progress file has them."""
        return {
            "classes": None if self.classes is None else list(self.classes),
            "threshold": self.threshold,
            "masks": self.masks,
            "question": self.question,
            "max_pixels": self.limits.max_pixels,
        }


class Labeller:
    """Labels photos with a model.

    Args:
        engine: a loaded model; used by one thread at a time.
    """

    def __init__(self, engine: BatchEngine, settings: LabelSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._faults = 0

    def label(self, photos: Sequence[Photo]) -> list[Result]:
        """Label photos, several at once; one result for each, in order.

        Raises:
            DataError: if the model has failed on every one of the last few photos, so that it cannot be their fault.
        """
        results: dict[int, Result] = {}
        waiting: dict[int, Image.Image] = {}
        for number, photo in enumerate(photos):
            try:
                picture = load_image(photo.read(), self._settings.limits, name="it")
            except Exception as error:  # noqa: BLE001  whatever it is, it is this photo's
                results[number] = BrokenPhoto(photo.name, _reason(error))
                continue
            held = sum(one.width * one.height for one in waiting.values())
            if waiting and held + picture.width * picture.height > MAX_PIXELS:
                results |= self._label_decoded(photos, waiting)
                waiting = {}
            waiting[number] = picture
        results |= self._label_decoded(photos, waiting)
        return [results[number] for number in range(len(photos))]

    def _label_decoded(self, photos: Sequence[Photo], pictures: dict[int, Image.Image]) -> dict[int, Result]:
        """Label decoded photos together, or each by itself where that fails."""
        if not pictures:
            return {}
        try:
            found = self._labels(list(pictures.values()))
        except Exception as error:
            if len(pictures) > 1:
                return {
                    k: v
                    for number in pictures
                    for k, v in self._label_decoded(photos, {number: pictures[number]}).items()
                }
            self._faults += 1
            if self._faults >= _FAULTS_IN_A_ROW:
                raise DataError(f"the model has failed on {self._faults} photos in a row: {_reason(error)}") from error
            return {number: BrokenPhoto(photos[number].name, _reason(error)) for number in pictures}
        self._faults = 0
        return {
            number: LabelledPhoto(photos[number].name, picture.size, labels)
            for (number, picture), labels in zip(pictures.items(), found, strict=True)
        }

    def _labels(self, pictures: list[Image.Image]) -> list[tuple[Label, ...]]:
        settings, count = self._settings, len(pictures)
        if settings.classes is not None:
            grounded = self._engine.ground_batch(pictures, settings.classes, settings.threshold, count)
            return [tuple(self._taken(zip(settings.classes, phrases, strict=True))) for phrases in grounded]
        questions = [(picture, settings.question) for picture in pictures]
        answers = self._engine.ask_batch(questions, batch_size=count, score_threshold=settings.threshold)
        return [
            _once(self._taken((category_of(phrase.text), phrase) for phrase in answer.phrases)) for answer in answers
        ]

    def _taken(self, phrases: Iterable[tuple[str, GroundedPhrase]]) -> list[Label]:
        """Regions as labels, small enough to be kept, in numbers that are written in full."""
        return [
            Label(category, _compact(region, self._settings.masks))
            for category, phrase in phrases
            for region in phrase.regions
            if region.area > 0
        ]


def category_of(phrase: str) -> str:
    """What a thing is called by the head of a phrase: `two big dogs` is a `dog`, and so is `a puppy`.

    For words that no table has, the phrase in lower case without its article or number.
    """
    known = lexicon(()).categories_of(phrase)
    if known:
        return known[0]
    words = category_name(phrase).split()
    while len(words) > 1 and (words[0] in _COUNTING or words[0].isdigit()):
        words = words[1:]
    return " ".join(words)


def read_classes(text: str) -> tuple[str, ...]:
    """The classes of a file: one name a line; blank lines count for nothing, and a name twice for one.

    Raises:
        UsageError: if there is none.
    """
    names = tuple(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    if not names:
        raise UsageError("a file of classes must have one name a line, got none")
    return names


def _compact(region: Region, with_mask: bool) -> Region:
    box = region.box_xyxy.round(_BOX_DIGITS)
    score = round(region.score, _SCORE_DIGITS)
    rle = region.mask_rle if with_mask else None
    return Region(box, score) if rle is None else PackedRegion(box, score, rle)


def _once(labels: list[Label]) -> tuple[Label, ...]:
    """Labels without those of a thing that was named before under the same category; the surest stays."""
    kept: list[Label] = []
    for label in sorted(labels, key=lambda one: -one.region.score):
        same = [one.region.box_xyxy for one in kept if one.category == label.category]
        if not same or box_iou(label.region.box_xyxy[None], np.array(same)).max() < _SAME_THING:
            kept.append(label)
    return tuple(label for label in labels if any(label is one for one in kept))


def _reason(error: Exception) -> str:
    """What is wrong, in a sentence; of what a library says only its kind."""
    if isinstance(error, LlavaGroundingError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    return f"unexpected {type(error).__name__}: {one_line(error, 200)}"
