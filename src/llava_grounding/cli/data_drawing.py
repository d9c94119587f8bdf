"""A record of data as a drawing: its labels with names, boxes and masks, and its texts as lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from llava_grounding.dialogues.builder import build_sample
from llava_grounding.markup import REGION, strip_markup
from llava_grounding.render import draw_answer

if TYPE_CHECKING:
    from PIL import Image

    from llava_grounding.data.record import Record
    from llava_grounding.data.sample import Sample, Turn
    from llava_grounding.dialogues.settings import DialogueSettings

_MOST_LABELS = 60
_MOST_LINES = 12
_WIDEST = 300  # characters of a line


def draw_record(record: Record, dialogue: DialogueSettings, seed: int) -> tuple[Image.Image, list[str]]:
    """The picture with what is labelled in it, and what is said of it.

    Where no dialogue is recorded, one is made as training makes them.

    Args:
        dialogue: what dialogues are made of.
        seed: the same gives the same dialogue.

    Raises:
        DataError: if the picture cannot be read, or does not fit its labels.
    """
    from PIL import Image

    from llava_grounding.data.record import open_record
    from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region

    opened = open_record(record)
    text, phrases = "", []
    kept = list(opened.rows.items())
    for number, (index, row) in enumerate(kept[:_MOST_LABELS]):
        said = next((one.text for one in record.expressions if one.targets == (index,)), "")
        name = " ".join((record.instances[index].category or said or "something").split())[:80]
        text += ", " if text else ""
        mask = opened.masks[row] if opened.instances[row].has_mask else None
        region = Region(opened.instances[row].box_xyxy, 1.0, mask)
        phrases.append(GroundedPhrase(number, name, (len(text), len(text) + len(name)), (region,), 1.0))
        text += name
    if len(kept) > _MOST_LABELS:
        text += f", and {len(kept) - _MOST_LABELS} more"
    size_wh = opened.image.shape[1], opened.image.shape[0]
    text = text or "no labels"
    answer = GroundedAnswer(text, tuple(phrases), size_wh, text, "labels", 0, 0)
    return draw_answer(Image.fromarray(opened.image), answer), [
        *islice(_lines(record), _MOST_LINES),
        *islice(_made(record, dialogue, seed), _MOST_LINES + 1),
    ]


def _lines(record: Record) -> list[str]:
    lines = [f"caption: {caption}" for caption in record.captions]
    lines += [f"caption: {strip_markup(one.text)}" for one in record.grounded_captions if one.text not in lines]
    for one in record.expressions:
        meant = ", ".join(record.instances[target].category or f"label {target + 1}" for target in one.targets)
        lines.append(f"{meant}: {one.text}")
    for dialogue in record.dialogues:
        for turn in dialogue:
            lines += [f"question: {turn.question}", f"answer: {strip_markup(turn.answer)}"]
    return [_short(line) for line in lines]


def _made(record: Record, dialogue: DialogueSettings, seed: int) -> Iterator[str]:
    """One of the dialogues that training makes of a record that has none."""
    if record.dialogues:
        return
    sample = build_sample(record, np.random.default_rng(seed), replace(dialogue, marks=0.0, mirror=0.0))
    yield "one of the dialogues that training makes:" if sample.turns else "training makes no dialogue of it"
    for turn in sample.turns:
        yield _short(f"  question: {_question(turn, sample)}")
        yield _short(f"  answer: {strip_markup(turn.answer)}")


def _question(turn: Turn, sample: Sample) -> str:
    """What is asked, with where each `<region>` is pointed at."""
    first, *rest = turn.question.split(REGION)
    said = first
    for prompt, text in zip(turn.prompts, rest, strict=True):
        x0, y0, x1, y1 = prompt.bounds(sample.image_size_wh)
        said += f"<{prompt.kind} around {(x0 + x1) / 2:.0f},{(y0 + y1) / 2:.0f}>{text}"
    return said


def _short(line: str) -> str:
    indent = "  " if line.startswith("  ") else ""
    return indent + " ".join(line.split())[:_WIDEST]
