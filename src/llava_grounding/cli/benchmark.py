"""`llava-grounding benchmark TASK`: measure a model, beside baselines that do not look at the image."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Task(StrEnum):
    """What can be measured."""

    scenes = "scenes"
    photos = "photos"


def benchmark(
    task: Annotated[Task, typer.Argument(help="scenes: unseen drawn scenes; photos: the photo pack's val split.")],
    model: Annotated[str | None, typer.Option(help="A folder or hub id; default the embedded model.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many images; default 300 scenes or all photos.")] = None,
    data: Annotated[Path | None, typer.Option(help="The photo pack; default $LLAVA_GROUNDING_DATA.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file as well.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses scenes, questions and bootstrap draws.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; default cuda where there is one.")] = None,
) -> None:
    """Measure grounding, referring, description and short answers, and print one table."""
    from rich.console import Console
    from rich.progress import Progress

    from llava_grounding.benchmark.quality import evaluate_photos, evaluate_scenes
    from llava_grounding.benchmark.report import hash_weights
    from llava_grounding.checkpoints import find_checkpoint
    from llava_grounding.data.coco import PhotoPack
    from llava_grounding.engine import GroundedChat

    # What cannot work is found out before the minutes of asking.
    pack = PhotoPack(data) if task is Task.photos else None
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
    name, folder = find_checkpoint(model)
    chat = GroundedChat.from_pretrained(model, device)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{task.value} with {name}", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        digest = hash_weights(folder)
        if pack is not None:
            report = evaluate_photos(chat, pack, limit, seed, name, digest, on_progress=tell)
        else:
            report = evaluate_scenes(chat, limit or 300, seed, name, digest, on_progress=tell)
    Console().print(report.to_table())
    if json is not None:
        aside = json.with_name(json.name + ".part")
        aside.write_text(report.to_json(), encoding="utf-8")
        aside.replace(json)
