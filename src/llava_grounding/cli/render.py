"""`llava-grounding render ANSWER.json IMAGE OUT`: an answer that was written as JSON, drawn again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import ImageArgument
from llava_grounding.errors import DataError, UsageError

if TYPE_CHECKING:
    from llava_grounding.structures import GroundedAnswer

_ENDINGS = (".png", ".html")


def render(
    answer: Annotated[
        str, typer.Argument(metavar="ANSWER.json", help="What chat or ground wrote; - reads it from stdin.")
    ],
    image: ImageArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.(png|html)", help="The drawing or the page to write.")],
) -> None:
    """Draw an answer into its picture, or make a page of it."""
    from llava_grounding.processing.image_io import load_image
    from llava_grounding.render import answer_to_html, draw_answer

    if out.suffix.lower() not in _ENDINGS:
        raise UsageError(f"the output must end in .png or .html, got `{out.name}`")
    if not out.parent.is_dir():
        raise UsageError(f"the folder `{out.parent}` does not exist; make it first")
    if out.is_dir():
        raise UsageError(f"the output `{out}` is a folder; expected a file")
    value = read_answer(answer)
    picture = load_image(image)
    if out.suffix.lower() == ".png":
        content = common.png_bytes(draw_answer(picture, value))
    else:
        content = answer_to_html(picture, value).encode()
    common.write_files(out.parent, {out.name: content})


def read_answer(source: str) -> GroundedAnswer:
    """An answer from a JSON file, or from stdin for "-".

    Raises:
        UsageError: if there is no such file.
        DataError: if it does not hold an answer.
    """
    from llava_grounding.structures import GroundedAnswer

    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the answer `{source}` cannot be read: {reason}") from error
    try:
        return GroundedAnswer.from_dict(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise DataError(f"`{source}` does not hold JSON: {error}") from error
    except DataError as error:
        raise DataError(f"`{source}` does not hold an answer: {error}") from error
