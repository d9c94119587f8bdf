"""What reports are made of: one number with its interval, digests of a checkpoint, text that is no markup.

Knows nothing of how the numbers came about.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llava_grounding.benchmark.metrics import Interval
from llava_grounding.data.plain_files import file_hash, open_regular
from llava_grounding.errors import DataError
from llava_grounding.typed_values import as_type

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
    return hash_files(sorted(path for one in _SETTINGS for path in folder.glob(one)))


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over names and bytes of files in this order.

    Raises:
        DataError: if one cannot be read.
    """
    return hashlib.sha256("".join(f"{path.name}:{file_hash(path)}\n" for path in files).encode()).hexdigest()


@dataclass(frozen=True)
class Metric:
    """One number.

    Args:
        name: as printed; equal names of several systems are one row of the table.
        value: None where it is undefined, such as the precision of an answer without regions.
        count: over how many answers, phrases or instances it was taken.
        interval: 95 % bootstrap interval over images, where one was drawn.
        higher_is_better: direction.
        unit: empty for shares in [0, 1].
        key: in files, whatever is printed.
    """

    name: str
    value: float | None
    count: int
    interval: Interval | None = None
    higher_is_better: bool = True
    unit: str = ""
    key: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        text = f"{self.value:.3f}" if not self.unit else f"{self.value:.2f} {self.unit}"
        return text if self.interval is None else f"{text} [{self.interval.low:.3f}, {self.interval.high:.3f}]"


def metric_from(entry: object) -> Metric:
    """A metric from its plain data.

    Raises:
        DataError: if it is none.
    """
    typed = as_type(entry, Metric, "metric")
    if typed.problems:
        raise DataError(typed.problems[0])
    metric: Metric = typed.value
    return metric


def markdown_text(text: object) -> str:
    """Text of a file or a model for a line or cell of Markdown: no markup or HTML, nothing that steers a terminal."""
    words = " ".join(str(text).split())
    plain = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in words)
    return _MARKS.sub(r"\\\g<0>", plain.replace("&", "&amp;").replace("<", "&lt;"))
