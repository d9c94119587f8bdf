"""Binary masks: area, overlap, bounding box, resizing, and COCO's run-length codes in plain NumPy.

The codes equal pycocotools byte for byte. Knows no images, no files and no boxes but the one around a mask; polygons
are in `polygons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import index
from typing import Any

import numpy as np
from PIL import Image

from llava_grounding.errors import DataError, ShapeError
from llava_grounding.run_lengths import are_as_written, counts_to_text, read_texts, running_sums, text_to_counts

MAX_PIXELS = 2**32 - 1
"""COCO counts in 32 bits."""

MAX_UNPACKED_PIXELS = 2**28
"""Pixels of a code whose size nobody checked against a picture: a few characters can ask for gigabytes."""

_PAIR_CHUNK = 2**18  # runs of pairs of codes at a time


def mask_area(mask: np.ndarray) -> int:
    """Number of pixels in a (H, W) mask."""
    return int(np.count_nonzero(_as_mask(mask)))


def mask_to_box(mask: np.ndarray) -> np.ndarray | None:
    """The smallest box around a (H, W) mask, half-open xyxy, (4,) float64; None if the mask is empty."""
    mask = _as_mask(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def resize_mask(mask: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A (H, W) mask at another size: pixels of which at least half is covered, smoothed between pixel centres."""
    mask = _as_mask(mask)
    if 0 in mask.shape or min(size_wh) < 1:
        raise ShapeError(f"masks must have at least one pixel to be resized, got {mask.shape} to (w, h) = {size_wh}")
    if mask.shape == (size_wh[1], size_wh[0]):
        return mask.copy()
    coverage = Image.fromarray(mask.astype(np.float32))
    return np.asarray(coverage.resize(size_wh, Image.Resampling.BILINEAR)) >= 0.5


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length code of a (H, W) mask: `{"size": [H, W], "counts": "..."}`.

    Runs go down the columns and begin with a run of zeros, which may have no length.
    """
    mask = _as_mask(mask)
    height, width = mask.shape
    return {"size": [height, width], "counts": counts_to_text(_counts_of(mask))}


def encode_rle_at(part: np.ndarray, left_top: tuple[int, int], size_hw: tuple[int, int]) -> dict[str, Any]:
    """What `encode_rle` gives for a (H, W) mask of which a part (h, w) is given, the rest being empty; costs the part.

    Args:
        left_top: column and row of the part's first pixel, within the mask.
        size_hw: of the mask.
    """
    part, (left, top), (height, width) = _as_mask(part), left_top, size_hw
    if min(left, top) < 0 or top + part.shape[0] > height or left + part.shape[1] > width:
        raise ShapeError(f"a part of {part.shape} at {left_top} must lie within a mask of {size_hw}")
    columns = np.zeros((part.shape[1], part.shape[0] + 2), dtype=bool)
    columns[:, 1:-1] = part.T
    column, row = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), part.shape[0] + 1)
    places = (left + column) * height + top + row  # where a run starts, where it ends, ...
    counts = np.diff(np.concatenate(([0], places, [height * width])))
    return {"size": [height, width], "counts": counts_to_text(_joined(counts))}


def decode_rle(rle: Mapping[str, Any], size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """The (H, W) bool mask of a COCO run-length code; `counts` may be text, bytes or a plain list of run lengths.

    Args:
        size_hw: what the size must be, compared before anything is unpacked. Without it at most `MAX_UNPACKED_PIXELS`.

    Raises:
        DataError: if the code is damaged, its runs do not add up to exactly H x W pixels, or it has another size.
    """
    (height, width), counts = _read(rle, size_hw)
    if size_hw is None and height * width > MAX_UNPACKED_PIXELS:
        raise DataError(
            f"run-length code must have at most {MAX_UNPACKED_PIXELS} pixels to be unpacked, got {height} x {width}"
        )
    runs = np.zeros(len(counts), dtype=bool)
    runs[1::2] = True
    return np.ascontiguousarray(np.repeat(runs, counts).reshape(width, height).T)


def rle_area(rle: Mapping[str, Any]) -> int:
    """Number of pixels in the mask of a COCO run-length code, without unpacking it."""
    _, counts = _read(rle)
    return int(counts[1::2].sum())


def rle_to_box(rle: Mapping[str, Any]) -> np.ndarray | None:
    """What `mask_to_box` gives for the mask of a COCO run-length code, without unpacking it."""
    runs = MaskRuns([rle])
    return runs.boxes_xyxy[0] if runs.areas[0] else None


class MaskRuns:
    """The set runs of many COCO run-length codes, one after the other: overlaps of masks without unpacking them.

    Args:
        codes: as `decode_rle` takes them; those whose counts are text are read together, many times faster.

    Raises:
        DataError: if a code is damaged.

    Attributes:
        sizes: (n, 2) height and width.
        areas: (n,) pixels that are set.
        num_runs: (n,) set runs of each, those without length left out.
        first: (n,) where its runs begin.
        starts, ends: of all runs, counted down the columns of their own mask.
    """

    def __init__(self, codes: Sequence[Mapping[str, Any]]) -> None:
        self.sizes, begin, unset, is_set = _read_many(codes)
        ends = running_sums(unset + is_set, begin)
        kept = is_set > 0
        self.ends = ends[kept]
        self.starts = self.ends - is_set[kept]
        self.areas = np.add.reduceat(is_set, begin)
        self.num_runs = np.add.reduceat(kept, begin, dtype=np.int64)
        self.first = np.cumsum(self.num_runs) - self.num_runs

    def __len__(self) -> int:
        return len(self.areas)

    @cached_property
    def boxes_xyxy(self) -> np.ndarray:
        """(n, 4) float64, the smallest box around each, as `mask_to_box` gives it; zeros around an empty one."""
        boxes = np.zeros((len(self), 4))
        full = np.flatnonzero(self.areas)
        if not len(full):
            return boxes
        begin = self.first[full]
        heights = np.repeat(self.sizes[full, 0], self.num_runs[full])
        # Floats divide faster, and 53 bits are enough for the quotient of two numbers of 32.
        column = (self.starts / heights).astype(np.int64)
        top = self.starts - column * heights
        bottom = top + (self.ends - self.starts)
        whole = bottom > heights  # runs over the foot of one column into the head of the next
        left, right = column[begin], (self.ends[begin + self.num_runs[full] - 1] - 1) // self.sizes[full, 0] + 1
        low = np.minimum.reduceat(np.where(whole, 0, top), begin)
        high = np.maximum.reduceat(np.where(whole, heights, bottom), begin)
        boxes[full] = np.stack((left, low, right, high), axis=1)
        return boxes

    def pair_iou(self, others: MaskRuns, pairs: np.ndarray) -> np.ndarray:
        """Intersection over union of pairs, (k,) float64. Two empty masks have 0.

        Args:
            pairs: (k, 2) whole numbers: which of these masks with which of `others`.

        Raises:
            ShapeError: if the two of a pair have different sizes.
        """
        rows, columns = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
        if (self.sizes[rows] != others.sizes[columns]).any():
            raise ShapeError("masks of a pair must have the same height and width")
        shared = np.zeros(len(rows))
        ends = np.cumsum(self.num_runs[rows] + others.num_runs[columns])
        begin = 0
        while begin < len(rows):
            done = int(ends[begin - 1]) if begin else 0
            until = max(int(np.searchsorted(ends, done + _PAIR_CHUNK, side="right")), begin + 1)
            part = slice(begin, until)
            shared[part] = _intersections(self, others, rows[part], columns[part])
            begin = until
        return shared / np.maximum(self.areas[rows] + others.areas[columns] - shared, 1)

    def _ends_and_starts(self, rows: np.ndarray, extent: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        """Twice the ends, and twice the starts plus one, of the runs of `rows` in order, each row `extent` farther."""
        num_runs = self.num_runs[rows]
        begin = np.cumsum(num_runs) - num_runs
        run = np.arange(num_runs.sum()) + np.repeat(self.first[rows] - begin, num_runs)
        place = np.repeat(np.arange(len(rows), dtype=dtype) * dtype(2 * extent), num_runs)
        ends = self.ends[run].astype(dtype) * dtype(2) + place
        return ends, self.starts[run].astype(dtype) * dtype(2) + (place + dtype(1))


def _intersections(first: MaskRuns, second: MaskRuns, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Pixels that the masks of each pair share: where both have begun a run and neither has ended it."""
    extent = int(first.sizes[rows].prod(axis=1).max(initial=0)) + 1
    dtype = np.int32 if 2 * extent * len(rows) < 2**31 else np.int64  # the shorter is sorted in half the time
    pairs = (first._ends_and_starts(rows, extent, dtype), second._ends_and_starts(columns, extent, dtype))
    # Four rising parts are merged, ten times faster than any order is sorted.
    events = np.sort(np.concatenate((*pairs[0], *pairs[1])), kind="stable")
    if not len(events):
        return np.zeros(len(rows))
    # How many runs have begun at each place and not ended: at most two.
    depth = np.cumsum((events.astype(np.int8) & 1) * 2 - 1, dtype=np.int8)
    both = np.flatnonzero(depth == 2)
    position = events[both] >> 1
    shared = (events[both + 1] >> 1) - position
    return np.bincount(position // dtype(extent), weights=shared, minlength=len(rows))


def _read_many(codes: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes as pairs of an unset and a set run, the last of which may have no length; those in text are read together.

    Returns:
        Sizes (n, 2), where the pairs of each code begin (n,), and the lengths of all unset and all set runs.
    """
    if (together := _read_together(codes)) is not None:
        return together
    read = [_read(code) for code in codes]  # one after the other, to say what is wrong with which
    pairs = np.array([len(counts) // 2 + 1 for _, counts in read], dtype=np.int64)
    counts = np.concatenate([np.zeros(0, dtype=np.int64), *(np.append(c, [0] * (2 - len(c) % 2)) for _, c in read)])
    sizes_hw = np.array([size for size, _ in read], dtype=np.int64).reshape(-1, 2)
    return sizes_hw, np.cumsum(pairs) - pairs, counts[0::2], counts[1::2]


def _read_together(codes: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """What `_read_many` gives for codes in text; None where one is damaged or has no text."""
    given = [code.get("counts") if isinstance(code, Mapping) else None for code in codes]
    texts = [text for text in given if isinstance(text, str) and text.isascii() and text]
    if not codes or len(texts) < len(codes):
        return None
    sizes = [tuple(code.get("size") or ()) for code in codes]
    if not all(len(size) == 2 and {*map(type, size)} == {int} and min(size) >= 0 for size in sizes):
        return None
    if max(max(size[0] * size[1], *size) for size in sizes) > MAX_PIXELS:
        return None
    sizes_hw = np.array(sizes, dtype=np.int64)
    try:
        found = read_texts(texts, sizes_hw.prod(axis=1))
    except DataError:
        return None  # one by one the fault gets its words
    return None if found is None else (sizes_hw, *found)


def check_rles(codes: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]) -> list[dict[str, Any]]:
    """What `check_rle` gives for each of many codes, many times faster where they are as `encode_rle` writes them."""
    together = _read_together(codes)
    if together is not None:
        sizes, *runs = together
        if (sizes == size_hw).all() and are_as_written([code["counts"] for code in codes], (runs[0], runs[1], runs[2])):
            return [{"size": list(code["size"]), "counts": code["counts"]} for code in codes]
    return [check_rle(code, size_hw) for code in codes]


def check_rle(rle: Mapping[str, Any], size_hw: tuple[int, int] | None = None) -> dict[str, Any]:
    """The code in its compressed form, read and written anew without unpacking it.

    Raises:
        DataError: if it is damaged, or of another size than `size_hw` where that is given.
    """
    (height, width), counts = _read(rle, size_hw)
    return {"size": [height, width], "counts": counts_to_text(_joined(counts))}


def _joined(counts: np.ndarray) -> np.ndarray:
    """Run lengths as `encode_rle` writes them: none is 0 but the first, so what lies on both sides of one is joined."""
    kept = np.flatnonzero(counts)
    is_set = kept % 2
    first = np.flatnonzero(np.diff(is_set, prepend=-1))
    joined = np.add.reduceat(counts[kept], first) if len(kept) else np.zeros(1, dtype=np.int64)
    return np.concatenate(([0], joined)) if len(kept) and is_set[0] else joined


def _as_mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ShapeError(f"mask must be (H, W), got {mask.shape}")
    return mask if mask.dtype == np.bool_ else mask != 0


def _counts_of(mask: np.ndarray) -> np.ndarray:
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts_set = pixels[:1].astype(bool).nonzero()[0]  # a first run of zeros without length
    return np.diff(np.concatenate(([0], starts_set, changes, [pixels.size])))


def _read(rle: Mapping[str, Any], size_hw: tuple[int, int] | None = None) -> tuple[tuple[int, int], np.ndarray]:
    """Size (H, W), `size_hw` where that is given, and checked run lengths, int64, of a COCO run-length code."""
    try:
        stated, counts = rle["size"], rle["counts"]
        height, width = (index(side) for side in stated)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError('run-length code must be {"size": [h, w], "counts": ...} with whole numbers h and w') from error
    num_pixels = height * width
    if min(height, width) < 0 or num_pixels > MAX_PIXELS:
        got = f"{height} x {width}" if max(abs(height), abs(width)) < 10**12 else "far more"  # digits without end
        raise DataError(f"run-length code must have a size of 0 to {MAX_PIXELS} pixels, got {got}")
    if size_hw is not None and (height, width) != tuple(size_hw):
        wanted = f"{size_hw[0]} x {size_hw[1]}"
        raise DataError(
            f"run-length code must have the height and width of its image, {wanted}, got {height} x {width}"
        )
    runs = text_to_counts(counts) if isinstance(counts, str | bytes) else _list_to_counts(counts)
    if (runs < 0).any():
        raise DataError(f"run-length code must have no negative run, got {runs.min()}")
    if (runs > num_pixels).any() or runs.sum() != num_pixels:
        described = sum(runs.tolist())
        raise DataError(f"run-length code must describe {height} x {width} = {num_pixels} pixels, got {described}")
    return (height, width), runs


def _list_to_counts(counts: Any) -> np.ndarray:
    try:
        return np.array([index(count) for count in counts], dtype=np.int64)
    except (TypeError, OverflowError) as error:
        raise DataError(
            f"run-length code must have text or whole numbers as counts, got {type(counts).__name__}"
        ) from error
