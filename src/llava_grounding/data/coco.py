"""Photos as raw records: COCO-format instance and caption files with images from a folder or from indexed tar shards.

`PhotoPack` is the layout of one folder of such files. Knows no questions, no tokenizer and no model sizes.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from llava_grounding.data.record import Annotation, Record
from llava_grounding.errors import DataError, did_you_mean

PACK_VARIABLE = "LLAVA_GROUNDING_DATA"
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


@dataclass(frozen=True)
class FileBytes:
    """Bytes of a file, or of a stretch of it; reading waits for the call, so a record is small to send to workers."""

    path: Path
    offset: int = 0
    length: int | None = None

    def __call__(self) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(-1 if self.length is None else self.length)
        if self.length is not None and len(data) != self.length:
            raise DataError(f"{self.path} ends early: expected {self.length} bytes at {self.offset}, got {len(data)}")
        return data


class FolderImages:
    """Image bytes by file name below a folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def locate(self, file_name: str) -> FileBytes:
        return FileBytes(self.root / file_name)


class TarImages:
    """Image bytes by file name from uncompressed tar shards, located by an index of shard, offset and length."""

    def __init__(self, root: str | Path, index: Mapping[str, Sequence[Any]]) -> None:
        self.root = Path(root)
        self.index = index

    def locate(self, file_name: str) -> FileBytes:
        if file_name not in self.index:
            raise DataError(f"photo `{file_name}` is not in the shard index of {self.root}")
        shard, offset, length = self.index[file_name]
        return FileBytes(self.root / shard, int(offset), int(length))


class CocoPhotos(Sequence[Record]):
    """Records of one COCO instances file with optional captions and statements; order of the file.

    Args:
        instances: parsed instances file.
        images: where pixels come from.
        captions: parsed captions file.
        statements: rows with `image_id`, `statement` and `label`.
        questions: rows with `image_id`, `question` and `answer`.
    """

    def __init__(
        self,
        instances: Mapping[str, Any],
        images: FolderImages | TarImages,
        captions: Mapping[str, Any] | None = None,
        statements: Sequence[Mapping[str, Any]] = (),
        questions: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        for key in ("images", "annotations", "categories"):
            if key not in instances:
                raise DataError(f"a COCO instances file must have `{key}`, got keys {sorted(instances)}")
        self.images = images
        self.categories: dict[int, str] = {entry["id"]: entry["name"] for entry in instances["categories"]}
        self._rows: list[Mapping[str, Any]] = list(instances["images"])
        self._annotations = _group(instances["annotations"])
        self._captions = _group(captions["annotations"] if captions else ())
        self._statements = _group(statements)
        self._questions = _group(questions)
        self._label_sets: dict[str, frozenset[str]] = {}

    @classmethod
    def from_files(cls, instances: str | Path, images: str | Path, captions: str | Path | None = None) -> CocoPhotos:
        """Reads a COCO instances file, and a captions file if given, with images in a folder."""
        return cls(_read_json(instances), FolderImages(images), _read_json(captions) if captions else None)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self._record(row) for row in self._rows[index]]
        return self._record(self._rows[index])

    def __iter__(self) -> Iterator[Record]:
        return (self._record(row) for row in self._rows)

    def _record(self, row: Mapping[str, Any]) -> Record:
        image_id, name = row["id"], row["file_name"]
        size_wh = (int(row["width"]), int(row["height"]))
        instances = tuple(
            instance
            for annotation in self._annotations.get(image_id, ())
            if (instance := self._instance(annotation, size_wh)) is not None
        )
        crowded = {instance.category for instance in instances if instance.region == "crowd"}
        return Record(
            id=name,
            image_id=image_id,
            image_size_wh=size_wh,
            instances=instances,
            captions=tuple(entry["caption"].strip() for entry in self._captions.get(image_id, ())),
            statements=tuple((e["statement"], bool(e["label"])) for e in self._statements.get(image_id, ())),
            questions=tuple((e["question"], e["answer"]) for e in self._questions.get(image_id, ())),
            exhaustive=self._exhaustive(row.get("label_set")) - crowded,
            source=str(row.get("source", "")),
            license=str(row.get("license", "")),
            read_bytes=self.images.locate(name),
        )

    def _instance(self, annotation: Mapping[str, Any], size_wh: tuple[int, int]) -> Annotation | None:
        """The annotation clipped to the photo; None when nothing of its box lies inside."""
        x, y, w, h = (float(value) for value in annotation["bbox"])
        width, height = size_wh
        box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
        if box[2] <= box[0] or box[3] <= box[1]:
            return None
        if annotation["category_id"] not in self.categories:
            raise DataError(f"annotation {annotation.get('id')} has unknown category id {annotation['category_id']}")
        region = {"stuff": "stuff", "semantic": "class"}.get(annotation.get("mask", ""), "thing")
        if annotation.get("iscrowd"):
            region = "crowd"
        category = self.categories[annotation["category_id"]]
        return Annotation(category, box, annotation.get("segmentation") or None, region, annotation.get("id"))

    def _exhaustive(self, label_set: str | None) -> frozenset[str]:
        """Category names a label set covers; a file that states none covers all its categories, as COCO does."""
        if label_set is None:
            return frozenset(self.categories.values())
        if label_set not in self._label_sets:
            self._label_sets[label_set] = self._build_label_set(label_set)
        return self._label_sets[label_set]

    def _build_label_set(self, label_set: str) -> frozenset[str]:
        if label_set in ("coco80", "coco80+stuff"):
            stuff = _COCO_STUFF if label_set.endswith("stuff") else range(0)
            return frozenset(name for key, name in self.categories.items() if key in _COCO_THINGS or key in stuff)
        if label_set not in _LABEL_SETS:
            known = ["coco80", "coco80+stuff", *_LABEL_SETS]
            raise DataError(f"unknown label_set `{label_set}`{did_you_mean(label_set, known)}")
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
            _read_json(path),
            TarImages(self.root, _read_json(index)) if index.is_file() else FolderImages(self.root),
            _read_json(captions) if captions.is_file() else None,
            _read_rows(self.root / f"vsr_{name}.jsonl"),
            _read_rows(self.root / f"pope_{name}.jsonl"),
        )


def _group(rows: Any) -> dict[int, list[Mapping[str, Any]]]:
    grouped: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["image_id"]].append(row)
    return dict(grouped)


def _read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _read_rows(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise DataError(f"cannot read {path}: {error}") from error
