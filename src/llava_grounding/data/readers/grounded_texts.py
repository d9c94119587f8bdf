"""Grounded dialogues and captions of Osprey, Ferret, Shikra and Kosmos-2: placeholders become regions and phrases.

A placeholder of a question becomes `<region>`, words that a file marks in an answer become a phrase. A place that an
answer names without saying which words it belongs to is taken out, and counted in `unread`. Knows no other format.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.llava import label_of
from llava_grounding.data.readers.parts.files import without_collections
from llava_grounding.data.readers.parts.image_rows import checked_size, file_name_of
from llava_grounding.data.readers.parts.kosmos_cells import cell_box
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, corners, size_of
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.readers.parts.rows import image_store, pairs_of, read_entries
from llava_grounding.data.readers.parts.shapes import box_or_around, checked_segmentation
from llava_grounding.data.readers.parts.texts import plain_text, spans_as_markup, words_of
from llava_grounding.data.record import Expression, GroundedText, RecordedTurn
from llava_grounding.data.sample import Targets
from llava_grounding.errors import shown
from llava_grounding.markup import REGION

_NAMES = ("image", "file_name", "img_path", "filename", "key", "url")
_OSPREY = re.compile(r"<(?:region|mask)[ _]?(\d{1,4})>")
_FERRET = re.compile(r"<bbox_location(\d{1,4})>(?:\s*<region_fea>)?")
_SHIKRA_PHRASE = re.compile(r"<(?:ph|p)_st>(.*?)<(?:ph|p)_ed>\s*(<boxes>)?", re.DOTALL)
_SHIKRA_BOXES = "<boxes>"
_KOSMOS_PHRASE = re.compile(r"<phrase>(.*?)</phrase>\s*<object>(.*?)</object>", re.DOTALL)
_PATCH = re.compile(r"<patch_index_(\d{4})>\s*<patch_index_(\d{4})>")
_UNTIED = "places in answers"
_BLANKS = re.compile(r" +(?=[.,;:!?])|(?<= ) +")


class _GroundedTexts(PictureRecords):
    """Records of a file of entries, each about one picture."""

    has_texts = True
    _take: ClassVar[staticmethod[[Mapping[str, Any], Picture, Counter[str]], None]]
    """Reads one entry."""
    _marks: ClassVar[frozenset[str]]
    """Keys by which an entry is known."""
    _file: ClassVar[str] = "dialogues"
    """The key for the file."""

    @classmethod
    def from_files(cls, dialogues: str | Path, images: str | Path | ImageStore, name: str | None = None) -> Self:
        """Reads a file of this form, with its pictures in a folder, shards or a zip.

        Raises:
            DataError: if it cannot be read.
        """
        path = Path(dialogues)
        with without_collections(), naming(path):
            entries = read_entries(path, "grounded texts")
            store, left_out, unread = image_store(images), LeftOut(), Counter[str]()
            pictures = _read(entries, store, cls._take, left_out, unread)
            return cls(name or path.stem, pictures, store, left_out, exhaustive=False, unread=unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if not (cls._marks <= place.keys or cls._marks <= place.inner_keys):
            return None
        return Found({cls._file: place}).with_images(place, place.pictures)


def _read(
    entries: list[tuple[str, Any]],
    store: ImageStore,
    read: Callable[[Mapping[str, Any], Picture, Counter[str]], None],
    left_out: LeftOut,
    unread: Counter[str],
) -> Iterator[Picture]:
    for place, entry in entries:
        try:
            if not isinstance(entry, Mapping):
                raise EntryError("entry that is no object")
            name = file_name_of(next((entry[key] for key in _NAMES if entry.get(key)), None), from_root=True)
            sides = [entry.get(key, entry.get(f"image_{key[0]}")) for key in ("width", "height")]
            picture = Picture(name, checked_size(*sides) if all(sides) else size_of(store, name))
            read(entry, picture, unread)
        except EntryError as why:
            left_out.add(label_of(entry, place), why)
        else:
            yield picture


def _osprey(entry: Mapping[str, Any], picture: Picture, unread: Counter[str]) -> None:
    rows = entry.get("annotation", entry.get("annotations"))
    if not isinstance(rows, list) or not rows:
        raise EntryError("no regions", f"an entry must have a list `annotation`, got {shown(rows)}")
    assert picture.size_wh is not None
    for row in rows:
        row = row if isinstance(row, Mapping) else {}
        mask = checked_segmentation(row.get("segmentation"), picture.size_wh)
        picture.add("", box_or_around(row.get("bbox"), mask, picture.size_wh), mask)
    said = entry.get("description")
    for place, text in enumerate(said if isinstance(said, list) else ()):
        if place < len(rows):
            picture.expressions.append(Expression(plain_text(text, "description"), (place,)))
    if entry.get("conversations") is None:
        return
    turns = []
    for question, answer in pairs_of(entry["conversations"]):
        asked, regions = _pointed(question, _OSPREY, lambda number: number - 1, len(rows))
        if isinstance(answer, str) and _OSPREY.search(answer):
            unread[_UNTIED] += 1
            answer = _tidy(_OSPREY.sub("", answer))
        turns.append(RecordedTurn(asked, words_of(answer, "an answer"), (), regions))
    picture.dialogues.append(tuple(turns))


def _pointed(
    question: Any, token: re.Pattern[str], index: Callable[[int], int], count: int
) -> tuple[str, tuple[int, ...]]:
    """A question with `<region>` for each placeholder, and what each points at."""
    if not isinstance(question, str) or REGION in question:
        raise EntryError(
            "special token in the text", f"a question must be text without `{REGION}`, got {shown(question)}"
        )
    places = tuple(index(int(match[1])) for match in token.finditer(question))
    if any(not 0 <= place < count for place in places):
        raise EntryError("placeholder of no region", f"a question names a region that is not there: {shown(question)}")
    return words_of(token.sub(REGION, question), "a question", (REGION,)), places


def _ferret(entry: Mapping[str, Any], picture: Picture, unread: Counter[str]) -> None:
    boxes = entry.get("box_x1y1x2y2")
    pairs = pairs_of(entry.get("conversations"))
    turns = []
    for number, (question, answer) in enumerate(pairs):
        here = boxes[2 * number] if isinstance(boxes, list) and len(boxes) > 2 * number else None
        first = len(picture.things)
        for box in here if isinstance(here, list) else ():
            if isinstance(box, list) and len(box) == 1 and isinstance(box[0], list):
                box = box[0]
            picture.add("", corners(box if isinstance(box, list) else [box]))
        asked, regions = _pointed(question, _FERRET, lambda one, first=first: first + one, len(picture.things))  # type: ignore[misc]
        if isinstance(answer, str) and _FERRET.search(answer):
            unread[_UNTIED] += len(_FERRET.findall(answer))
            answer = _tidy(_FERRET.sub("", answer))
        turns.append(RecordedTurn(asked, words_of(answer, "an answer"), (), regions))
    picture.dialogues.append(tuple(turns))


def _shikra(entry: Mapping[str, Any], picture: Picture, unread: Counter[str]) -> None:
    boxes = entry.get("boxes")
    for box in boxes if isinstance(boxes, list) else ():
        picture.add("", corners(box if isinstance(box, list) else [box]))
    count = len(picture.things)
    asked_of = _sequence(entry.get("question_boxes_seq"), count)
    question = entry.get("question", "")
    if (
        not isinstance(question, str)
        or question.count(_SHIKRA_BOXES) != len(asked_of)
        or any(len(one) != 1 for one in asked_of)
    ):
        raise EntryError(
            "boxes do not fit", f"a question must have one box per `{_SHIKRA_BOXES}`, got {shown(question)}"
        )
    if REGION in question:
        raise EntryError("special token in the text", f"a question must not hold `{REGION}`, got {shown(question)}")
    asked = words_of(question.replace(_SHIKRA_BOXES, REGION).replace("<image>", "").strip(), "a question", (REGION,))
    key = next((one for one in ("cot_with_ans", "answer", "value") if entry.get(one)), "answer")
    text, targets, grounded = _shikra_answer(entry.get(key), _sequence(entry.get("answer_boxes_seq"), count), unread)
    regions = tuple(one[0] for one in asked_of)
    picture.dialogues.append((RecordedTurn(asked, text, targets, regions, grounded),))


def _sequence(value: Any, count: int) -> list[tuple[int, ...]]:
    rows = value if isinstance(value, list) else []
    if not all(are_numbers(row) and all(isinstance(one, int) and 0 <= one < count for one in row) for row in rows):
        raise EntryError("boxes do not fit", f"numbers of boxes must be below {count}, got {shown(value)}")
    return [tuple(row) for row in rows]


def _shikra_answer(answer: Any, boxes: list[tuple[int, ...]], unread: Counter[str]) -> tuple[str, Targets, bool]:
    if not isinstance(answer, str):
        raise EntryError("not text", f"an answer must be text, got {shown(answer)}")
    plain, done, used = "", 0, 0
    spans: dict[tuple[int, int], tuple[int, ...] | None] = {}
    for match in _SHIKRA_PHRASE.finditer(answer):
        before = answer[done : match.start()]
        used += before.count(_SHIKRA_BOXES)
        plain += before.replace(_SHIKRA_BOXES, "")
        words = match[1].strip()
        if words:
            spans[len(plain), len(plain) + len(words)] = boxes[used] if match[2] and used < len(boxes) else None
        plain += words
        used += bool(match[2])
        done = match.end()
    rest = answer[done:]
    unread[_UNTIED] += answer.count(_SHIKRA_BOXES) - sum(bool(match[2]) for match in _SHIKRA_PHRASE.finditer(answer))
    plain += rest.replace(_SHIKRA_BOXES, "")
    if not spans:
        return words_of(_tidy(plain), "an answer"), (), False
    words_of(plain, "an answer")
    markup, targets, _ = spans_as_markup(plain, spans)
    return markup, targets, True


def _kosmos(entry: Mapping[str, Any], picture: Picture, unread: Counter[str]) -> None:
    assert picture.size_wh is not None
    chunks = entry.get("noun_chunks")
    spans: dict[tuple[int, int], tuple[int, ...] | None] = {}
    if isinstance(chunks, list):
        caption = entry.get("caption")
        words_of(caption, "caption")
        assert isinstance(caption, str)
        unread["ref_exps"] += bool(entry.get("ref_exps"))
        for chunk in chunks:
            if not (isinstance(chunk, list) and len(chunk) >= 6 and are_numbers(chunk)):
                raise EntryError("noun chunk that is no list of numbers", f"got {shown(chunk)}")
            span = int(chunk[0]), int(chunk[1])
            if not 0 <= span[0] < span[1] <= len(caption):
                raise EntryError("phrase outside its caption", f"got {shown(chunk)}")
            spans[span] = (*(spans.get(span) or ()), picture.add("", _scaled(chunk[2:6], picture.size_wh)))
    else:
        caption = _kosmos_text(entry.get("text", entry.get("caption")), picture, spans)
    markup, targets, overlapping = spans_as_markup(caption, spans)
    unread["phrases that overlap another"] += len(overlapping)
    picture.captions.append(plain_text(caption, "caption"))
    picture.grounded_captions.append(GroundedText(markup, targets))


def _kosmos_text(text: Any, picture: Picture, spans: dict[tuple[int, int], tuple[int, ...] | None]) -> str:
    if not isinstance(text, str):
        raise EntryError("not text", f"an entry must have `text` or `noun_chunks`, got {shown(text)}")
    assert picture.size_wh is not None
    plain, done = "", 0
    text = text.replace("<grounding>", "").strip()
    for match in _KOSMOS_PHRASE.finditer(text):
        plain += text[done : match.start()]
        words, done = match[1].strip(), match.end()
        rows = []
        for first, last in _PATCH.findall(match[2]):
            rows.append(picture.add("", _scaled(cell_box(int(first), int(last)), picture.size_wh)))
        if words and rows:
            spans[len(plain), len(plain) + len(words)] = tuple(rows)
        plain += words
    plain += text[done:]
    words_of(plain, "caption")
    return plain


def _scaled(shares: list[float], size_wh: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size_wh
    if not all(-0.01 <= share <= 1.01 for share in shares):
        raise EntryError("numbers that are no shares", f"places must be 0 to 1, got {shown(shares)}")
    return corners([share * side for share, side in zip(shares, (width, height) * 2, strict=True)])


def _tidy(text: str) -> str:
    return _BLANKS.sub("", text).strip()


class Osprey(_GroundedTexts):
    """Dialogues whose questions point at `<region1>`, ... of the entry's `annotation`; `description` means them."""

    title = "dialogues of Osprey"
    _marks = frozenset({"annotation", "conversations"})
    _take = staticmethod(_osprey)


class Ferret(_GroundedTexts):
    """Dialogues with `<bbox_location0>`, ... of the `box_x1y1x2y2` of their turn."""

    title = "dialogues of Ferret"
    _marks = frozenset({"box_x1y1x2y2"})
    _take = staticmethod(_ferret)


class Shikra(_GroundedTexts):
    """One question and answer per entry, with `<boxes>` of its `boxes`, and phrases between `<ph_st>` and `<ph_ed>`."""

    title = "dialogues of Shikra"
    _marks = frozenset({"boxes", "question_boxes_seq"})
    _take = staticmethod(_shikra)


class Kosmos2(_GroundedTexts):
    """Captions with phrases: as text with `<phrase>` and `<object>`, or with the `noun_chunks` of GrIT."""

    title = "grounded captions of Kosmos-2 or GrIT"
    _marks = frozenset({"noun_chunks"})
    _file = "captions"
    _take = staticmethod(_kosmos)

    @classmethod
    def from_files(cls, captions: str | Path, images: str | Path | ImageStore, name: str | None = None) -> Self:
        """Opens a file of captions with the pictures it is about."""
        return super().from_files(captions, images, name)
