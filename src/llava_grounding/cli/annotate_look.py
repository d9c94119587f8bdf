"""What `annotate` does with finished folders: review, stats, show, audit, merge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_grounding.cli.annotate import annotate
from llava_grounding.cli.annotate_folder import STORE, summary
from llava_grounding.cli.common import png_bytes, progress_bar
from llava_grounding.cli.outputs import check_out, exchanged_files, given_path, refuse_overwriting, write_files
from llava_grounding.cli.report import note, say
from llava_grounding.errors import UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.annotate.finished import FinishedLabels

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="A finished folder: the --out of a run.")]
ImagesOption = Annotated[
    Path | None, typer.Option(metavar="PLACE", parser=given_path, help="Folder, .tar or .zip of the pictures.")
]


@annotate.command()
def review(
    folder: FolderArgument,
    images: ImagesOption = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE.html", parser=given_path, help="Page to write.")] = None,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=1, max=5000, help="Number of phrases to look at.")
    ] = 100,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the choice of phrases.")] = 0,
    verdicts: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Verdicts that pages have saved: print the precision instead."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            parser=given_path,
            help="Folder for all files anew, without what the --verdicts rejected and with what they fixed.",
        ),
    ] = None,
) -> None:
    """Write a page to check sampled phrases by hand, or read its verdicts back."""
    from llava_grounding.annotate.review import review_page, sample_phrases

    if verdicts:
        _take_verdicts(folder, verdicts, out)
        return
    if out is not None:
        raise UsageError("--out goes with --verdicts FILE, which says what to correct")
    if images is None or page is None:
        raise UsageError("give --images PLACE and --page FILE.html, or --verdicts FILE")
    sampled = sample_phrases(folder, count, seed)
    refuse_overwriting(_files(folder, images, page), [page])
    labels = _labels(folder, images)
    try:
        write_files(page.parent, {page.name: review_page(folder, sampled, labels).encode()})
    finally:
        labels.close()
    note(f"{len(sampled)} phrases in {quoted(str(page), 300)}; open it in a browser, save, and give --verdicts")


def _take_verdicts(folder: Path, paths: list[Path], out: Path | None) -> None:
    from llava_grounding.annotate.correct import correct
    from llava_grounding.annotate.verdicts import precision_of, read_verdicts
    from llava_grounding.annotate.write import FILES

    verdicts = read_verdicts(folder, paths)
    for line in precision_of(verdicts).lines():
        say(f"{line}\n")
    if out is None:
        return
    check_out(out, FILES, [*_files(folder), *(("verdicts", path) for path in paths)])
    with exchanged_files(out, FILES) as aside:
        manifest = correct(folder, verdicts, aside, folder / STORE)
    for line in summary(manifest):
        say(f"{line}\n")
    note(f"written to {quoted(str(out), 300)}")


@annotate.command()
def stats(
    folder: FolderArgument,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", parser=given_path, help="Drawing to write.")] = None,
) -> None:
    """Report phrases per answer, instances per phrase, and which categories are named how often."""
    from llava_grounding.annotate.stats import compute_stats

    if plot is not None:
        refuse_overwriting(_files(folder), [plot])
    found = compute_stats(folder)
    for line in found.lines():
        say(f"{line}\n")
    if plot is not None:
        write_files(plot.parent, {plot.name: found.to_svg().encode()})


@annotate.command()
def show(
    folder: FolderArgument,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the record, from 1.")],
    images: Annotated[
        Path, typer.Option(metavar="PLACE", parser=given_path, help="Folder, .tar or .zip of the pictures.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.png", parser=given_path, help="Drawing to write.")],
    marks: Annotated[
        bool, typer.Option("--marks", help="Draw its numbers, as marks.json has them, and print its dialogue.")
    ] = False,
) -> None:
    """Draw one record: its first answer with phrases, boxes and masks, or its marks."""
    from llava_grounding.annotate.drawing import draw_marked, draw_record

    refuse_overwriting(_files(folder, images, out), [out])
    labels = _labels(folder, images)
    try:
        picture, lines = (draw_marked if marks else draw_record)(folder, number, labels)
    finally:
        labels.close()
    write_files(out.parent, {out.name: png_bytes(picture)})
    for line in lines:
        say(f"{line}\n")


@annotate.command("draw-marks")
def draw_marks(
    folder: FolderArgument,
    images: Annotated[
        Path, typer.Option(metavar="PLACE", parser=given_path, help="Folder, .tar or .zip of the pictures.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", parser=given_path, help="Folder of the export to write.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Draw the first N only.")] = None,
) -> None:
    """Draw the marks of all records into their pictures; the same command resumes a stopped run."""
    from llava_grounding.annotate.assemble import read_manifest
    from llava_grounding.annotate.marked_pictures import write_marked_pictures
    from llava_grounding.annotate.write import MARKS
    from llava_grounding.data.images import open_images

    check_out(out, [MARKS], _files(folder))
    total = read_manifest(folder)["counts"]["marks"]
    with progress_bar("Drawing", total if limit is None else min(limit, total)) as on_progress:
        store = open_images(images)
        count = write_marked_pictures(folder, store, out, folder / STORE, limit, on_progress)
    note(f"{count} dialogues with their pictures in {quoted(str(out), 300)}")


@annotate.command()
def audit(
    folder: FolderArgument,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A benchmark's list of images: lines, JSON lines or JSON."),
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A benchmark's pictures, compared by perceptual hash."),
    ] = None,
    images: ImagesOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any image is in a benchmark.")] = False,
) -> None:
    """Report which images are in benchmarks, by id and by what they look like."""
    from llava_grounding.annotate.audit import folder_images, iter_pictures, overlap_by_id, overlap_by_looks
    from llava_grounding.data.images import open_images

    if not against and not pictures:
        raise UsageError("give --against NAME=FILE or --pictures NAME=FOLDER")
    if pictures and images is None:
        raise UsageError("--pictures needs --images PLACE, where the pictures of FOLDER are")
    names = folder_images(folder)
    found = [overlap_by_id(names, *_named(one)) for one in against or ()]
    if pictures and images is not None:
        store = open_images(images)
        for one in pictures:
            name, place = _named(one)
            found.append(overlap_by_looks(names, store, name, iter_pictures(place)))
    say(f"{len(names)} images\n")
    for overlap in found:
        for line in overlap.lines():
            say(f"{line}\n")
    if strict and any(overlap.images for overlap in found):
        raise typer.Exit(1)


@annotate.command()
def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="The finished folders of all shards.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", parser=given_path, help="Folder of the merged files to write.")
    ],
) -> None:
    """Put finished shards together; the files are those of one run over everything."""
    from llava_grounding.annotate.merge import merge as put_together
    from llava_grounding.annotate.write import FILES

    check_out(out, FILES, [one for shard in shards for one in _files(shard, called="shard")])
    with exchanged_files(out, FILES) as aside:
        manifest = put_together(shards, aside)
    for line in summary(manifest):
        say(f"{line}\n")


def _files(
    folder: Path, images: Path | None = None, out: Path | None = None, called: str = "data"
) -> list[tuple[str, Path]]:
    """What is read of a finished folder, and the picture that a file of this name may be."""
    from llava_grounding.annotate.write import FILES

    pictures = [("picture", images / out.name)] if images is not None and out is not None else []
    return [(called, folder), *((called, folder / name) for name in FILES), *pictures]


def _labels(folder: Path, images: Path) -> FinishedLabels:
    from llava_grounding.annotate.finished import FinishedLabels
    from llava_grounding.data.images import open_images

    return FinishedLabels(folder, open_images(images), folder / STORE)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UsageError(f"must be NAME=PLACE, got {quoted(text)}")
    return name, given_path(path)
