"""Random answers through every scorer: `python random_answers.py --count 1000000 [--task NAME] [--seconds S]`.

Invented samples, one image each, are answered by chance: words, yes and no, numbers, markup, nothing at all; boxes
inside the image and far out of it, without area, doubled; masks, some of another thing, some empty. Every score must
have rows that are finite, and the numbers of each part of a run (the statistics and what else a task says) must lie in
0 to 1 where they are shares, and be finite where they are not. Prints a table in Markdown with the rates, and exits
with 1 if one does not. Scoring is counted, inventing is not. `--seconds` ends a task's run after so much scoring.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence

import numpy as np

from llava_grounding.benchmark.judging import DeterministicJudge, JudgeQuestion, Verdict
from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, LabelledPhrase
from llava_grounding.benchmark.scores import SampleScore
from llava_grounding.benchmark.tasks import TASKS, Task, find_task
from llava_grounding.masks import encode_rle

SIZE_WH = (100, 60)
PART = 1000  # answers that are scored together
SAMPLES_FOR = 10  # parts, after which other samples are asked
WORDS = (
    "a the dog dogs red car person two no yes Yes. not 3 17 <1> <99> hot-dog zebra \u00e9 \U0001f600 left of and , . ()"
)
CATEGORIES = ("dog", "car", "person", "hot dog", "zebra")
TEXT_ALONE = ("classification", "marks", "chat", "pope", "vsr")  # most answers to these are invented without regions
_QUALITY = ("describe", "refer", "count", "colour", "region", "where", "absent", "POPE")
KINDS = {
    "classification": ("click", "box", "scribble", "mask"),
    "chat": ("conversation", "detail", "complex"),
    **dict.fromkeys(("scenes", "photos"), _QUALITY),
}


class Chance:
    """Random samples and answers."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        noise = np.random.default_rng(seed).random((200, 6, 10))
        grown = noise.repeat(10, axis=1).repeat(10, axis=2)
        self._masks = [encode_rle(grid < share) for grid, share in zip(grown, np.linspace(-0.2, 1.2, 200), strict=True)]

    def box(self, out: float) -> tuple[float, float, float, float]:
        """Corners in order, up to so many image sizes outside; some without area."""
        rng, (width, height) = self._rng, SIZE_WH
        x = sorted(round(rng.uniform(-out, 1 + out) * width, 1) for _ in range(2))
        y = sorted(round(rng.uniform(-out, 1 + out) * height, 1) for _ in range(2))
        return (x[0], y[0], x[0] if rng.random() < 0.05 else x[1], y[1])

    def text(self) -> str:
        """Up to thirty words of no sense."""
        return " ".join(self._rng.choices(WORDS.split(), k=self._rng.choice((0, 1, 3, 10, 30))))

    def sample(self, number: int, task: str) -> BenchmarkSample:
        """A sample that every task can score."""
        rng = self._rng
        instances = tuple(
            LabelledInstance(rng.choice(CATEGORIES), self.box(0), rng.choice(self._masks), id=k)
            for k in range(rng.randint(1, 5))
        )
        phrases = tuple(
            LabelledPhrase(
                rng.choice(CATEGORIES), tuple(rng.sample(range(len(instances)), rng.randint(0, 2) % len(instances)))
            )
            for _ in range(3)
        )
        kind, yes_no = rng.choice(KINDS.get(task, ("",))), rng.choice(("yes", "no"))
        if task == "referring":
            phrases = (LabelledPhrase("the dog", (0,)),)
        if kind in _QUALITY:
            phrases = (LabelledPhrase("the dog", (0,)), LabelledPhrase("it", (len(instances) - 1,)))
            phrases = phrases if kind == "refer" else ()
        short = yes_no if kind in ("absent", "POPE") else self.text()
        answer = {"marks": "3", "classification": rng.choice(CATEGORIES), "pope": yes_no, "scenes": short}
        asks_phrases = task in ("referring", "generalized-referring", "phrase-grounding") or kind == "refer"
        return BenchmarkSample(
            str(number),
            f"{number}.png",
            SIZE_WH,
            kind=kind,
            question="" if asks_phrases else "What is there?",
            phrases=phrases[:1] if task == "generalized-referring" else phrases,
            instances=instances,
            references=(self.text() or "a dog", "a dog and a car"),
            answer=answer.get({"vsr": "pope", "photos": "scenes"}.get(task, task), ""),
        )

    def prediction(self, sample: BenchmarkSample, task: str) -> Prediction:
        """An answer to it."""
        rng = self._rng
        asked = len(sample.phrases) if not sample.question else rng.randint(0, 4)
        asked *= task not in TEXT_ALONE or rng.random() < 0.05
        phrases = tuple(PredictedPhrase(rng.choice(CATEGORIES), self._regions(sample)) for _ in range(asked))
        plain = self.text() if rng.random() < 0.5 else None
        return Prediction(sample.id, self.text(), phrases, plain, "out of memory" if rng.random() < 0.01 else None)

    def _regions(self, sample: BenchmarkSample) -> tuple[PredictedRegion, ...]:
        rng, regions = self._rng, list[PredictedRegion]()
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            true = rng.choice(sample.instances)
            box = true.box_xyxy if rng.random() < 0.3 else self.box(rng.choice((0, 0, 2)))
            mask = true.mask if rng.random() < 0.3 else rng.choice([None, *self._masks[:: 1 + rng.randrange(9)]])
            regions.append(PredictedRegion(box, rng.choice((None, rng.random(), 0.0, 1.0)), mask))
        return tuple(regions + regions[:1] if rng.random() < 0.1 else regions)


class ChanceJudge(DeterministicJudge):
    """Rates chats by chance, which the deterministic one does not judge."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = random.Random(seed)

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Verdict | None]:
        rng = self._rng
        rated = [
            Verdict(scores=(rng.randint(1, 10), rng.randint(1, 10))) if rng.random() < 0.9 else None for _ in questions
        ]
        found = super().judge(questions)
        return [
            chance if one.kind == "chat" else said for one, chance, said in zip(questions, rated, found, strict=True)
        ]


def faults_of(
    task: Task, samples: Sequence[BenchmarkSample], answers: Sequence[Prediction], scores: Sequence[SampleScore]
) -> list[str]:
    """What is not as it should be."""
    faults = [
        f"{one.id}: row {name} is {row}"
        for one in scores
        for name, row in one.rows.items()
        if not all(map(math.isfinite, row))
    ]
    faults += [
        f"{one.id}: quality {one.quality}" for one in scores if one.quality is not None and not 0 <= one.quality <= 1
    ]
    if [one.id for one in scores] != [one.id for one in samples]:
        faults.append("the scores are not those of the samples")
    sums: dict[str, np.ndarray] = {}
    for one in scores:
        for name, row in one.rows.items():
            sums[name] = sums.get(name, 0) + np.array(row, dtype=np.float64)
    said = [
        (one.name, one.unit, float(one.of(sums[one.row][None])[0]))
        for one in task.statistics(sums.keys())
        if one.row in sums
    ]
    said += [(one.name, one.unit, one.value) for one in task.extra_metrics(samples, answers) if one.value is not None]
    for name, unit, value in said:
        if math.isinf(value) or (not unit and not math.isnan(value) and not -1e-9 <= value <= 1 + 1e-9):
            faults.append(f"{name} is {value}")
    return faults if said else [*faults, "no number was made"]


def run(name: str, count: int, seconds: float, seed: int) -> tuple[int, float, list[str]]:
    """Answers scored, CPU seconds for them, and faults."""
    task, chance = find_task(name), Chance(seed)
    judge = ChanceJudge(seed)
    invented: list[BenchmarkSample] = []
    done, spent, faults = 0, 0.0, list[str]()
    while done < count and spent < seconds:
        if done % (SAMPLES_FOR * PART) == 0:
            invented = [chance.sample(done + k, name) for k in range(PART)]
        samples = invented[: count - done]
        answers = [chance.prediction(one, name) for one in samples]
        begin = time.process_time()
        try:
            scores = task.score_all(samples, answers, judge).scores
            faults += faults_of(task, samples, answers, scores)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a fault of the scorer
            faults.append(f"{type(error).__name__}: {error}")
        spent += time.process_time() - begin
        done += len(samples)
    return done, spent, faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Random answers through every scorer of the benchmark.")
    parser.add_argument("--count", type=int, default=10_000, help="answers through each scorer")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="one scorer alone; may be given again")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="CPU seconds of scoring, after which a task ends"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failed = False
    print("| scorer | answers | CPU seconds | answers a second | faults |\n|---|---|---|---|---|")
    for name in options.task or TASKS:
        done, spent, faults = run(name, options.count, options.seconds, options.seed)
        print(f"| {name} | {done:,} | {spent:.1f} | {done / max(spent, 1e-9):,.0f} | {len(faults)} |", flush=True)
        for fault in faults[:5]:
            print(f"{name}: {fault}", file=sys.stderr)
        failed = failed or bool(faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
