"""Photos as raw records: COCO-format instance and caption files, and the photo pack.

`CocoLabels` holds what other readers need of an instances file; `PhotoPack` is the layout of one folder of such files.
Knows no questions, no tokenizer and no model sizes.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llava_grounding.data.images import FolderImages, ImageStore, TarImages, open_images, read_index
from llava_grounding.data.readers.box_forms import BoxForms
from llava_grounding.data.readers.exhaustive import Coverage, FileCoverage, is_no_category, is_unlabelled_region
from llava_grounding.data.readers.reading import (
    MAX_LABELS,
    EntryError,
    ImageRow,
    LeftOut,
    PackedRecords,
    box_from_xywh,
    checked_segmentation,
    image_rows,
    is_crowd,
    label_id,
    naming,
    number_or_none,
    plain_text,
    printable,
    read_json,
    rows_of,
    same_pictures,
    shown,
    whole_number,
)
from llava_grounding.data.readers.rows import read_entries
from llava_grounding.data.record import Annotation, Record, Segmentation
from llava_grounding.errors import DataError, did_you_mean
from llava_grounding.masks import rle_area

PACK_VARIABLE = "LLAVA_GROUNDING_DATA"
LABEL_SETS = "label_sets.json"
"""Beside an instances file whose images have a `label_set`: the category names of each set."""
_T = TypeVar("_T")


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

    Attributes:
        images: by id, in order.
        categories: names by id, empty for one that is none, as `background`.
        annotations: image id -> annotation id (a number of ours where there is none) -> annotation, in order.
        ambiguous: ids that several annotations of the file bear. The first usable one is kept, but whatever names such
            an id may mean the other.
        coverage: which categories are complete in which image.
    """

    def __init__(
        self,
        data: Any,
        left_out: LeftOut,
        thorough: bool = False,
        label_sets: Mapping[str, frozenset[str]] | None = None,
        exhaustive: bool = True,
        crowds_as_things: bool = False,
        used: Iterable[int] | None = None,
    ) -> None:
        what = "a COCO instances file"
        self._thorough, self._crowds_as_things = thorough, crowds_as_things
        self._forms = BoxForms()
        image_list, category_list = rows_of(data, "images", what), rows_of(data, "categories", what)
        self.images = image_rows(image_list, left_out, named_once=True)
        self._twins = same_pictures(image_list, self.images)
        names = read_categories(category_list, left_out)
        self.categories = {number: "" if is_no_category(name) else name for number, name in names.items()}
        self.coverage = FileCoverage(category_list, names, label_sets, exhaustive)
        for number in used or ():
            self.coverage.see(number)
        for image in self.images.values():
            self.coverage.see_image(image)
        self._unlabelled = {number for number, name in names.items() if is_unlabelled_region(name)}
        self.annotations: dict[int, dict[object, Annotation]] = {}
        rows = rows_of(data, "annotations", what)
        self.ambiguous = _ids_used_twice(rows)
        taken: set[object] = set()
        for number, row in enumerate(rows):
            self.coverage.see(row.get("category_id") if isinstance(row, Mapping) else None)
            try:
                annotation, image_id = self._annotation(row)
                if annotation.id in taken:
                    raise EntryError("annotation id used twice")
                labels = self.annotations.setdefault(image_id, {})
                if len(labels) >= MAX_LABELS:
                    raise EntryError(f"more than {MAX_LABELS} annotations of one image")
            except EntryError as why:
                left_out.add(f"annotation {label_id(row)}", why)
                self.lose(row)
                continue
            if annotation.id is not None:
                taken.add(annotation.id)
            labels[f"row {number}" if annotation.id is None else annotation.id] = annotation
            if annotation.region == "crowd":
                self.lose(row)
        if used is None:
            self._forms.refuse()

    def lose(self, row: Any) -> None:
        """Note that an annotation of the file is left out, or hides others of its kind."""
        row = row if isinstance(row, Mapping) else {}
        image_id, category = number_or_none(row.get("image_id")), number_or_none(row.get("category_id"))
        image_ids = None if image_id is None else self._twins.get(image_id, (image_id,))
        self.coverage.lose(image_ids, None if category in self._unlabelled else category)

    def _annotation(self, row: Any) -> tuple[Annotation, int]:
        if not isinstance(row, Mapping):
            raise EntryError("annotation that is no object")
        image_id = whole_number(row.get("image_id"), "image id")
        if image_id not in self.images:
            raise EntryError("annotation of an unknown image", f"image_id {image_id} is no image of the file")
        number = whole_number(row.get("category_id"), "category id")
        category = self.categories.get(number)
        if category is None:
            raise EntryError(
                "annotation of an unknown category", f"category_id {number} is no category of the file that can be used"
            )
        size_wh = self.images[image_id].size_wh
        self._forms.see(row.get("bbox"), size_wh, row.get("segmentation"))
        mask = row.get("mask", "")
        region = {"stuff": "stuff", "semantic": "class"}.get(mask if isinstance(mask, str) else "", "thing")
        if number in self._unlabelled or (is_crowd(row) and not self._crowds_as_things):
            region = "crowd"
        annotation = Annotation(
            category,
            box_from_xywh(row.get("bbox"), size_wh),
            self._segmentation(row.get("segmentation"), size_wh),
            region,
            None if row.get("id") is None else whole_number(row["id"], "annotation id"),
        )
        return annotation, image_id

    def _segmentation(self, value: Any, size_wh: tuple[int, int]) -> Segmentation | None:
        mask = checked_segmentation(value, size_wh)
        if self._thorough and isinstance(mask, Mapping):
            try:
                rle_area(mask)
            except DataError as error:
                raise EntryError("broken run lengths", str(error)) from error
        return mask


def _ids_used_twice(rows: Iterable[Any]) -> frozenset[int]:
    ids: Counter[int] = Counter()
    for row in rows:
        if isinstance(row, Mapping) and row.get("id") is not None:
            with suppress(EntryError):
                ids[whole_number(row["id"])] += 1
    return frozenset(number for number, times in ids.items() if times > 1)


def read_categories(rows: Iterable[Any], left_out: LeftOut) -> dict[int, str]:
    """Names by id of a COCO file's categories; an id with two names has none, as nobody can say which is meant."""
    names: dict[int, str] = {}
    doubtful = set()
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("category that is no object")
            number, name = whole_number(row.get("id"), "category id"), plain_text(row.get("name"), "category")
            if number in names:
                doubtful |= {number} if names[number] != name else set()
                raise EntryError("category id used twice", f"{number} is `{names[number]}` already, got `{name}`")
            names[number] = name
        except EntryError as why:
            left_out.add(f"category {label_id(row)}", why)
    return {number: name for number, name in names.items() if number not in doubtful}


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
        thorough, label_sets, exhaustive, crowds_as_things, used: see `CocoLabels`.

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
        used: Iterable[int] | None = None,
    ) -> None:
        left_out = LeftOut()
        labels = CocoLabels(instances, left_out, thorough, label_sets, exhaustive, crowds_as_things, used)
        self.categories = {number: name for number, name in labels.categories.items() if name}
        self.ambiguous = labels.ambiguous
        self._coverage = labels.coverage
        for label_set in {_label_set(image) for image in labels.images.values()} - {None}:
            _check_label_set(label_set, label_sets)
        texts = _ImageTexts(
            _by_image("caption", _caption_rows(captions), _caption, labels.images, left_out),
            _by_image("statement", statements, _statement, labels.images, left_out),
            _by_image("question", questions, _question, labels.images, left_out),
        )
        packed = (_row(image, labels, texts, images) for image in labels.images.values())
        super().__init__(name, packed, left_out)
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
            )

    def _record(self, row: Any) -> Record:
        record, coverage = row
        return self._coverage.fill(record, coverage)


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
    captions: Mapping[int, Sequence[str]]
    statements: Mapping[int, Sequence[tuple[str, bool]]]
    questions: Mapping[int, Sequence[tuple[str, str]]]


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


def _row(image: ImageRow, labels: CocoLabels, texts: _ImageTexts, images: ImageStore) -> tuple[Record, Coverage]:
    annotations = labels.annotations.pop(image.id, {})
    record = Record(
        id=image.file_name,
        image_id=image.id,
        image_size_wh=image.size_wh,
        instances=tuple(annotations.values()),
        captions=tuple(texts.captions.get(image.id, ())),
        statements=tuple(texts.statements.get(image.id, ())),
        questions=tuple(texts.questions.get(image.id, ())),
        source=printable(str(image.row.get("source", ""))),
        license=printable(str(image.row.get("license", ""))),
        read_bytes=images.locate(image.file_name),
    )
    return record, labels.coverage.of(image, _label_set(image), (thing.category for thing in annotations.values()))


def _label_set(image: ImageRow) -> str | None:
    """What the file says is labelled exhaustively in the image, None where it says nothing."""
    value = image.row.get("label_set")
    return value if value is None or isinstance(value, str) else shown(value)


def _by_image(
    what: str,
    rows: Iterable[Any],
    read: Callable[[Mapping[str, Any]], _T],
    images: Mapping[int, ImageRow],
    left_out: LeftOut,
) -> dict[int, list[_T]]:
    """What rows of a file say, by the image they say it of; a row that cannot be used is left out."""
    grouped: dict[int, list[_T]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        try:
            if not isinstance(row, Mapping):
                raise EntryError(f"{what} that is no object")
            image_id = whole_number(row.get("image_id"), "image id")
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
