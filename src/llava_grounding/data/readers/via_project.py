"""Projects of VIA 3 in the form of VIA 2's exports: shapes are lists of numbers there, and attributes have numbers.

Only pictures are kept; films and sound have no place in VIA 2's form. Knows nothing of records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.reading import label_id
from llava_grounding.errors import shown

_SHAPES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
}
"""Shapes of `xy` by its first number; what follows has these names in VIA 2."""
_POINTS = {5: "line", 6: "polyline", 7: "polygon", 8: "extreme_rect", 9: "extreme_circle"}
"""Names of those shapes whose numbers are points."""
_PICTURE = 2  # type of a file


def is_via_3(data: Mapping[str, Any]) -> bool:
    """Whether parsed JSON is such a project."""
    return all(isinstance(data.get(key), Mapping) for key in ("project", "attribute", "file", "view", "metadata"))


def as_via_2(data: Mapping[str, Any], left_out: LeftOut) -> dict[str, Any]:
    """Pictures with their regions; views of several files or of a film are left out."""
    entries: dict[str, Any] = {}
    for view, row in data["view"].items():
        files = row.get("fid_list") if isinstance(row, Mapping) else None
        file = data["file"].get(str(files[0])) if isinstance(files, list) and len(files) == 1 else None
        if not isinstance(file, Mapping):
            left_out.add(f"view {view}", "several images" if isinstance(files, list) and len(files) > 1 else "no image")
        elif file.get("type", _PICTURE) != _PICTURE:
            left_out.add(label_id(file, ("fname",), view), "no picture but a film or a sound")
        else:
            entries[str(view)] = {"filename": file.get("fname") or file.get("src"), "regions": []}
    for key, row in data["metadata"].items():
        about = row if isinstance(row, Mapping) else {}
        entry = entries.get(str(about.get("vid")))
        if entry is not None and about.get("xy"):
            attributes = _attributes(about.get("av"), data["attribute"])
            entry["regions"].append({"shape_attributes": _shape(about["xy"]), "region_attributes": attributes})
        elif entry is None and str(about.get("vid")) not in data["view"]:
            left_out.add(f"region {shown(key)}", "region of an unknown picture")
    return entries


def _shape(xy: Any) -> dict[str, Any]:
    kind, *numbers = xy if isinstance(xy, list) else [0]
    kind = kind if isinstance(kind, int) else 0
    if kind in _POINTS:
        xs, ys = numbers[::2], numbers[1::2]
        numeric = all(isinstance(one, int | float) for one in numbers)
        if _POINTS[kind] == "extreme_rect" and len(xs) == len(ys) == 4 and numeric:  # the outermost points of a thing
            left, top = min(xs), min(ys)
            return {"name": "rect", "x": left, "y": top, "width": max(xs) - left, "height": max(ys) - top}
        return {"name": _POINTS[kind], "all_points_x": xs, "all_points_y": ys}
    name, keys = _SHAPES.get(kind, (f"shape {shown(kind)}", ()))
    return {"name": name, **dict(zip(keys, numbers, strict=False))}


def _attributes(values: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of attributes; of options their words, of several that are ticked a mapping as in VIA 2."""
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        about = attributes.get(key)
        about = about if isinstance(about, Mapping) else {}
        options = about.get("options")
        if isinstance(options, Mapping) and options and isinstance(value, str):
            ticked = [options.get(one, one) for one in value.split(",") if one]
            value = ticked[0] if len(ticked) == 1 else dict.fromkeys(map(str, ticked), True)
        found[str(about.get("aname") or key)] = value
    return found
