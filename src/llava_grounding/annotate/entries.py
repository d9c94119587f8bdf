"""What a sample gives: its dialogue grounded, with a question that points, or with numbers for things drawn as marks.

From a task and the phrases marked in it to turns and entries. Writes no file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from llava_grounding.annotate.marked import Marked
from llava_grounding.annotate.tasks import AnnotationTask
from llava_grounding.data.readers.parts.texts import IMAGE_TOKEN
from llava_grounding.data.record import RecordedTurn
from llava_grounding.dialogues.templates import BRIEF_DESCRIPTIONS
from llava_grounding.markup import REGION, format_markup

MAX_MARKS = 20
"""Drawn into one picture: things that are named first, then others."""

CAPTION_QUESTIONS = (
    "What is going on around {}?",
    "Describe the scene that {} is part of.",
    "Tell me about {} and its surroundings.",
    "In what scene do we see {}?",
    "What does the picture around {} show?",
)
"""Asked where a caption has no question of its own; `{}` is the thing pointed at."""
MARK_QUESTIONS = (
    "Describe the image and give the number of each thing you name.",
    "What is in the image? Refer to things by their numbers.",
    "Say briefly what you see, with the numbers of what you mention.",
)
THE_OBJECT = "the object " + REGION


@dataclass(frozen=True)
class PointedPhrase:
    """A phrase of a question that became a visual prompt."""

    index: int
    span: tuple[int, int]


def grounded_turns(task: AnnotationTask, marked: Marked) -> tuple[RecordedTurn, ...]:
    """The dialogue with the phrases of its answers as markup; a caption answers a question of ours."""
    turns = []
    for number, turn in enumerate(task.sample.turns, start=1):
        phrases = marked.phrases.get(f"A{number}", ())
        question = turn.question
        if question is None:
            question = BRIEF_DESCRIPTIONS[task.seed % len(BRIEF_DESCRIPTIONS)]
        targets = tuple(tuple(task.numbered[k - 1].index for k in phrase.numbers) for phrase in phrases)
        answer = format_markup(turn.answer, [phrase.span for phrase in phrases])
        turns.append(RecordedTurn(question, answer, targets, (), bool(phrases)))
    return tuple(turns)


def referring_turns(
    task: AnnotationTask, marked: Marked
) -> tuple[tuple[RecordedTurn, ...], dict[str, PointedPhrase]] | None:
    """The dialogue with `the object <region>` for what its questions name, and what that is; None where it is nothing.

    Each question points at its first phrase that names one instance. A caption answers a question of ours about the
    first such phrase of its own.
    """
    turns, regions = [], {}
    for number, turn in enumerate(task.sample.turns, start=1):
        label = f"A{number}" if turn.question is None else f"Q{number}"
        phrase = next((one for one in marked.phrases.get(label, ()) if len(one.numbers) == 1), None)
        if phrase is None:
            if turn.question is not None:
                turns.append(RecordedTurn(turn.question, turn.answer))
            continue
        region = PointedPhrase(task.numbered[phrase.numbers[0] - 1].index, phrase.span)
        if turn.question is None:
            question = CAPTION_QUESTIONS[task.seed % len(CAPTION_QUESTIONS)].format(THE_OBJECT)
        else:
            start, end = phrase.span
            named = THE_OBJECT[0].upper() + THE_OBJECT[1:] if turn.question[start].isupper() else THE_OBJECT
            question = turn.question[:start] + named + turn.question[end:]
        turns.append(RecordedTurn(question, turn.answer, (), (region.index,)))
        regions[label] = region
    return (tuple(turns), regions) if regions else None


def marks_entry(task: AnnotationTask, marked: Marked) -> dict[str, Any]:
    """The dialogue for a picture with numbers drawn into it: what answers name is followed by its `<k>`."""
    named = dict.fromkeys(
        number
        for label, phrases in marked.phrases.items()
        if label.startswith("A")
        for phrase in phrases
        for number in phrase.numbers
    )
    others = [one.number for one in task.numbered if one.number not in named]
    shown = [*named, *others[: max(0, MAX_MARKS - len(named))]]
    random.Random(task.seed).shuffle(shown)
    mark_of = {number: mark for mark, number in enumerate(shown, start=1)}
    conversations = []
    for number, turn in enumerate(task.sample.turns, start=1):
        question = turn.question
        if question is None:
            question = MARK_QUESTIONS[task.seed % len(MARK_QUESTIONS)]
        answer, done = "", 0
        for phrase in marked.phrases.get(f"A{number}", ()):
            numbers = "".join(f" <{mark_of[one]}>" for one in phrase.numbers)
            answer += turn.answer[done : phrase.span[1]] + numbers
            done = phrase.span[1]
        head = f"{IMAGE_TOKEN}\n" if number == 1 else ""
        conversations += [
            {"from": "human", "value": head + question},
            {"from": "gpt", "value": answer + turn.answer[done:]},
        ]
    ids = [task.numbered[number - 1].instance.id for number in shown]
    record = task.record
    return {
        "id": task.sample.id,
        "image": record.image_name or record.id,
        "conversations": conversations,
        "marks": ids,
    }
