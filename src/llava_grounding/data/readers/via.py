"""VIA, the VGG Image Annotator: regions of pictures with attributes of one's own. Knows no other format."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from llava_grounding.data.images import ImageStore
from llava_grounding.data.plain_files import parse_json, read_file
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.image_rows import file_name_of
from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers, as_numbers
from llava_grounding.data.readers.parts.pictures import Picture, PictureRecords, corners, ellipse, polygons, size_of
from llava_grounding.data.readers.parts.places import Found, Place
from llava_grounding.data.readers.parts.reading import label_id, naming
from llava_grounding.data.readers.parts.rows import image_store
from llava_grounding.data.readers.via_project import as_via_2, is_via_3
from llava_grounding.errors import DataError, did_you_mean, shown

_COLUMNS = ("filename", "region_count", "region_shape_attributes", "region_attributes")
_USUAL = ("label", "name", "class", "category", "type", "object")


class Via(PictureRecords):
    """Records of a VIA project or of its JSON or CSV export; sizes are those of the pictures."""

    title = "VIA (VGG Image Annotator)"

    @classmethod
    def from_files(
        cls,
        labels: str | Path,
        images: str | Path | ImageStore | None = None,
        attribute: str | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> Via:
        """Reads a file.

        Args:
            labels: a project (`via_project.json`), of VIA 3 as well, or an export (`via_region_data.json` or `.csv`).
            images: folder, tar shards or zip; by default the folder of the file.
            attribute: of regions, the one that says what they are; by default the only one, or the first of `label`,
                `name`, `class`, `category`, `type` and `object` that occurs.
            exhaustive: whether every visible thing of the categories that occur is labelled.
            name: what the data is called in reports; by default the file's stem.

        Raises:
            DataError: if it cannot be read, is of another kind, or has no such attribute.
        """
        path = Path(labels)
        with naming(path):
            data = _read_csv(path) if path.suffix.lower() == ".csv" else read_json(path)
            left_out = LeftOut()
            data = data.get("_via_img_metadata", data) if isinstance(data, Mapping) else data
            newest = isinstance(data, Mapping) and is_via_3(data)
            data = as_via_2(data, left_out) if newest else data
            if not isinstance(data, Mapping) or not (
                newest or any(isinstance(one, Mapping) and "regions" in one for one in data.values())
            ):
                raise DataError(f"VIA's file must be an object of pictures with `regions`, got {shown(data)}")
            said = _attribute(data, attribute)
            store, unread = image_store(images if images is not None else path.parent), Counter[str]()
            pictures = _read(data, said, store, left_out, unread)
            return cls(name or path.stem, pictures, store, left_out, exhaustive, unread)

    @classmethod
    def recognise(cls, place: Place) -> Found | None:
        """See `register_reader`."""
        table = place.table
        is_table = place.suffix.lower() == ".csv" and is_via_csv(place.head)
        first = islice(table.values(), 20)
        has_regions = any(isinstance(one, Mapping) and "regions" in one for one in first)
        is_via = is_table or has_regions or "_via_img_metadata" in table or is_via_3(table)
        return Found({"labels": place}) if is_via else None


def is_via_csv(head: str) -> bool:
    """Whether a text file that begins so is VIA's."""
    return set(_COLUMNS) <= set(head.partition("\n")[0].lstrip("\ufeff#").strip().split(","))


def _read_csv(path: Path) -> dict[str, Any]:
    """What the same export as JSON holds."""
    try:
        text = read_file(path).decode("utf-8-sig")
        if not is_via_csv(text[:1000]):
            raise DataError(
                f"VIA's CSV must have the columns {', '.join(_COLUMNS)} of VIA 1 or 2, got {shown(text[:80])}"
            )
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # an outline of many points is one field
        rows = csv.DictReader(io.StringIO(text.removeprefix("#"), newline=""), strict=True)
        data: dict[str, Any] = {}
        for row in rows:
            name = row["filename"] or ""
            entry = data.setdefault(name, {"filename": name, "regions": []})
            shape, said = (_object(row[key], rows.line_num) for key in ("region_shape_attributes", "region_attributes"))
            if shape:
                entry["regions"].append({"shape_attributes": shape, "region_attributes": said})
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return data


def _object(text: str | None, line: int) -> Mapping[str, Any]:
    try:
        value = parse_json(text or "{}")
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {line} must have JSON in its columns of attributes: {error}") from error
    return value if isinstance(value, Mapping) else {}


def _regions(entry: Mapping[str, Any]) -> list[Any]:
    regions = entry.get("regions")
    return list(regions.values()) if isinstance(regions, Mapping) else regions if isinstance(regions, list) else []


def _attributes(region: Any) -> Mapping[str, Any]:
    found = region.get("region_attributes") if isinstance(region, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _attribute(data: Mapping[str, Any], wanted: str | None) -> str | None:
    known: Counter[str] = Counter()
    for entry in data.values():
        for region in _regions(entry) if isinstance(entry, Mapping) else []:
            known.update(map(str, _attributes(region)))
    if wanted is not None:
        if wanted not in known:
            raise DataError(
                f"no region has the attribute `{wanted}`{did_you_mean(wanted, known)}; there are {list(known)[:20]}"
            )
        return wanted
    usual = next((one for one in _USUAL for key in known if key.lower() == one), None)
    if len(known) > 1 and usual is None:
        raise DataError(f"`attribute` must say which of {list(known)[:20]} tells what a region is")
    return next((key for key in known if usual is None or key.lower() == usual), None)


def _read(
    data: Mapping[str, Any], attribute: str | None, store: ImageStore, left_out: LeftOut, unread: Counter[str]
) -> Iterator[Picture]:
    for key, entry in data.items():
        try:
            if not isinstance(entry, Mapping):
                raise EntryError("picture that is no object")
            file_name = file_name_of(entry.get("filename"), from_root=True)
            picture = Picture(file_name, size_of(store, file_name))
        except EntryError as why:
            left_out.add(label_id(entry, ("filename",), key) if isinstance(entry, Mapping) else key, why)
            continue
        about = entry.get("file_attributes")
        picture.may_have(map(_value, about.values()) if isinstance(about, Mapping) else ())
        for number, region in enumerate(_regions(entry), start=1):
            category = _value(_attributes(region).get(attribute)) if attribute else ""
            unread["attributes"] += len(_attributes(region)) > 1
            with picture.label(f"region {number}", category, left_out):
                _add(picture, region, category)
        yield picture


def _value(value: Any) -> Any:
    """What an attribute says: text, or the one box that is ticked."""
    if isinstance(value, Mapping):
        ticked = [key for key, on in value.items() if on]
        return ticked[0] if len(ticked) == 1 else None
    return value.strip() if isinstance(value, str) else value


def _add(picture: Picture, region: Any, category: Any) -> None:
    shape = region.get("shape_attributes") if isinstance(region, Mapping) else None
    if not isinstance(shape, Mapping):
        raise EntryError("region without a shape", f"a region must have `shape_attributes`, got {shown(region)}")
    assert picture.size_wh is not None
    kind = shape.get("name")
    if kind == "rect":
        numbers = as_numbers([shape.get(one) for one in ("x", "y", "width", "height")])
        if not are_numbers(numbers, 4):
            raise EntryError("rectangle that is not four finite numbers", f"got {shown(shape)}")
        x, y, w, h = numbers
        picture.add(category, corners([x, y, x + w, y + h]))
    elif kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise EntryError("polygon whose x and y are not as many", f"got {shown(shape)}")
        mask = polygons([[place for point in zip(xs, ys, strict=True) for place in point]], picture.size_wh)
        picture.add(category, None, mask)
    elif kind in ("circle", "ellipse"):
        rx, ry = (shape.get("r"),) * 2 if kind == "circle" else (shape.get("rx"), shape.get("ry"))
        theta = as_numbers([shape.get("theta", 0)])
        degrees = theta[0] * 57.29577951308232 if are_numbers(theta, 1) else 0.0
        picture.add(
            category, None, polygons(ellipse(shape.get("cx"), shape.get("cy"), rx, ry, degrees), picture.size_wh)
        )
    else:
        raise EntryError(
            "shape without an area", f"a region must be rect, polygon, circle or ellipse, got {shown(kind)}"
        )
