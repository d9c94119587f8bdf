"""Places as Kosmos-2 names them, by two cells of a grid over the picture. Knows no files and no pictures."""

from __future__ import annotations

CELLS = 32
"""Cells along a side; a cell's index counts row by row."""


def cell_box(first: int, last: int) -> list[float]:
    """The box that two cells name, (x0, y0, x1, y1) in shares of the picture; beyond 1 for cells beyond the grid.

    It goes from the middle of one cell to that of the other, and takes a row or column whole that they share.

    Source: Kosmos-2 (arXiv:2306.14824), as its processor reads location tokens.
    """
    sides = []
    for one, other in ((first % CELLS, last % CELLS), (first // CELLS, last // CELLS)):
        low, high = (one, other + 1) if one == other else (one + 0.5, other + 0.5)
        sides.append((low / CELLS, high / CELLS))
    (x0, x1), (y0, y1) = sides
    return [x0, y0, x1, y1]
