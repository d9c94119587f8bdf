"""What the readers of dialogue files share: reading JSON, records made row by row, and a count of what is left out.

Whatever comes from a file may be damaged or hostile: every value is checked before it is used. Knows no format.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore, open_images, stays_inside
from llava_grounding.data.reading import Drops, PackedRecords, read_json
from llava_grounding.data.record import RecordedTurn
from llava_grounding.errors import DataError, MarkupError
from llava_grounding.markup import PHRASE_END, PHRASE_START, SEG, SPECIAL_TOKENS, format_markup, parse, parse_strict

IMAGE_TOKEN = "<image>"
OBJECT_TOKEN = "<obj>"
_RESERVED = (*SPECIAL_TOKENS, IMAGE_TOKEN, OBJECT_TOKEN)
_GLUED = re.compile(rf"({SEG})(?=\w)|(?<=\w)({PHRASE_START})")
_SHOWN = 60  # characters of a wrong value, in a message
_LISTED = 5  # problems told of at once


def image_store(images: str | Path | ImageStore) -> ImageStore:
    """The store itself, or the one at that place: a folder, tar shards or a zip."""
    return open_images(images) if isinstance(images, str | Path) else images


def check_present(images: ImageStore, file_name: str) -> None:
    """See that the picture is there, as far as the store can tell without reading it.

    Raises:
        EntryError: if it is not.
    """
    if not images.has(file_name):
        raise EntryError("image missing", f"there is no image {shown(file_name)}")


class EntryError(DataError):
    """What is wrong with one entry of a file.

    Args:
        reason: a few words, the same for all entries with this fault.
        detail: one sentence about this entry.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class LeftOut:
    """Entries that were not read: by reason, and in a sentence each."""

    def __init__(self) -> None:
        self.by_reason: dict[str, list[str]] = {}
        self._told: list[str] = []
        self._count = 0

    def add(self, entry: str, why: EntryError) -> None:
        """Note that `entry` is left out."""
        self.by_reason.setdefault(why.reason, []).append(entry)
        self._count += 1
        if len(self._told) < _LISTED:
            self._told.append(f"{entry}: {why}")

    def keep(self, entry: str, read: Callable[[], None]) -> bool:
        """Read an entry, or note that it is left out; whether it could be read."""
        try:
            read()
        except EntryError as why:
            self.add(entry, why)
            return False
        return True

    def refuse(self, path: str | Path) -> None:
        """Refuse the file if anything was left out.

        Raises:
            DataError: naming the file, and the first entries with what is wrong with them.
        """
        if self._told:
            more = f"; and {self._count - len(self._told)} more" if self._count > len(self._told) else ""
            raise DataError(f"{path}: {'; '.join(self._told)}{more}")


class RecordRows(PackedRecords):
    """Records made from checked rows when asked for.

    Args:
        name: what the data is called in reports.
        rows: what `_record` makes a record of.
        dropped: what reading left out: a reason, and the ids it befell.
    """

    def __init__(self, name: str, rows: Iterable[Any], dropped: Mapping[str, Sequence[str]]) -> None:
        super().__init__(name, rows, Drops())
        self.dropped = dropped


def read_entries(path: str | Path, what: str) -> list[tuple[str, Any]]:
    """The entries of a JSON list, or the lines of a `.jsonl` file, each with its place: `entry 3` or `line 3`.

    Args:
        what: what one entry is, for the message.

    Raises:
        DataError: if the file cannot be read or is no list.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        value = read_json(path)
        if not isinstance(value, list):
            raise DataError(f"{path} must be a list of {what}, got {shown(value)}")
        return [(f"entry {number}", entry) for number, entry in enumerate(value, start=1)]
    entries = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    entries.append((f"line {number}", json.loads(line)))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}, line {len(entries) + 1} or later: {error}") from error
    return entries


def shown(value: Any) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def file_name_of(value: Any) -> str:
    """The value as the name of a picture within its store.

    Raises:
        EntryError: if it is none, or leads out of the store.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise EntryError("no image", f"must name an image file, got {shown(value)}")
    if not stays_inside(value):
        raise EntryError("image outside its folder", f"image must lie in the folder of images, got {shown(value)}")
    return value


def words_of(value: Any, what: str, allowed: Iterable[str] = ()) -> str:
    """The value as text that can be learnt from, without white space around it.

    Args:
        what: what the text is, for the message.
        allowed: tokens that it may hold.

    Raises:
        EntryError: if it is no text, empty, not valid Unicode, or holds a token that means something to the model.
    """
    if not isinstance(value, str):
        raise EntryError("not text", f"{what} must be text, got {shown(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise EntryError("not valid Unicode", f"{what} must be valid Unicode, got {shown(value)}")
    if not value.strip():
        raise EntryError("empty text", f"{what} must not be empty")
    found = next((token for token in _RESERVED if token in value and token not in allowed), None)
    if found is not None:
        raise EntryError("special token in the text", f"{what} must not hold `{found}`, got {shown(value)}")
    return value.strip()


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
        EntryError: if it is not `human` and `gpt` in turn, or holds another `<image>`.
    """
    if not isinstance(conversations, list) or not conversations or len(conversations) % 2:
        raise EntryError("no dialogue", f"conversations must be pairs of turns, got {shown(conversations)}")
    values = []
    for index, turn in enumerate(conversations):
        role = ("human", "gpt")[index % 2]
        if not isinstance(turn, Mapping) or turn.get("from") != role or "value" not in turn:
            raise EntryError("roles out of turn", f"turn {index + 1} must be from `{role}`, got {shown(turn)}")
        values.append(turn["value"])
    if not all(isinstance(question, str) for question in values[::2]):
        raise EntryError("not text", "each question must be text")
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


def words_only(pairs: Iterable[tuple[str, Any]]) -> tuple[RecordedTurn, ...]:
    """Questions and answers as plain turns.

    Raises:
        EntryError: if one cannot be learnt from.
    """
    return tuple(
        RecordedTurn(words_of(question, "a question"), words_of(answer, "an answer")) for question, answer in pairs
    )
