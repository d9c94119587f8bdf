"""`llava-grounding train RECIPE [key=value …]`: run one stage of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llava_grounding.cli.report import say


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe that ships, such as own_data, or the path of a file.")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value pairs that win over the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for logs and checkpoints; default runs/RECIPE.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="What paths in the recipe are relative to; the photo pack's folder.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; default cuda if there is one.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Open the data, and print plan, memory and steps instead.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Devices that --dry-run plans for.")] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Read all data once, and print counts and everything that is wrong.")
    ] = False,
) -> None:
    """Train a model by a recipe; a stopped run goes on from its last checkpoint. Several devices: torchrun."""
    import logging

    from llava_grounding.errors import UsageError
    from llava_grounding.train.recipe import load_recipe

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    pairs: dict[str, str] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise UsageError(f"an override must be key=value, got `{override}`")
        pairs[key] = value
    loaded = load_recipe(recipe, pairs)
    if check:
        from llava_grounding.train.sources import check_sources

        raise typer.Exit(
            0 if check_sources([*loaded.data, *loaded.validation], data, lambda line: say(f"{line}\n")) else 1
        )
    if dry_run:
        from llava_grounding.train.dry_run import dry_run as plan

        for line in plan(loaded, data, processes):
            say(f"{line}\n")
        return
    from llava_grounding.train.run import train as run

    run(loaded, out or Path("runs") / Path(recipe).stem, data, device)
