"""YOLO: a text file per picture, a line per thing: its class and a box or a polygon in shares of the picture.

`data.yaml` names the classes and the folders of each split; without it, `classes.txt` may. Knows no other format.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from llava_grounding.data.image_names import DATA_SUFFIXES, folded
from llava_grounding.data.images import FolderImages
from llava_grounding.data.plain_files import is_unicode, read_file
from llava_grounding.data.readers.parts.files import read_text_lines
from llava_grounding.data.readers.parts.image_rows import file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut, named
from llava_grounding.data.readers.parts.numbers import EntryError, number_or_none
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, size_of
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import label_id
from llava_grounding.data.readers.yolo_ndjson import is_ndjson, lines_of, read_ndjson
from llava_grounding.errors import DataError, did_you_mean, shown

_NO_CLASSES = {"names": "a text file with a class per line"}
_NAMES = ("classes.txt", "obj.names", "labels.txt")
_LABELS, _ENDING = "labels", ".txt"
_MAX_BYTES = 2**24  # of a text file
_SLACK = 1.01  # shares of the picture that are taken for 1
_YAML = (".yaml", ".yml")
_SPLITS = ("train", "val", "valid", "validation", "test")
_VALIDATION = {"val": "valid", "valid": "val", "validation": "val"}


class Yolo(PictureRecords):
    """Records of one split; pictures without a text file, or with an empty one, have nothing of any class."""

    title = "YOLO"

    @classmethod
    def from_files(
        cls,
        data: str | Path,
        split: str | None = "train",
        names: str | Path | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> Yolo:
        """Reads a folder of YOLO's form.

        Args:
            data: `data.yaml`, or the folder in which it lies, or one with `images` and `labels`, or with both together;
                or the NDJSON of Ultralytics' platform, with its pictures beside it or in `images`.
            split: `train`, `val` or `test`, as `data.yaml` has them; None takes all.
            names: text file with a class per line, where there is no `data.yaml`.
            exhaustive: whether every visible thing of the classes is labelled.
            name: what the data is called in reports; by default the folder's name and the split.

        Raises:
            DataError: if it is no such folder, or has no such split.
        """
        place, left_out, unread = Path(data), LeftOut(), Counter[str]()
        if place.suffix.lower() == ".ndjson":
            found = _read_ndjson(place, split, left_out, unread)
            return cls(name or place.stem, found, FolderImages(place.parent), left_out, exhaustive, unread)
        config = _config_of(place)
        root = config.parent if config else place
        values = read_config(config) if config else {}
        classes = _classes(values.get("names")) if names is None else {}
        classes = classes or _listed_classes(root, names)
        if not root.is_dir():
            raise DataError(f"YOLO's data must be a folder or its data.yaml, got {place}")
        places = _pictures(root, values, split)
        return cls(
            name or f"{root.absolute().name}_{split or 'all'}",
            _read(root, places, classes, "kpt_shape" in values, left_out, unread),
            FolderImages(root),
            left_out,
            exhaustive,
            unread,
        )

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if place.is_dir():
            return _recognised_folder(place)
        if place.suffix.lower() in _YAML and "names" in (config := read_config(place)):
            return _of_splits({"data": place}, [one for one in _SPLITS if config.get(one)])
        if place.suffix.lower() == ".ndjson" and is_ndjson(place.head):
            return Found({"data": place, "split": None})
        return None


def _recognised_folder(folder: Place) -> Found | None:
    configs = [one for one in map(_glance, sorted(folder.glob("*.y*ml"))) if one[1].keys() & {"names", "nc"}]
    if not configs and not any((folder / one).is_file() for one in ("classes.txt", "obj.names")):
        if not (folder / "labels").is_dir() and not _has_label_beside_picture(folder.files):
            return None
        return Found({"data": folder, "split": None}, _NO_CLASSES, sure=False)
    path, values = configs[0] if configs else (folder, {})
    found = _of_splits({"data": path}, [one for one in _SPLITS if values.get(one)] or _split_folders(folder))
    return found if not configs or "names" in values else replace(found, missing=_NO_CLASSES)


def _of_splits(values: dict[str, Path | str | None], splits: list[str]) -> Found:
    return Found({**values, "split": splits[0] if splits else None}, splits=tuple(splits[1:]))


def _glance(path: Path) -> tuple[Path, dict[str, Any]]:
    """What a YAML file holds that may be a `data.yaml`; nothing where it cannot be read."""
    with suppress(OSError, DataError):
        data = read_file(path)
        return path, read_config(path) if b"names" in data or b"nc:" in data else {}
    return path, {}


def _split_folders(root: Path) -> list[str]:
    return [one for one in _SPLITS if (root / one).is_dir() or (root / "images" / one).is_dir()]


def _has_label_beside_picture(files: Sequence[Path]) -> bool:
    """Whether the first text file that lies beside a picture of its name begins with a class and four numbers."""
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in DATA_SUFFIXES}
    first = next((one for one in files if one.suffix == ".txt" and one.with_suffix("") in stems), None)
    words = read_file(first)[:200].split() if first else []
    return len(words) >= 5 and words[0].isdigit()


def _config_of(place: Path) -> Path | None:
    if place.suffix.lower() in _YAML:
        return place
    found = [path for path in (place / "data.yaml", place / "dataset.yaml") if path.is_file()]
    found += sorted(path for path in place.glob("*.y*ml") if path not in found and "names" in read_config(path))
    return found[0] if found else None


def read_config(path: Path) -> dict[str, Any]:
    """A `data.yaml` as plain values, its names as text; nothing where it holds no keys.

    Raises:
        DataError: if it cannot be read, or has anchors.
    """
    try:
        data = read_file(path)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{path} must have at most {_MAX_BYTES} bytes, got {len(data)}")
        # Anchors could unfold to anything; a name such as `Kitchen & dining room table` is none.
        if b"&" in data and b"*" in data and any(isinstance(one, yaml.AliasToken) for one in yaml.scan(data)):
            raise DataError(f"{path} must be YAML without anchors")
        values = yaml.safe_load(data)
        if isinstance(values, dict) and "names" in values:
            # Names as they are written: `no` and `1.0` are words here.
            values["names"] = yaml.load(data, Loader=yaml.BaseLoader).get("names")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return values if isinstance(values, dict) else {}


def _classes(names: Any) -> dict[int, str]:
    """Names by class, from a list or a mapping."""
    pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else ())
    found = {number_or_none(key): str(value) for key, value in pairs if isinstance(value, str | int | float)}
    return {key: value for key, value in found.items() if key is not None}


def _listed_classes(root: Path, names: str | Path | None) -> dict[int, str]:
    paths = [Path(names)] if names is not None else [root / one for one in _NAMES]
    paths += [] if names is not None else [root / "labels" / one for one in _NAMES]
    for path in paths:
        if path.is_file() or names is not None:
            return dict(enumerate(line.strip() for line in read_text_lines(path)))
    return {}


def _pictures(root: Path, values: dict[str, Any], split: str | None) -> list[Path]:
    """Pictures of a split, in order."""
    splits = [key for key in _SPLITS if values.get(key)]
    if splits:
        wanted = splits if split is None else [one for one in (split, _VALIDATION.get(split)) if one in splits][:1]
        if not wanted:
            hint = did_you_mean(str(split), splits)
            raise DataError(f"split must be one of {splits}, or null for all, got `{split}`{hint}")
        entries = [
            entry for key in wanted for entry in (values[key] if isinstance(values[key], list) else [values[key]])
        ]
        base = values.get("path")
        return [path for entry in entries for path in _listed(root, base, entry)]
    folders = [root / "images" / str(split), root / str(split) / "images", root / str(split)]
    aside = _VALIDATION.get(str(split))
    folders += [root / "images" / aside, root / aside / "images"] if aside else []
    found = next((folder for folder in folders if folder.is_dir()), None)
    others = _split_folders(root)
    if split is not None and found is None and others:
        raise DataError(f"split must be one of {others}, or null for all, got `{split}`")
    return _below(found or ((root / "images") if (root / "images").is_dir() else root))


def _listed(root: Path, base: Any, entry: Any) -> list[Path]:
    """Pictures of one entry of `data.yaml`: a folder, or a text file that lists them."""
    if not isinstance(entry, str) or "\0" in entry or not is_unicode(entry):
        raise DataError(f"a split of data.yaml must be a folder or a list of pictures, got {shown(entry)}")
    tail = entry.replace("\\", "/")
    bases = []
    if isinstance(base, str) and "\0" not in base:
        last = Path(base).name
        bases = [root / base, root / last, root / "datasets" / last]
    # Exports say `../train/images` for `train/images`, and paths of the machine that they were made on.
    short = tail.lstrip("./")
    parts = Path(short).parts
    places = [folder / tail for folder in (*bases, root)]
    places += [root / short, *(root.joinpath(*parts[start:]) for start in range(1, len(parts)))]
    for place in places:
        if place.is_dir() and _is_below(place, root):
            return _below(place)
        if place.is_file() and place.suffix == ".txt" and _is_below(place, root):
            return [_found(line.strip(), place, root) for line in read_text_lines(place) if line.strip()]
    raise DataError(
        f"data.yaml names `{entry}`, but there is no such folder or list below {root}; put data.yaml beside its folders"
    )


def _is_below(place: Path, root: Path) -> bool:
    return root.resolve() in (place.resolve(), *place.resolve().parents)


def _found(line: str, listing: Path, root: Path) -> Path:
    """A picture of a list, or where it should be."""
    tail = line.replace("\\", "/").replace("\0", "")
    short = tail.removeprefix("./")
    names = FolderImages(root).names()
    # CVAT writes `data/images/train/1.jpg` for `images/train/1.jpg`, wherever the folder lies.
    spelt = names.find(short) or (names.find(short.removeprefix("data/")) if short.startswith("data/") else None)
    return root / spelt if spelt is not None else listing.parent / tail


def _below(folder: Path) -> list[Path]:
    found = []
    for place, _, files in os.walk(folder):
        found += [Path(place) / one for one in files if one.lower().endswith(DATA_SUFFIXES)]
    return sorted(found)


class _LabelFiles:
    """The text files of pictures, however they are spelt.

    Attributes:
        without_picture: text files with labels, in folders of labels, which are of no picture that is there.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._texts = root, dict[str, str]()
        stems, linked = set[str](), False
        for place, folders, files in os.walk(root):
            linked = linked or any((Path(place) / one).is_symlink() for one in folders)
            folder = Path(place).relative_to(root)
            for name in ((folder / one).as_posix() for one in files):
                if name.lower().endswith(_ENDING):
                    self._texts[folded(name)] = name
                else:
                    stems.update(folded(stem) for stem in _label_stems(name))
        unknown = [name for key, name in self._texts.items() if not linked and key.removesuffix(_ENDING) not in stems]
        self.without_picture = [name for name in unknown if _is_of_labels(name) and _has_labels(root / name)]

    def of(self, picture: str) -> Path | None:
        """The text file of a picture, which may be called `1.jpg.txt` for `1.jpg`, as some tools do."""
        for stem in _label_stems(picture):
            if (self._root / f"{stem}{_ENDING}").is_file():
                return self._root / f"{stem}{_ENDING}"
            if (found := self._texts.get(folded(f"{stem}{_ENDING}"))) is not None:
                return self._root / found
        return None


def _label_stems(picture: str) -> Iterator[str]:
    """Where the text file of a picture may lie, less its ending: in `labels` if it lies in `images`, or beside it."""
    parts = picture.split("/")
    places = [place for place, part in enumerate(parts[:-1]) if part.casefold() == "images"]
    names = ["/".join((*parts[: places[-1]], _LABELS, *parts[places[-1] + 1 :]))] if places else []
    names += [picture, f"{_LABELS}/{parts[-1]}"]
    for name in names:
        yield posixpath.splitext(name)[0]
        yield name


def _is_of_labels(name: str) -> bool:
    *folders, file = folded(name).split("/")
    return _LABELS in folders and file not in _NAMES


def _has_labels(path: Path) -> bool:
    """Whether a text file has a line that says a class and where it is."""
    rows = map(str.split, read_text_lines(path, strict=False))
    return any(len(words) > 4 and number_or_none(words[0]) is not None for words in rows)


def _read(
    root: Path,
    places: list[Path],
    classes: dict[int, str],
    with_points: bool,
    left_out: LeftOut,
    unread: Counter[str],
) -> Iterator[Picture]:
    images, texts = FolderImages(root), _LabelFiles(root)
    for name in texts.without_picture:
        left_out.add(named(name), "labels of no picture")
    for place in places:
        try:
            name = place.relative_to(root).as_posix()
        except ValueError:
            left_out.add(f"image {named(str(place))}", "image outside its folder")
            continue
        try:
            picture = Picture(name, size_of(images, name))
        except EntryError as why:
            left_out.add(f"image {named(name)}", why)
            continue
        labels = texts.of(name)
        if labels is None and texts.without_picture:
            picture.lost.add(None)  # which may be those of this one
        seen = set()
        for number, line in enumerate(read_text_lines(labels, strict=False) if labels else [], start=1):
            if not (words := line.split()) or tuple(words) in seen:
                continue
            seen.add(tuple(words))
            kind = number_or_none(words[0])
            category = classes.get(kind, "") if kind is not None else ""
            with picture.label(f"line {number}", category, left_out):
                _add(picture, words, category, kind, with_points, bool(classes), unread)
        yield picture


def _read_ndjson(path: Path, split: str | None, left_out: LeftOut, unread: Counter[str]) -> Iterator[Picture]:
    names, rows = read_ndjson(path, split)
    classes, images = _classes(names), FolderImages(path.parent)
    for place, row in rows:
        try:
            said = file_name_of(row.get("file"))
            folders = (f"images/{row.get('split')}/", f"{row.get('split')}/", "images/", "")
            name = next((folder + said for folder in folders if images.has(folder + said)), said)
            picture = Picture(name, size_of(images, name))
        except EntryError as why:
            left_out.add(label_id(row, ("file",), place), why)
            continue
        for number, (words, with_points) in enumerate(lines_of(row), start=1):
            kind = number_or_none(words[0]) if words else None
            category = classes.get(kind, "") if kind is not None else ""
            with picture.label(f"label {number}", category, left_out):
                _add(picture, words or [""], category, kind, with_points, bool(classes), unread)
        yield picture


def _add(
    picture: Picture,
    words: list[str],
    category: str,
    kind: int | None,
    with_points: bool,
    named_classes: bool,
    unread: Counter[str],
) -> None:
    if kind is None:
        raise EntryError("class that is no whole number", f"a line must begin with its class, got {shown(words[0])}")
    if not category:
        why = "is no class of data.yaml" if named_classes else f"has no name: say `names`, a file such as {_NAMES[0]}"
        raise EntryError("class without a name", f"class {kind} {why}")
    try:
        shares = [float(word) for word in words[1:]]
    except ValueError:
        raise EntryError("numbers that are none", f"a line must be numbers, got {shown(' '.join(words))}") from None
    if with_points and len(shares) > 4:
        unread["keypoints"] += 1
        shares = shares[:4]
    if len(shares) == 5:
        unread["score"] += 1
        shares = shares[:4]
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise EntryError(
            "neither box nor polygon", f"a line must have 4 numbers or 3 points, got {len(shares)} numbers"
        )
    if not all(-_SLACK < share <= _SLACK for share in shares):  # NaN is not
        raise EntryError("numbers that are no shares", f"YOLO's numbers must be 0 to 1, got {shown(shares)}")
    assert picture.size_wh is not None
    width, height = picture.size_wh
    if len(shares) == 4:
        x, y, w, h = (share * side for share, side in zip(shares, (width, height) * 2, strict=True))
        picture.add(category, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        return
    points = [share * (height if place % 2 else width) for place, share in enumerate(shares)]
    picture.add(category, None, [points])
