"""What a file or a folder of data is: its kind, the files it consists of, and the lines of a recipe that name them.

Asks the readers in turn, about a folder and else about the files in it; whether they can be read is another matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import yaml

from llava_grounding.data.image_names import DATA_SUFFIXES
from llava_grounding.data.plain_files import why_no_file
from llava_grounding.data.readers.parts.files import describe_file
from llava_grounding.data.readers.parts.places import CAPTIONS, MOST_FILES, Found, Place, is_file_of_storage
from llava_grounding.data.readers.registry import READERS, reader_class, title_of
from llava_grounding.errors import DataError

_ENDINGS = (".json", ".jsonl", ".ndjson", ".p", ".csv")
_SHIPPED = "llava_grounding.data.readers"
_LABEL_DIALOGUE = {"categories": 1.0, "referring": 1.0, "region_names": 1.0}


@dataclass(frozen=True)
class Recognised:
    """Data of one kind.

    Args:
        kind: of a source, `coco_captions` for a file that belongs to another.
        values: the other keys of the source; paths as they were found.
        missing: keys that must be said and were not found, with what they are.
        splits: that there are besides.
    """

    kind: str
    values: Mapping[str, Path | str | None] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """What data of this kind is called."""
        return "COCO captions" if self.kind == CAPTIONS else title_of(self.kind)

    @property
    def dialogue(self) -> Mapping[str, float]:
        """What dialogues its recipe line asks for; empty for the defaults."""
        has_texts = self.kind == CAPTIONS or getattr(reader_class(self.kind), "has_texts", False)
        return {} if has_texts else _LABEL_DIALOGUE

    def recipe_line(self, root: Path) -> str:
        """The source as a line of a recipe, with paths relative to `root`."""
        words = [f"kind: {self.kind}"]
        for key, value in {**self.values, **dict.fromkeys(self.missing, "...")}.items():
            text = os.path.relpath(value, root) if isinstance(value, Path) else "null" if value is None else value
            words.append(f"{key}: {_quoted(text)}")
        if self.dialogue:
            words.append(f"dialogue: {{{', '.join(f'{kind}: {weight}' for kind, weight in self.dialogue.items())}}}")
        return f"  - {{{', '.join(words)}}}"


def recognise(path: Path) -> list[Recognised]:
    """What is at a place: usually one kind of data, more where a folder holds several.

    Readers that were added are asked first, then those that ship, in the order of `READERS`; see `register_reader`.

    Raises:
        DataError: if there is nothing that can be read, saying what there is instead.
    """
    if not path.exists():
        raise DataError(f"there is nothing at {path}")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"expected a file or a folder, but {why_no_file(path)}")
    place = Place(path)
    found = list(_found_at(place))
    if found:
        return found
    if place.is_dir():
        pictures = sum(1 for one in place.files if one.suffix.lower() in DATA_SUFFIXES)
        raise DataError(
            f"{path} has {pictures} pictures among the first {MOST_FILES} files, and nothing that says what is in them"
        )
    known = "JSON, but of" if place.may_be_json else f"{describe_file(path) or 'a file'}, and"
    raise DataError(f"{path} is {known} none of the formats that are read: {', '.join(sorted(map(title_of, READERS)))}")


def kinds_below(folder: Path, found: Sequence[Recognised]) -> dict[Path, str]:
    """Data of other kinds in folders below, of each kind the first: where it is, and what it is called."""
    told = {one.kind for one in found}
    if "flickr30k" in told:  # its boxes are in files that look like Pascal VOC's
        return {}
    values = [value for one in found for value in one.values.values() if isinstance(value, Path)]
    parts = {value.parent if value.is_file() else value for value in values}
    others: dict[Path, str] = {}
    for place in islice(_folders(folder), MOST_FILES):
        if place in parts or any(one in place.parents for one in others):
            continue
        with suppress(DataError, OSError):
            new = next((one for one in _found_at(Place(place)) if one.kind not in told), None)
            if new is not None:
                told.add(new.kind)
                others[place] = new.what
    return others


def _found_at(place: Place) -> Iterator[Recognised]:
    if (found := _ask(place)) is not None:
        yield _recognised(found, place, place)
        return
    data = [path for path in place.files if path.suffix.lower() in _ENDINGS or is_file_of_storage(path)]
    for number, path in enumerate(data):
        try:
            found = _ask(Place(path))
        except DataError:
            continue
        if found is not None and found.per_picture:
            yield _recognised(found, path, place if number < 2 else path.parent)
            return
        if found is not None:
            yield _recognised(found, path, path)


def _recognised(found: Found, place: Path, source: Path) -> Recognised:
    """With plain paths, as what was read at a `Place` is not to be kept; and with the source for the place."""
    values = {
        key: Path(source if value == place else value) if isinstance(value, Path) else value
        for key, value in found.values.items()
    }
    return Recognised(found.kind or "", values, found.missing, found.splits)


def _ask(place: Place) -> Found | None:
    """What the first reader that is sure says of a place, or else the first that guesses."""
    guess = None
    for kind in sorted(READERS, key=lambda kind: isinstance(READERS[kind], str)):  # those that were added come first
        answer = _answer(kind, place)
        if answer is None:
            continue
        found = replace(answer, kind=answer.kind or kind) if isinstance(answer, Found) else Found(answer, kind=kind)
        if found.sure:
            return found
        guess = guess or found
    return guess


def _answer(kind: str, place: Place) -> Found | Mapping[str, Path | str | None] | None:
    reader = reader_class(kind)
    owner = next((one for one in reader.__mro__ if "recognise" in vars(one)), None)
    # One that was added and inherits it from one that ships would take all files of that kind.
    if owner is None or (not isinstance(READERS[kind], str) and owner.__module__.startswith(f"{_SHIPPED}.")):
        return None
    answer: Found | Mapping[str, Path | str | None] | None = reader.recognise(place)
    return answer


def _folders(folder: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in folders)


def _quoted(text: str) -> str:
    plain = text == "null" or (text.replace("/", "").replace("_", "").replace(".", "").replace("-", "").isalnum())
    return text if plain else str(yaml.safe_dump(text, default_style='"', width=10_000)).strip()
