"""Flickr30K Entities: captions whose phrases are tied to boxes; the original release, and the JSON MDETR made of it.

XML is read without entities and document types, so nothing outside a file is ever touched. Knows no questions.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from llava_grounding.data.images import ImageStore, open_images
from llava_grounding.data.plain_files import read_file, stays_inside
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import ImageRow, checked_size, image_rows
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key, key_of, whole_number
from llava_grounding.data.readers.parts.packed_records import PackedRecords
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import is_crowd, label_id, list_under, naming, rows_of
from llava_grounding.data.readers.parts.shapes import Box, box_or_around, checked_segmentation, clipped_box
from llava_grounding.data.readers.parts.texts import plain_text, spans_as_markup
from llava_grounding.data.record import Annotation, GroundedText, Record
from llava_grounding.errors import DataError

Span = tuple[int, int]

_PHRASE = re.compile(r"\[/EN#([0-9]{1,18})((?:/[^\s/\[\]]+)+) ([^\[\]]*)\]")
_BLANK_BEFORE_PUNCTUATION = re.compile(r"(?<! ) +(?=[.,;:!?](?:\s|$))")
_DECLARATION = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_NO_ENTITY = 0
"""The number of phrases that name nothing visible."""


class Flickr30kEntities(PackedRecords):
    """Records of the original release: the boxes of an image, shared by its five captions.

    A phrase that names something without a box has no known match; one marked `notvisual` is plain text.
    Categories are empty: the release has none.

    Args:
        root: folder with `Annotations/ID.xml` and `Sentences/ID.txt`.
        ids: of the images.
        images: where pixels come from.
        name: what the data is called in reports.
    """

    title = "Flickr30K Entities"

    def __init__(self, root: str | Path, ids: list[str], images: ImageStore, name: str = "flickr30k") -> None:
        left_out = LeftOut()
        super().__init__(name, _entity_records(Path(root), ids, images, left_out), left_out)

    @classmethod
    def from_files(
        cls, entities: str | Path, images: str | Path, split: str | None = "train", name: str | None = None
    ) -> Flickr30kEntities:
        """Reads the original release.

        Args:
            entities: folder with `Annotations`, `Sentences` and the lists `train.txt`, `val.txt` and `test.txt`.
            images: folder, tar shards or zip of `flickr30k-images`; see `open_images`.
            split: name of a list of image ids, one a line; None takes every file in `Sentences`.
            name: what the data is called in reports; by default `flickr30k_` and the split.

        Raises:
            DataError: if the folder holds something else, or has no such list.
        """
        root = Path(entities)
        for folder in ("Annotations", "Sentences"):
            if not (root / folder).is_dir():
                raise DataError(f"Flickr30K Entities must be a folder with `Annotations` and `Sentences`, got {root}")
        return cls(root, _ids(root, split), open_images(images), name or f"flickr30k_{split or 'all'}")

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if not all((place / folder).is_dir() for folder in ("Annotations", "Sentences")):
            return None
        return Found({"entities": place}).having("images", place / "flickr30k-images", "the folder of its pictures")


class Flickr30kMdetr(PackedRecords):
    """Records of MDETR's `final_flickr_separateGT_*.json`: one per caption.

    Args:
        data: the parsed file.
        images: where pixels come from.
        crowds_as_things: take annotations with `iscrowd: 1` for one thing each.
        name: what the data is called in reports.

    Raises:
        DataError: if the file is of another kind.
    """

    title = "captions with tied phrases, in MDETR's form"

    def __init__(
        self, data: Any, images: ImageStore, crowds_as_things: bool = False, name: str = "flickr30k_mdetr"
    ) -> None:
        what = "MDETR's Flickr30K file"
        left_out = LeftOut()
        rows = rows_of(data, "images", what)
        labels = rows_of(data, "annotations", what)
        if crowds_as_things:
            labels = [row | {"iscrowd": 0} if isinstance(row, dict) else row for row in labels]
        annotations = _group(labels, left_out)
        forms = BoxForms()
        records = list(_mdetr_records(rows, annotations, images, left_out, forms))
        forms.refuse()
        super().__init__(name, records, left_out)

    @classmethod
    def from_files(
        cls, captions: str | Path, images: str | Path, crowds_as_things: bool = False, name: str | None = None
    ) -> Flickr30kMdetr:
        """Reads MDETR's form.

        Args:
            captions: such as `final_flickr_separateGT_train.json`; its annotations may have
                `segmentation` or `sam_mask`.
            images: folder, tar shards or zip of `flickr30k-images`; see `open_images`.
            crowds_as_things: take annotations with `iscrowd: 1` for one thing each.
            name: what the data is called in reports; by default the stem of `captions`.
        """
        data = read_json(captions)
        with naming(captions):
            return cls(data, open_images(images), crowds_as_things, name or Path(captions).stem)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if "tokens_positive" not in (place.label_keys or ()):
            return None
        return Found({"captions": place}).with_images(place, place.pictures)


def parse_sentence(line: str) -> tuple[str, list[tuple[Span, int]]]:
    """A line of `Sentences`, such as `[/EN#7/people A man] waves .`, as "A man waves." and its phrases.

    Returns:
        Plain text, the blanks before punctuation removed, and for every phrase its span and the number of its entity.

    Raises:
        EntryError: if the brackets do not add up.
    """
    pieces: list[str] = []
    phrases: list[tuple[Span, int]] = []
    length = done = 0
    line = " ".join(line.split())
    for match in _PHRASE.finditer(line):
        before, words = line[done : match.start()], " ".join(match[3].split())
        start = length + len(before)
        pieces += [before, words]
        length, done = start + len(words), match.end()
        if int(match[1]) != _NO_ENTITY and words:
            phrases.append(((start, length), int(match[1])))
    text = "".join([*pieces, line[done:]])
    if "[" in text or "]" in text:
        raise EntryError("sentence whose brackets do not add up")
    return _without_blanks(text, phrases)


def _without_blanks(text: str, phrases: list[tuple[Span, int]]) -> tuple[str, list[tuple[Span, int]]]:
    """The text without blanks before punctuation, and the phrases at their new places."""
    gone = [match.span() for match in _BLANK_BEFORE_PUNCTUATION.finditer(text)]
    starts = [start for start, _ in gone]
    removed = [0, *accumulate(end - start for start, end in gone)]

    def moved(place: int) -> int:
        before = bisect_left(starts, place)  # stretches that begin before the place; the last may go beyond it
        return place - removed[before] + (max(gone[before - 1][1] - place, 0) if before else 0)

    kept = [((moved(start), moved(end)), entity) for (start, end), entity in phrases]
    return _BLANK_BEFORE_PUNCTUATION.sub("", text), kept


def _ids(root: Path, split: str | None) -> list[str]:
    if split is None:
        return sorted(path.stem for path in (root / "Sentences").glob("*.txt"))
    path = root / f"{split}.txt"
    if not stays_inside(split) or not path.is_file():
        known = sorted(path.stem for path in root.glob("*.txt"))
        raise DataError(f"split must be one of {known}, each a list of ids in {root}, got `{split}`")
    return list(dict.fromkeys(_read_text(path).split()))


def _entity_records(root: Path, ids: list[str], images: ImageStore, left_out: LeftOut) -> Iterator[Record]:
    for image_id in ids:
        try:
            if not stays_inside(image_id) or "/" in image_id:
                raise EntryError("image id that is no plain name")
            size_wh, boxes = _read_boxes(root / "Annotations" / f"{image_id}.xml", image_id, left_out)
            sentences = _read_text(root / "Sentences" / f"{image_id}.txt").splitlines()
        except EntryError as why:
            left_out.add(image_id, why)
            continue
        instances = tuple(Annotation("", box, None, "thing", min(entities)) for box, entities in boxes)
        rows_of_entity: dict[int, list[int]] = {}
        for row, (_, entities) in enumerate(boxes):
            for entity in sorted(entities):
                rows_of_entity.setdefault(entity, []).append(row)
        yield Record(
            id=f"{image_id}.jpg",
            image_id=int(image_id) if image_id.isascii() and image_id.isdigit() else image_id,
            image_size_wh=size_wh,
            instances=instances,
            read_bytes=images.locate(f"{image_id}.jpg"),
            grounded_captions=tuple(_grounded(sentences, rows_of_entity, image_id, left_out)),
        )


def _grounded(
    sentences: list[str], rows_of_entity: Mapping[int, list[int]], image_id: str, left_out: LeftOut
) -> Iterator[GroundedText]:
    for number, line in enumerate(sentences):
        if not line.strip():
            continue
        try:
            text, phrases = parse_sentence(line)
            plain_text(text, "sentence")  # no special tokens
            if "\ufffd" in text:
                raise EntryError("not valid Unicode", f"a sentence must be UTF-8, got {line[:60]!r}")
            targets = {span: tuple(rows_of_entity[e]) if e in rows_of_entity else None for span, e in phrases}
            markup, kept, _ = spans_as_markup(text, targets)
            yield GroundedText(markup, kept)
        except EntryError as why:
            left_out.add(f"{image_id}: sentence {number}", why)


def _read_boxes(
    path: Path, image_id: str, left_out: LeftOut
) -> tuple[tuple[int, int], list[tuple[Box, frozenset[int]]]]:
    """Size of the image, and its boxes with the entities each belongs to. Pixels count from 1, both ends within."""
    tree = _parse_xml(path)
    size_wh = checked_size(tree.findtext("size/width", "").strip(), tree.findtext("size/height", "").strip())
    boxes = []
    for number, thing in enumerate(tree.iterfind("object")):
        corners = thing.find("bndbox")
        if corners is None:
            continue  # a scene, or something without a box
        try:
            entities = frozenset(whole_number((name.text or "").strip(), "entity") for name in thing.iterfind("name"))
            if not entities:
                raise EntryError("box without an entity")
            x0, y0, x1, y1 = (
                whole_number(corners.findtext(key, "").strip(), "corner of a box")
                for key in ("xmin", "ymin", "xmax", "ymax")
            )
            boxes.append((clipped_box((x0 - 1.0, y0 - 1.0, float(x1), float(y1)), size_wh), entities))
        except EntryError as why:
            left_out.add(f"{image_id}: object {number}", why)
    return size_wh, boxes


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        data = read_file(path)
    except OSError as error:
        raise EntryError("no annotation file") from error
    if _DECLARATION.search(data.replace(b"\0", b"")):  # also where every second byte of UTF-16 is zero
        raise EntryError("annotation file with a document type or entities, which are not read")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise EntryError("annotation file that is no XML") from error


def _read_text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise EntryError("no sentence file") from error


def _group(rows: list[Any], left_out: LeftOut) -> dict[Key, list[Mapping[str, Any]]]:
    grouped: dict[Key, list[Mapping[str, Any]]] = {}
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("annotation that is no object")
            grouped.setdefault(key_of(row.get("image_id"), "image id"), []).append(row)
        except EntryError as why:
            left_out.add(label_id(row), why)
    return grouped


def _mdetr_records(
    rows: list[Any],
    annotations: dict[Key, list[Mapping[str, Any]]],
    images: ImageStore,
    left_out: LeftOut,
    forms: BoxForms,
) -> Iterator[Record]:
    known = image_rows(rows, left_out)
    for image in known.values():
        labels = annotations.pop(image.id, [])
        caption = image.row.get("caption")
        try:
            plain_text(caption, "caption")
        except EntryError as why:
            left_out.add(image.id, why)
            continue
        assert isinstance(caption, str)
        for row in labels:
            forms.see(row.get("bbox"), image.size_wh, _mask_of(row))
        instances, grounded = _mdetr_caption(caption, labels, image, left_out)
        yield Record(
            id=f"{image.file_name}#{image.id}",
            image_id=image.id,
            image_size_wh=image.size_wh,
            instances=instances,
            read_bytes=images.locate(image.file_name),
            grounded_captions=(grounded,),
        )
    for orphans in annotations.values():
        for row in orphans:
            left_out.add(label_id(row), "annotation of an unknown image")


def _mdetr_caption(
    caption: str, labels: list[Mapping[str, Any]], image: ImageRow, left_out: LeftOut
) -> tuple[tuple[Annotation, ...], GroundedText]:
    """The objects of one caption, and the caption with its phrases."""
    instances: list[Annotation] = []
    targets: dict[Span, tuple[int, ...]] = {}
    for row in labels:
        try:
            mask = checked_segmentation(_mask_of(row), image.size_wh)
            annotation = Annotation(
                "",
                box_or_around(row.get("bbox"), mask, image.size_wh),
                mask,
                "crowd" if is_crowd(row) else "thing",
                None if row.get("id") is None else key_of(row["id"], "annotation id"),
            )
            spans = list_under(row, "tokens_positive", "annotation")
        except EntryError as why:
            left_out.add(label_id(row), why)
            continue
        places = []
        for span in spans:
            try:
                places.append(_trimmed(span, caption))
            except EntryError as why:
                left_out.add(label_id(row), why)
        for place in _joined(places, caption):
            targets[place] = (*targets.get(place, ()), len(instances))
        instances.append(annotation)
    markup, kept, overlapping = spans_as_markup(caption, targets)
    for span in overlapping:
        left_out.add(f"{image.id}: {caption[slice(*span)]}", "phrase overlapping another")
    return tuple(instances), GroundedText(markup, kept)


def _mask_of(row: Mapping[str, Any]) -> Any:
    """The mask of an object, as the file has it: GLaMM's part of GranD-f made them by SAM, beside empty polygons."""
    return row.get("segmentation") or row.get("sam_mask")


def _joined(spans: list[Span], caption: str) -> list[Span]:
    """Phrases of one thing, those with nothing but blanks between them as one: some files give them word by word."""
    joined: list[Span] = []
    for start, end in sorted(set(spans)):
        if joined and not caption[joined[-1][1] : start].strip():
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def _trimmed(span: Any, caption: str) -> Span:
    """Start and end of a phrase without the white space around it."""
    if not isinstance(span, list) or len(span) != 2:
        raise EntryError("phrase that is no pair of start and end")
    start, end = (whole_number(place, "phrase") for place in span)
    if not 0 <= start < end <= len(caption):
        raise EntryError("phrase outside its caption")
    words = caption[start:end]
    start, end = start + len(words) - len(words.lstrip()), end - (len(words) - len(words.rstrip()))
    if start >= end:
        raise EntryError("phrase without words")
    return start, end
