"""Two scored runs of one set beside each other: paired differences, and which samples changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_grounding.benchmark.report import markdown_text
from llava_grounding.benchmark.results import RESULTS_VERSION
from llava_grounding.benchmark.scored_runs import read_scored, system_name
from llava_grounding.benchmark.scores import Difference, compare
from llava_grounding.benchmark.tasks import find_task
from llava_grounding.errors import UsageError, shown


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
            "first": system_name(about, first),
            "second": system_name(other, second),
            "seed": seed,
        },
        tuple(compare(mine, theirs, task.statistics(rows), seed)),
        tuple((key, float(a or 0.0), float(b or 0.0)) for key, a, b in changed),
        tuple(sorted(answered[0] - answered[1])),
        tuple(sorted(answered[1] - answered[0])),
    )
