"""Polygons filled as masks, to the pixel as pycocotools fills them. Knows no run-length codes and no files."""

from __future__ import annotations

from collections.abc import Sequence

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
        farthest = np.abs(points).max(initial=0)
        if len(points) % 2 or len(points) < 6 or not farthest < _FARTHEST:
            raise DataError(f"a polygon must be at least three finite points x, y, got {len(points)} numbers")
        if farthest > _FARTHEST_CORNER:
            points = points.clip(-_FARTHEST_CORNER, _FARTHEST_CORNER)
        corners = (_STEPS * points + 0.5).astype(np.int64).reshape(-1, 2)
        # Only what the polygon covers is touched: a small one in a picture of 20 megapixels costs its own area.
        x0, y0 = _within(_pixel_after(corners.min(axis=0)), 0, size_wh).tolist()
        x1, y1 = _within(_pixel_after(corners.max(axis=0)), 0, size_wh).tolist()
        if x1 <= x0 or y1 <= y0:
            continue
        places = _crossings(corners, (x0, y0, x1, y1), left)
        left -= len(places)
        _set_below(mask[y0:y1, x0:x1], places)
    return mask


def _pixel_after(steps: np.ndarray) -> np.ndarray:
    """The first pixel whose centre is not before a place that is counted in steps."""
    return (steps + _STEPS // 2) // _STEPS


def _within(values: np.ndarray, low: int, high: int | tuple[int, int]) -> np.ndarray:
    """Values held within limits, as `clip` does, which takes several times as long for so few."""
    return np.minimum(np.maximum(values, low), high)


def _crossings(corners_xy: np.ndarray, box_xyxy: tuple[int, int, int, int], max_crossings: int) -> np.ndarray:
    """Where a polygon's edges cross the lines through the centres of the columns of a box of pixels, in no order.

    Between the first and the second of a column, the third and the fourth, ... lies the inside. Places are the pixels
    below, counted row by row; those below the last row are of none.
    """
    x0, y0, x1, y1 = box_xyxy
    lines, num_columns, num_flat = _edges(corners_xy, (x0, x1))
    ends = np.cumsum(num_columns)
    total = int(num_columns.sum())
    if total > max_crossings:
        raise DataError(
            f"the edges of a mask's polygons must cross at most {_MAX_CROSSINGS:,} columns of pixels, got more; "
            f"give it as a run-length code"
        )
    places = np.empty(total, dtype=np.int64)
    begin = 0
    while begin < len(ends):
        done = int(ends[begin - 1]) if begin else 0
        until = max(int(np.searchsorted(ends, done + _EDGE_CHUNK, side="right")), begin + 1)
        shift, x, y, slope = np.repeat(lines[:, begin:until], num_columns[begin:until], axis=1)
        column = shift + np.arange(done, done + len(shift))
        centre = _STEPS * column + _STEPS // 2
        row = np.empty(len(shift), dtype=np.int64)
        flat = max(num_flat - done, 0)
        row[:flat] = _flat_height(centre[:flat], x[:flat], y[:flat], slope[:flat])
        row[flat:] = _steep_height(centre[flat:], x[flat:], y[flat:], slope[flat:])
        inside = _within(_pixel_after(row), y0, y1) - y0
        places[done : done + len(row)] = inside * (x1 - x0) + column.astype(np.int64) - x0
        begin = until
    return places


def _edges(corners_xy: np.ndarray, range_x: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """A polygon's edges that cross columns of pixels in a range: those that are wider than high, then the others.

    Returns:
        (4, n): an edge's first column less all crossings of the edges before, its start x and y in steps, its slope;
        (n,) how many columns each crosses; how many crossings are of the first kind.
    """
    closed = np.concatenate((corners_xy, corners_xy[:1])).T
    start, end = closed[:, :-1], closed[:, 1:]
    first = _within(_pixel_after(np.minimum(start[0], end[0])), *range_x)
    num_columns = _within(_pixel_after(np.maximum(start[0], end[0])), *range_x) - first
    width, height = end - start
    steep = np.abs(width) < np.abs(height)
    flat_edges, steep_edges = (((num_columns > 0) & kind).nonzero()[0] for kind in (~steep, steep))
    edges = np.concatenate((flat_edges, steep_edges))
    num_columns = num_columns[edges]
    lines = np.empty((4, len(edges)))
    lines[0] = first[edges] - (np.cumsum(num_columns) - num_columns)
    lines[1:3] = np.where(np.where(steep, height, width) < 0, end, start)[:, edges]
    lines[3, : len(flat_edges)] = height[flat_edges] / width[flat_edges]
    lines[3, len(flat_edges) :] = width[steep_edges] / height[steep_edges]
    return lines, num_columns, int(num_columns[: len(flat_edges)].sum())


def _flat_height(centre: np.ndarray, x: np.ndarray, y: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Where edges that are wider than high, drawn a step to the right at a time, leave the middle of a column.

    To a step, when what is behind the point is cut off.
    """
    return y + slope * (centre + (slope < 0) - x) + 0.5


def _steep_height(centre: np.ndarray, x: np.ndarray, y: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The same of edges that are higher than wide, drawn a step down at a time."""
    is_rising = slope > 0
    step = np.ceil((centre + 0.5 - x) / slope)  # to a step, as it is rounded
    height = y + step
    for guess in (step, step - 1):
        height -= (x + slope * guess + 0.5 >= centre + 1) == is_rising
    return height


def _set_below(mask: np.ndarray, places: np.ndarray) -> None:
    """Set the pixels of a (H, W) mask that have an odd number of places in their column, down to them.

    Some rows at a time; what is set already stays so.
    """
    height, width = mask.shape
    rows = max(1, _FILL_CHUNK // width)
    is_whole = height <= rows
    places = places if is_whole else np.sort(places)
    last = np.zeros(width, dtype=np.uint8)
    for row in range(0, height, rows):
        stop = min(row + rows, height)
        within = slice(None) if is_whole else slice(*np.searchsorted(places, (row * width, stop * width)))
        odd = np.zeros((stop - row + 1, width), dtype=np.uint8)  # and a row for places below the last
        np.bitwise_xor.at(odd.reshape(-1), places[within] - row * width, 1)
        odd[0] ^= last
        reach = 1
        while reach < len(odd):  # as many passes as a height has bits, where a pass per row takes three times as long
            odd[reach:] ^= odd[:-reach]
            reach *= 2
        mask[row:stop] |= odd[:-1].view(bool)
        last = odd[-2].copy()
