"""What readers of dialogues share: entries of a file, texts that can be learnt from, questions and answers in turn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore, open_images
from llava_grounding.data.readers.parts.files import read_lines_or_json
from llava_grounding.data.readers.parts.image_rows import IMAGE_MISSING
from llava_grounding.data.readers.parts.left_out import named
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.texts import IMAGE_TOKEN, words_of
from llava_grounding.data.record import RecordedTurn
from llava_grounding.errors import DataError, MarkupError, shown
from llava_grounding.markup import PHRASE_END, PHRASE_START, SEG, format_markup, parse, parse_strict

LOSS_KEYS = ("loss", "weight")
"""Keys of an answer by which chats say whether it is to be learnt: Swift's, and OpenAI's."""
NOT_IN_LOSS = "answer not to be learnt"
"""Reason for which a dialogue is left out."""
_GLUED = re.compile(rf"({SEG})(?=\w)|(?<=\w)({PHRASE_START})")


def image_store(images: str | Path | ImageStore) -> ImageStore:
    """The store itself, or the one at that place: a folder, tar shards or a zip."""
    return open_images(images) if isinstance(images, str | Path) else images


def images_beside(labels: Path) -> Path:
    """Where pictures are looked for by default: in `images` beside the file or in the folder of labels, else there."""
    folder = labels if labels.is_dir() else labels.parent
    images = folder / "images"
    return images if images.is_dir() else folder


def check_present(images: ImageStore, file_name: str) -> None:
    """See that the picture is there, as far as the store can tell without reading it.

    Raises:
        EntryError: if it is not.
    """
    if not images.has(file_name):
        names = getattr(images, "names", None)
        alike = names().suggest(file_name) if names else None
        hint = "" if alike is None else f"; there is {named(alike)}, did you mean that?"
        raise EntryError(IMAGE_MISSING, f"there is no image {named(file_name)}{hint}")


def read_entries(path: str | Path, what: str) -> list[tuple[str, Any]]:
    """The entries of a JSON list, or of a file with one object per line, each with its place: `entry 3` or `line 3`.

    Args:
        what: what one entry is, for the message.

    Raises:
        DataError: if the file cannot be read or is no list.
    """
    entries, value = read_lines_or_json(path)
    if entries is not None:
        return [(f"line {number}", entry) for number, entry in entries]
    if not isinstance(value, list):
        raise DataError(f"{path} must be a list of {what}, got {shown(value)}")
    return [(f"entry {number}", entry) for number, entry in enumerate(value, start=1)]


def canonical_markup(answer: str) -> tuple[str, int]:
    """Grounded text with the blanks of our own markup, however the file sets them, and how many phrases it has.

    Raises:
        EntryError: if a special token is not part of a whole phrase.
    """
    parsed = parse(_GLUED.sub(lambda match: f"{match[1]} " if match[1] else f" {match[2]}", answer), tidy=True)
    if any(answer.count(token) != len(parsed.phrases) for token in (PHRASE_START, PHRASE_END, SEG)):
        try:
            parse_strict(answer)  # says what is wrong
        except MarkupError as error:
            raise EntryError("broken markup", str(error)) from error
    return format_markup(parsed.text, [phrase.span for phrase in parsed.phrases]), parsed.num_segs


def pairs_of(conversations: Any) -> list[tuple[str, Any]]:
    """Questions and answers of a LLaVA-style dialogue; `<image>` before or after the first question is taken away.

    Raises:
        EntryError: if it is not `human` and `gpt` in turn, holds another `<image>`, or an answer is not to be learnt.
    """
    if not isinstance(conversations, list) or not conversations or len(conversations) % 2:
        raise EntryError("no dialogue", f"conversations must be pairs of turns, got {shown(conversations)}")
    try:
        roles, values = [turn["from"] for turn in conversations], [turn["value"] for turn in conversations]
    except (TypeError, LookupError):
        roles, values = [], []
    if roles != ["human", "gpt"] * (len(conversations) // 2):
        for index, turn in enumerate(conversations):
            role = "gpt" if index % 2 else "human"
            if not isinstance(turn, dict) or turn.get("from") != role or "value" not in turn:
                raise EntryError("roles out of turn", f"turn {index + 1} must be from `{role}`, got {shown(turn)}")
    if not all(type(question) is str for question in values[::2]):
        raise EntryError("not text", "each question must be text")
    if any(len(turn) > 2 and not in_loss_of(turn) for turn in conversations[1::2]):
        raise EntryError(NOT_IN_LOSS, "an answer is marked as not to be learnt, which only kind `messages` reads")
    values[0] = _without_image(values[0])
    return list(zip(values[::2], values[1::2], strict=True))


def _without_image(question: str) -> str:
    question = question.strip()
    if question.startswith(IMAGE_TOKEN):
        return question.removeprefix(IMAGE_TOKEN).strip()
    return question.removesuffix(IMAGE_TOKEN).strip()


class Names:
    """Ids that are unique: the second `cat.jpg` becomes `cat.jpg#2`."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """The name, with its number if it occurred before."""
        self._times[name] += 1
        return name if self._times[name] == 1 else f"{name}#{self._times[name]}"


def in_loss_of(row: Mapping[str, Any]) -> bool:
    """Whether an answer is to be learnt, by whichever key says so.

    Raises:
        EntryError: if it is said in another way than by true and false, or 1 and 0.
    """
    for key in LOSS_KEYS:
        if row.get(key) not in (None, True, False):
            raise EntryError("weight of an answer", f"`{key}` must be true or false, or 1 or 0, got {shown(row[key])}")
    return not any(row.get(key) == 0 for key in LOSS_KEYS)


def words_only(pairs: Iterable[tuple[str, Any]]) -> tuple[RecordedTurn, ...]:
    """Questions and answers as plain turns.

    Raises:
        EntryError: if one cannot be learnt from.
    """
    return tuple(
        RecordedTurn(words_of(question, "a question"), words_of(answer, "an answer")) for question, answer in pairs
    )
