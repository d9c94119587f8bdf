"""GranD-f of GLaMM (grounded conversation generation): captions whose phrases have masks. Knows no other format.

Two of its parts: that from Open-PSG, with `groundings` by phrase, and that from RefCOCOg, with `refs`. Its part from
Flickr30K is in the form of MDETR (`kind: flickr30k_mdetr`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.parts.files import without_collections
from llava_grounding.data.readers.parts.image_rows import checked_size, file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, size_of
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import label_id, naming
from llava_grounding.data.readers.parts.rows import image_store, read_entries
from llava_grounding.data.readers.parts.shapes import box_or_around, checked_segmentation
from llava_grounding.data.readers.parts.texts import plain_text, spans_as_markup
from llava_grounding.data.record import GroundedText
from llava_grounding.errors import DataError, shown

_NAMES = ("file_name", "img_file_name", "image", "image_path")


class GranDf(PictureRecords):
    """Records of a file, one per picture; where a picture has several captions, the first."""

    title = "GranD-f (grounded conversation generation)"
    has_texts = True

    @classmethod
    def from_files(cls, captions: str | Path, images: str | Path | ImageStore, name: str | None = None) -> GranDf:
        """Reads a file.

        Args:
            captions: such as `OpenPsgGCG_train.json` or `RefCOCOg_GCG_train.json`.
            images: folder, tar shards or zip of COCO's pictures.
            name: what the data is called in reports; by default the file's stem.

        Raises:
            DataError: if it cannot be read, or is of another kind.
        """
        path = Path(captions)
        with without_collections(), naming(path):
            entries = [(place, _inner(entry)) for place, entry in read_entries(path, "captions")]
            if entries and not any(
                isinstance(one, Mapping) and one.keys() & {"groundings", "refs"} for _, one in entries
            ):
                raise DataError(
                    f"GranD-f must be a list of captions with `groundings` or `refs`, got {shown(entries[0][1])}"
                )
            store, left_out, unread = image_store(images), LeftOut(), Counter[str]()
            return cls(
                name or path.stem, _read(entries, store, left_out), store, left_out, exhaustive=False, unread=unread
            )

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        marks, both = {"caption", "groundings"}, place.keys | place.inner_keys
        if not (marks <= place.keys or marks <= place.inner_keys or {"caption", "refs"} <= both):
            return None
        return Found({"captions": place}).with_images(place, place.pictures)


def _inner(entry: Any) -> Any:
    """The caption itself: RefCOCOg's part puts each under the id of its picture."""
    if isinstance(entry, Mapping) and len(entry) == 1 and isinstance(inner := next(iter(entry.values())), Mapping):
        return inner
    return entry


def _read(entries: list[tuple[str, Any]], store: ImageStore, left_out: LeftOut) -> Iterator[Picture]:
    for place, entry in entries:
        try:
            if not isinstance(entry, Mapping):
                raise EntryError("caption that is no object")
            name = file_name_of(next((entry[key] for key in _NAMES if key in entry), None), from_root=True)
            sized = entry.get("width") and entry.get("height")
            picture = Picture(name, checked_size(entry["width"], entry["height"]) if sized else size_of(store, name))
            caption = plain_text(str(entry.get("caption") or "").strip('"'), "caption")
            targets: dict[tuple[int, int], tuple[int, ...] | None] = {}
            for span, rows in _phrases(entry, caption, picture, left_out):
                targets[span] = (*(targets.get(span) or ()), *rows)
            markup, kept, _ = spans_as_markup(caption, targets)
            picture.grounded_captions.append(GroundedText(markup, kept))
            picture.captions.append(caption)
        except EntryError as why:
            left_out.add(label_id(entry, _NAMES, place), why)
        else:
            yield picture


def _phrases(
    entry: Mapping[str, Any], caption: str, picture: Picture, left_out: LeftOut
) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Spans of the caption with the labels that they name."""
    groundings = entry.get("groundings")
    for phrase, row in groundings.items() if isinstance(groundings, Mapping) else ():
        row = row if isinstance(row, Mapping) else {}
        with picture.label(f"phrase {phrase}", None, left_out):
            span = _span(row.get("token_positives"), phrase, caption)
            masks = row.get("rle_masks")
            places = [_add(picture, None, one) for one in (masks if isinstance(masks, list) else [])]
            if places:
                yield span, places
    refs = entry.get("refs")
    for number, ref in enumerate(refs if isinstance(refs, list) else (), start=1):
        ref = ref if isinstance(ref, Mapping) else {}
        with picture.label(f"ref {number}", None, left_out):
            yield _span(None, ref.get("sentence"), caption), [_add(picture, ref.get("bbox"), ref.get("segmentation"))]


def _span(said: Any, phrase: Any, caption: str) -> tuple[int, int]:
    """Where a phrase stands: as the file says where its words are there, else where they stand first."""
    words = plain_text(phrase, "phrase")
    said = said[0] if isinstance(said, list) and said and isinstance(said[0], list) else said
    if are_numbers(said, 2) and caption[int(said[0]) : int(said[1])].lower() == words.lower():
        return int(said[0]), int(said[1])
    start = caption.lower().find(words.lower())
    if start < 0:
        raise EntryError("phrase that is not in its caption", f"{shown(words)} is not in {shown(caption)}")
    return start, start + len(words)


def _add(picture: Picture, bbox: Any, segmentation: Any) -> int:
    assert picture.size_wh is not None
    mask = checked_segmentation(segmentation, picture.size_wh)
    return picture.add("", box_or_around(bbox, mask, picture.size_wh), mask)
