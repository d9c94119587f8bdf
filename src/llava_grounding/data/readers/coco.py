"""Photos as raw records: COCO-format instance and caption files, and the photo pack.

`PhotoPack` is the layout of one folder of such files.
Knows no questions, no tokenizer and no model sizes.
"""

from __future__ import annotations

import marshal
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from llava_grounding.data.images import FolderImages, ImageStore, TarImages, open_images, read_index
from llava_grounding.data.readers.coco_labels import CocoLabels, LabelOptions, unpacked
from llava_grounding.data.readers.parts.exhaustive import Coverage
from llava_grounding.data.readers.parts.files import read_json, without_collections
from llava_grounding.data.readers.parts.image_rows import ImageRow
from llava_grounding.data.readers.parts.left_out import LeftOut, printable
from llava_grounding.data.readers.parts.numbers import EntryError, Key, key_of
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import CAPTIONS, Found, Place
from llava_grounding.data.readers.parts.reading import label_id, naming, rows_of
from llava_grounding.data.readers.parts.rows import read_entries
from llava_grounding.data.readers.parts.texts import plain_text
from llava_grounding.data.record import Expression, Record
from llava_grounding.errors import DataError, did_you_mean, shown

PACK_VARIABLE = "LLAVA_GROUNDING_DATA"
LABEL_SETS = "label_sets.json"
"""Beside an instances file whose images have a `label_set`: the category names of each set."""
_T = TypeVar("_T")


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
        options: how `instances` are read; always packed.

    Raises:
        DataError: if a file is not in COCO's form at all, or an image's `label_set` is unknown.
    """

    title = "COCO instances"

    def __init__(
        self,
        instances: Mapping[str, Any],
        images: ImageStore,
        captions: Mapping[str, Any] | None = None,
        statements: Iterable[Any] = (),
        questions: Iterable[Any] = (),
        name: str = "coco",
        options: LabelOptions = LabelOptions(),
    ) -> None:
        left_out = LeftOut()
        labels = CocoLabels(instances, left_out, replace(options, packed=True), images)
        self.categories = {number: name for number, name in labels.categories.items() if name}
        self.ambiguous = labels.ambiguous
        self._coverage = labels.coverage
        for label_set in {_label_set(image) for image in labels.images.values()} - {None}:
            _check_label_set(label_set, options.label_sets)
        said = _ImageTexts(
            _by_image("caption", _caption_rows(captions), _caption, labels.images, left_out),
            _by_image("statement", statements, _statement, labels.images, left_out),
            _by_image("question", questions, _question, labels.images, left_out),
        )
        self._images = images
        self.ids = tuple(labels.images)
        self.file_names = tuple(image.file_name for image in labels.images.values())
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
            labels = read_json(instances, rows="annotations")
            with naming(instances):
                return cls(
                    labels,
                    open_images(images),
                    read_json(captions) if captions else None,
                    name=name or Path(instances).stem,
                    options=LabelOptions(
                        label_sets=read_label_sets(Path(instances).parent),
                        exhaustive=exhaustive,
                        crowds_as_things=crowds_as_things,
                        release=True,
                    ),
                )

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if place.label_keys is None:
            return None
        if "caption" in place.label_keys and "bbox" not in place.label_keys:
            return Found({"captions": place}, kind=CAPTIONS)
        if "categories" not in place.table:
            return None
        captions = place.with_name(place.name.replace("instances", "captions"))
        beside = {"captions": captions} if captions != place and captions.is_file() else {}
        return Found({"instances": place, **beside}).with_images(place, place.pictures)

    def _record(self, row: bytes) -> Record:
        values, things, expressions, coverage = marshal.loads(row)
        return Record(
            **values,
            instances=tuple(map(unpacked, things)),
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
                read_json(path, rows="annotations"),
                TarImages(self.root, read_index([index])) if index.is_file() else FolderImages(self.root),
                read_json(captions) if captions.is_file() else None,
                _read_rows(self.root / f"vsr_{name}.jsonl"),
                _read_rows(self.root / f"pope_{name}.jsonl"),
                name=f"photos_{name}",
                options=LabelOptions(label_sets=read_label_sets(self.root)),
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
    coverage = labels.coverage.of(image, _label_set(image), (unpacked(one).category for one in labelled))
    # Half as long as pickling, and as only plain values of ours are written, as safe.
    return marshal.dumps((values, list(labelled), expressions, tuple(coverage)))


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
