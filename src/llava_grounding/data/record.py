"""What a data set says of one image: labelled things, captions, expressions, dialogues; pixels are read when asked for.

Every reader of a published format makes these; `conversations` turns one into a `Sample`. Boxes are in pixels of the
image. Knows no file format, no question templates and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from llava_grounding.data.sample import Instance, Targets
from llava_grounding.errors import DataError, ImageError, shown
from llava_grounding.image_files import DATA_FORMATS, DATA_LIMITS, load_image
from llava_grounding.markup import REGION, SEG
from llava_grounding.masks import decode_rle, polygons_to_mask

_MOST_MASK_BYTES = 2**32  # of one image, opened
Segmentation = Mapping[str, Any] | Sequence[Sequence[float]] | Callable[[], np.ndarray]
"""COCO run-length code, polygons, or a function that reads the mask: (H, W) bool."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One labelled thing of an image, in its pixels.

    Args:
        category: the category's name; empty where there is none.
        box_xyxy: corners, clipped to the image.
        segmentation: the mask, None where only the box is known.
        region: `thing` (one instance), `crowd` (several things under one mask), `stuff` (a material or surface) or
            `class` (everything of the category in the image).
        id: as the file has it, None where it has none; digits as text are the number.
    """

    category: str
    box_xyxy: tuple[float, float, float, float]
    segmentation: Segmentation | None
    region: str = "thing"
    id: int | str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # What dataclasses do by themselves asks for each field by its name, which took half of the time of packing.
        return Annotation, (self.category, self.box_xyxy, self.segmentation, self.region, self.id)


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
    """

    question: str
    answer: str
    targets: Targets = ()
    regions: tuple[int, ...] = ()
    grounded: bool = False

    def __post_init__(self) -> None:
        _check_count("targets", len(self.targets), SEG, self.answer)
        _check_count("regions", len(self.regions), REGION, self.question)


@dataclass(frozen=True)
class Record:
    """Everything known about one image.

    Args:
        id: unique within its data set.
        image_id: of the image in its file, a number or text; 0 where there is none.
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
    image_id: int | str
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

    def load_image(self) -> np.ndarray:
        """Pixels as (H, W, 3) uint8 RGB, upright; as they are stored where the labels are of the picture before it was
        turned, as some tools make them.

        Raises:
            DataError: whatever is wrong with the picture, or if it is not of the labelled size.
        """
        return np.array(self.open_image())

    def open_image(self) -> Image.Image:
        """What `load_image` gives, as an RGB image of Pillow."""
        try:
            data = self.read_bytes()
            picture = load_image(data, DATA_LIMITS, DATA_FORMATS, name="it")
            if self.image_size_wh is not None and picture.size == self.image_size_wh[::-1] != self.image_size_wh:
                picture = load_image(data, DATA_LIMITS, DATA_FORMATS, name="it", turned=False)
        except ImageError as error:
            raise DataError(f"cannot read image `{self.id}`: {error}") from error
        if self.image_size_wh is not None and picture.size != self.image_size_wh:
            raise DataError(
                f"image `{self.id}` must be {self.image_size_wh} (width, height) as its labels say, got {picture.size}"
            )
        return picture

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

    Raises:
        DataError: if the picture cannot be read, or does not fit its labels.
    """
    image = record.load_image()
    height, width = image.shape[:2]
    kept = [index for index, instance in enumerate(record.instances) if instance.region != "crowd"]
    if len(kept) * height * width > _MOST_MASK_BYTES:
        raise DataError(
            f"image `{record.id}` of {width} x {height} has {len(kept)} labels, whose masks do not fit into "
            f"{_MOST_MASK_BYTES // 2**30} GiB; make the picture smaller"
        )
    masks = np.zeros((len(kept), height, width), dtype=bool)
    instances = []
    for row, index in enumerate(kept):
        mask = record.load_mask(index, (width, height))
        if mask is not None:
            masks[row] = mask
        labelled = record.instances[index]
        instances.append(Instance(labelled.category, np.array(labelled.box_xyxy), bool(masks[row].any())))
    return OpenedRecord(image, tuple(instances), masks, {index: row for row, index in enumerate(kept)})


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
