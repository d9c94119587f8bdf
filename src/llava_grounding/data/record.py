"""What a data set says of one image: labelled things, captions, expressions, dialogues; pixels are read when asked for.

Every reader of a published format makes these; `dialogues` turns one into a `Sample`. Boxes are in pixels of the
image. Knows no file format, no question templates and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np
from PIL import Image

from llava_grounding.data.sample import Instance, Targets
from llava_grounding.errors import DataError, ImageError, shown
from llava_grounding.image_files import DATA_FORMATS, DATA_LIMITS, load_no_larger
from llava_grounding.markup import REGION, SEG
from llava_grounding.masks import decode_rle, mask_to_box, resize_mask
from llava_grounding.polygons import polygons_to_mask

_MOST_MASK_BYTES = 2**32  # of one image, opened
_MASK_BYTES = 2**26  # of one image whose picture is larger than any model looks at
_LARGEST_SIDE = 2048  # pixels; no model's canvas has more
_LEAST_SIDE = 1024  # pixels, however many masks there are
AnnotationKind = Literal["thing", "crowd", "stuff", "class"]
Segmentation = Mapping[str, Any] | Sequence[Sequence[float]] | Callable[[], np.ndarray]
"""COCO run-length code, polygons, or a function that reads the mask: (H, W) bool."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One labelled thing of an image, in its pixels.

    Args:
        category: the category's name; empty where there is none.
        box_xyxy: corners, clipped to the image.
        segmentation: the mask, None where only the box is known.
        kind: `thing` (one instance), `crowd` (several things under one mask), `stuff` (a material or surface) or
            `class` (everything of the category in the image).
        id: as the file has it, None where it has none; digits as text are the number.
    """

    category: str
    box_xyxy: tuple[float, float, float, float]
    segmentation: Segmentation | None
    kind: AnnotationKind = "thing"
    id: int | str | None = None


@dataclass(frozen=True)
class GroundedText:
    """A sentence whose phrases are tied to annotations.

    Args:
        text: canonical markup, one `<seg>` after each phrase.
        targets: for the k-th `<seg>` the indices of its annotations; None = no match is known.
    """

    text: str
    targets: Targets

    def __post_init__(self) -> None:
        _check_count("targets", len(self.targets), SEG, self.text)


@dataclass(frozen=True)
class Expression:
    """Words that mean certain annotations of the image, such as a referring expression or a region's caption.

    Args:
        text: plain text.
        targets: indices of what is meant.
    """

    text: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class RecordedTurn:
    """One question of a recorded dialogue with its answer.

    Args:
        question: plain text, one `<region>` for each of `regions`.
        answer: canonical markup when `grounded`, else plain text.
        targets: for the k-th `<seg>` of the answer the indices of its annotations; None = no match is known.
        regions: the annotation that each `<region>` points at.
        grounded: whether noun phrases of the answer carry markup.
        in_loss: whether the answer counts in a loss; one that does not is still read by those behind it.
    """

    question: str
    answer: str
    targets: Targets = ()
    regions: tuple[int, ...] = ()
    grounded: bool = False
    in_loss: bool = True

    def __post_init__(self) -> None:
        _check_count("targets", len(self.targets), SEG, self.answer)
        _check_count("regions", len(self.regions), REGION, self.question)


@dataclass(frozen=True)
class Record:
    """Everything known about one image.

    Args:
        id: unique within its data set.
        image_id: of the image in its file, a number or text; None where there is none.
        image_size_wh: width and height in pixels; None where the file does not say.
        instances: labelled things, in the order of the file.
        read_bytes: gives the encoded picture; small to send to workers.
        captions: sentences by people.
        statements: spatial statements with whether they are true.
        questions: yes/no questions with `yes` or `no`, for evaluation.
        exhaustive: categories of which every visible instance is labelled.
        source: as the file says, or empty.
        license: as the file says, or empty.
        grounded_captions: sentences with their phrases tied to instances.
        expressions: what people say to mean instances.
        dialogues: recorded conversations, of which one at a time is learnt from.
        image_name: of the picture in its store, empty where it has none.
        marks: where numbers are drawn into the picture, the annotation that number k stands on at place k - 1. Such a
            picture must not be mirrored, and its texts name things as `<k>`.
    """

    id: str
    image_id: int | str | None
    image_size_wh: tuple[int, int] | None
    instances: tuple[Annotation, ...]
    read_bytes: Callable[[], bytes] = field(repr=False, compare=False)
    captions: tuple[str, ...] = ()
    statements: tuple[tuple[str, bool], ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    exhaustive: frozenset[str] = frozenset()
    source: str = ""
    license: str = ""
    grounded_captions: tuple[GroundedText, ...] = ()
    expressions: tuple[Expression, ...] = ()
    dialogues: tuple[tuple[RecordedTurn, ...], ...] = ()
    image_name: str = ""
    marks: tuple[int, ...] = ()

    @property
    def seed(self) -> int:
        """Seed of random choices about it, the same on every machine: its image's id, else its own, as a number."""
        key = self.id if self.image_id is None else self.image_id
        return key if isinstance(key, int) and key >= 0 else crc32(str(key).encode())

    def load_image(self) -> np.ndarray:
        """Pixels as (H, W, 3) uint8 RGB, upright; as they are stored where the labels are of the picture before it was
        turned, as some tools make them.

        Raises:
            DataError: whatever is wrong with the picture, or if it is not of the labelled size.
        """
        return np.array(self.open_image()[0])

    def open_image(self, max_side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
        """What `load_image` gives, as an RGB image of Pillow, and width and height of the picture as it is.

        Args:
            max_side: a picture whose longer side has more pixels is made smaller.

        Raises:
            DataError: as `load_image`.
        """
        labelled = self.image_size_wh
        try:
            picture, size_wh = open_labelled(self.read_bytes(), labelled, max_side)
        except ImageError as error:
            raise DataError(f"cannot read image `{self.id}`: {error}") from error
        if labelled not in (None, size_wh):
            raise DataError(f"image `{self.id}` must be {labelled} (width, height) as its labels say, got {size_wh}")
        return picture, size_wh

    def load_mask(self, index: int, size_wh: tuple[int, int] | None = None) -> np.ndarray | None:
        """Mask of one instance as (H, W) bool, or None where only its box is known.

        Args:
            size_wh: of the image, where the record does not say it.
        """
        segmentation, size = self.instances[index].segmentation, self.image_size_wh or size_wh
        if segmentation is None:
            return None
        if size is None:
            raise DataError(f"the size of `{self.id}` is not known, so its masks cannot be drawn")
        width, height = size
        if callable(segmentation):
            mask = segmentation()
        elif isinstance(segmentation, Mapping):
            return decode_rle(segmentation, (height, width))
        else:
            return polygons_to_mask([list(polygon) for polygon in segmentation], size)
        if mask.shape != (height, width):
            raise DataError(f"mask {index} of `{self.id}` must be {(height, width)}, got {mask.shape}")
        return mask


def open_labelled(
    data: bytes, labelled_wh: tuple[int, int] | None, max_side: int | None = None, name: str = "it"
) -> tuple[Image.Image, tuple[int, int]]:
    """An encoded picture as an RGB image, upright or as it is stored where only that fits its labels; and its size.

    Args:
        labelled_wh: width and height as the labels say; a picture of another size is given all the same.
        max_side: a picture whose longer side has more pixels is made smaller.
        name: in messages.

    Raises:
        ImageError: if it cannot be read.
    """
    picture, size_wh = load_no_larger(data, max_side, DATA_LIMITS, DATA_FORMATS, name)
    if labelled_wh not in (None, size_wh) and labelled_wh == size_wh[::-1]:
        picture, as_stored = load_no_larger(data, max_side, DATA_LIMITS, DATA_FORMATS, name, turned=False)
        size_wh = labelled_wh if as_stored == labelled_wh else size_wh
    return picture, size_wh


@dataclass(frozen=True, eq=False)
class OpenedRecord:
    """A record with its pixels and masks; crowds are left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: the annotations that are kept.
        masks: (n, H, W) bool, all False where only a box is known.
        rows: index of an annotation in the record -> its row here.
    """

    image: np.ndarray
    instances: tuple[Instance, ...]
    masks: np.ndarray
    rows: Mapping[int, int]


def open_record(record: Record) -> OpenedRecord:
    """Read pixels and masks.

    A picture that is larger than any model looks at is made smaller with its boxes and masks: to 2048 pixels, and where
    it has many masks to fewer, but no fewer than 1024. So no mask of a photo of 20 megapixels is ever held whole, but
    for a run-length code while it is made smaller.

    Raises:
        DataError: if the picture cannot be read, or does not fit its labels.
    """
    kept = [index for index, instance in enumerate(record.instances) if instance.kind != "crowd"]
    picture, full_wh = record.open_image(_max_side(record.image_size_wh, len(kept)))
    image = np.array(picture)
    height, width = image.shape[:2]
    if len(kept) * height * width > _MOST_MASK_BYTES:
        raise DataError(
            f"image `{record.id}` of {width} x {height} has {len(kept)} labels, whose masks do not fit into "
            f"{_MOST_MASK_BYTES // 2**30} GiB; make the picture smaller"
        )
    scale_xy = width / full_wh[0], height / full_wh[1]
    masks = np.zeros((len(kept), height, width), dtype=bool)
    instances = []
    for row, index in enumerate(kept):
        labelled = record.instances[index]
        has_mask = _read_mask(record, index, full_wh, masks[row])
        box = np.array(labelled.box_xyxy) * (scale_xy * 2)
        instances.append(Instance(labelled.category, box, has_mask))
    return OpenedRecord(image, tuple(instances), masks, {index: row for row, index in enumerate(kept)})


def _max_side(size_wh: tuple[int, int] | None, count: int) -> int:
    """Pixels of the longer side of a picture with so many masks."""
    if size_wh is None or not count:
        return _LARGEST_SIDE
    scale = (_MASK_BYTES / count / (size_wh[0] * size_wh[1])) ** 0.5
    return min(_LARGEST_SIDE, max(_LEAST_SIDE, int(max(size_wh) * scale)))


def _read_mask(record: Record, index: int, full_wh: tuple[int, int], into: np.ndarray) -> bool:
    """Write a mask into a (H, W) array of zeros; whether there is any pixel of it."""
    segmentation, size_wh = record.instances[index].segmentation, (into.shape[1], into.shape[0])
    if segmentation is None:
        return False
    if size_wh != full_wh and not callable(segmentation) and not isinstance(segmentation, Mapping):
        scale = np.array(size_wh) / full_wh
        mask: np.ndarray | None = polygons_to_mask(
            [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale for polygon in segmentation], size_wh
        )
    else:
        mask = record.load_mask(index, full_wh)
        if mask is not None and size_wh != full_wh:
            mask = resize_mask(mask, size_wh)
    if mask is None or (around := mask_to_box(mask)) is None:
        return False
    x0, y0, x1, y1 = around.astype(int)
    into[y0:y1, x0:x1] = mask[y0:y1, x0:x1]  # what is not written takes no memory
    return True


class Dataset(Protocol):
    """Records by number, the same each time; reading one reads no pixels. Picklable, for worker processes."""

    @property
    def name(self) -> str:
        """What the data is called in reports."""

    @property
    def dropped(self) -> Mapping[str, Sequence[str]]:
        """What reading left out: a reason, and the ids it befell."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...
    def __iter__(self) -> Iterator[Record]: ...


def _check_count(name: str, count: int, token: str, text: str) -> None:
    if text.count(token) != count:
        raise DataError(
            f"{name} must have one entry per `{token}`, expected {text.count(token)}, got {count}: {shown(text)}"
        )
