"""Parquet files and saved folders of Hugging Face `datasets`, with their pictures inside: chats, captions, objects.

Read with pyarrow alone, which both are made of: the library `datasets` would keep a copy of every picture in its cache,
and needs pandas and a dozen more. No code of a data set is run and no pickle read. Knows nothing of the hub.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llava_grounding.data.images import MAX_FILE_BYTES, FolderImages, ImageStore, open_images
from llava_grounding.data.plain_files import open_regular, parse_json
from llava_grounding.data.readers.messages import SEVERAL, chat_of
from llava_grounding.data.readers.metadata import CATEGORIES, TEXTS, add_objects, captions_of
from llava_grounding.data.readers.parts.box_forms import BoxForms
from llava_grounding.data.readers.parts.files import read_json, read_text_lines
from llava_grounding.data.readers.parts.image_rows import checked_size, file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, header_size, size_of
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.errors import DataError, did_you_mean, missing_extra, shown

IMAGES = ("image", "images", "img", "picture", "jpg", "png", "webp", "file_name")
"""Columns in which pictures are looked for, in this order."""
_CHATS = ("messages", "conversations")
_PAIRS = ("texts", "question", "answer")
_SIZES = (("width", "height"), ("image_width", "image_height"))
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}.*")
_NO_SPLITS = ("data", "default", "")
_MOST_BYTES = 2**31  # of one row group, unpacked
_MOST_ROWS = 1024  # unpacked at once


class Parquet(PictureRecords):
    """One record per row; captions, dialogues and objects of it, whichever there are."""

    title = "Parquet or Arrow files of Hugging Face's `datasets`"
    has_texts = True

    @classmethod
    def from_files(
        cls,
        data: str | Path,
        split: str | None = None,
        images: str | Path | None = None,
        names: str | Path | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> Parquet:
        """Reads Parquet files or a saved folder.

        Args:
            data: a Parquet or Arrow file, a folder of them, or what `save_to_disk` wrote.
            split: of which files are read, by their names (`train-00000-of-00002.parquet`) or their folders; None takes
                all.
            images: folder, tar shards or zip of the pictures, where rows name them instead of holding them; by default
                the folder of the data.
            names: text file with a category per line, where they are numbers and the file does not say their names.
            exhaustive: whether every visible thing of the categories that occur is labelled.
            name: what the data is called in reports; by default the name of the file or folder, and the split.

        Raises:
            DataError: if there are no such files, one is damaged, or has no column of pictures.
            MissingExtraError: if pyarrow is not installed.
        """
        root = Path(data)
        paths = _files(root, split)
        root = root if root.is_dir() else root.parent
        listed = read_text_lines(names) if names is not None else []
        store = open_images(images) if images is not None else FolderImages(root)
        left_out, unread, forms = LeftOut(), Counter[str](), BoxForms()
        pictures: list[Picture] = []
        for path in paths:
            pictures += _read(path, path.relative_to(root).as_posix(), listed, store, left_out, unread, forms)
        forms.refuse()
        called = name or (Path(data).absolute().stem if split is None else f"{root.absolute().name}_{split}")
        return cls(called, pictures, store, left_out, exhaustive, unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if place.is_file():
            return Found({"data": place}) if place.suffix.lower() in (".parquet", ".arrow") else None
        if not is_saved(place) and not any(one.suffix == ".parquet" for one in place.files):
            return None
        first, *others = splits_of(place) or (None,)
        return Found({"data": place, "split": first}, splits=tuple(others))


def splits_of(root: Path) -> tuple[str, ...]:
    """Splits that a folder's files are named after."""
    return tuple(dict.fromkeys(split for path in _all_files(root) if (split := _split_of(path, root))))


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote a folder."""
    return (folder / _SAVED_SPLITS).is_file() or (folder / _SAVED).is_file()


def _files(root: Path, split: str | None) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"`data` must be Parquet files or a saved folder of `datasets`; there is no {root}")
    found = [path for path in _all_files(root) if split is None or _split_of(path, root) == split]
    if not found:
        known = splits_of(root)
        if known:
            raise DataError(f"split must be one of {list(known)}, got `{split}`{did_you_mean(str(split), known)}")
        raise DataError(f"`data` must be Parquet files or a saved folder of `datasets`, but there are none in {root}")
    return found


def _all_files(root: Path) -> list[Path]:
    if (root / _SAVED_SPLITS).is_file():
        return [path for one in sorted(root.iterdir()) if (one / _SAVED).is_file() for path in _all_files(one)]
    if (root / _SAVED).is_file():
        state = read_json(root / _SAVED)
        rows = state.get("_data_files") if isinstance(state, Mapping) else None
        if not isinstance(rows, list):
            raise DataError(f"`_data_files` in {root / _SAVED} must be a list of files, got {shown(rows)}")
        try:
            return [root / file_name_of(row.get("filename") if isinstance(row, Mapping) else None) for row in rows]
        except EntryError as why:
            raise DataError(f"`_data_files` in {root / _SAVED} must name files beside it: {why}") from why
    return sorted(path for path in root.rglob("*") if path.suffix in (".parquet", ".arrow") and path.is_file())


def _split_of(path: Path, root: Path) -> str:
    match = _SHARD.fullmatch(path.name)
    if match and match[1] not in _NO_SPLITS:
        return match[1]
    return "" if path.parent == root or path.parent.name in _NO_SPLITS else path.parent.name


@dataclass(frozen=True)
class CellBytes:
    """The picture in a cell, read with those of its row group."""

    path: Path
    group: int
    row: int
    column: str

    def __call__(self) -> bytes:
        cells = _pictures_of(self.path, self.group, self.column)
        with _NamingErrors(self.path):
            data = _bytes_in(cells[self.row].as_py())
        if not data:
            raise DataError(f"row {self.row + 1} of group {self.group + 1} of {self.path} has no picture")
        if len(data) > MAX_FILE_BYTES:
            raise DataError(f"a picture in {self.path} must have at most {MAX_FILE_BYTES} bytes, got {len(data)}")
        return data

    def exists(self) -> bool:
        return self.path.is_file()


def _bytes_in(value: Any) -> bytes | None:
    """The encoded picture of a cell: bytes, an object with `bytes`, or a list of one of these."""
    value = _part(value, "bytes")
    return value if isinstance(value, bytes) else None


def _name_in(value: Any) -> str | None:
    """What a cell calls its picture."""
    value = _part(value, "path")
    return value if isinstance(value, str) else None


def _part(value: Any, key: str) -> Any:
    """What an object has under a key, also one that is alone in a list; other values as they are."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value.get(key) if isinstance(value, Mapping) else value


@lru_cache(maxsize=1)
def _pictures_of(path: Path, group: int, column: str) -> Any:
    """A column of a group of rows; the last one is kept, as rows are read one after another, or near each other."""
    return _opened(path).column(group, column)


@lru_cache(maxsize=8)
def _opened(path: Path) -> _File:
    """A file from which pictures are taken: an Arrow file is checked whole when it is opened."""
    return _File(path)


class _File:
    """A Parquet or Arrow file, in groups of rows.

    Raises:
        DataError: if it is none, or damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise missing_extra("parquet", "reading Parquet") from error
        self.path = path
        self._arrow = pyarrow
        self._batches: list[Any] | None = None
        with self.naming_errors():
            with open_regular(path) as stream:
                head = stream.read(6)
            source = pyarrow.memory_map(str(path))
            if head.startswith(b"PAR1"):
                self._parquet = pyarrow.parquet.ParquetFile(source)
                self.schema = self._parquet.schema_arrow
                self.groups = self._parquet.num_row_groups
            else:
                opened = pyarrow.ipc.open_file if head == b"ARROW1" else pyarrow.ipc.open_stream
                reader = opened(source)
                self.schema = reader.schema
                self._batches = (
                    [reader.get_batch(one) for one in range(reader.num_record_batches)]
                    if head == b"ARROW1"
                    else list(reader)
                )
                for batch in self._batches:
                    batch.validate(full=True)  # Arrow trusts its files: offsets could lead out of them
                self.groups = len(self._batches)

    def num_rows(self, group: int) -> int:
        """How many rows a group has."""
        if self._batches is not None:
            return int(self._batches[group].num_rows)
        return int(self._parquet.metadata.row_group(group).num_rows)

    def rows(self, group: int, columns: list[str]) -> list[dict[str, Any]]:
        """The values of columns in a group of rows."""
        if not columns:
            return [{} for _ in range(self.num_rows(group))]
        with self.naming_errors():
            rows: list[dict[str, Any]] = self._table(group, columns).to_pylist()
            return rows

    def column(self, group: int, column: str) -> Any:
        """The cells of a column in a group of rows, as Arrow keeps them."""
        with self.naming_errors():
            return self._table(group, [column]).column(column).combine_chunks()

    def _table(self, group: int, columns: list[str]) -> Any:
        """Columns of a group of rows.

        A Parquet file keeps equal values once, so its sizes say little of what it becomes: a value of it may stand in
        each of the rows that are unpacked together, and what they take is counted.
        """
        if self._batches is not None:
            return self._arrow.Table.from_batches([self._batches[group]]).select(columns)
        about = self._parquet.metadata.row_group(group)
        leaves = [about.column(one) for one in range(about.num_columns)]
        packed = sum(one.total_uncompressed_size for one in leaves if one.path_in_schema.split(".")[0] in columns)
        at_once = max(min(_MOST_BYTES // max(packed, 1), _MOST_ROWS), 1)
        batches, unpacked, size = [], 0, packed
        for batch in self._parquet.iter_batches(at_once, row_groups=[group], columns=columns, use_threads=False):
            batches.append(batch)
            unpacked += batch.nbytes
            size = max(packed, unpacked)
            if size > _MOST_BYTES:
                break
        if size > _MOST_BYTES:
            raise DataError(
                f"{self.path}: a row group must have at most {_MOST_BYTES} bytes, got {size} or more; write it anew "
                "with fewer rows in each"
            )
        return self._arrow.Table.from_batches(batches) if batches else self.schema.empty_table().select(columns)

    def has_all(self, group: int, column: str) -> bool:
        """Whether every row of a group surely holds one picture, as far as the file tells without reading them."""
        if self._batches is not None:
            return False
        about = self._parquet.metadata.row_group(group)
        leaves = [about.column(one) for one in range(about.num_columns)]
        leaf = next((one for one in leaves if re.fullmatch(rf"{column}(\..+)?\.bytes", one.path_in_schema)), None)
        if leaf is None or leaf.statistics is None or not leaf.statistics.has_null_count:
            return False
        return bool(leaf.statistics.null_count == 0 and leaf.num_values == about.num_rows)

    def naming_errors(self) -> _NamingErrors:
        """A context in which what pyarrow says becomes a DataError that names the file."""
        return _NamingErrors(self.path)


class _NamingErrors:
    """Makes a DataError with the name of the file of whatever pyarrow says."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Gives itself; there is nothing to open."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        said = (OSError, ValueError, LookupError, NotImplementedError, MemoryError, TypeError, ArithmeticError)
        ours = isinstance(error, DataError) or error is None
        if not ours and (isinstance(error, said) or type(error).__module__ == "pyarrow.lib"):
            raise DataError(f"cannot read {self._path}: {' '.join(str(error).split())[:300]}") from error


def _read(
    path: Path,
    called: str,
    names: list[str],
    store: ImageStore,
    left_out: LeftOut,
    unread: Counter[str],
    forms: BoxForms,
) -> Iterator[Picture]:
    file = _File(path)
    columns = list(file.schema.names)
    column = next((one for one in IMAGES if one in columns), None)
    if column is None:
        raise DataError(f"{path} must have a column of pictures, one of {', '.join(IMAGES)}; it has {columns[:20]}")
    if len(set(columns)) != len(columns):
        raise DataError(f"{path} must have each column once, got {columns[:20]}")
    names = names or _class_names(file.schema.metadata)
    sizes = next((pair for pair in _SIZES if set(pair) <= set(columns)), None)
    with_bytes = sizes is None and "objects" in columns
    known = {*_CHATS, *_PAIRS, *TEXTS, "objects", "id", "image_id", *(sizes or ())}
    read = [one for one in columns if one in known]
    number = 0
    for group in range(file.groups):
        rows = file.rows(group, read)
        inside = not with_bytes and file.has_all(group, column)
        cells = None if inside else file.column(group, column)
        unread.update({one: len(rows) for one in columns if one not in known and one not in IMAGES})
        for place, row in enumerate(rows):
            number += 1
            name = f"{called}/{number}"
            try:
                held = CellBytes(path, group, place, column)
                picture = Picture(name, None, held)
                if cells is not None:
                    with file.naming_errors():
                        cell = cells[place].as_py()
                    picture, data = _picture(picture, cell)
                if sizes is not None and row.get("objects"):
                    picture.size_wh = checked_size(row[sizes[0]], row[sizes[1]])
                elif row.get("objects"):
                    picture.size_wh = size_of(store, picture.name) if data is None else header_size(data)
                picture.captions += captions_of(row)
                picture.dialogues += _dialogues(row)
            except EntryError as why:
                left_out.add(f"row {name}", why)
                continue
            add_objects(picture, _objects(row.get("objects")), names, left_out, forms)
            yield picture


def _picture(inside: Picture, cell: Any) -> tuple[Picture, bytes | None]:
    """The picture that a cell holds, and its bytes; else one in the store, under the name that the cell has."""
    if isinstance(cell, list) and len(cell) > 1:
        raise EntryError(SEVERAL, f"a row must be about one image, this one has {len(cell)}")
    if data := _bytes_in(cell):
        return inside, data
    said = _name_in(cell)
    if said is None:
        raise EntryError("no image", f"a cell must hold a picture or its name, got {shown(cell)}")
    return Picture(file_name_of(said, from_root=True), None), None


def _dialogues(row: Mapping[str, Any]) -> list[Any]:
    """Dialogues of a row: messages, pairs of `user` and `assistant`, or one question."""
    chat = next((row[key] for key in _CHATS if row.get(key)), None)
    if chat is None and isinstance(row.get("texts"), list):
        said = [one for one in row["texts"] if isinstance(one, Mapping)]
        chat = [{"role": role, "content": one.get(role)} for one in said for role in ("user", "assistant")]
    if chat is None and isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
        chat = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    return [chat_of({"messages": chat}, inside=True)[0]] if chat else []


def _objects(value: Any) -> Any:
    """Objects of a row: none where its lists are empty, None where it has no lists."""
    if not isinstance(value, Mapping) or any(value.values()):
        return value
    return [] if any(one is not None for one in value.values()) else None


def _class_names(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """What `datasets` says the numbers of categories of objects mean; nothing where it does not."""
    try:
        features = parse_json((metadata or {})[b"huggingface"])["info"]["features"]["objects"]
    except (LookupError, TypeError, ValueError, RecursionError):
        return []
    waiting = [features]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            label = next((one[key] for key in CATEGORIES if isinstance(one.get(key), Mapping | list)), None)
            found = _names_of_label(label)
            if found:
                return found
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return []


def _names_of_label(feature: Any) -> list[str]:
    while isinstance(feature, Mapping | list):
        if isinstance(feature, list):
            feature = feature[0] if feature else None
        elif isinstance(feature.get("names"), list):
            return [str(one) for one in feature["names"]]
        else:
            feature = feature.get("feature")
    return []
