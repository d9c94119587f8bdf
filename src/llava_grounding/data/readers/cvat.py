"""CVAT's XML 1.1, for images and for video: boxes, polygons, ellipses and masks per picture. Knows no other format.

In a file for video the shapes of a thing are a track, with a shape for each frame; frames are pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from llava_grounding.data.images import ImageStore
from llava_grounding.data.readers.parts.image_rows import checked_size, file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut, named
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers, whole_number
from llava_grounding.data.readers.parts.pictures import (
    Picture,
    PictureRecords,
    corners,
    ellipse,
    polygons,
    rotated_box,
    size_of,
)
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.data.readers.parts.rows import image_store, images_beside
from llava_grounding.data.readers.parts.xml_files import parse_xml
from llava_grounding.errors import DataError, shown

_FRAME_NAMES = tuple(
    stem + ending
    for ending in (".PNG", ".png", ".jpg", ".jpeg")
    for stem in ("frame_{:06d}", "{:06d}", "{:05d}", "{:04d}", "{:d}", "frame_{:d}", "images/frame_{:06d}")
)
"""CVAT's own name of a frame, then those that programs give which take films apart."""
_PROBES = 5  # frames looked for


class CvatXml(PictureRecords):
    """Records of one file; shapes of one label and one `group_id` stay things of their own, as CVAT groups anything."""

    title = "CVAT, XML 1.1 for images or video"

    @classmethod
    def from_files(
        cls,
        labels: str | Path,
        images: str | Path | ImageStore | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> CvatXml:
        """Reads a file.

        Args:
            labels: `annotations.xml` of an export "CVAT for images 1.1" or "CVAT for video 1.1", or the folder in which
                it lies.
            images: folder, tar shards or zip; by default `images` beside the file, else its folder. Frames of a video
                are pictures called by their numbers, such as `frame_000012.PNG` or `00012.jpg`. In the export of a
                project, pictures of a subset may lie in a folder of its name.
            exhaustive: whether every visible thing of the labels that occur is labelled.
            name: what the data is called in reports; by default the file's stem.

        Raises:
            DataError: if it cannot be read, or is of another kind.
        """
        path = Path(labels) / "annotations.xml" if Path(labels).is_dir() else Path(labels)
        with naming(path):
            try:
                root = parse_xml(path)
            except EntryError as error:
                raise DataError(str(error)) from error
            if root.tag != "annotations":
                raise DataError(f"CVAT's file must have the root `annotations`, got `{root.tag[:60]}`")
            store = image_store(images_beside(path) if images is None else images)
            left_out, unread = LeftOut(), Counter[str]()
            tracks = (_read_tracks(task, store, left_out, unread) for task in _tasks(root))
            pictures = chain(_read(root, store, left_out, unread), *tracks)
            return cls(name or path.stem, pictures, store, left_out, exhaustive, unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        file = place / "annotations.xml" if place.is_dir() else place
        return Found({"labels": file}) if file.root_tag == "annotations" else None


def _read(root: ElementTree.Element, store: ImageStore, left_out: LeftOut, unread: Counter[str]) -> Iterator[Picture]:
    tasks: dict[str, set[str | None]] = {}  # that have a picture of this name
    for image in root.iterfind("image"):
        tasks.setdefault(_place_of(image, store), set()).add(image.get("task_id"))
    for image in root.iterfind("image"):
        try:
            name = file_name_of(_place_of(image, store) or None, from_root=True)
            if len(tasks[name]) > 1:
                raise EntryError(
                    "picture of several tasks",
                    f"tasks {', '.join(sorted(map(str, tasks[name])))} have a picture of this name, and nobody can say "
                    "whose is there; export them one by one",
                )
            picture = Picture(name, checked_size(image.get("width"), image.get("height")))
        except EntryError as why:
            left_out.add(f"image {named(image.get('name', 'without name'))}", why)
            continue
        for number, shape in enumerate(image, start=1):
            if shape.tag == "tag":
                unread["tag"] += 1
                picture.may_have([shape.get("label")])
                continue
            category = shape.get("label")
            unread["attribute"] += shape.find("attribute") is not None
            with picture.label(f"{shape.tag} {number}", category, left_out):
                _add(picture, shape, category)
        yield picture


def _place_of(image: ElementTree.Element, store: ImageStore) -> str:
    """The name of a picture, in the folder of its subset if it is there; exports of projects have such folders."""
    name, subset = image.get("name", ""), image.get("subset")
    return f"{subset}/{name}" if subset and name and store.has(f"{subset}/{name}") else name


@dataclass
class _Frame:
    """What tracks have in one frame: what they are called, their labels, their shapes."""

    shapes: list[tuple[str, str | None, ElementTree.Element]] = field(default_factory=list)


@dataclass
class _Task:
    """Tracks whose frames are counted together.

    Args:
        folders: in which its frames may lie, each with its `/`.
        size: width and height as the file has them, if it says them.
    """

    tracks: list[ElementTree.Element]
    folders: list[str]
    size: tuple[str | None, str | None] | None


def _tasks(root: ElementTree.Element) -> list[_Task]:
    """The tasks of a file for video: one, or those of a project, each of which counts its frames from 0."""
    tracks: dict[tuple[str, str], list[ElementTree.Element]] = {}
    for track in root.iterfind("track"):
        tracks.setdefault((track.get("task_id", ""), track.get("subset", "")), []).append(track)
    sizes = {task.findtext("id"): task.find(".//original_size") for task in root.iter("task")}
    tasks = []
    for (number, subset), found in tracks.items():
        folders = [f"{one}/" for one in (subset, number, f"task_{number}") if one and not set(one) & set("{}")]
        alone = next(root.iter("original_size"), None) if len(tracks) == 1 else None
        size = sizes.get(number, alone) if number else alone
        said = None if size is None else (size.findtext("width"), size.findtext("height"))
        tasks.append(_Task(found, [*folders, ""] if len(tracks) == 1 else folders, said))
    return tasks


def _read_tracks(task: _Task, store: ImageStore, left_out: LeftOut, unread: Counter[str]) -> Iterator[Picture]:
    """The frames that tracks have a shape in, or are said to be outside of."""
    frames: dict[int, _Frame] = {}
    gaps: list[tuple[int, int]] = []  # frames between two shapes of a thing, first and last
    for number, track in enumerate(task.tracks):
        called, label = f"track {track.get('id', number)}", track.get("label")
        before: int | None = None  # the frame of the last shape, if the thing was visible in it
        for shape in sorted((one for one in track if one.tag != "track"), key=_frame_of):  # points of a skeleton
            at, outside = _frame_of(shape), shape.get("outside") == "1"
            if at < 0:
                left_out.add(f"{called}: {shape.tag}", "shape without a frame")
                continue
            if before is not None and before + 1 < at:
                gaps.append((before + 1, at - 1))
            before = None if outside else at
            frame = frames.setdefault(at, _Frame())
            if not outside:
                frame.shapes.append((f"{called}: {shape.tag}", label, shape))
    gaps.sort(reverse=True)
    name_of = _frame_names(store, frames, task.folders)
    unsure = -1  # up to here something is not told of, as in files with key frames alone
    for at, frame in sorted(frames.items()):
        while gaps and gaps[-1][0] <= at:
            unsure = max(unsure, gaps.pop()[1])
        try:
            picture = Picture(name_of(at), checked_size(*task.size) if task.size else size_of(store, name_of(at)))
        except EntryError as why:
            left_out.add(f"frame {at}", why)
            continue
        if at <= unsure:
            picture.lost.add(None)
        for called, label, shape in frame.shapes:
            unread["attribute"] += shape.find("attribute") is not None
            with picture.label(called, label, left_out):
                _add(picture, shape, label)
        yield picture


def _frame_of(shape: ElementTree.Element) -> int:
    """Number of a shape's frame, -1 where it has none."""
    text = shape.get("frame", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _frame_names(store: ImageStore, frames: Iterable[int], folders: list[str]) -> Callable[[int], str]:
    """What the pictures of frames are called: as CVAT does, unless the first that is there is called otherwise."""
    for at in sorted(frames)[:_PROBES]:
        for pattern in (folder + one for folder in folders for one in _FRAME_NAMES if not folder or "/" not in one):
            if store.has(pattern.format(at)):
                return pattern.format
    return f"{folders[0] if folders else ''}{_FRAME_NAMES[0]}".format


def _numbers(shape: ElementTree.Element, *keys: str) -> list[float]:
    try:
        values = [float(shape.get(key, "")) for key in keys]
    except ValueError:
        values = []
    if not are_numbers(values, len(keys)):
        raise EntryError(
            "attributes that are not finite numbers", f"a {shape.tag} must have numbers as {', '.join(keys)}"
        )
    return values


def _add(picture: Picture, shape: ElementTree.Element, category: str | None) -> None:
    assert picture.size_wh is not None
    degrees = _numbers(shape, "rotation")[0] if shape.get("rotation") else 0.0
    if shape.tag == "box":
        x0, y0, x1, y1 = corners(_numbers(shape, "xtl", "ytl", "xbr", "ybr"))
        if degrees:
            picture.add(category, None, rotated_box((x0, y0, x1, y1), degrees, about_centre=True))
        else:
            picture.add(category, (x0, y0, x1, y1))
    elif shape.tag == "polygon":
        points = [point.split(",") for point in shape.get("points", "").split(";") if point]
        picture.add(category, None, polygons([[place for point in points for place in point]], picture.size_wh))
    elif shape.tag == "ellipse":
        x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
        picture.add(category, None, polygons(ellipse(x, y, rx, ry, degrees), picture.size_wh))
    elif shape.tag == "mask":
        _add_mask(picture, shape, category)
    else:
        raise EntryError(
            "shape without an area", f"a shape must be box, polygon, ellipse or mask, got {shown(shape.tag)}"
        )


def _add_mask(picture: Picture, shape: ElementTree.Element, category: str | None) -> None:
    """Run lengths of a part of the picture, row by row, those of zeros first."""
    assert picture.size_wh is not None
    left, top, width, height = (whole_number(shape.get(key), key) for key in ("left", "top", "width", "height"))
    if min(width, height) < 1 or width > picture.size_wh[0] or height > picture.size_wh[1]:
        raise EntryError("mask outside the image", f"a mask must lie within {picture.size_wh}")
    try:
        runs = np.array([int(run) for run in shape.get("rle", "").split(",")], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise EntryError("broken run lengths", "`rle` must be run lengths") from error
    if (runs < 0).any() or (runs > width * height).any() or runs.sum() != width * height:
        raise EntryError("broken run lengths", f"`rle` must describe {width} x {height} pixels")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    picture.add_mask(category, part, (left, top))
