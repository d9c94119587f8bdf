"""A finished folder read again: its records, and the labels and pictures they are about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.annotate.assemble import read_manifest
from llava_grounding.annotate.json_stream import iter_rows
from llava_grounding.annotate.label_index import LabelIndex, open_index
from llava_grounding.annotate.write import INSTANCES, RECORD_VERSION, RECORDS
from llava_grounding.data.images import ImageStore
from llava_grounding.data.record import Record
from llava_grounding.errors import VALUE_ERRORS, DataError, shown
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, PackedRegion, Region
from llava_grounding.typed_values import is_whole


@dataclass(frozen=True)
class FinishedText:
    """A text of a record with its phrases.

    Args:
        label: as `A1`.
        phrases: as the file has them: `text`, `span`, `annotations`, `categories`.
    """

    label: str
    text: str
    phrases: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class FinishedRecord:
    """One line of `records.jsonl`.

    Args:
        number: of the line, from 1.
        position: of the sample in its file.
        rounds: requests it took.
        prompted: whether a prompt was sampled for what it points at.
    """

    number: int
    position: int
    id: str
    image: str
    image_id: int
    texts: tuple[FinishedText, ...]
    rounds: int = 0
    prompted: bool = False

    @property
    def answers(self) -> tuple[FinishedText, ...]:
        """Captions and answers, without questions."""
        return tuple(text for text in self.texts if text.label.startswith("A"))


def iter_records(folder: Path) -> Iterator[FinishedRecord]:
    """The records of a finished folder, in order.

    Raises:
        DataError: if it is not finished, or a line is not as this release writes it.
    """
    read_manifest(folder)
    for row in iter_rows(folder / RECORDS):
        try:
            if row.value["version"] != RECORD_VERSION:
                raise ValueError(f"version {row.value['version']}")
            texts = tuple(
                FinishedText(label, str(one["text"]), tuple(map(_phrase, one["phrases"])))
                for label, one in row.value["texts"].items()
            )
            entry = row.value
            yield FinishedRecord(
                row.number,
                int(entry["position"]),
                str(entry["id"]),
                str(entry["image"]),
                int(entry["image_id"]),
                texts,
                int(entry["rounds"]),
                any("prompt" in one for one in entry["pointed_at"].values()),
            )
        except VALUE_ERRORS as error:
            raise DataError(
                f"{folder / RECORDS}, line {row.number} must be a record of version {RECORD_VERSION}: {error!r}"
            ) from error


def _phrase(value: Any) -> Mapping[str, Any]:
    """A phrase of a record, held to its form."""
    spans, ids = value["span"], value["annotations"]
    is_span = isinstance(spans, list) and len(spans) == 2 and all(map(is_whole, spans))
    if not (isinstance(value["text"], str) and is_span and isinstance(ids, list)):
        raise TypeError(f"a phrase must have `text`, `span` and `annotations`, got {shown(value)}")
    if not all(is_whole(one) or isinstance(one, str) for one in ids):
        raise TypeError(f"`annotations` of a phrase must be ids, got {shown(ids)}")
    return value


class FinishedLabels:
    """Labels and pictures of a finished folder.

    Args:
        images: where pixels come from.
        work: folder in which the index of the labels is kept.
    """

    def __init__(self, folder: Path, images: ImageStore, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._index: LabelIndex = open_index(folder / INSTANCES, work)
        self._images = images

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def record(self, image_id: int) -> Record:
        """An image with its labels.

        Raises:
            DataError: if it is not there.
        """
        labels = self._index.labelled([image_id], self._images)
        return labels.record(labels.find_id(image_id))

    def regions(self, record: Record, annotations: list[int]) -> tuple[Region, ...]:
        """Labels as regions.

        Raises:
            DataError: if one is not there.
        """
        rows = {thing.id: index for index, thing in enumerate(record.instances)}
        found: list[Region] = []
        for one in annotations:
            if one not in rows:
                raise DataError(f"annotation {one} is not on image {record.id}")
            box, mask = np.array(record.instances[rows[one]].box_xyxy), record.load_mask(rows[one])
            found.append(Region(box, 1.0) if mask is None else PackedRegion(box, 1.0, mask))
        return tuple(found)

    def answer(self, record: Record, text: FinishedText) -> GroundedAnswer:
        """A text with its phrases as an answer that can be drawn.

        Raises:
            DataError: if the size of the image is not known, or an annotation is not there.
        """
        if record.image_size_wh is None:
            raise DataError(f"the size of {record.id} is not known")
        phrases = tuple(
            GroundedPhrase(number, one["text"], tuple(one["span"]), self.regions(record, list(one["annotations"])), 1.0)
            for number, one in enumerate(text.phrases)
        )
        return GroundedAnswer(text.text, phrases, record.image_size_wh, text.text, "labels", 0, 0)
