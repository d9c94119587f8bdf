"""Labels of a COCO instances file on the disk: images and annotations by id and name, however many there are.

An index is built once per file and found again by the file's hash. What a label must be is `data.readers.coco`'s
business: rows come back as small instances files of a few images. Knows no texts.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from llava_grounding.annotate.json_stream import Row, iter_rows
from llava_grounding.aside import file_aside
from llava_grounding.data.image_names import coco_number, name_at
from llava_grounding.data.images import ImageStore
from llava_grounding.data.plain_files import file_hash, is_unicode
from llava_grounding.data.readers.coco import read_label_sets
from llava_grounding.data.readers.coco_labels import LabelOptions
from llava_grounding.data.readers.labels import LabelledImages
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.numbers import number_or_none
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.errors import DataError
from llava_grounding.own_files import is_own

_FORMAT = "1"
_LISTS = ("categories", "images", "annotations")
_JUDGED = 20_000  # boxes by which the form of all is judged
_BLOCK = 10_000  # rows inserted at once
_SCHEMA = """
create table about(key text primary key, value text);
create table image(id integer primary key, name text, number integer, row text);
create table annotation(id integer, image_id integer, row text);
"""
_INDICES = """
create index image_by_name on image(name);
create index image_by_number on image(number) where number is not null;
create index annotation_by_image on annotation(image_id);
create index annotation_by_id on annotation(id);
"""


class LabelIndex:
    """An open index; see `open_index`.

    Raises:
        DataError: if it is damaged.

    Attributes:
        source: path of the instances file.
        digest: its SHA-256.
        left_out: what a person is told of annotations that fit no image or category of it; empty if all do.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.source = source
        self._label_sets = read_label_sets(source.parent)
        try:
            if not is_own(path.lstat()):
                raise DataError(f"{path} is no index of labels: it is a link, or no file; remove it")
            # Readers in other processes are welcome: the file never changes once it has its name.
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
            about = dict(self._db.execute("select key, value from about"))
            self.digest = about["sha256"]
            self.left_out = about.get("left_out", "")
            self.categories: list[Any] = json.loads(about["categories"])
            self._used = frozenset(json.loads(about["used"]))
            self._homeless: list[Any] = json.loads(about["homeless"])
            self._twice = frozenset(
                number
                for (number,) in self._db.execute(
                    "select id from annotation where id is not null group by id having count(*) > 1"
                )
            )
        except (sqlite3.Error, LookupError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path} is a damaged index of labels: {error}; remove it, and it is made anew") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @property
    def num_images(self) -> int:
        """How many there are."""
        return int(self._db.execute("select count(*) from image").fetchone()[0])

    def labelled(self, keys: Iterable[int | str], images: ImageStore) -> LabelledImages:
        """The images of these ids or names, and whatever a name may mean, with all their labels.

        Raises:
            DataError: if an image's `label_set` is unknown.
        """
        ids: dict[int, None] = {}
        for key in dict.fromkeys(keys):
            if isinstance(key, int):
                ids |= {} if _stored(key) is None else {key: None}
                continue
            found = self._db.execute("select id from image where name = ?", (key,)).fetchall()
            if not found and (number := coco_number(key)) is not None:
                found = self._db.execute("select id from image where number = ?", (number,)).fetchall()
            ids |= dict.fromkeys(one for (one,) in found)
        data = {
            "images": _parsed(self._rows("select row from image where id = ?", ids)),
            "annotations": self._annotations(ids) + self._homeless,
            "categories": self.categories,
        }
        with naming(self.source):
            return LabelledImages(data, images, LabelOptions(label_sets=self._label_sets, used=self._used, texts=()))

    def _annotations(self, ids: Iterable[int]) -> list[Any]:
        """Annotations of images; an id that several bear is none, as nobody can say which is meant."""
        rows = _parsed(self._rows("select row from annotation where image_id = ?", ids))
        if self._twice:
            rows = [{**row, "id": None} if number_or_none(row.get("id")) in self._twice else row for row in rows]
        return rows

    def _rows(self, query: str, ids: Iterable[int]) -> Iterator[str]:
        for one in ids:
            for (text,) in self._db.execute(query, (one,)):
                yield text

    def image_row(self, image_id: int) -> str:
        """The image's row, as it stands in the file."""
        (image,) = self._rows("select row from image where id = ?", (image_id,))
        return image

    def annotation_rows(self, image_id: int) -> Iterator[str]:
        """The rows of its annotations, as they stand in the file."""
        return self._rows("select row from annotation where image_id = ?", (image_id,))


def _parsed(rows: Iterable[str]) -> list[Any]:
    """Rows of a file that was read once already."""
    found: list[Any] = json.loads(f"[{','.join(rows)}]")
    return found


def open_index(instances: Path, folder: Path) -> LabelIndex:
    """The index of an instances file, built in `folder` where it is not there yet.

    Raises:
        DataError: if the file cannot be read, is of another kind, its boxes are of another form, or no annotation is
            of an image and a category of it.
        OSError: if the folder cannot be written.
    """
    digest = file_hash(instances)
    path = folder / f"labels-{digest[:16]}-{_FORMAT}.sqlite"
    if not path.exists():
        try:
            with file_aside(path) as aside, closing(sqlite3.connect(aside)) as db:
                _build(db, instances, digest)
        except sqlite3.Error as error:
            raise DataError(f"cannot write the index of {instances} into {folder}: {error}") from error
    return LabelIndex(path, instances)


def _build(db: sqlite3.Connection, instances: Path, digest: str) -> None:
    # It is built aside and renamed when it is whole, so it needs no journal.
    db.executescript("pragma journal_mode = off; pragma synchronous = off;" + _SCHEMA)
    categories: list[Any] = []
    used: Counter[int | None] = Counter()
    doubtful: set[int] = set()
    annotations: list[tuple[int | None, int, str]] = []
    homeless: dict[object, str] = {}  # one annotation per category of which nobody knows the image
    for row in iter_rows(instances, _LISTS):
        if row.key == "categories":
            categories.append(row.value)
        elif row.key == "images":
            _add_image(db, row, doubtful)
        elif isinstance(row.value, Mapping):
            category, image_id = (number_or_none(row.value.get(key)) for key in ("category_id", "image_id"))
            used[category] += 1
            if image_id is not None and abs(image_id) < 2**63:
                annotations.append((_stored(number_or_none(row.value.get("id"))), image_id, row.text))
            else:
                homeless[category] = row.text
        else:
            homeless[None] = row.text
        if len(annotations) == _BLOCK:
            _insert(db, annotations)
    _insert(db, annotations)
    for number in doubtful:  # nobody can say which of two pictures its labels are of
        db.execute("delete from image where id = ?", (number,))
    db.executescript(_INDICES)
    left_out = _strangers(db, instances, categories, used)
    with naming(instances):
        _judge_boxes(db)
    about = {"sha256": digest, "categories": json.dumps(categories), "left_out": left_out}
    about["used"] = json.dumps(sorted(one for one in used if one is not None))
    about["homeless"] = f"[{','.join(homeless.values())}]"
    db.executemany("insert into about values (?, ?)", about.items())
    db.commit()


def _insert(db: sqlite3.Connection, annotations: list[tuple[int | None, int, str]]) -> None:
    db.executemany("insert into annotation values (?, ?, ?)", annotations)
    annotations.clear()


def _stored(number: int | None) -> int | None:
    """A number that SQLite can hold; None for all others, which no row has."""
    return number if number is not None and abs(number) < 2**63 else None


def _add_image(db: sqlite3.Connection, row: Row, doubtful: set[int]) -> None:
    number = _stored(number_or_none(row.value.get("id"))) if isinstance(row.value, Mapping) else None
    if number is None:
        return
    name = row.value.get("file_name") or name_at(str(row.value.get("coco_url", "")))
    name = name if isinstance(name, str) and is_unicode(name) else ""
    before = db.execute("select name from image where id = ?", (number,)).fetchone()
    if before is None:
        db.execute("insert into image values (?, ?, ?, ?)", (number, name, coco_number(name), row.text))
    elif before[0] != name:
        doubtful.add(number)


def _strangers(db: sqlite3.Connection, instances: Path, categories: Iterable[Any], used: Counter[int | None]) -> str:
    """What is told of annotations that are of no image or category of their file.

    Raises:
        DataError: if all are.
    """
    total = used.total()
    query = "select count(*), min(id), image_id from annotation where image_id not in (select id from image)"
    of_no_image, number, image_id = db.execute(query).fetchone()
    known = {number_or_none(row.get("id")) for row in categories if isinstance(row, Mapping)}
    unknown = Counter({one: count for one, count in used.items() if one not in known})
    told = []
    for kinds, count, such in (
        ("images", of_no_image, f"annotation {number} of image {image_id}"),
        ("categories", unknown.total(), f"one of category {next(iter(unknown), None)}"),
    ):
        if count == total > 0:
            raise DataError(
                f"none of the {total} annotations of {instances} is of one of its {kinds}, such as {such}; "
                "give a file that has both together"
            )
        if count:
            told.append(f"{count} of the {total} annotations of {instances}, of none of its {kinds}, such as {such}")
    return "; ".join(told)


def _judge_boxes(db: sqlite3.Connection) -> None:
    """Refuse a file whose boxes are of another form, as one can tell only from many of them."""
    forms = BoxForms()
    query = "select annotation.row, image.row from annotation join image on image.id = image_id limit ?"
    size: tuple[str, tuple[Any, Any]] = ("", (0, 0))
    for text, image in db.execute(query, (_JUDGED,)):
        if size[0] != image:
            value = json.loads(image)
            size = image, (value.get("width"), value.get("height"))
        width, height = (number_or_none(side) for side in size[1])
        if width and height and isinstance(row := json.loads(text), Mapping):
            forms.see(row.get("bbox"), (width, height), row.get("segmentation"))
    forms.refuse()
