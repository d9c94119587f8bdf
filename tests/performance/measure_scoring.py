"""Print what scoring costs without a model: python tests/performance/measure_scoring.py [images] [turns]

Grounding-Bench of invented images of 640 x 480 (1,000 unless said): twenty discs as labelled things and twenty phrases,
each with one region, box and mask, of which a part lies on the thing that the phrase names. Every step's processor and
wall seconds, the least of some turns (three unless said): the scores by the deterministic judge, by box and mask at ten
thresholds; their numbers with intervals; and what the command does with files.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.benchmark.adapters import adapter
from llava_grounding.benchmark.grounding_bench import GroundingBench
from llava_grounding.benchmark.judging import DeterministicJudge
from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction, read_predictions
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, SampleSet
from llava_grounding.benchmark.scored_runs import results_of, score_run, write_scored
from llava_grounding.benchmark.scores import metrics_of
from llava_grounding.masks import encode_rle

WIDTH, HEIGHT, THINGS = 640, 480, 20
SET, ANSWERS = "set.jsonl", "answers.jsonl"
KINDS = ("person", "dog", "cat", "car", "bus", "bicycle", "horse", "chair", "table", "cup", "bottle", "book", "bird")
Disc = tuple[float, float, float]


def outline(disc: Disc) -> tuple[tuple[float, float, float, float], dict[str, Any]]:
    """Box and run-length code of a disc (x, y, radius)."""
    x, y, r = disc
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    box = (max(0.0, x - r), max(0.0, y - r), min(float(WIDTH), x + r), min(float(HEIGHT), y + r))
    return box, encode_rle((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= r * r)


def invented(number: int, chance: random.Random) -> tuple[BenchmarkSample, Prediction]:
    """An image and an answer about it."""
    things, phrases = [], []
    for _ in range(THINGS):
        x, y, r = chance.uniform(0, WIDTH), chance.uniform(0, HEIGHT), chance.uniform(15, 120)
        kind = chance.choice(KINDS)
        things.append(LabelledInstance(kind, *outline((x, y, r))))
        said = kind if chance.random() < 0.7 else chance.choice(KINDS)
        step = 0.2 if chance.random() < 0.5 else 2.0
        near = (x + chance.gauss(0, step * r) % WIDTH, y + chance.gauss(0, step * r) % HEIGHT, r)
        box, code = outline((min(near[0], WIDTH - 1.0), min(near[1], HEIGHT - 1.0), r))
        words = f"the {chance.choice(('red', 'small', 'left', 'old'))} {said}"
        phrases.append(PredictedPhrase(words, (PredictedRegion(box, chance.random(), code),)))
    key = str(number)
    sample = BenchmarkSample(key, f"{key}.jpg", (WIDTH, HEIGHT), "detail", "Describe it.", instances=tuple(things))
    return sample, Prediction(key, " ".join(one.text for one in phrases), tuple(phrases))


class Clock:
    """The least processor seconds and wall seconds that each step took."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, float]] = {}

    def timed(self, name: str, step: Callable[..., Any], *given: Any) -> Any:
        """What the step gives."""
        processor, wall = time.process_time(), time.perf_counter()
        value = step(*given)
        spent = time.process_time() - processor, time.perf_counter() - wall
        self.found[name] = min(self.found.get(name, spent), spent)
        return value


def one_turn(clock: Clock, folder: Path, samples: Sequence[BenchmarkSample], answers: Sequence[Prediction]) -> None:
    """All steps once; the files are in the folder."""
    task, judge = GroundingBench(), DeterministicJudge()
    scored = clock.timed("scores", task.score_all, samples, answers, judge)
    statistics = task.statistics({name for one in scored.scores for name in one.rows})
    clock.timed("their numbers and intervals", metrics_of, scored.scores, statistics)
    loaded = clock.timed("reading the set", SampleSet.read, folder / SET)
    read = clock.timed("reading the answers", read_predictions, folder / ANSWERS, loaded, adapter("plain"))
    run = clock.timed("scores, hash of the set", score_run, loaded, read.by_id, judge, {"name": "invented"})
    clock.timed("writing them", write_scored, folder, run)
    clock.timed("results of them", results_of, folder)


def main() -> None:
    count, turns = (int(said) for said in [*sys.argv[1:3], *("1000", "3")[len(sys.argv[1:3]) :]])
    chance = random.Random(0)
    samples, answers = zip(*(invented(number, chance) for number in range(count)), strict=True)
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        SampleSet(GroundingBench.name, "invented", samples).write(folder / SET)
        lines = "".join(f"{json.dumps(one.to_dict())}\n" for one in answers)
        (folder / ANSWERS).write_text(lines, encoding="utf-8")
        for _ in range(turns):
            one_turn(clock, folder, samples, answers)
    print("| step | processor seconds | wall seconds |\n|---|---|---|")
    for name, (processor, wall) in clock.found.items():
        print(f"| {name} | {processor:.2f} | {wall:.2f} |")


if __name__ == "__main__":
    main()
