"""Somebody's own data: images with a COCO file, and if they have them captions and dialogues, without writing code.

The formats are specified in docs/data_formats.md. Every fault is reported by file and entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from llava_grounding.data.grounded_captions import ground_caption
from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.coco_labels import TEXT_KEYS
from llava_grounding.data.readers.labels import LabelledImages
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut, named
from llava_grounding.data.readers.parts.notation import Ids, WrittenTurn, read_answer, read_turn
from llava_grounding.data.readers.parts.numbers import EntryError, key_of
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.rows import NOT_IN_LOSS, check_present, read_entries
from llava_grounding.data.readers.parts.texts import words_of
from llava_grounding.data.record import Expression, GroundedText, Record, RecordedTurn
from llava_grounding.data.sample import Targets
from llava_grounding.errors import DataError, shown
from llava_grounding.markup import strip_markup

_TEXTS = tuple(key for key in TEXT_KEYS if key != "expressions")  # these are checked here


@dataclass
class _Said:
    """What the files say of one image besides its labels."""

    captions: list[str] = field(default_factory=list)
    by_hand: list[GroundedText] = field(default_factory=list)  # captions whose phrases people have tied
    to_tie: list[str] = field(default_factory=list)  # the others
    expressions: list[Expression] = field(default_factory=list)
    dialogues: list[tuple[RecordedTurn, ...]] = field(default_factory=list)


class CustomData(PackedRecords):
    """One record per image of a COCO file, with its captions, expressions and dialogues; see `from_files`.

    Args:
        labels: images and annotations.
        rows: places of the images in `labels`.
        said: what is known besides, by place.
        left_out: of the files.
        name: what the data is called in reports.
    """

    title = "dialogues of your own"

    def __init__(
        self,
        labels: LabelledImages,
        rows: list[int],
        said: Mapping[int, _Said],
        left_out: LeftOut,
        name: str,
    ) -> None:
        super().__init__(name, rows, left_out, labels.unread)
        self._labels, self._said = labels, said

    @classmethod
    def from_files(
        cls,
        instances: str | Path,
        images: str | Path | ImageStore,
        captions: str | Path | None = None,
        dialogues: str | Path | None = None,
        exhaustive: bool = True,
        crowds_as_things: bool = False,
        strict: bool = True,
        name: str = "own data",
    ) -> CustomData:
        """Read the files; the formats are those of docs/data_formats.md.

        Args:
            instances: COCO instances file. An annotation may have `expressions`: a list of what people say to mean it.
            images: the folder of its images, or another store.
            captions: COCO captions file of the same image ids.
            dialogues: JSON list, or `.jsonl`, of `{"image": ..., "turns": [{"question": ..., "answer": ...}]}`.
            exhaustive: whether every visible thing of the file's categories is labelled. If not, nothing is asked that
                only a complete file can answer: how many there are, or whether there is one.
            crowds_as_things: take annotations with `iscrowd: 1` for one thing each, as CVAT and Datumaro write them for
                every mask made with a brush; else they are never asked for.
            strict: refuse a file with broken entries; otherwise they are left out and counted in `dropped`.

        Raises:
            DataError: if a file cannot be read, is of another kind, or, if strict, has broken entries.
        """
        labels = LabelledImages.from_files(instances, images, True, exhaustive, crowds_as_things, _TEXTS)
        said = {index: _Said() for index in range(len(labels))}
        rows, left_out = [], labels.left_out
        for index in said:
            if left_out.keep(f"image {named(labels.file_name(index))}", partial(_add_labels, index, labels, said)):
                rows.append(index)
        lost = [(instances, left_out)]
        if captions is not None:
            lost.append((captions, _read_captions(captions, labels, said)))
        if dialogues is not None:
            lost.append((dialogues, _read_dialogues(dialogues, labels, said)))
        if strict:
            for path, left_out in lost:
                left_out.refuse(path)
        everything = LeftOut()
        for _, left_out in lost:
            everything.join(left_out)
        return cls(labels, rows, said, everything, name)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if "turns" not in place.keys:
            return None
        found = Found({"dialogues": place}, {"instances": "a COCO file of its pictures"})
        return found.with_images(place, place.pictures)

    def _record(self, row: int) -> Record:
        record, said = self._labels.record(row), self._said[row]
        tied = [
            GroundedText(*ground_caption(caption, record.instances, record.exhaustive, record.image_size_wh))
            for caption in said.to_tie
        ]
        return replace(
            record,
            captions=tuple(said.captions),
            grounded_captions=(*said.by_hand, *(one for one in tied if any(one.targets))),
            expressions=(*record.expressions, *said.expressions),
            dialogues=tuple(said.dialogues),
        )


def _add_labels(index: int, labels: LabelledImages, said: Mapping[int, _Said]) -> None:
    """See that the picture is there, and take the expressions that stand beside annotations."""
    check_present(labels.images, labels.file_name(index))
    record = labels.record(index)
    for number, row in labels.rows_of_ids(record).items():
        sentences = labels.expressions.get(number, [])
        if not isinstance(sentences, list):
            raise EntryError(
                "expressions", f"expressions of annotation {number} must be a list, got {shown(sentences)}"
            )
        said[index].expressions += [
            Expression(words_of(one, f"an expression of annotation {number}"), (row,)) for one in sentences
        ]


def _read_captions(path: str | Path, labels: LabelledImages, said: Mapping[int, _Said]) -> LeftOut:
    value, left_out = read_json(path), LeftOut()
    if not isinstance(value, Mapping) or not isinstance(value.get("annotations"), list):
        raise DataError(f"{path} must be a COCO captions file with a list of `annotations`, got {shown(value)}")
    for number, entry in enumerate(value["annotations"], start=1):
        left_out.keep(f"caption {number}", partial(_add_caption, entry, labels, said))
    return left_out


def _add_caption(entry: Any, labels: LabelledImages, said: Mapping[int, _Said]) -> None:
    if not isinstance(entry, Mapping) or entry.get("image_id") is None:
        raise EntryError("caption of no image", f"must have `image_id` and `caption`, got {shown(entry)}")
    index = labels.find_id(key_of(entry["image_id"], "image id"))
    text, targets = read_answer(entry.get("caption"))
    if targets:
        record = labels.record(index)
        said[index].by_hand.append(GroundedText(text, _targets(targets, labels, record)))
    else:
        said[index].to_tie.append(text)
    said[index].captions.append(strip_markup(text))


def _read_dialogues(path: str | Path, labels: LabelledImages, said: Mapping[int, _Said]) -> LeftOut:
    left_out = LeftOut()
    entries = read_entries(path, "dialogues")
    if entries and not any(isinstance(entry, Mapping) and "turns" in entry for _, entry in entries):
        raise DataError(f"{path} must hold dialogues with `image` and `turns`, got {shown(entries[0][1])}")
    for place, entry in entries:
        left_out.keep(place, partial(_add_dialogue, entry, labels, said))
    return left_out


def _add_dialogue(entry: Any, labels: LabelledImages, said: Mapping[int, _Said]) -> None:
    if not isinstance(entry, Mapping):
        raise EntryError("no dialogue", f"must be an object with `image` and `turns`, got {shown(entry)}")
    index = labels.find(file_name_of(entry.get("image")))
    turns = entry.get("turns")
    if not isinstance(turns, list) or not turns:
        raise EntryError("no dialogue", f"turns must be a list of questions and answers, got {shown(turns)}")
    record = labels.record(index)
    recorded = []
    for number, turn in enumerate(turns, start=1):
        try:
            recorded.append(_recorded(read_turn(turn), labels, record))
        except EntryError as why:
            raise EntryError(why.reason, f"turn {number}: {why}") from why
    if not any(turn.in_loss for turn in recorded):
        raise EntryError(NOT_IN_LOSS, "all answers are marked as not to be learnt")
    said[index].dialogues.append(tuple(recorded))


def _recorded(turn: WrittenTurn, labels: LabelledImages, record: Record) -> RecordedTurn:
    """The turn with indices in place of annotation ids."""
    rows = labels.rows_of_ids(record)
    regions = labels.look_up(list(turn.regions), record, rows, "the question")
    targets = _targets(turn.targets, labels, record)
    return RecordedTurn(turn.question, turn.answer, targets, regions, turn.grounded, turn.in_loss)


def _targets(ids: Sequence[Ids | None], labels: LabelledImages, record: Record) -> Targets:
    """Indices in place of annotation ids, each once per phrase."""
    rows = labels.rows_of_ids(record)
    found = [None if one is None else labels.look_up(list(one), record, rows, "a phrase") for one in ids]
    return tuple(None if one is None else tuple(dict.fromkeys(one)) for one in found)
