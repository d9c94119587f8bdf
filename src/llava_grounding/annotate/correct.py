"""A finished folder with what people said of its phrases: rejected ones taken out, fixed ones as they should be.

Every record is written anew from itself and its labels, so what nobody spoke of stays the same bytes. People are
believed: a fix is held against the text and the labels of its image, not against numbers and nouns.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import pairwise, tee
from pathlib import Path
from typing import Any

from llava_grounding.annotate.assemble import hash_label_sets, make_manifest, read_manifest, write_manifest
from llava_grounding.annotate.finished import FinishedRecord, iter_records
from llava_grounding.annotate.json_stream import Row, iter_rows
from llava_grounding.annotate.label_index import LabelIndex, open_index
from llava_grounding.annotate.marked import Marked, MarkedPhrase, Refused
from llava_grounding.annotate.samples import Shard, TextSample, TextTurn, Unusable
from llava_grounding.annotate.tasks import AnnotationTask, iter_tasks
from llava_grounding.annotate.verdicts import PhraseKey, Verdict, precision_of
from llava_grounding.annotate.verify import span_fault
from llava_grounding.annotate.write import DROPPED, INSTANCES, RECORDS, REJECTED, Writer
from llava_grounding.data.images import NamesOnly
from llava_grounding.errors import VALUE_ERRORS, DataError

REJECTED_BY_HAND = "rejected in review"
"""Reason for which a phrase is dropped that a person rejected."""


def correct(folder: Path, verdicts: Mapping[PhraseKey, Verdict], aside: Path, work: Path) -> dict[str, Any]:
    """Write the files anew into an empty folder, with these verdicts, and give the manifest, which is one of them.

    Args:
        work: folder in which the index of the labels is kept.

    Raises:
        DataError: if the folder is not finished, or a verdict is of a phrase that is not there or fixes it to what
            cannot be.
        OSError: if something cannot be written.
    """
    before = read_manifest(folder)
    work.mkdir(parents=True, exist_ok=True)
    with closing(open_index(folder / INSTANCES, work)) as index:
        writer = Writer(aside, index, any(record.prompted for record in iter_records(folder)))
        try:
            _write_records(writer, folder, index, verdicts)
        except BaseException:
            writer.abandon()
            raise
        files = writer.close() | hash_label_sets(aside)
    manifest = make_manifest(
        inputs=before["inputs"],
        shard=Shard.parse(before["shard"]),
        limit=before["limit"],
        answers=before["answers"],
        usage=before["usage"],
        counts=writer.counts,
        rejections=writer.rejections,
        dropped=writer.dropped,
        repairs=before["repairs"],
        files=files,
    )
    manifest |= {key: value for key, value in before.items() if key not in manifest}
    manifest["reviews"] = [*before.get("reviews", ()), _review(verdicts)]
    write_manifest(aside, manifest)
    return manifest


def _write_records(writer: Writer, folder: Path, index: LabelIndex, verdicts: Mapping[PhraseKey, Verdict]) -> None:
    left = dict(verdicts)
    for kind, what in _in_order(folder, index):
        if kind == DROPPED:
            writer.drop(what)
        elif kind == REJECTED:
            writer.reject(what)
        else:
            record, task = what
            writer.accept(task, _marked(record, task, left), record.rounds)
    if left:
        place = next(iter(left.values())).place
        raise DataError(f"{place} is about a phrase that is not in {folder / RECORDS}")


def _review(verdicts: Mapping[PhraseKey, Verdict]) -> dict[str, Any]:
    """What the manifest says of a review: its counts, and the interval of the precision."""
    found = precision_of(verdicts)
    counts = {"accepted": found.right, "rejected": found.wrong - found.fixed, "fixed": found.fixed}
    return {**counts, "interval": [round(end, 4) for end in found.interval]}


def _in_order(folder: Path, index: LabelIndex) -> Iterator[tuple[str, Any]]:
    """What the folder holds, by position: phrases that were dropped, records with their tasks, samples rejected."""

    def keyed(name: str, order: int) -> Iterator[tuple[int, int, str, Any]]:
        for row in iter_rows(folder / name):
            try:
                yield int(row.value["position"]), order, name, _read(name, row)
            except VALUE_ERRORS as error:
                raise DataError(f"{folder / name}, line {row.number} is not as this release writes it") from error

    records = ((record.position, 1, RECORDS, (record, task)) for record, task in _tasks(folder, index))
    merged = heapq.merge(keyed(DROPPED, 0), records, keyed(REJECTED, 2), key=lambda one: one[:2])
    return ((name, what) for _, _, name, what in merged)


def _read(name: str, row: Row) -> Any:
    value = row.value
    if name == DROPPED:
        return {**value, "reason": str(value["reason"])}
    reason = str(value["reason"])
    return Unusable(int(value["position"]), str(value["id"]), reason, str(value.get("detail", reason)))


def _tasks(folder: Path, index: LabelIndex) -> Iterator[tuple[FinishedRecord, AnnotationTask]]:
    """Records with what was asked about them."""
    records, again = tee(iter_records(folder))
    for record, task in zip(records, iter_tasks(map(_sample, again), index, NamesOnly()), strict=True):
        if not isinstance(task, AnnotationTask) or {one.label: one.text for one in record.texts} != dict(task.texts):
            raise DataError(f"{folder / RECORDS}, line {record.number} does not fit {folder / INSTANCES}")
        yield record, task


def _sample(record: FinishedRecord) -> TextSample:
    texts = {one.label: one.text for one in record.texts}
    count = sum(label.startswith("A") for label in texts)
    turns = tuple(TextTurn(texts.get(f"Q{number}"), texts.get(f"A{number}", "")) for number in range(1, count + 1))
    return TextSample(record.position, record.id, record.image_id, turns)


def _marked(record: FinishedRecord, task: AnnotationTask, verdicts: dict[PhraseKey, Verdict]) -> Marked:
    """The phrases of a record; takes the verdicts on them out of those given."""
    number_of = {one.instance.id: one.number for one in task.numbered}
    phrases: dict[str, tuple[MarkedPhrase, ...]] = {}
    refused = []
    for text in record.texts:
        kept: list[tuple[MarkedPhrase, Verdict | None]] = []
        for phrase in text.phrases:
            span = (phrase["span"][0], phrase["span"][1])
            verdict = verdicts.pop((record.position, text.label, span), None)
            if verdict is not None and verdict.verdict == "reject":
                refused.append(Refused(text.label, text.text[slice(*span)], REJECTED_BY_HAND, REJECTED_BY_HAND))
                continue
            named = phrase["annotations"]
            if verdict is not None and verdict.verdict == "fix":
                span = span if verdict.span is None else verdict.span
                named = named if verdict.annotations is None else verdict.annotations
            kept.append((_phrase(text.text, span, named, number_of, verdict, record), verdict))
        kept.sort(key=lambda one: one[0].span)
        for (one, first), (other, second) in pairwise(kept):
            if other.span[0] < one.span[1]:
                verdict = first or second
                place = verdict.place if verdict is not None else f"record {record.number}"
                said = text.text[slice(*other.span)]
                raise DataError(f'{place}: the phrase "{said}" would overlap another one of the same text')
        phrases[text.label] = tuple(one for one, _ in kept)
    return Marked(phrases, tuple(refused))


def _phrase(
    text: str,
    span: tuple[int, int],
    named: Any,
    number_of: Mapping[Any, int],
    verdict: Verdict | None,
    record: FinishedRecord,
) -> MarkedPhrase:
    place = f"record {record.number}" if verdict is None else verdict.place
    fault = span_fault(text, span)
    if fault is not None:
        raise DataError(f"{place}: {fault[1]}")
    unknown = [one for one in named if one not in number_of]
    if unknown:
        raise DataError(f"{place}: annotation {unknown[0]} is not on image {record.image}, or cannot be named")
    return MarkedPhrase(span, tuple(number_of[one] for one in named))
