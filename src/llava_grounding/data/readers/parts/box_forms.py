"""Whether the boxes of a file are in the form that its format says, seen over the whole file.

A box in another unit, or corners where a width and height belong, are four numbers like any others: one of them tells
nothing, all of them do. Knows no reasons for which a single label is left out.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from llava_grounding.data.readers.parts.numbers import are_numbers
from llava_grounding.errors import DataError

_MOST = 0.9  # of the boxes, for the file to be taken to have another unit
_BEYOND = 1 / 3  # of boxes that could be corners, those that leave the picture if they are not
_FEW_PIXELS = 2
_UNITS = {1: "shares of the picture", 100: "percent of the picture", 1000: "thousandths of the picture"}
_ENOUGH = 10  # boxes, to tell percent and thousandths from pixels by
_BLOCK = 4096  # boxes counted at once
_HUGE = 1e12  # pixels; no box has as many
_POLYGONS = 1000  # looked at, of a file's first


class BoxForms:
    """Counts in what forms the boxes of a file could be, which should be [x, y, width, height] in pixels."""

    def __init__(self) -> None:
        self._seen = self._maybe_corners = self._beyond = self._masked = self._masked_corners = 0
        self._within = dict.fromkeys(_UNITS, 0)
        self._fractional = 0
        self._largest = 0.0
        self._boxes, self._sizes = array("d"), array("d")  # not counted yet

    def see(self, bbox: Any, size_wh: tuple[int, int], segmentation: Any = None) -> None:
        """Look at one box of a picture, and at the polygons it belongs to, as they stand in the file."""
        if type(bbox) is not list or len(bbox) != 4:
            return
        try:
            self._boxes.fromlist(bbox)
        except (TypeError, OverflowError):
            return
        self._sizes.extend(size_wh)
        if len(self._boxes) >= 4 * _BLOCK:
            self._count()
        if self._masked < _POLYGONS and segmentation:
            self._see_polygons(bbox, segmentation)

    def see_numbers(self, bbox: list[float], size_wh: tuple[int, int], segmentation: Any) -> None:
        """What `see` does, of a box that is known to be four numbers."""
        self._boxes.extend(bbox)
        self._sizes.extend(size_wh)
        if len(self._boxes) >= 4 * _BLOCK:
            self._count()
        if self._masked < _POLYGONS and segmentation:
            self._see_polygons(bbox, segmentation)

    def _see_polygons(self, bbox: list[Any], segmentation: Any) -> None:
        if not are_numbers(bbox, 4) or min(bbox[2:]) <= 0 or bbox[:2] == [0, 0]:
            return
        around = _box_around(segmentation)
        if around is not None:
            x, y, w, h = (float(value) for value in bbox)
            as_said, as_corners = _far((x, y, x + w, y + h), around), _far((x, y, w, h), around)
            self._masked += 1
            self._masked_corners += as_corners <= _FEW_PIXELS < as_said

    def _count(self) -> None:
        """Count the boxes that wait."""
        boxes, sizes = np.array(self._boxes).reshape(-1, 4), np.array(self._sizes).reshape(-1, 2)
        self._boxes, self._sizes = array("d"), array("d")
        with np.errstate(invalid="ignore", over="ignore"):
            usable = np.abs(boxes).sum(axis=1) < _HUGE  # not where one is no number, or infinite
            usable &= (sizes.min(axis=1, initial=np.inf) > _FEW_PIXELS) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        boxes, sizes = boxes[usable], sizes[usable]
        if not len(boxes):
            return
        (x, y, w, h), (width, height) = boxes.T, sizes.T
        self._seen += len(boxes)
        self._fractional += int((boxes != np.floor(boxes)).any(axis=1).sum())
        right, bottom = x + w, y + h
        farthest = np.maximum(right, bottom)
        self._largest = max(self._largest, float(farthest.max()))
        for unit in _UNITS:
            fits = (np.minimum(x, y) >= 0) & (np.maximum(farthest, np.maximum(x, y)) <= unit * 1.001)
            self._within[unit] += int((fits & (np.minimum(width, height) > 2 * unit)).sum())
        at_corner = (x == 0) & (y == 0)
        small = (w <= width) & (h <= height)
        ordered = (w > x) & (x >= 0) & (h > y) & (y >= 0) & (w <= width + 1) & (h <= height + 1)
        self._maybe_corners += int(np.where(at_corner, small, ordered).sum())
        slack_x, slack_y = np.maximum(_FEW_PIXELS, 0.02 * width), np.maximum(_FEW_PIXELS, 0.02 * height)
        self._beyond += int((~at_corner & ((right > width + slack_x) | (bottom > height + slack_y))).sum())

    def refuse(self, wanted: str = "bbox must be [x, y, width, height] in pixels") -> None:
        """Refuse the file if its boxes have another form.

        Args:
            wanted: what they should be, for the message.

        Raises:
            DataError: saying how many boxes look like what.
        """
        self._count()
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
