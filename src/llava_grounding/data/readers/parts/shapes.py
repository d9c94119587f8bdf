"""Boxes and masks as COCO's files write them, checked: clipped to the picture, of whole polygons or run lengths.

Run lengths are not unpacked. Knows no rows and no names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llava_grounding.data.readers.parts.numbers import EntryError, are_numbers, as_numbers
from llava_grounding.data.record import Segmentation
from llava_grounding.errors import DataError, shown
from llava_grounding.masks import rle_to_box

BOX_BEYOND = "bbox far beyond the image"
"""Reason for which a label is left out whose box lies for the most part outside of its picture."""
_SHARE_INSIDE = 0.25  # of a box's area, at least; boxes of things half out of the picture are clipped
_HUGE = 1e12  # pixels of all coordinates of a polygon together; beyond it drawing may overflow
_NUMBERS = {int, float}
_NO_MASK = "segmentation that is neither run lengths nor polygons"
_NO_POLYGON = "polygon that is not three or more points"
Box = tuple[float, float, float, float]


def box_from_xywh(bbox: Any, size_wh: tuple[int, int]) -> Box:
    """Corners of a COCO box, clipped to the image."""
    if type(bbox) is list and len(bbox) == 4 and set(map(type, bbox)) <= _NUMBERS:
        x, y, w, h = bbox
        if x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= size_wh[0] and y + h <= size_wh[1]:
            return float(x), float(y), float(x + w), float(y + h)  # nearly all of the millions there are
    if not are_numbers(bbox, 4) and not are_numbers(bbox := as_numbers(bbox), 4):
        raise EntryError(
            "bbox that is not four finite numbers", f"bbox must be [x, y, width, height], got {shown(bbox)}"
        )
    x, y, w, h = (float(value) for value in bbox)
    return clipped_box((x, y, x + w, y + h), size_wh)


def clipped_box(box_xyxy: Box, size_wh: tuple[int, int]) -> Box:
    """Corners, clipped to the image."""
    x0, y0, x1, y1 = box_xyxy
    if x1 <= x0 or y1 <= y0:
        raise EntryError("bbox without area", f"bbox must have an area, got corners {box_xyxy}")
    box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(size_wh[0])), min(y1, float(size_wh[1])))
    if box[2] <= box[0] or box[3] <= box[1]:
        raise EntryError("bbox outside the image", f"bbox must overlap its image of {size_wh}, got corners {box_xyxy}")
    if (box[2] - box[0]) * (box[3] - box[1]) < _SHARE_INSIDE * (x1 - x0) * (y1 - y0):
        raise EntryError(
            BOX_BEYOND, f"bbox must lie within its image of {size_wh}, but for an edge, got corners {box_xyxy}"
        )
    return box


def box_or_around(bbox: Any, mask: Segmentation | None, size_wh: tuple[int, int]) -> Box:
    """Corners of a COCO box, of the mask where there is no box or none with an area; clipped to the image."""
    if mask is None or (bbox and not _says_nothing(bbox)):
        return box_from_xywh(bbox, size_wh)
    if isinstance(mask, Mapping):
        try:
            around = rle_to_box(mask)
        except DataError as error:
            raise EntryError("broken run lengths", str(error)) from error
    else:
        assert not callable(mask)
        xs, ys = ([place for polygon in mask for place in polygon[first::2]] for first in (0, 1))
        around = np.array([min(xs), min(ys), max(xs), max(ys)], dtype=np.float64)
    if around is None:
        raise EntryError("no bbox, and a mask without a pixel")
    x0, y0, x1, y1 = around.tolist()
    return clipped_box((x0, y0, x1, y1), size_wh)


def _says_nothing(bbox: Any) -> bool:
    """Whether a box is empty, or of no width or height."""
    return isinstance(bbox, list) and len(bbox) == 4 and 0 in bbox[2:] and are_numbers(bbox)


def checked_segmentation(value: Any, size_wh: tuple[int, int]) -> Segmentation | None:
    """A COCO mask whose form is right, None where there is none. Run lengths are not unpacked: `check_dataset` does."""
    if type(value) is list and value and all(map(_is_polygon, value)):
        return value  # nearly all of the millions there are
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0]
    if value is None or value in ([], {}, [[]]):
        return None
    if isinstance(value, Mapping):
        size, counts = value.get("size"), value.get("counts")
        if not are_numbers(size, 2) or not (isinstance(counts, str | bytes) or are_numbers(counts)):
            raise EntryError(_NO_MASK, f"run lengths must have `size` and `counts`, got {shown(value)}")
        if tuple(size or ()) != size_wh[::-1]:
            raise EntryError(
                "mask of another size than its image",
                f"the size of a mask must be [height, width] = {list(size_wh[::-1])}, got {shown(size)}",
            )
        return {"size": size, "counts": counts}
    if are_numbers(value) or are_numbers(as_numbers(value)):
        value = [value]  # some tools write one polygon without the list around it
    if not isinstance(value, list | tuple) or not all(isinstance(polygon, list | tuple) for polygon in value):
        raise EntryError(_NO_MASK, f"segmentation must be polygons or run lengths, got {shown(value)}")
    if not all(map(are_numbers, value)):
        value = [as_numbers(_as_one_list(polygon)) for polygon in value]
        if not all(map(are_numbers, value)):
            raise EntryError("polygon that is not finite numbers")
    for polygon in value:
        if len(polygon) % 2:
            raise EntryError(_NO_POLYGON, f"a polygon must be [x0, y0, ...], got {shown(polygon)}")
    whole = [polygon for polygon in value if len(polygon) >= 6]  # one or two points beside them cover nothing
    if not whole:
        raise EntryError(_NO_POLYGON, f"a polygon must be [x0, y0, ...], got {shown(value[0])}")
    return whole


def _is_polygon(value: Any) -> bool:
    """Whether it is surely a polygon in COCO's flat form; what takes longer to tell is told by who asks."""
    if type(value) is not list or len(value) < 6 or len(value) % 2:
        return False
    try:
        return sum(map(abs, value)) < _HUGE  # of JSON's values, only numbers and true and false have an amount
    except (TypeError, OverflowError):
        return False


def _as_one_list(polygon: Sequence[Any]) -> Sequence[Any]:
    """A polygon written as pairs of x and y, or as objects with these, in COCO's flat form."""
    if polygon and all(isinstance(point, Mapping) and {"x", "y"} <= point.keys() for point in polygon):
        return [point[axis] for point in polygon for axis in "xy"]
    if polygon and all(isinstance(point, list | tuple) and len(point) == 2 for point in polygon):
        return [place for point in polygon for place in point]
    return polygon
