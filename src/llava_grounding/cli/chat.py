"""`llava-grounding chat IMAGE [QUESTION]`: one answer, or a dialogue in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import (
    ANSWER_FILES,
    DeviceOption,
    ImageArgument,
    JsonOption,
    MegapixelsOption,
    ModelOption,
    OutOption,
    ThresholdOption,
)
from llava_grounding.cli.lines import Lines
from llava_grounding.cli.outputs import check_out, refuse_overwriting, write_files
from llava_grounding.cli.prompts import PROMPT_OPTIONS, check_prompts, prompts_in_order, read_prompt
from llava_grounding.cli.report import note, phrase_lines, say
from llava_grounding.cli.terminal import has_stdin, one_line
from llava_grounding.errors import LlavaGroundingError, UsageError, quoted

if TYPE_CHECKING:
    from PIL import Image

    from llava_grounding.image_files import ImageLimits
    from llava_grounding.inference.protocol import Dialogue
    from llava_grounding.structures import GroundedAnswer, VisualPrompt

_HELP = """/click X,Y   /box X0,Y0,X1,Y1   /scribble x,y x,y ...   /mask FILE
             point at something; write <region> for it in the next question
/clear       forget what was pointed at and not yet asked about
/help        show this
/quit        end (Ctrl-D also does; Ctrl-C stops an answer)"""


@dataclass
class _Dialogue:
    """What a dialogue in the terminal needs to go on."""

    talk: Dialogue
    image: Image.Image
    settings: dict[str, Any]
    out: Path | None
    inputs: list[tuple[str, str]]
    """Files that are read: what each is, and its path; no answer is written over them."""
    prompts: list[VisualPrompt] = field(default_factory=list)
    answers: int = 0
    exit_code: int = 0
    limits: ImageLimits | None = None

    @property
    def next_folder(self) -> Path | None:
        """Where the next answer goes."""
        return None if self.out is None else self.out / f"{self.answers + 1:03}"


QuestionArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="QUESTION", help="Question, with one <region> per visual prompt; left out, a dialogue begins."
    ),
]
ScribbleOption = Annotated[
    list[str] | None, typer.Option(metavar='"X,Y X,Y ..."', help="Point with a stroke; repeatable.")
]
MaskOption = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="Point with a drawn mask, white on black; repeatable.")
]
MaxNewTokensOption = Annotated[
    int, typer.Option(metavar="N", min=1, max=2000, help="Maximum number of tokens of the answer, 1 to 2000.")
]


def chat(
    ctx: typer.Context,
    image: ImageArgument,
    question: QuestionArgument = None,
    click: Annotated[list[str] | None, typer.Option(metavar="X,Y", help="Point at a pixel; repeatable.")] = None,
    box: Annotated[list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Point with a box; repeatable.")] = None,
    scribble: ScribbleOption = None,
    mask: MaskOption = None,
    grounding: Annotated[bool, typer.Option("--grounding/--no-grounding", help="Tie phrases to regions.")] = True,
    threshold: ThresholdOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    max_new_tokens: MaxNewTokensOption = 256,
    temperature: Annotated[
        float, typer.Option(metavar="X", min=0, help="Sampling temperature; 0: always the likeliest token.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of sampling with a temperature.")] = None,
    max_megapixels: MegapixelsOption = None,
) -> None:
    """Ask about an image; the phrases of the answer are tied to boxes and masks.

    The k-th <region> of the question is the k-th of --click, --box, --scribble and --mask as given.
    """
    from llava_grounding.image_files import load_image

    if question is None and as_json:
        raise UsageError("--json needs a QUESTION; without one, chat is a dialogue")
    if question is None and not has_stdin():
        raise UsageError("a dialogue needs standard input, which is closed; give a QUESTION")
    inputs = [("image", image), *(("mask", path) for path in mask or [])]
    names = ANSWER_FILES if question is not None else [f"001/{name}" for name in ANSWER_FILES]
    check_out(out, names, inputs)
    limits = common.image_limits(max_megapixels)
    picture = load_image(image, limits)
    given = {"click": click or [], "box": box or [], "scribble": scribble or [], "mask": mask or []}
    prompts = prompts_in_order(ctx.meta, given, limits)
    engine_arguments = (model, device, limits)
    settings: dict[str, Any] = {"grounded": grounding, "score_threshold": threshold}
    settings |= {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    if question is not None:
        check_prompts(question, prompts, picture.size)
        _answer_once(picture, question, prompts, settings, engine_arguments, out, as_json)
        return
    engine = common.load_engine(*engine_arguments)
    dialogue = _Dialogue(engine.conversation(picture), picture, settings, out, inputs, prompts, limits=limits)
    _run(dialogue, image)
    if dialogue.exit_code:
        raise typer.Exit(dialogue.exit_code)


def _answer_once(
    picture: Image.Image,
    question: str,
    prompts: list[VisualPrompt],
    settings: dict[str, Any],
    engine_arguments: tuple[str | None, str | None, ImageLimits],
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
            write_files(out, common.answer_files(picture, answer, prompts))
    if as_json:
        common.print_json(common.answer_json(answer))
    elif out is not None:
        note(f"Written to {out}: answer.json, answer.png, answer.html")


def _stream(talk: Dialogue, question: str, prompts: list[VisualPrompt], settings: dict[str, Any]) -> GroundedAnswer:
    """Print the answer as it comes, then what was found for its phrases."""
    answer: GroundedAnswer | None = None
    said = False
    try:
        for event in talk.stream(question, prompts=prompts, **settings):
            if hasattr(event, "text"):
                said = True
                say(event.text)
            elif hasattr(event, "answer"):
                answer = event.answer
    except BaseException:
        if said:  # what is wrong begins a line of its own
            say("\n")
        raise
    assert answer is not None
    say("\n")
    for line in phrase_lines(answer):
        say(f"{line}\n")
    if answer.doubtful:
        note("Doubtful: none of this was surely found in the picture; the model may not know such images.")
    return answer


def _run(dialogue: _Dialogue, image_name: str) -> None:
    """Read lines until the end; what is wrong with one is said, and the dialogue goes on."""
    lines = Lines()
    if lines.interactive:
        note(f"Ask about {image_name}. /help lists commands, /quit or Ctrl-D ends.")
    while True:
        try:
            line = lines.next()
            if line in ("/quit", "/exit"):
                return
            with _interruptible(lines.interactive):
                _take(dialogue, line)
        except EOFError:
            return
        except LlavaGroundingError as error:
            note(f"Error: {one_line(str(error))}")
            dialogue.exit_code = 0 if lines.interactive else error.exit_code


@contextmanager
def _interruptible(interactive: bool) -> Iterator[None]:
    """Ctrl-C in here ends no more than what is in here, if a person types."""
    try:
        yield
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
    elif command.removeprefix("/") in PROMPT_OPTIONS and command.startswith("/"):
        prompt = read_prompt(command[1:], value.strip(), command, dialogue.limits)
        prompt.validate(dialogue.image.size)
        dialogue.prompts.append(prompt)
        if command == "/mask":
            dialogue.inputs.append(("mask", value.strip()))
    elif command.startswith("/"):
        raise UsageError(f"unknown command {quoted(command)}; /help lists them")
    else:
        check_prompts(line, dialogue.prompts, dialogue.image.size)
        folder = dialogue.next_folder
        if folder is not None:
            refuse_overwriting(dialogue.inputs, [folder / name for name in ANSWER_FILES])
        prompts = list(dialogue.prompts)
        answer = _stream(dialogue.talk, line, prompts, dialogue.settings)
        dialogue.answers += 1
        dialogue.prompts.clear()
        if folder is not None:
            write_files(folder, common.answer_files(dialogue.image, answer, prompts))
