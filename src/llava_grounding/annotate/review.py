"""A sampled check by people: one HTML page with pictures, phrases and masks, and the verdicts it gives back.

The page needs no network. Everything that comes from data is JSON in it, with `<` escaped, and becomes text nodes only;
a content security policy lets no script run but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from llava_grounding.annotate.finished import FinishedLabels, FinishedRecord, FinishedText, iter_records
from llava_grounding.annotate.label_index import file_hash
from llava_grounding.annotate.write import RECORDS
from llava_grounding.data.readers.reading import read_json
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError, shown
from llava_grounding.render.outline import mask_to_path

VERDICTS = ("accept", "reject", "fix")
VERSION = 1
_KIND = "llava-grounding review"
_MAX_SIDE = 800  # pixels of a picture in the page
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Sampled:
    """One phrase to look at: of a record, the text and the place of the phrase among that text's phrases."""

    record: FinishedRecord
    text: FinishedText
    index: int


def sample_phrases(folder: Path, count: int, seed: int = 0) -> list[Sampled]:
    """Phrases drawn evenly from all answers of a finished folder, in the order of the file; memory is that of `count`.

    Raises:
        DataError: if it is not finished.
    """
    chance, seen = random.Random(seed), 0
    kept: list[Sampled] = []
    for record in iter_records(folder):
        for text in record.answers:
            for index in range(len(text.phrases)):
                seen += 1
                place = len(kept) if len(kept) < count else chance.randrange(seen)
                if place < count:
                    kept[place : place + 1] = [Sampled(record, text, index)]
    return sorted(kept, key=lambda one: (one.record.number, one.text.label, one.index))


def review_page(folder: Path, sampled: Sequence[Sampled], labels: FinishedLabels) -> str:
    """The page for these phrases.

    Raises:
        DataError: if a picture cannot be read.
    """
    items = [_item(one, labels) for one in sampled]
    about = {"version": VERSION, "kind": _KIND, "records": file_hash(folder / RECORDS)}
    script, style = _resource("review.js"), _resource("review.css")
    data = json.dumps({"about": about, "items": items}, ensure_ascii=True).replace("<", "\\u003c")
    return Template(_resource("review.html")).substitute(
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        style=style,
        data=data,
        title=escape(f"Review of {len(items)} phrases"),
    )


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8").strip()


def _item(one: Sampled, labels: FinishedLabels) -> dict[str, Any]:
    record = labels.record(one.record.image_id)
    phrase = one.text.phrases[one.index]
    size = record.image_size_wh
    if size is None:
        raise DataError(f"the size of {record.id} is not known")
    return {
        "key": [one.record.position, one.text.label, list(phrase["span"])],
        "id": one.record.id,
        "image": one.record.image,
        "picture": _data_url(record),
        "size": list(size),
        "text": one.text.text,
        "span": _utf16_span(one.text.text, phrase["span"]),
        "named": list(phrase["annotations"]),
        "things": list(_things(record)),
    }


def _things(record: Record) -> Iterator[dict[str, Any]]:
    for index, thing in enumerate(record.instances):
        if thing.id is None:
            continue
        mask = record.load_mask(index)
        path = mask_to_path(mask) if mask is not None else ""
        # `d="..." transform="..."`, both made of numbers and letters of paths.
        parts = dict(part.split('="') for part in path.rstrip('"').split('" ')) if path else {}
        yield {"id": thing.id, "name": thing.category, "box": list(thing.box_xyxy), **parts}


def _utf16_span(text: str, span: Sequence[int]) -> list[int]:
    """Where a span stands in the browser's strings."""
    return [len(text[:end].encode("utf-16-le", "surrogatepass")) // 2 for end in span]


def _data_url(record: Record) -> str:
    picture = Image.fromarray(record.load_image())
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
        """For a person."""
        total = self.right + self.wrong
        if not total:
            yield "no phrase has a verdict"
            return
        low, high = self.interval
        share = f"precision {self.right / total:.3f} (95 % interval {low:.3f} to {high:.3f})"
        yield f"{share}: {self.right} of {total} right"
        if self.fixed:
            yield f"of the {self.wrong} others {self.fixed} were fixed"


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); (0, 1) of nothing."""
    if not total:
        return 0.0, 1.0
    share, z2 = right / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def read_verdicts(folder: Path, paths: Sequence[Path]) -> Precision:
    """Verdicts that pages have given, each phrase once: of several verdicts on one the last counts.

    Raises:
        DataError: if a file is none, or is about other records.
    """
    digest, verdicts = file_hash(folder / RECORDS), {}
    for path in paths:
        value = read_json(path)
        if not isinstance(value, Mapping) or value.get("kind") != _KIND or value.get("version") != VERSION:
            raise DataError(f"{path} must be verdicts of a review page of version {VERSION}, got {shown(value)}")
        if value.get("records") != digest:
            raise DataError(f"{path} is about other records than {folder / RECORDS}; review that folder again")
        rows = value.get("verdicts")
        for number, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
            if not isinstance(row, Mapping) or row.get("verdict") not in VERDICTS:
                raise DataError(f"{path}, verdict {number} must be one of {', '.join(VERDICTS)}, got {shown(row)}")
            verdicts[json.dumps(row.get("key"))] = str(row["verdict"])
    counts = Counter(verdicts.values())
    return Precision(counts["accept"], counts["reject"] + counts["fix"], counts["fix"])
