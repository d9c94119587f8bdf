"""What is shown of a scored run: counts, numbers with intervals, calibration, cases, the paper's numbers beside them.

One `Results` is made from scores alone, and written as JSON, Markdown and a page of HTML; nothing in it depends on
when, where or in how many pieces a run was done. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_grounding.benchmark.calibration import Calibration, calibration
from llava_grounding.benchmark.files import as_json, read_json_object, read_lines, write_aside
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.published import Published, published_for
from llava_grounding.benchmark.report import Metric, markdown_text, metric_from
from llava_grounding.benchmark.samples import SampleSet, about_set
from llava_grounding.benchmark.scores import (
    Difference,
    SampleScore,
    compare,
    metrics_of,
    state_counts,
)
from llava_grounding.benchmark.tasks import Scored, Task, find_task
from llava_grounding.errors import DataError, UsageError, shown

SCORED, SCORES, JUDGEMENTS = "scored.json", "scores.jsonl", "judgements.jsonl"
RESULTS_VERSION = 1
_MOST_CASES = 8
_ABOUT: Mapping[str, type] = {
    **dict.fromkeys(("task", "title", "rules", "rules_version"), str),
    **dict.fromkeys(("set", "system", "judge", "versions", "problems"), dict),
    **dict.fromkeys(("extra_metrics", "named_problems", "notes"), list),
    **dict.fromkeys(("judge_questions", "judge_answers"), int),
}
"""What is kept of a scored run besides its scores, and as what."""


@dataclass(frozen=True)
class Results:
    """Everything that is shown.

    Args:
        about: task, rules, set, system, judge, versions, seed.
        counts: samples by state, and what was asked of a judge.
        problems: lines of predictions that could not be used, by reason.
        metrics: in the order of printing.
        calibration: of scores of regions.
        worst, best: cases by quality.
        published: the paper's rows.
    """

    about: Mapping[str, Any]
    counts: Mapping[str, int]
    problems: Mapping[str, int]
    metrics: tuple[Metric, ...]
    calibration: Calibration
    worst: tuple[SampleScore, ...] = ()
    best: tuple[SampleScore, ...] = ()
    published: tuple[Published, ...] = ()
    named_problems: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "results_version": RESULTS_VERSION,
            **dict(self.about),
            "counts": dict(self.counts),
            "problems": dict(self.problems),
            "named_problems": list(self.named_problems),
            "metrics": [asdict(one) for one in self.metrics],
            "calibration": asdict(self.calibration),
            "worst": [one.to_dict() for one in self.worst],
            "best": [one.to_dict() for one in self.best],
            "published": [{**asdict(one), "values": dict(one.values)} for one in self.published],
        }

    def to_markdown(self) -> str:
        """The same for people; cases are only named."""
        about = self.about
        lines = [f"# {markdown_text(about['title'])}", ""]
        lines += [*(f"- {key}: {markdown_text(value)}" for key, value in _facts(about)), ""]
        lines += ["| counts | |", "|---|---|", *(f"| {key} | {value} |" for key, value in self.counts.items()), ""]
        if self.problems:
            lines += ["| lines that could not be used | |", "|---|---|"]
            lines += [f"| {markdown_text(key)} | {value} |" for key, value in self.problems.items()]
            lines += ["", *(f"- {markdown_text(one)}" for one in self.named_problems), ""]
        lines += ["| metric | value | 95 % interval | n |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(map(markdown_text, row)) + " |" for row in self.rows()]
        lines += ["", about["rules"], ""]
        if self.calibration.regions:
            lines += [f"## Calibration ({self.calibration.regions} regions with a score)", ""]
            lines += self.calibration.to_markdown()
        if self.published:
            lines += ["## The paper's numbers, in percent", "", "| table | system | |", "|---|---|---|"]
            lines += [f"| {one.table} | {one.system} | {_values(one)} |" for one in self.published] + [""]
        for title, cases in (("Worst", self.worst), ("Best", self.best)):
            if cases:
                lines += [f"## {title} cases", "", "| sample | quality |", "|---|---|"]
                lines += [f"| {markdown_text(one.id)} | {one.quality:.3f} |" for one in cases] + [""]
        return "\n".join(lines)

    def rows(self) -> list[list[str]]:
        """Cells of the table of metrics: name with direction, value, interval, count."""
        found = []
        for one in self.metrics:
            arrow = "↑" if one.higher_is_better else "↓"
            interval = "" if one.interval is None else f"{one.interval.low:.3f} to {one.interval.high:.3f}"
            value = "–" if one.value is None else f"{one.value:.3f}{f' {one.unit}' if one.unit else ''}"
            found.append([f"{one.name} {arrow}", value, interval, str(one.count)])
        return found


def _values(one: Published) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in one.values.items())


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader must know to repeat it, in words."""
    data, system, judge = about["set"], about["system"], about["judge"]
    source = ", ".join(f"{key} {value}" for key, value in system.items() if value not in ("", None))
    facts = [
        ("task", f"{about['task']}, rules version {about['rules_version']}"),
        (
            "set",
            f"{data['name']}, {data['count']} samples, split {data['split'] or 'not named'}, SHA-256 {data['sha256']}",
        ),
        ("system", source),
        ("judge", ", ".join(f"{key} {value}" for key, value in judge.items() if key != "parameters")),
        ("versions", ", ".join(f"{key} {value}" for key, value in about["versions"].items())),
        ("seed", str(about["seed"])),
    ]
    return facts + [("note", note) for note in about.get("notes", ())]


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
    from llava_grounding.benchmark.judging import record

    judged = sum(one is not None for one in scored.verdicts)
    value = {
        "results_version": RESULTS_VERSION,
        "task": task.name,
        "title": f"{task.title}: {samples.name}",
        "rules": task.rules,
        "rules_version": task.rules_version,
        "set": about_set(samples),
        "notes": list(samples.notes),
        **dict(about),
        "judge_questions": len(scored.questions),
        "judge_answers": judged,
        "problems": dict(problems),
        "named_problems": list(named_problems),
        "extra_metrics": [asdict(one) for one in task.extra_metrics(samples.samples, predictions)],
    }
    write_aside(folder / SCORES, "".join(as_json(one.to_dict()) for one in scored.scores).encode())
    write_aside(folder / JUDGEMENTS, record(scored.questions, scored.verdicts))
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
    task = find_task(about["task"])
    rows = {name for score in scores for name in score.rows}
    metrics = metrics_of(scores, task.statistics(rows), seed)
    extra = [metric_from(one) for one in about.pop("extra_metrics")]
    counts = {
        **state_counts(scores),
        "images": len({score.image for score in scores}),
        "judge asked": about.pop("judge_questions"),
        "judge answered": about.pop("judge_answers"),
    }
    problems, named = about.pop("problems"), about.pop("named_problems")
    about.pop("results_version")
    ranked = sorted((one for one in scores if one.quality is not None), key=lambda one: (one.quality or 0.0, one.id))
    most = min(_MOST_CASES, len(ranked) // 2)
    return Results(
        about={**about, "seed": seed},
        counts=counts,
        problems=problems,
        metrics=(*metrics, *extra),
        calibration=calibration(pair for score in scores for pair in score.regions),
        worst=tuple(ranked[:most]),
        best=tuple(reversed(ranked[-most:])) if most else (),
        published=tuple(published_for(about["task"])),
        named_problems=tuple(named),
    )


@dataclass(frozen=True)
class Comparison:
    """Two scored runs of the same set.

    Args:
        about: names of the two and of the set.
        differences: one per number that both have.
        changed: samples whose quality differs, the largest change first: id, first, second.
        only_first, only_second: samples that only one has an answer to.
    """

    about: Mapping[str, Any]
    differences: tuple[Difference, ...]
    changed: tuple[tuple[str, float, float], ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"results_version": RESULTS_VERSION, **asdict(self)}

    def to_markdown(self) -> str:
        """The same for people."""
        title, first, second = (markdown_text(self.about[key]) for key in ("title", "first", "second"))
        lines = [f"# {title}", "", f"A is {first}, B is {second}.", ""]
        lines += ["| metric | A | B | B - A | 95 % interval | B better | images |", "|---|---|---|---|---|---|---|"]
        for one in self.differences:
            arrow = "↑" if one.higher_is_better else "↓"
            interval = "–" if one.low is None or one.high is None else f"{one.low:+.3f} to {one.high:+.3f}"
            better = "–" if one.share_better is None else f"{one.share_better:.0%}"
            cells = [_number(one.first), _number(one.second), _number(one.difference), interval, better]
            lines.append(f"| {markdown_text(one.name)} {arrow} | {' | '.join(cells)} | {one.images} |")
        lines += ["", f"{len(self.changed)} samples changed; {len(self.only_first)} only A answered,"]
        lines += [f"{len(self.only_second)} only B.", "", "| sample | A | B |", "|---|---|---|"]
        lines += [f"| {markdown_text(key)} | {mine:.3f} | {theirs:.3f} |" for key, mine, theirs in self.changed[:50]]
        return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def compare_folders(first: Path, second: Path, seed: int = 0) -> Comparison:
    """Paired comparison of two scored runs.

    Raises:
        UsageError: if they are of another task, set, rules or judge: their numbers cannot be compared. Recorded
            judgements may be those of any judge.
    """
    (about, mine), (other, theirs) = read_scored(first), read_scored(second)
    for what, values in (
        ("task", [one["task"] for one in (about, other)]),
        ("rules", [one["rules_version"] for one in (about, other)]),
        ("set", [one["set"]["sha256"] for one in (about, other)]),
        ("split", [one["set"]["split"] for one in (about, other)]),
    ):
        if values[0] != values[1]:
            raise UsageError(
                f"{first} and {second} cannot be compared: their {what} differs, {values[0]} and {values[1]}"
            )
    judges = [about["judge"], other["judge"]]
    # Recorded judgements are somebody's: whose they were is not in them.
    if judges[0] != judges[1] and not any(one.get("judge") == "recorded" for one in judges):
        raise UsageError(
            f"{first} and {second} cannot be compared: their judge differs, {shown(judges[0])} and {shown(judges[1])}; "
            "score one again with the judge of the other"
        )
    task = find_task(about["task"])
    rows = {name for score in mine for name in score.rows}
    left, right = ({one.id: one for one in scores} for scores in (mine, theirs))
    changed = [
        (key, one.quality, right[key].quality)
        for key, one in left.items()
        if key in right
        and one.quality is not None
        and right[key].quality is not None
        and one.quality != right[key].quality
    ]
    changed.sort(key=lambda row: (-abs((row[2] or 0.0) - (row[1] or 0.0)), row[0]))
    answered = [{key for key, one in side.items() if one.state not in ("missing", "failed")} for side in (left, right)]
    return Comparison(
        {
            "title": f"{about['title']}: two systems",
            "task": about["task"],
            "set": about["set"],
            "judges": judges,
            "first": _system_name(about, first),
            "second": _system_name(other, second),
            "seed": seed,
        },
        tuple(compare(mine, theirs, task.statistics(rows), seed)),
        tuple((key, float(a or 0.0), float(b or 0.0)) for key, a, b in changed),
        tuple(sorted(answered[0] - answered[1])),
        tuple(sorted(answered[1] - answered[0])),
    )


def _system_name(about: Mapping[str, Any], folder: Path) -> str:
    system = about["system"]
    return str(system.get("name") or system.get("model") or folder.name)
