"""What a finished folder holds, in numbers and as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from llava_grounding.annotate.finished import iter_records
from llava_grounding.annotate.json_stream import iter_rows
from llava_grounding.annotate.write import INSTANCES
from llava_grounding.data.readers.parts.numbers import number_or_none

_SHOWN_CATEGORIES = 20
_LAST = 10  # bars of a histogram; what is more is in the last
_WIDTH, _BAR, _GAP, _LABEL = 640, 16, 4, 150


@dataclass
class Stats:
    """Counts over a finished folder.

    Args:
        phrases_per_answer, instances_per_phrase: how often each number occurs.
        words: of all answers together.
        named, there: instances by category that some answer names, and that are on the images.
    """

    records: int = 0
    answers: int = 0
    words: int = 0
    phrases_per_answer: Counter[int] = field(default_factory=Counter)
    instances_per_phrase: Counter[int] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        """The statistics in lines for a person."""
        phrases = self.instances_per_phrase.total()
        yield f"{self.records} records, {self.answers} answers, {phrases} phrases"
        if not phrases:
            return
        yield f"words per answer {self.words / self.answers:.1f}"
        yield f"phrases per answer {_mean(self.phrases_per_answer):.2f}: {_histogram(self.phrases_per_answer)}"
        yield f"instances per phrase {_mean(self.instances_per_phrase):.2f}: {_histogram(self.instances_per_phrase)}"
        named, there = self.named.total(), self.there.total()
        yield f"instances named {named} of {there} ({named / max(1, there):.1%})"
        for name, count in self.there.most_common(_SHOWN_CATEGORIES):
            yield f"  {name}: {self.named[name]} of {count} ({self.named[name] / count:.1%})"

    def to_svg(self) -> str:
        """Three plots, one below the other."""
        shares = {name: self.named[name] / count for name, count in self.there.most_common(_SHOWN_CATEGORIES)}
        plots = (
            ("phrases per answer", _capped(self.phrases_per_answer), ""),
            ("instances per phrase", _capped(self.instances_per_phrase), ""),
            ("share of instances named", shares, "%"),
        )
        parts, top = [], 10
        for title, bars, unit in plots:
            part, height = _plot(title, bars, unit, top)
            parts.append(part)
            top += height
        size = f'width="{_WIDTH}" height="{top}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
        return f'{head}<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'


def compute_stats(folder: Path) -> Stats:
    """Count a finished folder; an instance counts as named once, however many texts name it.

    Raises:
        DataError: if it is not finished.
    """
    stats, named = Stats(), set()
    for record in iter_records(folder):
        stats.records += 1
        for answer in record.answers:
            stats.answers += 1
            stats.words += len(answer.text.split())
            stats.phrases_per_answer[len(answer.phrases)] += 1
            for phrase in answer.phrases:
                stats.instances_per_phrase[len(phrase["annotations"])] += 1
                named.update(phrase["annotations"])
    names: dict[int | None, str] = {}
    for row in iter_rows(folder / INSTANCES, ("categories", "images", "annotations")):
        if row.key == "categories":
            names[number_or_none(row.value.get("id"))] = str(row.value.get("name"))
        elif row.key == "annotations" and isinstance(row.value, Mapping):
            name = names.get(number_or_none(row.value.get("category_id")), "?")
            stats.there[name] += 1
            stats.named[name] += number_or_none(row.value.get("id")) in named
    return stats


def _mean(counts: Counter[int]) -> float:
    return sum(value * times for value, times in counts.items()) / max(1, counts.total())


def _capped(counts: Counter[int]) -> dict[str, float]:
    capped: Counter[int] = Counter()
    for value, times in counts.items():
        capped[min(value, _LAST)] += times
    last = max(capped, default=0)
    return {f"{value}{'+' if value == _LAST else ''}": float(capped[value]) for value in range(last + 1)}


def _histogram(counts: Counter[int]) -> str:
    return ", ".join(f"{value} {times:.0f}" for value, times in _capped(counts).items() if times)


def _plot(title: str, bars: Mapping[str, float], unit: str, top: int) -> tuple[str, int]:
    """Bars with their names, and how high it all is."""
    parts = [f'<text x="10" y="{top + 14}" font-weight="bold">{escape(title)}</text>']
    most = max(bars.values(), default=1.0) or 1.0
    y = top + 24
    for name, value in bars.items():
        length = round((_WIDTH - _LABEL - 80) * value / most)
        said = f"{value:.0%}" if unit else f"{value:.0f}"
        parts.append(
            f'<text x="{_LABEL - 6}" y="{y + 12}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect x="{_LABEL}" y="{y}" width="{length}" height="{_BAR}" fill="#0072b2"/>'
            f'<text x="{_LABEL + length + 6}" y="{y + 12}">{said}</text>'
        )
        y += _BAR + _GAP
    return "".join(parts), y - top + 16


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
