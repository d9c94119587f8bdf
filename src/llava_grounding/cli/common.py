"""What several commands share: their options, the engine they talk to, answers as text and as files.

Imports nothing heavy by itself, so that `--help` stays quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from llava_grounding.cli.outputs import given_path
from llava_grounding.cli.terminal import escape_json

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import ProgressColumn

    from llava_grounding.image_files import ImageLimits
    from llava_grounding.inference.protocol import Engine
    from llava_grounding.structures import GroundedAnswer, VisualPrompt

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Name of an embedded model, a folder, or a hub id.  [default: nano]"),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 or mps.  [default: the best there is]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        parser=given_path,
        help="Also write answer.json, answer.png and answer.html into this folder.",
    ),
]
MegapixelsOption = Annotated[
    float | None,
    typer.Option("--max-megapixels", metavar="N", help="Largest image that is read, in million pixels.  [default: 65]"),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold", metavar="X", min=0, max=1, help="Score above which a region is kept.  [default: the model's own]"
    ),
]
ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="A JPEG, PNG or WebP file.")]

ANSWER_FILES = ("answer.json", "answer.png", "answer.html")
"""What `--out` writes; the first is put there last."""


def load_engine(model: str | None, device: str | None, limits: ImageLimits) -> Engine:
    """The model, ready to answer. Tests put another in its place."""
    with waiting("Loading the model"):
        from llava_grounding.inference.engine import GroundedChat

        return GroundedChat.from_pretrained(model, device=device, limits=limits)


def image_limits(megapixels: float | None) -> ImageLimits:
    """What `--max-megapixels` allows; None is the default."""
    from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits

    return DEFAULT_LIMITS if megapixels is None else ImageLimits.of_megapixels(megapixels)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on stderr that something is going on, if a person is looking."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} …"):
        yield


class ShowProgress(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int | None = None, **fields: Any) -> None:
        """To `done` of `total`, None for the total as it was; `fields` are what columns show beside it."""


@contextmanager
def progress_bar(
    what: str, total: int | None = None, *columns: ProgressColumn, done: int = 0, **fields: Any
) -> Iterator[ShowProgress]:
    """A progress bar on stderr, gone when it ends.

    Args:
        what: stands before it, as plain text.
        total: of all steps; None where it is not known yet.
        columns: rich's own when none are given. A text column may show `{task.fields[rate]}`, the steps per second.
        done: of them, before the bar begins.
        fields: what other columns show at first.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(what), total=total, completed=done, rate="", **fields)

        def show(done: int, total: int | None = None, **fields: Any) -> None:
            speed = progress.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            progress.update(task, completed=done, total=total, rate=rate, **fields)

        yield show


@contextmanager
def clean_stdout(wanted: bool) -> Iterator[None]:
    """While JSON is being made, whatever a library prints goes to stderr."""
    if not wanted:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def answer_json(answer: GroundedAnswer) -> str:
    """The answer as one line of JSON that every encoding can hold if it must, and is readable if it can."""
    data = answer.to_dict()
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        text = json.dumps(data, allow_nan=False)
    return escape_json(text)


def print_json(text: str) -> None:
    """Print JSON, escaped where the terminal's encoding lacks a character or could be steered by it."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(escape_json(text), flush=True)


def answer_files(image: Image.Image, answer: GroundedAnswer, prompts: Sequence[VisualPrompt] = ()) -> dict[str, bytes]:
    """What `--out` writes, by file name."""
    from llava_grounding.render import answer_to_html, draw_answer

    contents = (
        f"{answer_json(answer)}\n".encode(),
        png_bytes(draw_answer(image, answer, prompts)),
        answer_to_html(image, answer, prompts).encode(),
    )
    return dict(zip(ANSWER_FILES, contents, strict=True))


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
