"""Looks through a data set before training does: what is in it, what is missing, what is broken and what was left out.

Whatever is wrong with the data ends up in the report; only a mistake in this package raises. Knows no file format.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llava_grounding.data.readers.parts.box_forms import possible_unit
from llava_grounding.data.readers.parts.image_rows import IMAGE_MISSING
from llava_grounding.data.readers.parts.shapes import BOX_BEYOND
from llava_grounding.data.record import Dataset, Record
from llava_grounding.errors import LlavaGroundingError, cut_short, one_line
from llava_grounding.geometry import box_iou, oriented_size
from llava_grounding.image_files import DATA_FORMATS
from llava_grounding.image_headers import read_header
from llava_grounding.masks import mask_to_box

_LONGEST = 700  # characters of a line
_TEXTS = ("captions", "grounded captions", "expressions", "statements", "questions", "dialogues")
NUM_NAMED = 20
"""Entries that are named of each kind of trouble; all are counted."""

_MOST_EMPTY = 0.5  # of the masks; a few polygons thinner than a pixel are in every data set
_MOST_UNLIKE = 0.1  # of the boxes; masks that were cut by hand at the edges of their boxes disagree in one of thirty
_ALIKE = 0.6  # overlap of a box with that around its mask; corners taken for a size often have 0.53
_SLIP = 3.0  # pixels
_AS_THINGS = "`crowds_as_things: true` takes each for one thing"

# What decoders are known to raise for damaged input, besides our own errors.
_TROUBLE = (
    LlavaGroundingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


@dataclass
class Trouble:
    """How often something was wrong, and where, for the first few."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.count += 1
        if len(self.named) < NUM_NAMED:
            self.named.append(cut_short(what, _LONGEST))

    def lines(self, title: str) -> list[str]:
        more = self.count - len(self.named)
        listed = [f"    {what}" for what in self.named] + ([f"    and {more} more"] if more > 0 else [])
        return [f"{title}: {self.count}", *listed] if self.count else []


@dataclass
class DatasetReport:
    """What `check_dataset` found.

    Args:
        name: of the data set.
        counts: how many there are of records, instances, masks, captions, phrases, expressions, dialogues, turns.
        crowds: instances that are several things under one mask, of which nothing is ever asked.
        nameless: instances without a category.
        unread: what the file says of labels that is not read, and of how many.
        missing_images: no file where one should be.
        broken_images: cannot be decoded, or not of the size their labels say.
        broken_masks: cannot be decoded, or not of the image's size.
        empty_masks: not one pixel, such as a polygon thinner than that; training takes them for boxes.
        unlike_boxes: the mask of a label lies elsewhere than its box, or is of another size.
        broken_records: cannot be made at all.
        turned: turned by their EXIF, with labels that may be of the picture before that: its size does not say.
        dropped: what the reader left out: reason -> how many, and the first of them with what is wrong.
        strict: whether anything that was left out is wrong; else only entries whose picture is missing.
        largest_corner: largest coordinate of all boxes, in pixels.
        least_side: of all pictures with boxes, in pixels; None where no size is known.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    crowds: int = 0
    nameless: int = 0
    unread: dict[str, int] = field(default_factory=dict)
    missing_images: Trouble = field(default_factory=Trouble)
    broken_images: Trouble = field(default_factory=Trouble)
    broken_masks: Trouble = field(default_factory=Trouble)
    empty_masks: Trouble = field(default_factory=Trouble)
    unlike_boxes: Trouble = field(default_factory=Trouble)
    broken_records: Trouble = field(default_factory=Trouble)
    turned: Trouble = field(default_factory=Trouble)
    dropped: dict[str, Trouble] = field(default_factory=dict)
    strict: bool = False
    largest_corner: float = 0.0
    least_side: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there are records, all that was looked at can be read, no picture is missing, and no `faults`.

        A few empty masks do not count, nor labels that were left out, unless `strict`: published data sets have some.
        """
        if self.dropped if self.strict else IMAGE_MISSING in self.dropped:
            return False
        if self.faults():
            return False
        return self.counts.get("records", 0) > 0 and not any(
            trouble.count
            for trouble in self._troubles().values()
            if trouble is not self.empty_masks and trouble is not self.unlike_boxes
        )

    def faults(self) -> list[str]:
        """What is wrong with the data set as a whole, in a sentence each: too often to be a slip."""
        instances, masks = self.counts.get("instances", 0), self.counts.get("instances with a mask", 0)
        beyond = self.dropped.get(BOX_BEYOND, Trouble()).count
        missing = self.dropped.get(IMAGE_MISSING, Trouble()).count + self.missing_images.count
        here = self.counts.get("records", 0) - self.missing_images.count
        empty, unlike = self.empty_masks.count, self.unlike_boxes.count
        faults = []
        if missing and not here:
            faults.append("all pictures are missing; is `images` the right place?")
        if empty > _MOST_EMPTY * masks:
            faults.append(f"{empty} of {masks} masks have not one pixel: are they of other pictures, or in pixels?")
        if unlike > _MOST_UNLIKE * (masks - empty):
            faults.append(
                f"{unlike} of {masks - empty} boxes do not fit their masks; bbox must be [x, y, width, height]"
            )
        if beyond > _MOST_UNLIKE * (instances + beyond):
            faults.append(f"{beyond} of {instances + beyond} boxes lie far beyond their pictures; are they in pixels?")
        if instances and self.crowds == instances:
            faults.append(f"all labels are crowds, which are never asked for ({_AS_THINGS})")
        return faults

    def doubts(self) -> list[str]:
        """What may be wrong with the data set as a whole, in a sentence each; it can be as it should, so it is ok."""
        doubts = []
        if self.turned.count:
            doubts.append(
                f"warning: {self.turned.count} pictures with labels are turned by their EXIF ({self.turned.named[0]}), "
                f"and their size does not say whether the labels are of the picture before that; they are read as of "
                f"the picture as it is shown, so look at some with `data look --draw`"
            )
        count = self.counts.get("instances", 0)
        records = self.counts.get("records", 0)
        if records and count == self.nameless and not any(self.counts.get(one) for one in _TEXTS):
            doubts.append(
                f"warning: nothing can be said of {records} pictures: there is no label with a name, caption, phrase "
                f"or dialogue"
            )
        unit = possible_unit(count, self.largest_corner, self.least_side or 0)
        if unit is None:
            return doubts
        return [
            *doubts,
            f"warning: all {count} boxes end within {self.largest_corner:g} pixels, though no picture has a side below "
            f"{self.least_side}: are they {unit}? bbox must be [x, y, width, height] in pixels",
        ]

    def lines(self) -> list[str]:
        """The report for a person, line by line."""
        shown = [f"{name}: {count}" for name, count in self.counts.items() if count or name == "records"]
        if self.crowds:
            of = self.counts["instances"]
            shown.append(f"{self.crowds} of {of} instances are crowds (`iscrowd: 1`), never asked for ({_AS_THINGS})")
        shown += [f"not read: `{key}` of {count} labels" for key, count in self.unread.items()]
        found = [line for title, trouble in self._troubles().items() for line in trouble.lines(title)]
        left_out = [line for reason, trouble in self.dropped.items() for line in trouble.lines(f"left out, {reason}")]
        head = f"{self.name}: {'ok' if self.ok else 'not ok'}"
        return [head, *(f"  {line}" for line in [*self.faults(), *self.doubts(), *shown, *found, *left_out])]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""

        def plain(trouble: Trouble) -> dict[str, Any]:
            return {"count": trouble.count, "first": list(trouble.named)}

        return {
            "name": self.name,
            "ok": self.ok,
            "faults": self.faults(),
            "doubts": self.doubts(),
            "counts": dict(self.counts),
            "crowds": self.crowds,
            "nameless": self.nameless,
            "unread": dict(self.unread),
            **{title.replace(" ", "_"): plain(trouble) for title, trouble in self._troubles().items()},
            "dropped": {reason: plain(trouble) for reason, trouble in self.dropped.items()},
        }

    def per_label(self) -> tuple[Trouble, ...]:
        """What pictures and their labels can have."""
        return self.missing_images, self.broken_images, self.broken_masks, self.empty_masks, self.unlike_boxes

    def _troubles(self) -> dict[str, Trouble]:
        return {
            "missing images": self.missing_images,
            "broken images": self.broken_images,
            "broken masks": self.broken_masks,
            "empty masks": self.empty_masks,
            "boxes unlike their masks": self.unlike_boxes,
            "broken records": self.broken_records,
        }


def check_dataset(
    dataset: Dataset, read_images: bool = True, limit: int | None = None, strict: bool = False
) -> DatasetReport:
    """Look at every record of a data set.

    Args:
        dataset: any reader's.
        read_images: decode every picture, and masks that lie in files; else only look whether the pictures exist.
        limit: look at so many records at most, from the first.
        strict: whether anything that the reader left out makes the data set not ok.
    """
    report = DatasetReport(dataset.name, dict.fromkeys(_counts(None), 0), strict=strict)
    known: dict[int, tuple[int, ...]] = {}  # what was found in a picture, of which there may be many dialogues
    for number in range(len(dataset) if limit is None else min(limit, len(dataset))):
        try:
            record = dataset[number]
            counted = _counts(record)
        except _TROUBLE as error:
            report.broken_records.add(f"{number}: {one_line(error, 300)}")
            continue
        for name, count in counted.items():
            report.counts[name] += count
        report.crowds += sum(thing.kind == "crowd" and thing.category != "" for thing in record.instances)
        report.nameless += sum(thing.category == "" for thing in record.instances)
        key, troubles = _labels_of(record), report.per_label()
        if key is not None and key in known:
            for trouble, count in zip(troubles, known[key], strict=True):
                trouble.count += count
            continue
        before = [trouble.count for trouble in troubles]
        size_wh = _check_image(record, read_images, report)
        _measure(record, size_wh, report)
        for index in range(len(record.instances)):
            _check_mask(record, index, size_wh, read_images, report)
        if key is not None:
            known[key] = tuple(trouble.count - was for trouble, was in zip(troubles, before, strict=True))
    report.unread = dict(getattr(dataset, "unread", {}))
    examples = getattr(dataset, "examples", dataset.dropped)
    for reason, ids in dataset.dropped.items():
        report.dropped[reason] = Trouble(len(ids), list(examples[reason][:NUM_NAMED]))
    return report


def _labels_of(record: Record) -> int | None:
    """The same for records of one picture with the same labels; None where that cannot be told."""
    if any(thing.id is None for thing in record.instances):
        return None
    try:
        labels = tuple((thing.id, thing.box_xyxy) for thing in record.instances)
        return hash((record.image_id, record.read_bytes, labels))
    except TypeError:  # a picture that is drawn, from labels
        return None


def _measure(record: Record, size_wh: tuple[int, int] | None, report: DatasetReport) -> None:
    """Note how far the boxes reach, and how small their picture is."""
    size_wh = record.image_size_wh or size_wh
    if not record.instances:
        return
    report.largest_corner = max(report.largest_corner, *(max(thing.box_xyxy) for thing in record.instances))
    if size_wh is not None:
        report.least_side = min(size_wh) if report.least_side is None else min(report.least_side, *size_wh)


def _counts(record: Record | None) -> dict[str, int]:
    """How much a record holds, by what the report calls it; zeros for None."""
    instances = record.instances if record else ()
    grounded = record.grounded_captions if record else ()
    turns = [turn for dialogue in record.dialogues for turn in dialogue] if record else []
    targets = [target for text in grounded for target in text.targets]
    targets += [target for turn in turns for target in turn.targets]
    return {
        "records": 0 if record is None else 1,
        "instances": len(instances),
        "instances with a mask": sum(instance.segmentation is not None for instance in instances),
        "captions": len(record.captions) if record else 0,
        "grounded captions": len(grounded),
        "phrases with a match": sum(target is not None for target in targets),
        "phrases without a match": sum(target is None for target in targets),
        "expressions": len(record.expressions) if record else 0,
        "statements": len(record.statements) if record else 0,
        "questions": len(record.questions) if record else 0,
        "dialogues": len(record.dialogues) if record else 0,
        "turns": len(turns),
    }


def _check_image(record: Record, read: bool, report: DatasetReport) -> tuple[int, int] | None:
    """Width and height; None where they are not known, or the picture is not there or has another size."""
    exists = getattr(record.read_bytes, "exists", None)
    if exists is not None and not exists():
        report.missing_images.add(f"{record.id}: {_reason_of_absence(record)}")
        return None
    if not read:
        return record.image_size_wh
    try:
        data = record.read_bytes()
        height, width = replace(record, read_bytes=lambda: data).load_image().shape[:2]
    except _TROUBLE as error:
        report.broken_images.add(f"{record.id}: {one_line(error, 300)}")
        return None
    if record.instances and _may_be_labelled_unturned(data):
        report.turned.add(record.image_name or record.id)
    return width, height


def _may_be_labelled_unturned(data: bytes) -> bool:
    """Whether a picture is turned by its EXIF and has the same size before that, where its labels may belong."""
    header = read_header(data, "it", DATA_FORMATS)
    size_wh = header.size_wh
    return size_wh is not None and header.orientation != 1 and size_wh == oriented_size(size_wh, header.orientation)


def _check_mask(record: Record, index: int, size_wh: tuple[int, int] | None, read: bool, report: DatasetReport) -> None:
    instance = record.instances[index]
    if callable(instance.segmentation) and not read:
        return
    if size_wh is None:
        return  # its picture was not read, or is in the report already
    called = f"{record.id}, {instance.category or 'instance'} {index if instance.id is None else instance.id}"
    try:
        mask = record.load_mask(index, size_wh)
    except _TROUBLE as error:
        report.broken_masks.add(f"{called}: {one_line(error, 300)}")
        return
    if mask is None:
        return
    around = mask_to_box(mask)
    if around is None:
        report.empty_masks.add(called)
    elif instance.kind == "thing" and not _fits(np.array(instance.box_xyxy), around):
        box = tuple(round(side, 1) for side in instance.box_xyxy)
        report.unlike_boxes.add(f"{called}: box {box}, but its mask lies within {tuple(around.tolist())}")


def _fits(box: np.ndarray, around: np.ndarray) -> bool:
    """Whether a box could be that around the mask, drawn with a loose hand."""
    if np.abs(box - around).max() <= _SLIP:
        return True
    return float(box_iou(box[None], around[None])[0, 0]) >= _ALIKE


def _reason_of_absence(record: Record) -> str:
    try:
        record.read_bytes()
    except _TROUBLE as error:
        return one_line(error, 300)
    return "there is none"
