"""Polygons filled as masks, to the pixel as pycocotools fills them. Knows no run-length codes and no files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llava_grounding.errors import DataError

_STEPS = 5  # of a pixel, in which COCO counts the corners of polygons
_FARTHEST = 1e100  # what is farther out overflows
_FARTHEST_CORNER = 2.0**40  # pixels; what is farther out is as far out as this
_EDGE_CHUNK = 2**15  # columns that edges of a polygon cross, at a time
_MAX_CROSSINGS = 2**23
_FILL_CHUNK = 2**20  # pixels that are set at a time


def polygons_to_mask(polygons: Sequence[Sequence[float] | np.ndarray], size_wh: tuple[int, int]) -> np.ndarray:
    """A (H, W) mask of the pixels whose centre lies in any of the polygons, each filled by the even-odd rule.

    To the pixel what pycocotools makes of them: corners are rounded to fifths of a pixel, and edges are drawn between
    them in steps of that size.

    Args:
        polygons: each a flat list x0, y0, x1, y1, ... as COCO writes it, or (n, 2) points; in pixels.
        size_wh: size of the mask; what lies outside is cut off.

    Raises:
        DataError: if one is no polygon, or their edges cross more columns of pixels than those of any things do.
    """
    width, height = size_wh
    mask = np.zeros((height, width), dtype=bool)
    left = _MAX_CROSSINGS
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1)
        if len(points) % 2 or len(points) < 6 or not (np.abs(points) < _FARTHEST).all():
            raise DataError(f"a polygon must be at least three finite points x, y, got {len(points)} numbers")
        corners = (_STEPS * points.clip(-_FARTHEST_CORNER, _FARTHEST_CORNER) + 0.5).astype(np.int64).reshape(-1, 2)
        # Only what the polygon covers is touched: a small one in a picture of 20 megapixels costs its own area.
        x0, y0 = _pixel_after(corners.min(axis=0)).clip(0, size_wh).tolist()
        x1, y1 = _pixel_after(corners.max(axis=0)).clip(0, size_wh).tolist()
        if x1 <= x0 or y1 <= y0:
            continue
        places = _crossings(corners, (x0, y0, x1, y1), left)
        left -= len(places)
        _set_below(mask[y0:y1, x0:x1], places)
    return mask


def _pixel_after(steps: np.ndarray) -> np.ndarray:
    """The first pixel whose centre is not before a place that is counted in steps."""
    return (steps + _STEPS // 2) // _STEPS


def _crossings(corners_xy: np.ndarray, box_xyxy: tuple[int, int, int, int], max_crossings: int) -> np.ndarray:
    """Where a polygon's edges cross the lines through the centres of the columns of a box of pixels, in no order.

    Between the first and the second of a column, the third and the fourth, ... lies the inside. Places are the pixels
    below, counted row by row; those below the last row are of none.
    """
    x0, y0, x1, y1 = box_xyxy
    start, end = corners_xy, np.roll(corners_xy, -1, axis=0)
    sides = np.abs(end - start)
    steep = sides[:, 0] < sides[:, 1]
    is_back = np.where(steep, start[:, 1] > end[:, 1], start[:, 0] > end[:, 0])[:, None]
    start, end = np.where(is_back, end, start), np.where(is_back, start, end)
    first = _pixel_after(np.minimum(start[:, 0], end[:, 0])).clip(x0, x1)
    num_columns = _pixel_after(np.maximum(start[:, 0], end[:, 0])).clip(x0, x1) - first
    ends = np.cumsum(num_columns)
    if ends[-1] > max_crossings:
        raise DataError(
            f"the edges of a mask's polygons must cross at most {_MAX_CROSSINGS:,} columns of pixels, got more; "
            f"give it as a run-length code"
        )
    places = np.empty(ends[-1], dtype=np.int64)
    begin = 0
    while begin < len(start):
        done = int(ends[begin - 1]) if begin else 0
        until = max(int(np.searchsorted(ends, done + _EDGE_CHUNK, side="right")), begin + 1)
        edge = begin + np.repeat(np.arange(until - begin), num_columns[begin:until])
        column = np.arange(len(edge)) - (ends[edge] - num_columns[edge] - done) + first[edge]
        row = np.empty_like(column)
        for kind, height_of in ((steep[edge], _steep_height), (~steep[edge], _flat_height)):
            (start_x, start_y), (end_x, end_y) = start[edge[kind]].T, end[edge[kind]].T
            centre = _STEPS * column[kind] + _STEPS // 2
            row[kind] = height_of(centre, start_x, start_y, end_x - start_x, end_y - start_y)
        places[done : done + len(edge)] = (_pixel_after(row).clip(y0, y1) - y0) * (x1 - x0) + column - x0
        begin = until
    return places


def _flat_height(centre: np.ndarray, x: np.ndarray, y: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Where edges that are wider than high, drawn a step to the right at a time, leave the middle of a column."""
    slope = height / width
    steps = [(y + slope * (place - x) + 0.5).astype(np.int64) for place in (centre, centre + 1)]
    return np.minimum(*steps)


def _steep_height(
    centre: np.ndarray, x: np.ndarray, y: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """The same of edges that are higher than wide, drawn a step down at a time."""
    slope = width / height

    def is_past(step: np.ndarray) -> np.ndarray:
        return ((x + slope * step + 0.5).astype(np.int64) > centre) == (slope > 0)

    guess = np.ceil((centre + 0.5 - x) / slope).astype(np.int64)  # to a step, as it is rounded
    first = np.where(is_past(guess), guess - is_past(guess - 1), guess + 1)
    return y + first - 1


def _set_below(mask: np.ndarray, places: np.ndarray) -> None:
    """Set the pixels of a (H, W) mask that have an odd number of places in their column, down to them.

    Some rows at a time; what is set already stays so.
    """
    height, width = mask.shape
    step = max(1, _FILL_CHUNK // width)
    places = np.sort(places) if height > step else places
    last = np.zeros(width, dtype=np.uint8)
    buffer = np.empty((min(step, height), width), dtype=np.uint8)
    for row in range(0, height, step):
        stop = min(row + step, height)
        low, high = row * width, stop * width
        within = slice(*np.searchsorted(places, (low, high))) if height > step else places < high
        odd = buffer[: stop - row]
        odd[:] = 0
        odd[0] = last
        np.bitwise_xor.at(odd.reshape(-1), places[within] - low, 1)
        for above, line in pairwise(odd):  # six times faster than `accumulate`
            np.bitwise_xor(line, above, out=line)
        mask[row:stop] |= odd.view(bool)
        last = odd[-1].copy()
