"""From published files to samples: what all tasks share in building their sets.

Reads with the readers of `data/readers`; knows no task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, SampleSet
from llava_grounding.data.images import ImageStore, NamesOnly, open_images
from llava_grounding.data.plain_files import file_hash
from llava_grounding.data.readers.coco import CocoPhotos, PhotoPack, read_label_sets
from llava_grounding.data.readers.coco_labels import LabelOptions
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.record import Dataset, Record
from llava_grounding.data.sample import Turn
from llava_grounding.errors import DataError, ImageError, UsageError
from llava_grounding.image_files import DATA_FORMATS, DATA_LIMITS, load_image
from llava_grounding.markup import parse_strict
from llava_grounding.masks import check_rle, encode_rle
from llava_grounding.polygons import polygons_to_mask

_T = TypeVar("_T")
_REFERRING_KINDS = ("find", "where")


@dataclass(frozen=True)
class BuildInputs:
    """What a set is built from; each task says which of these it needs.

    Args:
        data: a photo pack.
        split: of the pack, or of the published files.
        instances: a COCO instances file.
        captions: a COCO captions file.
        dialogues: grounded visual chat as `annotate` writes it.
        refs: referring expressions: `refs(unc).p`, `grefs(unc).json`, ...
        entities: the folder of Flickr30K Entities, or MDETR's JSON.
        questions: questions as JSON lines.
        answers: reference answers as JSON lines.
        ids: a list of image ids.
        images: where the pictures are; needed where a file does not say their size.
        limit: how many samples, spread evenly; None = all.
        seed: chooses prompts.
        question: how a description is asked for, where the files have no questions; None = the task's own words.
    """

    data: Path | None = None
    split: str = "val"
    instances: Path | None = None
    captions: Path | None = None
    dialogues: Path | None = None
    refs: Path | None = None
    entities: Path | None = None
    questions: Path | None = None
    answers: Path | None = None
    ids: Path | None = None
    images: Path | None = None
    limit: int | None = None
    seed: int = 0
    question: str | None = None

    def need(self, task: str, *ways: Sequence[str]) -> None:
        """Check that the files of one of the ways are given.

        Raises:
            UsageError: naming the ways.
        """
        if any(all(getattr(self, name) is not None for name in way) for way in ways):
            return
        said = "; or ".join(" and ".join(f"--{name}" for name in way) for way in ways)
        raise UsageError(f"building {task} needs {said}")

    def pictures(self) -> ImageStore:
        """Where the pictures are; where nothing is given names are enough."""
        return open_images(self.images) if self.images is not None else NamesOnly()

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that is read, by its name."""
        paths = [getattr(self, name) for name in ("instances", "captions", "dialogues", "refs", "questions", "answers")]
        if self.data is not None:
            names = ("instances", "captions", "vsr", "pope")
            paths += [path for name in names for path in self.data.glob(f"{name}_{self.split}.json*")]
        paths += [path for path in (self.entities, self.ids) if path is not None and path.is_file()]
        return {path.name: file_hash(path) for path in paths if path is not None}


@dataclass
class Building:
    """Collects samples and why others were left out."""

    inputs: BuildInputs
    task: str
    samples: list[BenchmarkSample] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def take_dropped(self, records: Dataset) -> None:
        """Count what the reader of the files left out."""
        for reason, ids in records.dropped.items():
            self.left_out[reason] += len(ids)

    def finish(self, name: str, notes: Iterable[str] = ()) -> SampleSet:
        """The set, at most `limit` samples of it, spread evenly.

        Raises:
            DataError: if there are none.
        """
        if not self.samples:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.left_out.items())
            raise DataError(f"there is nothing to ask in these files{f' ({reasons})' if reasons else ''}")
        chosen = spread(self.samples, self.inputs.limit)
        return SampleSet(
            self.task, name, tuple(chosen), self.inputs.hashes(), tuple(notes), dict(sorted(self.left_out.items()))
        )


def spread(items: Sequence[_T], limit: int | None) -> list[_T]:
    """At most `limit` of them, evenly spread, in order."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index] for index in np.linspace(0, len(items), limit, endpoint=False).astype(int)]


def referring_phrases(turns: Iterable[Turn]) -> Iterator[tuple[str, int]]:
    """Phrases that were asked for and mean one instance, begun in lower case, with its index; they may repeat."""
    for turn in turns:
        target = turn.targets[0] if turn.grounded and turn.kind in _REFERRING_KINDS and turn.targets else None
        if target is not None and len(target) == 1:
            phrase = parse_strict(turn.answer).phrases[0].text
            yield phrase[0].lower() + phrase[1:], target[0]


def photo_records(inputs: BuildInputs, completed: Callable[[Any], Any] = lambda labels: labels) -> Dataset:
    """The photos of a pack, or of a COCO instances file with captions.

    Args:
        completed: adds to the parsed instances file what its images lack.
    """
    if inputs.data is not None:
        return PhotoPack(inputs.data).split(inputs.split)
    assert inputs.instances is not None
    with naming(inputs.instances):
        return CocoPhotos(
            completed(read_json(inputs.instances)),
            inputs.pictures(),
            read_json(inputs.captions) if inputs.captions else None,
            name=inputs.instances.stem,
            options=LabelOptions(label_sets=read_label_sets(inputs.instances.parent)),
        )


def labelled(record: Record, image_size_wh: tuple[int, int] | None = None) -> tuple[LabelledInstance, ...]:
    """The things of a record; crowds are none of them."""
    return tuple(
        LabelledInstance(one.category, rounded_box(one.box_xyxy), mask_code(record, index, image_size_wh), one.id)
        for index, one in enumerate(record.instances)
        if one.kind != "crowd"
    )


def rows_without_crowds(record: Record) -> dict[int, int]:
    """Index in the record -> index among what `labelled` gives."""
    kept = [index for index, one in enumerate(record.instances) if one.kind != "crowd"]
    return {index: row for row, index in enumerate(kept)}


def mask_code(record: Record, index: int, image_size_wh: tuple[int, int] | None = None) -> dict[str, Any] | None:
    """Run-length code of an instance's mask, read without its picture; None where only a box is known."""
    segmentation, size_wh = record.instances[index].segmentation, record.image_size_wh or image_size_wh
    if segmentation is None or size_wh is None:
        return None
    width, height = size_wh
    if isinstance(segmentation, Mapping):
        return check_rle(segmentation, (height, width))
    if callable(segmentation):
        return encode_rle(segmentation())
    return encode_rle(polygons_to_mask([list(polygon) for polygon in segmentation], size_wh))


def rounded_box(box: Sequence[float]) -> tuple[float, float, float, float]:
    """The box to a hundredth of a pixel."""
    x0, y0, x1, y1 = (round(float(side), 2) for side in box)
    return x0, y0, x1, y1


def sized(
    records: Dataset, building: Building, chosen: Iterable[Record] | None = None
) -> Iterator[tuple[Record, tuple[int, int]]]:
    """Records whose image size is known, from the labels or else the picture itself; others are left out, and counted.

    Args:
        chosen: of the records; None = all.
    """
    building.take_dropped(records)
    for record in records if chosen is None else chosen:
        size_wh = record.image_size_wh or picture_size(building.inputs, record.image_name or record.id)
        if size_wh is None:
            building.left_out["size of the image not known; give --images"] += 1
        else:
            yield record, size_wh


def picture_size(inputs: BuildInputs, name: str) -> tuple[int, int] | None:
    """Width and height, upright, of a picture; None where it is not there."""
    if inputs.images is None:
        return None
    try:
        picture = load_image(open_images(inputs.images).locate(name)(), DATA_LIMITS, DATA_FORMATS)
    except (DataError, ImageError):
        return None
    return picture.width, picture.height
