"""What was found in an image: a box, a score and a mask, in pixels of the original image.

Plain frozen data, equal by content and checked when made. Knows no phrase, no model and no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llava_grounding.errors import DataError, ShapeError, shown
from llava_grounding.geometry import box_area
from llava_grounding.masks import decode_rle, encode_rle, mask_area, mask_to_box, rle_area, rle_to_box
from llava_grounding.visual_prompts import are_coordinates, array_key, frozen_copy, same_array


@dataclass(frozen=True, eq=False)
class Region:
    """One thing found in the image.

    Args:
        box_xyxy: (4,) float64, pixels of the original image, half-open.
        score: how sure the model is, in [0, 1].
        mask: (H, W) bool, of the size of the original image; None where only the box is known.
        mask_logits: (h, w) float32, what the model gave for the cells of its canvas, above 0 inside: `mask` before it
            was brought to the image. For `VisualPrompt.mask_of`; not compared and not written to JSON. None where it
            is not known, as in answers that were read.
    """

    box_xyxy: np.ndarray
    score: float
    mask: np.ndarray | None = None
    mask_logits: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._take(self.box_xyxy, self.score, self.mask_logits)
        if self.mask is not None:
            mask = np.asarray(self.mask)
            if mask.ndim != 2 or mask.dtype != np.bool_:
                raise ShapeError(f"mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
            object.__setattr__(self, "mask", frozen_copy(mask))

    def _take(self, box_xyxy: Any, score: Any, mask_logits: Any) -> None:
        box = np.array(box_xyxy, dtype=np.float64)
        if box.shape != (4,) or not are_coordinates(box) or (box[2:] < box[:2]).any():
            raise ShapeError(f"box_xyxy must be four finite numbers, x0 <= x1 and y0 <= y1, got {shown(box)}")
        object.__setattr__(self, "box_xyxy", frozen_copy(box))
        object.__setattr__(self, "score", checked_score(score))
        if mask_logits is not None:
            logits = np.asarray(mask_logits)
            if logits.ndim != 2 or logits.dtype != np.float32:
                raise ShapeError(f"mask_logits must be (h, w) float32, got {logits.shape} {logits.dtype}")
            object.__setattr__(self, "mask_logits", frozen_copy(logits))

    @property
    def mask_rle(self) -> dict[str, Any] | None:
        """COCO's compressed run-length code of the mask; None where only the box is known."""
        return None if self.mask is None else encode_rle(self.mask)

    @property
    def mask_size_hw(self) -> tuple[int, int] | None:
        """Height and width of the mask; None where there is none."""
        return None if self.mask is None else (self.mask.shape[0], self.mask.shape[1])

    @property
    def mask_box_xyxy(self) -> np.ndarray | None:
        """The smallest box around the mask, (4,) float64; None where there is none or it is empty."""
        return None if self.mask is None else mask_to_box(self.mask)

    def __repr__(self) -> str:
        mask = "" if self.mask_size_hw is None else f", mask of {self.area} pixels"
        box = ", ".join(f"{number:g}" for number in self.box_xyxy)
        return f"Region(({box}), score {self.score:.3f}{mask})"

    @property
    def area(self) -> int:
        """Pixels of the mask, or of the box where there is none."""
        return mask_area(self.mask) if self.mask is not None else round(float(box_area(self.box_xyxy)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region):
            return NotImplemented
        return (
            self.score == other.score
            and same_array(self.box_xyxy, other.box_xyxy)
            and same_array(self.mask, other.mask)
        )

    def __hash__(self) -> int:
        return hash((self.score, array_key(self.box_xyxy), array_key(self.mask)))


class PackedRegion(Region):
    """A region whose mask is kept as its run-length code, as in answers that were read: it is small, however large the
    picture is. `mask` unpacks it each time it is asked for.

    Args:
        box_xyxy, score, mask_logits: as of a `Region`.
        mask: a mask, or COCO's run-length code of one; not changed afterwards.
    """

    def __init__(
        self,
        box_xyxy: np.ndarray,
        score: float,
        mask: Mapping[str, Any] | np.ndarray,
        mask_logits: np.ndarray | None = None,
    ) -> None:
        self._take(box_xyxy, score, mask_logits)
        object.__setattr__(self, "_rle", dict(mask) if isinstance(mask, Mapping) else encode_rle(mask))

    @property
    def mask(self) -> np.ndarray:  # nobody may set that of a `Region` either
        """(H, W) bool, unpacked anew."""
        return decode_rle(self._rle, self.mask_size_hw)

    @property
    def mask_rle(self) -> dict[str, Any]:
        """COCO's compressed run-length code of the mask."""
        return dict(self._rle)

    @property
    def mask_size_hw(self) -> tuple[int, int]:
        """Height and width of the mask."""
        height, width = self._rle["size"]
        return height, width

    @property
    def mask_box_xyxy(self) -> np.ndarray | None:
        """The smallest box around the mask, found without unpacking it."""
        return rle_to_box(self._rle)

    @cached_property
    def area(self) -> int:
        """Pixels of the mask, counted once, without unpacking it."""
        return rle_area(self._rle)

    _rle: dict[str, Any]


def checked_score(value: Any) -> float:
    """A score as a float; refused unless it is in [0, 1]."""
    score = float(value)
    if not 0 <= score <= 1:
        raise DataError(f"score must be in [0, 1], got {score}")
    return score
