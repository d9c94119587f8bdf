"""What is asked and what is true: the samples of a benchmark, and the JSONL file they are kept in.

One form for all tasks, so that asking, importing and scoring are written once. Boxes are in pixels of the upright
image. Knows no model, no metric and no data set's own format.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.benchmark.files import read_lines, read_values, write_aside
from llava_grounding.errors import VALUE_ERRORS, DataError, LlavaGroundingError, shown
from llava_grounding.masks import check_rles
from llava_grounding.typed_values import is_number
from llava_grounding.visual_prompts import PROMPT_KINDS, VisualPrompt, prompt_from_dict, prompt_to_dict

SET_VERSION = 1
_MOST_INSTANCES = 10_000

Rle = Mapping[str, Any]


@dataclass(frozen=True)
class LabelledInstance:
    """One labelled thing.

    Args:
        box_xyxy: corners in pixels.
        mask: COCO's compressed run-length code, None where only the box is known.
        id: as the labels have it.
    """

    category: str
    box_xyxy: tuple[float, float, float, float]
    mask: Rle | None = None
    id: int | str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = {"category": self.category, "box": list(self.box_xyxy)}
        if self.mask is not None:
            data["mask"] = dict(self.mask)
        return data if self.id is None else {**data, "id": self.id}


@dataclass(frozen=True)
class LabelledPhrase:
    """Words, and the indices of the instances they mean; () means that nothing in the image is meant."""

    text: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class BenchmarkSample:
    """One thing that is asked.

    Args:
        id: unique within the set.
        image: name of the picture in its folder.
        image_size_wh: in pixels, upright.
        kind: a group within the task, as `detail`, `click`, `popular`; its numbers are also given apart.
        question: put to the system, with one `<region>` per prompt; empty where phrases are to be found instead.
        prompts: what each `<region>` points at: `{"click": [x, y]}`, `{"box": [...]}`, `{"scribble": [[x, y], ...]}` or
            `{"mask": {...}}`, as on the wire.
        phrases: to be found in the image, one after the other.
        instances: what is labelled.
        references: answers by people or by a reference model.
        answer: the right one, of questions that have one.
        exhaustive: categories of which every instance is labelled; None = all that are named.
        marks: instances whose numbers, from 1, are drawn into the picture.
        split: of the data set.
        source: where the picture is from, in a set of several sources.
    """

    id: str
    image: str
    image_size_wh: tuple[int, int]
    kind: str = ""
    question: str = ""
    prompts: tuple[Mapping[str, Any], ...] = ()
    phrases: tuple[LabelledPhrase, ...] = ()
    instances: tuple[LabelledInstance, ...] = ()
    references: tuple[str, ...] = ()
    answer: str = ""
    exhaustive: tuple[str, ...] | None = None
    marks: tuple[int, ...] = ()
    split: str = ""
    source: str = ""

    def visual_prompts(self) -> tuple[VisualPrompt, ...]:
        """The prompts as values."""
        return tuple(_prompt(value) for value in self.prompts)

    @property
    def has_masks(self) -> bool:
        """Whether every instance has a mask."""
        return all(one.mask is not None for one in self.instances)

    def boxes_xyxy(self) -> np.ndarray:
        """(n, 4) float64 of the instances."""
        return np.array([one.box_xyxy for one in self.instances], dtype=np.float64).reshape(-1, 4)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is empty is left out."""
        data: dict[str, Any] = {"id": self.id, "image": self.image, "image_size": list(self.image_size_wh)}
        rest: dict[str, Any] = {
            "split": self.split,
            "source": self.source,
            "kind": self.kind,
            "question": self.question,
            "prompts": [dict(one) for one in self.prompts],
            "phrases": [{"text": one.text, "targets": list(one.targets)} for one in self.phrases],
            "instances": [one.to_dict() for one in self.instances],
            "references": list(self.references),
            "answer": self.answer,
            "marks": list(self.marks),
        }
        data |= {key: value for key, value in rest.items() if value}
        return data if self.exhaustive is None else {**data, "exhaustive": list(self.exhaustive)}

    @classmethod
    def from_dict(cls, data: Any) -> BenchmarkSample:
        """Read what `to_dict` wrote.

        Raises:
            DataError: if something is missing or does not fit.
        """
        try:
            width, height = (int(side) for side in data["image_size"])
            if width < 1 or height < 1:
                raise DataError(f"image_size must be two positive numbers, got {shown(data['image_size'])}")
            exhaustive = data.get("exhaustive")
            sample = cls(
                id=_text(data["id"], "id"),
                image=_text(data["image"], "image"),
                image_size_wh=(width, height),
                kind=_text(data.get("kind", ""), "kind"),
                question=_text(data.get("question", ""), "question"),
                prompts=tuple(data.get("prompts", ())),
                phrases=tuple(_phrase(one) for one in data.get("phrases", ())),
                instances=_instances(data.get("instances", ()), (height, width)),
                references=tuple(_text(one, "a reference") for one in data.get("references", ())),
                answer=_text(data.get("answer", ""), "answer"),
                exhaustive=None if exhaustive is None else tuple(_text(one, "a category") for one in exhaustive),
                marks=tuple(int(one) for one in data.get("marks", ())),
                split=_text(data.get("split", ""), "split"),
                source=_text(data.get("source", ""), "source"),
            )
            sample.visual_prompts()
        except KeyError as error:
            raise DataError(f"a sample must have `{error.args[0]}`, it is missing") from error
        except (LlavaGroundingError, *VALUE_ERRORS) as error:
            raise DataError(f"a sample has a value that does not fit: {error}") from error
        count = len(sample.instances)
        named = [*sample.marks, *(index for phrase in sample.phrases for index in phrase.targets)]
        if count > _MOST_INSTANCES or any(not 0 <= index < count for index in named):
            raise DataError(f"targets and marks must name one of the {count} instances, got {shown(named)}")
        return sample


@dataclass(frozen=True)
class SampleSet:
    """All samples of one task, as they are asked.

    Args:
        task: name of the task.
        name: what the data is called in reports.
        samples: in the order of asking.
        built_from: SHA-256 of every file that it was made from, by name.
        notes: what a reader of the numbers must know.
        left_out: why entries of the files are no samples, with how many.
    """

    task: str
    name: str
    samples: tuple[BenchmarkSample, ...]
    built_from: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = [one for one, count in Counter(sample.id for sample in self.samples).items() if count > 1]
        if twice:
            raise DataError(f"ids of samples must be unique, {len(twice)} are used twice, such as {shown(twice[0])}")
        splits = sorted({sample.split for sample in self.samples})
        if len(splits) > 1:
            raise DataError(f"a set must hold one split, got {len(splits)} mixed up: {shown(splits)}")

    @property
    def split(self) -> str:
        return self.samples[0].split if self.samples else ""

    def to_bytes(self) -> bytes:
        """The file: a line about the set, then one per sample."""
        about = {
            "benchmark_set": SET_VERSION,
            "task": self.task,
            "name": self.name,
            "count": len(self.samples),
            "built_from": dict(sorted(self.built_from.items())),
            "notes": list(self.notes),
            "left_out": dict(sorted(self.left_out.items())),
        }
        lines = [about, *(sample.to_dict() for sample in self.samples)]
        return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hex: every word that is asked goes into it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the file, aside first."""
        write_aside(path, self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> SampleSet:
        """Read a set that was built.

        Raises:
            DataError: if the file cannot be read or a line of it is wrong; a set is whole or useless.
        """
        lines = read_lines(path)
        _, about = next(lines, (1, None))
        version = about.get("benchmark_set") if isinstance(about, Mapping) else None
        if not isinstance(about, Mapping) or version != SET_VERSION:
            raise DataError(
                f"{path} must be a set of version {SET_VERSION}, made by `benchmark TASK build`, got {shown(version)}"
            )
        samples = read_values(path, lines, BenchmarkSample.from_dict)
        if len(samples) != about.get("count"):
            raise DataError(f"{path} must have {shown(about.get('count'))} samples, got {len(samples)}; it is cut off")
        return cls(
            task=_text(about.get("task"), "task"),
            name=_text(about.get("name"), "name"),
            samples=tuple(samples),
            built_from=dict(about.get("built_from") or {}),
            notes=tuple(about.get("notes") or ()),
            left_out=dict(about.get("left_out") or {}),
        )


def is_set(path: Path) -> bool:
    """Whether a file begins as one that `SampleSet.write` wrote."""
    try:
        _, about = next(read_lines(path), (1, None))
    except DataError:
        return False
    return isinstance(about, Mapping) and "benchmark_set" in about


def prompt_value(prompt: VisualPrompt) -> dict[str, Any]:
    """A visual prompt as samples hold it, to hundredths of a pixel."""
    return prompt_to_dict(prompt, digits=2)


def _prompt(value: Mapping[str, Any]) -> VisualPrompt:
    if len(value) != 1 or next(iter(value)) not in PROMPT_KINDS:
        raise DataError(f"a prompt must be one of click, box, scribble and mask, got {shown(dict(value))}")
    return prompt_from_dict(value)


def _phrase(value: Mapping[str, Any]) -> LabelledPhrase:
    return LabelledPhrase(_text(value["text"], "a phrase"), tuple(int(index) for index in value["targets"]))


def _instances(values: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]) -> tuple[LabelledInstance, ...]:
    masks = iter(check_rles([one["mask"] for one in values if one.get("mask") is not None], size_hw))
    return tuple(_instance(one, None if one.get("mask") is None else next(masks)) for one in values)


def _instance(value: Mapping[str, Any], mask: Rle | None) -> LabelledInstance:
    number = value.get("id")
    return LabelledInstance(
        _text(value["category"], "a category"),
        as_box(value["box"]),
        mask,
        number if number is None or isinstance(number, str) else int(number),
    )


def as_box(value: Any) -> tuple[float, float, float, float]:
    """Four finite numbers, x0 <= x1 and y0 <= y1.

    Raises:
        DataError: if it is anything else.
    """
    numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    fits = len(numbers) == 4 and all(map(is_number, numbers))
    if fits and all(abs(one) <= sys.float_info.max for one in numbers):  # NaN is not, nor is a whole number beyond it
        x0, y0, x1, y1 = (float(one) for one in numbers)
        if x0 <= x1 and y0 <= y1:
            return x0, y0, x1, y1
    raise DataError(f"a box must be four finite numbers x0 <= x1 and y0 <= y1, got {shown(value)}")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} must be a text, got {shown(value)}")
    return value
