"""Referring expressions on COCO images: RefCOCO, RefCOCO+ and RefCOCOg in every form in which they are passed on.

The original `refs(...).p` is a pickle; it is read without running anything in it. Knows no questions.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore, open_images
from llava_grounding.data.plain_files import read_file
from llava_grounding.data.readers.coco_labels import CocoLabels, LabelOptions
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.exhaustive import Coverage
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import image_rows
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key, key_of
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.plain_pickle import load_plain_pickle
from llava_grounding.data.readers.parts.reading import is_crowd, is_ignored, label_id, list_under, naming, rows_of
from llava_grounding.data.readers.parts.shapes import box_or_around, checked_segmentation
from llava_grounding.data.readers.parts.texts import plain_text
from llava_grounding.data.record import Annotation, Expression, Record
from llava_grounding.errors import DataError, shown

_COCO_NUMBER = re.compile(r"(?<![0-9])[0-9]{12}(?![0-9])")
_WHAT = "a file of referring expressions"


class RefCoco(PackedRecords):
    """Records grouped by image: the objects that are referred to, and what people say to mean them.

    Args:
        refs: parsed list of refs, each with `image_id`, `ann_id` (a number or several), `sentences`, perhaps `split`;
            or a COCO file whose annotations have `sentences`.
        images: where pixels come from.
        instances: parsed COCO instances file that `ann_id` points into; None where `refs` is such a file itself.
        split: `train`, `val`, `testA`, ...; `test` takes testA and testB as well; None takes all. Refs that name no
            split belong to every one.
        all_instances: also those objects of the images that nobody refers to.
        crowds_as_things: take annotations of `instances` with `iscrowd: 1` for one thing each.
        name: what the data is called in reports.

    Raises:
        DataError: if a file is of another kind, or has no such split.
    """

    title = "referring expressions on COCO"

    def __init__(
        self,
        refs: Any,
        images: ImageStore,
        instances: Any = None,
        split: str | None = "train",
        all_instances: bool = False,
        crowds_as_things: bool = False,
        name: str = "refcoco",
    ) -> None:
        left_out = LeftOut()
        merged = isinstance(refs, Mapping)
        if merged and instances is None:
            labels, rows = _merged_labels(refs, left_out)
        elif instances is None:
            raise DataError(f"{_WHAT} that is a list needs `instances`, the COCO file its annotation ids point into")
        else:
            labels = CocoLabels(instances, left_out, LabelOptions(crowds_as_things=crowds_as_things), images)
            rows = rows_of(refs, "annotations", _WHAT) if merged else refs
        if not isinstance(rows, list):
            raise DataError(f"{_WHAT} must be a list, or a COCO file with `sentences`, got {type(refs).__name__}")
        self.split = split
        # A file of referring expressions alone need not hold what nobody refers to.
        self._coverage = labels.coverage if all_instances and not (merged and instances is None) else None
        by_image = _expressions_by_image(_of_split(rows, split), labels, left_out)
        super().__init__(name, _records(by_image, labels, images, all_instances), left_out)

    @classmethod
    def from_files(
        cls,
        refs: str | Path,
        images: str | Path,
        instances: str | Path | None = None,
        split: str | None = "train",
        all_instances: bool = False,
        crowds_as_things: bool = False,
        name: str | None = None,
    ) -> RefCoco:
        """Reads referring expressions.

        Args:
            refs: `refs(unc).p`, `refs(google).p` or `refs(umd).p` of the `refer` release; the same list as JSON; or a
                COCO file whose annotations have `sentences`, such as `grounding_train2017.json`.
            images: folder, tar shards or zip of COCO's train2014 images; see `open_images`.
            instances: the `instances.json` beside the refs; not needed for a COCO file with `sentences`.
            split: `train`, `val`, `test`, `testA`, `testB`; None takes all.
            all_instances: also those objects of the images that nobody refers to.
            crowds_as_things: take annotations of `instances` with `iscrowd: 1` for one thing each.
            name: what the data is called in reports; by default the name of the refs' folder or file, and the split.
        """
        refs = Path(refs)
        stem = refs.parent.name if refs.suffix == ".p" and refs.parent.name else refs.stem
        rows, labels = read_refs(refs), None if instances is None else read_json(instances, rows="annotations")
        with naming(refs):
            store = open_images(images)
            return cls(rows, store, labels, split, all_instances, crowds_as_things, name or f"{stem}_{split or 'all'}")

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if place.suffix.lower() == ".p" and place.is_file():
            return Found({"refs": place}).with_images(place, [])
        if "sentences" in place.keys and place.keys & {"ann_id", "ref_id"}:
            return Found({"refs": place}, {"instances": "the COCO file beside it"}).with_images(place, [])
        if "sentences" in (place.label_keys or ()) and "categories" in place.table:
            return Found({"refs": place, "split": None}).with_images(place, place.pictures)
        return None

    def _record(self, row: tuple[Record, Coverage]) -> Record:
        record, coverage = row
        return self._coverage.fill(record, coverage) if self._coverage else record


def read_refs(path: str | Path) -> Any:
    """Parsed refs, from JSON or from a pickle of Python 2 or 3, whichever the file is.

    Raises:
        DataError: if it is neither, or a pickle that holds more than plain values; nothing in it is run.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"[", b"{"):
        return read_json(path)
    return load_plain_pickle(data, path)


def _of_split(rows: list[Any], split: str | None) -> list[Any]:
    named = {str(row["split"]) for row in rows if isinstance(row, Mapping) and "split" in row}
    if split is None or not named:
        return rows
    wanted = {name for name in named if name == split or (split == "test" and name.startswith("test"))}
    if not wanted:
        raise DataError(f"split must be one of {sorted(named)[:20]}, got `{split}`")
    return [row for row in rows if not isinstance(row, Mapping) or str(row.get("split", split)) in wanted]


def _expressions_by_image(
    rows: list[Any], labels: CocoLabels, left_out: LeftOut
) -> dict[Key, list[tuple[str, list[Key]]]]:
    """Per image the sentences with the annotation ids they mean, in order."""
    grouped: dict[Key, list[tuple[str, list[Key]]]] = {}
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("ref that is no object")
            image_id = key_of(row.get("image_id"), "image id")
            if image_id not in labels.images:
                raise EntryError("ref to an unknown image")
            _check_same_image(row, labels.images[image_id].file_name)
            meant = _meant(row, labels.annotations.get(image_id, {}), labels.ambiguous)
            sentences = list_under(row, "sentences", "ref")
        except EntryError as why:
            left_out.add(label_id(row), why)
            continue
        for sentence in sentences:
            try:
                text = expression_of(sentence)
            except EntryError as why:
                left_out.add(label_id(row), why)
                continue
            grouped.setdefault(image_id, []).append((text, meant))
    return grouped


def _meant(row: Mapping[str, Any], annotations: Mapping[object, Annotation], ambiguous: frozenset[Key]) -> list[Key]:
    value = row.get("ann_id", row.get("id"))
    ids = [key_of(one, "annotation id") for one in (value if isinstance(value, list) else [value])]
    if not ids or ids == [-1]:
        raise EntryError("ref that means nothing in the image")
    for one in ids:
        if one in ambiguous:
            raise EntryError("ref to an annotation id used twice", f"it means {shown(one)}, which is used twice")
        if one not in annotations:
            raise EntryError("ref to an unknown annotation", f"it means {shown(one)}, which is not in its image")
    if any(annotations[one].kind == "crowd" for one in ids):
        raise EntryError("ref to a crowd")
    return list(dict.fromkeys(ids))


def _check_same_image(row: Mapping[str, Any], file_name: str) -> None:
    """A ref calls its picture `COCO_train2014_000000000009_72.jpg`, its annotation's number behind its own."""
    said = row.get("file_name")
    here, there = (_COCO_NUMBER.findall(one)[:1] if isinstance(one, str) else [] for one in (said, file_name))
    if here and there and here != there:
        raise EntryError("ref to another image", f"it names {shown(said)}, but its image is {shown(file_name)}")


def expression_of(value: Any) -> str:
    """The words as the release tidied them, else as people typed them, in lower case.

    Raises:
        EntryError: if there are none that can be learnt from.
    """
    if isinstance(value, Mapping):
        value = value.get("sent") or value.get("raw")
    return plain_text(value, "expression").lower()


def _merged_labels(data: Mapping[str, Any], left_out: LeftOut) -> tuple[CocoLabels, list[Any]]:
    """Labels and usable refs of a COCO file whose annotations have `sentences`.

    An object may occur several times, and categories may lack.
    """
    rows = rows_of(data, "annotations", _WHAT)
    if not any(isinstance(row, Mapping) and "sentences" in row for row in rows):
        raise DataError(f"{_WHAT} must have annotations with `sentences`, got none")
    labels = CocoLabels({"images": [], "annotations": [], "categories": data.get("categories") or []}, left_out)
    labels.images = image_rows(rows_of(data, "images", _WHAT), left_out)
    usable, forms = [], BoxForms()
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("ref that is no object")
            image_id = key_of(row.get("image_id"), "image id")
            key = key_of(row.get("ann_id", row.get("id")), "annotation id")
            if image_id not in labels.images:
                raise EntryError("ref to an unknown image")
            size_wh = labels.images[image_id].size_wh
            forms.see(row.get("bbox"), size_wh, row.get("segmentation"))
            category = row.get("category_id")
            mask = checked_segmentation(row.get("segmentation"), size_wh)
            annotation = Annotation(
                "" if category is None else labels.categories.get(key_of(category, "category id"), ""),
                box_or_around(row.get("bbox"), mask, size_wh),
                mask,
                "crowd" if is_crowd(row) or is_ignored(row) else "thing",
                key,
            )
        except EntryError as why:
            left_out.add(label_id(row), why)
            continue
        known = labels.annotations.setdefault(image_id, {}).setdefault(key, annotation)
        if (known.box_xyxy, known.category) != (annotation.box_xyxy, annotation.category):
            left_out.add(label_id(row), "annotation id of two objects")
            continue
        usable.append(row)
    forms.refuse()
    return labels, usable


def _records(
    by_image: Mapping[Key, list[tuple[str, list[Key]]]], labels: CocoLabels, images: ImageStore, all_instances: bool
) -> Iterator[tuple[Record, Coverage]]:
    for image_id, expressions in by_image.items():
        image, annotations = labels.images[image_id], labels.annotations[image_id]
        spoken_of = {key for _, meant in expressions for key in meant}
        kept = [key for key in annotations if all_instances or key in spoken_of]
        index = {key: number for number, key in enumerate(kept)}
        record = Record(
            id=image.file_name,
            image_id=image_id,
            image_size_wh=image.size_wh,
            instances=tuple(annotations[key] for key in kept),
            read_bytes=images.locate(image.file_name),
            expressions=tuple(Expression(text, tuple(index[key] for key in meant)) for text, meant in expressions),
        )
        yield record, labels.coverage.of(image, None, (thing.category for thing in annotations.values()))
