"""Grounded visual chat as LLaVA-Grounding publishes it: dialogues whose phrases carry annotation ids, and prompts.

`grounded_visual_chat_data.json` grounds answers, `llava_instruct_150k_visual_prompt.json` points with `<obj>` in
questions, `grounding_train2017_instruct.json` captions regions. `write_gvc` writes the first two.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.labels import LabelledImages
from llava_grounding.data.readers.llava import entry_of, label_of, read_dialogue_entries
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.readers.parts.rows import Names, canonical_markup, check_present, pairs_of
from llava_grounding.data.readers.parts.texts import IMAGE_TOKEN, OBJECT_TOKEN, words_of
from llava_grounding.data.record import Expression, Record, RecordedTurn
from llava_grounding.errors import DataError, shown
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG

SUFFIX = "(with grounding)"
"""What follows a question whose answer is grounded, in the file."""

_MARKUP = (PHRASE_START, PHRASE_END, SEG)
_REFUSAL = re.compile(r"\bplease provide\b", re.IGNORECASE)


class _WithLabelledImages(PackedRecords):
    """Records of a file of dialogues whose ids are those of a COCO file.

    Args:
        entries: of the file, each with its place in it.
        labels: of the images.
        images: where pixels come from.
        name: what the data is called in reports; None = its kind.
    """

    _kind: ClassVar[str]

    def __init__(
        self, entries: Iterable[tuple[str, Any]], labels: LabelledImages, images: ImageStore, name: str | None = None
    ) -> None:
        left_out = LeftOut()
        self._labels = labels
        rows = self._rows(entries, images, left_out)
        left_out.join(labels.left_out)
        super().__init__(self._kind if name is None else name, rows, left_out)

    @classmethod
    def from_files(
        cls,
        dialogues: str | Path,
        instances: str | Path,
        images: str | Path | ImageStore,
        crowds_as_things: bool = False,
        name: str | None = None,
    ) -> Self:
        """Read a file of dialogues and the COCO file its ids are of, with images in a folder or another store.

        Args:
            crowds_as_things: take annotations with `iscrowd: 1` for one thing each.

        Raises:
            DataError: if a file cannot be read or is of another kind.
        """
        labels = LabelledImages.from_files(instances, images, crowds_as_things=crowds_as_things)
        entries = read_dialogue_entries(dialogues)
        with naming(dialogues):
            return cls(entries, labels, labels.images, name)

    @abstractmethod
    def _rows(self, entries: Iterable[tuple[str, Any]], images: ImageStore, left_out: LeftOut) -> list[Any]:
        """What `_record` makes records of; entries that are none are put into `left_out`."""


class GvcDialogues(_WithLabelledImages):
    """One record per entry of a file of grounded dialogues, with the labels of its image.

    An image with several dialogues has as many records, each with one of them: drawing records evenly visits it as
    often as the original does, which pools an image's dialogues and lists it once per dialogue.

    Left out and counted, after the filters of the original: answers that refuse, phrases that are empty or not closed,
    markup without `(with grounding)` in the question and the reverse, ids that are unknown, of another image, or not
    one entry per `<seg>` or `<obj>`.
    """

    title = "grounded visual chat of LLaVA-Grounding"
    has_texts = True
    _kind = "gvc"

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if "conversations" not in place.keys or not place.keys & {"gd_ls", "q_gd_ls"}:
            return None
        labels = place.with_name("instances.json")  # as `annotate` writes them
        found = Found({"dialogues": place}).having("instances", labels, "the COCO file that its ids are of")
        return found.with_images(place, place.pictures)

    def _rows(self, entries: Iterable[tuple[str, Any]], images: ImageStore, left_out: LeftOut) -> list[Any]:
        names, rows, labels = Names(), [], self._labels
        for place, entry in entries:
            try:
                image, _ = entry_of(entry)
                index = labels.find(image)
                _dialogue(entry, labels, labels.record(index))
                check_present(images, labels.file_name(index))
            except EntryError as why:
                left_out.add(label_of(entry, place), why)
            else:
                rows.append((names.unique(label_of(entry, place)), index, entry))
        return rows

    def _record(self, row: tuple[str, int, Any]) -> Record:
        identity, index, entry = row
        record = self._labels.record(index)
        dialogue = _dialogue(entry, self._labels, record)
        return replace(record, id=identity, dialogues=(dialogue,))


class RegionCaptions(_WithLabelledImages):
    """One record per image of a file whose answers are lists of sentences that mean one annotation each."""

    title = "descriptions of boxes of COCO photos, as the original's stage 1 reads them"
    _kind = "regions"

    def _rows(self, entries: Iterable[tuple[str, Any]], images: ImageStore, left_out: LeftOut) -> list[Any]:
        labels = self._labels
        found: dict[int, list[Expression]] = {}
        for place, entry in entries:
            try:
                image, _ = entry_of(entry)
                index = labels.find(image)
                check_present(images, labels.file_name(index))
                found.setdefault(index, []).extend(_captions(entry, labels, labels.record(index)))
            except EntryError as why:
                left_out.add(label_of(entry, place), why)
        return [(index, tuple(expressions)) for index, expressions in found.items() if expressions]

    def _record(self, row: tuple[int, tuple[Expression, ...]]) -> Record:
        index, expressions = row
        return replace(self._labels.record(index), expressions=expressions)


def write_gvc(path: str | Path, records: Iterable[Record]) -> int:
    """Write dialogues of records as a file that `GvcDialogues` reads, one entry each, and give how many.

    Targets become annotation ids, so every annotation that a dialogue names must have one. `q_gd_ls` is written where
    a question points at something.

    Raises:
        DataError: if an annotation without an id is named.
    """
    entries = [gvc_entry(record, dialogue) for record in records for dialogue in record.dialogues]
    Path(path).write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return len(entries)


def gvc_entry(record: Record, dialogue: Sequence[RecordedTurn], name: str | None = None) -> dict[str, Any]:
    """One dialogue of a record as an entry of a file of grounded dialogues.

    Args:
        name: of the entry; None = the record's.

    Raises:
        DataError: if an annotation without an id is named.
    """
    conversations = []
    for index, turn in enumerate(dialogue):
        question = turn.question.replace(REGION, OBJECT_TOKEN) + (f" {SUFFIX}" if turn.grounded else "")
        head = f"{IMAGE_TOKEN}\n" if index == 0 else ""
        answer = {"from": "gpt", "value": turn.answer} | ({} if turn.in_loss else {"loss": False})
        conversations += [{"from": "human", "value": head + question}, answer]
    entry: dict[str, Any] = {
        "id": record.id if name is None else name,
        "image": record.image_name or record.id,
        "conversations": conversations,
        "gd_ls": [
            None if target is None else [_id(record, one) for one in target]
            for turn in dialogue
            for target in turn.targets
        ],
    }
    if any(turn.regions for turn in dialogue):
        entry["q_gd_ls"] = [[_id(record, one) for one in turn.regions] or None for turn in dialogue]
    return entry


def _id(record: Record, index: int) -> int | str:
    number = record.instances[index].id
    if number is None:
        raise DataError(f"annotation {index} of `{record.id}` must have an id to be written, it has none")
    return number


def _dialogue(entry: Mapping[str, Any], labels: LabelledImages, record: Record) -> tuple[RecordedTurn, ...]:
    """The entry's dialogue, its ids as indices of the record.

    Raises:
        EntryError: if it is to be left out.
    """
    pairs = pairs_of(entry.get("conversations"))
    rows = labels.rows_of_ids(record)
    asked, said = _ids_of_questions(entry, len(pairs)), _ids_of_phrases(entry, pairs)
    turns = []
    for number, (question, answer) in enumerate(pairs):
        question, grounded = _without_suffix(words_of(question, "a question", (OBJECT_TOKEN,)))
        text, count = _canonical(words_of(answer, "an answer", _MARKUP), grounded)
        ids_of_phrases = [next(said) for _ in range(count)]
        targets = [
            None if ids is None or ids == [] else tuple(dict.fromkeys(labels.look_up(ids, record, rows, "gd_ls")))
            for ids in ids_of_phrases
        ]
        regions = _regions(question, asked[number], labels, record, rows)
        question = question.replace(OBJECT_TOKEN, REGION)
        turns.append(RecordedTurn(question, text, tuple(targets), regions, grounded))
    if any(turn.grounded for turn in turns) and not any(turn.targets for turn in turns):
        raise EntryError("grounded without phrases", f"`{SUFFIX}` asks for phrases, but no answer has one")
    return tuple(turns)


def _ids_of_questions(entry: Mapping[str, Any], count: int) -> list[Any]:
    """Annotation ids per question, None where it points at nothing."""
    ids = entry.get("q_gd_ls")
    if ids is None:
        return [None] * count
    if not isinstance(ids, list) or len(ids) != count:
        raise EntryError(
            "q_gd_ls does not fit", f"q_gd_ls must have {count} entries, one per question, got {shown(ids)}"
        )
    return ids


def _ids_of_phrases(entry: Mapping[str, Any], pairs: Sequence[tuple[str, Any]]) -> Any:
    """An iterator over the annotation ids of every `<seg>` of the dialogue."""
    ids = entry.get("gd_ls") or []
    count = sum(answer.count(SEG) for _, answer in pairs if isinstance(answer, str))
    if not isinstance(ids, list) or len(ids) != count:
        raise EntryError("gd_ls does not fit", f"gd_ls must have {count} entries, one per `{SEG}`, got {shown(ids)}")
    return iter(ids)


def _without_suffix(question: str) -> tuple[str, bool]:
    """The question, and whether it asks for a grounded answer."""
    bare = question.removesuffix(SUFFIX)
    if not bare.strip():
        raise EntryError("empty text", "a question must not be empty")
    return bare.strip(), bare != question


def is_refusal(answer: str) -> bool:
    """Whether an answer asks for what it was not given, as models do that see no picture."""
    return _REFUSAL.search(answer) is not None


def _canonical(answer: str, grounded: bool) -> tuple[str, int]:
    """The answer in canonical markup, and how many phrases it has."""
    if is_refusal(answer):
        raise EntryError("refusal", f"the answer refuses: {shown(answer)}")
    if not grounded:
        if any(token in answer for token in _MARKUP):
            raise EntryError("markup without suffix", f"an answer with phrases must be asked for with `{SUFFIX}`")
        return answer, 0
    return canonical_markup(answer)


def _regions(
    question: str, ids: Any, labels: LabelledImages, record: Record, rows: Mapping[Key, int]
) -> tuple[int, ...]:
    """What each `<obj>` of the question points at."""
    count = question.count(OBJECT_TOKEN)
    ids = [] if ids is None else ids
    if not isinstance(ids, list) or len(ids) != count:
        raise EntryError("q_gd_ls does not fit", f"a question must have one id per `{OBJECT_TOKEN}`, got {shown(ids)}")
    return tuple(labels.look_up([one], record, rows, "q_gd_ls")[0] for one in ids)


def _captions(entry: Mapping[str, Any], labels: LabelledImages, record: Record) -> list[Expression]:
    """Sentences of the entry with what they mean; the questions are templates and are not kept."""
    pairs = pairs_of(entry.get("conversations"))
    rows = labels.rows_of_ids(record)
    expressions = []
    for ids, (_, sentences) in zip(_ids_of_questions(entry, len(pairs)), pairs, strict=True):
        target = labels.look_up(ids, record, rows, "q_gd_ls")
        if len(target) != 1:
            raise EntryError("q_gd_ls does not fit", f"a question must point at one annotation, got {shown(ids)}")
        if not isinstance(sentences, list) or not sentences:
            raise EntryError("no sentences", f"an answer must be a list of sentences, got {shown(sentences)}")
        expressions += [Expression(words_of(sentence, "a sentence"), target) for sentence in sentences]
    return expressions
