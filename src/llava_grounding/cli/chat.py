"""`llava-grounding chat IMAGE [QUESTION]`: one answer, or a dialogue in the terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import DeviceOption, ImageArgument, JsonOption, MegapixelsOption, ModelOption, OutOption
from llava_grounding.cli.prompts import KINDS, check_prompts, prompts_in_order, read_prompt
from llava_grounding.cli.report import note, one_line, phrase_lines, say
from llava_grounding.errors import LlavaGroundingError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from llava_grounding.image_files import ImageLimits
    from llava_grounding.structures import GroundedAnswer, VisualPrompt

_HELP = """/click X,Y   /box X0,Y0,X1,Y1   /scribble x,y x,y ...   /mask FILE
             point at something; write <region> for it in the next question
/clear       forget what was pointed at and not yet asked about
/help        show this
/quit        end (Ctrl-D also does; Ctrl-C stops an answer)"""


@dataclass
class _Dialogue:
    """What a dialogue in the terminal needs to go on."""

    talk: common.Talk
    image: Image.Image
    settings: dict[str, Any]
    out: Path | None
    prompts: list[VisualPrompt] = field(default_factory=list)
    answers: int = 0
    exit_code: int = 0
    limits: ImageLimits | None = None


def chat(
    ctx: typer.Context,
    image: ImageArgument,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="With one <region> per prompt; without it, a dialogue.")
    ] = None,
    click: Annotated[list[str] | None, typer.Option(metavar="X,Y", help="Point at a pixel; repeatable.")] = None,
    box: Annotated[list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Point with a box; repeatable.")] = None,
    scribble: Annotated[
        list[str] | None, typer.Option(metavar='"X,Y X,Y ..."', help="Point with a stroke; repeatable.")
    ] = None,
    mask: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Point with a drawn mask, white on black; repeatable.")
    ] = None,
    grounding: Annotated[bool, typer.Option("--grounding/--no-grounding", help="Tie phrases to regions.")] = True,
    model: ModelOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, max=2000, help="Where the answer is cut, 1 to 2000.")
    ] = 256,
    temperature: Annotated[float, typer.Option(metavar="T", min=0, help="0: always the likeliest word.")] = 0.0,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Makes a temperature repeatable.")] = None,
    max_megapixels: MegapixelsOption = None,
) -> None:
    """Ask about an image; the phrases of the answer are tied to boxes and masks.

    The k-th <region> of the question is the k-th of --click, --box, --scribble and --mask as given.
    """
    from llava_grounding.image_files import load_image

    if question is None and as_json:
        raise UsageError("--json needs a QUESTION; without one, chat is a dialogue")
    common.check_out(out)
    limits = common.image_limits(max_megapixels)
    picture = load_image(image, limits)
    given = {"click": click or [], "box": box or [], "scribble": scribble or [], "mask": mask or []}
    prompts = prompts_in_order(ctx.meta, given, limits)
    engine_arguments: tuple[Any, ...] = (model, device, *([limits] if max_megapixels else []))
    settings = {"grounded": grounding, "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    if question is not None:
        check_prompts(question, prompts, picture.size)
        _answer_once(picture, question, prompts, settings, engine_arguments, out, as_json)
        return
    engine = common.load_engine(*engine_arguments)
    dialogue = _Dialogue(engine.conversation(picture), picture, settings, out, prompts, limits=limits)
    _run(dialogue, image)
    if dialogue.exit_code:
        raise typer.Exit(dialogue.exit_code)


def _answer_once(
    picture: Image.Image,
    question: str,
    prompts: list[VisualPrompt],
    settings: dict[str, Any],
    engine_arguments: tuple[Any, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    with common.clean_stdout(as_json):
        engine = common.load_engine(*engine_arguments)
        if as_json:
            answer = engine.ask(picture, question, prompts=prompts, **settings)
        else:
            answer = _stream(engine.conversation(picture), question, prompts, settings)
        if out is not None:
            common.write_files(out, common.answer_files(picture, answer, prompts))
    if as_json:
        common.print_json(common.answer_json(answer))
    elif out is not None:
        note(f"Written to {out}: answer.json, answer.png, answer.html")


def _stream(talk: common.Talk, question: str, prompts: list[VisualPrompt], settings: dict[str, Any]) -> GroundedAnswer:
    """Print the answer as it comes, then what was found for its phrases."""
    answer: GroundedAnswer | None = None
    try:
        for event in talk.stream(question, prompts=prompts, **settings):
            if hasattr(event, "text"):
                say(event.text)
            elif hasattr(event, "answer"):
                answer = event.answer
    finally:
        say("\n")
    assert answer is not None
    for line in phrase_lines(answer):
        say(f"{line}\n")
    return answer


def _run(dialogue: _Dialogue, image_name: str) -> None:
    """Read lines until the end; what is wrong with one is said, and the dialogue goes on."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  makes input() editable, with a history

        note(f"Ask about {image_name}. /help lists commands, /quit or Ctrl-D ends.")
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            break
        if line in ("/quit", "/exit"):
            break
        try:
            _take(dialogue, line)
        except LlavaGroundingError as error:
            note(f"Error: {one_line(str(error))}")
            dialogue.exit_code = 0 if interactive else error.exit_code
        except KeyboardInterrupt:
            if not interactive:
                raise
            note("Stopped; this question is not part of the dialogue.")


def _take(dialogue: _Dialogue, line: str) -> None:
    """One line: a command, or a question."""
    command, _, value = line.partition(" ")
    if not line:
        return
    if command == "/help":
        note(_HELP)
    elif command == "/clear":
        dialogue.prompts.clear()
    elif command.removeprefix("/") in KINDS and command.startswith("/"):
        prompt = read_prompt(command[1:], value.strip(), command, dialogue.limits)
        prompt.validate(dialogue.image.size)
        dialogue.prompts.append(prompt)
    elif command.startswith("/"):
        raise UsageError(f"unknown command `{command}`; /help lists them")
    else:
        check_prompts(line, dialogue.prompts, dialogue.image.size)
        answer = _stream(dialogue.talk, line, list(dialogue.prompts), dialogue.settings)
        dialogue.answers += 1
        if dialogue.out is not None:
            files = common.answer_files(dialogue.image, answer, dialogue.prompts)
            common.write_files(dialogue.out / f"{dialogue.answers:03}", files)
        dialogue.prompts.clear()
