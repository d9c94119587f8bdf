"""Chats as `messages` and `images`, as LLaMA-Factory, Swift, TRL and Qwen's scripts take them. No phrase is grounded.

Each message has a `role` and a `content`: text, or a list of parts. Knows no other format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.llava import TEXT_ONLY, label_of
from llava_grounding.data.readers.parts.files import without_collections
from llava_grounding.data.readers.parts.image_rows import file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.readers.parts.rows import NOT_IN_LOSS, image_store, in_loss_of, read_entries, words_only
from llava_grounding.data.readers.parts.texts import IMAGE_TOKEN
from llava_grounding.data.record import RecordedTurn
from llava_grounding.errors import DataError, shown

SEVERAL = "several images"
"""Reason for which a chat about more than one picture is left out: this model looks at one."""
_LISTS = ("messages", "conversations")
_PAIRS = {"user": ("query", "prompt"), "assistant": ("response", "completion")}
"""Keys of questions and answers in chats of one turn, as Swift and TRL have them; of messages or of text."""
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant"}
_PICTURES = ("images", "image")
_FILMS = ("videos", "video", "audios", "audio")
_MARKS = {*_LISTS, *_PAIRS["assistant"]}


class ChatMessages(PictureRecords):
    """One record per chat; what a `system` says is left out, as the model has words of its own for it."""

    title = "chats as `messages` and `images`"
    has_texts = True

    @classmethod
    def from_files(
        cls, dialogues: str | Path, images: str | Path | ImageStore | None = None, name: str | None = None
    ) -> ChatMessages:
        """Reads a file.

        Args:
            dialogues: JSON list, or one chat per line.
            images: folder, tar shards or zip; by default the folder of the file.
            name: what the data is called in reports; by default the file's stem.

        Raises:
            DataError: if it cannot be read, or is of another kind.
        """
        path = Path(dialogues)
        with without_collections(), naming(path):
            entries = read_entries(path, "chats with `messages`")
            if entries and not any(isinstance(one, Mapping) and one.keys() & _MARKS for _, one in entries):
                raise DataError(f"chats must be objects with `messages`, got {shown(entries[0][1])}")
            store, left_out = image_store(images if images is not None else path.parent), LeftOut()
            unread = Counter[str]()
            chats = _read(entries, left_out, unread)
            return cls(name or path.stem, chats, store, left_out, exhaustive=False, unread=unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        keys = place.keys
        has_pair = keys & {*_PAIRS["user"]} and keys & {*_PAIRS["assistant"]} and keys & {*_PICTURES}
        if not has_pair and "messages" not in keys and not {"conversations", "images"} <= keys:
            return None
        lists = [row["images"] for row in place.entries if isinstance(row.get("images"), list)]
        return Found({"dialogues": place}).with_images(place, [one for one in chain(*lists) if isinstance(one, str)])


def _read(entries: list[tuple[str, Any]], left_out: LeftOut, unread: Counter[str]) -> Iterator[Picture]:
    for place, entry in entries:
        try:
            picture = _picture(entry)
        except EntryError as why:
            left_out.add(label_of(entry, place), why)
        else:
            objects = entry.get("objects")  # of ms-swift, whose texts name them by `<bbox>`
            boxes = objects.get("bbox") if isinstance(objects, Mapping) else None
            unread["objects"] += len(boxes) if isinstance(boxes, list) else 0
            yield picture


def _picture(entry: Any) -> Picture:
    turns, name = chat_of(entry)
    return Picture(file_name_of(name, from_root=True), None, dialogues=[turns])


def chat_of(entry: Any, inside: bool = False) -> tuple[tuple[RecordedTurn, ...], str | None]:
    """The dialogue of a chat, and what its picture is called.

    Args:
        inside: whether the chat comes with its picture and need not name it.

    Raises:
        EntryError: if it cannot be learnt from, or is not about one picture.
    """
    if not isinstance(entry, Mapping):
        raise EntryError("no dialogue", f"a chat must be an object with `messages`, got {shown(entry)}")
    rows = _rows(entry)
    if not rows:
        raise EntryError("no dialogue", f"a chat must have a list of `messages`, got {shown(entry)}")
    if entry.get("label") is False:
        raise EntryError("answer that is marked as bad", "its `label` says that nobody should answer so")
    if film := next((key for key in _FILMS if entry.get(key)), None):
        raise EntryError("no picture but a film or a sound", f"a chat must be about one image, this one has `{film}`")
    given = [entry[key] for key in _PICTURES if entry.get(key)]
    pictures = [_source(one) for said in given for one in (said if isinstance(said, list) else [said])]
    texts: list[str] = []
    in_loss: list[bool] = []
    for number, row in enumerate(rows, start=1):
        role, text, shown_here = _message(row, number)
        pictures += shown_here
        if role == "system":
            continue
        if role != ("user", "assistant")[len(texts) % 2]:
            raise EntryError("roles out of turn", f"message {number} must be of the other role, got {shown(row)}")
        texts.append(text)
        in_loss += [in_loss_of(row)] if role == "assistant" else []
    if len(texts) % 2 or not texts:
        raise EntryError("no dialogue", "a chat must end with an answer of the assistant")
    if not any(in_loss):
        raise EntryError(NOT_IN_LOSS, "all answers are marked as not to be learnt")
    pictures = list(dict.fromkeys(pictures))
    if not pictures and not inside:
        raise EntryError(TEXT_ONLY, "must have an image")
    if len(pictures) > 1:
        raise EntryError(SEVERAL, f"a chat must be about one image, this one has {len(pictures)}")
    # Shown first, it may be shown again; one that comes later is not there while what is before it is said.
    for place in range(0, len(texts), 2) if IMAGE_TOKEN in texts[0] else ():
        texts[place] = texts[place].strip().removeprefix(IMAGE_TOKEN).removesuffix(IMAGE_TOKEN).strip()
    turns = words_only(zip(texts[::2], texts[1::2], strict=True))
    turns = tuple(replace(turn, in_loss=one) for turn, one in zip(turns, in_loss, strict=True))
    return turns, next(iter(pictures), None)


def _rows(entry: Mapping[str, Any]) -> list[Any] | None:
    """The messages of a chat, whichever way it has them."""
    if rows := next((entry[key] for key in _LISTS if isinstance(entry.get(key), list)), None):
        return list(rows)
    asked, answer = ([_as_messages(entry.get(one), role) for one in keys] for role, keys in _PAIRS.items())
    pair = next((list(both) for both in zip(asked, answer, strict=True) if all(both)), None)
    history = entry.get("history")
    before = [
        {"role": role, "content": text}
        for turn in (history if isinstance(history, list) and pair else ())
        for role, text in zip(_PAIRS, turn if isinstance(turn, list) and len(turn) == 2 else (None, None), strict=True)
    ]
    return None if pair is None else [*before, *pair[0], *pair[1]]


def _as_messages(value: Any, role: str) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [{"role": role, "content": value}]


def _message(row: Any, number: int) -> tuple[str, str, list[str]]:
    """Role, text and pictures of a message."""
    if not isinstance(row, Mapping):
        raise EntryError("no dialogue", f"message {number} must be an object, got {shown(row)}")
    role, content = row.get("role", row.get("from")), row.get("content", row.get("value"))
    if role == "system":
        return "system", "", []
    if not isinstance(role, str) or role not in _ROLES:
        raise EntryError("roles out of turn", f"message {number} must be of user or assistant, got {shown(role)}")
    if isinstance(content, str):
        return _ROLES[role], content, []
    texts, pictures = [], []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
            pictures += [_source(part[key]) for key in ("image", "image_url", "url", "path") if part.get(key)][:1]
        else:
            raise EntryError("message that is neither text nor image", f"message {number} has {shown(part)}")
    if not texts:
        raise EntryError("empty text", f"message {number} must have text, got {shown(content)}")
    return _ROLES[role], "\n".join(texts), pictures


def _source(value: Any) -> str:
    """What a picture is called; Hugging Face and OpenAI put it into an object."""
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("url")
    if not isinstance(value, str):
        raise EntryError("no image", f"an image must be the name of a file, got {shown(value)}")
    if value.startswith("data:"):
        raise EntryError("image inside of the file", "an image must be the name of a file, not its bytes")
    return value.removeprefix("file://")
