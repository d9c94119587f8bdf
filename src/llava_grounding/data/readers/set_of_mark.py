"""Set-of-Mark: numbers drawn onto the things of a picture, and dialogues that name things by them, as `<3>`.

The picture comes with its marks, or they are drawn when it is read. Drawing is a pure function of pixels and masks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore
from llava_grounding.data.mark_drawing import DEFAULT_ALPHA, MarkedPicture, check_alpha
from llava_grounding.data.readers.labels import LabelledImages
from llava_grounding.data.readers.llava import dialogue_record, entry_of, label_of, read_dialogue_entries
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.readers.parts.rows import Names, check_present, image_store, pairs_of, words_only
from llava_grounding.data.record import Record, RecordedTurn
from llava_grounding.errors import DataError, shown
from llava_grounding.markup import REGION

MAX_MARKS = 500
"""Numbers drawn into one picture."""
_MARK = re.compile(r"<(\d{1,4})>")


@dataclass(frozen=True)
class Mention:
    """A mark named in a text.

    Args:
        number: of the mark, from 1.
        span: of `<k>` in the text, half-open, in code points.
        annotation: index of what the mark stands on; None where the picture came with its marks.
    """

    number: int
    span: tuple[int, int]
    annotation: int | None


def _most_name_marks(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether most dialogues name a mark that stands in their picture: code may have `<1>` in it as well."""
    return 2 * sum(map(_names_mark, rows)) > len(rows)


def _names_mark(row: Mapping[str, Any]) -> bool:
    turns = row.get("conversations")
    texts = [turn.get("value") for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    try:
        return any(find_marks(text) for text in texts if isinstance(text, str))
    except DataError:
        return False


def find_marks(text: str, marks: Sequence[int] | None = None) -> tuple[Mention, ...]:
    """The marks a text names, in order: `the dog <3> beside <1>` names 3 and 1.

    Args:
        text: a question, an answer, anything.
        marks: `Record.marks`: the annotation that mark k stands on at place k - 1; None or empty = not known.

    Raises:
        DataError: if the marks are known and one is named that there is not.
    """
    mentions = []
    for match in _MARK.finditer(text):
        number = int(match[1])
        if number < 1 or (marks and number > len(marks)):
            raise DataError(f"a mark must be 1 to {len(marks or ()) or 'the last'}, got `{match[0]}` in {shown(text)}")
        mentions.append(Mention(number, match.span(), marks[number - 1] if marks else None))
    return tuple(mentions)


def with_prompts(turn: RecordedTurn, marks: Sequence[int]) -> RecordedTurn:
    """The turn for a picture without marks: each `<k>` of the question becomes a `<region>` at what mark k stands on.

    Raises:
        DataError: if the answer names marks, which nobody could see, the question points at something already, or a
            mark is named that there is not.
    """
    if turn.regions:
        raise DataError(f"a question must have marks or regions, got both: {shown(turn.question)}")
    if find_marks(turn.answer):
        raise DataError(f"an answer about a picture without marks must name none, got {shown(turn.answer)}")
    mentions = find_marks(turn.question, marks)
    regions = tuple(mention.annotation for mention in mentions if mention.annotation is not None)
    return replace(turn, question=_MARK.sub(REGION, turn.question), regions=regions)


class SetOfMarkDialogues(PackedRecords):
    """One record per entry of a LLaVA-style file whose texts name things by number, as `the dog <3>`.

    An entry may say where its marks stand: `marks` is a list of annotation ids, the k-th for mark k, and they are
    drawn when the picture is read. Without it, the picture comes with its marks. Left out and counted are entries that
    name a mark that is not there, and whatever `LlavaDialogues` leaves out.

    Args:
        entries: of the file, each with its place in it.
        images: where pixels come from.
        labels: of the images, where entries have `marks`.
        alpha: how opaque the overlay of drawn marks is, in [0, 1].
        name: what the data is called in reports.

    Attributes:
        may_be_mirrored: not, as numbers are drawn into the pictures.
    """

    title = "dialogues with marks"
    has_texts = True
    may_be_mirrored = False

    def __init__(
        self,
        entries: Iterable[tuple[str, Any]],
        images: ImageStore,
        labels: LabelledImages | None = None,
        alpha: float = DEFAULT_ALPHA,
        name: str = "marks",
    ) -> None:
        check_alpha(alpha)
        self.images, self.alpha, self._labels = images, alpha, labels
        left_out, names, rows = LeftOut(), Names(), []
        for place, entry in entries:
            try:
                self._make(label_of(entry, place), entry, check=True)
            except EntryError as why:
                left_out.add(label_of(entry, place), why)
            else:
                rows.append((names.unique(label_of(entry, place)), entry))
        if labels is not None:
            left_out.join(labels.left_out)
        super().__init__(name, rows, left_out)

    @classmethod
    def from_files(
        cls,
        dialogues: str | Path,
        images: str | Path | ImageStore,
        instances: str | Path | None = None,
        alpha: float = DEFAULT_ALPHA,
        crowds_as_things: bool = False,
        name: str = "marks",
    ) -> SetOfMarkDialogues:
        """Read a file of dialogues, and the COCO file that its `marks` are ids of, with images in a folder or store.

        Args:
            crowds_as_things: take annotations with `iscrowd: 1` for one thing each.

        Raises:
            DataError: if a file cannot be read or is of another kind, or entries have `marks` without `instances`.
        """
        entries = read_dialogue_entries(dialogues)
        if instances is None and any(isinstance(entry, Mapping) and entry.get("marks") for _, entry in entries):
            raise DataError(f"{dialogues} has `marks` of annotation ids, so `instances` must name the file they are of")
        labels = (
            None
            if instances is None
            else LabelledImages.from_files(instances, images, crowds_as_things=crowds_as_things)
        )
        with naming(dialogues):
            return cls(entries, image_store(images), labels, alpha, name)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if "conversations" not in place.keys or not ("marks" in place.keys or _most_name_marks(place.entries)):
            return None
        labels = place.with_name("instances.json")  # as `annotate` writes them
        beside = {"instances": labels} if "marks" in place.keys and labels.is_file() else {}
        return Found({"dialogues": place, **beside}).with_images(place, place.pictures)

    def _record(self, row: tuple[str, Any]) -> Record:
        return self._make(*row)

    def _make(self, identity: str, entry: Any, check: bool = False) -> Record:
        image, conversations = entry_of(entry)
        turns = words_only(pairs_of(conversations))
        texts = [text for turn in turns for text in (turn.question, turn.answer)]
        if self._labels is None or not entry.get("marks"):
            if check:
                check_present(self.images, image)
                _check_mentions(texts, ())
            return dialogue_record(self.images, identity, image, (turns,))
        record = self._labels.record(self._labels.find(image))
        marks = self._labels.look_up(entry["marks"], record, self._labels.rows_of_ids(record), "marks")
        if len(marks) > MAX_MARKS:
            raise EntryError("too many marks", f"marks must be at most {MAX_MARKS}, got {len(marks)}")
        if len(marks) != len(set(marks)):
            raise EntryError("one thing with two marks", f"marks must be different, got {shown(entry['marks'])}")
        if check:
            check_present(self.images, record.image_name)
            _check_mentions(texts, marks)
        record = replace(record, id=identity, marks=marks, dialogues=(turns,))
        return replace(record, read_bytes=MarkedPicture(record, self.alpha))


def _check_mentions(texts: Iterable[str], marks: Sequence[int]) -> None:
    try:
        for text in texts:
            find_marks(text, marks)
    except DataError as error:
        raise EntryError("mark that is not there", str(error)) from error
