"""What the commands say to a person: text on stdout, notes on stderr, nothing that could steer the terminal."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from llava_grounding.structures import GroundedAnswer


def say(text: str) -> None:
    """Print to stdout as it is, with a stand-in for what cannot be shown or encoded."""
    _write(text, sys.stdout)


def note(text: str) -> None:
    """Print a line to stderr."""
    _write(f"{text}\n", sys.stderr)


def one_line(text: str) -> str:
    """A message as one line."""
    return " ".join(text.split())


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


def _write(text: str, stream: TextIO) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write("".join(map(_shown, text)).encode(encoding, "replace").decode(encoding))
    stream.flush()


def _shown(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp"):
        return character
    return " " if character.isspace() else "\ufffd"
