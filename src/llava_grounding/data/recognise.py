"""What a file or a folder of data is: its kind, the files it consists of, and the lines of a recipe that name them.

Looks at names and at the outermost form of what is in the files; whether it can be read is the business of readers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llava_grounding.data.images import FolderImages, open_images
from llava_grounding.data.plain_files import open_regular, read_file, why_no_file
from llava_grounding.data.readers.label_studio import is_file_of_storage, is_one_task
from llava_grounding.data.readers.parquet import is_saved, splits_of
from llava_grounding.data.readers.parts.files import describe_file, read_json
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.xml_files import parse_xml
from llava_grounding.data.readers.registry import READERS
from llava_grounding.data.readers.set_of_mark import find_marks
from llava_grounding.data.readers.via import is_via_3, is_via_csv
from llava_grounding.data.readers.yolo import read_config
from llava_grounding.data.readers.yolo_ndjson import is_ndjson
from llava_grounding.errors import DataError
from llava_grounding.image_files import DATA_SUFFIXES

WHAT: dict[str, str] = {
    "coco": "COCO instances",
    "coco_panoptic": "COCO panoptic labels",
    "coco_captions": "COCO captions",
    "refcoco": "referring expressions on COCO",
    "visual_genome": "region descriptions of Visual Genome",
    "flickr30k": "Flickr30K Entities",
    "flickr30k_mdetr": "captions with tied phrases, in MDETR's form",
    "llava": "dialogues in LLaVA's form",
    "gvc": "grounded visual chat of LLaVA-Grounding",
    "region_captions": "descriptions of boxes of COCO photos, as the original's stage 1 reads them",
    "set_of_mark": "dialogues with marks",
    "custom": "dialogues of your own",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "labelme": "labelme",
    "cvat": "CVAT, XML 1.1 for images or video",
    "via": "VIA (VGG Image Annotator)",
    "label_studio": "Label Studio",
    "createml": "CreateML",
    "messages": "chats as `messages` and `images`",
    "visual_genome_objects": "objects of Visual Genome",
    "grandf": "GranD-f (grounded conversation generation)",
    "osprey": "dialogues of Osprey",
    "ferret": "dialogues of Ferret",
    "shikra": "dialogues of Shikra",
    "kosmos2": "grounded captions of Kosmos-2 or GrIT",
    "metadata": "a folder of pictures with metadata, as Hugging Face's",
    "parquet": "Parquet or Arrow files of Hugging Face's `datasets`",
}
"""Kind -> what it is called."""

_TALKS = {"llava", "gvc", "set_of_mark", "messages", "osprey", "ferret", "shikra", "kosmos2", "grandf"}
_GROUNDED: dict[str, tuple[str, set[str]]] = {
    "osprey": ("dialogues", {"annotation", "conversations"}),
    "ferret": ("dialogues", {"box_x1y1x2y2"}),
    "shikra": ("dialogues", {"boxes", "question_boxes_seq"}),
    "kosmos2": ("captions", {"noun_chunks"}),
    "grandf": ("captions", {"caption", "groundings"}),
}
"""Kind -> its key for the file, and keys of entries by which it is told."""
_ARCHIVES = (".tar", ".zip")
_PLACES = ("images", "JPEGImages", "img", "data", "train", "train2017", "train2014", "val2017", "val2014")
_CLASSES = {"names": "a text file with a class per line"}
_MOST_FILES = 200  # of a folder that are looked into
_PROBES = 20  # names by which the folder of pictures is found
_SPLITS = ("train", "val", "valid", "test")
_LABEL_DIALOGUE = {"categories": 1.0, "referring": 1.0, "region_names": 1.0}


@dataclass(frozen=True)
class Recognised:
    """Data of one kind.

    Args:
        kind: of a source, `coco_captions` for a file that belongs to another.
        values: the other keys of the source; paths as they were found.
        missing: keys that must be said and were not found, with what they are.
        splits: that there are besides.
    """

    kind: str
    values: Mapping[str, Path | str | None] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """What it is called; of a kind that was added, its reader's `title`."""
        return WHAT.get(self.kind) or str(getattr(READERS.get(self.kind), "title", self.kind))

    @property
    def dialogue(self) -> Mapping[str, float]:
        """What dialogues its recipe line asks for; empty for the defaults."""
        return {} if self.kind in (*_TALKS, "metadata", "parquet") else _LABEL_DIALOGUE

    def recipe_line(self, root: Path) -> str:
        """The source as a line of a recipe, with paths relative to `root`."""
        words = [f"kind: {self.kind}"]
        for key, value in {**self.values, **dict.fromkeys(self.missing, "...")}.items():
            text = os.path.relpath(value, root) if isinstance(value, Path) else "null" if value is None else value
            words.append(f"{key}: {_quoted(text)}")
        if self.dialogue:
            words.append(f"dialogue: {{{', '.join(f'{kind}: {weight}' for kind, weight in self.dialogue.items())}}}")
        return f"  - {{{', '.join(words)}}}"


def recognise(path: Path) -> list[Recognised]:
    """What is at a place: usually one kind of data, more where a folder holds several.

    Readers that were added and have `recognise` are asked first; see `register_reader`.

    Raises:
        DataError: if there is nothing that can be read, saying what there is instead.
    """
    if not path.exists():
        raise DataError(f"there is nothing at {path}")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"expected a file or a folder, but {why_no_file(path)}")
    found = list(_found_at(path))
    if not found:
        pictures = sum(1 for one in _files(path) if one.suffix.lower() in DATA_SUFFIXES)
        raise DataError(
            f"{path} has {pictures} pictures among the first {_MOST_FILES} files, and nothing that says what is in them"
        )
    return found


def kinds_below(folder: Path, found: Sequence[Recognised]) -> dict[Path, str]:
    """Data of other kinds in folders below, of each kind the first: where it is, and what it is called."""
    told = {one.kind for one in found}
    if "flickr30k" in told:  # its boxes are in files that look like Pascal VOC's
        return {}
    values = [value for one in found for value in one.values.values() if isinstance(value, Path)]
    parts = {value.parent if value.is_file() else value for value in values}
    others: dict[Path, str] = {}
    for place, _ in zip(_folders(folder), range(_MOST_FILES), strict=False):
        if place in parts or any(one in place.parents for one in others):
            continue
        with suppress(DataError, OSError):
            new = next((one for one in _found_at(place) if one.kind not in told), None)
            if new is not None:
                told.add(new.kind)
                others[place] = new.what
    return others


def _found_at(path: Path) -> Iterator[Recognised]:
    added = [
        Recognised(kind, values)
        for kind, reader in READERS.items()
        if not isinstance(reader, str) and hasattr(reader, "recognise")
        if (values := reader.recognise(path)) is not None
    ]
    yield from added or (_of_folder(path) if path.is_dir() else [_of_file(path)])


def _folders(folder: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in folders)


def _quoted(text: str) -> str:
    plain = text == "null" or (text.replace("/", "").replace("_", "").replace(".", "").replace("-", "").isalnum())
    return text if plain else str(yaml.safe_dump(text, default_style='"', width=10_000)).strip()


def _files(folder: Path) -> Iterator[Path]:
    count = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if (count := count + 1) > _MOST_FILES:
                return
            yield Path(place) / name


def _of_folder(folder: Path) -> Iterator[Recognised]:
    configs = [path for path in sorted(folder.glob("*.y*ml")) if "names" in _yaml(path) or "nc" in _yaml(path)]
    if configs or any((folder / one).is_file() for one in ("classes.txt", "obj.names")):
        splits = tuple(one for one in _SPLITS if configs and _yaml(configs[0]).get(one)) or _split_folders(folder)
        first = splits[0] if splits else None
        values = {"data": configs[0] if configs else folder, "split": first}
        missing = {} if not configs or "names" in _yaml(configs[0]) else _CLASSES
        yield Recognised("yolo", values, missing, splits[1:])
        return
    if any((*folder.glob(one), *folder.glob(f"*/{one}")) for one in ("metadata.jsonl", "metadata.csv")):
        yield Recognised("metadata", {"folder": folder})
        return
    if is_saved(folder) or any(one.suffix == ".parquet" for one in _files(folder)):
        splits = splits_of(folder)
        yield Recognised("parquet", {"data": folder, "split": splits[0] if splits else None}, splits=splits[1:])
        return
    if (folder / "Annotations").is_dir() and (folder / "Sentences").is_dir():
        images = folder / "flickr30k-images"
        place = {"images": images} if images.is_dir() else {}
        missing = {} if place else {"images": "the folder of its pictures"}
        yield Recognised("flickr30k", {"entities": folder, **place}, missing)
        return
    files = list(_files(folder))
    if (folder / "annotations.xml").is_file():
        yield _of_file(folder / "annotations.xml")
        return
    xml = next((path for path in files if path.suffix.lower() == ".xml"), None)
    if xml is not None and _root_tag(xml) == "annotation":
        yield Recognised("voc", {"annotations": folder})
        return
    if (folder / "labels").is_dir() or (files and _label_of_yolo(files)):
        yield Recognised("yolo", {"data": folder, "split": None}, _CLASSES)
        return
    endings = (".json", ".jsonl", ".ndjson", ".p", ".csv")
    data = [path for path in files if path.suffix.lower() in endings or is_file_of_storage(path)]
    for number, path in enumerate(data):
        try:
            one = _of_file(path)
        except DataError:
            continue
        if one.kind == "labelme":
            yield Recognised("labelme", {"labels": folder if number < 2 else path.parent})
            return
        if one.kind == "label_studio" and isinstance(read_json(path), Mapping):
            yield Recognised("label_studio", {"labels": folder})
            return
        yield one


def _split_folders(folder: Path) -> tuple[str, ...]:
    return tuple(one for one in _SPLITS if (folder / one).is_dir() or (folder / "images" / one).is_dir())


def _label_of_yolo(files: list[Path]) -> bool:
    """Whether a text file lies beside a picture of its name and begins with a class and four numbers."""
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in DATA_SUFFIXES}
    for path in files:
        if path.suffix == ".txt" and path.with_suffix("") in stems:
            words = read_file(path)[:200].split()
            return len(words) >= 5 and words[0].isdigit()
    return False


def _yaml(path: Path) -> Mapping[str, Any]:
    try:
        data = read_file(path)
        return read_config(path) if b"names" in data or b"nc:" in data else {}
    except (OSError, DataError):
        return {}


def _root_tag(path: Path) -> str:
    try:
        return str(parse_xml(path).tag)
    except EntryError:
        return ""


def _head(path: Path) -> str:
    try:
        with open_regular(path) as stream:
            return stream.read(1000).decode("utf-8", "replace")
    except OSError:
        return ""


def _of_file(path: Path) -> Recognised:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml") and "names" in (config := read_config(path)):
        splits = tuple(one for one in _SPLITS if config.get(one))
        return Recognised("yolo", {"data": path, "split": splits[0] if splits else None}, splits=splits[1:])
    if suffix == ".ndjson" and is_ndjson(_head(path)):
        return Recognised("yolo", {"data": path, "split": None})
    if path.name in ("metadata.jsonl", "metadata.csv"):
        return Recognised("metadata", {"folder": path})
    if suffix == ".xml":
        tag = _root_tag(path)
        if tag == "annotations":
            return Recognised("cvat", {"labels": path})
        if tag == "annotation":
            return Recognised("voc", {"annotations": path})
    if suffix in (".parquet", ".arrow"):
        return Recognised("parquet", {"data": path})
    if suffix == ".p":
        return _with_images(Recognised("refcoco", {"refs": path}), [], path)
    if suffix == ".csv" and is_via_csv(_head(path)):
        return Recognised("via", {"labels": path})
    if suffix not in (".json", ".jsonl", ".ndjson", ".txt", ""):
        known = describe_file(path) or "a file"
        raise DataError(f"{path} is {known}, and none of the formats that are read: {', '.join(WHAT.values())}")
    data = read_json(path)
    found = _of_mapping(data, path) if isinstance(data, Mapping) else _of_list(data, path)
    if found is None:
        raise DataError(f"{path} is JSON, but of none of the formats that are read: {', '.join(WHAT.values())}")
    return found


def _of_mapping(data: Mapping[str, Any], path: Path) -> Recognised | None:
    if (
        "_via_img_metadata" in data
        or is_via_3(data)
        or any(isinstance(one, Mapping) and "regions" in one for one in _first(data))
    ):
        return Recognised("via", {"labels": path})
    if "shapes" in data:
        return Recognised("labelme", {"labels": path})
    if is_one_task(data):
        return Recognised("label_studio", {"labels": path})
    if not isinstance(data.get("annotations"), list):
        return None
    rows = [row for row in data["annotations"][:_PROBES] if isinstance(row, Mapping)]
    images = [row for row in data.get("images") or [] if isinstance(row, Mapping)][:_PROBES]
    names = [str(row.get("file_name") or str(row.get("coco_url", "")).rpartition("/")[2]) for row in images]
    keys = {key for row in rows for key in row}
    if "segments_info" in keys:
        place = path.with_suffix("")
        values: dict[str, Path | str | None] = {"panoptic": path}
        missing = {} if place.is_dir() else {"segments": "the folder of its PNGs"}
        return _with_images(
            Recognised("coco_panoptic", values | ({} if missing else {"segments": place}), missing), names, path
        )
    if "tokens_positive" in keys:
        return _with_images(Recognised("flickr30k_mdetr", {"captions": path}), names, path)
    if "caption" in keys and "bbox" not in keys:
        return Recognised("coco_captions", {"captions": path})
    if "categories" not in data:
        return None
    if "sentences" in keys:
        return _with_images(Recognised("refcoco", {"refs": path, "split": None}), names, path)
    captions = path.with_name(path.name.replace("instances", "captions"))
    beside = {"captions": captions} if captions != path and captions.is_file() else {}
    return _with_images(Recognised("coco", {"instances": path, **beside}), names, path)


def _first(data: Mapping[str, Any]) -> list[Any]:
    return [value for value, _ in zip(data.values(), range(_PROBES), strict=False)]


def _of_list(data: Any, path: Path) -> Recognised | None:
    rows = [row for row in data[:_PROBES] if isinstance(row, Mapping)] if isinstance(data, list) else []
    keys = {key for row in rows for key in row}
    names = [str(row["image"]) for row in rows if isinstance(row.get("image"), str)]
    if not rows:
        return None
    names += [row[key] for key in ("file_name", "img_path") for row in rows if isinstance(row.get(key), str)]
    inner = {key for row in rows if len(row) == 1 for one in row.values() if isinstance(one, Mapping) for key in one}
    for kind, (name, marks) in _GROUNDED.items():
        if any(marks <= one for one in (keys, inner)):
            return _with_images(Recognised(kind, {name: path}), names, path)
    if {"caption", "refs"} <= keys | inner:
        return _with_images(Recognised("grandf", {"captions": path}), names, path)
    if "objects" in keys and "image_id" in keys:
        data_file = path.with_name("image_data.json")
        missing = {} if data_file.is_file() else {"image_data": "image_data.json of the release"}
        values = {"objects": path, **({} if missing else {"image_data": data_file})}
        return _with_images(Recognised("visual_genome_objects", values, missing), [], path)
    pair = keys & {"query", "prompt"} and keys & {"response", "completion"}
    if "messages" in keys or ("conversations" in keys and "images" in keys) or (pair and keys & {"images", "image"}):
        pictures = [one for row in rows for one in _list_in(row, "images") if isinstance(one, str)]
        return _with_images(Recognised("messages", {"dialogues": path}), pictures, path)
    if "conversations" in keys:
        is_marked = "marks" in keys or _names_marks(rows)
        kind = "gvc" if keys & {"gd_ls", "q_gd_ls"} else "set_of_mark" if is_marked else "llava"
        labels = path.with_name("instances.json")  # as `annotate` writes them
        beside = {"instances": labels} if (kind == "gvc" or "marks" in keys) and labels.is_file() else {}
        missing = {"instances": "the COCO file that its ids are of"} if kind == "gvc" and not beside else {}
        return _with_images(Recognised(kind, {"dialogues": path, **beside}, missing), names, path)
    if "turns" in keys:
        missing = {"instances": "a COCO file of its pictures"}
        return _with_images(Recognised("custom", {"dialogues": path}, missing), names, path)
    if "sentences" in keys and keys & {"ann_id", "ref_id"}:
        return _with_images(Recognised("refcoco", {"refs": path}, {"instances": "the COCO file beside it"}), [], path)
    if "annotation_id" in keys or ("data" in keys and keys & {"annotations", "predictions", "completions"}):
        return Recognised("label_studio", {"labels": path})
    if "regions" in keys:
        data_file = path.with_name("image_data.json")
        missing = {} if data_file.is_file() else {"image_data": "image_data.json of the release"}
        values = {"regions": path, **({} if missing else {"image_data": data_file})}
        return _with_images(Recognised("visual_genome", values, missing), [], path)
    if keys & {"annotations", "annotation"}:
        return Recognised("createml", {"labels": path})
    return None


def _names_marks(rows: list[Mapping[str, Any]]) -> bool:
    """Whether most dialogues name a mark that stands in their picture: code may have `<1>` in it as well."""
    return 2 * sum(map(_names_mark, rows)) > len(rows)


def _names_mark(row: Mapping[str, Any]) -> bool:
    turns = [turn for turn in _list_in(row, "conversations") if isinstance(turn, Mapping)]
    try:
        return any(find_marks(turn["value"]) for turn in turns if isinstance(turn.get("value"), str))
    except DataError:
        return False


def _list_in(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else []


def _is_packed(place: Path, names: list[str]) -> bool:
    """Whether archives in a folder hold one of these pictures."""
    if not place.is_dir() or not any(one.suffix.lower() in _ARCHIVES for one in place.iterdir()):
        return False
    with suppress(DataError):  # archives of something else
        return any(map(open_images(place).has, names))
    return False


def _of_visual_genome(kind: str, places: list[Path]) -> Path | None:
    """The folder above the two that the release has its pictures in, whose names are in their addresses."""
    if not kind.startswith("visual_genome"):
        return None
    return next((one for one in places if all((one / part).is_dir() for part in ("VG_100K", "VG_100K_2"))), None)


def _with_images(found: Recognised, names: list[str], path: Path) -> Recognised:
    """The same with the folder in which most of its pictures are."""
    folders = [path.parent, path.parent.parent] if names else [path.parent]  # without names, nothing tells them apart
    tops = [*folders, *(one / place for one in folders for place in _PLACES)]
    tops += [one for folder in folders for one in sorted(folder.iterdir())[:_MOST_FILES] if one.is_dir()]
    best, most = _of_visual_genome(found.kind, tops), 0
    if best is not None:
        return Recognised(found.kind, {**found.values, "images": best}, found.missing, found.splits)
    deeper = [one for place in tops if place.name in _PLACES and place.is_dir() for one in sorted(place.iterdir())[:20]]
    for place in dict.fromkeys(one for one in (*tops, *deeper) if one.is_dir()):
        count = sum(FolderImages(place).locate(name).exists() for name in names if (place / Path(name).name).exists())
        count = count or sum((place / name).is_file() for name in names)
        if not names:
            count = sum(
                one.suffix.lower() in DATA_SUFFIXES for one, _ in zip(place.iterdir(), range(_MOST_FILES), strict=False)
            )
        if count > most:
            best, most = place, count
    best = best or next((one for one in dict.fromkeys(tops) if _is_packed(one, names)), None)
    if best is None:
        return Recognised(
            found.kind, found.values, {**found.missing, "images": "the folder of its pictures"}, found.splits
        )
    return Recognised(found.kind, {**found.values, "images": best}, found.missing, found.splits)
