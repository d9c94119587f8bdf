"""`llava-grounding render ANSWER.json IMAGE OUT`: an answer that was written as JSON, drawn again."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import ImageArgument, MegapixelsOption
from llava_grounding.cli.outputs import given_path, refuse_overwriting, write_files
from llava_grounding.cli.terminal import has_stdin
from llava_grounding.errors import DataError, UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.image_files import ImageLimits
    from llava_grounding.structures import GroundedAnswer

_PATH = 300  # characters a message shows of a path
_ENDINGS = (".png", ".html")
_MAX_BYTES = 100_000_000


def render(
    answer: Annotated[
        str, typer.Argument(metavar="ANSWER.json", help="JSON answer that chat or ground wrote; - reads stdin.")
    ],
    image: ImageArgument,
    out: Annotated[
        Path, typer.Argument(metavar="OUT.(png|html)", parser=given_path, help="The drawing or the page to write.")
    ],
    max_megapixels: MegapixelsOption = None,
) -> None:
    """Draw an answer into its picture, or make a page of it."""
    from llava_grounding.image_files import load_image
    from llava_grounding.render import answer_to_html, draw_answer

    if out.suffix.lower() not in _ENDINGS:
        raise UsageError(f"the output must end in .png or .html, got {quoted(out.name)}")
    if not out.parent.is_dir():
        raise UsageError(f"the folder {quoted(str(out.parent), _PATH)} does not exist; make it first")
    if out.is_dir():
        raise UsageError(f"the output {quoted(str(out), _PATH)} is a folder; expected a file")
    refuse_overwriting([("answer", answer), ("image", image)], [out])
    limits = common.image_limits(max_megapixels)
    value = read_answer(answer, limits)
    picture = load_image(image, limits)
    if out.suffix.lower() == ".png":
        content = common.png_bytes(draw_answer(picture, value))
    else:
        content = answer_to_html(picture, value).encode()
    write_files(out.parent, {out.name: content})


def read_answer(source: str, limits: ImageLimits | None = None) -> GroundedAnswer:
    """An answer from a JSON file, or from stdin for "-"; `limits` are of the image it is about.

    Raises:
        UsageError: if there is no such file.
        DataError: if it does not hold an answer.
    """
    from llava_grounding.image_files import DEFAULT_LIMITS
    from llava_grounding.structures import GroundedAnswer

    said = quoted(source, _PATH)
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1) if has_stdin() else b""
        else:
            mode = Path(source).stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise UsageError(f"the answer {said} is a device or a pipe; give a file, or - for standard input")
            with Path(source).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the answer {said} cannot be read: {reason}") from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{said} must have at most {_MAX_BYTES // 10**6} MB to be an answer")
    try:
        return GroundedAnswer.from_dict(json.loads(data), limits or DEFAULT_LIMITS)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{said} does not hold JSON: {error}") from error
    except DataError as error:
        raise DataError(f"{said} does not hold an answer: {error}") from error
