"""Questions with their answers before anything is pointed at, which every maker of questions writes alike.

A draft names things by their rows in `Facts`; `builder` makes prompts or numbers of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llava_grounding.data.sample import Targets
from llava_grounding.markup import format_markup, strip_markup

Phrase = tuple[str, tuple[int, ...]]
"""Words, and the rows that they mean."""


@dataclass(frozen=True)
class Draft:
    """One question with its answer.

    Args:
        question: plain text with one `<region>` for each of `regions`.
        answer: canonical markup when `grounded`, else plain text.
        targets: for the k-th `<seg>` the rows of what it means; None = no match is known.
        regions: the row each `<region>` points at.
        grounded, kind, in_loss: as of a `Turn`.
    """

    question: str
    answer: str
    targets: Targets = ()
    regions: tuple[int, ...] = ()
    grounded: bool = False
    kind: str = ""
    in_loss: bool = True

    def plain(self) -> Draft:
        """The draft with its answer as plain text."""
        return replace(self, answer=strip_markup(self.answer), targets=(), grounded=False)


def grounded_draft(
    kind: str, question: str, template: str, phrases: Sequence[Phrase] = (), regions: Sequence[int] = ()
) -> Draft:
    """A question whose answer is `template` with a phrase in place of each `{}`, and begins with a capital letter.

    An answer without phrases ("No, there is no dog.") is grounded too: otherwise asking for grounding tells the answer.
    """
    if not phrases:
        return Draft(question, template, (), tuple(regions), True, kind)
    text, *rest = template.split("{}")
    spans = []
    for (words, _), after in zip(phrases, rest, strict=True):
        words = words if text else words[0].upper() + words[1:]
        spans.append((len(text), len(text) + len(words)))
        text += words + after
    targets = tuple(rows for _, rows in phrases)
    return Draft(question, format_markup(text, spans), targets, tuple(regions), True, kind)
