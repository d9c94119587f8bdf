"""From what is known of an image to something to learn from: drafts pointed at things, or numbered, and put together.

    Facts --makers--> drafts --> turns --> Sample

Three sources make drafts: `photos`, any record (`turns`, which `build_sample` asks here), and the drawn world, which
lies above this room. The same generator state gives the same sample. Knows no file format, no tokenizer and no model
frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from llava_grounding.data.record import Record
from llava_grounding.data.sample import Sample, Turn, mirror_sample
from llava_grounding.dialogues.drafts import Draft
from llava_grounding.dialogues.facts import Facts
from llava_grounding.dialogues.prompts import EXACT_PROMPTS
from llava_grounding.dialogues.settings import DialogueSettings, PromptSettings
from llava_grounding.dialogues.turns import MAKERS, possible_kinds
from llava_grounding.errors import ConfigError
from llava_grounding.markup import REGION

# Words that are not true of the mirror image whatever is done with left and right: lettering, clocks and compasses, and
# "left" and "right" in other senses.
_ONE_WAY = re.compile(
    r"\b(letters?|lettering|words?|text|reads?|reading|says|saying|written|writing|spells?|numbers?|numerals?|digits?|"
    r"logos?|signs?|clock|clockwise|counterclockwise|counter-clockwise|jersey|plates?|east|west|eastern|western|"
    r"all right|right of way|right now|right away|right angles?|copyright|leftovers?|left (over|behind|open|alone|out)|"
    r"(is|are|was|were|be|been|has|have|had|having|just|who|that) left)\b|[\"“”]",
    re.IGNORECASE,
)


class DrawMarks(Protocol):
    """Draws numbers into an image."""

    def __call__(
        self, image: np.ndarray, masks: Sequence[np.ndarray | None], boxes: np.ndarray, numbers: Sequence[int]
    ) -> np.ndarray:
        """The image, (H, W, 3) uint8, with mark `numbers[k]` on thing k.

        Args:
            masks: (H, W) bool each; None where only the box is known.
            boxes: (n, 4) xyxy in pixels.
        """


def build_sample(
    record: Record, rng: np.random.Generator, settings: DialogueSettings | None = None, draw: DrawMarks | None = None
) -> Sample:
    """A record with a dialogue of the kinds that `settings` asks for.

    The turns are in the order in which they belong. There are none where the record has nothing for any kind;
    `possible_kinds` tells beforehand, but for records whose things cannot be pointed at or are all crowds.

    Args:
        draw: draws numbers, which `settings.marks` above 0 needs.

    Raises:
        DataError: if the picture cannot be read or does not fit its labels, or a text does not fit its targets.
        ConfigError: if marks are wanted and nothing draws them.
    """
    settings = settings or DialogueSettings()
    if settings.marks and draw is None:
        raise ConfigError("`marks` above 0 needs a function that draws them")
    facts = Facts.of_record(record)
    drafts = _drafts(record, facts, settings, rng)
    if marked := _marked_rows(drafts, facts, settings, rng):
        turns = _with_numbers(drafts, marked)
    else:
        turns = tuple(pointed(draft, facts, rng, settings.prompts) for draft in drafts)
    sample = sample_of(facts, turns, ordered=True)
    if rng.random() < settings.mirror and not record.marks and may_be_mirrored(turns):
        sample = mirror_sample(sample)
    if marked:
        assert draw is not None
        sample = replace(sample, image=_with_marks(sample, marked, draw))
    return sample


def pointed(draft: Draft, facts: Facts, rng: np.random.Generator, settings: PromptSettings = EXACT_PROMPTS) -> Turn:
    """The turn of a draft, with a prompt on each of the things it points at."""
    prompts = tuple(facts.point(row, rng, settings) for row in draft.regions)
    return Turn(draft.question, draft.answer, draft.targets, prompts, draft.grounded, draft.kind, draft.in_loss)


def sample_of(facts: Facts, turns: Sequence[Turn], ordered: bool = False) -> Sample:
    """What is known of an image with turns about it."""
    return Sample(
        id=facts.id,
        image=facts.image,
        instances=facts.instances,
        masks=facts.masks,
        turns=tuple(turns),
        exhaustive=facts.exhaustive,
        source=facts.source,
        ordered=ordered,
    )


def may_be_mirrored(turns: Sequence[Turn]) -> bool:
    """Whether exchanging the words left and right makes everything said true of the mirror image."""
    return not any(_ONE_WAY.search(text) for turn in turns for text in (turn.question, turn.answer))


def _drafts(record: Record, facts: Facts, settings: DialogueSettings, rng: np.random.Generator) -> list[Draft]:
    """Turns of `max_kinds` kinds, drawn by weight; a kind that turns out to have nothing makes room for the next.

    There are at most `max_turns`, but a recorded dialogue is never cut: its last turns are as good as its first.
    """
    kinds = possible_kinds(record, settings)
    if not kinds:
        return []
    weights = np.array([getattr(settings, kind) for kind in kinds])
    drafts: list[Draft] = []
    used = 0
    for number in rng.choice(len(kinds), size=len(kinds), replace=False, p=weights / weights.sum()):
        if used == settings.max_kinds or len(drafts) >= settings.max_turns:
            break
        kind = kinds[number]
        made = MAKERS[kind](facts, settings, rng)
        drafts += made if kind == "dialogues" else made[: settings.max_turns - len(drafts)]
        used += bool(made)
    return drafts


def _marked_rows(
    drafts: Sequence[Draft], facts: Facts, settings: DialogueSettings, rng: np.random.Generator
) -> tuple[int, ...]:
    """Rows in the order of their numbers; none where regions are pointed at by prompts."""
    needed = list(dict.fromkeys(row for draft in drafts for row in draft.regions))
    if not needed or rng.random() >= settings.marks:
        return ()
    others = [row for row in range(len(facts.instances)) if row not in needed and facts.can_point(row)]
    room = max(settings.max_marks - len(needed), 0)
    rows = needed + [others[index] for index in rng.permutation(len(others))[:room]]
    return tuple(rows[index] for index in rng.permutation(len(rows)))


def _with_numbers(drafts: Sequence[Draft], marked: Sequence[int]) -> tuple[Turn, ...]:
    """Questions that say `<3>` where others point."""
    turns = []
    for draft in drafts:
        first, *rest = draft.question.split(REGION)
        pairs = zip(draft.regions, rest, strict=True)
        question = first + "".join(f"<{marked.index(row) + 1}>{text}" for row, text in pairs)
        turns.append(Turn(question, draft.answer, draft.targets, (), draft.grounded, draft.kind, draft.in_loss))
    return tuple(turns)


def _with_marks(sample: Sample, marked: Sequence[int], draw: DrawMarks) -> np.ndarray:
    """The sample's image with numbers from 1 on."""
    masks = [sample.masks[row] if sample.instances[row].has_mask else None for row in marked]
    boxes = np.stack([sample.instances[row].box_xyxy for row in marked])
    return draw(sample.image, masks, boxes, range(1, len(marked) + 1))
