"""Label Studio's JSON and JSON-MIN: rectangles, polygons, ellipses and brush masks in percent of the picture.

An export in one file, or in a folder of files with a task or an annotation each, as storages have them. Knows no other
format. Of a task that several people did, the last that was not given up counts.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from llava_grounding.data.image_names import DATA_SUFFIXES
from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.messages import SEVERAL
from llava_grounding.data.readers.parts.files import read_json, read_lines_or_json
from llava_grounding.data.readers.parts.image_rows import checked_size
from llava_grounding.data.readers.parts.left_out import LeftOut, named
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers, as_numbers
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, ellipse, polygons, rotated_box, size_of
from llava_grounding.data.readers.parts.places import Found, Place, is_file_of_storage
from llava_grounding.data.readers.parts.reading import label_id, naming
from llava_grounding.data.readers.parts.rows import image_store, images_beside, read_entries
from llava_grounding.data.readers.parts.texts import plain_text
from llava_grounding.data.record import Expression
from llava_grounding.errors import DataError, ImageError, shown
from llava_grounding.image_files import DATA_LIMITS, load_stored
from llava_grounding.masks import MAX_UNPACKED_PIXELS

_LISTS = ("images", "image", "pages")
_IMAGE_KEYS = ("image", "img", "image_url", "picture", "photo")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
_PICTURE = re.compile(rf"(?:{'|'.join(map(re.escape, DATA_SUFFIXES))})\b", re.IGNORECASE)
_LABELS = (
    "rectanglelabels",
    "polygonlabels",
    "brushlabels",
    "ellipselabels",
    "bitmasklabels",
    "vectorlabels",
    "labels",
)
_TASK_KEYS = {"data", "label", "annotation_id"}
_POINTS = "keypointlabels"
_CHOICES = ("choices", "taxonomy")
_SHAPES = ("x", "points", "rle", "vertices", "imageDataURL")
"""Keys of which a region has one."""


class LabelStudio(PictureRecords):
    """Records of an export; what is written beside a region (`textarea`) means it."""

    title = "Label Studio"

    @classmethod
    def from_files(
        cls,
        labels: str | Path,
        images: str | Path | ImageStore | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> LabelStudio:
        """Reads an export.

        Args:
            labels: a list of tasks, as JSON or JSON-MIN; or a file or folder of files with one object each: a task with
                what was done of it, or an annotation with its `task`.
            images: folder, tar shards or zip of the pictures, under the names that they were uploaded with, or with
                the eight digits that Label Studio puts before; by default `images` beside the file or in the folder, or
                beside a folder that holds a storage alone, else the folder.
            exhaustive: whether every visible thing of the labels that occur is labelled.
            name: what the data is called in reports; by default the file's stem.

        Raises:
            DataError: if it cannot be read, or is of another kind.
        """
        path = Path(labels)
        with naming(path):
            entries = _of_one_task(_entries(path))
            if not any(isinstance(one, Mapping) and one.keys() & _TASK_KEYS for _, one in entries) and (
                entries or path.is_dir()
            ):
                got = shown(entries[0][1]) if entries else "a folder without such files"
                raise DataError(f"Label Studio's file must be a list of tasks with `data`, got {got}")
            store, left_out, unread = image_store(images or _place_of_images(path)), LeftOut(), Counter[str]()
            return cls(name or path.stem, _read(entries, store, left_out, unread), store, left_out, exhaustive, unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        if is_one_task(place.table):
            return Found({"labels": place}, per_picture=True)
        has_task = "data" in place.keys and place.keys & {"annotations", "predictions", "completions"}
        return Found({"labels": place}) if has_task or "annotation_id" in place.keys else None


def _place_of_images(path: Path) -> Path:
    """Where pictures are looked for by default."""
    place, beside = images_beside(path), path.parent / "images"
    if place == path and beside.is_dir():
        files = (one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
        return beside if all(map(is_file_of_storage, files)) else place
    return place


def is_one_task(data: Mapping[str, Any]) -> bool:
    """Whether an object is a task with what was done of it, or an annotation with its task."""
    of_annotation = isinstance(data.get("task"), Mapping) and isinstance(data.get("result"), list)
    return of_annotation or (
        isinstance(data.get("data"), Mapping) and bool(data.keys() & {"annotations", "completions"})
    )


def _entries(path: Path) -> list[tuple[str, Any]]:
    """The tasks or annotations of a file, or of all of a folder, each with its place; an error where one is no JSON."""
    if not path.is_dir():
        lines, value = read_lines_or_json(path)
        if lines is None and isinstance(value, Mapping) and is_one_task(value):
            return [(path.name, value)]
        return read_entries(path, "tasks")
    found: list[tuple[str, Any]] = []
    for one in sorted(path.rglob("*")):
        if is_file_of_storage(one) and one.is_file():
            place = one.relative_to(path).as_posix()
            try:
                value = read_json(one)
                found += [(place, entry) for entry in (value if isinstance(value, list) else [value])]
            except DataError as error:
                found.append((place, error))
    return found


def _of_one_task(entries: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The same with annotations that have their task inside put together as that task, in the order of their ids."""
    tasks: dict[str, tuple[str, dict[str, Any]]] = {}
    found = []
    for place, entry in entries:
        task = entry.get("task") if isinstance(entry, Mapping) else None
        if not isinstance(task, Mapping):
            found.append((place, entry))
            continue
        key = shown(task.get("id", task.get("data")))
        if key not in tasks:
            tasks[key] = place, {**task, "annotations": []}
            found.append(tasks[key])
        tasks[key][1]["annotations"].append(entry)
    for _, merged in tasks.values():
        merged["annotations"].sort(key=lambda one: one["id"] if isinstance(one.get("id"), int) else 0)
    return found


def _read(
    entries: list[tuple[str, Any]], store: ImageStore, left_out: LeftOut, unread: Counter[str]
) -> Iterator[Picture]:
    for place, entry in entries:
        if isinstance(entry, DataError):
            left_out.add(place, EntryError("file that is no JSON", str(entry)))
            continue
        try:
            if not isinstance(entry, Mapping):
                raise EntryError("task that is no object")
            results, others = _results(entry)
            shapes = [one for one in results if _label_key(one)]
            if len({shown(one.get("to_name")) for one in shapes}) > 1 or any(one.get("item_index") for one in shapes):
                raise EntryError(SEVERAL, "a task must be about one image, but its regions are of several")
            name = _image_name(entry, store)
            picture = Picture(name, _size(results, name, store))
        except EntryError as why:
            left_out.add(f"task {label_id(entry, ('id',), place)}", why)
            continue
        texts, chosen = _texts(results), _chosen(results)
        picture.may_have(name for one in others for name in _names_in(one))
        picture.may_have(name for one in results if not _is_shape(one) for name in _names_in(one))
        labelled = {_id(result) for result in results if _label_key(result)}
        nameless = {_id(result) for result in results if _is_shape(result)} - labelled
        for number, result in enumerate(results, start=1):
            value, key, kind = result.get("value"), _label_key(result), result.get("type")
            if not isinstance(value, Mapping) or not _is_shape(result):
                told = kind in ("textarea", None) or (kind in _CHOICES and _id(result) in nameless)
                unread[str(kind)[:40]] += not told
                continue
            if key is None and _id(result) in labelled:
                continue  # the same region, which is there once more with its label
            said = value[key] if key else chosen.get(_id(result))
            category = said[0] if isinstance(said, list) and len(said) == 1 else None
            with picture.label(f"region {number}", category, left_out):
                if category is None:
                    raise EntryError("region without one label", f"a region must have one label, got {shown(said)}")
                if result.get("image_rotation") not in (None, 0):
                    turn = shown(result["image_rotation"])
                    raise EntryError(
                        "label of a picture turned in the tool",
                        f"a picture must stand as it is stored, this one was turned by {turn}",
                    )
                row = _add(picture, value, category)
                for text in texts.get(str(_id(result)), ()):
                    try:
                        picture.expressions.append(Expression(plain_text(text, "what is written"), (row,)))
                    except EntryError as why:
                        left_out.add(f"{named(name)}: text beside region {number}", why)
        yield picture


def _id(result: Mapping[str, Any]) -> str | int | None:
    """The key by which regions and what is said beside them belong together."""
    said = result.get("id")
    return said if isinstance(said, str | int) else None


def _label_key(result: Mapping[str, Any]) -> str | None:
    """The key under which a region has its labels."""
    value = result.get("value")
    return next((key for key in (*_LABELS, _POINTS) if isinstance(value, Mapping) and key in value), None)


def _is_shape(result: Mapping[str, Any]) -> bool:
    """Whether a result is a region, and not what is said beside one, which repeats its shape."""
    value = result.get("value")
    beside = result.get("type") in (*_CHOICES, "textarea")
    return isinstance(value, Mapping) and not beside and bool(_label_key(result) or set(_SHAPES) & value.keys())


def _chosen(results: list[Mapping[str, Any]]) -> dict[Any, Any]:
    """What was chosen for each region, by its id, where labels are choices beside regions."""
    found = {}
    for result in results:
        value, kind = result.get("value"), result.get("type")
        if kind in _CHOICES and isinstance(value, Mapping) and _id(result) is not None:
            said = value.get(kind)
            # The path through a taxonomy ends with what it is.
            said = said if isinstance(said, list) else []
            found[_id(result)] = [one[-1] if isinstance(one, list) and one else one for one in said]
    return found


def _names_in(result: Mapping[str, Any]) -> Iterator[Any]:
    """Every label and choice of a result."""
    value = result.get("value")
    waiting = [value[key] for key in (*_LABELS, _POINTS, *_CHOICES) if isinstance(value, Mapping) and key in value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        else:
            yield one


def _results(entry: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The regions of a task, and those of other people where nobody has said whose are right."""
    if "annotations" in entry or "completions" in entry or isinstance(entry.get("data"), Mapping):
        done = entry.get("annotations", entry.get("completions"))
        done = (
            [one for one in done if isinstance(one, Mapping) and not one.get("was_cancelled")]
            if isinstance(done, list)
            else []
        )
        if not done:
            raise EntryError("task that nobody has done")
        true = next((one for one in done if one.get("ground_truth")), None)
        best = done[-1] if true is None else true
        others = [one for one in done if one is not best] if true is None else []
        return _rows_of([best]), _rows_of(others)
    # JSON-MIN has the values alone, under the name of whatever asked for them.
    found: list[Mapping[str, Any]] = []
    for value in entry.values():
        if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
            found += [
                {"value": one, **{key: one.get(key) for key in ("original_width", "original_height")}} for one in value
            ]
    return found, []


def _rows_of(done: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = [one.get("result") for one in done]
    return [row for rows in found if isinstance(rows, list) for row in rows if isinstance(row, Mapping)]


def _image_name(entry: Mapping[str, Any], store: ImageStore) -> str:
    data = entry.get("data", entry)
    data = data if isinstance(data, Mapping) else {}
    lists = [one for key, one in data.items() if key in _LISTS and isinstance(one, list)]
    if any(len(one) > 1 for one in lists):
        raise EntryError(SEVERAL, "a task must be about one image")
    data = {**data, **{f"image {number}": one for number, (one,) in enumerate(one for one in lists if one)}}
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    said = next((texts[key] for key in _IMAGE_KEYS if key in texts), None)
    said = said or next((value for value in texts.values() if _PICTURE.search(value)), None)
    if not said or "\0" in said:
        raise EntryError("no image", f"the task must name a picture, got {shown(data)}")
    if said.startswith("data:"):
        raise EntryError("image inside of the file", "an image must be the name of a file, not its bytes")
    try:
        parts = urlsplit(said.replace("\\", "/"))
        local = parse_qs(parts.query).get("d", [""])[0]
    except ValueError as error:
        raise EntryError("no image", f"the task must name a picture, got {named(said)}") from error
    path = unquote(local or parts.path).lstrip("/")
    base = path.rpartition("/")[2]
    names = [path, base, _UPLOAD.sub("", base)]
    return next((one for one in names if one and ".." not in one and store.has(one)), base or named(said))


def _size(results: list[Mapping[str, Any]], name: str, store: ImageStore) -> tuple[int, int]:
    for result in results:
        if result.get("original_width") and result.get("original_height"):
            return checked_size(result["original_width"], result["original_height"])
    return size_of(store, name)


def _texts(results: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What is written beside regions, by their id."""
    found: dict[str, list[str]] = {}
    for result in results:
        value = result.get("value")
        if result.get("type") == "textarea" and isinstance(value, Mapping):
            said = value.get("text")
            lines = said if isinstance(said, list) else [said]
            found.setdefault(str(result.get("id")), []).extend(
                " ".join(line.split()) for line in lines if isinstance(line, str) and line.strip()
            )
    return found


def _numbers(value: Mapping[str, Any], *keys: str) -> list[float]:
    numbers = as_numbers([value.get(key) for key in keys])
    if not are_numbers(numbers, len(keys)):
        raise EntryError("region that is not finite numbers", f"a region must have numbers as {', '.join(keys)}")
    return [float(number) for number in numbers]


def _add(picture: Picture, value: Mapping[str, Any], category: str) -> int:
    assert picture.size_wh is not None
    width, height = picture.size_wh
    degrees = _numbers(value, "rotation")[0] if value.get("rotation") else 0.0
    if _POINTS in value:
        raise EntryError("shape without an area", "a region must have an area, got a point")
    if "imageDataURL" in value:
        return _add_bitmask(picture, value["imageDataURL"], category)
    points = value.get("points")
    if "vertices" in value:
        if not value.get("closed") or not isinstance(value["vertices"], list):
            raise EntryError("shape without an area", "a line must be closed to have an area")
        points = [[one.get("x"), one.get("y")] if isinstance(one, Mapping) else one for one in value["vertices"]]
    if points is not None:
        if not isinstance(points, list) or not all(are_numbers(point, 2) for point in points):
            raise EntryError("points that are no pairs of numbers", f"points must be pairs, got {shown(points)}")
        flat = [place * side / 100 for point in points for place, side in zip(point, (width, height), strict=True)]
        return picture.add(category, None, polygons([flat], picture.size_wh))
    if "rle" in value:
        return _add_brush(picture, value["rle"], category)
    if "radiusX" in value:
        x, y, rx, ry = _numbers(value, "x", "y", "radiusX", "radiusY")
        shape = ellipse(x * width / 100, y * height / 100, rx * width / 100, ry * height / 100, degrees)
        return picture.add(category, None, polygons(shape, picture.size_wh))
    x, y, w, h = _numbers(value, "x", "y", "width", "height")
    box = (x * width / 100, y * height / 100, (x + w) * width / 100, (y + h) * height / 100)
    if degrees:
        return picture.add(category, None, rotated_box(box, degrees, about_centre=False))
    return picture.add(category, box)


def _add_bitmask(picture: Picture, url: Any, category: str) -> int:
    """A mask that is a PNG in a data URL, painted where it is not transparent."""
    assert picture.size_wh is not None
    try:
        mask = load_stored(base64.b64decode(str(url).partition("base64,")[2]), DATA_LIMITS, ("PNG",))
    except (ValueError, ImageError) as error:
        raise EntryError("mask that is no PNG", f"`imageDataURL` must be a PNG in base64: {error}") from error
    if mask.size != picture.size_wh:
        raise EntryError(
            "mask of another size than its image", f"a mask must be {picture.size_wh} like its image, got {mask.size}"
        )
    pixels = mask.getchannel("A") if "A" in mask.getbands() else mask.convert("L")
    return picture.add_mask(category, np.asarray(pixels) > 0, (0, 0))


def _add_brush(picture: Picture, rle: Any, category: str) -> int:
    assert picture.size_wh is not None
    width, height = picture.size_wh
    if 4 * width * height > MAX_UNPACKED_PIXELS:
        raise EntryError(
            "brush mask that is too large", f"a brush mask must have at most {MAX_UNPACKED_PIXELS // 4} pixels"
        )
    return picture.add_mask(
        category, decode_brush(rle, 4 * width * height).reshape(height, width, 4)[:, :, 3] > 0, (0, 0)
    )


def decode_brush(rle: Any, count: int) -> np.ndarray:
    """The bytes of a brush mask: RGBA, row by row, of which the last says where it is painted.

    The code is a stream of bits: how many words there are (32), the bits of a word less one (5), and four lengths less
    one (4 each); then blocks: whether all words are one, which of the lengths is used (2), how many words less one
    there are, and the words.

    Args:
        count: bytes that there must be.

    Raises:
        EntryError: if there are others, or it is cut off.
    """
    if not isinstance(rle, list) or set(map(type, rle)) - {int} or not all(0 <= one < 256 for one in rle):
        raise EntryError("broken brush mask", "`rle` must be a list of bytes")
    bits = np.unpackbits(np.array(rle, dtype=np.uint8))
    weights = 1 << np.arange(63, -1, -1, dtype=np.uint64)
    place = 0

    def read(length: int) -> int:
        nonlocal place
        place += length
        if place > len(bits):
            raise EntryError("broken brush mask", "`rle` ends early")
        return (
            int((bits[place - length : place] * weights[64 - length :]).sum())
            if length > 8
            else int("".join(map(str, bits[place - length : place].tolist())), 2)
        )

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != count or word != 8:
        raise EntryError("broken brush mask", f"`rle` must hold {count} bytes, got {total} words of {word} bits")
    values = np.zeros(count, dtype=np.uint8)
    done = 0
    while done < count:
        alike = read(1)
        end = done + 1 + read(lengths[read(2)])
        if end > count:
            raise EntryError("broken brush mask", f"`rle` must hold {count} bytes, got more")
        if alike:
            values[done:end] = read(8)
        else:
            stop = place + 8 * (end - done)
            if stop > len(bits):
                raise EntryError("broken brush mask", "`rle` ends early")
            values[done:end] = np.packbits(bits[place:stop])
            place = stop
        done = end
    return values
