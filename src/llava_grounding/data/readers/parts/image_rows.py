"""Entries of a COCO-like list of images, checked: ids, file names and sizes. Reads no picture."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from llava_grounding.data.image_names import folded, name_at
from llava_grounding.data.images import ImageStore, place_of
from llava_grounding.data.plain_files import is_absolute, is_unicode, stays_inside
from llava_grounding.data.readers.parts.left_out import (
    LeftOut,
    named,
)
from llava_grounding.data.readers.parts.numbers import (
    EntryError,
    Key,
    key_of,
    key_or_none,
    whole_number,
)
from llava_grounding.data.readers.parts.reading import (
    label_id,
)
from llava_grounding.image_files import DATA_LIMITS

IMAGE_MISSING = "image missing"
"""Reason for which an entry is left out whose picture is not there."""
MAX_SIDE = 2**16
"""Pixels; a file that says a picture is wider or higher is wrong."""
MAX_PIXELS = DATA_LIMITS.max_pixels
"""No picture that a label is about has more."""
_SPELT = re.compile(r"[\\]|//|(?:^|/)\.|/$")


class ImageRow(NamedTuple):
    """An entry of a COCO-like list of images."""

    id: Key
    file_name: str
    size_wh: tuple[int, int]
    row: Mapping[str, Any]
    """All that the file says of it, unchecked."""


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
