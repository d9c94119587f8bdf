"""A record of data as a drawing: its labels with names, boxes and masks, and its texts as lines."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from llava_grounding.markup import strip_markup
from llava_grounding.render import draw_answer

if TYPE_CHECKING:
    from PIL import Image

    from llava_grounding.data.record import Record

_MOST_LABELS = 60
_MOST_LINES = 12
_WIDEST = 300  # characters of a line


def draw_record(record: Record) -> tuple[Image.Image, list[str]]:
    """The picture with what is labelled in it, and what is said of it.

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
    return draw_answer(Image.fromarray(opened.image), answer), list(islice(_lines(record), _MOST_LINES))


def _lines(record: Record) -> list[str]:
    lines = [f"caption: {caption}" for caption in record.captions]
    lines += [f"caption: {strip_markup(one.text)}" for one in record.grounded_captions if one.text not in lines]
    for one in record.expressions:
        meant = ", ".join(record.instances[target].category or f"label {target + 1}" for target in one.targets)
        lines.append(f"{meant}: {one.text}")
    for dialogue in record.dialogues:
        for turn in dialogue:
            lines += [f"question: {turn.question}", f"answer: {strip_markup(turn.answer)}"]
    return [" ".join(line.split())[:_WIDEST] for line in lines]
