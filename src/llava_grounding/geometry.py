"""Box formats and overlaps, EXIF orientations, and `Letterbox`: the record that maps to and from original pixels.

Coordinates are continuous: pixel i covers [i, i + 1), so a box is half-open and the image is [0, width] x [0, height].
Box functions take NumPy arrays or torch tensors and give the same kind back. Knows no files and no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from llava_grounding.errors import ShapeError
from llava_grounding.image_headers import ON_ITS_SIDE

Array = TypeVar("Array", bound=Any)
"""A NumPy array or a torch tensor; whatever goes in comes out."""

SizeWH = tuple[int, int]
_STILL = 1e-6  # pixels: shorter ways along an axis are none


def box_cxcywh_to_xyxy(boxes_cxcywh: Array) -> Array:
    """Corners of (..., 4) boxes given by centre and size."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return _join(centre - size / 2, centre + size / 2)


def box_xyxy_to_cxcywh(boxes_xyxy: Array) -> Array:
    """Centre and size of (..., 4) boxes given by corners."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return _join((low + high) / 2, high - low)


def box_xyxy_to_xywh(boxes_xyxy: Array) -> Array:
    """Corner and size, as COCO writes boxes, of (..., 4) boxes given by corners."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return _join(low, high - low)


def clip_boxes_xyxy(boxes_xyxy: Array, size_wh: SizeWH) -> Array:
    """The part of each (..., 4) box inside the image; a box wholly outside keeps no area."""
    width, height = size_wh
    x, y = boxes_xyxy[..., 0::2].clip(0, width), boxes_xyxy[..., 1::2].clip(0, height)
    return _namespace(boxes_xyxy).stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1)


def box_area(boxes_xyxy: Array) -> Array:
    """Area of (..., 4) boxes; 0 where the corners are in the wrong order."""
    size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clip(0)
    return size[..., 0] * size[..., 1]


def box_iou(boxes_xyxy: Array, others_xyxy: Array) -> Array:
    """Intersection over union of each (n, 4) box with each (m, 4) other, as (n, m); 0 for two boxes without area."""
    for name, boxes in (("boxes_xyxy", boxes_xyxy), ("others_xyxy", others_xyxy)):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ShapeError(f"{name} must be (n, 4), got {tuple(boxes.shape)}")
    return _ratio(*_intersection_and_union(boxes_xyxy[:, None], others_xyxy[None]))


def generalized_iou(boxes_xyxy: Array, others_xyxy: Array) -> Array:
    """IoU less the share of the common hull that neither box covers, in [-1, 1], of (..., 4) boxes that broadcast.

    Two boxes without area give 0 and no gradient.

    Source: Generalized Intersection over Union (arXiv:1902.09630).
    """
    xp = _namespace(boxes_xyxy)
    intersection, union = _intersection_and_union(boxes_xyxy, others_xyxy)
    low = xp.minimum(boxes_xyxy[..., :2], others_xyxy[..., :2])
    high = xp.maximum(boxes_xyxy[..., 2:], others_xyxy[..., 2:])
    hull = box_area(_join(low, high))
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def _intersection_and_union(boxes_xyxy: Array, others_xyxy: Array) -> tuple[Array, Array]:
    """Areas of the intersection and the union of (..., 4) boxes that broadcast."""
    xp = _namespace(boxes_xyxy)
    low = xp.maximum(boxes_xyxy[..., :2], others_xyxy[..., :2])
    high = xp.minimum(boxes_xyxy[..., 2:], others_xyxy[..., 2:])
    intersection = box_area(_join(low, high))
    return intersection, box_area(boxes_xyxy) + box_area(others_xyxy) - intersection


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, 0 where whole is 0, with a finite gradient there."""
    empty = whole <= 0
    return _namespace(part).where(empty, part * 0, part / (whole + empty))


def _join(first: Array, second: Array) -> Array:
    return _namespace(first).concatenate((first, second), -1)


def _namespace(array: Any) -> ModuleType:
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def clip_stroke(points_xy: np.ndarray, size_wh: SizeWH, margin: float = 0.0) -> list[np.ndarray]:
    """The parts of the line through (n, 2) points that lie inside an image, or no farther out than `margin` pixels.

    A pen walks along a line pixel by pixel, so one that leads far out must be cut before it is drawn. What is inside
    keeps its points as they are.

    Returns:
        (m, 2) points of each part, in order; a single point is a part of its own.
    """
    points = np.asarray(points_xy, dtype=np.float64)
    low, high = -margin, np.asarray(size_wh, dtype=np.float64) + margin
    if len(points) == 1:
        return [points] if bool(((points >= low) & (points <= high)).all()) else []
    start, way = points[:-1], np.diff(points, axis=0)
    still = np.abs(way) < _STILL
    outside = still & ((start < low) | (start > high))
    length = np.where(still, 1.0, way)
    edges = np.stack(((low - start) / length, (high - start) / length))  # where it crosses them, in shares of the way
    enter = np.where(still, 0.0, edges.min(axis=0)).max(axis=1).clip(min=0)
    leave = np.where(still, 1.0, edges.max(axis=0)).min(axis=1).clip(max=1)
    parts: list[list[np.ndarray]] = []
    reached = -1  # the point at which the last part ends
    for k in np.flatnonzero((enter <= leave) & ~outside.any(axis=1)).tolist():
        if reached != k or enter[k] > 0:
            parts.append([start[k] + way[k] * enter[k]])
        parts[-1].append(points[k + 1] if leave[k] == 1 else start[k] + way[k] * leave[k])
        reached = k + 1 if leave[k] == 1 else -1
    return [np.array(part) for part in parts]


def oriented_size(size_wh: SizeWH, orientation: int) -> SizeWH:
    """Size of the image as shown, from its size as stored; an EXIF orientation outside 1 to 8 counts as 1."""
    width, height = size_wh
    return (height, width) if orientation in ON_ITS_SIDE else (width, height)


@dataclass(frozen=True)
class Letterbox:
    """How an image lies on the canvas the model sees: resized to `content_size_wh`, top left, padded right and below.

    Rounding the content to whole pixels makes the scales of the two axes differ a little, so each is exact for itself.

    Args:
        image_size_wh: the original, in pixels, after EXIF orientation.
        content_size_wh: the resized image, in pixels of the canvas.
        canvas_size_wh: content and padding.
    """

    image_size_wh: SizeWH
    content_size_wh: SizeWH
    canvas_size_wh: SizeWH

    def __post_init__(self) -> None:
        for name in ("image_size_wh", "content_size_wh", "canvas_size_wh"):
            width, height = getattr(self, name)
            object.__setattr__(self, name, (int(width), int(height)))
            if width < 1 or height < 1:
                raise ShapeError(f"{name} must be at least (1, 1) pixels, got ({width}, {height})")
        if any(np.greater(self.content_size_wh, self.canvas_size_wh)):
            raise ShapeError(f"content_size_wh {self.content_size_wh} must fit canvas_size_wh {self.canvas_size_wh}")

    @classmethod
    def fit(cls, image_size_wh: SizeWH, canvas_size_wh: SizeWH) -> Letterbox:
        """The largest content of the image's shape that fits the canvas, each side rounded, at least one pixel."""
        (width, height), (canvas_w, canvas_h) = image_size_wh, canvas_size_wh
        if min(width, height) < 1:
            raise ShapeError(f"image_size_wh must be at least (1, 1) pixels, got ({width}, {height})")
        scale = min(canvas_w / width, canvas_h / height)
        content = (_round_within(width * scale, canvas_w), _round_within(height * scale, canvas_h))
        return cls(image_size_wh, content, canvas_size_wh)

    @property
    def scale_xy(self) -> np.ndarray:
        """Canvas pixels per image pixel, (2,) float64."""
        return np.divide(self.content_size_wh, self.image_size_wh)

    def points_to_canvas(self, points_xy: np.ndarray) -> np.ndarray:
        """(..., 2) points of the image, on the canvas."""
        return np.asarray(points_xy, dtype=np.float64) * self.scale_xy

    def boxes_to_canvas(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """(..., 4) boxes of the image, on the canvas."""
        return np.asarray(boxes_xyxy, dtype=np.float64) * np.tile(self.scale_xy, 2)

    def boxes_to_image(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """(..., 4) boxes of the canvas, in the image; not clipped to it."""
        return np.asarray(boxes_xyxy, dtype=np.float64) / np.tile(self.scale_xy, 2)

    def norm_cxcywh_to_image(self, boxes_cxcywh_norm: np.ndarray) -> np.ndarray:
        """(..., 4) boxes of the model, cxcywh in [0, 1] of the canvas, as xyxy in the image; not clipped to it."""
        boxes = np.asarray(boxes_cxcywh_norm, dtype=np.float64) * np.tile(self.canvas_size_wh, 2)
        return self.boxes_to_image(box_cxcywh_to_xyxy(boxes))

    def image_to_norm_cxcywh(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """(..., 4) xyxy boxes of the image as the model's cxcywh in [0, 1] of the canvas."""
        return box_xyxy_to_cxcywh(self.boxes_to_canvas(boxes_xyxy)) / np.tile(self.canvas_size_wh, 2)

    def mask_to_image(self, mask_logits: np.ndarray) -> np.ndarray:
        """Masks of the original image, (n, H, W) bool, from (n, h, w) logits that cover the canvas.

        Logits are interpolated between cell centres and then cut at 0. Only cells that the content touches take part,
        so that nothing bleeds in from the padding; the last row and column of them may be covered in part.
        """
        mask_logits = np.asarray(mask_logits, dtype=np.float32)
        if mask_logits.ndim != 3 or 0 in mask_logits.shape[1:]:
            raise ShapeError(f"mask_logits must be (n, h, w) with h and w at least 1, got {mask_logits.shape}")
        width, height = self.image_size_wh
        masks = np.zeros((len(mask_logits), height, width), dtype=bool)
        for logits, mask in zip(mask_logits, masks, strict=True):
            part, (left, top) = self.mask_part_to_image(logits)
            mask[top : top + part.shape[0], left : left + part.shape[1]] = part
        return masks

    def mask_part_to_image(self, mask_logits: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """The part of one mask of `mask_to_image` outside which it is empty, (H', W') bool, from (h, w) logits.

        Costs the part, not the image: a pixel is set only near a cell that is.

        Returns:
            The part, and column and row of its first pixel in the image; without any cell set a part without pixels.
        """
        mask_logits = np.asarray(mask_logits, dtype=np.float32)
        covered = self.covered_cells((mask_logits.shape[1], mask_logits.shape[0]))
        cells = mask_logits[: math.ceil(covered[1]), : math.ceil(covered[0])]
        columns, rows = (np.flatnonzero((cells > 0).any(axis=axis)) for axis in (0, 1))
        if not len(columns):
            return np.zeros((0, 0), dtype=bool), (0, 0)
        (left, right), (top, bottom) = (
            _pixels_near(int(found[0]), int(found[-1]), size / side, side)
            for found, size, side in zip((columns, rows), covered, self.image_size_wh, strict=True)
        )
        across, down = (size / side for size, side in zip(covered, self.image_size_wh, strict=True))
        box = (left * across, top * down, min(right * across, covered[0]), min(bottom * down, covered[1]))
        size_wh = (right - left, bottom - top)
        resized = Image.fromarray(cells).resize(size_wh, Image.Resampling.BILINEAR, box=box)
        return np.asarray(resized) > 0, (left, top)

    def mask_to_canvas(self, mask: np.ndarray, size_wh: SizeWH) -> np.ndarray:
        """The share of each of (h, w) cells that a (H, W) mask of the image covers, in [0, 1] float32.

        The cells, `size_wh` of them, cover the whole canvas; the padding counts as not covered.
        """
        width, height = self._check_masks(mask)
        covered_w, covered_h = self.covered_cells(size_wh)
        rows = _sum_cells((mask != 0).astype(np.float32), size_wh[1], covered_h)
        return (_sum_cells(rows.T, size_wh[0], covered_w).T * (covered_w * covered_h / (width * height))).clip(0, 1)

    def masks_at_cells(self, masks: np.ndarray, size_wh: SizeWH) -> np.ndarray:
        """Whether each of (n, H, W) masks of the image covers the middle of each of (h, w) cells, (n, h, w) uint8.

        Cells as of `mask_to_canvas`. Much quicker, and thin things do not vanish because they fill no cell by half.
        """
        sides, result = self._check_masks(masks), np.zeros((len(masks), size_wh[1], size_wh[0]), dtype=np.uint8)
        columns, rows = (
            np.minimum((np.arange(0.5, covered) * side / covered).astype(int), side - 1)[:cells]
            for covered, side, cells in zip(self.covered_cells(size_wh), sides, size_wh, strict=True)
        )
        result[:, : len(rows), : len(columns)] = masks[:, rows[:, None], columns[None]]
        return result

    def _check_masks(self, masks: np.ndarray) -> SizeWH:
        """Size of the image, which masks must have."""
        width, height = self.image_size_wh
        if masks.shape[-2:] != (height, width):
            raise ShapeError(f"mask must be ({height}, {width}) like the image, got {masks.shape}")
        return self.image_size_wh

    def covered_cells(self, size_wh: SizeWH) -> tuple[float, float]:
        """How many of the cells that divide the canvas the content covers in each direction."""
        (content_w, content_h), (canvas_w, canvas_h) = self.content_size_wh, self.canvas_size_wh
        return content_w * size_wh[0] / canvas_w, content_h * size_wh[1] / canvas_h


def _round_within(value: float, limit: int) -> int:
    return min(max(math.floor(value + 0.5), 1), limit)


def _pixels_near(first: int, last: int, cells_per_pixel: float, num_pixels: int) -> tuple[int, int]:
    """From which to before which pixel of a side those lie that cells `first` to `last` have a share in."""
    reach = max(cells_per_pixel, 1)  # of a cell, in cells from its centre
    low = (first + 0.5 - reach) / cells_per_pixel - 0.5
    high = (last + 0.5 + reach) / cells_per_pixel - 0.5
    return max(math.floor(low), 0), min(math.ceil(high) + 1, num_pixels)


def _sum_cells(pixels: np.ndarray, num_cells: int, covered: float) -> np.ndarray:
    """Sum the rows of (L, C) pixels, spread evenly over the first `covered` of (num_cells, C) cells."""
    length = len(pixels)
    edges = np.minimum(np.arange(num_cells + 1) * (length / covered), length)
    whole = np.minimum(edges.astype(np.int64), length - 1)
    sums = np.concatenate((np.zeros_like(pixels[:1]), np.cumsum(pixels, axis=0)))
    up_to_edge = sums[whole] + pixels[whole] * (edges - whole)[:, None].astype(pixels.dtype)
    return np.diff(up_to_edge, axis=0)
