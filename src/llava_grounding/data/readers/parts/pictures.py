"""What the formats of labelling tools share: one picture after another with its labels, each a name and a shape.

A reader says for each picture what it found; missing pictures, unusable labels and what is complete are seen to here.
Knows no file format.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.data.image_names import folded
from llava_grounding.data.images import ImageBytes, ImageStore, place_of
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.exhaustive import Coverage, FileCoverage, is_no_category, is_unlabelled_region
from llava_grounding.data.readers.parts.image_rows import ImageRow, checked_size
from llava_grounding.data.readers.parts.left_out import LeftOut, named
from llava_grounding.data.readers.parts.numbers import EntryError, Key, are_numbers, as_numbers
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.reading import MAX_LABELS
from llava_grounding.data.readers.parts.rows import check_present
from llava_grounding.data.readers.parts.shapes import Box, checked_segmentation, clipped_box
from llava_grounding.data.readers.parts.texts import plain_text
from llava_grounding.data.record import (
    Annotation,
    AnnotationKind,
    Expression,
    GroundedText,
    Record,
    RecordedTurn,
    Segmentation,
)
from llava_grounding.errors import DataError, ImageError, shown
from llava_grounding.geometry import oriented_size
from llava_grounding.image_files import DATA_FORMATS
from llava_grounding.image_headers import read_header
from llava_grounding.language.nouns import other_names, spoken_name
from llava_grounding.masks import encode_rle_at, mask_to_box

_CIRCLE = 64  # corners of a polygon that stands for a circle


@dataclass
class Picture:
    """A picture with its labels, while a file is read.

    Args:
        name: of the picture in its store.
        size_wh: in pixels; None where the file does not say.
        data: its bytes, where they are not in the store.
        number: how often it has occurred, where each of its dialogues is a record.
        lost: categories of which a label is left out; None for a label of which nobody knows what it was.
        hints: names of what is said to be there without a place, as tags of a picture say it.
        doubtful: whether it stands only for a picture whose labels may be in a file that was left out: it makes no
            record, and those of the same picture know that any label of theirs may be missing.
    """

    name: str
    size_wh: tuple[int, int] | None
    data: ImageBytes | None = None
    number: int = 1
    things: list[Annotation] = field(default_factory=list)
    lost: set[str | None] = field(default_factory=set)
    hints: set[str] = field(default_factory=set)
    doubtful: bool = False
    expressions: list[Expression] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    grounded_captions: list[GroundedText] = field(default_factory=list)
    dialogues: list[tuple[RecordedTurn, ...]] = field(default_factory=list)

    @property
    def says_more(self) -> bool:
        """Whether it has texts, and so is more than the labels of a picture."""
        return bool(self.dialogues or self.grounded_captions or self.captions)

    def lose_labels_of(self, other: Picture) -> None:
        """What another entry for the same picture labels, and this one does not, may be there all the same."""
        if other.things != self.things:
            self.lost.update(other.lost, (thing.category or None for thing in other.things))

    @contextmanager
    def label(self, called: str, category: Any, left_out: LeftOut) -> Iterator[None]:
        """What is done within is about one label; where it cannot be used, it is left out and its category lost."""
        try:
            yield
        except EntryError as why:
            left_out.add(f"{named(self.name)}: {called}", why)
            self.lost.add(" ".join(category.split()) or None if isinstance(category, str) else None)

    def may_have(self, names: Iterable[Any]) -> None:
        """What is said of the whole picture, without a place: these may be there, though no label shows them."""
        self.hints.update(one for name in names if isinstance(name, str) and (one := " ".join(name.split())))

    def add_mask(self, category: Any, part: np.ndarray, left_top: tuple[int, int], texts: Iterable[str] = ()) -> int:
        """Add a label by its mask, of which a part is given. Gives its place.

        Raises:
            EntryError: if it has no pixel, or does not lie within the picture.
        """
        assert self.size_wh is not None
        (left, top), (height, width) = left_top, part.shape
        if min(left, top) < 0 or left + width > self.size_wh[0] or top + height > self.size_wh[1]:
            raise EntryError("mask outside the image", f"a mask must lie within {self.size_wh}")
        around = mask_to_box(part)
        if around is None:
            raise EntryError("mask without a pixel")
        x0, y0, x1, y1 = (around + np.array([left, top, left, top])).tolist()
        return self.add(category, (x0, y0, x1, y1), encode_rle_at(part, left_top, self.size_wh[::-1]), texts=texts)

    def add(
        self,
        category: Any,
        box_xyxy: Box | None,
        segmentation: Segmentation | None = None,
        key: Key | None = None,
        texts: Iterable[str] = (),
        kind: AnnotationKind = "thing",
    ) -> int:
        """Add a label; a box or polygons must be given. Gives its place.

        Raises:
            EntryError: if it cannot be used.
        """
        name = plain_text(category, "category") if category != "" else ""
        assert self.size_wh is not None
        if len(self.things) >= MAX_LABELS:
            raise EntryError(f"more than {MAX_LABELS} annotations of one image")
        if box_xyxy is None:
            assert not callable(segmentation)
            box_xyxy = _around(segmentation)
        if is_unlabelled_region(name):
            kind = "crowd"
        box = clipped_box(box_xyxy, self.size_wh)
        self.things.append(Annotation("" if is_no_category(name) else name, box, segmentation, kind, key))
        self.expressions += [Expression(plain_text(text, "a description"), (len(self.things) - 1,)) for text in texts]
        return len(self.things) - 1


class PictureRecords(PackedRecords):
    """Records of pictures with labels.

    Args:
        name: what the data is called in reports.
        pictures: with what was found in them.
        images: where pixels come from.
        left_out: read when the pictures have been.
        exhaustive: whether every visible thing of the categories that occur is labelled.
        unread: what the file says that is not read; counted when the pictures have been.
    """

    def __init__(
        self,
        name: str,
        pictures: Iterable[Picture],
        images: ImageStore,
        left_out: LeftOut,
        exhaustive: bool = True,
        unread: Counter[str] | None = None,
    ) -> None:
        self._images = images
        found: list[Picture] = []
        of_one_file: dict[object, list[Picture]] = {}
        doubtful: list[list[Picture]] = []
        forms = BoxForms()
        for picture in pictures:
            try:
                same = of_one_file.setdefault(_place(picture, images), [])
                if picture.doubtful:
                    doubtful.append(same)
                    continue
                for before in same:
                    before.lose_labels_of(picture)
                    picture.lose_labels_of(before)
                if same and not picture.says_more:
                    raise EntryError("picture given twice")
            except EntryError as why:
                left_out.add(f"image {named(picture.name)}", why)
                continue
            same.append(picture)
            picture.number = len(same)
            for thing in picture.things if picture.size_wh else ():
                x0, y0, x1, y1 = thing.box_xyxy
                forms.see([x0, y0, x1 - x0, y1 - y0], picture.size_wh or (1, 1))
            found.append(picture)
        for picture in (one for same in doubtful for one in same):
            picture.lost.add(None)
        forms.refuse("boxes must be in pixels")
        seen = {thing.category for one in found for thing in one.things if thing.category}
        spoken = {spoken_name(name) for name in seen}
        spoken = spoken.union(*map(other_names, spoken))
        for one in found:
            one.lost.update(hint for hint in one.hints if spoken_name(hint) in spoken)
        lost = {name for one in found for name in one.lost if name is not None}
        names: dict[Key, str] = {name: name for name in sorted(seen | lost)}
        self._coverage = FileCoverage((), names, None, exhaustive)
        self._coverage.see_all(seen)
        rows = [self._row(number, picture) for number, picture in enumerate(found)]
        super().__init__(name, (self._with_coverage(*row) for row in rows), left_out, unread)

    def _row(self, number: int, picture: Picture) -> tuple[int, Picture]:
        for lost in picture.lost:
            self._coverage.lose((number,), lost)
        for thing in picture.things:
            if thing.kind == "crowd":
                self._coverage.lose((number,), thing.category or None)
        return number, picture

    def _with_coverage(self, number: int, picture: Picture) -> tuple[Record, Coverage]:
        row = ImageRow(number, picture.name, picture.size_wh or (1, 1), {})
        record = Record(
            id=picture.name if picture.number == 1 else f"{picture.name}#{picture.number}",
            image_id=number + 1,
            image_size_wh=picture.size_wh,
            instances=tuple(picture.things),
            read_bytes=picture.data or self._images.locate(picture.name),
            captions=tuple(picture.captions),
            grounded_captions=tuple(picture.grounded_captions),
            expressions=tuple(picture.expressions),
            dialogues=tuple(picture.dialogues),
            image_name=picture.name,
        )
        return record, self._coverage.of(row, None, (thing.category for thing in picture.things))

    def _record(self, row: tuple[Record, Coverage]) -> Record:
        record, coverage = row
        return self._coverage.fill(record, coverage)


def _place(picture: Picture, images: ImageStore) -> object:
    """The same for all spellings of a picture's name.

    Raises:
        EntryError: if it is not there.
    """
    if picture.data is not None:
        return posixpath.normpath(picture.name.replace("\\", "/"))
    check_present(images, picture.name)
    return place_of(images.locate(picture.name))


def size_of(images: ImageStore, name: str) -> tuple[int, int]:
    """Width and height of a picture, upright, from its header.

    Raises:
        EntryError: if it is not there, or cannot be read.
    """
    check_present(images, name)
    try:
        return header_size(images.locate(name)())
    except EntryError:
        raise
    except DataError as error:
        raise EntryError("picture that cannot be read", str(error)) from error


def header_size(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded picture, upright, from its header.

    Raises:
        EntryError: if it is none.
    """
    try:
        header = read_header(data, "it", DATA_FORMATS)
    except ImageError as error:
        raise EntryError("picture that cannot be read", str(error)) from error
    if header.size_wh is None:
        raise EntryError("picture that cannot be read", "its header does not say how large it is")
    return checked_size(*oriented_size(header.size_wh, header.orientation))


def corners(values: Sequence[Any], what: str = "a box") -> Box:
    """Four numbers as the corners of a box, in whichever order they were drawn.

    Raises:
        EntryError: if they are none.
    """
    numbers = as_numbers(list(values))
    if not are_numbers(numbers, 4):
        raise EntryError("box that is not four finite numbers", f"{what} must be four numbers, got {shown(values)}")
    x0, y0, x1, y1 = map(float, numbers)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def polygons(value: Any, size_wh: tuple[int, int]) -> Segmentation:
    """Polygons, each a flat list or a list of points.

    Raises:
        EntryError: if there is none.
    """
    mask = checked_segmentation(value, size_wh)
    if mask is None:
        raise EntryError("polygon that is not three or more points", f"a polygon must have points, got {shown(value)}")
    return mask


def ellipse(x: Any, y: Any, radius_x: Any, radius_y: Any, degrees: float = 0.0) -> list[list[float]]:
    """An ellipse as a polygon; `degrees` clockwise.

    Raises:
        EntryError: if one of them is no number.
    """
    numbers = as_numbers([x, y, radius_x, radius_y, degrees])
    if not are_numbers(numbers, 5):
        raise EntryError("ellipse that is not finite numbers", f"an ellipse must be numbers, got {shown(numbers)}")
    x, y, radius_x, radius_y, degrees = numbers
    angles = np.arange(_CIRCLE) * (2 * math.pi / _CIRCLE)
    points = np.stack([abs(radius_x) * np.cos(angles), abs(radius_y) * np.sin(angles)], axis=1)
    return [(turned(points, degrees) + np.array([x, y])).reshape(-1).tolist()]


def rotated_box(box_xyxy: Box, degrees: float, about_centre: bool) -> list[list[float]]:
    """A box as a polygon, turned clockwise about its centre, or else about its left upper corner."""
    x0, y0, x1, y1 = box_xyxy
    points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    pivot = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) if about_centre else np.array([x0, y0])
    return [(turned(points - pivot, degrees) + pivot).reshape(-1).tolist()]


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Points (n, 2) turned clockwise about the origin, y pointing down."""
    angle = math.radians(degrees)
    return points @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


class SeveralPicturesError(EntryError):
    """A file of labels may be of either of several pictures.

    Attributes:
        pictures: these, to note that their labels are not known.
    """

    pictures: tuple[Picture, ...] = ()


def check_own_name(said: str, path: Path, there: Sequence[str], store: ImageStore) -> None:
    """See that a file of labels, one of which lies beside each picture, is not left from before it was renamed.

    Args:
        said: the picture that the file names.
        path: of the file.
        there: names, of those that the file can mean, of pictures that are there.

    Raises:
        SeveralPicturesError: if it is called like one picture and names another, and both are there.
    """
    own = folded(path.stem)
    names = {folded(file_stem(one)) for one in there}
    if own in names and len(names) > 1 and len({place_of(store.locate(one)) for one in there}) > 1:
        error = SeveralPicturesError(
            "file called like another picture than it names",
            f"it names {named(said)}, but a picture called `{path.stem}` is there as well, and nobody can say which "
            "is meant; name the right one",
        )
        error.pictures = tuple(Picture(one, None, doubtful=True) for one in there)
        raise error


def file_stem(name: str) -> str:
    """Last part of a path of whichever system, without its last suffix."""
    return posixpath.splitext(posixpath.basename(name.replace("\\", "/")))[0]


def _around(segmentation: Segmentation | None) -> Box:
    if isinstance(segmentation, Mapping) or callable(segmentation) or not segmentation:
        raise EntryError("label without a box", "a label must have a box or polygons")
    points = np.concatenate([np.asarray(one, dtype=np.float64).reshape(-1, 2) for one in segmentation])
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1, y1
