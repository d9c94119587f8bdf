"""The folder of `annotate`: what goes in, the store and the index beside it, and the files that come out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_grounding.cli.common import progress_bar, waiting
from llava_grounding.cli.outputs import check_out, exchanged_files
from llava_grounding.cli.report import note, say
from llava_grounding.errors import UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.annotate.assemble import Answers, Inputs
    from llava_grounding.annotate.label_index import LabelIndex

STORE = "store"
"""Folder below `--out` that keeps what was asked, and the index of the labels."""


def inputs_of(instances: Path, captions: Path | None, dialogues: Path | None, shard: str) -> Inputs:
    """What is to be annotated, as the options say.

    Raises:
        UsageError: if there is not one file of texts.
    """
    from llava_grounding.annotate.assemble import Inputs
    from llava_grounding.annotate.samples import Shard
    from llava_grounding.data.images import NamesOnly
    from llava_grounding.data.plain_files import why_no_file

    if (captions is None) == (dialogues is None):
        raise UsageError("give either --captions FILE or --dialogues FILE")
    texts, kind = (captions, "captions") if captions is not None else (dialogues, "dialogues")
    assert texts is not None
    for path in (instances, texts):
        if not path.is_file():
            raise UsageError(f"--instances and --{kind} must be files, but {why_no_file(path)}")
    return Inputs(instances, texts, kind, NamesOnly(), Shard.parse(shard))  # type: ignore[arg-type]


@contextmanager
def work_folder(out: Path, inputs: Inputs) -> Iterator[LabelIndex]:
    """The folder of the store, for this process alone, with the index of the labels."""
    from llava_grounding.annotate.label_index import open_index
    from llava_grounding.annotate.write import FILES
    from llava_grounding.endpoints.locking import locked

    check_out(out, FILES, [("instances", inputs.instances), (inputs.kind, inputs.texts)])
    (out / STORE).mkdir(parents=True, exist_ok=True)
    with locked(out / STORE, "share the work with --shard K/N and another --out"):
        with waiting("Reading the labels"):
            index = open_index(inputs.instances, out / STORE)
        if index.left_out:
            note(f"left out: {index.left_out}")
        try:
            yield index
        finally:
            index.close()


def write_out(
    out: Path,
    inputs: Inputs,
    index: LabelIndex,
    answers: Answers,
    limit: int | None,
    prompts: bool,
    second: Answers | None = None,
) -> dict[str, Any]:
    """Assemble the files and put them into the folder, with a summary on stdout."""
    from rich.progress import TextColumn, TimeElapsedColumn

    from llava_grounding.annotate.assemble import assemble
    from llava_grounding.annotate.write import FILES

    columns = (TextColumn("{task.description} {task.completed:.0f} samples"), TimeElapsedColumn())
    with progress_bar("Writing", None, *columns) as on_progress, exchanged_files(out, FILES) as aside:
        manifest = assemble(inputs, index, answers, aside, limit, prompts, on_progress, second)
    for line in summary(manifest):
        say(f"{line}\n")
    place = quoted(str(out), 300)
    note(f"written to {place}; to look at it: annotate review FOLDER --images PLACE --page FILE.html")
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
    if "agreement" in manifest:
        from llava_grounding.annotate.agreement import describe

        yield describe(manifest["agreement"])
    usage = manifest["usage"]
    if usage.get("requests"):
        yield (
            f"{usage['requests']} requests, {usage['prompt_tokens']} prompt and {usage['completion_tokens']} "
            f"completion tokens, cost {usage['cost']:.2f}"
        )
