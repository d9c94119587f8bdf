"""`llava-grounding mcp FOLDER…`: tools for agents over standard input and output."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import DeviceOption, MegapixelsOption, ModelOption
from llava_grounding.cli.outputs import given_path
from llava_grounding.errors import UsageError, missing_extra, quoted


def mcp(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", parser=given_path, help="Allowed folder of pictures; nothing outside is opened."
        ),
    ],
    model: ModelOption = None,
    device: DeviceOption = None,
    max_megapixels: MegapixelsOption = None,
) -> None:
    """Give agents tools over standard input and output (MCP): ask_image, ground_phrases, draw_answer."""
    if find_spec("mcp") is None:
        raise missing_extra("mcp", "the tools for agents")
    import asyncio

    from llava_grounding.confined_files import AllowedFolders
    from llava_grounding.mcp.server import build_server
    from llava_grounding.mcp.tools import Tools

    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"a folder of pictures must exist, got {quoted(str(folder))}")
    limits = common.image_limits(max_megapixels)
    allowed = AllowedFolders(folders)
    tools = Tools(lambda: common.load_engine(model, device, limits), allowed, limits)
    asyncio.run(build_server(tools, ", ".join(map(str, allowed.folders))).run_stdio_async())
