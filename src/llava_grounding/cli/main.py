"""The `llava-grounding` command: its subcommands, and how anything that goes wrong is said.

Errors are one sentence on stderr: exit code 2 for wrong use, 1 for failures, and no traceback without `--debug`.
Imports nothing heavy; each command does when it runs.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, NoReturn

import typer

from llava_grounding.cli.annotate_look import annotate  # with what annotate_look adds to it
from llava_grounding.cli.benchmark_tasks import benchmarks
from llava_grounding.cli.chat import chat
from llava_grounding.cli.convert import convert
from llava_grounding.cli.data import data
from llava_grounding.cli.doctor import doctor
from llava_grounding.cli.ground import ground
from llava_grounding.cli.label import label
from llava_grounding.cli.mcp import mcp
from llava_grounding.cli.plugins import load_plugins
from llava_grounding.cli.prompts import InOrder
from llava_grounding.cli.render import render
from llava_grounding.cli.report import note, say
from llava_grounding.cli.serve import serve
from llava_grounding.cli.terminal import give_up, guarded, one_line, open_streams
from llava_grounding.cli.train import train
from llava_grounding.errors import LlavaGroundingError, cut_short

PROGRAM = "llava-grounding"
_LONGEST_TRACEBACK = 50_000  # characters
_INTERRUPTED = 130  # as shells say it: 128 and the number of the signal

# typer keeps its own copy of click from 0.20 on, so the class is taken from where both have it.
_CommandLineError = typer.BadParameter.__mro__[2]


class _Commands(typer.Typer):
    """Makes its commands at the first call and keeps them: that takes longer than most of them run."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._made(*arguments, **named)

    @cached_property
    def _made(self) -> Any:
        return typer.main.get_command(self)


# Plain help: drawing it with rich took 0.4 to 0.5 s, against 0.11 to 0.18 s.
app = _Commands(
    name=PROGRAM,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=InOrder)(chat)
app.command()(ground)
app.command()(render)
app.add_typer(convert, name="convert")
app.command()(doctor)
app.add_typer(data, name="data")
app.add_typer(annotate, name="annotate")
app.add_typer(benchmarks, name="benchmark")
app.command()(train)
app.command()(serve)
app.command()(label)
app.command()(mcp)


def _show_version(wanted: bool) -> None:
    if wanted:
        from llava_grounding import __version__

        say(f"{PROGRAM} {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Grounded visual chat: ask about an image, and see what each phrase of the answer means."""
    load_plugins()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug, given = _take_debug(given)
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with open_streams(), guarded():
        sys.exit(run(given, debug))


def run(arguments: Sequence[str], debug: bool = False) -> int:
    """Run the command line and give its exit code."""
    try:
        result = app(list(arguments) or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
        if code == _INTERRUPTED:  # typer has caught it already
            note("Interrupted")
        return code if arguments else 2
    except BrokenPipeError:  # whoever read our output has stopped: nobody is left to tell
        give_up(sys.stdout)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        note("Interrupted")
        return _INTERRUPTED
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  the last place to turn any error into a sentence, panics of libraries too
        if debug:
            note(cut_short("".join(traceback.format_exception(error)).rstrip("\n"), _LONGEST_TRACEBACK))
        message, code = _explain(error)
        note(f"Error: {one_line(message)}")
        if isinstance(error, OSError):
            _flush_or_give_up()
        return code


def _flush_or_give_up() -> None:
    """What stdout still holds must not fail once more when the process ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        give_up(sys.stdout)


def _explain(error: BaseException) -> tuple[str, int]:
    """A sentence about an error, and the exit code it calls for."""
    if isinstance(error, LlavaGroundingError):
        return str(error), error.exit_code
    if isinstance(error, _CommandLineError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else PROGRAM
        message = str(getattr(error, "format_message", error.__str__)())
        return f"{message.rstrip('.')} (see `{command} --help`)", 2
    if isinstance(error, OSError) and error.strerror:
        where = f" `{error.filename}`" if error.filename else ""
        return f"{error.strerror}{where}", 1
    if isinstance(error, MemoryError):
        return "there is not enough memory", 1
    return f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback", 1


def _take_debug(arguments: list[str]) -> tuple[bool, list[str]]:
    """Whether `--debug` stands anywhere before a `--`, and the arguments without it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before = [argument for argument in arguments[:end] if argument != "--debug"]
    return len(before) < end, before + arguments[end:]


if __name__ == "__main__":
    main()
