"""Scored runs: predictions to scores by a task and a judge, kept in a folder, read by `report` and `compare`.

The command's steps and `evaluate_scenes` both come through `score_run`. Knows no model; asks nothing of a system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llava_grounding.benchmark.about import About, AboutSet
from llava_grounding.benchmark.files import as_json, read_json_object, read_lines, read_values, write_aside
from llava_grounding.benchmark.judging import Judge, judgement_lines
from llava_grounding.benchmark.predictions import Prediction, in_order
from llava_grounding.benchmark.published import published_for
from llava_grounding.benchmark.report import Metric, metric_from
from llava_grounding.benchmark.results import RESULTS_VERSION, Results, system_result
from llava_grounding.benchmark.runs import versions
from llava_grounding.benchmark.samples import SampleSet
from llava_grounding.benchmark.scores import SampleScore
from llava_grounding.benchmark.tasks import find_task
from llava_grounding.errors import DataError, shown
from llava_grounding.typed_values import is_whole

SCORED, SCORES, JUDGEMENTS = "scored.json", "scores.jsonl", "judgements.jsonl"
_KEPT: Mapping[str, type] = {
    **dict.fromkeys(("task", "title", "rules", "rules_version"), str),
    **dict.fromkeys(("set", "system", "judge", "versions", "problems"), dict),
    **dict.fromkeys(("extra_metrics", "named_problems", "notes"), list),
    **dict.fromkeys(("judge_questions", "judge_answers"), int),
}
"""What is kept of a scored run besides its scores, and as what."""
_SET: Mapping[str, type] = {
    **dict.fromkeys(("name", "split", "sha256"), str),
    **dict.fromkeys(("built_from", "left_out"), dict),
    "count": int,
}
"""Types of what a report says of its set."""


@dataclass(frozen=True)
class ScoredRun:
    """What one system's answers to a set are worth, and what a report says of them.

    Args:
        name: of the system.
        about: how the scores came about.
        scores: in the order of the set.
        judge_asked, judge_answered: questions put to the judge, and verdicts that came.
        extra_metrics: numbers that are no sums over samples.
        problems: lines of predictions that could not be used, by key of `PROBLEMS`.
        named_problems: the first of them, with their line.
        judgements: as JSON lines; not read back from files.
    """

    name: str
    about: About
    scores: tuple[SampleScore, ...]
    judge_asked: int
    judge_answered: int
    extra_metrics: tuple[Metric, ...]
    problems: Mapping[str, int]
    named_problems: tuple[str, ...]
    judgements: bytes = b""


def score_run(
    samples: SampleSet,
    predictions: Mapping[str, Prediction],
    judge: Judge,
    system: Mapping[str, Any],
    problems: Mapping[str, int] = MappingProxyType({}),
    named_problems: Sequence[str] = (),
) -> ScoredRun:
    """Score the answers of one system by the task of the set.

    Args:
        predictions: by id of their sample; one without is counted as missing.
        system: what a report says of it; its `name` or `model` is how it is called.
        problems, named_problems: as of `ScoredRun`.
    """
    task = find_task(samples.task)
    ordered = in_order(samples.samples, predictions)
    scored = task.score_all(samples.samples, ordered, judge)
    about = About(
        task=task.name,
        title=f"{task.title}: {samples.name}",
        rules=task.rules,
        rules_version=task.rules_version,
        set=AboutSet.of(samples),
        notes=samples.notes,
        system=dict(system),
        judge=dict(judge.about()),
        versions=versions(),
    )
    return ScoredRun(
        _system_name(system, "model"),
        about,
        scored.scores,
        len(scored.questions),
        sum(one is not None for one in scored.verdicts),
        tuple(task.extra_metrics(samples.samples, ordered)),
        problems,
        tuple(named_problems),
        judgement_lines(scored.questions, scored.verdicts),
    )


def results_of_runs(runs: Sequence[ScoredRun], seed: int = 0) -> Results:
    """The results of systems that answered the same set; what is said of one alone is of the first.

    Args:
        seed: of the bootstrap.
    """
    first = runs[0]
    task = find_task(first.about.task)
    results = []
    for run in runs:
        judged = {"judge_asked": run.judge_asked, "judge_answered": run.judge_answered}
        results.append(system_result(run.name, task, run.scores, seed, run.extra_metrics, judged))
    return Results(
        first.about,
        tuple(results),
        first.problems,
        tuple(published_for(task.name)),
        first.named_problems,
        seed,
    )


def write_scored(folder: Path, run: ScoredRun) -> None:
    """Keep what a report is made of: scores, judgements, and numbers that are no sums over samples."""
    value = {
        "results_version": RESULTS_VERSION,
        **run.about.to_dict(),
        "judge_questions": run.judge_asked,
        "judge_answers": run.judge_answered,
        "problems": dict(run.problems),
        "named_problems": list(run.named_problems),
        "extra_metrics": [asdict(one) for one in run.extra_metrics],
    }
    write_aside(folder / SCORES, "".join(as_json(one.to_dict()) for one in run.scores).encode())
    write_aside(folder / JUDGEMENTS, run.judgements)
    write_aside(folder / SCORED, as_json(value, indent=2).encode())  # last: with it the set is whole


def read_scored(folder: Path) -> ScoredRun:
    """What `write_scored` kept.

    Raises:
        DataError: if the folder holds no scored run.
    """
    if not (folder / SCORED).is_file():
        raise DataError(f"{folder} holds no scored run: there is no {SCORED}; run `benchmark TASK score` first")
    kept = read_json_object(folder / SCORED)
    if kept.get("results_version") != RESULTS_VERSION:
        raise DataError(
            f"{folder / SCORED} must be of version {RESULTS_VERSION}, got {shown(kept.get('results_version'))}; "
            "score the run again"
        )
    _check_kept(kept, folder / SCORED)
    about = About.from_dict(kept)
    scores = read_values(folder / SCORES, read_lines(folder / SCORES), SampleScore.from_dict)
    if len(scores) != about.set.count:
        raise DataError(f"{folder / SCORES} must have {about.set.count} scores, got {len(scores)}")
    return ScoredRun(
        _system_name(about.system, folder.name),
        about,
        tuple(scores),
        judge_asked=kept["judge_questions"],
        judge_answered=kept["judge_answers"],
        extra_metrics=tuple(metric_from(one) for one in kept["extra_metrics"]),
        problems=kept["problems"],
        named_problems=tuple(kept["named_problems"]),
    )


def _check_kept(kept: Mapping[str, Any], path: Path) -> None:
    """See that what is kept of a scored run is as `write_scored` writes it."""
    for key, kind in _KEPT.items():
        if not isinstance(kept.get(key), kind) or isinstance(kept[key], bool):
            raise DataError(f"{path} is damaged: `{key}` is {shown(kept.get(key))}; score the run again")
    data = kept["set"]
    fits = data.keys() == _SET.keys() and all(isinstance(data[key], kind) for key, kind in _SET.items())
    if not fits or not is_whole(data["count"]):
        raise DataError(f"{path} is damaged: `set` is {shown(data)}; score the run again")
    try:
        for one in kept["extra_metrics"]:
            metric_from(one)
    except DataError as error:
        raise DataError(f"{path} is damaged: `extra_metrics` are none: {error}; score the run again") from error


def results_of(folder: Path, seed: int = 0) -> Results:
    """The results of a scored folder.

    Args:
        seed: of the bootstrap.
    """
    return results_of_runs([read_scored(folder)], seed)


def _system_name(system: Mapping[str, Any], otherwise: str) -> str:
    return str(system.get("name") or system.get("model") or otherwise)
