"""Results of a benchmark as frozen values: metrics with intervals and counts, as JSON, Markdown and a terminal table.

Knows nothing of how the numbers came about.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_grounding.benchmark.calibration import Calibration
from llava_grounding.benchmark.metrics import Interval
from llava_grounding.data.plain_files import file_hash, open_regular
from llava_grounding.errors import DataError, shown

if TYPE_CHECKING:
    from rich.table import Table

_WIDE = 120  # columns of a terminal that intervals fit into
REPORT_VERSION = 1
_BLOCK = 2**20
_SETTINGS = ("*config.json", "tokenizer*.json", "*.jinja", "*.model")
"""Files of a checkpoint besides its weights."""
_MARKS = re.compile(r"[|\[\]`*\\]")


def hash_weights(folder: Path) -> str:
    """SHA-256 over names and bytes of a checkpoint's weight files; empty when it has none.

    Raises:
        DataError: if one cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        try:
            with open_regular(file) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    return digest.hexdigest() if files else ""


def hash_settings(folder: Path) -> str:
    """SHA-256 over names and bytes of what else decides a checkpoint's answers, as thresholds and words do.

    Raises:
        DataError: if a file cannot be read.
    """
    files = sorted(path for one in _SETTINGS for path in folder.glob(one))
    return hashlib.sha256("".join(f"{path.name}:{file_hash(path)}\n" for path in files).encode()).hexdigest()


@dataclass(frozen=True)
class Metric:
    """One number.

    Args:
        name: as printed; equal names are one row of the table.
        value: None where it is undefined, such as the precision of an answer without regions.
        count: over how many answers, phrases or instances it was taken.
        interval: 95 % bootstrap interval over images, where one was drawn.
        higher_is_better: direction.
        unit: empty for shares in [0, 1].
    """

    name: str
    value: float | None
    count: int
    interval: Interval | None = None
    higher_is_better: bool = True
    unit: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        text = f"{self.value:.3f}" if not self.unit else f"{self.value:.2f} {self.unit}"
        return text if self.interval is None else f"{text} [{self.interval.low:.3f}, {self.interval.high:.3f}]"


@dataclass(frozen=True)
class SystemResult:
    """What one system scored.

    Args:
        system: its name.
        asked, answered, unparsable: questions put, answers that came, answers no metric could read.
        metrics: in the order of printing.
        calibration: of the scores of a description's regions; None where there are none.
    """

    system: str
    asked: int
    answered: int
    unparsable: int
    metrics: tuple[Metric, ...]
    calibration: Calibration | None = None

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)


@dataclass(frozen=True)
class Report:
    """One run of one task, with what is needed to repeat it.

    Args:
        task: name of the task.
        data: what was asked about.
        num_images: how many images.
        seed: of data and bootstrap.
        model, model_hash: name, and digest of the weights where known.
        version: of this package.
        results: the model first, then the baselines.
        notes: what a reader must know to read the numbers.
    """

    task: str
    data: str
    num_images: int
    seed: int
    model: str
    model_hash: str
    version: str
    results: tuple[SystemResult, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"report_version": REPORT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report written by `to_dict`."""
        if data.get("report_version") != REPORT_VERSION:
            raise DataError(f"report_version must be {REPORT_VERSION}, got {shown(data.get('report_version'))}")
        try:
            results = tuple(map(_system_from, data["results"]))
            rest = {key: value for key, value in data.items() if key not in ("report_version", "results", "notes")}
            return cls(**rest, results=results, notes=tuple(data["notes"]))
        except (KeyError, TypeError) as error:
            raise DataError(f"not a report: {error}") from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """A table with one row per metric and one column per system, under a line that says what was measured."""
        header = ["metric", *(markdown_text(result.system) for result in self.results), "n"]
        lines = [f"**{markdown_text(self.title)}**", "", _markdown_row(header), _markdown_row(["---"] * len(header))]
        lines += [_markdown_row(row) for row in self.rows()]
        lines += ["", *(f"- {markdown_text(note)}" for note in self.notes)] if self.notes else []
        measured = self.results[0].calibration if self.results else None
        if measured is not None:
            lines += ["", f"Scores of {measured.regions} regions of descriptions:", "", *measured.to_markdown()[:-1]]
        return "\n".join(lines) + "\n"

    def to_table(self, columns: int = 200) -> Table:
        """The same for a terminal; brackets in names are no markup.

        Args:
            columns: of the terminal; a narrow one gets no intervals.
        """
        from rich.table import Table
        from rich.text import Text

        notes = Text("\n".join(self.notes), style="table.caption") if self.notes else None
        table = Table(title=Text(self.title, style="table.title"), caption=notes)
        for position, name in enumerate(["metric", *(result.system for result in self.results), "n"]):
            table.add_column(Text(name), justify="left" if position == 0 else "right")
        for row in self.rows():
            cells = row if columns >= _WIDE else [cell.partition(" [")[0] for cell in row]
            table.add_row(*map(Text, cells))
        return table

    @property
    def title(self) -> str:
        digest = f" {self.model_hash[:12]}" if self.model_hash else ""
        return (
            f"{self.task}: {self.num_images} images of {self.data}, seed {self.seed}, "
            f"model {self.model}{digest}, llava-grounding {self.version}"
        )

    def rows(self) -> list[list[str]]:
        """Cells of the table: name with direction, one value per system, and the first system's count."""
        names = dict.fromkeys(metric.name for result in self.results for metric in result.metrics)
        rows = []
        for name in names:
            found = [next((m for m in result.metrics if m.name == name), None) for result in self.results]
            first = next(metric for metric in found if metric is not None)
            arrow = "↑" if first.higher_is_better else "↓"
            cells = ["" if metric is None else str(metric) for metric in found]
            rows.append([f"{name} {arrow}", *cells, str(first.count)])
        for label in ("asked", "answered", "unparsable"):
            rows.append([label, *(str(getattr(result, label)) for result in self.results), ""])
        return rows


def _system_from(entry: Mapping[str, Any]) -> SystemResult:
    metrics = tuple(map(metric_from, entry["metrics"]))
    measured = entry.get("calibration")
    calibration = None if measured is None else Calibration.from_dict(measured)
    return SystemResult(**{**entry, "metrics": metrics, "calibration": calibration})


def metric_from(entry: Mapping[str, Any]) -> Metric:
    """A metric from its plain data."""
    interval = entry.get("interval")
    return Metric(**{**entry, "interval": Interval(**interval) if interval else None})


def markdown_text(text: object) -> str:
    """Text of a file or a model for a line or cell of Markdown: no markup or HTML, nothing that steers a terminal."""
    words = " ".join(str(text).split())
    plain = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in words)
    return _MARKS.sub(r"\\\g<0>", plain.replace("&", "&amp;").replace("<", "&lt;"))


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
