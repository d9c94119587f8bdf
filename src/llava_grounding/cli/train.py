"""`llava-grounding train RECIPE [key=value …]`: run one stage of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, such as configs/nano_pretrain.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value pairs that win over the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for logs and checkpoints; default runs/RECIPE.")] = None,
    data: Annotated[Path | None, typer.Option(help="The photo pack; default $LLAVA_GROUNDING_DATA.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; default cpu.")] = None,
) -> None:
    """Train the small model, one stage after the other; a stopped run goes on from its last checkpoint."""
    import logging

    from llava_grounding.errors import UsageError
    from llava_grounding.train.recipe import load_recipe
    from llava_grounding.train.workshop import train as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    pairs: dict[str, str] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise UsageError(f"an override must be key=value, got `{override}`")
        pairs[key] = value
    run(load_recipe(recipe, pairs), out or Path("runs") / recipe.stem, data, device)
