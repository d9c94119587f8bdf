"""Two scored runs of one set beside each other: paired differences, and which samples changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_grounding.benchmark.about import About, AboutSet
from llava_grounding.benchmark.report import markdown_text
from llava_grounding.benchmark.results import RESULTS_VERSION
from llava_grounding.benchmark.scored_runs import read_scored
from llava_grounding.benchmark.scores import Difference, SampleScore, compare
from llava_grounding.benchmark.tasks import find_task
from llava_grounding.errors import UsageError, shown


@dataclass(frozen=True)
class AboutPair:
    """What two scored runs have in common, and what their systems are called.

    Args:
        judges: what each run's judge says of itself.
        seed: of the bootstrap.
    """

    title: str
    task: str
    set: AboutSet
    judges: tuple[Mapping[str, Any], Mapping[str, Any]]
    first: str
    second: str
    seed: int


@dataclass(frozen=True)
class Comparison:
    """Two scored runs of the same set.

    Args:
        differences: one per number that both have.
        changed: samples whose quality differs, the largest change first: id, first, second.
        only_first, only_second: samples that only one has an answer to.
    """

    about: AboutPair
    differences: tuple[Difference, ...]
    changed: tuple[tuple[str, float, float], ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"results_version": RESULTS_VERSION, **asdict(self)}

    def to_markdown(self) -> str:
        """The comparison as Markdown, for people."""
        title, first, second = map(markdown_text, (self.about.title, self.about.first, self.about.second))
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
    one, other = read_scored(first), read_scored(second)
    _check_comparable(one.about, other.about, f"{first} and {second} cannot be compared")
    rows = {name for score in one.scores for name in score.rows}
    answered = [{score.id for score in run.scores if score.state not in ("missing", "failed")} for run in (one, other)]
    return Comparison(
        AboutPair(
            title=f"{one.about.title}: two systems",
            task=one.about.task,
            set=one.about.set,
            judges=(one.about.judge, other.about.judge),
            first=one.name,
            second=other.name,
            seed=seed,
        ),
        tuple(compare(one.scores, other.scores, find_task(one.about.task).statistics(rows), seed)),
        tuple(_changed(one.scores, other.scores)),
        tuple(sorted(answered[0] - answered[1])),
        tuple(sorted(answered[1] - answered[0])),
    )


def _check_comparable(one: About, other: About, refusal: str) -> None:
    for what, values in (
        ("task", [about.task for about in (one, other)]),
        ("rules", [about.rules_version for about in (one, other)]),
        ("set", [about.set.sha256 for about in (one, other)]),
        ("split", [about.set.split for about in (one, other)]),
    ):
        if values[0] != values[1]:
            raise UsageError(f"{refusal}: their {what} differs, {values[0]} and {values[1]}")
    judges = [one.judge, other.judge]
    # Recorded judgements are somebody's: whose they were is not in them.
    if judges[0] != judges[1] and not any(judge.get("judge") == "recorded" for judge in judges):
        raise UsageError(
            f"{refusal}: their judge differs, {shown(judges[0])} and {shown(judges[1])}; "
            "score one again with the judge of the other"
        )


def _changed(first: Sequence[SampleScore], second: Sequence[SampleScore]) -> list[tuple[str, float, float]]:
    """Samples whose quality differs, the largest change first."""
    theirs = {score.id: score.quality for score in second}
    changed = [
        (score.id, score.quality, quality)
        for score in first
        if score.quality is not None and (quality := theirs.get(score.id)) is not None and score.quality != quality
    ]
    return sorted(changed, key=lambda row: (-abs(row[2] - row[1]), row[0]))
