"""A sampled check by people: one HTML page with pictures, phrases and masks.

The page needs no network. Everything that comes from data is JSON in it, with `<` escaped, and becomes text nodes only;
a content security policy lets no script run but the page's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from llava_grounding.annotate.finished import FinishedLabels, FinishedRecord, FinishedText, iter_records
from llava_grounding.annotate.tasks import number_instances
from llava_grounding.annotate.verdicts import KIND, VERSION, id_text
from llava_grounding.annotate.write import RECORDS
from llava_grounding.data.plain_files import file_hash
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError
from llava_grounding.render.embedding import data_url, script_hash
from llava_grounding.render.outline import mask_to_path

_MAX_SIDE = 800  # pixels of a picture in the page


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
    about = {"version": VERSION, "kind": KIND, "records": file_hash(folder / RECORDS)}
    script, style = _resource("review.js"), _resource("review.css")
    data = json.dumps({"about": about, "items": items}, ensure_ascii=True).replace("<", "\\u003c")
    return Template(_resource("review.html")).substitute(
        script=script,
        script_hash=script_hash(script),
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
        "picture": _embedded(record),
        "size": list(size),
        "text": one.text.text,
        "span": _utf16_span(one.text.text, phrase["span"]),
        "others": [
            _utf16_span(one.text.text, other["span"]) for other in one.text.phrases if other["span"] != phrase["span"]
        ],
        "named": list(map(id_text, phrase["annotations"])),
        "things": list(_things(record)),
    }


def _things(record: Record) -> Iterator[dict[str, Any]]:
    for one in number_instances(record):  # what may be named
        thing, mask = one.instance, record.load_mask(one.index)
        path = mask_to_path(mask) if mask is not None else ""
        # `d="..." transform="..."`, both made of numbers and letters of paths.
        parts = dict(part.split('="') for part in path.rstrip('"').split('" ')) if path else {}
        yield {"id": id_text(thing.id), "name": thing.category, "box": list(thing.box_xyxy), **parts}


def _utf16_span(text: str, span: Sequence[int]) -> list[int]:
    """Where a span stands in the browser's strings."""
    return [len(text[:end].encode("utf-16-le", "surrogatepass")) // 2 for end in span]


def _embedded(record: Record) -> str:
    picture = Image.fromarray(record.load_image())
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    return data_url(picture, "jpeg", quality=85)
