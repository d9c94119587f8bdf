"""The outline of a mask as an SVG path: corners of pixels, exact, holes included. Knows no page and no colours."""

from __future__ import annotations

import numpy as np

from llava_grounding.errors import ShapeError
from llava_grounding.masks import resize_mask

_MAX_SIDE = 1024
MAX_EDGES = 20_000
"""Edges of an outline; one with more (noise, not things) is coarsened, so that a page stays small."""
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up: along the upper, right, lower, left edge

Loop = list[tuple[int, int]]


def mask_to_path(mask: np.ndarray, max_edges: int = MAX_EDGES) -> str:
    """Attributes `d` and, where the outline is coarser than the pixels, `transform` of an SVG path; "" if empty.

    Args:
        mask: (H, W) bool; the path is in its pixels, to be filled by the even-odd rule.
        max_edges: sides of pixels it may be made of, at least four.
    """
    if not mask.any():
        return ""
    coarse = _coarsened(mask, max_edges)
    path = "".join(_loop_to_path(loop) for loop in mask_to_loops(coarse))
    if coarse.shape == mask.shape:
        return f'd="{path}"'
    across, down = _scale(mask, coarse)
    return f'd="{path}" transform="scale({across:.6g} {down:.6g})"'


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """The same outline as polygons `[x0, y0, x1, y1, ...]` in pixels of the mask, to be filled by the even-odd rule."""
    if not mask.any():
        return []
    coarse = _coarsened(mask, MAX_EDGES)
    across, down = _scale(mask, coarse)
    return [[round(value, 2) for x, y in loop for value in (x * across, y * down)] for loop in mask_to_loops(coarse)]


def _scale(mask: np.ndarray, coarse: np.ndarray) -> tuple[float, float]:
    """Pixels of the mask in one of the coarser one, across and down."""
    return mask.shape[1] / coarse.shape[1], mask.shape[0] / coarse.shape[0]


def _coarsened(mask: np.ndarray, max_edges: int) -> np.ndarray:
    """The mask, coarser where its outline would be too long."""
    height, width = mask.shape
    scale = max(1.0, max(height, width) / _MAX_SIDE)
    coarse = mask
    while scale > 1 or _count_edges(coarse) > max_edges:
        size_wh = max(1, round(width / scale)), max(1, round(height / scale))
        coarse = resize_mask(mask, size_wh)
        if not coarse.any():  # too thin to survive: keep what is touched at all
            coarse = _touched(mask, size_wh)
        if _count_edges(coarse) <= max_edges:
            break
        scale *= 2
    return coarse


def mask_to_loops(mask: np.ndarray) -> list[Loop]:
    """Closed boundaries of a (H, W) bool mask as corners (x, y), outer ones clockwise, holes the other way."""
    if mask.ndim != 2:
        raise ShapeError(f"mask must be (H, W), got {mask.shape}")
    leaving = _edges(mask)
    loops = []
    while leaving:
        start = next(iter(leaving))
        loops.append(_follow(leaving, start))
    return loops


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[int]]:
    """Directions of the boundary edges that leave each pixel corner, the inside always on their right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))
    leaving: dict[tuple[int, int], list[int]] = {}
    for direction, (outside, (dx, dy)) in enumerate(zip(neighbours, starts, strict=True)):
        for y, x in np.argwhere(inside & ~outside).tolist():
            leaving.setdefault((x + dx, y + dy), []).append(direction)
    return leaving


def _follow(leaving: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> Loop:
    """Walk one loop from `start`, using up its edges; only the corners where it turns are kept."""
    corners: Loop = []
    place, heading = start, -1
    while place in leaving:
        step = leaving[place].pop()
        if not leaving[place]:
            del leaving[place]
        if step != heading:
            corners.append(place)
        place, heading = (place[0] + _STEPS[step][0], place[1] + _STEPS[step][1]), step
        if place == start:
            break
    return corners


def _loop_to_path(loop: Loop) -> str:
    x, y = loop[0]
    parts = [f"M{x} {y}"]
    for next_x, next_y in loop[1:]:
        parts.append(f"h{next_x - x}" if next_y == y else f"v{next_y - y}")
        x, y = next_x, next_y
    return "".join(parts) + "z"


def _count_edges(mask: np.ndarray) -> int:
    padded = np.pad(mask, 1)
    return int((padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum())


def _touched(mask: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    coarse = np.zeros((size_wh[1], size_wh[0]), dtype=bool)
    y, x = np.nonzero(mask)
    coarse[y * size_wh[1] // mask.shape[0], x * size_wh[0] // mask.shape[1]] = True
    return coarse
