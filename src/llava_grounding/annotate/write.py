"""Accepted samples as files: GVC and GVC-R as published, marks, ours as JSON lines, and the labels they are about.

Which file gets what of a sample, and why others are refused; the entries are made in `entries`. Knows no models.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.annotate.entries import PointedPhrase, grounded_turns, marks_entry, referring_turns
from llava_grounding.annotate.json_writer import JsonList, write_instances
from llava_grounding.annotate.label_index import LabelIndex
from llava_grounding.annotate.marked import Marked, MarkedPhrase, Refused
from llava_grounding.annotate.samples import Unusable
from llava_grounding.annotate.tasks import AnnotationTask
from llava_grounding.data.readers.coco import LABEL_SETS
from llava_grounding.data.readers.gvc import gvc_entry
from llava_grounding.data.readers.set_of_mark import find_marks
from llava_grounding.data.record import Record
from llava_grounding.dialogues.prompts import can_point_at, sample_prompt
from llava_grounding.visual_prompts import prompt_to_dict

MANIFEST = "manifest.json"
GVC, GVC_R, MARKS, RECORDS = "gvc.json", "gvc_r.json", "marks.json", "records.jsonl"
REJECTED, DROPPED, INSTANCES = "rejected.jsonl", "dropped_phrases.jsonl", "instances.json"
COUNTS = ("samples", "accepted", "phrases", "instances_named", "gvc", "gvc_r", "marks")
"""What a manifest counts."""
FILES = (MANIFEST, GVC, GVC_R, MARKS, RECORDS, REJECTED, DROPPED, INSTANCES, LABEL_SETS)
"""Files of a finished folder; the manifest is put there last."""
RECORD_VERSION = 1


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
        self,
        task: AnnotationTask,
        marked: Marked,
        regions: Mapping[str, PointedPhrase],
        parts: Sequence[str],
        rounds: int,
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

    def _pointed(self, task: AnnotationTask, region: PointedPhrase) -> dict[str, Any]:
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
