"""Photos as raw records: COCO-format instance and caption files, and the photo pack.

`CocoLabels` holds what other readers need of an instances file; `PhotoPack` is the layout of one folder of such files.
Knows no questions, no tokenizer and no model sizes.
"""

from __future__ import annotations

import marshal
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

from llava_grounding.data.images import FolderImages, ImageStore, TarImages, open_images, read_index
from llava_grounding.data.readers.box_forms import BoxForms
from llava_grounding.data.readers.category_names import natural_name, read_categories, surfaces_of
from llava_grounding.data.readers.exhaustive import Coverage, FileCoverage, is_no_category, is_unlabelled_region
from llava_grounding.data.readers.files import without_collections
from llava_grounding.data.readers.numbers import MAX_ID
from llava_grounding.data.readers.reading import (
    MAX_LABELS,
    EntryError,
    ImageRow,
    Key,
    LeftOut,
    PackedRecords,
    box_from_xywh,
    box_or_around,
    checked_segmentation,
    image_rows,
    is_crowd,
    key_of,
    key_or_none,
    label_id,
    naming,
    plain_text,
    printable,
    read_json,
    rows_of,
    same_pictures,
    shown,
)
from llava_grounding.data.readers.rows import read_entries
from llava_grounding.data.record import Annotation, Expression, Record, Segmentation
from llava_grounding.errors import DataError, did_you_mean
from llava_grounding.masks import rle_area

PACK_VARIABLE = "LLAVA_GROUNDING_DATA"
LABEL_SETS = "label_sets.json"
"""Beside an instances file whose images have a `label_set`: the category names of each set."""
_T = TypeVar("_T")
TEXT_KEYS = ("caption", "captions", "expressions", "sentences", "phrase", "phrases", "description")
"""Keys of annotations under which files say in words what is meant."""
_UNREAD = ("attributes", "score", "keypoints", "tokens_positive")
_TELLING = frozenset((*TEXT_KEYS, *_UNREAD))
_ANYTHING = (
    "object",
    "objects",
    "region",
    "thing",
)  # categories of files whose annotations say themselves what they are


class CocoLabels:
    """The usable labels of a COCO instances file.

    Args:
        data: the parsed file.
        left_out: counts every image, category and annotation that cannot be used.
        thorough: also unpack run lengths to see that they are whole; for files of moderate size.
        label_sets: category names by the `label_set` of images.
        exhaustive: whether a file that says nothing of itself is taken to label every visible thing of its categories.
        crowds_as_things: whether an annotation with `iscrowd` is one thing, as tools write it that set it for every
            mask made with a brush.
        used: where `data` is a part of a file, ids of the categories that annotations of the whole file bear. What only
            the whole file can show, as the form of its boxes, is then not judged.

        release: let go of rows of `data` as they are read; it is of no use afterwards, and half as much memory is
            needed.
        texts: keys of annotations under which words are read that mean them.

    Attributes:
        images: by id, in order.
        categories: names by id, empty for one that is none, as `background`.
        annotations: image id -> annotation id (a number of ours where there is none) -> annotation, in order.
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
        thorough: bool = False,
        label_sets: Mapping[str, frozenset[str]] | None = None,
        exhaustive: bool = True,
        crowds_as_things: bool = False,
        used: Iterable[Key] | None = None,
        release: bool = False,
        texts: Sequence[str] = TEXT_KEYS,
    ) -> None:
        what = "a COCO instances file"
        self._thorough, self._crowds_as_things, self._left_out = thorough, crowds_as_things, left_out
        self._text_keys = texts
        self._forms = BoxForms()
        image_list, category_list = rows_of(data, "images", what), rows_of(data, "categories", what)
        self.images = image_rows(image_list, left_out, named_once=True)
        self._twins = same_pictures(image_list, self.images)
        names = read_categories(category_list, left_out)
        self._surfaces = surfaces_of(category_list)
        names |= {number: natural_name(names[number]) for number in self._surfaces & names.keys()}
        self.categories = {number: "" if is_no_category(name) else name for number, name in names.items()}
        self.coverage = FileCoverage(category_list, names, label_sets, exhaustive)
        self.coverage.see_all(used or ())
        for image in self.images.values():
            self.coverage.see_image(image)
        self._unlabelled = {number for number, name in names.items() if is_unlabelled_region(name)}
        self._nameless = {number for number, name in names.items() if name.lower() in _ANYTHING}
        self.annotations: dict[Key, dict[object, Annotation]] = {}
        self.expressions: dict[Key, list[tuple[str, int]]] = {}
        self.unread: Counter[str] = Counter()
        self.ambiguous: frozenset[Key] = frozenset()
        self._read(rows_of(data, "annotations", what), release)
        if used is None:
            self._forms.refuse()

    def _read(self, rows: list[Any], release: bool) -> None:
        first: dict[Key, int] = {}  # of each annotation id the row that bears it first
        used: set[Key] = set()  # ids that an annotation bears which is kept
        ambiguous: set[Key] = set()
        categories: set[Key] = set()
        for number, row in enumerate(rows):
            if release:
                rows[number] = None
            try:
                if type(row) is not dict and not isinstance(row, Mapping):
                    raise EntryError("annotation that is no object")
                category = row.get("category_id")
                if type(category) is not int or not -MAX_ID < category < MAX_ID:
                    category = key_or_none(category)
                if category is not None:
                    categories.add(category)
                key = row.get("id")
                if key is not None and (type(key) is not int or not -MAX_ID < key < MAX_ID):
                    key = key_or_none(key)
                twice = key in first
                new = twice and key not in ambiguous
                if key is not None and twice:
                    ambiguous.add(key)
                elif key is not None:
                    first[key] = number
                annotation, image_id, texts = self._annotation(row, category, key)
                labels = self.annotations.get(image_id)
                if labels is None:
                    labels = self.annotations[image_id] = {}
                if twice and key in used:
                    if labels.get(key) == annotation and self._is_repeated(row, rows[first[key]], texts, image_id, key):
                        if new:
                            ambiguous.discard(key)
                        continue
                    raise EntryError("annotation id used twice")
                if len(labels) >= MAX_LABELS:
                    raise EntryError(f"more than {MAX_LABELS} annotations of one image")
            except EntryError as why:
                self._left_out.add(f"annotation {label_id(row)}", why)
                self.lose(row)
                continue
            if texts:
                place = len(labels)
                self.expressions.setdefault(image_id, []).extend((text, place) for text in texts)
            if key is None:
                labels[f"row {number}"] = annotation
            else:
                labels[key] = annotation
                used.add(key)
            if annotation.region == "crowd":
                self.lose(row)
        self.ambiguous = frozenset(ambiguous)
        self.coverage.see_all(categories)

    def _is_repeated(self, row: Any, before: Any, texts: Sequence[str], image_id: Key, key: Key) -> bool:
        """Whether a row says no more than the one before with its id, which may have been let go of."""
        if before is not None:
            return bool(row == before)
        place = list(self.annotations[image_id]).index(key)
        return list(texts) == [text for text, of in self.expressions.get(image_id, ()) if of == place]

    def lose(self, row: Any) -> None:
        """Note that an annotation of the file is left out, or hides others of its kind."""
        row = row if isinstance(row, Mapping) else {}
        image_id, category = key_or_none(row.get("image_id")), key_or_none(row.get("category_id"))
        known = image_id in self.images or image_id in self._twins or isinstance(image_id, int)
        image_ids = self._twins.get(image_id, (image_id,)) if known and image_id is not None else None
        self.coverage.lose(image_ids, None if category in self._unlabelled else category)

    def _annotation(
        self, row: Mapping[str, Any], number: Key | None, key: Key | None
    ) -> tuple[Annotation, Key, Sequence[str]]:
        """An annotation with the id of its image, and what the file says to mean it.

        Args:
            number: of its category.
            key: its id.
        """
        image_id = row.get("image_id")
        if type(image_id) is not int or not -MAX_ID < image_id < MAX_ID:
            image_id = key_of(image_id, "image id")
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
        if (row.get("iscrowd") and is_crowd(row) and not self._crowds_as_things) or number in self._unlabelled:
            region = "crowd"
        mask = None if segmentation is None else self._segmentation(segmentation, size_wh)
        box = box_from_xywh(bbox, size_wh) if mask is None else box_or_around(bbox, mask, size_wh)
        if key is None and row.get("id") is not None:
            key_of(row["id"], "annotation id")
        texts: Sequence[str] = () if _TELLING.isdisjoint(row) else self._texts(row, key)
        if texts and number in self._nameless:
            category = ""
        return Annotation(category, box, mask, region, key), image_id, texts

    def _texts(self, row: Mapping[str, Any], key: Key | None) -> list[str]:
        """What the file says to mean an annotation, each text once; notes what it says that is not read."""
        self.unread.update(one for one in _UNREAD if row.get(one) not in (None, [], {}, ""))
        texts = []
        for name in self._text_keys:
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
        if self._thorough and isinstance(mask, Mapping):
            try:
                rle_area(mask)
            except DataError as error:
                raise EntryError("broken run lengths", str(error)) from error
        return mask


class CocoPhotos(PackedRecords):
    """Records of one COCO instances file with optional captions and statements; order of the file.

    Labels that cannot be used are left out and listed in `dropped`.

    Args:
        instances: parsed instances file.
        images: where pixels come from.
        captions: parsed captions file.
        statements: rows with `image_id`, `statement` and `label`, 1 where it is true, else 0.
        questions: rows with `image_id`, `question` and `answer`, `yes` or `no`.
        name: what the data is called in reports.
        thorough, label_sets, exhaustive, crowds_as_things, used, release, texts: see `CocoLabels`.

    Raises:
        DataError: if a file is not in COCO's form at all, or an image's `label_set` is unknown.
    """

    def __init__(
        self,
        instances: Mapping[str, Any],
        images: ImageStore,
        captions: Mapping[str, Any] | None = None,
        statements: Iterable[Any] = (),
        questions: Iterable[Any] = (),
        name: str = "coco",
        thorough: bool = False,
        label_sets: Mapping[str, frozenset[str]] | None = None,
        exhaustive: bool = True,
        crowds_as_things: bool = False,
        used: Iterable[Key] | None = None,
        release: bool = False,
        texts: Sequence[str] = TEXT_KEYS,
    ) -> None:
        left_out = LeftOut()
        labels = CocoLabels(
            instances, left_out, thorough, label_sets, exhaustive, crowds_as_things, used, release, texts
        )
        self.categories = {number: name for number, name in labels.categories.items() if name}
        self.ambiguous = labels.ambiguous
        self._coverage = labels.coverage
        for label_set in {_label_set(image) for image in labels.images.values()} - {None}:
            _check_label_set(label_set, label_sets)
        said = _ImageTexts(
            _by_image("caption", _caption_rows(captions), _caption, labels.images, left_out),
            _by_image("statement", statements, _statement, labels.images, left_out),
            _by_image("question", questions, _question, labels.images, left_out),
        )
        self._images = images
        self.ids = tuple(labels.images)
        packed = (_row(image, labels, said) for image in labels.images.values())
        super().__init__(name, packed, left_out, labels.unread)
        self.left_out = left_out

    @classmethod
    def from_files(
        cls,
        instances: str | Path,
        images: str | Path,
        captions: str | Path | None = None,
        exhaustive: bool = True,
        crowds_as_things: bool = False,
        name: str | None = None,
    ) -> CocoPhotos:
        """Reads an instances file, and a captions file if given.

        Args:
            instances: such as `instances_train2017.json`; with `label_sets.json` beside it where images have a
                `label_set`.
            images: folder, tar shards or zip; see `open_images`.
            captions: such as `captions_train2017.json`.
            exhaustive: whether every visible thing of the file's categories is labelled. If not, nothing is asked that
                only a complete file can answer: how many there are, or whether there is one.
            crowds_as_things: take annotations with `iscrowd: 1` for one thing each, as CVAT and Datumaro write them for
                every mask made with a brush; else they are never asked for.
            name: what the data is called in reports; by default the stem of `instances`.

        Raises:
            DataError: if a file cannot be read or is of another kind.
        """
        with without_collections():
            labels = read_json(instances)
            with naming(instances):
                return cls(
                    labels,
                    open_images(images),
                    read_json(captions) if captions else None,
                    name=name or Path(instances).stem,
                    label_sets=read_label_sets(Path(instances).parent),
                    exhaustive=exhaustive,
                    crowds_as_things=crowds_as_things,
                    release=True,
                )

    def _record(self, row: bytes) -> Record:
        values, things, expressions, coverage = marshal.loads(row)
        return Record(
            **values,
            instances=tuple(starmap(Annotation, things)),
            read_bytes=self._images.locate(values["id"]),
            expressions=tuple(Expression(text, (place,)) for text, place in expressions),
            exhaustive=self._coverage.names(Coverage(*coverage)),
        )


class PhotoPack:
    """A folder of splits: `instances_S.json`, `captions_S.json`, `index_S.json`, tar shards, statements, questions.

    Args:
        root: the folder; None = the environment variable LLAVA_GROUNDING_DATA.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        place = root if root is not None else os.environ.get(PACK_VARIABLE)
        if not place:
            raise DataError(f"no photo pack: pass its folder, or set {PACK_VARIABLE} to it")
        self.root = Path(place)
        if not self.root.is_dir():
            raise DataError(f"the photo pack must be a folder, got {self.root}")

    @property
    def splits(self) -> tuple[str, ...]:
        found = self.root.glob("instances_*.json")
        return tuple(sorted(path.stem.removeprefix("instances_") for path in found))

    def split(self, name: str) -> CocoPhotos:
        """Records of one split; photos come from the shards if there is an index, else from the folder."""
        path = self.root / f"instances_{name}.json"
        if not path.is_file():
            raise DataError(f"the photo pack at {self.root} has no split `{name}`; it has {list(self.splits)}")
        index = self.root / f"index_{name}.json"
        captions = self.root / f"captions_{name}.json"
        with naming(path):
            return CocoPhotos(
                read_json(path),
                TarImages(self.root, read_index([index])) if index.is_file() else FolderImages(self.root),
                read_json(captions) if captions.is_file() else None,
                _read_rows(self.root / f"vsr_{name}.jsonl"),
                _read_rows(self.root / f"pope_{name}.jsonl"),
                name=f"photos_{name}",
                label_sets=read_label_sets(self.root),
            )


@dataclass(frozen=True)
class _ImageTexts:
    captions: Mapping[Key, Sequence[str]]
    statements: Mapping[Key, Sequence[tuple[str, bool]]]
    questions: Mapping[Key, Sequence[tuple[str, str]]]


def read_label_sets(folder: str | Path) -> dict[str, frozenset[str]] | None:
    """Category names by label set, from `label_sets.json` of a folder; None where there is none.

    Raises:
        DataError: if the file is no object of lists of names.
    """
    path = Path(folder) / LABEL_SETS
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, Mapping):
        raise DataError(f"{path} must be an object of lists of names, got {shown(value)}")
    for name, names in value.items():
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise DataError(f"{path} must have a list of names under each key, got {shown(names)} under {shown(name)}")
    return {name: frozenset(names) for name, names in value.items()}


def _check_label_set(label_set: str | None, label_sets: Mapping[str, frozenset[str]] | None) -> None:
    if label_sets is None:
        raise DataError(
            f"an image has label_set {shown(label_set)}, so `{LABEL_SETS}` must lie beside the file and say which "
            "categories that is"
        )
    if label_set not in label_sets:
        hint = did_you_mean(str(label_set), label_sets) or ";"
        raise DataError(f"unknown label_set `{printable(str(label_set))}`{hint} known are {', '.join(label_sets)}")


def _row(image: ImageRow, labels: CocoLabels, texts: _ImageTexts) -> bytes:
    """What is known of an image, as plain values: by the names of `Record`, its annotations, and what is complete."""
    labelled = labels.annotations.pop(image.id, {}).values()
    values: dict[str, Any] = {"id": image.file_name, "image_id": image.id, "image_size_wh": image.size_wh}
    for name in ("captions", "statements", "questions"):
        if found := getattr(texts, name).get(image.id):
            values[name] = tuple(found)
    for name in ("source", "license"):
        if name in image.row:
            values[name] = printable(str(image.row[name]))
    expressions = labels.expressions.pop(image.id, ())
    things = [(one.category, one.box_xyxy, one.segmentation, one.region, one.id) for one in labelled]
    coverage = labels.coverage.of(image, _label_set(image), (one.category for one in labelled))
    # Half as long as pickling, and as only plain values of ours are written, as safe.
    return marshal.dumps((values, things, expressions, tuple(coverage)))


def _label_set(image: ImageRow) -> str | None:
    """What the file says is labelled exhaustively in the image, None where it says nothing."""
    value = image.row.get("label_set")
    return value if value is None or isinstance(value, str) else shown(value)


def _by_image(
    what: str,
    rows: Iterable[Any],
    read: Callable[[Mapping[str, Any]], _T],
    images: Mapping[Key, ImageRow],
    left_out: LeftOut,
) -> dict[Key, list[_T]]:
    """What rows of a file say, by the image they say it of; a row that cannot be used is left out."""
    grouped: dict[Key, list[_T]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        try:
            if not isinstance(row, Mapping):
                raise EntryError(f"{what} that is no object")
            image_id = key_of(row.get("image_id"), "image id")
            if image_id not in images:
                raise EntryError(f"{what} of an unknown image")
            grouped[image_id].append(read(row))
        except EntryError as why:
            left_out.add(f"{what} {label_id(row, ('id',), number) if isinstance(row, Mapping) else number}", why)
    return grouped


def _caption(row: Mapping[str, Any]) -> str:
    return plain_text(row.get("caption"), "caption")


def _statement(row: Mapping[str, Any]) -> tuple[str, bool]:
    label = row.get("label")
    if not isinstance(label, int) or label not in (0, 1):
        raise EntryError("statement that is neither true nor false", f"label must be 0 or 1, got {shown(label)}")
    return plain_text(row.get("statement"), "statement"), bool(label)


def _question(row: Mapping[str, Any]) -> tuple[str, str]:
    answer = plain_text(row.get("answer"), "answer").lower()
    if answer not in ("yes", "no"):
        raise EntryError("question without yes or no", f"answer must be `yes` or `no`, got {shown(answer)}")
    return plain_text(row.get("question"), "question"), answer


def _caption_rows(captions: Any) -> list[Any]:
    return [] if captions is None else rows_of(captions, "annotations", "a COCO captions file")


def _read_rows(path: Path) -> list[Any]:
    return [row for _, row in read_entries(path, "rows")] if path.is_file() else []
