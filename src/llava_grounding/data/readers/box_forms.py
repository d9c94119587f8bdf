"""Whether the boxes of a file are in the form that its format says, seen over the whole file.

A box in another unit, or corners where a width and height belong, are four numbers like any others: one of them tells
nothing, all of them do. Knows no reasons for which a single label is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llava_grounding.data.readers.reading import are_numbers
from llava_grounding.errors import DataError

_MOST = 0.9  # of the boxes, for the file to be taken to have another unit
_BEYOND = 1 / 3  # of boxes that could be corners, those that leave the picture if they are not
_FEW_PIXELS = 2
_UNITS = {1: "shares of the picture", 100: "percent of the picture", 1000: "thousandths of the picture"}
_ENOUGH = 10  # boxes, to tell percent and thousandths from pixels by
_POLYGONS = 1000  # looked at, of a file's first


class BoxForms:
    """Counts in what forms the boxes of a file could be, which should be [x, y, width, height] in pixels."""

    def __init__(self) -> None:
        self._seen = self._maybe_corners = self._beyond = self._masked = self._masked_corners = 0
        self._within = dict.fromkeys(_UNITS, 0)
        self._fractional = 0
        self._largest = 0.0

    def see(self, bbox: Any, size_wh: tuple[int, int], segmentation: Any = None) -> None:
        """Look at one box of a picture, and at the polygons it belongs to, as they stand in the file."""
        if not are_numbers(bbox, 4) or min(size_wh) <= _FEW_PIXELS:
            return
        x, y, w, h = (float(value) for value in bbox)
        if w <= 0 or h <= 0:
            return
        self._seen += 1
        width, height = size_wh
        fractional = any(value != int(value) for value in (x, y, w, h))
        self._fractional += fractional
        self._largest = max(self._largest, x + w, y + h)
        for unit in _UNITS:
            fits = min(x, y) >= 0 and max(x + w, y + h, x, y) <= unit * 1.001
            self._within[unit] += fits and min(size_wh) > 2 * unit
        if x == y == 0:
            self._maybe_corners += w <= width and h <= height
            return
        self._maybe_corners += w > x >= 0 and h > y >= 0 and w <= width + 1 and h <= height + 1
        slack_x, slack_y = (max(_FEW_PIXELS, 0.02 * side) for side in size_wh)
        self._beyond += x + w > width + slack_x or y + h > height + slack_y
        if self._masked < _POLYGONS and (around := _box_around(segmentation)) is not None:
            as_said, as_corners = _far((x, y, x + w, y + h), around), _far((x, y, w, h), around)
            self._masked += 1
            self._masked_corners += as_corners <= _FEW_PIXELS < as_said

    def refuse(self) -> None:
        """Refuse the file if its boxes have another form.

        Raises:
            DataError: saying how many boxes look like what.
        """
        wanted = "bbox must be [x, y, width, height] in pixels"
        for unit, words in _UNITS.items():
            count, sure = self._within[unit], unit == 1 or (self._seen >= _ENOUGH and self._largest > _MOST * unit)
            if count and count >= _MOST * self._seen and sure and self._fractional > (0 if unit == 1 else count / 2):
                raise DataError(f"{wanted}, but {count} of {self._seen} lie within 0 to {unit} and seem to be {words}")
        masked = self._masked_corners > self._masked / 2
        if masked or (self._beyond and self._maybe_corners == self._seen and self._beyond >= _BEYOND * self._seen):
            count, of = (self._masked_corners, self._masked) if masked else (self._maybe_corners, self._seen)
            why = "fit their polygons only" if masked else "fit into their pictures only"
            raise DataError(f"{wanted}, but {count} of {of} {why} as corners [x0, y0, x1, y1]")


def possible_unit(count: int, largest: float, least_side: int) -> str | None:
    """What boxes may be in instead of pixels, though pixels are possible; None where nothing speaks for it.

    Args:
        count: of boxes.
        largest: coordinate of all their corners.
        least_side: of all their pictures, in pixels.
    """
    fits = (unit for unit in _UNITS if unit > 1 and _MOST * unit < largest <= unit * 1.001 and least_side > 2 * unit)
    return _UNITS[unit] if count >= _ENOUGH and (unit := next(fits, None)) else None


def _box_around(segmentation: Any) -> tuple[float, float, float, float] | None:
    """Corners around polygons; None where there are none."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    if not all(are_numbers(one) and len(one) >= 6 and len(one) % 2 == 0 for one in segmentation):
        return None
    points = np.concatenate([np.asarray(one, dtype=np.float64).reshape(-1, 2) for one in segmentation])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _far(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Pixels by which the corners of two boxes differ at most."""
    return max(abs(one - two) for one, two in zip(box, other, strict=True))
