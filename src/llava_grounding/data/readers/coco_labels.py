"""The labels of a COCO instances file: images, categories, annotations, and what the file says to mean them.

What other readers need of such a file. Knows no captions and no layout of folders.
"""

from __future__ import annotations

import marshal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.category_names import natural_name, read_categories, surfaces_of
from llava_grounding.data.readers.parts.exhaustive import FileCoverage, is_no_category, is_unlabelled_region
from llava_grounding.data.readers.parts.files import JsonRows
from llava_grounding.data.readers.parts.image_rows import image_rows, leave_out_same_files, same_pictures
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key, key_of, key_or_none
from llava_grounding.data.readers.parts.reading import MAX_LABELS, is_crowd, is_ignored, label_id, rows_of, sequence_of
from llava_grounding.data.readers.parts.shapes import Box, box_from_xywh, box_or_around, checked_segmentation
from llava_grounding.data.readers.parts.texts import plain_text
from llava_grounding.data.record import Annotation, Segmentation
from llava_grounding.errors import DataError, shown
from llava_grounding.masks import rle_area

TEXT_KEYS = ("caption", "captions", "expressions", "sentences", "phrase", "phrases", "description")
"""Keys of annotations under which files say in words what is meant."""
_UNREAD = ("attributes", "score", "keypoints", "tokens_positive")
_TELLING = frozenset((*TEXT_KEYS, *_UNREAD))
_MOST_NUMBERS, _FARTHEST = 10_000, 1e7  # of a polygon that needs no second look: together they are not huge
_Number = Annotated[float, msgspec.Meta(ge=-_FARTHEST, le=_FARTHEST)]
_WholeNumber = Annotated[int, msgspec.Meta(ge=-(10**7), le=10**7)]
_Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_Polygon = Annotated[list[_WholeNumber | _Number], msgspec.Meta(min_length=6, max_length=_MOST_NUMBERS)]
_MARSHAL = 2  # the form in which equal values are equal bytes
_Values = tuple[str, Box, Segmentation | None, str, Key | None]
"""Values of an annotation, in its order; plain, as millions are packed."""
_REGION = 3  # its place among them
_Read = tuple[_Values, Key, Sequence[str]]
"""Values of an annotation, the id of its image, and what the file says to mean it."""
_ANYTHING = ("object", "objects", "region", "thing")  # categories of files whose annotations say what they are


@dataclass(frozen=True)
class LabelOptions:
    """How a COCO instances file is read.

    Args:
        thorough: also unpack run lengths to see that they are whole; for files of moderate size.
        label_sets: category names by the `label_set` of images.
        exhaustive: whether a file that says nothing of itself is taken to label every visible thing of its categories.
        crowds_as_things: whether an annotation with `iscrowd` is one thing, as tools write it that set it for every
            mask made with a brush.
        used: where the data is a part of a file, ids of the categories that annotations of the whole file bear. What
            only the whole file can show, as the form of its boxes, is then not judged.
        release: let go of rows of the data as they are read; it is of no use afterwards, and half as much memory is
            needed.
        texts: keys of annotations under which words are read that mean them.
        packed: keep annotations as bytes that `unpacked` reads, in a third of the memory.
    """

    thorough: bool = False
    label_sets: Mapping[str, frozenset[str]] | None = None
    exhaustive: bool = True
    crowds_as_things: bool = False
    used: Iterable[Key] | None = None
    release: bool = False
    texts: Sequence[str] = TEXT_KEYS
    packed: bool = False


class _PlainRow(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An annotation as nearly all of the millions there are: ids, a box, polygons, and nothing to be told of it."""

    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: Annotated[list[_WholeNumber | _Number], msgspec.Meta(min_length=4, max_length=4)]
    segmentation: list[_Polygon] | msgspec.UnsetType = msgspec.UNSET
    area: int | float | msgspec.UnsetType | None = msgspec.UNSET
    iscrowd: Literal[0] | msgspec.UnsetType = msgspec.UNSET


_decode_plain = msgspec.json.Decoder(_PlainRow).decode


def _count_keys(row: _PlainRow) -> int:
    unset = msgspec.UNSET
    return 7 - (row.segmentation is unset) - (row.area is unset) - (row.iscrowd is unset)


def _category_and_id(row: Any) -> tuple[Key | None, Key | None]:
    """Category and id of an annotation, None where they are none; digits as text are the number."""
    if type(row) is not dict and not isinstance(row, Mapping):
        raise EntryError("annotation that is no object")
    key = row.get("id")
    return key_or_none(row.get("category_id")), None if key is None else key_or_none(key)


class _Ids:
    """What is known of ids as rows come; filled in where a row is read, as one more call for each takes long.

    Attributes:
        first: of each annotation the row that bears its id first.
        kept: of annotations that are kept.
        ambiguous: those that several rows bear and mean different things by, with the second row.
        categories: that annotations bear.
    """

    __slots__ = ("ambiguous", "categories", "first", "kept")

    def __init__(self) -> None:
        self.first: dict[Key, int] = {}
        self.kept: set[Key] = set()
        self.ambiguous: dict[Key, int] = {}
        self.categories: set[Key] = set()

    def forgive(self, key: Key, number: int, is_same: bool) -> None:
        """Take back that the row made its id ambiguous, if it says the same as the one before.

        Raises:
            EntryError: if it says something else.
        """
        if not is_same:
            raise EntryError("annotation id used twice")
        if self.ambiguous[key] == number:
            del self.ambiguous[key]


def unpacked(data: bytes) -> Annotation:
    """An annotation from what `CocoLabels` packed."""
    return Annotation(*marshal.loads(data))


def _as_mapping(row: Any) -> Any:
    """A row as the file has it."""
    if type(row) is not _PlainRow:
        return row
    return {name: value for name, value in msgspec.structs.asdict(row).items() if value is not msgspec.UNSET}


class CocoLabels:
    """The usable labels of a COCO instances file.

    Args:
        data: the parsed file.
        left_out: counts every image, category and annotation that cannot be used.
        options: see there.
        store: where the pictures come from, to see which images of the file are one picture.

    Attributes:
        images: by id, in order.
        categories: names by id, empty for one that is none, as `background`.
        annotations: image id -> annotation id (a number of ours where there is none) -> annotation, in order; its bytes
            where they are packed.
        expressions: image id -> what the file says to mean an annotation, with its place among those of the image.
        ambiguous: ids that several annotations of the file bear. The first usable one is kept, but whatever names such
            an id may mean the other.
        coverage: which categories are complete in which image.
        unread: keys of annotations that mean something and are not read, with how many have them.
    """

    def __init__(
        self,
        data: Any,
        left_out: LeftOut,
        options: LabelOptions = LabelOptions(),
        store: ImageStore | None = None,
    ) -> None:
        what = "a COCO instances file"
        self._options, self._left_out = options, left_out
        self._forms = BoxForms()
        image_list, category_list = rows_of(data, "images", what), rows_of(data, "categories", what)
        self.images = image_rows(image_list, left_out, named_once=True)
        self._twins = same_pictures(image_list, self.images)
        if store is not None:
            self._twins = leave_out_same_files(self.images, self._twins, store, left_out)
        names = read_categories(category_list, left_out)
        self._surfaces = surfaces_of(category_list)
        names |= {number: natural_name(names[number]) for number in self._surfaces & names.keys()}
        self.categories = {number: "" if is_no_category(name) else name for number, name in names.items()}
        self.coverage = FileCoverage(category_list, names, options.label_sets, options.exhaustive)
        self.coverage.see_all(options.used or ())
        for image in self.images.values():
            self.coverage.see_image(image)
        self._unlabelled = {number for number, name in names.items() if is_unlabelled_region(name)}
        self._nameless = {number for number, name in names.items() if name.lower() in _ANYTHING}
        self.annotations: dict[Key, dict[object, Any]] = {}
        self.expressions: dict[Key, list[tuple[str, int]]] = {}
        self.unread: Counter[str] = Counter()
        self.ambiguous: frozenset[Key] = frozenset()
        self._read(sequence_of(data, "annotations", what))
        if options.used is None:
            self._forms.refuse()

    def _read(self, rows: Sequence[Any]) -> None:
        ids = _Ids()
        released = rows if self._options.release and isinstance(rows, list) else None
        for number, row in enumerate(rows.plain(_decode_plain, _count_keys) if isinstance(rows, JsonRows) else rows):
            if released is not None:
                released[number] = None
            try:
                self._keep(row, number, rows, ids)
            except EntryError as why:
                self._left_out.add(f"annotation {label_id(_as_mapping(row))}", why)
                self.lose(row)
        self.ambiguous = frozenset(ids.ambiguous)
        self.coverage.see_all(ids.categories)

    def _keep(self, row: Any, number: int, rows: Sequence[Any], ids: _Ids) -> None:
        """Take in the annotation of a row, unless it says again what an earlier row with its id says.

        Raises:
            EntryError: if it cannot be used.
        """
        values: Any
        key: Any
        is_plain = type(row) is _PlainRow
        category, key = (row.category_id, row.id) if is_plain else _category_and_id(row)
        if category is not None:
            ids.categories.add(category)
        first = number if key is None else ids.first.setdefault(key, number)
        if first != number:
            ids.ambiguous.setdefault(key, number)
        found = self._plain_annotation(row) if is_plain else None
        values, image_id, texts = found or self._annotation(_as_mapping(row), category, key)
        annotation: Any = marshal.dumps(values, _MARSHAL) if self._options.packed else Annotation(*values)
        labels = self.annotations.setdefault(image_id, {})
        if first != number and key in ids.kept:
            same = labels.get(key) == annotation
            ids.forgive(key, number, same and self._is_repeated(row, rows[first], texts, image_id, key))
            return
        if len(labels) >= MAX_LABELS:
            raise EntryError(f"more than {MAX_LABELS} annotations of one image")
        if texts:
            self.expressions.setdefault(image_id, []).extend((text, len(labels)) for text in texts)
        labels[f"row {number}" if key is None else key] = annotation
        if key is not None:
            ids.kept.add(key)
        if values[_REGION] == "crowd":
            self.lose(row)

    def _plain_annotation(self, row: _PlainRow) -> _Read | None:
        """What `_annotation` gives, of a plain row; None where anything about it needs a second look."""
        image, category = self.images.get(row.image_id), self.categories.get(row.category_id)
        if image is None or category is None or row.category_id in self._unlabelled:
            return None
        segmentation = row.segmentation or None
        if segmentation:
            for polygon in segmentation:
                if len(polygon) % 2:
                    return None
        x, y, w, h = row.bbox
        width, height = image.size_wh
        right, bottom = x + w, y + h
        if x < 0 or y < 0 or w <= 0 or h <= 0 or right > width or bottom > height:
            return None
        self._forms.see_numbers(row.bbox, image.size_wh, segmentation)
        region = "stuff" if row.category_id in self._surfaces else "thing"
        box = float(x), float(y), float(right), float(bottom)
        return (category, box, segmentation, region, row.id), row.image_id, ()

    def _is_repeated(self, row: Any, before: Any, texts: Sequence[str], image_id: Key, key: Key) -> bool:
        """Whether a row says no more than the one before with its id, which may have been let go of."""
        if before is not None:
            return bool(_as_mapping(row) == before)
        place = list(self.annotations[image_id]).index(key)
        return list(texts) == [text for text, of in self.expressions.get(image_id, ()) if of == place]

    def lose(self, row: Any) -> None:
        """Note that an annotation of the file is left out, or hides others of its kind."""
        row = _as_mapping(row)
        row = row if isinstance(row, Mapping) else {}
        image_id, category = key_or_none(row.get("image_id")), key_or_none(row.get("category_id"))
        known = image_id in self.images or image_id in self._twins or isinstance(image_id, int)
        image_ids = self._twins.get(image_id, (image_id,)) if known and image_id is not None else None
        self.coverage.lose(image_ids, None if category in self._unlabelled else category)

    def _annotation(self, row: Mapping[str, Any], number: Key | None, key: Key | None) -> _Read:
        """Values of an annotation with the id of its image, and what the file says to mean it.

        Args:
            number: of its category.
            key: its id.
        """
        image_id = key_of(row.get("image_id"), "image id")
        image = self.images.get(image_id)
        if image is None:
            raise EntryError("annotation of an unknown image", f"image_id {shown(image_id)} is no image of the file")
        if number not in self.categories:
            number = key_of(row.get("category_id"), "category id")
            raise EntryError(
                "annotation of an unknown category", f"category_id {number} is no category of the file that can be used"
            )
        category = self.categories[number]
        size_wh = image.size_wh
        bbox, segmentation = row.get("bbox"), row.get("segmentation")
        self._forms.see(bbox, size_wh, segmentation)
        region = "stuff" if number in self._surfaces else "thing"
        if "mask" in row and isinstance(row["mask"], str):
            region = {"stuff": "stuff", "semantic": "class"}.get(row["mask"], region)
        if (is_crowd(row) and not self._options.crowds_as_things) or number in self._unlabelled:
            region = "crowd"
        if row.get("ignore") and is_ignored(row):
            region = "crowd"
        mask = None if segmentation is None else self._segmentation(segmentation, size_wh)
        box = box_from_xywh(bbox, size_wh) if mask is None else box_or_around(bbox, mask, size_wh)
        if key is None and row.get("id") is not None:
            key_of(row["id"], "annotation id")
        texts: Sequence[str] = () if _TELLING.isdisjoint(row) else self._texts(row, key)
        if texts and number in self._nameless:
            category = ""
        return (category, box, mask, region, key), image_id, texts

    def _texts(self, row: Mapping[str, Any], key: Key | None) -> list[str]:
        """What the file says to mean an annotation, each text once; notes what it says that is not read."""
        self.unread.update(one for one in _UNREAD if row.get(one) not in (None, [], {}, ""))
        texts = []
        for name in self._options.texts:
            values = row.get(name)
            for value in values if isinstance(values, list) else [] if values is None else [values]:
                if isinstance(value, Mapping):
                    value = value.get("sent") or value.get("raw")
                try:
                    texts.append(plain_text(value, name))
                except EntryError as why:
                    self._left_out.add(f"{name} of annotation {shown(key)}", why)
        return list(dict.fromkeys(texts))

    def _segmentation(self, value: Any, size_wh: tuple[int, int]) -> Segmentation | None:
        mask = checked_segmentation(value, size_wh)
        if self._options.thorough and isinstance(mask, Mapping):
            try:
                rle_area(mask)
            except DataError as error:
                raise EntryError("broken run lengths", str(error)) from error
        return mask
