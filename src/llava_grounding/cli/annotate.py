"""`llava-grounding annotate`: captions or dialogues and labelled instances in, grounded visual chat data out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_grounding.cli.outputs import check_out, exchanged_files, given_path
from llava_grounding.cli.report import note, say
from llava_grounding.errors import UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.annotate.assemble import Answers, Inputs
    from llava_grounding.annotate.label_index import LabelIndex

STORE = "store"
"""Folder below `--out` that keeps what was asked, and the index of the labels."""

annotate = typer.Typer(
    help="Make grounded visual chat data from captions or dialogues and labelled instances.", no_args_is_help=False
)

InstancesOption = Annotated[
    Path, typer.Option(metavar="FILE", parser=given_path, help="COCO instances file of the images.")
]
CaptionsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=given_path, help="COCO captions file; or give --dialogues.")
]
DialoguesOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=given_path, help="LLaVA-style dialogues, .json or .jsonl; or give --captions."),
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", parser=given_path, help="Folder for the data and what was asked.")
]
ShardOption = Annotated[
    str, typer.Option(metavar="K/N", help="Take the K-th of N disjoint parts of the images.", show_default=False)
]
LimitOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N samples.")]


@annotate.command()
def run(
    instances: InstancesOption,
    out: OutOption,
    captions: CaptionsOption = None,
    dialogues: DialoguesOption = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the model at the endpoint; builtin needs none.")
    ] = "builtin",
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Write a click, box, scribble or mask for whatever GVC-R points at.")
    ] = False,
    limit: LimitOption = None,
    shard: ShardOption = "1/1",
) -> None:
    """Annotate: what is answered already is not asked again."""
    from llava_grounding.annotate.assemble import BuiltinAnswers

    inputs = inputs_of(instances, captions, dialogues, shard)
    with work_folder(out, inputs) as index:
        write_out(out, inputs, index, BuiltinAnswers(), limit, prompts)


def inputs_of(instances: Path, captions: Path | None, dialogues: Path | None, shard: str) -> Inputs:
    """What is to be annotated, as the options say.

    Raises:
        UsageError: if there is not one file of texts.
    """
    from llava_grounding.annotate.assemble import Inputs
    from llava_grounding.annotate.samples import Shard
    from llava_grounding.data.images import FolderImages

    if (captions is None) == (dialogues is None):
        raise UsageError("give either --captions FILE or --dialogues FILE")
    texts, kind = (captions, "captions") if captions is not None else (dialogues, "dialogues")
    assert texts is not None
    for path in (instances, texts):
        if not path.is_file():
            raise UsageError(f"there is no file {quoted(str(path))}")
    # Pictures are not read: names are only compared.
    return Inputs(instances, texts, kind, FolderImages(instances.parent), Shard.parse(shard))  # type: ignore[arg-type]


@contextmanager
def work_folder(out: Path, inputs: Inputs) -> Iterator[LabelIndex]:
    """The folder of the store, for this process alone, with the index of the labels."""
    from llava_grounding.annotate.label_index import open_index
    from llava_grounding.annotate.locking import locked
    from llava_grounding.annotate.write import FILES
    from llava_grounding.cli.common import waiting

    check_out(out, FILES, [("instances", inputs.instances), (inputs.kind, inputs.texts)])
    (out / STORE).mkdir(parents=True, exist_ok=True)
    with locked(out / STORE):
        with waiting("Reading the labels"):
            index = open_index(inputs.instances, out / STORE)
        try:
            yield index
        finally:
            index.close()


def write_out(
    out: Path, inputs: Inputs, index: LabelIndex, answers: Answers, limit: int | None, prompts: bool
) -> dict[str, Any]:
    """Assemble the files and put them into the folder, with a summary on stdout."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from llava_grounding.annotate.assemble import assemble
    from llava_grounding.annotate.write import FILES

    columns = (TextColumn("{task.description} {task.completed:.0f} samples"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Writing", total=None)
        with exchanged_files(out, FILES) as aside:
            manifest = assemble(
                inputs, index, answers, aside, limit, prompts, lambda done: progress.update(bar, completed=done)
            )
    for line in summary(manifest):
        say(f"{line}\n")
    note(f"written to {quoted(str(out), 300)}")
    return manifest


def summary(manifest: dict[str, Any]) -> Iterator[str]:
    """What a run gave, in lines."""
    counts = manifest["counts"]
    yield f"{counts['samples']} samples, {counts['accepted']} accepted"
    yield f"phrases {counts['phrases']}, instances named {counts['instances_named']}"
    yield f"GVC {counts['gvc']}, GVC-R {counts['gvc_r']}, marks {counts['marks']}"
    for title, reasons in (("rejected", manifest["rejections"]), ("phrases dropped", manifest["dropped_phrases"])):
        if reasons:
            yield f"{title}: " + ", ".join(f"{reason} {number}" for reason, number in reasons.items())
    usage = manifest["usage"]
    if usage.get("requests"):
        yield (
            f"{usage['requests']} requests, {usage['prompt_tokens']} prompt and {usage['completion_tokens']} "
            f"completion tokens, cost {usage['cost']:.2f}"
        )
