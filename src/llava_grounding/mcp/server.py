"""The tools on the wire: names and descriptions that a language model chooses by, errors as sentences it can act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from llava_grounding import __version__
from llava_grounding.errors import LlavaGroundingError
from llava_grounding.mcp.tools import FoundAnswer, Tools

Result = TypeVar("Result")
_INSTRUCTIONS = (
    "Looks at pictures on this machine. Answers tie their phrases to boxes in pixels of the upright picture, counted "
    "from its upper left corner. Pictures are named by paths in {folders}."
)
_READS_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

ImagePath = Annotated[str, Field(description="Path of a JPEG, PNG or WebP file in the allowed folders.")]


def build_server(tools: Tools, folders: str) -> MCPServer:
    """A server with the tools, to be run over any transport.

    Args:
        folders: the allowed ones, as clients are told of them.
    """
    server = MCPServer(
        "llava-grounding", version=__version__, instructions=_INSTRUCTIONS.format(folders=folders), log_level="WARNING"
    )

    @server.tool(title="Ask about a picture", annotations=_READS_ONLY)
    def ask_image(
        image: ImagePath,
        question: Annotated[str, Field(description="The question; it may name <region>, once for each of `regions`.")],
        regions: Annotated[
            list[list[float]] | None,
            Field(description="A point [x, y] or a box [x0, y0, x1, y1] for each <region>, in pixels."),
        ] = None,
    ) -> FoundAnswer:
        """Ask a question about a picture, such as "Describe the image." The phrases of the answer come with the boxes
        of the things they name. To point at something, write <region> in the question and give its place."""
        return _told(lambda: tools.ask_image(image, question, regions or ()))

    @server.tool(title="Find things in a picture", annotations=_READS_ONLY)
    def ground_phrases(
        image: ImagePath,
        phrases: Annotated[list[str], Field(description='What to find, as ["the red bus", "people"]; at most 32.')],
    ) -> FoundAnswer:
        """Find where things are in a picture: the boxes of all that each phrase names, none if it is not there."""
        return _told(lambda: tools.ground_phrases(image, phrases))

    @server.tool(title="Draw an answer", annotations=_READS_ONLY)
    def draw_answer(
        answer_id: Annotated[str, Field(description="The `answer_id` of an earlier answer of the other tools.")],
    ) -> Image:
        """See an earlier answer: its picture with the boxes, masks and phrases drawn into it."""
        return _told(lambda: Image(data=tools.draw_answer(answer_id), format="png"))

    return server


def _told(work: Callable[[], Result]) -> Result:
    """What is wrong with a call goes to the client as our sentence; what is wrong with us does not."""
    try:
        return work()
    except LlavaGroundingError as error:
        raise ToolError(str(error)) from error
