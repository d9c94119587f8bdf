"""`llava-grounding benchmark scenes` and `photos` without a step: measure a model, beside baselines that do not look.

The steps themselves are those of every task, in `benchmark_tasks.py`.
"""

from __future__ import annotations

from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_grounding.benchmark.tasks import DEFAULT_SCENES
from llava_grounding.cli.common import png_bytes, progress_bar
from llava_grounding.cli.outputs import check_out, given_path, refuse_replacing_part, write_files
from llava_grounding.cli.report import say
from llava_grounding.cli.terminal import printable
from llava_grounding.errors import DataError, UsageError, quoted

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava_grounding.benchmark.results import Results
    from llava_grounding.data.readers.coco import PhotoPack


AT_ONCE = ("scenes", "photos")
"""Tasks that need no steps."""

quality = typer.Typer(rich_markup_mode=None, no_args_is_help=False, add_completion=False)

ModelOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Checkpoint folder or hub id.  [default: the embedded model]")
]
LimitOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help=f"Number of images.  [default: {DEFAULT_SCENES} scenes or all photos]"),
]
DataOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", parser=given_path, help="The photo pack.  [default: $LLAVA_GROUNDING_DATA]"),
]
ReportFileOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        parser=given_path,
        help="Write the report to this file: Markdown if it ends in .md, else JSON.",
    ),
]
PicturesOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", parser=given_path, help="Draw twenty descriptions into their images there."),
]
DeviceOption = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 or mps.  [default: cuda where there is one]")
]


@quality.callback(invoke_without_command=True)
def measure(
    ctx: typer.Context,
    model: ModelOption = None,
    limit: LimitOption = None,
    data: DataOption = None,
    report_file: ReportFileOption = None,
    pictures: PicturesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of scenes, questions and the bootstrap.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Measure grounding, referring, description and short answers.

    Without a step, a model and two baselines that do not look at the image are measured, and one table is printed.
    The steps do the same one by one, as for other tasks.
    """
    if ctx.invoked_subcommand is not None:
        _check_nothing_given(ctx)
        return
    from llava_grounding.benchmark.quality import evaluate_photos, evaluate_scenes
    from llava_grounding.benchmark.report import hash_weights
    from llava_grounding.checkpoints import choose_device, find_checkpoint
    from llava_grounding.inference.engine import GroundedChat

    # What cannot work is found out before the minutes of asking.
    choose_device(device)
    pack = _photo_pack(data) if ctx.info_name == "photos" else None
    name, folder = find_checkpoint(model)
    name = printable(name)
    if report_file is not None:
        check_report(report_file, folder, None if pack is None else pack.root)
    check_out(pictures, option="--pictures")
    chat = GroundedChat.from_pretrained(model, device)
    drawn: dict[str, Image] = {}
    on_drawn = None if pictures is None else drawn.__setitem__
    with progress_bar(f"{ctx.info_name} with {name}") as on_progress:
        digest = hash_weights(folder)
        if pack is not None:
            report = evaluate_photos(chat, pack, limit, seed, name, digest, on_progress=on_progress, on_drawn=on_drawn)
        else:
            report = evaluate_scenes(chat, limit, seed, name, digest, on_progress=on_progress, on_drawn=on_drawn)
    if as_json:
        say(report.to_json())
    else:
        show_table(report)
    if report_file is not None:
        _write_report(report, report_file)
    if pictures is not None:
        write_files(pictures, {f"{number}.png": png_bytes(picture) for number, picture in drawn.items()})


def _check_nothing_given(ctx: typer.Context) -> None:
    """Options in front of a step are of no step.

    Raises:
        UsageError: naming the first.
    """
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} must stand after {ctx.invoked_subcommand}, if that step takes it")


def _photo_pack(data: Path | None) -> PhotoPack:
    """The pack in this folder, or in that of the environment.

    Raises:
        DataError: if neither is given, or the pack cannot be read.
    """
    from llava_grounding.data.readers.coco import PACK_VARIABLE, PhotoPack

    if data is None and not environ.get(PACK_VARIABLE):
        raise DataError(f"there is no photo pack: give its folder with --data, or set {PACK_VARIABLE} to it")
    return PhotoPack(data)


def _write_report(results: Results, path: Path) -> None:
    text = results.to_markdown() if path.suffix.lower() == ".md" else results.to_json()
    write_files(path.parent, {path.name: text.encode()})


def show_table(results: Results) -> None:
    """Print the table, as wide as the terminal allows."""
    from rich.console import Console

    terminal = Console()
    terminal.print(results.to_table(terminal.width))


def check_report(path: Path, model: Path, data: Path | None) -> None:
    """Refuse a place for the report where it cannot be written, or would replace a file of the model or the data.

    Raises:
        UsageError: saying which.
    """
    if path.is_dir():
        raise UsageError(f"--report {quoted(str(path))} is a folder; expected a file")
    check_out(path.parent, option="the folder of --report")
    folders = [("model", model)] + ([("data", data)] if data is not None else [])
    refuse_replacing_part(folders, path, _is_report)


def _is_report(path: Path) -> bool:
    """Whether an earlier report is there."""
    from llava_grounding.benchmark.files import read_json_object

    try:
        return {"report_version", "results"} <= read_json_object(path).keys()
    except DataError:
        return False
