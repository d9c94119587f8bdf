"""An outline, filled again, is the mask."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llava_grounding.errors import ShapeError
from llava_grounding.polygons import polygons_to_mask
from llava_grounding.render.outline import mask_to_loops, mask_to_path


def path_to_loops(path: str) -> list[list[tuple[int, int]]]:
    loops = []
    for part in path.removesuffix("z").split("z"):
        start = re.match(r"M(-?\d+) (-?\d+)", part)
        assert start is not None
        x, y = int(start[1]), int(start[2])
        loop = [(x, y)]
        for axis, step in re.findall(r"([hv])(-?\d+)", part[start.end() :]):
            x, y = (x + int(step), y) if axis == "h" else (x, y + int(step))
            loop.append((x, y))
        loops.append(loop)
    return loops


def filled(loops: list[list[tuple[int, int]]], shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for loop in loops:  # even-odd: each loop flips what it encloses
        mask ^= polygons_to_mask([np.array(loop)], (shape[1], shape[0]))
    return mask


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_the_outline_of_any_mask_encloses_exactly_its_pixels(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(filled(mask_to_loops(mask), mask.shape), mask)
    if mask.any():
        attributes = re.fullmatch(r'd="([^"]+)"', mask_to_path(mask))
        assert attributes is not None
        np.testing.assert_array_equal(filled(path_to_loops(attributes[1]), mask.shape), mask)


def test_a_ring_has_its_hole() -> None:
    mask = np.ones((5, 7), dtype=bool)
    mask[2, 3] = False
    outer, hole = sorted(mask_to_loops(mask))
    assert set(outer) == {(0, 0), (7, 0), (7, 5), (0, 5)}
    assert set(hole) == {(3, 2), (4, 2), (4, 3), (3, 3)}


def test_straight_edges_have_no_corners_between() -> None:
    assert mask_to_path(np.ones((300, 400), dtype=bool)) == 'd="M0 0h400v300h-400z"'


def test_an_empty_mask_has_no_outline() -> None:
    assert mask_to_path(np.zeros((3, 4), dtype=bool)) == ""
    assert mask_to_loops(np.zeros((3, 4), dtype=bool)) == []


def test_a_large_mask_is_traced_coarser_and_scaled_back() -> None:
    mask = np.zeros((3000, 4096), dtype=bool)
    mask[1000:2000, 1024:2048] = True
    assert mask_to_path(mask) == 'd="M256 250h256v250h-256z" transform="scale(4 4)"'


def test_noise_stays_small() -> None:
    noise = np.random.default_rng(0).random((800, 800)) > 0.5
    assert len(mask_to_path(noise)) < 200_000


def test_a_hairline_of_a_huge_mask_does_not_vanish() -> None:
    mask = np.zeros((4000, 4000), dtype=bool)
    mask[1234] = True
    assert 'd="M0 ' in mask_to_path(mask)


def test_a_mask_of_three_axes_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"mask must be \(H, W\), got \(1, 2, 3\)"):
        mask_to_loops(np.zeros((1, 2, 3), dtype=bool))
