"""Photos as raw records: COCO-format instance and caption files, and the photo pack.

`CocoLabels` holds what other readers need of an instances file; `PhotoPack` is the layout of one folder of such files.
Knows no questions, no tokenizer and no model sizes.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from llava_grounding.data.images import FolderImages, ImageStore, TarImages, open_images, read_index
from llava_grounding.data.reading import (
    EntryError,
    ImageRow,
    LeftOut,
    PackedRecords,
    box_from_xywh,
    checked_segmentation,
    image_rows,
    label_id,
    plain_text,
    printable,
    read_json,
    rows_of,
    shown,
    whole_number,
)
from llava_grounding.data.record import Annotation, Record, Segmentation
from llava_grounding.data.rows import read_entries
from llava_grounding.errors import DataError, did_you_mean
from llava_grounding.masks import rle_area

PACK_VARIABLE = "LLAVA_GROUNDING_DATA"
_T = TypeVar("_T")
_COCO_THINGS = range(1, 91)
_COCO_STUFF = range(92, 201)
_VOC20 = (
    "airplane bicycle bird boat bottle bus car cat chair cow dining+table dog horse motorcycle person potted+plant "
    "sheep couch train tv"
)
# Classes labelled exhaustively, by the pack's `label_set`. The amenity labels are known to have gaps.
_LABEL_SETS: dict[str, str] = {
    "voc20": _VOC20,
    "animal5": "dog cat horse cow sheep",
    "koma7": "bear deer elephant otter rhesus+monkey tiger turtle",
    "facade10": "window facade balcony+fence shop car street fence vegetation traffic+infrastructure "
    "non-building+infrastructure",
    "camvid11": "sky building pole road sidewalk tree traffic+sign fence car person bicyclist",
    "amenity23": "",
    "balloon1": "balloon",
    "oid5": "apple bicycle bird boat person",
    "captions": "",
}


class CocoLabels:
    """The usable labels of a COCO instances file.

    Args:
        data: the parsed file.
        left_out: told of every image, category and annotation that cannot be used.
        thorough: also unpack run lengths to see that they are whole; for files of moderate size.

    Attributes:
        images: by id, in order.
        categories: names by id.
        annotations: image id -> annotation id (a number of ours where there is none) -> annotation, in order.
        ambiguous: ids that several annotations of the file bear. The first usable one is kept, but whatever names such
            an id may mean the other.
    """

    def __init__(self, data: Any, left_out: LeftOut, thorough: bool = False) -> None:
        what = "a COCO instances file"
        self._thorough = thorough
        self.images = image_rows(rows_of(data, "images", what), left_out, named_once=True)
        self.categories = read_categories(rows_of(data, "categories", what), left_out)
        self.annotations: dict[int, dict[object, Annotation]] = {}
        rows = rows_of(data, "annotations", what)
        self.ambiguous = _ids_used_twice(rows)
        used: set[object] = set()
        for number, row in enumerate(rows):
            try:
                annotation, image_id = self._annotation(row)
                if annotation.id in used:
                    raise EntryError("annotation id used twice")
            except EntryError as why:
                left_out.add(f"annotation {label_id(row)}", why)
                continue
            if annotation.id is not None:
                used.add(annotation.id)
            key = f"row {number}" if annotation.id is None else annotation.id
            self.annotations.setdefault(image_id, {})[key] = annotation

    def _annotation(self, row: Any) -> tuple[Annotation, int]:
        if not isinstance(row, Mapping):
            raise EntryError("annotation that is no object")
        image_id = whole_number(row.get("image_id"), "image id")
        if image_id not in self.images:
            raise EntryError("annotation of an unknown image", f"image_id {image_id} is no image of the file")
        category = self.categories.get(whole_number(row.get("category_id"), "category id"))
        if category is None:
            raise EntryError(
                "annotation of an unknown category",
                f"category_id {row['category_id']} is no category of the file that can be used",
            )
        size_wh = self.images[image_id].size_wh
        mask = row.get("mask", "")
        region = {"stuff": "stuff", "semantic": "class"}.get(mask if isinstance(mask, str) else "", "thing")
        annotation = Annotation(
            category,
            box_from_xywh(row.get("bbox"), size_wh),
            self._segmentation(row.get("segmentation"), size_wh),
            "crowd" if row.get("iscrowd") else region,
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
        thorough: see `CocoLabels`.

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
    ) -> None:
        left_out = LeftOut()
        labels = CocoLabels(instances, left_out, thorough)
        self.categories, self.ambiguous = labels.categories, labels.ambiguous
        self._covered = {key: self._exhaustive(key) for key in {_label_set(image) for image in labels.images.values()}}
        talk = _Talk(
            _by_image("caption", _caption_rows(captions), _caption, labels.images, left_out),
            _by_image("statement", statements, _statement, labels.images, left_out),
            _by_image("question", questions, _question, labels.images, left_out),
        )
        packed = (_row(image, labels.annotations.pop(image.id, {}), talk, images) for image in labels.images.values())
        super().__init__(name, packed, left_out)
        self.left_out = left_out

    @classmethod
    def from_files(
        cls, instances: str | Path, images: str | Path, captions: str | Path | None = None, name: str | None = None
    ) -> CocoPhotos:
        """Reads an instances file, and a captions file if given.

        Args:
            instances: such as `instances_train2017.json`.
            images: folder, tar shards or zip; see `open_images`.
            captions: such as `captions_train2017.json`.
            name: what the data is called in reports; by default the stem of `instances`.
        """
        labels = read_json(instances)
        return cls(
            labels,
            open_images(images),
            read_json(captions) if captions else None,
            name=name or Path(instances).stem,
        )

    def _record(self, row: Any) -> Record:
        record, label_set = row
        crowded = {instance.category for instance in record.instances if instance.region == "crowd"}
        return replace(record, exhaustive=self._covered[label_set] - crowded)

    def _exhaustive(self, label_set: str | None) -> frozenset[str]:
        """Category names a label set covers; a file that states none covers all its categories, as COCO does."""
        if label_set is None:
            return frozenset(self.categories.values())
        if label_set in ("coco80", "coco80+stuff"):
            stuff = _COCO_STUFF if label_set.endswith("stuff") else range(0)
            return frozenset(name for key, name in self.categories.items() if key in _COCO_THINGS or key in stuff)
        if label_set not in _LABEL_SETS:
            known = ["coco80", "coco80+stuff", *_LABEL_SETS]
            hint = did_you_mean(label_set, known) or ";"
            raise DataError(f"unknown label_set `{printable(label_set)}`{hint} known are {', '.join(known)}")
        return frozenset(name.replace("+", " ") for name in _LABEL_SETS[label_set].split())


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
        return CocoPhotos(
            read_json(path),
            TarImages(self.root, read_index([index])) if index.is_file() else FolderImages(self.root),
            read_json(captions) if captions.is_file() else None,
            _read_rows(self.root / f"vsr_{name}.jsonl"),
            _read_rows(self.root / f"pope_{name}.jsonl"),
            name=f"photos_{name}",
        )


@dataclass(frozen=True)
class _Talk:
    captions: Mapping[int, Sequence[str]]
    statements: Mapping[int, Sequence[tuple[str, bool]]]
    questions: Mapping[int, Sequence[tuple[str, str]]]


def _row(
    image: ImageRow,
    annotations: Mapping[object, Annotation],
    talk: _Talk,
    images: ImageStore,
) -> tuple[Record, str | None]:
    record = Record(
        id=image.file_name,
        image_id=image.id,
        image_size_wh=image.size_wh,
        instances=tuple(annotations.values()),
        captions=tuple(talk.captions.get(image.id, ())),
        statements=tuple(talk.statements.get(image.id, ())),
        questions=tuple(talk.questions.get(image.id, ())),
        source=printable(str(image.row.get("source", ""))),
        license=printable(str(image.row.get("license", ""))),
        read_bytes=images.locate(image.file_name),
    )
    return record, _label_set(image)


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
