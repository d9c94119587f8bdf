"""`llava-grounding serve`: the API and the page, until Ctrl-C."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import DeviceOption, MegapixelsOption, ModelOption
from llava_grounding.cli.outputs import given_path
from llava_grounding.cli.report import note
from llava_grounding.errors import missing_extra

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")

ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar="LLAVA_GROUNDING_API_KEY",
        show_default=False,
        help="API key that clients must send; required on any address but loopback.",
    ),
]
AllowedHostOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Host name the server is reached under; repeatable.")
]
MaxPerClientOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Maximum number of concurrent requests of one address; more get a 429.  0: no limit."
    ),
]
FetchHostOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Host that images are fetched from by https; repeatable.  [default: none]"),
]
LabelStudioOption = Annotated[
    bool, typer.Option("--label-studio", help="Also answer Label Studio, below /label-studio.")
]
LabelStudioFilesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", parser=given_path, help="Folder of Label Studio's local storage; tasks name files below it."
    ),
]
LabelStudioUrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Address of Label Studio, for pictures that were uploaded there.")
]
LabelStudioTokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        envvar="LABEL_STUDIO_API_KEY",
        show_default=False,
        help="Token sent to Label Studio for these pictures.",
    ),
]


def serve(
    model: ModelOption = None,
    device: DeviceOption = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    api_key: ApiKeyOption = None,
    allowed_host: AllowedHostOption = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum number of answers generated at once.")
    ] = 16,
    queue_size: Annotated[
        int, typer.Option(metavar="N", min=0, help="Length of the queue; more requests get a 503.")
    ] = 64,
    max_per_client: MaxPerClientOption = 0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, help="Time limit of one request, seconds.")
    ] = 120,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Time to finish requests after a stop signal, seconds.")
    ] = 30,
    image_cache: Annotated[int, typer.Option(metavar="MB", min=0, help="Memory for cached image features.")] = 512,
    dialogue_cache: Annotated[
        int, typer.Option(metavar="MB", min=0, help="Memory for cached keys and values of dialogues.")
    ] = 512,
    fetch_host: FetchHostOption = None,
    label_studio: LabelStudioOption = False,
    label_studio_files: LabelStudioFilesOption = None,
    label_studio_url: LabelStudioUrlOption = None,
    label_studio_token: LabelStudioTokenOption = None,
    max_megapixels: MegapixelsOption = None,
) -> None:
    """Serve the model: an OpenAI-compatible API with regions, and a page to use it."""
    if not all(map(find_spec, _NEEDED)):
        raise missing_extra("serve", "serving")
    from llava_grounding.inference.engine import GroundedChat
    from llava_grounding.serve.server import serve as run
    from llava_grounding.serve.settings import ServeSettings
    from llava_grounding.serve.task_pictures import LabelStudioSettings

    helps_to_label = label_studio or label_studio_files is not None or label_studio_url is not None
    settings = ServeSettings(
        host=host,
        port=port,
        api_key=api_key or None,
        allowed_hosts=tuple(allowed_host or ()),
        batch_size=batch_size,
        queue_size=queue_size,
        max_per_client=max_per_client,
        timeout_seconds=timeout,
        grace_seconds=grace,
        image_limits=common.image_limits(max_megapixels),
        image_cache_bytes=image_cache * 2**20,
        dialogue_cache_bytes=dialogue_cache * 2**20,
        fetch_hosts=tuple(fetch_host or ()),
        label_studio=LabelStudioSettings(label_studio_files, label_studio_url, label_studio_token or None)
        if helps_to_label
        else None,
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    engine = common.load_engine(model, device, settings.image_limits)
    assert isinstance(engine, GroundedChat)
    run(engine, settings, lambda address: note(f"Serving {engine.name} at {address} (Ctrl-C ends)"))
