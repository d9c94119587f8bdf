"""Grounding-Bench: grounded descriptions against labelled instances, chat scores beside them, and phrases to be found.

Kinds of samples: `detail`, `conversation`, `reasoning` (a question; with a reference answer it gets a chat score,
asked with and without grounding), and `phrases` (of captions, each with its instances). The metric is `grounding`, the
prompt of the judge `endpoint_judge`. Knows no model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from llava_grounding.annotate.matcher import match
from llava_grounding.annotate.samples import TextSample, TextTurn
from llava_grounding.annotate.tasks import AnnotationTask, make_task
from llava_grounding.benchmark.building import (
    Building,
    BuildInputs,
    labelled,
    photo_records,
    rows_without_crowds,
    sized,
    spread,
)
from llava_grounding.benchmark.chat_scores import Chats, chat_questions, chat_rows, chat_statistics
from llava_grounding.benchmark.grounding import (
    IOU_LEVELS,
    RULES_VERSION,
    Matched,
    Overlaps,
    box_overlaps,
    mask_overlaps,
    match_answer,
    scored_regions,
    shown_case,
)
from llava_grounding.benchmark.judging import Judge, JudgeQuestion, Verdict
from llava_grounding.benchmark.metrics import box_hits_at_50
from llava_grounding.benchmark.official_bench import official_samples
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledPhrase, SampleSet
from llava_grounding.benchmark.scores import SampleScore, State, Statistic, grounding_counts, level_row, share
from llava_grounding.benchmark.tasks import Ask, Scored, Task, unanswered
from llava_grounding.data.readers.gvc import GvcDialogues
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError
from llava_grounding.markup import strip_markup

DESCRIBE = "Describe the image in detail."
CHAT_KINDS = ("conversation", "detail", "reasoning")
_MOST_PHRASES = 12  # of one image


class GroundingBench(Task):
    """The task Grounding-Bench; the module says what it asks and counts."""

    name: ClassVar[str] = "grounding-bench"
    title: ClassVar[str] = "Grounding-Bench"
    table: ClassVar[str] = "4"
    rules_version: ClassVar[str] = RULES_VERSION
    rules: ClassVar[str] = (
        "A region is right when it overlaps a labelled instance by IoU 0.5 or more and the judge says that its phrase "
        "means it; one to one within a phrase; precision over all regions, recall over all instances. A "
        "phrase that was asked for is right if its best box has an IoU over 0.5 with one of its instances."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["data"], ["instances"], ["questions", "instances"])
        if inputs.questions is not None:
            return official_samples(inputs)
        building = Building(inputs, self.name)
        records = (
            photo_records(inputs)
            if inputs.dialogues is None
            else GvcDialogues.from_files(inputs.dialogues, _given(inputs.instances), inputs.pictures())
        )
        usable = [one for one in records if any(thing.kind != "crowd" for thing in one.instances)]
        building.left_out["no labelled instances"] += len(list(records)) - len(usable)
        for record, size_wh in sized(records, building, spread(usable, inputs.limit)):
            building.samples += _samples_of(record, size_wh, inputs.split, inputs.question or DESCRIBE)
        building.inputs = replace(inputs, limit=None)  # of images, and applied
        return building.finish(records.name)

    def ask(self, sample: BenchmarkSample) -> Ask:
        if not sample.question:
            return super().ask(sample)
        return Ask(sample.question, sample.visual_prompts(), also_plain=bool(sample.answer))

    def score_all(
        self, samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None], judge: Judge
    ) -> Scored:
        answered = [(s, p) for s, p in zip(samples, predictions, strict=True) if p is not None and p.error is None]
        described = [(s, p) for s, p in answered if s.instances and s.question]
        boxes = {s.id: box_overlaps(s, p) for s, p in described}
        # A system without masks is not said to miss them.
        gives_masks = any(region.mask for _, p in described for one in p.phrases for region in one.regions)
        masked = [(s, p) for s, p in described if s.has_masks and gives_masks]
        masks = dict(zip((s.id for s, _ in masked), mask_overlaps(masked), strict=True))
        questions = [match_question(s, p, boxes[s.id], masks.get(s.id)) for s, p in described]
        chats = [question for s, p in answered if s.answer for question in chat_questions(s, p, _context(s))]
        verdicts = judge.judge([*questions, *chats])
        judged = dict(zip((s.id for s, _ in described), verdicts, strict=False))
        said: dict[tuple[str, bool], Verdict | None] = {}
        for question, verdict in zip(chats, verdicts[len(questions) :], strict=True):
            said[question.sample, bool(question.content["grounded"])] = verdict
        scores = []
        for sample, prediction in zip(samples, predictions, strict=True):
            if prediction is None or prediction.error is not None:
                scores.append(unanswered(sample, prediction))
            elif sample.question:
                both = (boxes.get(sample.id), masks.get(sample.id))
                chat = {grounded: said.get((sample.id, grounded)) for grounded in (True, False)}
                scores.append(_described(sample, prediction, judged.get(sample.id), both, chat))
            else:
                scores.append(_found(sample, prediction))
        return Scored(tuple(scores), (*questions, *chats), tuple(verdicts))

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        found: list[Statistic] = []
        for by in ("box", "mask"):
            found += grounding_counts(f"{by} IoU 0.5", level_row(by, IOU_LEVELS[0]))
        for by in ("box", "mask"):
            found += [
                s for level in IOU_LEVELS[1:] for s in grounding_counts(f"{by} IoU {level:g}", level_row(by, level))
            ]
        found.append(share("phrase grounding accuracy (any box, IoU 0.5)", "phrases"))
        return [*found, *chat_statistics(CHAT_KINDS)]


def _given(path: Any) -> Any:
    if path is None:
        raise DataError("dialogues need --instances, the COCO file their ids are of")
    return path


def _samples_of(record: Record, size_wh: tuple[int, int], split: str, question: str) -> Iterator[BenchmarkSample]:
    """What is asked about one image."""
    things = labelled(record, size_wh)
    image = record.image_name or record.id
    common: dict[str, Any] = {
        "image": image,
        "image_size_wh": size_wh,
        "instances": things,
        "exhaustive": tuple(sorted(record.exhaustive)) if record.exhaustive else None,
        "split": split,
    }
    if not record.dialogues:
        yield BenchmarkSample(f"{image}#detail", kind="detail", question=question, references=record.captions, **common)
    for number, dialogue in enumerate(record.dialogues):
        for place, turn in enumerate(dialogue):
            if not turn.regions:
                answer = strip_markup(turn.answer)
                kind = "detail" if turn.grounded else "conversation"
                name = f"{record.id}#{number}.{place}"
                yield BenchmarkSample(name, kind=kind, question=turn.question, answer=answer, **common)
    phrases = list(_phrases(record))[:_MOST_PHRASES]
    if phrases:
        yield BenchmarkSample(f"{record.id}#phrases", kind="phrases", phrases=tuple(phrases), **common)


def _phrases(record: Record) -> Iterator[LabelledPhrase]:
    """Phrases of the captions that mean instances, as the builtin matcher of `annotate` ties them."""
    row_of = rows_without_crowds(record)
    said = set()
    for number, caption in enumerate(record.captions):
        sample = TextSample(number, record.id, record.image_name or record.id, (TextTurn(None, caption),))
        task: AnnotationTask = make_task(sample, record)
        place = {one.number: one.index for one in task.numbered}
        for phrase in match(task).phrases.get("A1", ()):
            words = caption[slice(*phrase.span)]
            targets = tuple(sorted(row_of[place[n]] for n in phrase.numbers))
            if (words.lower(), targets) not in said:
                said.add((words.lower(), targets))
                yield LabelledPhrase(words, targets)


def match_question(
    sample: BenchmarkSample, prediction: Prediction, boxes: Overlaps, masks: Overlaps | None
) -> JudgeQuestion:
    """What a judge is asked about a grounded description: what its regions overlap by box or by mask."""
    pairs = sorted({*boxes.candidates(), *(masks.candidates() if masks is not None else ())})
    content = {
        "text": prediction.text,
        "phrases": [phrase.text for phrase in prediction.phrases],
        "categories": [one.category for one in sample.instances],
        "boxes": _boxes_xyxy_norm(sample),
        "candidates": pairs,
        "references": list(sample.references or ([sample.answer] if sample.answer else ())),
        "exhaustive": None if sample.exhaustive is None else sorted(sample.exhaustive),
    }
    return JudgeQuestion(sample.id, "match", content)


def _context(sample: BenchmarkSample) -> str:
    boxes = _boxes_xyxy_norm(sample)
    things = [f"{one.category}: {box}" for one, box in zip(sample.instances, boxes, strict=True)]
    return "\n".join([*sample.references, *things])


def _boxes_xyxy_norm(sample: BenchmarkSample) -> list[list[float]]:
    """Boxes of its things, to three digits, as a judge reads them."""
    return np.round(sample.boxes_xyxy() / np.tile(sample.image_size_wh, 2), 3).tolist()


def _described(
    sample: BenchmarkSample,
    prediction: Prediction,
    verdict: Verdict | None,
    overlaps: tuple[Overlaps | None, Overlaps | None],
    chats: Chats,
) -> SampleScore:
    """A grounded description: its regions, and its words where there is a reference answer."""
    rows: dict[str, tuple[float, ...]] = chat_rows(sample.kind, chats)
    matched: Matched | None = None
    for by, table in zip(("box", "mask"), overlaps, strict=True):
        if table is not None and verdict is not None:
            found = match_answer(sample, prediction, table, verdict.right, frozenset(verdict.left_out))
            matched = matched or found
            rows |= {
                level_row(by, level): tuple(map(float, counts.row()))
                for level, counts in zip(IOU_LEVELS, found.levels, strict=True)
            }
    no_region = not any(phrase.regions for phrase in prediction.phrases)
    unjudged = (verdict is None and bool(sample.instances)) or (bool(sample.answer) and chats.get(True) is None)
    empty = not prediction.text.strip() or (no_region and bool(sample.instances))
    return SampleScore(
        sample.id,
        sample.image,
        sample.kind,
        state="empty" if empty else "not_judged" if unjudged else "answered",
        rows=rows,
        regions=() if matched is None or verdict is None else scored_regions(prediction, matched, verdict.left_out),
        quality=None if matched is None or not sample.instances else matched.counts.f1,
        detail=shown_case(sample, prediction, matched),
    )


def _found(sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
    """Phrases that were asked for: whether the best box of each overlaps any of its instances by more than half."""
    truths = sample.boxes_xyxy()
    best = [one.boxes_xyxy[0] if one.regions else None for one in prediction.phrases]
    right = box_hits_at_50(best, [truths[list(phrase.targets)] for phrase in sample.phrases])
    regions = tuple(
        (one.regions[0].score, hit)
        for one, hit in zip(prediction.phrases, right, strict=True)
        if one.regions and one.regions[0].score is not None
    )
    share_right = sum(right) / len(right) if right else None
    state: State = "answered" if any(one.regions for one in prediction.phrases) else "empty"
    rows = {"phrases": (float(sum(right)), float(len(right)))}
    return SampleScore(
        sample.id, sample.image, sample.kind, state=state, rows=rows, regions=regions, quality=share_right
    )
