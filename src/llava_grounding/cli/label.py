"""`llava-grounding label PHOTOS --out FILE`: labels for many photos, in a format that other tools read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import DeviceOption, MegapixelsOption, ModelOption, ThresholdOption
from llava_grounding.cli.outputs import given_path, refuse_overwriting
from llava_grounding.cli.report import note, say
from llava_grounding.errors import DataError, UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.image_files import ImageLimits
    from llava_grounding.inference.protocol import BatchEngine
    from llava_grounding.labelling.exporters import Exporter
    from llava_grounding.labelling.labeller import LabelSettings
    from llava_grounding.labelling.labels import Result
    from llava_grounding.labelling.run import Outcome, Work

_DEFAULT_MODEL = "nano"
_PROGRESS = ".progress.jsonl"


@dataclass(frozen=True)
class LoadModel:
    """Loads the model, here or on a worker of a cluster."""

    model: str | None
    device: str | None
    limits: ImageLimits

    def __call__(self) -> BatchEngine:
        return common.load_engine(self.model, self.device, self.limits)


PhotosArgument = Annotated[
    Path,
    typer.Argument(metavar="PHOTOS", parser=given_path, help="A folder, a list of paths (.txt), a .tar or a .zip."),
]
OutOption = Annotated[
    Path,
    typer.Option(metavar="PATH", parser=given_path, help="File to write; with yolo and voc a folder."),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format", metavar="NAME", help="Export format: coco, labelstudio, yolo, voc, jsonl, or a registered one."
    ),
]
ClassOption = Annotated[
    list[str] | None, typer.Option("--class", metavar="NAME", help='What to look for, as "red car"; repeatable.')
]
ClassesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=given_path, help="File of class names, one a line.")
]
QuestionOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help='Asked where no class is given.  [default: "List everything you see."]'),
]
ClusterOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers label, as tcp://host:8786.")
]
ProgressOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", parser=given_path, help=f"Progress file of a run that resumes.  [default: PATH{_PROGRESS}]"
    ),
]
ImageAddressOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Prefix of a photo's name in labelstudio tasks.  [default: its local files]"),
]


def label(
    photos: PhotosArgument,
    out: OutOption,
    format_: FormatOption = "coco",
    class_: ClassOption = None,
    classes: ClassesOption = None,
    question: QuestionOption = None,
    threshold: ThresholdOption = None,
    boxes_only: Annotated[bool, typer.Option("--boxes-only", help="Write boxes without masks.")] = False,
    model: ModelOption = None,
    device: DeviceOption = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Number of photos in a batch.")] = 8,
    cluster: ClusterOption = None,
    progress: ProgressOption = None,
    image_address: ImageAddressOption = None,
    max_megapixels: MegapixelsOption = None,
) -> None:
    """Label many photos; the same command resumes a stopped run.

    Without --class and --classes, whatever the model sees is labelled.
    """
    from llava_grounding.labelling.labeller import DEFAULT_QUESTION, LabelSettings

    named = _classes(class_, classes)
    if named is not None and question is not None:
        raise UsageError("--question is asked only where no classes are given; leave one of them out")
    settings = LabelSettings(
        named, threshold, not boxes_only, question or DEFAULT_QUESTION, common.image_limits(max_megapixels)
    )
    progress = progress or out.with_name(out.name + _PROGRESS)
    given: list[tuple[str, Path]] = [("photos", photos), *([("file of classes", classes)] if classes else [])]
    # A folder of photos may hold what is made of it; a file of the same name may not be replaced.
    refuse_overwriting([one for one in given if one[1].is_file()], [out, progress])
    work = _work(cluster, LoadModel(model, device, settings.limits), settings)
    job = _Job(photos, out, progress, _exporter(format_, image_address), settings, model or _DEFAULT_MODEL)
    _tell_outcome(job.run(batch_size, work), out)


def _classes(given: Sequence[str] | None, file: Path | None) -> tuple[str, ...] | None:
    """Names from both options, each refused now if the model could not be asked for it."""
    from llava_grounding.data.plain_files import read_file
    from llava_grounding.labelling.labeller import read_classes
    from llava_grounding.processing.conversation import MAX_PHRASES, referring_turn

    if not given and file is None:
        return None
    lines = list(given or ())
    if file is not None:
        try:
            lines += read_file(file).decode("utf-8-sig").splitlines()
        except OSError as error:
            raise UsageError(
                f"cannot read the file of classes {quoted(str(file))}: {error.strerror or error}"
            ) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"a file of classes must be UTF-8 text, got {quoted(str(file))}") from error
    names = read_classes("\n".join(lines))
    if len(names) > MAX_PHRASES:
        raise UsageError(f"classes must be at most {MAX_PHRASES:,}, got {len(names):,}; label with the others apart")
    for name in names:
        referring_turn(name)
    return names


def _exporter(format_: str, image_address: str | None) -> Exporter:
    from llava_grounding.labelling.exporters import find_exporter
    from llava_grounding.labelling.exporters.label_studio import LabelStudioExporter

    if image_address is None:
        return find_exporter(format_)
    if format_ != "labelstudio":
        raise UsageError(f"--image-address is for the format labelstudio, got {quoted(format_)}")
    return LabelStudioExporter(image_address)


def _work(cluster: str | None, load: LoadModel, settings: LabelSettings) -> Work:
    from llava_grounding.labelling.run import work_here

    if cluster is None:
        return work_here(load, settings)
    from llava_grounding.labelling.cluster import work_on_cluster

    return work_on_cluster(cluster, load, settings)


@dataclass(frozen=True)
class _Job:
    photos: Path
    out: Path
    progress: Path
    exporter: Exporter
    settings: LabelSettings
    model: str

    def run(self, batch_size: int, work: Work) -> Outcome:
        """Label what is not labelled, then write all of it."""
        from llava_grounding.data.images import FileBytes
        from llava_grounding.labelling.exporters import check_export
        from llava_grounding.labelling.photos import find_photos
        from llava_grounding.labelling.progress import open_progress
        from llava_grounding.labelling.run import export, label_rest

        found = find_photos(self.photos)
        files = [("photo", photo.read.path) for photo in found if isinstance(photo.read, FileBytes)]
        refuse_overwriting(files, [self.out, self.progress])
        check_export(self.exporter, [photo.name for photo in found], self.out)
        model = {"model": self.model, **_hashes(self.model)}
        with open_progress(self.progress, {**model, **self.settings.to_dict()}) as progress:
            done = sum(map(progress.has, found))
            if done:
                note(f"{done} of {len(found)} photos are in {self.progress}; resuming from there")
            with _bar(len(found), done) as on_results:
                label_rest(found, batch_size, progress, work, on_results)
            settings = self.settings
            return export(
                found, progress, self.exporter, self.out, settings.classes, settings.masks, Path(self.model).name
            )


def _hashes(model: str) -> dict[str, str]:
    """What tells a model in a folder from the one that was there before, under the same name."""
    from llava_grounding.benchmark.report import hash_settings, hash_weights

    folder = Path(model)
    if model == _DEFAULT_MODEL or not folder.is_dir():
        return {}
    return {"weights_hash": hash_weights(folder), "settings_hash": hash_settings(folder)}


def _tell_outcome(outcome: Outcome, out: Path) -> None:
    for one in outcome.broken:
        note(f"skipped {one.name}: {one.reason}")
    skipped = f", {len(outcome.broken)} skipped" if outcome.broken else ""
    if not outcome.photos:
        raise DataError(f"no photo could be labelled{skipped}")
    say(
        f"{outcome.photos} photos{skipped}, {outcome.labels} labels in {len(outcome.categories)} categories, "
        f"written to {out}\n"
    )


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[Sequence[Result]], None]]:
    """A progress bar on stderr with rate and time left; silent where nobody is looking."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with common.progress_bar("Labelling", total, *columns, done=done) as show:

        def on_results(results: Sequence[Result]) -> None:
            nonlocal done
            done += len(results)
            show(done)

        yield on_results
