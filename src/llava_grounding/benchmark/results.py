"""What is shown of scores: counts, numbers with intervals, calibration, cases, the paper's numbers beside them.

One `Results` is made from scores alone, of one system or several, and written as JSON, Markdown, a table for terminals
and a page of HTML; nothing in it depends on when, where or in how many pieces a run was done. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from rich.table import Table

SCORED, SCORES, JUDGEMENTS = "scored.json", "scores.jsonl", "judgements.jsonl"
RESULTS_VERSION = 1
_MOST_CASES = 8
_WIDE = 120  # columns of a terminal that intervals of several systems fit into
_ABOUT: Mapping[str, type] = {
    **dict.fromkeys(("task", "title", "rules", "rules_version"), str),
    **dict.fromkeys(("set", "system", "judge", "versions", "problems"), dict),
    **dict.fromkeys(("extra_metrics", "named_problems", "notes"), list),
    **dict.fromkeys(("judge_questions", "judge_answers"), int),
}
"""What is kept of a scored run besides its scores, and as what."""


@dataclass(frozen=True)
class SystemResult:
    """What one system scored.

    Args:
        system: its name.
        asked, answered, unparsable: questions put, answers that came, answers that no metric could read.
        metrics: in the order of printing.
        calibration: of scores of regions; None where none has one.
        counts: samples by state, images, and what was asked of a judge.
        worst, best: cases by quality.
    """

    system: str
    asked: int
    answered: int
    unparsable: int
    metrics: tuple[Metric, ...]
    calibration: Calibration | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    worst: tuple[SampleScore, ...] = ()
    best: tuple[SampleScore, ...] = ()

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    @property
    def questions(self) -> dict[str, int]:
        """How many were put, answered, and of those not to be read."""
        return {"asked": self.asked, "answered": self.answered, "unparsable": self.unparsable}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "system": self.system,
            **self.questions,
            "metrics": [asdict(one) for one in self.metrics],
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "counts": dict(self.counts),
            "worst": [one.to_dict() for one in self.worst],
            "best": [one.to_dict() for one in self.best],
        }


@dataclass(frozen=True)
class Results:
    """Everything that is shown, of one system or of several that answered the same set.

    Args:
        about: task, rules, set, the first system, judge, versions, notes, seed.
        results: one per system; what is not in a table is shown of the first.
        problems: lines of predictions that could not be used, by reason.
        published: the paper's rows.
    """

    about: Mapping[str, Any]
    results: tuple[SystemResult, ...]
    problems: Mapping[str, int] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    named_problems: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Metric:
        return self.results[0][name]

    @property
    def calibration(self) -> Calibration:
        """Of the first system."""
        return self.results[0].calibration or calibration(())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: everything of each system under `results`, and that of the first at the top as well."""
        results, system = [one.to_dict() for one in self.results], self.about["system"]
        first = results[0]
        return {
            "results_version": RESULTS_VERSION,
            "report_version": RESULTS_VERSION,
            **dict(self.about),
            "data": self.about["set"]["name"],
            "num_images": first["counts"]["images"],
            "model": system.get("model") or system.get("name"),
            "model_hash": system.get("model_hash", ""),
            "version": self.about["versions"].get("llava-grounding", ""),
            "counts": first["counts"],
            "problems": dict(self.problems),
            "named_problems": list(self.named_problems),
            "metrics": first["metrics"],
            "calibration": asdict(self.calibration),
            "worst": first["worst"],
            "best": first["best"],
            "published": [{**asdict(one), "values": dict(one.values)} for one in self.published],
            "results": results,
        }

    def to_json(self) -> str:
        return as_json(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        """The same for people; cases are only named."""
        about, first = self.about, self.results[0]
        lines = [f"# {markdown_text(about['title'])}", ""]
        lines += [*(f"- {key}: {markdown_text(value)}" for key, value in self.facts()), ""]
        if self.problems:
            lines += ["| lines that could not be used | |", "|---|---|"]
            lines += [f"| {markdown_text(key)} | {value} |" for key, value in self.problems.items()]
            lines += ["", *(f"- {markdown_text(one)}" for one in self.named_problems), ""]
        head = self.head()
        lines += [_markdown_row(map(markdown_text, head)), _markdown_row(["---"] * len(head))]
        lines += [_markdown_row((markdown_text(name), *numbers)) for name, *numbers in self.rows()]
        lines += ["", about["rules"], ""]
        if self.calibration.regions:
            lines += [f"## Calibration ({self.calibration.regions} regions with a score)", ""]
            lines += self.calibration.to_markdown()
        if self.published:
            lines += ["## The paper's numbers, in percent", "", "| table | system | |", "|---|---|---|"]
            lines += [f"| {one.table} | {one.system} | {_values(one)} |" for one in self.published] + [""]
        for title, cases in (("Worst", first.worst), ("Best", first.best)):
            if cases:
                lines += [f"## {title} cases", "", "| sample | quality |", "|---|---|"]
                lines += [f"| {markdown_text(one.id)} | {one.quality:.3f} |" for one in cases] + [""]
        return "\n".join(lines)

    def to_table(self, columns: int = 200) -> Table:
        """The table for a terminal; brackets in names are no markup.

        Args:
            columns: of the terminal; a narrow one gets no intervals where there are several systems.
        """
        from rich.table import Table
        from rich.text import Text

        notes = "\n".join((self.about["rules"], *self.about["notes"]))
        table = Table(title=Text(self.about["title"], style="table.title"), caption=Text(notes, style="table.caption"))
        for position, name in enumerate(self.head()):
            table.add_column(Text(name), justify="left" if position == 0 else "right")
        narrow = columns < _WIDE and len(self.results) > 1
        for row in self.rows():
            table.add_row(*(Text(cell.partition(" [")[0] if narrow else cell) for cell in row))
        return table

    def head(self) -> list[str]:
        """Columns of the table."""
        return ["metric", *(one.system for one in self.results), "n"]

    def rows(self) -> list[list[str]]:
        """Cells of the table: names with direction, a value per system, the first one's count; then other counts."""
        found: list[list[str]] = []
        for name in dict.fromkeys(metric.name for one in self.results for metric in one.metrics):
            metrics = [next((m for m in one.metrics if m.name == name), None) for one in self.results]
            first = next(metric for metric in metrics if metric is not None)
            arrow = "↑" if first.higher_is_better else "↓"
            cells = ["" if metric is None else str(metric) for metric in metrics]
            found.append([f"{name} {arrow}", *cells, str(first.count)])
        counts, questions = [{**one.counts, **one.questions} for one in self.results], self.results[0].questions
        for name in dict.fromkeys((*questions, *self.results[0].counts)):
            if name in questions or any(one.get(name) for one in counts):
                found.append([name, *(str(one.get(name, 0)) for one in counts), ""])
        return found

    def facts(self) -> list[tuple[str, str]]:
        """What a reader must know to repeat it, in words."""
        about = self.about
        data, system, judge = about["set"], about["system"], about["judge"]
        source = ", ".join(f"{key} {value}" for key, value in system.items() if value not in ("", None))
        split = data["split"] or "not named"
        facts = [
            ("task", f"{about['task']}, rules version {about['rules_version']}"),
            ("set", f"{data['name']}, {data['count']} samples, split {split}, SHA-256 {data['sha256']}"),
            ("system", source),
            ("judge", ", ".join(f"{key} {value}" for key, value in judge.items() if key != "parameters")),
            ("versions", ", ".join(f"{key} {value}" for key, value in about["versions"].items())),
            ("seed", str(about["seed"])),
        ]
        return facts + [("note", note) for note in about["notes"]]


def system_result(
    name: str,
    task: Task,
    scores: Sequence[SampleScore],
    seed: int = 0,
    extra_metrics: Sequence[Metric] = (),
    more_counts: Mapping[str, int] = MappingProxyType({}),
) -> SystemResult:
    """The numbers of one system's scores; those of which no sample has a row are left out.

    Args:
        seed: of the bootstrap.
        extra_metrics: those that are no sums over samples.
        more_counts: beside the samples by state.
    """
    states = state_counts(scores)
    ranked = sorted((one for one in scores if one.quality is not None), key=lambda one: (one.quality or 0.0, one.id))
    most = min(_MOST_CASES, len(ranked) // 2)
    measured = calibration(pair for score in scores for pair in score.regions)
    return SystemResult(
        name,
        asked=sum(one.questions for one in scores),
        answered=sum(one.questions for one in scores if one.state not in ("failed", "missing")),
        unparsable=states["unparsable"],
        metrics=(
            *metrics_of(scores, task.statistics({row for one in scores for row in one.rows}), seed),
            *extra_metrics,
        ),
        calibration=measured if measured.regions else None,
        counts={**states, "images": len({score.image for score in scores}), **more_counts},
        worst=tuple(ranked[:most]),
        best=tuple(reversed(ranked[-most:])) if most else (),
    )


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _values(one: Published) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in one.values.items())


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
    from llava_grounding.benchmark.judging import record

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
    extra = [metric_from(one) for one in about.pop("extra_metrics")]
    judged = {"judge asked": about.pop("judge_questions"), "judge answered": about.pop("judge_answers")}
    problems, named = about.pop("problems"), about.pop("named_problems")
    about.pop("results_version")
    result = system_result(_system_name(about, folder), find_task(about["task"]), scores, seed, extra, judged)
    return Results({**about, "seed": seed}, (result,), problems, tuple(published_for(about["task"])), tuple(named))


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
