"""What several commands share: the engine they talk to, answers as text and files, output that is whole or not there.

Imports nothing heavy by itself, so that `--help` stays quick.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from llava_grounding.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from llava_grounding.image_files import ImageLimits
    from llava_grounding.structures import GroundedAnswer, GroundedPhrase, VisualPrompt

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="M", help="Name of an embedded model, a folder, or a hub id.  [default: nano]"),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="D", help="cpu, cuda, cuda:1 or mps.  [default: the best there is]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Also write answer.json, answer.png and answer.html into this folder."),
]
MegapixelsOption = Annotated[
    float | None,
    typer.Option("--max-megapixels", metavar="N", help="Largest image that is read, in million pixels.  [default: 65]"),
]
ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="A JPEG, PNG or WebP file.")]


class Talk(Protocol):
    """A dialogue about one image."""

    def stream(
        self,
        question: str,
        prompts: Sequence[VisualPrompt] = (),
        grounded: bool = True,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[Any]:
        """Events with `text`, then `phrase`, at last `answer`."""


class Engine(Protocol):
    """What the commands need of `llava_grounding.engine.GroundedChat`."""

    name: str

    def ask(
        self,
        image: Image.Image,
        question: str,
        prompts: Sequence[VisualPrompt] = (),
        grounded: bool = True,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> GroundedAnswer:
        """Answer one question."""

    def conversation(self, image: Image.Image) -> Talk:
        """Begin a dialogue."""

    def ground(self, image: Image.Image, phrases: Sequence[str]) -> list[GroundedPhrase]:
        """Find what each phrase names."""


def load_engine(model: str | None, device: str | None, limits: ImageLimits | None = None) -> Engine:
    """The model, ready to answer. Tests put another in its place."""
    with waiting("Loading the model"):
        from llava_grounding.engine import GroundedChat
        from llava_grounding.image_files import DEFAULT_LIMITS

        return GroundedChat.from_pretrained(model, device=device, limits=limits or DEFAULT_LIMITS)


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
        return json.dumps(data, allow_nan=False)
    return text


def print_json(text: str) -> None:
    """Print JSON, escaped where the terminal's encoding lacks a character."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text, flush=True)


def answer_files(image: Image.Image, answer: GroundedAnswer, prompts: Sequence[VisualPrompt] = ()) -> dict[str, bytes]:
    """What `--out` writes, by file name."""
    from llava_grounding.render import answer_to_html, draw_answer

    return {
        "answer.json": f"{answer_json(answer)}\n".encode(),
        "answer.png": png_bytes(draw_answer(image, answer, prompts)),
        "answer.html": answer_to_html(image, answer, prompts).encode(),
    }


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def check_out(out: Path | None) -> None:
    """Refuse an output folder that cannot be one, before any work is done.

    Raises:
        UsageError: if the path is a file, or the first folder above it that exists may not be written to.
    """
    if out is None:
        return
    above = out
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise UsageError(f"--out must be a folder, but `{above}` is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"--out `{out}` cannot be written: no permission in `{above}`")


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files or none: each aside first, and renamed only when every one is on the disk.

    Folders that are missing are made, and removed again if writing fails.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    aside: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            aside[folder / name] = _write_aside(folder, name, content)
        for target, path in aside.items():
            path.replace(target)
    except BaseException:
        for path in aside.values():
            path.unlink(missing_ok=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise


def _write_aside(folder: Path, name: str, content: bytes) -> Path:
    handle, path = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return Path(path)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
