"""`llava-grounding benchmark TASK build | run | score | report`, and `benchmark compare A B`.

One group of steps serves every task of the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from llava_grounding.benchmark.tasks import TASKS
from llava_grounding.cli.benchmark import AT_ONCE, quality, show_table
from llava_grounding.cli.common import ShowProgress, progress_bar
from llava_grounding.cli.outputs import check_out, given_path, refuse_replacing_part, write_files
from llava_grounding.cli.report import note, say
from llava_grounding.errors import UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.benchmark.judging import Judge
    from llava_grounding.benchmark.predictions import Imported
    from llava_grounding.benchmark.samples import SampleSet
    from llava_grounding.benchmark.systems import SystemSpec

_STORE = "judge"
_REPORTS = ("report.json", "report.md", "report.html")


class _Tasks(TyperGroup):
    """The registered tasks, each a group of the same steps; `scenes` and `photos` do without a step as well."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Once for all tasks: making commands takes longer than `--help`.
        self._steps = typer.main.get_group(steps)
        self._quality = typer.main.get_group(quality)
        self._quality.commands = self._steps.commands

    def list_commands(self, ctx: Any) -> list[str]:
        """Those registered since as well."""
        return [*super().list_commands(ctx), *TASKS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The steps of a task, under its name."""
        if cmd_name not in TASKS:
            return super().get_command(ctx, cmd_name)
        group = copy(self._quality if cmd_name in AT_ONCE else self._steps)
        group.name, group.short_help = cmd_name, TASKS[cmd_name].in_a_line or cmd_name
        if cmd_name not in AT_ONCE:
            group.help = group.short_help
        return group

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name the tasks where there is none of this name."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            names = ", ".join(f"'{name}'" for name in (*TASKS, "compare"))
            raise UsageError(f"'{args[0]}' is not one of {names} (see `{ctx.command_path} --help`)")
        return super().resolve_command(ctx, args)


benchmarks = typer.Typer(cls=_Tasks, rich_markup_mode=None, no_args_is_help=False)
steps = typer.Typer(rich_markup_mode=None, no_args_is_help=False, add_completion=False)


@benchmarks.callback()
def kinds() -> None:
    """Measure a model: every task in steps, `scenes` and `photos` also at once."""


@steps.callback()
def about_steps() -> None:
    """Build the set of a task, run a system on it, score its predictions, and report."""


def _file(help_text: str, metavar: str = "FILE") -> Any:
    return typer.Option(metavar=metavar, parser=given_path, help=help_text)


SetFile = Annotated[
    Path, typer.Option("--set", metavar="FILE", parser=given_path, help="The benchmark set, made by `build`.")
]
OutFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", parser=given_path, help="Folder of the results to write.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the bootstrap.")]
Images = Annotated[Path | None, _file("Pictures: folder, tar shards or zip.", "PLACE")]


def _task_of(ctx: typer.Context) -> str:
    """The task whose steps were called."""
    assert ctx.parent is not None
    return str(ctx.parent.info_name)


@steps.command()
def build(
    ctx: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", parser=given_path, help="File of the benchmark set to write, JSON lines."
        ),
    ],
    data: Annotated[Path | None, _file("A photo pack.", "FOLDER")] = None,
    split: Annotated[str, typer.Option(metavar="TEXT", help="Split of the pack or of the published files.")] = "val",
    instances: Annotated[Path | None, _file("COCO instances.")] = None,
    captions: Annotated[Path | None, _file("COCO captions.")] = None,
    dialogues: Annotated[Path | None, _file("Grounded visual chat, as `annotate` writes it.")] = None,
    refs: Annotated[Path | None, _file("Referring expressions, as published.")] = None,
    entities: Annotated[Path | None, _file("Flickr30K Entities, or MDETR's file.", "PLACE")] = None,
    questions: Annotated[Path | None, _file("Questions, as JSON lines.")] = None,
    answers: Annotated[Path | None, _file("Reference answers, as JSON lines.")] = None,
    ids: Annotated[Path | None, _file("List of image ids.")] = None,
    images: Images = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of samples, spread evenly over the data.  [default: all]"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the choice of prompts.")] = 0,
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Question that asks for a description.  [default: the task's]")
    ] = None,
) -> None:
    """Make the set of a task from files as they are published."""
    from llava_grounding.benchmark.building import BuildInputs
    from llava_grounding.benchmark.samples import is_set
    from llava_grounding.benchmark.tasks import find_task

    inputs = BuildInputs(
        data=data,
        split=split,
        instances=instances,
        captions=captions,
        dialogues=dialogues,
        refs=refs,
        entities=entities,
        questions=questions,
        answers=answers,
        ids=ids,
        images=images,
        limit=limit,
        seed=seed,
        question=question,
    )
    read = [("input", path) for path in vars(inputs).values() if isinstance(path, Path)]
    check_out(out.parent, [out.name], read)
    refuse_replacing_part(read, out, is_set)
    samples = find_task(_task_of(ctx)).build(inputs)
    samples.write(out)
    left_out = "".join(f"; {count} left out: {reason}" for reason, count in samples.left_out.items() if count)
    say(f"{len(samples.samples)} samples of {samples.name} in {out}{left_out}\n")


@steps.command()
def run(
    ctx: typer.Context,
    samples_file: SetFile,
    out: OutFolder,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Checkpoint folder or hub id; at an endpoint the model's name.")
    ] = None,
    images: Images = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 or mps.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Ask this server, as http://HOST/v1.")] = None,
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable with the server's key.")
    ] = "OPENAI_API_KEY",
    block: Annotated[
        int, typer.Option(metavar="N", min=1, help="Samples asked together; part of the configuration.")
    ] = 1,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, max=2000, help="Maximum number of tokens of an answer.")
    ] = 256,
    queries: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Object queries of the grounder.  [default: the model's own]")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Have a Dask scheduler's workers ask, as tcp://HOST:8786.")
    ] = None,
) -> None:
    """Ask a system; the same command resumes an ended run. Under torchrun the processes share the work."""
    from llava_grounding.benchmark.runs import CONFIG, PREDICTIONS, Rank, Run
    from llava_grounding.benchmark.tasks import find_task

    samples = _read_set(ctx, samples_file)
    place = find_task(samples.task).pictures if images is None else str(images.resolve())
    spec = _spec(model, place, device, base_url, max_new_tokens, queries)
    check_out(out, (CONFIG, PREDICTIONS), [("set", samples_file)])
    work = Run(out, samples, spec, block)
    with _progress(f"{samples.task} with {spec.model or 'nano'}") as on_progress:
        if cluster is not None:
            done = work.work_on_cluster(cluster, key_variable if base_url else "", on_progress)
        else:
            from llava_grounding.benchmark.systems import load_system

            system = load_system(spec, environ.get(key_variable) or "none") if work.missing() else None
            done = work.work(system, Rank.of_launcher(), on_progress) if system is not None else True
    say(f"{len(samples.samples)} samples in {out}\n" if done else f"a part of {out} is done, others go on\n")


@steps.command()
def score(
    ctx: typer.Context,
    samples_file: SetFile,
    out: OutFolder,
    predictions: Annotated[Path | None, _file("Predictions of another system.  [default: those of --out]")] = None,
    format: Annotated[str, typer.Option("--format", metavar="TEXT", help="Format of the predictions.")] = "plain",
    frame: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Coordinates of their boxes: pixels, fraction, per-mille, square-fraction."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Name of the system in reports.")] = None,
    judge: Annotated[
        str, typer.Option(metavar="TEXT", help="Judge of the answers: deterministic, or a model at --judge-url.")
    ] = "deterministic",
    judge_url: Annotated[str | None, typer.Option(metavar="URL", help="Address of the judge's server.")] = None,
    judgements: Annotated[Path | None, _file("Recorded judgements, instead of a judge.")] = None,
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable with the judge's key.")
    ] = "OPENAI_API_KEY",
    seed: Seed = 0,
) -> None:
    """Score predictions, without any model, and write the report."""
    from llava_grounding.benchmark.judging import RecordedJudge
    from llava_grounding.benchmark.scored_runs import JUDGEMENTS, SCORED, SCORES, score_run, write_scored

    samples = _read_set(ctx, samples_file)
    inputs = [("set", samples_file), *([("judgements", judgements)] if judgements else [])]
    if predictions:
        inputs += [("predictions", path) for path in (predictions, *predictions.glob("*.json"))]
    check_out(out, (*_REPORTS, SCORED, SCORES, JUDGEMENTS), inputs)
    found, system = _predictions(samples, out, predictions, format, frame, name)
    with _progress(f"scoring {samples.task}") as on_progress, ExitStack() as opened:
        deciding: Judge = (
            RecordedJudge(judgements)
            if judgements is not None
            else opened.enter_context(_judge(judge, judge_url, out, key_variable, on_progress))
        )
        scored = score_run(samples, found.by_id, deciding, system, found.problems, found.named)
    write_scored(out, scored)
    for problem in found.named:
        note(problem)
    _write_report(out, seed, None)


@steps.command()
def report(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", parser=given_path, help="A scored folder.")],
    seed: Seed = 0,
    images: Annotated[Path | None, _file("Pictures to show in the page.", "PLACE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Write the report of a scored folder anew: report.json, report.md, report.html."""
    from llava_grounding.benchmark.scored_runs import read_scored

    task = read_scored(folder).about.task
    if task != _task_of(ctx):
        raise UsageError(f"{quoted(str(folder))} holds scores of {task}, not of {_task_of(ctx)}")
    _write_report(folder, seed, images, as_json)


@benchmarks.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", parser=given_path, help="A scored folder.")],
    second: Annotated[
        Path, typer.Argument(metavar="B", parser=given_path, help="A second scored folder, of the same set.")
    ],
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON and nothing else.")] = False,
    out: Annotated[Path | None, _file("Write the comparison to this file as JSON.")] = None,
) -> None:
    """Compare two systems on the same set: paired bootstrap, and which samples changed."""
    from llava_grounding.benchmark.comparison import compare_folders
    from llava_grounding.benchmark.files import as_json as to_json
    from llava_grounding.benchmark.scored_runs import JUDGEMENTS, SCORED, SCORES

    if out is not None:
        kept = (*_REPORTS, SCORED, SCORES, JUDGEMENTS)
        check_out(out.parent, [out.name], [("results", folder / name) for folder in (first, second) for name in kept])
    found = compare_folders(first, second, seed)
    text = to_json(found.to_dict(), indent=2)
    say(text if as_json else found.to_markdown())
    if out is not None:
        write_files(out.parent, {out.name: text.encode()})


def _read_set(ctx: typer.Context, path: Path) -> SampleSet:
    from llava_grounding.benchmark.samples import SampleSet

    samples = SampleSet.read(path)
    if samples.task != _task_of(ctx):
        raise UsageError(f"{quoted(str(path))} is a set of {samples.task}, not of {_task_of(ctx)}")
    return samples


def _spec(
    model: str | None,
    place: str,
    device: str | None,
    base_url: str | None,
    max_new_tokens: int,
    num_queries: int | None,
) -> SystemSpec:
    from llava_grounding.benchmark.systems import SystemSpec

    if not place:
        raise UsageError("asking a system needs the pictures; give their folder with --images")
    if base_url is not None:
        if not model:
            raise UsageError("a server needs the name of its model; give --model")
        if num_queries is not None:
            raise UsageError("a server decides by itself how many object queries it has; leave out --queries")
        return SystemSpec("endpoint", model, "", base_url, place, None, max_new_tokens)
    from llava_grounding.benchmark.report import hash_settings, hash_weights
    from llava_grounding.checkpoints import find_checkpoint

    name, folder = find_checkpoint(model)
    hashes = hash_weights(folder), hash_settings(folder)
    return SystemSpec(
        "model", model or name, hashes[0], "", place, device, max_new_tokens, num_queries, settings_hash=hashes[1]
    )


def _predictions(
    samples: SampleSet, out: Path, path: Path | None, format: str, frame: str | None, name: str | None
) -> tuple[Imported, dict[str, Any]]:
    """Predictions and what a report says of their system."""
    from llava_grounding.benchmark.adapters import adapter
    from llava_grounding.benchmark.files import read_json_object
    from llava_grounding.benchmark.predictions import read_predictions
    from llava_grounding.benchmark.report import hash_files
    from llava_grounding.benchmark.runs import CONFIG, PREDICTIONS
    from llava_grounding.data.plain_files import file_hash

    if path is not None:
        found = read_predictions(path, samples, adapter(format), frame)
        about = {"kind": "imported", "name": name or path.stem, "format": format, "lines": found.num_lines}
        about["sha256"] = hash_files(sorted(path.glob("*.json"))) if path.is_dir() else file_hash(path)
        return found, about | ({"frame": frame} if frame else {})
    if not (out / PREDICTIONS).is_file():
        raise UsageError(f"{quoted(str(out))} has no {PREDICTIONS} yet: finish `run`, or give --predictions")
    config = read_json_object(out / CONFIG)
    if config["set"]["sha256"] != samples.digest:
        raise UsageError(f"{quoted(str(out))} holds answers to another set than --set")
    system = dict(config["system"])
    return read_predictions(out / PREDICTIONS, samples, adapter("plain")), system | ({"name": name} if name else {})


@contextmanager
def _judge(
    name: str, url: str | None, out: Path, key_variable: str, on_progress: Callable[[int, int], None]
) -> Iterator[Judge]:
    from llava_grounding.benchmark.judging import DeterministicJudge

    if url is None:
        if name != "deterministic":
            raise UsageError(f"the judge {quoted(name)} needs --judge-url, the server it is behind")
        yield DeterministicJudge()
        return
    from llava_grounding.benchmark.endpoint_judge import EndpointJudge, JudgeSettings
    from llava_grounding.endpoints.client import OpenAIEndpoint
    from llava_grounding.endpoints.locking import locked
    from llava_grounding.endpoints.store import Store

    (out / _STORE).mkdir(parents=True, exist_ok=True)
    with locked(out / _STORE):
        store = Store(out / _STORE)
        try:
            key = environ.get(key_variable) or "none"
            yield EndpointJudge(
                store,
                lambda: OpenAIEndpoint(url, key),
                JudgeSettings(name),
                on_progress=lambda progress: on_progress(progress.samples, progress.samples + 1),
            )
        finally:
            store.close()


def _write_report(folder: Path, seed: int, images: Path | None, as_json: bool = False) -> None:
    from llava_grounding.benchmark.files import write_aside
    from llava_grounding.benchmark.results_page import results_page
    from llava_grounding.benchmark.scored_runs import results_of

    results = results_of(folder, seed)
    text = results.to_json()
    page = results_page(results, None if images is None else _pictures(images))
    for name, content in zip(_REPORTS, (text, results.to_markdown(), page), strict=True):
        write_aside(folder / name, content.encode())
    if as_json:
        say(text)
    else:
        show_table(results)
        note(f"report.json, report.md and report.html are in {folder}")


def _pictures(place: Path) -> Callable[[str], bytes | None]:
    from llava_grounding.data.images import open_images
    from llava_grounding.errors import DataError

    store = open_images(place)

    def picture(name: str) -> bytes | None:
        try:
            return store.locate(name)()
        except DataError:
            return None

    return picture


def _progress(what: str) -> AbstractContextManager[ShowProgress]:
    """A bar on stderr with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return progress_bar(what, None, *columns)
