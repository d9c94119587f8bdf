"""What all readers share: checked boxes, masks, texts and ids, a list of what is left out, packed records.

Whatever comes from a file may be damaged or hostile. An entry that cannot be used raises EntryError, and `LeftOut`
counts it under its reason; a file of another kind is a DataError. Knows no file format.
"""

from __future__ import annotations

import pickle
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from llava_grounding.data.image_names import folded, name_at
from llava_grounding.data.images import ImageStore, is_absolute, is_unicode, place_of, stays_inside
from llava_grounding.data.readers.files import JsonRows
from llava_grounding.data.readers.files import read_json as read_json
from llava_grounding.data.readers.numbers import EntryError as EntryError
from llava_grounding.data.readers.numbers import Key as Key
from llava_grounding.data.readers.numbers import are_numbers as are_numbers
from llava_grounding.data.readers.numbers import as_numbers as as_numbers
from llava_grounding.data.readers.numbers import is_whole as is_whole
from llava_grounding.data.readers.numbers import key_of as key_of
from llava_grounding.data.readers.numbers import key_or_none as key_or_none
from llava_grounding.data.readers.numbers import number_or_none as number_or_none
from llava_grounding.data.readers.numbers import whole_number as whole_number
from llava_grounding.data.readers.placeholders import find_placeholder, may_be_plain
from llava_grounding.data.readers.shapes import BOX_BEYOND as BOX_BEYOND
from llava_grounding.data.readers.shapes import Box as Box
from llava_grounding.data.readers.shapes import box_from_xywh as box_from_xywh
from llava_grounding.data.readers.shapes import box_or_around as box_or_around
from llava_grounding.data.readers.shapes import checked_segmentation as checked_segmentation
from llava_grounding.data.readers.shapes import clipped_box as clipped_box
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError, cut_short, shown
from llava_grounding.image_files import DATA_LIMITS
from llava_grounding.markup import SPECIAL_TOKENS, format_markup

IMAGE_MISSING = "image missing"
"""Reason for which an entry is left out whose picture is not there."""
PLACEHOLDER = "placeholder of another model's file"
"""Reason for which a text is left out that is not words alone."""
IMAGE_TOKEN = "<image>"
OBJECT_TOKEN = "<obj>"
MAX_SIDE = 2**16
"""Pixels; a file that says a picture is wider or higher is wrong."""
MAX_PIXELS = DATA_LIMITS.max_pixels
"""No picture that a label is about has more."""
MAX_LABELS = 10_000
"""Of one image; no data set has as many, and what is done with labels side by side grows faster than their number."""
MAX_TEXT = 2**16
"""Characters of a question, an answer or a caption."""
_NAMED = 300  # characters of what an entry is called; no file system has longer names
_SHORT = 40  # characters; a longer name is not said twice in one line
_LISTED = 5  # faults reported at once
_KEPT = 20  # of each reason, entries whose fault is remembered
assert all(token.startswith("<") for token in (*SPECIAL_TOKENS, IMAGE_TOKEN, OBJECT_TOKEN))
_RESERVED = re.compile("|".join(map(re.escape, (*SPECIAL_TOKENS, IMAGE_TOKEN, OBJECT_TOKEN))), re.IGNORECASE)
_SPELT = re.compile(r"[\\]|//|(?:^|/)\.|/$")
_CROWD_KEYS = ("iscrowd", "is_crowd", "isgroupof", "is_group_of", "IsGroupOf")
"""Of labels; those of Open Images are called groups."""
_ID_KEYS = ("id", "ann_id", "region_id", "ref_id", "file_name", "image_id")


class LeftOut:
    """Entries that were not read: which ones by reason, and the first of them in a sentence each.

    Attributes:
        examples: of each reason the first entries, with what is wrong with them.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[str]] = {}
        self._reported: list[str] = []
        self.examples: dict[str, list[str]] = {}

    @property
    def by_reason(self) -> dict[str, tuple[str, ...]]:
        """What they are called, in order."""
        return {reason: tuple(entries) for reason, entries in self._entries.items()}

    def add(self, entry: object, why: EntryError | str) -> None:
        """Note that `entry` is left out."""
        reason = why.reason if isinstance(why, EntryError) else why
        name = cut_short(printable(str(entry)), _NAMED)
        self._entries.setdefault(reason, []).append(name)
        if len(self._reported) < _LISTED:
            self._reported.append(_in_a_sentence(name, "", str(why)))
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _KEPT:
            examples.append(_in_a_sentence(name, reason, str(why)))

    def join(self, other: LeftOut) -> None:
        """Add what another part of the same data left out."""
        for reason, entries in other._entries.items():
            self._entries.setdefault(reason, []).extend(entries)
            self.examples[reason] = (self.examples.get(reason, []) + other.examples[reason])[:_KEPT]
        self._reported = (self._reported + other._reported)[:_LISTED]

    def keep(self, entry: object, read: Callable[[], None]) -> bool:
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
        if self._reported:
            count = sum(map(len, self._entries.values()))
            more = f"; and {count - len(self._reported)} more" if count > len(self._reported) else ""
            raise DataError(f"{path}: {'; '.join(self._reported)}{more} (`strict: false` leaves such entries out)")


def _in_a_sentence(name: str, reason: str, detail: str) -> str:
    """What an entry is called with what is wrong with it; a long name is said once."""
    if detail == reason:
        return name
    said_already = len(name) > _SHORT and (name.partition(" ")[2] or name) in detail
    return detail if said_already else f"{name}: {detail}"


class PackedRecords(Sequence[Record]):
    """A data set whose records lie encoded in one block of memory.

    Worker processes forked from this one share the block; ordinary objects would be copied into each of them bit by
    bit, as reading one changes its reference count.

    Args:
        name: what the data is called in reports.
        rows: records, or whatever `_record` makes one of.
        left_out: read when the rows have been.
        unread: counted when the rows have been; see below.

    Attributes:
        unread: what a file says of labels that is not read, by its key there, and how many labels have it.
        dropped: what reading left out: a reason, and the entries it befell.
        examples: of each reason the first entries, with what is wrong with them.
    """

    def __init__(
        self, name: str, rows: Iterable[Any], left_out: LeftOut, unread: Mapping[str, int] | None = None
    ) -> None:
        self.name = name
        self._block, ends = bytearray(), [0]
        for row in rows:
            try:
                self._block += pickle.dumps(row, protocol=pickle.HIGHEST_PROTOCOL)
            except RecursionError as error:
                raise DataError(f"entry {len(ends)} of {name} holds values that lie too deep in each other") from error
            ends.append(len(self._block))
        self._ends = np.array(ends)
        self.unread: Mapping[str, int] = {key: count for key, count in (unread or {}).items() if count}
        self.dropped: Mapping[str, Sequence[str]] = left_out.by_reason
        self.examples: Mapping[str, Sequence[str]] = {why: tuple(names) for why, names in left_out.examples.items()}

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        numbers = range(len(self))[index]
        return self._at(numbers) if isinstance(numbers, int) else [self._at(number) for number in numbers]

    def __iter__(self) -> Iterator[Record]:
        return map(self._at, range(len(self)))

    def _at(self, number: int) -> Record:
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        with memoryview(self._block) as block:
            return self._record(pickle.loads(block[start:end]))

    def _record(self, row: Any) -> Record:
        return row


class ImageRow(NamedTuple):
    """An entry of a COCO-like list of images."""

    id: Key
    file_name: str
    size_wh: tuple[int, int]
    row: Mapping[str, Any]
    """All that the file says of it, unchecked."""


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Begin the message of a DataError with the file that it is about, where it does not name it."""
    try:
        yield
    except EntryError:
        raise
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error


def printable(text: str) -> str:
    """The text as it can be printed and written, half characters as `\\ud800`."""
    return text if is_unicode(text) else text.encode("utf-8", "backslashreplace").decode()


def file_name_of(value: Any, from_root: bool = False) -> str:
    """The value as the name of a picture within its store.

    Args:
        from_root: whether it may be an absolute path, of which the store knows the end.

    Raises:
        EntryError: if it is none, or leads out of the store.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise EntryError("no image", f"must name an image file, got {named(value)}")
    if not is_unicode(value):
        raise EntryError("not valid Unicode", f"the name of an image must be valid Unicode, got {named(value)}")
    if not stays_inside(value) and not (from_root and is_absolute(value)):
        raise EntryError(
            "image outside its folder",
            f"image must lie in the folder of images and be named by its path there, got {named(value)}",
        )
    return value


def named(value: object) -> str:
    """A name in a message, whole."""
    return shown(value, _NAMED)


def rows_of(data: Any, key: str, what: str) -> list[Any]:
    """The list under a key; raises DataError if `data` is not `what`, which has one there."""
    rows = sequence_of(data, key, what)
    return rows if isinstance(rows, list) else list(rows)


def sequence_of(data: Any, key: str, what: str) -> Sequence[Any]:
    """What `rows_of` gives, or rows that are parsed one by one, where a file was read so."""
    if not isinstance(data, Mapping) or not isinstance(data.get(key), list | JsonRows):
        got = f"keys {sorted(map(str, data))[:20]}" if isinstance(data, Mapping) else type(data).__name__
        raise DataError(f"{what} must have a list `{key}`, got {got}")
    rows: Sequence[Any] = data[key]
    return rows


def list_under(row: Mapping[str, Any], key: str, what: str) -> list[Any]:
    """The list under a key of a label."""
    if not isinstance(row.get(key), list):
        raise EntryError(f"{what} without a list `{key}`", f"`{key}` must be a list, got {shown(row.get(key))}")
    return row[key]


def is_crowd(row: Mapping[str, Any]) -> bool:
    """Whether a COCO label says that it is several things under one mask."""
    return any(_says_yes(row.get(key)) for key in _CROWD_KEYS)


def is_ignored(row: Mapping[str, Any]) -> bool:
    """Whether a COCO label says that it is no label to learn from, as pycocotools and detectors read it."""
    return _says_yes(row.get("ignore"))


def _says_yes(value: Any) -> bool:
    return value not in (None, 0, "0", "", "false", "False")


def checked_size(width: Any, height: Any) -> tuple[int, int]:
    """Width and height of a picture, in pixels."""
    size_wh = whole_number(width, "image size"), whole_number(height, "image size")
    if not 0 < min(size_wh) <= max(size_wh) <= MAX_SIDE:
        raise EntryError("image size out of range", f"width and height must be 1 to {MAX_SIDE} pixels, got {size_wh}")
    if size_wh[0] * size_wh[1] > MAX_PIXELS:
        raise EntryError("image size out of range", f"a picture must have at most {MAX_PIXELS} pixels, got {size_wh}")
    return size_wh


def image_row(row: Any) -> ImageRow:
    """A checked entry of a COCO-like list of images."""
    if not isinstance(row, Mapping):
        raise EntryError("image that is no object")
    size_wh = checked_size(row.get("width"), row.get("height"))
    return ImageRow(key_of(row.get("id"), "image id"), file_name_of(_name_in(row), from_root=True), size_wh, row)


def _name_in(row: Mapping[str, Any]) -> Any:
    """What an entry of a list of images calls its file, unchecked."""
    name, url = row.get("file_name"), row.get("coco_url")
    # LVIS says no more of its images than where they come from.
    return name_at(url) if name is None and isinstance(url, str) else name


def image_rows(rows: Iterable[Any], left_out: LeftOut, named_once: bool = False) -> dict[Key, ImageRow]:
    """Checked images by id, in order.

    Args:
        named_once: whether a file name may occur only once, as where images are looked up by it.
    """
    images: dict[Key, ImageRow] = {}
    names: set[str] = set()
    doubtful: set[Key] = set()
    for row in rows:
        try:
            image = image_row(row)
            name = _same_name(image)
            if image.id in images:
                if image.row == images[image.id].row:
                    continue  # says nothing new
                if name != _same_name(images[image.id]):
                    doubtful.add(image.id)
                raise EntryError("image id used twice")
            if named_once and name in names:
                raise EntryError("file name used twice")
        except EntryError as why:
            left_out.add(f"image {label_id(row)}", why)
            continue
        images[image.id] = image
        names.add(name)
    for number in doubtful:  # nobody can say which of the two pictures its labels are of
        left_out.add(f"image {images.pop(number).id}", "image id used twice")
    return images


def same_pictures(rows: Iterable[Any], images: Mapping[Key, ImageRow]) -> dict[Key, tuple[Key, ...]]:
    """Ids of images that were left out -> the ids of those kept that bear the same file name."""
    others = [row for row in rows if not isinstance(row, Mapping) or key_or_none(row.get("id")) not in images]
    if not others:
        return {}
    kept: dict[str, list[Key]] = {}
    for image in images.values():
        kept.setdefault(_same_name(image), []).append(image.id)
    twins = {}
    for row in others:
        number = key_or_none(row.get("id")) if isinstance(row, Mapping) else None
        if number is not None and number not in images and isinstance(name := _name_in(row), str):
            twins[number] = tuple(kept.get(posixpath.normpath(name.replace("\\", "/")), ()))
    return twins


def leave_out_same_files(
    images: dict[Key, ImageRow], twins: Mapping[Key, tuple[Key, ...]], store: ImageStore, left_out: LeftOut
) -> dict[Key, tuple[Key, ...]]:
    """Leave out images whose names are spelt otherwise than one before and lead to the same file, as `images/1.jpg` and
    `1.JPG` may. Gives `twins`, which are ids left out before with the ids of those kept, and these as well.
    """
    named_alike: dict[str, list[ImageRow]] = {}
    for image in images.values():
        name = name_at(image.file_name) if "://" in image.file_name else image.file_name
        named_alike.setdefault(folded(name).rpartition("/")[2], []).append(image)
    same: dict[Key, Key] = {}
    for group in named_alike.values():
        paths = [folded(image.file_name) for image in group]
        # Names of one length that differ lead into different folders, as those of frames of films.
        if len(group) == 1 or (len(set(paths)) == len(paths) and len({path.count("/") for path in paths}) == 1):
            continue
        kept: dict[object, Key] = {}
        for image in group:
            data = store.locate(image.file_name)
            before = kept.setdefault(place_of(data), image.id) if data.exists() else image.id
            if before != image.id:
                left_out.add(f"image {image.id}", "file name used twice")
                same[images.pop(image.id).id] = before
    before_and_now = {key: tuple(same.get(one, one) for one in ids) for key, ids in twins.items()}
    return before_and_now | {key: (one,) for key, one in same.items()}


def _same_name(image: ImageRow) -> str:
    """The same for all spellings of one path."""
    name = image.file_name
    return posixpath.normpath(name.replace("\\", "/")) if _SPELT.search(name) else name


def label_id(row: Any, keys: Sequence[str] = _ID_KEYS, without: object = "without id") -> str:
    """What to call a row in a list of what was left out: the first of the keys it has, else `without`."""
    if not isinstance(row, Mapping):
        return shown(row)[:40]
    value = next((row[key] for key in keys if key in row), without)
    return value if isinstance(value, str) else shown(value)


def words_of(value: Any, what: str, allowed: Iterable[str] = ()) -> str:
    """The value as text that can be learnt from, without white space around it.

    Args:
        what: what the text is, for the message.
        allowed: tokens that it may hold, written exactly so.

    Raises:
        EntryError: if it is no text, empty, not valid Unicode, or holds a token that means something to this model, in
            capital or small letters (what is put in lower case later must not become one), or to another one.
    """
    plain = type(value) is str and value.isascii() and len(value) <= MAX_TEXT and may_be_plain(value)
    if plain and (words := value.strip()):
        return str(words)  # as nearly every text of millions
    if not isinstance(value, str):
        raise EntryError("not text", f"{what} must be text, got {shown(value)}")
    if not value.isascii() and not is_unicode(value):
        raise EntryError("not valid Unicode", f"{what} must be valid Unicode, got {shown(value)}")
    if not value.strip():
        raise EntryError("empty text", f"{what} must not be empty")
    if len(value) > MAX_TEXT:
        raise EntryError("text too long", f"{what} must have at most {MAX_TEXT} characters, got {len(value)}")
    reserved = _RESERVED.finditer(value) if "<" in value else ()
    found = next((match[0] for match in reserved if match[0] not in allowed), None)
    if found is not None:
        raise EntryError("special token in the text", f"{what} must not hold `{found}`, got {shown(value)}")
    foreign = find_placeholder(value)
    if foreign is not None:
        token, owner = foreign
        raise EntryError(
            PLACEHOLDER,
            f"{what} must be words, but holds {shown(token)} as files of {owner} do, which are not read here",
        )
    return value.strip()


def plain_text(value: Any, what: str) -> str:
    """What `words_of` takes, as one line with single blanks."""
    return " ".join(words_of(value, what).split())


def spans_as_markup(
    text: str, targets: Mapping[tuple[int, int], tuple[int, ...] | None]
) -> tuple[str, tuple[tuple[int, ...] | None, ...], list[tuple[int, int]]]:
    """A caption with its spans as phrases, less the white space around them, and their targets in reading order.

    Returns:
        Canonical markup, one target per phrase, and the spans left out: they hold nothing but white space, or overlap a
        phrase before them.
    """
    trimmed: dict[tuple[int, int], tuple[int, ...] | None] = {}
    for (start, end), rows in targets.items():
        words = text[start:end]
        span = start + len(words) - len(words.lstrip()), start + len(words.rstrip())
        before = trimmed.get(span)
        trimmed[span] = rows if before is None else tuple(dict.fromkeys((*before, *(rows or ()))))
    targets = trimmed
    kept: list[tuple[int, int]] = []
    overlapping = []
    for span in sorted(targets, key=lambda span: (span[0], -span[1])):
        if span[0] >= span[1] or (kept and span[0] < kept[-1][1]):
            overlapping.append(span)
        else:
            kept.append(span)
    return format_markup(text, kept), tuple(targets[span] for span in kept), overlapping
