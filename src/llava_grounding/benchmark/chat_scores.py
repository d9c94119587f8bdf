"""Chat scores as LLaVA-Bench gives them: a judge scores the answer and a reference, and their ratio counts, in percent.

Every question is asked with grounding and without, so what grounding costs in words is seen side by side (table 12).
Knows no boxes; the deterministic judge judges no chats, so without another one all of it is counted as not judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from llava_grounding.benchmark.building import Building, BuildInputs
from llava_grounding.benchmark.files import read_lines
from llava_grounding.benchmark.judging import Judge, JudgeQuestion, Verdict
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.scores import SampleScore, State, Statistic
from llava_grounding.benchmark.tasks import Ask, Scored, Task, unanswered
from llava_grounding.data.readers.gvc import SUFFIX

Chats = Mapping[bool, Verdict | None]
"""Verdicts about the answer with grounding (True) and without."""

KIND_OF_CATEGORY: Mapping[str, str] = {
    "conv": "conversation",
    "conversation": "conversation",
    "detail": "detail",
    "complex": "reasoning",
    "reasoning": "reasoning",
}
"""The `category` of a question, as the files of LLaVA-Bench call it."""

_MOST_SHOWN = 400


def chat_questions(sample: BenchmarkSample, prediction: Prediction, context: str) -> Iterator[JudgeQuestion]:
    """How good the answers are as text beside the reference, the one given with grounding and the one without."""
    for grounded, text in ((True, prediction.text), (False, prediction.plain_text)):
        if text is not None:
            content = {
                "question": sample.question,
                "answer": text,
                "reference": sample.answer,
                "context": context,
                "grounded": grounded,
            }
            yield JudgeQuestion(sample.id, "chat", content)


def chat_rows(kind: str, chats: Chats) -> dict[str, tuple[float, ...]]:
    """Rows of the kind and of all: the answer's score, the reference's, and that it is one."""
    rows: dict[str, tuple[float, ...]] = {}
    for grounded, verdict in chats.items():
        if verdict is not None and verdict.scores is not None:
            reference, answer = verdict.scores
            for name in (kind, "all"):
                rows[_row(name, grounded)] = (answer, reference, 1.0)
    return rows


def chat_statistics(kinds: Collection[str]) -> list[Statistic]:
    """The answers' scores over the references', in percent, by kind and of all, with grounding and without."""
    return [
        Statistic(
            f"chat {kind}{'' if grounded else ', without grounding'}", _row(kind, grounded), _percent, 2, True, "%"
        )
        for kind in (*kinds, "all")
        for grounded in (True, False)
    ]


def _row(kind: str, grounded: bool) -> str:
    return f"chat_{kind}" if grounded else f"chat_{kind}_without_grounding"


def _percent(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(100 * sums[:, 0] / sums[:, 1])


class ChatScores(Task):
    """LLaVA-Bench COCO and in the wild; see the module."""

    name: ClassVar[str] = "chat"
    title: ClassVar[str] = "Chat scores"
    table: ClassVar[str] = "12"
    rules: ClassVar[str] = "A judge scores the answer and the reference answer from 1 to 10; their sums are divided."

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["questions", "answers"])
        assert inputs.questions is not None
        assert inputs.answers is not None
        building = Building(inputs, self.name)
        answers = {
            str(line["question_id"]): str(line["text"])
            for _, line in read_lines(inputs.answers)
            if isinstance(line, Mapping) and "question_id" in line and "text" in line
        }
        contexts = {}
        if inputs.captions is not None:
            for _, line in read_lines(inputs.captions):
                if isinstance(line, Mapping) and isinstance(line.get("caption"), str):
                    contexts[str(line.get("image"))] = line["caption"]
        for _, line in read_lines(inputs.questions):
            if not isinstance(line, Mapping) or not isinstance(line.get("text"), str) or "question_id" not in line:
                building.left_out["line of the questions that is no question"] += 1
                continue
            key, kind = str(line["question_id"]), KIND_OF_CATEGORY.get(str(line.get("category")))
            if kind is None or key not in answers:
                building.left_out["unknown category" if kind is None else "question without a reference answer"] += 1
                continue
            image = str(line.get("image", ""))
            context = contexts.get(image)
            building.samples.append(
                BenchmarkSample(
                    key,
                    image,
                    (1, 1),  # nothing is measured in pixels
                    kind,
                    line["text"].removesuffix(SUFFIX).strip(),
                    references=() if context is None else (context,),
                    answer=answers[key],
                )
            )
        return building.finish(inputs.questions.stem)

    def ask(self, sample: BenchmarkSample) -> Ask:
        return Ask(sample.question, sample.visual_prompts(), also_plain=True)

    def score_all(
        self, samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None], judge: Judge
    ) -> Scored:
        questions: list[JudgeQuestion] = []
        for sample, prediction in zip(samples, predictions, strict=True):
            if prediction is not None and prediction.error is None:
                questions += chat_questions(sample, prediction, "\n".join(sample.references))
        verdicts = judge.judge(questions)
        said: dict[str, dict[bool, Verdict | None]] = {}
        for question, verdict in zip(questions, verdicts, strict=True):
            said.setdefault(question.sample, {})[bool(question.content["grounded"])] = verdict
        scores = [
            unanswered(sample, prediction)
            if prediction is None or prediction.error is not None
            else _score(sample, prediction, said.get(sample.id, {}))
            for sample, prediction in zip(samples, predictions, strict=True)
        ]
        return Scored(tuple(scores), tuple(questions), tuple(verdicts))

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        return chat_statistics(("conversation", "detail", "reasoning"))


def _score(sample: BenchmarkSample, prediction: Prediction, chats: Chats) -> SampleScore:
    rows = chat_rows(sample.kind, chats)
    grounded = chats.get(True)
    quality = None
    if grounded is not None and grounded.scores is not None:
        quality = min(grounded.scores[1] / 10, 1.0)
    state: State = "empty" if not prediction.text.strip() else "answered" if grounded is not None else "not_judged"
    detail = {"question": sample.question, "text": prediction.text[:_MOST_SHOWN]}
    return SampleScore(sample.id, sample.image, sample.kind, state=state, rows=rows, quality=quality, detail=detail)
