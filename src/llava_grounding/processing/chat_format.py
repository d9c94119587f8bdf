"""Chats as transformers writes them: messages made of parts, and the jinja template that renders them.

Beside the usual `{"type": "image"}` and `{"type": "text"}` there is a part of ours for a place in the image:
`{"type": "region", "box": [x0, y0, x1, y1]}`, or `click`, `scribble`, `mask`. Knows no tokenizer.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava_grounding.errors import DataError, ImageError, PromptError, shown
from llava_grounding.image_files import ImageSource, load_mask
from llava_grounding.markup import REGION
from llava_grounding.processing.conversation import ChatTemplate, PromptPiece
from llava_grounding.processing.tokens import IMAGE
from llava_grounding.structures import Message, VisualPrompt
from llava_grounding.visual_prompts import prompt_from_dict

_IMAGE_KEYS = ("image", "path", "url", "base64")
_TEXT, _SYSTEM = "\x00", "\x01"  # stand for what a message says while the template is taken apart


@dataclass(frozen=True)
class ParsedChat:
    """A chat read from messages of parts."""

    messages: tuple[Message, ...]
    """User and assistant in turn; region parts are `<region>` in the text."""
    grounded: tuple[bool, ...]
    """Per question, whether its answer shall be grounded."""
    image: ImageSource | None
    """What the image part holds; None where it holds nothing, or there is no image part."""
    system: str | None
    """What the system message says; None without one."""

    @property
    def prompts(self) -> list[VisualPrompt]:
        """Visual prompts of all questions, in order."""
        return [prompt for message in self.messages if message.role == "user" for prompt in message.prompts]


def read_chat(messages: Sequence[Mapping[str, Any]], grounded: bool) -> ParsedChat:
    """Read messages as `apply_chat_template` takes them.

    Args:
        messages: `{"role": ..., "content": ...}`, where the content is a text or a list of parts; a user's message may
            also have the key "grounded".
        grounded: for questions that do not say.

    Raises:
        PromptError: if a part cannot be read, or an image is not part of the first question.
    """
    if not is_list(messages):
        raise PromptError(f"a chat must be a list of messages, got {shown(messages)}")
    if not messages:
        raise PromptError("a chat must have at least one message, got none")
    system = None
    if _role(messages[0]) == "system":
        system = _read_parts(messages[0])[0]
        messages = messages[1:]
        if not messages:
            raise PromptError("a chat must have a question besides its system message, got none")
    read, flags, image = [], [], None
    for index, message in enumerate(messages):
        role = _role(message)
        text, prompts, images = _read_parts(message)
        if len(images) > (1 if index == 0 else 0):
            raise PromptError("a chat must be about one image, which is a part of its first question")
        image = images[0] if images else image
        read.append(Message(role, text, tuple(prompts)))  # type: ignore[arg-type]  # checks it itself
        if index % 2 == 0:
            flags.append(bool(message.get("grounded", grounded)))
    return ParsedChat(tuple(read), tuple(flags), image, system)


def is_list(value: object) -> bool:
    """Whether it is a sequence of things, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _role(message: Mapping[str, Any]) -> str:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise PromptError(f"a message must be a mapping with role and content, got {shown(message)}")
    return str(message["role"])


def _read_parts(message: Mapping[str, Any]) -> tuple[str, list[VisualPrompt], list[ImageSource | None]]:
    """Text, region prompts and images of a message.

    Region parts stand where they are, unless the text already has `<region>`: then they only say what those mean.
    """
    content = message["content"]
    if not isinstance(content, (str, list, tuple)):
        raise PromptError(f"the content of a message must be a text or a list of parts, got {type(content).__name__}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = [_text_of(part) for part in parts if _type_of(part) == "text"]
    written = any(REGION in text for text in texts)
    pieces: list[str] = []
    prompts: list[VisualPrompt] = []
    images: list[ImageSource | None] = []
    for part in parts:
        kind = _type_of(part)
        if kind == "text":
            pieces.append(_text_of(part))
        elif kind == "region":
            prompts.append(region_prompt(part))
            pieces += [] if written else [REGION]
        elif kind in ("image", "image_url"):
            images.append(_image_of(part))
        else:
            raise PromptError(f"a part of a message must be of type text, image or region, got {shown(kind)}")
    return "".join(pieces), prompts, images


def _type_of(part: Any) -> str:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise PromptError(f"a part of a message must be a mapping with a type, got {shown(part)}")
    return part["type"]


def _text_of(part: Mapping[str, Any]) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise PromptError(f"a text part must hold a text, got {shown(text)}")
    return text


def _image_of(part: Mapping[str, Any]) -> ImageSource | None:
    if part["type"] == "image_url":
        value = part.get("image_url")
        return _fetched(value.get("url") if isinstance(value, Mapping) else value)
    key = next((key for key in _IMAGE_KEYS if part.get(key) is not None), None)
    if key is None:
        return None
    return _decoded(part[key]) if key == "base64" else _fetched(part[key])


def _fetched(source: Any) -> ImageSource:
    """An image source as it is; a data URL is decoded, and nothing is fetched from the network."""
    if isinstance(source, str) and source.startswith("data:"):
        return _decoded(source.partition(",")[2])
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        raise ImageError(f"images are not fetched from the network; download `{source[:80]}` and give its path")
    return source


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ImageError("an image given as text must be base64, and this is not") from error


def region_prompt(part: VisualPrompt | Mapping[str, Any]) -> VisualPrompt:
    """The visual prompt a region part describes, in pixels of the original image.

    Args:
        part: with one of `box` [x0, y0, x1, y1], `click` [x, y], `scribble` [[x, y], ...], or `mask`: an array (H, W),
            a path, or COCO's `{"size": ..., "counts": ...}`.

    Raises:
        PromptError: if it has none of them, or several, or the numbers do not fit.
    """
    if isinstance(part, VisualPrompt):
        return part
    return prompt_from_dict(part, _mask_of)


def _mask_of(value: Any) -> VisualPrompt:
    if isinstance(value, Mapping):
        try:
            return VisualPrompt.mask_from_rle(value)
        except DataError as error:
            raise PromptError(f"a mask must be a run-length code: {error}") from error
    return VisualPrompt.mask_of(load_mask(value) if isinstance(value, str | bytes | os.PathLike) else value)


def prompt_pieces(template: ChatTemplate, prompt: str, end: str, num_regions: int) -> tuple[list[PromptPiece], bool]:
    """Take a rendered prompt apart where the template joined its pieces, so that it gets the same tokens again.

    Args:
        end: text of the end token.
        num_regions: how many `<region>`, from the first on, are placeholders.

    Returns:
        The pieces, and whether the last answer is begun but not ended.
    """
    pieces: list[PromptPiece] = []
    turns = prompt.split(end)
    for turn in turns:
        question, mark, answer = turn.partition(template.assistant)
        for number, part in enumerate((question + mark).split(IMAGE)):
            pieces += [PromptPiece(IMAGE, "image")] if number else []
            regions = min(num_regions, part.count(REGION))
            num_regions -= regions
            pieces += [PromptPiece(part, "question", regions)] if part else []
        pieces += [PromptPiece(answer, "answer", in_loss=True)] if answer else []
    return pieces, bool(pieces) and bool(turns[-1]) and pieces[-1].kind == "answer"


def jinja_template(template: ChatTemplate) -> str:
    """The template as jinja, which renders the same text for messages of parts; the end token follows each answer.

    It knows `grounded` (true unless given, or said by a message) and `add_generation_prompt`. Image and regions are one
    placeholder each; `<image>` opens the first question wherever its part stands.
    """
    first, after = _around_text(template, grounded=False, first=True)
    system, _ = _around_text(replace(template, system=_SYSTEM), grounded=False, first=True)
    later, _ = _around_text(template, grounded=False, first=False)
    _, after_grounded = _around_text(template, grounded=True, first=False)
    answer, answer_end = template.answer(_TEXT).text.split(_TEXT)
    before_system, after_system = system.split(_SYSTEM)
    names = {
        "first": first,
        "before_system": before_system,
        "after_system": after_system,
        "later": later,
        "suffix": after_grounded.removesuffix(after),
        "after": after.removesuffix(template.assistant),
        "assistant": template.assistant,
        "answer": answer,
        "answer_end": answer_end,
        "region": REGION,
    }
    settings = "".join(f"{{%- set _{name} = {_literal(value)} -%}}\n" for name, value in names.items())
    return settings + _JINJA


def _around_text(template: ChatTemplate, grounded: bool, first: bool) -> tuple[str, str]:
    """What stands before and after the text of a question."""
    text = "".join(piece.text for piece in template.question(_TEXT, 0, grounded, first))
    before, after = text.split(_TEXT)
    return before, after


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


_JINJA = """\
{%- macro words(content) -%}
  {%- if content is string -%}{{ content }}
  {%- else -%}
    {%- set ns = namespace(written=false) -%}
    {%- for part in content if part['type'] == 'text' and _region in part['text'] -%}
      {%- set ns.written = true -%}
    {%- endfor -%}
    {%- for part in content -%}
      {%- if part['type'] == 'text' -%}{{ part['text'] }}
      {%- elif part['type'] == 'region' and not ns.written -%}{{ _region }}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(first=_first, turn=0) -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' -%}
    {%- set ns.first = _before_system + words(message['content']) + _after_system -%}
  {%- elif message['role'] == 'user' -%}
    {%- set wanted = grounded if grounded is defined else true -%}
    {%- set wanted = message['grounded'] if message['grounded'] is defined else wanted -%}
    {{- ns.first if ns.turn == 0 else _later -}}
    {{- words(message['content']) | trim -}}
    {{- (_suffix if wanted else '') + _after -}}
    {%- if not loop.last or add_generation_prompt -%}{{- _assistant -}}{%- endif -%}
    {%- set ns.turn = ns.turn + 1 -%}
  {%- else -%}
    {{- _answer + words(message['content']) + _answer_end + eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""
