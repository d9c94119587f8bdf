"""LLaVA's dialogue files: caption pairs to align the projector with, and instructions; no phrase of them is grounded.

Read as published: `blip_laion_cc_sbu_558k.json`, `llava_instruct_150k.json`, `llava_v1_5_mix665k.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import starmap
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.parts.files import without_collections
from llava_grounding.data.readers.parts.image_rows import file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut, printable
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.readers.parts.rows import Names, check_present, image_store, pairs_of, read_entries
from llava_grounding.data.readers.parts.texts import words_of
from llava_grounding.data.record import Record, RecordedTurn
from llava_grounding.errors import DataError, shown

TEXT_ONLY = "no image"
"""Reason for which dialogues that are about no image are left out: this model always looks at one."""


class LlavaDialogues(PackedRecords):
    """One record per entry of a LLaVA file, with its one dialogue; the size of the image is not known.

    Left out and counted: entries without an image, with roles out of turn, with empty text, and with a special token
    within the text, since data must not be able to write markup, and those whose image is not there.

    Args:
        entries: of the file, each with its place in it.
        images: where pixels come from.
        name: what the data is called in reports.
    """

    title = "dialogues in LLaVA's form"
    has_texts = True

    def __init__(self, entries: Iterable[tuple[str, Any]], images: ImageStore, name: str = "llava") -> None:
        left_out, names, rows = LeftOut(), Names(), []
        present: set[str] = set()
        for place, entry in entries:
            try:
                image, conversations = entry_of(entry)
                turns = [
                    (words_of(question, "a question"), words_of(answer, "an answer"))
                    for question, answer in pairs_of(conversations)
                ]
                if image not in present:
                    check_present(images, image)
                    present.add(image)
            except EntryError as why:
                left_out.add(label_of(entry, place), why)
            else:
                rows.append((names.unique(label_of(entry, place)), image, turns))
        super().__init__(name, rows, left_out)
        self.images = images

    @classmethod
    def from_files(cls, dialogues: str | Path, images: str | Path | ImageStore, name: str = "llava") -> LlavaDialogues:
        """Read a file of dialogues, with its images in a folder or another store.

        Raises:
            DataError: if it cannot be read or is not such a file.
        """
        with without_collections(), naming(dialogues):
            return cls(read_dialogue_entries(dialogues), image_store(images), name)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if "conversations" not in place.keys:
            return None
        return Found({"dialogues": place}).with_images(place, place.pictures)

    def _record(self, row: tuple[str, str, list[tuple[str, str]]]) -> Record:
        identity, image, turns = row
        return dialogue_record(self.images, identity, image, (tuple(starmap(RecordedTurn, turns)),))


def read_dialogue_entries(path: str | Path) -> list[tuple[str, Any]]:
    """Entries of a LLaVA-style file with their places.

    Raises:
        DataError: if it cannot be read, or none of its entries has `conversations`.
    """
    entries = read_entries(path, "dialogues")
    if entries and not any(isinstance(entry, Mapping) and "conversations" in entry for _, entry in entries):
        raise DataError(f"{path} must be a list of dialogues with `conversations`, got {shown(entries[0][1])}")
    return entries


def entry_of(entry: Any) -> tuple[str, Any]:
    """Image name and conversations of one entry.

    Raises:
        EntryError: if it has none.
    """
    if not isinstance(entry, Mapping):
        raise EntryError("no dialogue", f"must be an object with `image` and `conversations`, got {shown(entry)}")
    if not entry.get("image"):
        raise EntryError(TEXT_ONLY, "must have an `image`")
    return file_name_of(entry["image"]), entry.get("conversations")


def label_of(entry: Any, place: str) -> str:
    """What an entry is called: its id, else its image, else its place in the file."""
    if isinstance(entry, Mapping):
        for key in ("id", "image"):
            if isinstance(entry.get(key), str | int) and str(entry[key]):
                return printable(str(entry[key]))
    return place


def dialogue_record(images: ImageStore, identity: str, image: str, dialogues: tuple[Any, ...]) -> Record:
    """A record of which nothing is known but its dialogues."""
    return Record(
        id=identity,
        image_id=None,
        image_size_wh=None,
        instances=(),
        read_bytes=images.locate(image),
        dialogues=dialogues,
        image_name=image,
    )
