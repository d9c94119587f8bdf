"""Scored runs in their folders: written by `score`, read by `report` and `compare`.

Knows no model and no system, and nothing of what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_grounding.benchmark.files import as_json, read_json_object, read_lines, write_aside
from llava_grounding.benchmark.judging import judgement_lines
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.published import published_for
from llava_grounding.benchmark.report import metric_from
from llava_grounding.benchmark.results import RESULTS_VERSION, Results, system_result
from llava_grounding.benchmark.samples import SampleSet, about_set
from llava_grounding.benchmark.scores import SampleScore
from llava_grounding.benchmark.tasks import Scored, Task, find_task
from llava_grounding.errors import DataError, shown

SCORED, SCORES, JUDGEMENTS = "scored.json", "scores.jsonl", "judgements.jsonl"
_ABOUT: Mapping[str, type] = {
    **dict.fromkeys(("task", "title", "rules", "rules_version"), str),
    **dict.fromkeys(("set", "system", "judge", "versions", "problems"), dict),
    **dict.fromkeys(("extra_metrics", "named_problems", "notes"), list),
    **dict.fromkeys(("judge_questions", "judge_answers"), int),
}
"""What is kept of a scored run besides its scores, and as what."""


def about_scored(task: Task, samples: SampleSet) -> dict[str, Any]:
    """What a report says of its task and set."""
    return {
        "task": task.name,
        "title": f"{task.title}: {samples.name}",
        "rules": task.rules,
        "rules_version": task.rules_version,
        "set": about_set(samples),
        "notes": list(samples.notes),
    }


def write_scored(
    folder: Path,
    task: Task,
    samples: SampleSet,
    predictions: Sequence[Prediction | None],
    scored: Scored,
    about: Mapping[str, Any],
    problems: Mapping[str, int],
    named_problems: Sequence[str] = (),
) -> None:
    """Keep what a report is made of: scores, judgements, and numbers that are no sums over samples."""
    judged = sum(one is not None for one in scored.verdicts)
    value = {
        "results_version": RESULTS_VERSION,
        **about_scored(task, samples),
        **dict(about),
        "judge_questions": len(scored.questions),
        "judge_answers": judged,
        "problems": dict(problems),
        "named_problems": list(named_problems),
        "extra_metrics": [asdict(one) for one in task.extra_metrics(samples.samples, predictions)],
    }
    write_aside(folder / SCORES, "".join(as_json(one.to_dict()) for one in scored.scores).encode())
    write_aside(folder / JUDGEMENTS, judgement_lines(scored.questions, scored.verdicts))
    write_aside(folder / SCORED, as_json(value, indent=2).encode())  # last: with it the set is whole


def read_scored(folder: Path) -> tuple[dict[str, Any], list[SampleScore]]:
    """What `write_scored` kept.

    Raises:
        DataError: if the folder holds no scored run.
    """
    if not (folder / SCORED).is_file():
        raise DataError(f"{folder} holds no scored run: there is no {SCORED}; run `benchmark TASK score` first")
    about = read_json_object(folder / SCORED)
    if about.get("results_version") != RESULTS_VERSION:
        raise DataError(f"{folder / SCORED} must be of version {RESULTS_VERSION}, got {about.get('results_version')}")
    _check_about(about, folder / SCORED)
    scores = []
    for number, value in read_lines(folder / SCORES):
        if isinstance(value, DataError):
            raise DataError(f"{folder / SCORES}, line {number}: {value}") from value
        try:
            scores.append(SampleScore.from_dict(value))
        except DataError as error:
            raise DataError(f"{folder / SCORES}, line {number}: {error}") from error
    if len(scores) != about["set"]["count"]:
        raise DataError(f"{folder / SCORES} must have {about['set']['count']} scores, got {len(scores)}")
    return about, scores


def _check_about(about: Mapping[str, Any], path: Path) -> None:
    """See that what is kept of a scored run is as `write_scored` writes it."""
    for key, kind in _ABOUT.items():
        if not isinstance(about.get(key), kind) or isinstance(about[key], bool):
            raise DataError(f"{path} is damaged: `{key}` is {shown(about.get(key))}; score the run again")
    data = about["set"]
    if not all(isinstance(data.get(key), str) for key in ("name", "split", "sha256")):
        raise DataError(f"{path} is damaged: `set` is {shown(data)}; score the run again")
    try:
        for one in about["extra_metrics"]:
            metric_from(one)
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged: `extra_metrics` are none: {error}; score the run again") from error


def results_of(folder: Path, seed: int = 0) -> Results:
    """The results of a scored folder.

    Args:
        seed: of the bootstrap.
    """
    about, scores = read_scored(folder)
    extra = [metric_from(one) for one in about.pop("extra_metrics")]
    judged = {"judge asked": about.pop("judge_questions"), "judge answered": about.pop("judge_answers")}
    problems, named = about.pop("problems"), about.pop("named_problems")
    about.pop("results_version")
    result = system_result(system_name(about, folder), find_task(about["task"]), scores, seed, extra, judged)
    return Results({**about, "seed": seed}, (result,), problems, tuple(published_for(about["task"])), tuple(named))


def system_name(about: Mapping[str, Any], folder: Path) -> str:
    """Of a scored run, for reports."""
    system = about["system"]
    return str(system.get("name") or system.get("model") or folder.name)
