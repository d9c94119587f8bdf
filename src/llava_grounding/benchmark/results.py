"""What is shown of scores: counts, numbers with intervals, calibration, cases, the paper's numbers beside them.

One `Results` is made from scores alone, of one system or several, and written as JSON, Markdown, a table for terminals
and a page of HTML; nothing in it depends on when, where or in how many pieces a run was done. Knows no model
and no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from llava_grounding.benchmark.about import About
from llava_grounding.benchmark.calibration import Calibration, calibration
from llava_grounding.benchmark.files import as_json
from llava_grounding.benchmark.predictions import PROBLEMS
from llava_grounding.benchmark.published import Published
from llava_grounding.benchmark.report import Metric, markdown_text
from llava_grounding.benchmark.scores import SampleScore, metrics_of, state_counts
from llava_grounding.benchmark.tasks import Task

if TYPE_CHECKING:
    from rich.table import Table

RESULTS_VERSION = 2
_MOST_CASES = 8
_WIDE = 120  # columns of a terminal that intervals of several systems fit into


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
            if name in (metric.key, metric.name):
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
        about: how the scores came about; system and judge are the first's.
        results: one per system; what is not in a table is shown of the first.
        problems: lines of predictions that could not be used, by key of `PROBLEMS`.
        published: the paper's rows.
        named_problems: the first of them, with their line.
        seed: of the bootstrap.
    """

    about: About
    results: tuple[SystemResult, ...]
    problems: Mapping[str, int] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    named_problems: tuple[str, ...] = ()
    seed: int = 0

    def __getitem__(self, name: str) -> Metric:
        return self.results[0][name]

    @property
    def calibration(self) -> Calibration:
        """Calibration of the first system."""
        return self.results[0].calibration or calibration(())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what each system scored is under `results`."""
        about, system = self.about, self.about.system
        return {
            "report_version": RESULTS_VERSION,
            **about.to_dict(),
            "seed": self.seed,
            "data": about.set.name,
            "num_images": self.results[0].counts["images"],
            "model": system.get("model") or system.get("name"),
            "model_hash": system.get("model_hash", ""),
            "version": about.versions.get("llava-grounding", ""),
            "problems": dict(self.problems),
            "named_problems": list(self.named_problems),
            "published": [{**asdict(one), "values": dict(one.values)} for one in self.published],
            "results": [one.to_dict() for one in self.results],
        }

    def to_json(self) -> str:
        return as_json(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        """The report as Markdown, for people; cases are only named."""
        about, first = self.about, self.results[0]
        of_first = f" of {markdown_text(first.system)}" if len(self.results) > 1 else ""
        lines = [f"# {markdown_text(about.title)}", ""]
        lines += [*(f"- {key}: {markdown_text(value)}" for key, value in self.facts()), ""]
        if self.problems:
            lines += ["| lines that could not be used | |", "|---|---|"]
            lines += [f"| {markdown_text(why)} | {value} |" for why, value in self.problem_rows()]
            lines += ["", *(f"- {markdown_text(one)}" for one in self.named_problems), ""]
        head = self.head()
        lines += [_markdown_row(map(markdown_text, head)), _markdown_row(["---"] * len(head))]
        lines += [_markdown_row((markdown_text(name), *numbers)) for name, *numbers in self.rows()]
        lines += ["", about.rules, ""]
        if self.calibration.regions:
            lines += [f"## Calibration{of_first} ({self.calibration.regions} regions with a score)", ""]
            lines += self.calibration.to_markdown()
        if self.published:
            lines += ["## The paper's numbers, in percent", "", "| table | system | |", "|---|---|---|"]
            lines += [f"| {one.table} | {one.system} | {_values(one)} |" for one in self.published] + [""]
        for title, cases in (("Worst", first.worst), ("Best", first.best)):
            if cases:
                lines += [f"## {title} cases{of_first}", "", "| sample | quality |", "|---|---|"]
                lines += [f"| {markdown_text(one.id)} | {one.quality:.3f} |" for one in cases] + [""]
        return "\n".join(lines)

    def to_table(self, columns: int = 200) -> Table:
        """The table for a terminal; brackets in names are no markup.

        Args:
            columns: of the terminal; a narrow one gets no intervals where there are several systems.
        """
        from rich.table import Table
        from rich.text import Text

        notes = "\n".join((self.about.rules, *self.about.notes))
        table = Table(title=Text(self.about.title, style="table.title"), caption=Text(notes, style="table.caption"))
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
                found.append([name.replace("_", " "), *(str(one.get(name, 0)) for one in counts), ""])
        return found

    def problem_rows(self) -> list[tuple[str, int]]:
        """Why lines could not be used, in words, and how many."""
        return [(PROBLEMS.get(key, key), count) for key, count in self.problems.items()]

    def facts(self) -> list[tuple[str, str]]:
        """What a reader must know to repeat it, in words."""
        about = self.about
        source = ", ".join(f"{key} {value}" for key, value in about.system.items() if value not in ("", None))
        split = about.set.split or "not named"
        facts = [
            ("task", f"{about.task}, rules version {about.rules_version}"),
            ("set", f"{about.set.name}, {about.set.count} samples, split {split}, SHA-256 {about.set.sha256}"),
            ("system", source),
            ("judge", ", ".join(f"{key} {value}" for key, value in about.judge.items() if key != "parameters")),
            ("versions", ", ".join(f"{key} {value}" for key, value in about.versions.items())),
            ("seed", str(self.seed)),
        ]
        return facts + [("note", note) for note in about.notes]


def system_result(
    name: str,
    task: Task,
    scores: Sequence[SampleScore],
    seed: int,
    extra_metrics: Sequence[Metric],
    more_counts: Mapping[str, int],
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
