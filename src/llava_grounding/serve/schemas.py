"""The types on the wire: requests as they are checked, answers as they are described. Knows no model.

What OpenAI's API has keeps its name and meaning; beside it stand regions of the question (`region`), wishes for the
answer's grounding (`grounding`), and the grounding itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava_grounding.errors import UsageError

_MOST_MESSAGES, _MOST_PARTS, _MOST_STOPS = 200, 200, 4
_LONGEST_TEXT = 1_000_000
_MOST_POINTS = 10_000


class _Wire(BaseModel):
    """Strict: a number is no text of one, an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]
Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class TextPart(_Wire):
    """Words."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Wire):
    """Where an image is."""

    url: str = Field(description="A data URL of a PNG, JPEG or WebP; or https, if the server allows the host.")
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="Accepted for OpenAI's clients; it changes nothing here."
    )


class ImagePart(_Wire):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class RunLengths(_Wire):
    """COCO's compressed run-length code of a mask."""

    size: Annotated[list[int], Field(min_length=2, max_length=2, description="Height and width of the image, pixels.")]
    counts: str = Field(max_length=20_000_000)


class RegionPart(_Wire):
    """A place in the image that the question speaks of; exactly one of the four.

    The k-th of them is the k-th `<region>` of the question. Where its words have no `<region>`, each stands for one.
    """

    type: Literal["region"]
    click: Point | None = Field(None, description="Point as x, y in pixels.")
    box: Annotated[list[float], Field(min_length=4, max_length=4)] | None = Field(
        None, description="Box as x0, y0, x1, y1 in pixels."
    )
    scribble: Annotated[list[Point], Field(min_length=1, max_length=_MOST_POINTS)] | None = Field(
        None, description="Points of a stroke."
    )
    mask: RunLengths | str | None = Field(
        None,
        description="A mask of the image's size: run lengths, or a data URL of a picture, white where the region is.",
    )

    @model_validator(mode="after")
    def _is_one(self) -> RegionPart:
        given = [name for name in ("click", "box", "scribble", "mask") if getattr(self, name) is not None]
        if len(given) != 1:
            raise BodyError(f"a region must have one of click, box, scribble and mask, got {len(given)} of them")
        return self


class BodyError(UsageError, ValueError):
    """A fault of ours to tell, which pydantic hands on since it is a ValueError."""


Part = Annotated[TextPart | ImagePart | RegionPart, Field(discriminator="type")]


class Message(_Wire):
    """A turn of the dialogue."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1, max_length=_MOST_PARTS)] | None = None
    name: str | None = Field(None, max_length=64, description="Accepted for OpenAI's clients; it changes nothing here.")
    grounding: dict[str, Any] | None = Field(
        None,
        description="The grounding of an earlier answer as it was received; the model then reads again what it wrote.",
    )
    refusal: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)


class GroundingOptions(_Wire):
    """What regions the answer shall have."""

    mode: Literal["off", "auto", "required"] = Field(
        "auto", description="`off`: words only. `required`: an answer without any region is an error."
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="Score above which a region is kept; left out: the model's own threshold."
    )
    masks: Literal["rle", "polygons", "both", "none"] = Field(
        "rle", description="`none`: boxes only. `polygons`: to be filled by the even-odd rule."
    )


class StreamOptions(_Wire):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Wire):
    """`POST /v1/chat/completions`."""

    model: str = Field(max_length=500)
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MOST_MESSAGES)]
    grounding: Literal["off", "auto", "required"] | GroundingOptions = "auto"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(
        None, ge=0, le=2, description="Sampling temperature; 0, or left out: always the likeliest token."
    )
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stop: (
        Annotated[str, Field(min_length=1, max_length=100)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=_MOST_STOPS)]
        | None
    ) = None
    n: Literal[1] | None = None
    # Of OpenAI's API, where they change nothing: only their neutral values are taken.
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    # And those that are for OpenAI's own book-keeping.
    user: str | None = Field(None, max_length=1000)
    metadata: dict[str, str] | None = Field(None, max_length=16)
    store: bool | None = None
    service_tier: str | None = Field(None, max_length=20)
    safety_identifier: str | None = Field(None, max_length=1000)
    prompt_cache_key: str | None = Field(None, max_length=1000)


class GroundRequest(_Wire):
    """`POST /v1/ground`."""

    model: str | None = Field(None, max_length=500)
    image: ImageUrl
    phrases: Annotated[list[Text], Field(min_length=1, max_length=1000)]
    threshold: float | None = Field(None, ge=0, le=1)
    masks: Literal["rle", "polygons", "both", "none"] = "rle"


class RenderRequest(_Wire):
    """`POST /v1/render`."""

    image: ImageUrl
    answer: dict[str, Any] = Field(description="An answer's grounding as it was received, with masks as run lengths.")
    format: Literal["png", "html", "coco"]
    file_name: str = Field("", max_length=255, description="File name of the image, for COCO.")


class Region(_Wire):
    """One thing found."""

    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    score: float
    area: int
    mask: RunLengths | None = None
    polygons: list[list[float]] | None = None


class Phrase(_Wire):
    """A phrase of the answer and what it names."""

    id: int
    text: str
    span: Annotated[list[int], Field(min_length=2, max_length=2)]
    regions: list[Region]
    score: float
    doubtful: bool | None = None


class Usage(_Wire):
    """Lengths in tokens."""

    prompt_tokens: int
    completion_tokens: int


class PromptDetails(_Wire):
    """What of the prompt did not have to be read."""

    cached_tokens: int


class FullUsage(Usage):
    """Lengths as OpenAI's API gives them."""

    total_tokens: int
    prompt_tokens_details: PromptDetails


class Answer(_Wire):
    """An answer in the format that `--json` prints; see docs/answer-format.md."""

    version: Literal[1]
    text: str
    image_size: Annotated[list[int], Field(min_length=2, max_length=2)]
    phrases: list[Phrase]
    raw: str
    model: str
    usage: Usage


class AnswerMessage(_Wire):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None
    grounding: Answer | None = None


class Choice(_Wire):
    """The one answer."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(_Wire):
    """The answer to a chat request that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: FullUsage


class GroundResponse(_Wire):
    """What was found for each phrase, in order."""

    object: Literal["grounding"]
    model: str
    image_size: Annotated[list[int], Field(min_length=2, max_length=2)]
    phrases: list[Phrase]


class ModelCard(_Wire):
    """A model, and what is particular to it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    score_threshold: float
    doubt_threshold: float | None
    max_model_len: int | None


class ModelList(_Wire):
    """`GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(_Wire):
    """`GET /healthz` and `GET /readyz`."""

    status: Literal["ok", "stopping"]


class ErrorDetail(_Wire):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(_Wire):
    """Any answer that is none."""

    error: ErrorDetail
