"""The tools as a client of the protocol's own SDK meets them, over the command's standard input and output."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sdk = pytest.importorskip("mcp")

FAKE = """
import sys
from llava_grounding.cli import common, main
from fake_engine import FakeEngine
def load(*given):
    print("a library that talks while it loads")
    return FakeEngine(prints="and while it answers\\n")
common.load_engine = load
main.main(["mcp", *sys.argv[1:]])
"""
SIZE = (64, 48)


def talk(folders: list[Path], conversation: Callable[[Any], Awaitable[None]]) -> None:
    """Run the command in a process of its own, with a model of a few lines, and talk to it."""
    paths = [str(Path(__file__).parents[1] / "cli"), *sys.path]
    command = sdk.StdioServerParameters(
        command=sys.executable,
        args=["-c", FAKE, *map(str, folders)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )

    async def run() -> None:
        async with sdk.Client(command) as client:
            await conversation(client)

    asyncio.run(asyncio.wait_for(run(), 60))


def said(result: Any) -> str:
    assert result.is_error
    (part,) = result.content
    return str(part.text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_an_agent_asks_finds_and_sees_and_gets_at_nothing_else(tmp_path: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    (allowed / "deep").mkdir(parents=True)
    other.mkdir()
    for path in (allowed / "deep" / "photo.png", other / "second.png", tmp_path / "secret.png"):
        Image.new("RGB", SIZE, (90, 120, 150)).save(path)
    (allowed / "link.png").symlink_to(tmp_path / "secret.png")
    (allowed / "folder").symlink_to(tmp_path)
    (allowed / "inside.png").symlink_to(allowed / "deep" / "photo.png")
    (allowed / "notes.txt").write_text("no picture")
    os.mkfifo(allowed / "pipe.png")

    async def conversation(client: Any) -> None:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(listed) == ["ask_image", "draw_answer", "ground_phrases"]
        assert set(listed["ask_image"].input_schema["required"]) == {"image", "question"}
        described = [one for tool in listed.values() for one in tool.input_schema["properties"].values()]
        assert all(one["description"] for one in described)
        assert all(tool.annotations.read_only_hint for tool in listed.values())

        asked = await client.call_tool(
            "ask_image", {"image": "deep/photo.png", "question": "What is <region>?", "regions": [[5, 5]]}
        )
        assert not asked.is_error, asked.content
        answer = asked.structured_content
        assert (answer["text"], answer["image_size"]) == ("A disc, no birds.", list(SIZE))
        disc, birds = answer["phrases"]
        assert disc["regions"] == [{"box": [0, 0, 32, 24], "area": 32 * 24, "score": 0.75}]
        assert (birds["text"], birds["regions"]) == ("no birds", [])

        drawn = await client.call_tool("draw_answer", {"answer_id": answer["answer_id"]})
        (part,) = drawn.content
        shown = Image.open(io.BytesIO(base64.b64decode(part.data)))
        assert (part.mime_type, shown.format) == ("image/png", "PNG")
        assert len(shown.convert("RGB").getcolors(2**16) or ()) > 2  # not the bare picture

        for path in ("second.png", str(allowed / "deep" / "photo.png"), "inside.png"):
            found = await client.call_tool("ground_phrases", {"image": path, "phrases": ["a disc", "a bird"]})
            assert [len(one["regions"]) for one in found.structured_content["phrases"]] == [1, 0]

        for path in (
            "../secret.png",
            str(tmp_path / "secret.png"),
            "link.png",
            "folder/secret.png",
            "deep/../../secret.png",
            "none.png",
            "pipe.png",
            "deep",
            "",
            "nul\0.png",
            "/etc/passwd",
        ):
            refused = said(await client.call_tool("ask_image", {"image": path, "question": "What?"}))
            assert "there is no picture" in refused, path
            assert refused.endswith("in the allowed folders")
        told = said(await client.call_tool("ask_image", {"image": "notes.txt", "question": "What?"}))
        assert "image `notes.txt`" in told
        assert "expected a JPEG, PNG or WebP" in told or "is not" in told
        assert "there is no answer `x` to draw" in said(await client.call_tool("draw_answer", {"answer_id": "x"}))
        many = {"image": "second.png", "phrases": ["a"] * 33}
        assert "phrases must be 1 to 32, got 33" in said(await client.call_tool("ground_phrases", many))
        three = {"image": "second.png", "question": "<region>", "regions": [[1, 2, 3]]}
        assert "a region must be x, y or x0, y0, x1, y1, got 3" in said(await client.call_tool("ask_image", three))
        assert said(await client.call_tool("ask_image", {"image": "second.png"}))  # no question

    talk([allowed, other], conversation)
