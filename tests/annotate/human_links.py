"""Holds what `--model builtin` ties against the links that people made in Flickr30K Entities, and tells it as JSON.

    python tests/annotate/human_links.py FOLDER [SPLIT]

The release names no categories, and names are what `builtin` matches by. So each box is named by what the other
captions of its picture call it, most of them winning; what only one caption speaks of has no name, and cannot be found.
Pictures are not read.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from llava_grounding.annotate import matcher
from llava_grounding.annotate.samples import TextSample, TextTurn
from llava_grounding.annotate.tasks import make_task
from llava_grounding.data.readers.flickr30k import Flickr30kEntities
from llava_grounding.data.record import Record
from llava_grounding.language.nouns import lexicon
from llava_grounding.markup import Span, parse_strict

Links = Mapping[Span, frozenset[int]]
"""Of the phrases of a caption: the boxes, by their places in the record."""


def measure(records: Iterable[Record]) -> dict[str, Any]:
    """Links found, right and there to be found, over all captions."""
    counts: Counter[str] = Counter()
    for record in records:
        captions = [_links(one.text, one.targets) for one in record.grounded_captions]
        counts["images"] += 1
        for number, (text, links) in enumerate(captions):
            others = [one for place, one in enumerate(captions) if place != number]
            _count(text, links, _named(record, others), counts)
    right = counts["right"]
    return {
        **counts,
        "precision": round(right / max(1, counts["found"]), 3),
        "recall_of_named": round(right / max(1, counts["links_named"]), 3),
        "recall_of_all": round(right / max(1, counts["links"]), 3),
    }


def _links(markup: str, targets: Iterable[tuple[int, ...] | None]) -> tuple[str, Links]:
    parsed = parse_strict(markup)
    pairs = zip(parsed.phrases, targets, strict=True)
    return parsed.text, {phrase.span: frozenset(boxes) for phrase, boxes in pairs if boxes}


def _named(record: Record, captions: Iterable[tuple[str, Links]]) -> Record:
    """The record with boxes named by these captions; each word counts the more, the fewer boxes it is of."""
    votes: dict[int, Counter[str]] = {}
    for text, links in captions:
        for span, boxes in links.items():
            for box in boxes:
                votes.setdefault(box, Counter())[_name(text[slice(*span)])] += 1 / len(boxes)  # type: ignore[assignment]
    names = {box: max(found, key=lambda name: (found[name], name)) for box, found in votes.items()}
    things = (replace(thing, category=names.get(place, ""), id=place) for place, thing in enumerate(record.instances))
    return replace(record, instances=tuple(things))


def _name(phrase: str) -> str:
    """A category that the phrase may name, or its last word."""
    return next(iter(lexicon(()).categories_of(phrase)), phrase.split()[-1].lower())


def _count(text: str, links: Links, record: Record, counts: Counter[str]) -> None:
    task = make_task(TextSample(1, record.id, record.id, (TextTurn(None, text),)), record)
    counts["captions"] += 1
    counts["links"] += len(links)
    counts["links_named"] += sum(all(record.instances[box].category for box in boxes) for boxes in links.values())
    for phrase in matcher.match(task).phrases["A1"]:
        boxes = frozenset(task.numbered[number - 1].index for number in phrase.numbers)
        linked = [there for span, there in links.items() if span[0] < phrase.span[1] and phrase.span[0] < span[1]]
        counts["found"] += 1
        if boxes in linked:
            counts["right"] += 1
        elif any(boxes & there for there in linked):
            counts["some_boxes_right"] += 1
        else:
            counts["other_boxes" if linked else "linked_by_nobody"] += 1


def main() -> None:
    folder, split = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    data = Flickr30kEntities.from_files(folder, images=folder, split=split)
    print(json.dumps(measure(data[place] for place in range(len(data)))))


if __name__ == "__main__":
    main()
