"""A sample with its image: the texts to be marked, by label, and the instances that may be named, by number.

Knows no prompts: how a task is worded is `prompt`'s business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from llava_grounding.annotate.label_index import LabelIndex
from llava_grounding.annotate.samples import TextSample, Unusable
from llava_grounding.data.grounded_captions import box_area_of
from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.record import Annotation, Record
from llava_grounding.language.nouns import spoken_name

MAX_INSTANCES = 100
"""Listed of one image: the largest, in the order of the file."""
_BLOCK = 1024  # samples whose labels are read together


@dataclass(frozen=True)
class Numbered:
    """An instance under its number.

    Args:
        number: from 1.
        index: in the record.
        name: of its category, as a person would say it.
        instance: the label itself; it has an id.
        share_xyxy: its box as shares of the width and height of the image.
    """

    number: int
    index: int
    name: str
    instance: Annotation
    share_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True)
class AnnotationTask:
    """What is asked about one sample.

    Args:
        sample: where the texts are from.
        record: its image, with all labels.
        numbered: what may be named.
        texts: to be marked, by label: `Q1` the first question, `A1` its answer.
        seed: the same for the same texts about the same image, wherever they stand in their file.
    """

    sample: TextSample
    record: Record
    numbered: tuple[Numbered, ...]
    texts: Mapping[str, str]
    seed: int


def make_task(sample: TextSample, record: Record, numbered: tuple[Numbered, ...] | None = None) -> AnnotationTask:
    """A sample with its image.

    Args:
        numbered: of the record, where it is known already.
    """
    texts = {}
    for number, turn in enumerate(sample.turns, start=1):
        if turn.question is not None:
            texts[f"Q{number}"] = turn.question
        texts[f"A{number}"] = turn.answer
    key = repr((sample.id, record.id, texts)).encode("utf-8", "surrogatepass")
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return AnnotationTask(sample, record, number_instances(record) if numbered is None else numbered, texts, seed)


def number_instances(record: Record) -> tuple[Numbered, ...]:
    """What of an image may be named: everything with an id and a category but crowds."""
    usable = [
        (index, thing)
        for index, thing in enumerate(record.instances)
        if thing.kind != "crowd" and thing.id is not None and spoken_name(thing.category)
    ]
    if len(usable) > MAX_INSTANCES:
        largest = sorted(usable, key=lambda pair: (-box_area_of(pair[1]), pair[0]))[:MAX_INSTANCES]
        usable = sorted(largest, key=lambda pair: pair[0])
    return tuple(
        Numbered(number, index, spoken_name(thing.category), thing, _shares(thing, record.image_size_wh))
        for number, (index, thing) in enumerate(usable, start=1)
    )


def _shares(thing: Annotation, size_wh: tuple[int, int] | None) -> tuple[float, float, float, float]:
    width, height = size_wh or (1, 1)
    x0, y0, x1, y1 = thing.box_xyxy
    return x0 / width, y0 / height, x1 / width, y1 / height


def iter_tasks(
    samples: Iterable[TextSample | Unusable], index: LabelIndex, images: ImageStore
) -> Iterator[AnnotationTask | Unusable]:
    """Samples with the labels of their images, in order; one whose image is not labelled cannot be used."""
    iterator = iter(samples)
    last: Record | None = None
    numbered: tuple[Numbered, ...] = ()
    while block := list(islice(iterator, _BLOCK)):
        labels = index.labelled((one.image for one in block if isinstance(one, TextSample)), images)
        for one in block:
            if isinstance(one, Unusable):
                yield one
                continue
            try:
                row = labels.find(one.image) if isinstance(one.image, str) else labels.find_id(one.image)
            except EntryError as why:
                yield Unusable(one.position, one.id, why.reason, str(why))
                continue
            record = labels.record(row)
            if record is not last:
                last, numbered = record, number_instances(record)
            if numbered:
                yield make_task(one, record, numbered)
            else:
                yield Unusable(one.position, one.id, "no instances", "its image has no labelled instances")
