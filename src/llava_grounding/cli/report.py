"""What the commands say to a person: text on stdout, notes on stderr, nothing that could steer the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from llava_grounding.cli.terminal import one_line, write

if TYPE_CHECKING:
    from llava_grounding.structures import GroundedAnswer


def say(text: str) -> None:
    """Print to stdout as it is, with a stand-in for what cannot be shown or encoded."""
    write(text, sys.stdout)


def note(text: str) -> None:
    """Print a line to stderr, if it can be printed there at all."""
    with suppress(OSError, ValueError):  # closed or full: nobody is left to tell
        write(f"{text}\n", sys.stderr)


def phrase_lines(answer: GroundedAnswer) -> Iterator[str]:
    """One line for each region, one for each phrase without; phrases are numbered as in the drawing.

    Regions of a phrase that the model doubts say so.
    """
    for number, phrase in enumerate(answer.phrases, start=1):
        words = one_line(phrase.text)
        if not phrase.regions:
            yield f"  {number:>2}  {words}: not found (best score {phrase.score:.2f})"
        for region in phrase.regions:
            x0, y0, x1, y1 = region.box_xyxy
            doubt = "  doubtful" if phrase.doubtful else ""
            yield f"  {number:>2}  {words}: box {x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f}  score {region.score:.2f}{doubt}"
