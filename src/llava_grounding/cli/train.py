"""`llava-grounding train RECIPE [key=value …]`: run one stage of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_grounding.cli.outputs import check_out, given_path
from llava_grounding.cli.report import note, say
from llava_grounding.errors import DataError, UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.train.recipe import Recipe

_GIVE_FOLDER = "give the folder that the files of the recipe are in: --data FOLDER"
_WRITTEN = ("recipe.json", "log.jsonl", "best", "last", "pictures")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe that ships, such as custom_data, or the path of a file.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe, as KEY=VALUE.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", parser=given_path, help="Folder for logs and checkpoints.  [default: runs/RECIPE]"),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        parser=given_path,
        help="Folder that paths in the recipe are relative to; the photo pack's.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 or mps.  [default: cuda if there is one]")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Open the data and print plan, memory and steps; train nothing.")
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Read all data once and print counts and everything that is wrong; train nothing."),
]


def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: OutOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    dry_run: DryRunOption = False,
    processes: Annotated[int, typer.Option(metavar="N", min=1, help="Number of devices that --dry-run plans for.")] = 1,
    check: CheckOption = False,
) -> None:
    """Train a model by a recipe; a stopped run resumes from its last checkpoint. Several devices: torchrun."""
    import logging

    from llava_grounding.train.recipe import load_recipe

    loaded = load_recipe(recipe, _pairs(overrides or []))
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {quoted(str(data))} is no folder; give the one that the files of the recipe are in")
    from llava_grounding.checkpoints import choose_device

    choose_device(device)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    with _naming_data(loaded, data):
        if check:
            from llava_grounding.train.batching.sources import check_sources

            fine = check_sources([*loaded.data, *loaded.validation], data, lambda line: say(f"{line}\n"))
            if not fine and _lacks_folder(loaded, data):
                note(f"Error: files are missing; {_GIVE_FOLDER}")
            raise typer.Exit(0 if fine else 1)
        if dry_run:
            from llava_grounding.train.dry_run import dry_run as plan

            for line in plan(loaded, data, processes):
                say(f"{line}\n")
            return
        from llava_grounding.train.recipe_file import find_recipe
        from llava_grounding.train.run import train as run

        folder = out or Path("runs") / find_recipe(recipe).stem
        names = [*_WRITTEN, *(path.name for path in folder.glob("checkpoint-*"))]
        inputs = [("recipe", find_recipe(recipe)), *_files_read(loaded, data)]
        check_out(folder, names, inputs, are_files=False)
        run(loaded, folder, data, device)


def _pairs(overrides: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UsageError(f"an override must be key=value, got {quoted(override)}")
        pairs[key] = value
    return pairs


def _files_read(recipe: Recipe, root: Path | None) -> Iterator[tuple[str, Path]]:
    """The files and folders that a recipe names, each with what it is."""
    if recipe.start_from is not None:
        yield "model to start from", Path(recipe.start_from)
    for source in (*recipe.data, *recipe.validation):
        for value in source.values():
            if isinstance(value, str):
                yield "data", (root or Path()) / value


@contextmanager
def _naming_data(recipe: Recipe, root: Path | None) -> Iterator[None]:
    """Say how to give the folder of the data where files are missing for want of it."""
    try:
        yield
    except DataError as error:
        if not _lacks_folder(recipe, root):
            raise
        raise DataError(f"{error}; {_GIVE_FOLDER}") from error


def _lacks_folder(recipe: Recipe, root: Path | None) -> bool:
    """Whether files are missing and no folder was given to find them in."""
    from llava_grounding.train.batching.sources import is_there

    needed = [source for source in (*recipe.data, *recipe.validation) if not source.get("optional")]
    return root is None and not all(is_there(source, None) for source in needed)
