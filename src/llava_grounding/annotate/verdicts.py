"""What people said of sampled phrases on a review page: accept, reject, or fix with the right things or words.

Knows no pages and no labels; see `review` and `correct`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_grounding.annotate.marked import Span
from llava_grounding.annotate.write import RECORDS
from llava_grounding.data.plain_files import file_hash
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.errors import DataError, shown
from llava_grounding.typed_values import is_whole

VERDICTS = ("accept", "reject", "fix")
VERSION = 2
_VERSION_WITH_PLAIN_IDS = 1
KIND = "llava-grounding review"
_Z = 1.959964  # of a 95 % interval
PhraseKey = tuple[int, str, Span]
"""Which phrase: position of its sample, label of its text, its span."""


@dataclass(frozen=True)
class Verdict:
    """What was said of one phrase.

    Args:
        place: file and number of the verdict, for messages.
        verdict: one of `VERDICTS`.
        annotations: of a fix, ids of what the phrase names; None if that was right.
        span: of a fix, where the phrase stands; None if that was right.
    """

    place: str
    verdict: str
    annotations: tuple[int | str, ...] | None = None
    span: Span | None = None


@dataclass(frozen=True)
class Precision:
    """What people found.

    Args:
        right, wrong: phrases; one that was fixed was wrong.
        fixed: of the wrong ones.
    """

    right: int
    wrong: int
    fixed: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the precision."""
        return wilson_interval(self.right, self.right + self.wrong)

    def lines(self) -> Iterator[str]:
        """The verdicts in lines for a person."""
        total = self.right + self.wrong
        if not total:
            yield "no phrase has a verdict"
            return
        low, high = self.interval
        share = f"precision {self.right / total:.3f} (95 % interval {low:.3f} to {high:.3f})"
        yield f"{share}: {self.right} of {total} right"
        if self.fixed:
            yield f"of the {self.wrong} others {self.fixed} were fixed"


def id_text(identifier: int | str | None) -> str:
    """An annotation id as a page and its verdicts have it: as text, since a browser's numbers keep 53 bits."""
    return json.dumps(identifier)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); (0, 1) of nothing."""
    if not total:
        return 0.0, 1.0
    share, z2 = right / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def precision_of(verdicts: Mapping[PhraseKey, Verdict]) -> Precision:
    """How many phrases were right."""
    counts = Counter(one.verdict for one in verdicts.values())
    return Precision(counts["accept"], counts["reject"] + counts["fix"], counts["fix"])


def read_verdicts(folder: Path, paths: Sequence[Path]) -> dict[PhraseKey, Verdict]:
    """Verdicts that pages have given, each phrase once: of several verdicts on one the last counts.

    Raises:
        DataError: if a file is none, or is about other records.
    """
    digest, verdicts = file_hash(folder / RECORDS), {}
    for path in paths:
        value = read_json(path)
        version = value.get("version") if isinstance(value, Mapping) and value.get("kind") == KIND else None
        if version not in (VERSION, _VERSION_WITH_PLAIN_IDS):
            raise DataError(f"{path} must be verdicts of a review page of version {VERSION}, got {shown(value)}")
        if value.get("records") != digest:
            raise DataError(f"{path} is about other records than {folder / RECORDS}; review that folder again")
        rows = value.get("verdicts")
        for number, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
            place = f"{path}, verdict {number}"
            if not isinstance(row, Mapping) or row.get("verdict") not in VERDICTS:
                raise DataError(f"{place} must be one of {', '.join(VERDICTS)}, got {shown(row)}")
            verdicts[_key(row.get("key"), place)] = _verdict(row, place, version == VERSION)
    return verdicts


def _key(value: Any, place: str) -> PhraseKey:
    if isinstance(value, list) and len(value) == 3 and is_whole(value[0]) and isinstance(value[1], str):
        return value[0], value[1], _span(value[2], place)
    raise DataError(f"{place} must have a key of position, label and span, got {shown(value)}")


def _span(value: Any, place: str) -> Span:
    if isinstance(value, list) and len(value) == 2 and all(map(is_whole, value)):
        return value[0], value[1]
    raise DataError(f"{place} must have a span of two numbers, got {shown(value)}")


def _verdict(row: Mapping[str, Any], place: str, ids_are_texts: bool) -> Verdict:
    if row["verdict"] != "fix":
        return Verdict(place, row["verdict"])
    ids, span = row.get("annotations"), row.get("span")
    if ids is not None:
        found = [_id_of(one) if ids_are_texts else one for one in ids] if isinstance(ids, list) else []
        if not found or not all(is_whole(one) or isinstance(one, str) for one in found):
            raise DataError(f"{place} must have a list of annotation ids, at least one, got {shown(ids)}")
        ids = tuple(dict.fromkeys(found))
    return Verdict(place, "fix", ids, None if span is None else _span(span, place))


def _id_of(text: Any) -> Any:
    """What `id_text` was given; None if it was nothing."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
