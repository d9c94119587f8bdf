"""`--model builtin`: phrases tied to instances by words alone, without a language model.

It leaves open what the words leave open, so it is precise and finds less than a model does. Reads no pixels.
"""

from __future__ import annotations

from collections import Counter

from llava_grounding.annotate.marked import Marked, MarkedPhrase
from llava_grounding.annotate.tasks import AnnotationTask
from llava_grounding.language.referents import Labelled, find_referents

NAME = "builtin"
VERSION = "2"
"""Changes when it may match otherwise."""


def match(task: AnnotationTask) -> Marked:
    """Which phrases of the task's texts name which of its instances."""
    things = [Labelled(one.name, one.instance.box_xyxy) for one in task.numbered]
    categories = {one.name: one.instance.category for one in reversed(task.numbered)}
    # Crowds, and labels that cannot be named for want of an id, are there all the same.
    named, known = Counter(thing.name for thing in things), Counter(one.category for one in task.record.instances)
    hidden = {name for name, category in categories.items() if known[category] != named[name]}
    complete = {name for name, category in categories.items() if category in task.record.exhaustive}

    def phrases(text: str) -> tuple[MarkedPhrase, ...]:
        found = find_referents(text, things, complete, hidden, task.record.image_size_wh) if things else []
        return tuple(
            MarkedPhrase(mention.span, tuple(task.numbered[row].number for row in rows))
            for mention, rows in found
            if rows
        )

    return Marked({label: phrases(text) for label, text in task.texts.items()})
