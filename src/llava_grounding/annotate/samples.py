"""What is to be annotated, as a stream: captions or dialogues, each with the image it is about, and shards of them.

Knows no labels and no prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_grounding.annotate.json_stream import Row, iter_rows
from llava_grounding.data.image_names import coco_number
from llava_grounding.data.readers.gvc import SUFFIX, is_refusal
from llava_grounding.data.readers.llava import entry_of, label_of
from llava_grounding.data.readers.parts.numbers import EntryError, whole_number
from llava_grounding.data.readers.parts.rows import pairs_of
from llava_grounding.data.readers.parts.texts import plain_text, words_of
from llava_grounding.errors import DataError, UsageError, quoted, shown

SourceKind = Literal["captions", "dialogues"]
_LONGEST_SHARD = 30  # characters


@dataclass(frozen=True)
class TextTurn:
    """A question and its answer; a caption has no question."""

    question: str | None
    answer: str


@dataclass(frozen=True)
class TextSample:
    """One caption or one dialogue.

    Args:
        position: of its row in the file, from 1.
        id: as the file calls it.
        image: id (captions) or file name (dialogues) of its image.
        turns: one for a caption.
    """

    position: int
    id: str
    image: int | str
    turns: tuple[TextTurn, ...]


@dataclass(frozen=True)
class Unusable:
    """A row that is no sample, and why."""

    position: int
    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the images, from 1: disjoint by the hash of what an image is called."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8` is the second of eight.

        Raises:
            UsageError: if it is none.
        """
        number, _, count = text.partition("/")
        is_share = len(text) <= _LONGEST_SHARD and number.isdecimal() and count.isdecimal()
        if not (is_share and 1 <= int(number) <= int(count)):
            raise UsageError(f"a shard must be K/N with 1 <= K <= N, such as 2/8, got {quoted(text)}")
        return cls(int(number), int(count))

    def holds(self, image: int | str) -> bool:
        """Whether an image belongs here; all names that COCO's releases have for one picture belong together."""
        if self.count == 1:
            return True
        number = coco_number(image) if isinstance(image, str) else image
        digest = hashlib.sha256(str(image if number is None else number).encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def iter_samples(path: Path, kind: SourceKind, shard: Shard | None = None) -> Iterator[TextSample | Unusable]:
    """The samples of a COCO captions file or a LLaVA-style file of dialogues, in order.

    Rows whose image cannot be told belong to the first shard.

    Raises:
        DataError: if the file cannot be read or is of another kind.
    """
    shard = shard or Shard()
    read = _caption if kind == "captions" else _dialogue
    for row in iter_rows(path, ("annotations",) if kind == "captions" else ()):
        if row.number == 1:
            _check_kind(path, kind, row.value)
        image: int | str | None = None
        name = label_of(row.value, f"row {row.number}")
        try:
            image = _image_of(row.value, kind)
            if not shard.holds(image):
                continue
            yield TextSample(row.number, name, image, read(row))
        except EntryError as why:
            if image is None and shard.number != 1:
                continue
            yield Unusable(row.number, name, why.reason, str(why))


def _check_kind(path: Path, kind: SourceKind, first: Any) -> None:
    key = "caption" if kind == "captions" else "conversations"
    if isinstance(first, Mapping) and key not in first:
        other = "dialogues" if "conversations" in first else "captions" if "caption" in first else None
        hint = f"; give it as --{other}" if other else ""
        raise DataError(f"{path} must have `{key}` in its rows to be a file of {kind}, got {shown(first)}{hint}")


def _image_of(value: Any, kind: SourceKind) -> int | str:
    if kind == "dialogues":
        return entry_of(value)[0]
    if not isinstance(value, Mapping):
        raise EntryError("caption that is no object", f"must be an object with `caption`, got {shown(value)}")
    number = whole_number(value.get("image_id"), "image id")
    if abs(number) >= 2**63:
        raise EntryError("image id out of range", f"image_id must have 64 bits, got {number}")
    return number


def _caption(row: Row) -> tuple[TextTurn, ...]:
    text = plain_text(row.value.get("caption"), "a caption")
    return (TextTurn(None, _not_refused(text)),)


def _dialogue(row: Row) -> tuple[TextTurn, ...]:
    return tuple(
        TextTurn(_question(question), _answer(answer)) for question, answer in pairs_of(row.value.get("conversations"))
    )


def _question(value: Any) -> str:
    """The question without the request for grounding, which is written where an answer turns out to be grounded."""
    return words_of(words_of(value, "a question").removesuffix(SUFFIX), "a question")


def _answer(value: Any) -> str:
    return _not_refused(words_of(value, "an answer"))


def _not_refused(text: str) -> str:
    if is_refusal(text):
        raise EntryError("refusal", f"the answer refuses: {shown(text)}")
    return text
