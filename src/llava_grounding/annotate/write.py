"""Accepted samples as files: GVC and GVC-R as published, marks, ours as JSON lines, and the labels they are about.

Written entry by entry, one a line, so that memory stays flat and shards can be merged line by line. Knows no models.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from llava_grounding.annotate.label_index import LabelIndex
from llava_grounding.annotate.marked import Marked, MarkedPhrase, Refused
from llava_grounding.annotate.samples import Unusable
from llava_grounding.annotate.tasks import AnnotationTask
from llava_grounding.data.readers.coco import LABEL_SETS
from llava_grounding.data.readers.gvc import gvc_entry
from llava_grounding.data.readers.reading import IMAGE_TOKEN
from llava_grounding.data.readers.set_of_mark import find_marks
from llava_grounding.data.record import Record, RecordedTurn
from llava_grounding.dialogues.prompts import can_point_at, sample_prompt
from llava_grounding.dialogues.templates import BRIEF_DESCRIPTIONS
from llava_grounding.markup import REGION, format_markup
from llava_grounding.visual_prompts import prompt_to_dict

MANIFEST = "manifest.json"
GVC, GVC_R, MARKS, RECORDS = "gvc.json", "gvc_r.json", "marks.json", "records.jsonl"
REJECTED, DROPPED, INSTANCES = "rejected.jsonl", "dropped_phrases.jsonl", "instances.json"
COUNTS = ("samples", "accepted", "phrases", "instances_named", "gvc", "gvc_r", "marks")
"""What a manifest counts."""
FILES = (MANIFEST, GVC, GVC_R, MARKS, RECORDS, REJECTED, DROPPED, INSTANCES, LABEL_SETS)
"""Of a finished folder; the manifest is put there last."""
RECORD_VERSION = 1
MAX_MARKS = 20
"""Drawn into one picture: things that are named first, then others."""

CAPTION_QUESTIONS = (
    "What is going on around {}?",
    "Describe the scene that {} is part of.",
    "Tell me about {} and its surroundings.",
    "In what scene do we see {}?",
    "What does the picture around {} show?",
)
"""Asked where a caption has no question of its own; `{}` is the thing pointed at."""
MARK_QUESTIONS = (
    "Describe the image and give the number of each thing you name.",
    "What is in the image? Refer to things by their numbers.",
    "Say briefly what you see, with the numbers of what you mention.",
)
THE_OBJECT = "the object " + REGION
# Entries are made here and hold no circles.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_BUFFER = 2**16  # characters


@dataclass(frozen=True)
class Region:
    """A phrase of a question that became a visual prompt."""

    index: int
    span: tuple[int, int]


class JsonList:
    """A JSON list or JSON lines, written entry by entry; counts and hashes what it writes. Leaving it abandons it."""

    def __init__(self, path: Path, head: str = "[\n", tail: str = "\n]\n", between: str = ",\n") -> None:
        self._file: IO[bytes] = path.open("xb")
        self.digest = hashlib.sha256()
        self.count = self.size = 0
        self._between, self._tail = between, tail
        self._waiting: list[str] = []
        self._characters = 0
        self.raw(head)

    def __enter__(self) -> JsonList:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    @classmethod
    def lines(cls, path: Path) -> JsonList:
        """JSON lines."""
        return cls(path, head="", tail="", between="")

    def raw(self, text: str) -> None:
        """Write text as it is."""
        self._waiting.append(text)
        self._characters += len(text)
        if self._characters >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        data = "".join(self._waiting).encode()
        self._waiting.clear()
        self._characters = 0
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def add(self, entry: Any) -> None:
        """Write one entry."""
        self.add_text(_encode(entry))

    def add_text(self, text: str) -> None:
        """Write one entry that is JSON already."""
        self.raw((self._between if self.count else "") + text if self._between else text + "\n")
        self.count += 1

    def abandon(self) -> None:
        """Close the file as it is, if it is not finished."""
        self._file.close()

    def close(self) -> dict[str, Any]:
        """Finish the file, and give what a manifest says of it."""
        self.raw(self._tail)
        self._flush()
        self._file.close()
        return {"entries": self.count, "bytes": self.size, "sha256": self.digest.hexdigest()}


class Writer:
    """Writes the files of one folder but for the manifest.

    Args:
        folder: empty.
        index: of the labels.
        with_prompts: sample a click, box, scribble or mask for what GVC-R points at.
    """

    def __init__(self, folder: Path, index: LabelIndex, with_prompts: bool = True) -> None:
        self._folder, self._index, self._with_prompts = folder, index, with_prompts
        self._gvc, self._gvc_r, self._marks = (JsonList(folder / name) for name in (GVC, GVC_R, MARKS))
        self._records, self._rejected, self._dropped = (
            JsonList.lines(folder / name) for name in (RECORDS, REJECTED, DROPPED)
        )
        self._images: set[int] = set()
        self._opened: tuple[Record | None, dict[int, np.ndarray]] = None, {}
        self.rejections: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))

    def reject(self, what: Unusable) -> None:
        """Note a sample that gives nothing."""
        self.counts["samples"] += 1
        self.rejections[what.reason] += 1
        entry = {"position": what.position, "id": what.id, "reason": what.reason}
        self._rejected.add(entry if what.detail == what.reason else {**entry, "detail": what.detail})

    def accept(self, task: AnnotationTask, marked: Marked, rounds: int = 0) -> None:
        """Write what a sample gives, if anything of it is named."""
        for one in marked.refused:
            self._drop(task, one)
        if marked.repairs:
            self.repairs.update(marked.repairs)
        answers = sum(len(found) for label, found in marked.phrases.items() if label.startswith("A"))
        if not marked.num_phrases:
            self.reject(_of(task, "nothing named", "no phrase of it names an instance"))
            return
        named = sum(len(one.numbers) for found in marked.phrases.values() for one in found)
        for key, count in (
            ("samples", 1),
            ("accepted", 1),
            ("phrases", marked.num_phrases),
            ("instances_named", named),
        ):
            self.counts[key] += count
        assert task.record.image_id is not None
        self._images.add(int(task.record.image_id))
        parts = []
        if answers:
            self._gvc.add(gvc_entry(task.record, grounded_turns(task, marked), task.sample.id))
            parts.append("gvc")
        if answers and not any(map(find_marks, task.texts.values())):
            self._marks.add(marks_entry(task, marked))
            parts.append("marks")
        referring = referring_turns(task, marked)
        if referring is not None:
            turns, regions = referring
            self._gvc_r.add(gvc_entry(task.record, turns, task.sample.id))
            parts.append("gvc_r")
        else:
            regions = {}
        for part in parts:
            self.counts[part] += 1
        self._records.add(self._entry(task, marked, regions, parts, rounds))

    def _drop(self, task: AnnotationTask, one: Refused) -> None:
        entry = {"position": task.sample.position, "id": task.sample.id, "text": one.label, "phrase": one.phrase}
        self.drop({**entry, "reason": one.reason, "detail": one.detail})

    def drop(self, entry: Mapping[str, Any]) -> None:
        """Note a phrase that is not taken, as the file of such phrases has it."""
        self.dropped[entry["reason"]] += 1
        self._dropped.add(entry)

    def _entry(
        self, task: AnnotationTask, marked: Marked, regions: Mapping[str, Region], parts: Sequence[str], rounds: int
    ) -> dict[str, Any]:
        record = task.record
        return {
            "version": RECORD_VERSION,
            "position": task.sample.position,
            "id": task.sample.id,
            "image": record.image_name or record.id,
            "image_id": record.image_id,
            "image_size": list(record.image_size_wh or ()),
            "kind": "caption" if task.sample.turns[0].question is None else "dialogue",
            "texts": {
                label: {"text": text, "phrases": [_phrase(task, text, one) for one in marked.phrases.get(label, ())]}
                for label, text in task.texts.items()
            },
            "pointed_at": {label: self._pointed(task, region) for label, region in regions.items()},
            "in": list(parts),
            "rounds": rounds,
        }

    def _pointed(self, task: AnnotationTask, region: Region) -> dict[str, Any]:
        thing = task.record.instances[region.index]
        entry: dict[str, Any] = {"span": list(region.span), "annotation": thing.id}
        if self._with_prompts and task.record.image_size_wh is not None:
            width, height = task.record.image_size_wh
            mask, box = self._mask(task.record, region.index, (width, height)), np.array(thing.box_xyxy)
            if can_point_at(mask, box):
                rng = np.random.default_rng((task.seed, region.index))
                entry["prompt"] = prompt_to_dict(sample_prompt(mask, box, rng))
        return entry

    def _mask(self, record: Record, index: int, size_wh: tuple[int, int]) -> np.ndarray:
        """(H, W) bool, all False where there is only a box. Captions of one image often point at the same thing."""
        if self._opened[0] is not record:
            self._opened = record, {}
        masks = self._opened[1]
        if index not in masks:
            mask = record.load_mask(index)
            masks[index] = np.zeros(size_wh[::-1], dtype=bool) if mask is None else mask
        return masks[index]

    def abandon(self) -> None:
        """Close all files as they are, since they will not be finished."""
        for file in (self._gvc, self._gvc_r, self._marks, self._records, self._rejected, self._dropped):
            file.abandon()

    def close(self) -> dict[str, dict[str, Any]]:
        """Finish all files, and give what a manifest says of each."""
        manifest = {
            name: file.close()
            for name, file in (
                (GVC, self._gvc),
                (GVC_R, self._gvc_r),
                (MARKS, self._marks),
                (RECORDS, self._records),
                (REJECTED, self._rejected),
                (DROPPED, self._dropped),
            )
        }
        manifest[INSTANCES] = write_instances(self._folder / INSTANCES, self._index, sorted(self._images))
        source = self._index.source.parent / LABEL_SETS
        if source.is_file():
            shutil.copyfile(source, self._folder / LABEL_SETS)
        return manifest


def _of(task: AnnotationTask, reason: str, detail: str) -> Unusable:
    return Unusable(task.sample.position, task.sample.id, reason, detail)


def _phrase(task: AnnotationTask, text: str, phrase: MarkedPhrase) -> dict[str, Any]:
    things = [task.numbered[number - 1] for number in phrase.numbers]
    return {
        "text": text[slice(*phrase.span)],
        "span": list(phrase.span),
        "annotations": [one.instance.id for one in things],
        "categories": sorted({one.instance.category for one in things}),
    }


def grounded_turns(task: AnnotationTask, marked: Marked) -> tuple[RecordedTurn, ...]:
    """The dialogue with the phrases of its answers as markup; a caption answers a question of ours."""
    turns = []
    for number, turn in enumerate(task.sample.turns, start=1):
        phrases = marked.phrases.get(f"A{number}", ())
        question = turn.question
        if question is None:
            question = BRIEF_DESCRIPTIONS[task.seed % len(BRIEF_DESCRIPTIONS)]
        targets = tuple(tuple(task.numbered[k - 1].index for k in phrase.numbers) for phrase in phrases)
        answer = format_markup(turn.answer, [phrase.span for phrase in phrases])
        turns.append(RecordedTurn(question, answer, targets, (), bool(phrases)))
    return tuple(turns)


def referring_turns(task: AnnotationTask, marked: Marked) -> tuple[tuple[RecordedTurn, ...], dict[str, Region]] | None:
    """The dialogue with `the object <region>` for what its questions name, and what that is; None where it is nothing.

    Each question points at its first phrase that names one instance. A caption answers a question of ours about the
    first such phrase of its own.
    """
    turns, regions = [], {}
    for number, turn in enumerate(task.sample.turns, start=1):
        label = f"A{number}" if turn.question is None else f"Q{number}"
        phrase = next((one for one in marked.phrases.get(label, ()) if len(one.numbers) == 1), None)
        if phrase is None:
            if turn.question is not None:
                turns.append(RecordedTurn(turn.question, turn.answer))
            continue
        region = Region(task.numbered[phrase.numbers[0] - 1].index, phrase.span)
        if turn.question is None:
            question = CAPTION_QUESTIONS[task.seed % len(CAPTION_QUESTIONS)].format(THE_OBJECT)
        else:
            start, end = phrase.span
            named = THE_OBJECT[0].upper() + THE_OBJECT[1:] if turn.question[start].isupper() else THE_OBJECT
            question = turn.question[:start] + named + turn.question[end:]
        turns.append(RecordedTurn(question, turn.answer, (), (region.index,)))
        regions[label] = region
    return (tuple(turns), regions) if regions else None


def marks_entry(task: AnnotationTask, marked: Marked) -> dict[str, Any]:
    """The dialogue for a picture with numbers drawn into it: what answers name is followed by its `<k>`."""
    named = dict.fromkeys(
        number
        for label, phrases in marked.phrases.items()
        if label.startswith("A")
        for phrase in phrases
        for number in phrase.numbers
    )
    others = [one.number for one in task.numbered if one.number not in named]
    shown = [*named, *others[: max(0, MAX_MARKS - len(named))]]
    random.Random(task.seed).shuffle(shown)
    mark_of = {number: mark for mark, number in enumerate(shown, start=1)}
    conversations = []
    for number, turn in enumerate(task.sample.turns, start=1):
        question = turn.question
        if question is None:
            question = MARK_QUESTIONS[task.seed % len(MARK_QUESTIONS)]
        answer, done = "", 0
        for phrase in marked.phrases.get(f"A{number}", ()):
            numbers = "".join(f" <{mark_of[one]}>" for one in phrase.numbers)
            answer += turn.answer[done : phrase.span[1]] + numbers
            done = phrase.span[1]
        head = f"{IMAGE_TOKEN}\n" if number == 1 else ""
        conversations += [
            {"from": "human", "value": head + question},
            {"from": "gpt", "value": answer + turn.answer[done:]},
        ]
    ids = [task.numbered[number - 1].instance.id for number in shown]
    record = task.record
    return {
        "id": task.sample.id,
        "image": record.image_name or record.id,
        "conversations": conversations,
        "marks": ids,
    }


class InstancesFile:
    """A COCO instances file written row by row: images first, then annotations. Leaving it abandons it."""

    def __init__(self, path: Path, categories: Sequence[Any]) -> None:
        head = '{"categories":' + json.dumps(list(categories), ensure_ascii=False) + ',\n"images":[\n'
        self._file = JsonList(path, head, "\n]}\n")
        self._images: int | None = None

    def __enter__(self) -> InstancesFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.abandon()

    def image(self, text: str) -> None:
        """Write the row of an image, as it stands in a file."""
        self._file.add_text(_one_line(text))

    def annotation(self, text: str) -> None:
        """Write the row of an annotation; no image may follow."""
        self._begin_annotations()
        self._file.add_text(_one_line(text))

    def close(self) -> dict[str, Any]:
        """Finish the file, and give what a manifest says of it."""
        self._begin_annotations()
        return {"images": self._images, **self._file.close()}

    def _begin_annotations(self) -> None:
        if self._images is None:
            self._file.raw('\n],\n"annotations":[\n')
            self._images, self._file.count = self._file.count, 0


def write_instances(path: Path, index: LabelIndex, image_ids: Iterable[int]) -> dict[str, Any]:
    """The part of the instances file that is about these images, row by row as it stands there."""
    ids = list(image_ids)
    with InstancesFile(path, index.categories) as file:
        for image_id in ids:
            file.image(index.image_row(image_id))
        for image_id in ids:
            for row in index.annotation_rows(image_id):
                file.annotation(row)
        return file.close()


def _one_line(text: str) -> str:
    return text if "\n" not in text else json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
