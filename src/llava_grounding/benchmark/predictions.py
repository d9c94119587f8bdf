"""What a system answered, and predictions of others read from JSON lines: what cannot be used is counted and named.

Boxes are in pixels of the upright image. How another system writes its answers is the business of `adapters`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from llava_grounding.benchmark.adapters import Adapter, RawPhrase
from llava_grounding.benchmark.files import read_json_object, read_lines
from llava_grounding.benchmark.samples import BenchmarkSample, Rle, SampleSet, as_box
from llava_grounding.errors import VALUE_ERRORS, DataError, LlavaGroundingError, UsageError, shown
from llava_grounding.masks import check_rles, rle_to_box
from llava_grounding.structures import GroundedAnswer, GroundedPhrase
from llava_grounding.typed_values import is_number, is_whole

_MOST_REGIONS = 10_000
_MOST_NAMED = 20  # problems that are told one by one
_BEYOND = 0.02  # of the image, by which rounding may put a box outside
_MANY = 0.1  # of the boxes, outside their images, are no accident

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PredictedRegion:
    """One region; a score is given only where the system gave one."""

    box_xyxy: Box
    score: float | None = None
    mask: Rle | None = None


@dataclass(frozen=True)
class PredictedPhrase:
    """A phrase and what it points at, best first; doubtful where the system says so of itself."""

    text: str
    regions: tuple[PredictedRegion, ...] = ()
    doubtful: bool = False

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(n, 4) float64."""
        return np.array([region.box_xyxy for region in self.regions], dtype=np.float64).reshape(-1, 4)


@dataclass(frozen=True)
class Prediction:
    """The answer to one sample.

    Args:
        id: of the sample.
        text: the answer.
        phrases: of the answer in reading order, or one per phrase that was asked for.
        plain_text: the answer to the same question asked without grounding; None where it was not asked.
        error: why there is no answer; None where there is one.
        seconds: that the answer with regions took; None where nobody measured. Files do not have it: they are the same
            however a run was done.
    """

    id: str
    text: str = ""
    phrases: tuple[PredictedPhrase, ...] = ()
    plain_text: str | None = None
    error: str | None = None
    seconds: float | None = None

    @property
    def doubtful(self) -> bool:
        """Whether it names things of which none was surely found, as `GroundedAnswer.doubtful`."""
        return bool(self.phrases) and not any(one.regions and not one.doubtful for one in self.phrases)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is empty is left out, coordinates are rounded to a hundredth of a pixel."""
        data: dict[str, Any] = {"id": self.id, "text": self.text}
        if self.phrases:
            data["phrases"] = [_phrase_value(one) for one in self.phrases]
        if self.plain_text is not None:
            data["plain_text"] = self.plain_text
        return data if self.error is None else {**data, "error": self.error}


def prediction_of(sample_id: str, answer: GroundedAnswer, plain_text: str | None = None) -> Prediction:
    """An answer of ours as a prediction."""
    return Prediction(sample_id, answer.text, tuple(map(phrase_of, answer.phrases)), plain_text)


def phrase_of(phrase: GroundedPhrase) -> PredictedPhrase:
    """A phrase of ours as a predicted one."""
    regions = tuple(PredictedRegion(as_box(one.box_xyxy.tolist()), one.score, one.mask_rle) for one in phrase.regions)
    return PredictedPhrase(phrase.text, regions, phrase.doubtful)


PROBLEMS: Mapping[str, str] = {
    "another_number_of_phrases": "another number of phrases",
    "another_question": "an answer to another question",
    "answered_twice": "a sample answered twice",
    "no_id": "no id",
    "no_json": "no JSON",
    "no_object": "no object",
    "too_many_regions": "too many regions",
    "unfit_value": "a value that does not fit",
    "unknown_id": "an id that is not in the set",
}
"""Why a line cannot be used: the keys in files, and what people are told."""


@dataclass(frozen=True)
class Imported:
    """Predictions of a file.

    Args:
        by_id: usable ones.
        problems: by key of `PROBLEMS`, how many lines had it.
        named: the first of them, with their line.
        num_lines: that are not blank.
    """

    by_id: Mapping[str, Prediction]
    problems: Mapping[str, int] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    num_lines: int = 0


def read_predictions(path: Path, samples: SampleSet, adapter: Adapter, frame: str | None = None) -> Imported:
    """Predictions of a file, by the id of their sample.

    Args:
        path: JSON lines, or a folder of JSON files, one per answer.
        frame: of the boxes, where it is not the adapter's own.

    Raises:
        UsageError: if there is no such frame.
        DataError: if the file cannot be read, has no usable line, or its boxes seem to be in another frame.
    """
    by_sample = {sample.id: sample for sample in samples.samples}
    frame = frame or adapter.frame
    if frame not in FRAMES:
        raise UsageError(f"a frame is one of {', '.join(FRAMES)}, got {shown(frame)}")
    reader = _PredictionReader(by_sample, adapter, frame)
    count = 0
    for place, value in _answers_of(path):
        count += 1
        if count == 1 and isinstance(value, Mapping) and "predictions_version" in value:
            count -= 1  # a line about the file
            continue
        reader.take(place, value)
    reader.refuse_other_frame(path)
    if not reader.by_id:
        first = f"; {reader.named[0]}" if reader.named else ""
        raise DataError(f"{path} has no line that could be used as a prediction ({adapter.name} format){first}")
    return Imported(reader.by_id, dict(sorted(reader.problems.items())), tuple(reader.named), count)


def _answers_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of every answer: the lines of a file, or the files of a folder that has one per image."""
    if not path.is_dir():
        yield from ((f"line {number}", value) for number, value in read_lines(path))
        return
    for file in sorted(path.glob("*.json")):
        try:
            value: Any = read_json_object(file)
        except DataError as error:
            value = error
        yield file.name, value


def prediction_from(line: Mapping[str, Any], sample: BenchmarkSample, adapter: Adapter) -> Prediction:
    """One line of an adapter's format as the prediction of a sample.

    Raises:
        DataError: if it cannot be used.
    """
    reader = _PredictionReader({sample.id: sample}, adapter, adapter.frame)
    reader.take("line 1", line)
    if sample.id not in reader.by_id:
        raise DataError(reader.named[0])
    return reader.by_id[sample.id]


class _PredictionReader:
    """Takes lines one by one, and keeps watch over their boxes."""

    def __init__(self, by_sample: Mapping[str, BenchmarkSample], adapter: Adapter, frame: str) -> None:
        self.by_id: dict[str, Prediction] = {}
        self.problems: dict[str, int] = {}
        self.named: list[str] = []
        self._by_sample, self._adapter, self._frame = by_sample, adapter, frame
        self._questions = {sample.question for sample in by_sample.values()}
        stems = [PurePosixPath(sample.image).stem for sample in by_sample.values()]
        self._by_image = dict(zip(stems, by_sample.values(), strict=True))
        self._several = {stem for stem, count in Counter(stems).items() if count > 1}
        self._largest, self._num_boxes, self._num_beyond = 0.0, 0, 0

    def take(self, place: str, value: Any) -> None:
        """One line.

        Args:
            place: where it stands, for whoever looks for it.
        """
        try:
            if isinstance(value, DataError):
                raise _Problem("no_json", str(value))
            if not isinstance(value, Mapping):
                raise _Problem("no_object", f"got {shown(value)}")
            sample = self._sample(value)
            if sample.id in self.by_id:
                raise _Problem("answered_twice", f"`{sample.id}`; the first answer counts")
            self.by_id[sample.id] = self._prediction(value, sample)
        except _Problem as problem:
            self._note(place, problem.reason, str(problem))
        except LlavaGroundingError as error:
            self._note(place, "unfit_value", str(error))
        except VALUE_ERRORS as error:
            self._note(place, "unfit_value", f"{type(error).__name__}: {error}")

    def _note(self, place: str, reason: str, detail: str) -> None:
        self.problems[reason] = self.problems.get(reason, 0) + 1
        if len(self.named) < _MOST_NAMED:
            self.named.append(f"{place}: {PROBLEMS[reason]}: {detail}")

    def _sample(self, value: Mapping[str, Any]) -> BenchmarkSample:
        given = next((value[key] for key in ("id", "question_id", "sample_id") if key in value), None)
        key = str(given) if is_whole(given) else given
        if key is None and type(image := value.get("image_id")) in (str, int):
            image = str(image)
            if image in self._several:
                raise _Problem("no_id", f"several samples are of the image {shown(image)}; a line must have `id`")
            if image in self._by_image:
                return self._by_image[image]
            key = image
        if not isinstance(key, str):
            raise _Problem("no_id", f"a line must have `id` or `question_id`, got {shown(given)}")
        if key not in self._by_sample:
            raise _Problem("unknown_id", f"`{shown(key)}`; is it of another split?")
        sample = self._by_sample[key]
        if isinstance(prompt := value.get("prompt"), str):
            asked = self._questions & {line.strip() for line in prompt.splitlines()}
            if asked and sample.question not in asked:  # other words for the same question are in no set
                raise _Problem(
                    "another_question",
                    f"`{shown(key)}` asks {shown(sample.question)}, the line {shown(asked.pop())}",
                )
        return sample

    def _prediction(self, value: Mapping[str, Any], sample: BenchmarkSample) -> Prediction:
        raw = self._adapter.parse(value, sample)
        if sum(len(one.boxes) for one in raw.phrases) > _MOST_REGIONS:
            raise _Problem("too_many_regions", f"at most {_MOST_REGIONS:,} are read of one answer")
        phrases = self._phrases(raw.phrases, sample)
        if sample.phrases and len(phrases) != len(sample.phrases):
            raise _Problem(
                "another_number_of_phrases", f"asked were {len(sample.phrases)}, got {len(phrases)} of `{sample.id}`"
            )
        return Prediction(sample.id, raw.text, phrases, raw.plain_text, raw.error)

    def _phrases(self, raws: Sequence[RawPhrase], sample: BenchmarkSample) -> tuple[PredictedPhrase, ...]:
        """All at once: masks and boxes one by one would cost more than everything else of scoring."""
        width, height = sample.image_size_wh
        given = [(box, *_of(raw, index)) for raw in raws for index, box in enumerate(raw.boxes)]
        checked = iter(check_rles([mask for _, mask, _ in given if mask is not None], (height, width)))
        codes = [None if mask is None else next(checked) for _, mask, _ in given]
        without = [box is None and code is not None for (box, _, _), code in zip(given, codes, strict=True)]
        boxes = iter(
            self._boxes([as_box(one[0]) for one, no_box in zip(given, without, strict=True) if not no_box], sample)
        )
        regions = iter(
            [
                PredictedRegion(_box_around(code) if no_box and code else next(boxes), _score(score), code)
                for (_, _, score), code, no_box in zip(given, codes, without, strict=True)
            ]
        )
        return tuple(PredictedPhrase(raw.text, tuple(islice(regions, len(raw.boxes))), raw.doubtful) for raw in raws)

    def _boxes(self, given: Sequence[Box], sample: BenchmarkSample) -> list[Box]:
        """The boxes of a prediction in pixels, cut to the image."""
        if not given:
            return []
        boxes, sides = np.array(given), np.tile(sample.image_size_wh, 2)
        self._num_boxes += len(boxes)
        self._largest = max(self._largest, float(boxes.max()))
        pixels = to_pixels(boxes, self._frame, sample.image_size_wh)
        margin = _BEYOND * max(sample.image_size_wh)
        self._num_beyond += int(((pixels < -margin) | (pixels > sides + margin)).any(axis=1).sum())
        return list(map(tuple, np.clip(pixels, 0, sides).tolist()))

    def refuse_other_frame(self, path: Path) -> None:
        """Refuse a file whose boxes fit another frame than the one they are said to have.

        Raises:
            DataError: with the suspicion.
        """
        if not self._num_boxes:
            return
        outside = self._num_beyond > _MANY * self._num_boxes
        said = f"{path}: {self._num_boxes} boxes are taken for {FRAMES[self._frame]}, but"
        if self._frame == "pixels" and self._largest <= 1 + _BEYOND:
            raise DataError(f"{said} all lie in 0 to 1, as shares of the image do; say so with --frame fraction")
        if self._frame == "pixels" and outside and self._largest <= 1000:
            raise DataError(
                f"{said} {self._num_beyond} lie outside their images and all in 0 to 1000, as thousandths do; "
                "say so with --frame per-mille"
            )
        if self._frame != "pixels" and outside:
            raise DataError(
                f"{said} {self._num_beyond} lie outside their images (the largest coordinate is {self._largest:g}); "
                f"another --frame is one of {', '.join(FRAMES)}"
            )
        if self._frame == "pixels" and outside:
            raise DataError(
                f"{said} {self._num_beyond} lie outside their images; are they of pictures of another size?"
            )
        if self._frame == "per-mille" and self._largest <= 1 + _BEYOND:
            raise DataError(f"{said} all lie in 0 to 1, as shares of the image do; say so with --frame fraction")


FRAMES: Mapping[str, str] = {
    "pixels": "pixels of the image",
    "fraction": "shares of the image's width and height",
    "per-mille": "thousandths of the image's width and height",
    "square-fraction": "shares of the image padded to a square, the picture in its middle",
}


def to_pixels(box: np.ndarray, frame: str, size_wh: tuple[int, int]) -> np.ndarray:
    """A box (4,), or several (n, 4), of one of `FRAMES` in pixels of the image."""
    sides = np.tile(np.array(size_wh, dtype=np.float64), 2)
    if frame == "pixels":
        return box
    if frame == "fraction":
        return box * sides
    if frame == "per-mille":
        return box / 1000 * sides
    assert frame == "square-fraction"
    side = float(sides.max())
    return box * side - (side - sides) / 2


class _Problem(Exception):  # noqa: N818  never leaves this file
    """Why a line cannot be used: a key of `PROBLEMS`, and what it is about."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _of(raw: RawPhrase, index: int) -> tuple[Any, Any]:
    """Mask and score of a region; None where there is none."""
    return raw.masks[index] if index < len(raw.masks) else None, raw.scores[index] if index < len(raw.scores) else None


def _box_around(code: Rle) -> Box:
    around = rle_to_box(code)
    return (0.0, 0.0, 0.0, 0.0) if around is None else as_box(around.tolist())


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if is_number(value) and 0 <= value <= 1:
        return float(value)
    raise DataError(f"a score must be in 0 to 1, got {shown(value)}")


def _phrase_value(phrase: PredictedPhrase) -> dict[str, Any]:
    data = {"text": phrase.text, "regions": [_region_value(region) for region in phrase.regions]}
    return {**data, "doubtful": True} if phrase.doubtful else data


def _region_value(region: PredictedRegion) -> dict[str, Any]:
    data: dict[str, Any] = {"box": [round(side, 2) for side in region.box_xyxy]}
    if region.score is not None:
        data["score"] = round(region.score, 4)
    return data if region.mask is None else {**data, "mask": dict(region.mask)}


def in_order(samples: Sequence[BenchmarkSample], by_id: Mapping[str, Prediction]) -> list[Prediction | None]:
    """The prediction of each sample; None where there is none."""
    return [by_id.get(sample.id) for sample in samples]
