"""Ground truth of a grounding batch: what each image holds and which phrase names it.

Knows no files and no tokenizer: everything is already a tensor in the model's frame. `GroundingTarget` is one image,
`TargetBatch` joins images without padding the masks, since one crowded image would pad all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_grounding.errors import ShapeError


@dataclass(frozen=True, eq=False)
class GroundingTarget:
    """The n objects of one image.

    Raises:
        ShapeError: if the fields do not agree on the number of objects.
    """

    boxes_cxcywh_norm: Tensor
    """[n, 4] in [0, 1] of the canvas."""
    masks: Tensor | None
    """[n, H, W] bool or uint8 over the canvas, at any resolution; None when no object has a mask."""
    has_mask: Tensor
    """[n] bool; where False the rows of `masks` mean nothing."""
    phrase_map: Tensor
    """[n, G] bool: object n is named by phrase g. Rows may be empty or have several entries."""

    def __post_init__(self) -> None:
        count = len(self.boxes_cxcywh_norm)
        if self.boxes_cxcywh_norm.shape != (count, 4):
            raise ShapeError(f"boxes_cxcywh_norm must be (n, 4), got {tuple(self.boxes_cxcywh_norm.shape)}")
        for name, ndim in (("masks", 3), ("has_mask", 1), ("phrase_map", 2)):
            value = getattr(self, name)
            if value is not None and (value.ndim != ndim or len(value) != count):
                raise ShapeError(
                    f"{name} must have {ndim} dimensions and n = {count} rows to match boxes_cxcywh_norm, "
                    f"got {tuple(value.shape)}"
                )
        if self.masks is None and bool(self.has_mask.any()):
            raise ShapeError("has_mask says that some objects have a mask, but masks is None")

    def __len__(self) -> int:
        return len(self.boxes_cxcywh_norm)

    def to(self, device: torch.device | str) -> "GroundingTarget":
        """The same target on another device."""
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return GroundingTarget(
            self.boxes_cxcywh_norm.to(device), masks, self.has_mask.to(device), self.phrase_map.to(device)
        )


@dataclass(frozen=True, eq=False)
class TargetBatch:
    """The N objects of B images in one row each, image after image."""

    counts: tuple[int, ...]
    """Objects of each image."""
    boxes_cxcywh_norm: Tensor
    """[N, 4] float32."""
    masks: Tensor | None
    """[N, H, W] uint8, or None when no object of the batch has one."""
    has_mask: Tensor
    """[N] float32, 1 or 0."""
    phrase_map: Tensor
    """[N, G] float32, 1 or 0."""
    image_index: Tensor
    """[N] image of each object."""
    slot_index: Tensor
    """[N] place of each object in the padded [B, M] layout."""
    _coverage: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def join(cls, targets: Sequence[GroundingTarget], num_phrases: int, device: torch.device) -> "TargetBatch":
        """Join the images of a batch whose phrases were padded to `num_phrases`.

        Raises:
            ShapeError: if a target maps to more phrases than there are, or the masks differ in size.
        """
        counts = tuple(len(target) for target in targets)
        longest = max(counts, default=0)
        image_index = [image for image, count in enumerate(counts) for _ in range(count)]
        slot_index = [image * longest + place for image, count in enumerate(counts) for place in range(count)]
        has_mask = torch.cat([target.has_mask.to(device) for target in targets])
        return cls(
            counts=counts,
            boxes_cxcywh_norm=torch.cat([target.boxes_cxcywh_norm.to(device).float() for target in targets]),
            masks=_join_masks(targets, device) if bool(has_mask.any()) else None,
            has_mask=has_mask.float(),
            phrase_map=torch.cat([_pad_phrases(target.phrase_map.to(device), num_phrases) for target in targets]),
            image_index=torch.tensor(image_index, dtype=torch.long, device=device),
            slot_index=torch.tensor(slot_index, dtype=torch.long, device=device),
        )

    @property
    def longest(self) -> int:
        """M, the objects of the fullest image."""
        return max(self.counts, default=0)

    def padded(self, rows: Tensor) -> Tensor:
        """Rows [N, ...] of the objects as [B, M, ...]; places without an object hold zeros."""
        flat = rows.new_zeros(len(self.counts) * self.longest, *rows.shape[1:])
        flat[self.slot_index] = rows
        return flat.unflatten(0, (len(self.counts), self.longest))

    def coverage(self, size_hw: tuple[int, int]) -> Tensor:
        """Part of each cell of a coarser grid that each mask covers, [N, h * w]; computed once per size."""
        if self.masks is None:
            raise ShapeError("no object of this batch has a mask")
        if size_hw not in self._coverage:
            pooled = F.adaptive_avg_pool2d(self.masks.float().unsqueeze(1), size_hw)
            self._coverage[size_hw] = pooled.flatten(1)
        return self._coverage[size_hw]


def as_batch(targets: "Sequence[GroundingTarget] | TargetBatch", num_phrases: int, device: torch.device) -> TargetBatch:
    """Joined targets, whether or not the caller joined them already."""
    return targets if isinstance(targets, TargetBatch) else TargetBatch.join(targets, num_phrases, device)


def _pad_phrases(phrase_map: Tensor, num_phrases: int) -> Tensor:
    if phrase_map.shape[1] > num_phrases:
        raise ShapeError(
            f"phrase_map speaks of {phrase_map.shape[1]} phrases, but the prediction has only {num_phrases}"
        )
    return F.pad(phrase_map.float(), (0, num_phrases - phrase_map.shape[1]))


def _join_masks(targets: Sequence[GroundingTarget], device: torch.device) -> Tensor | None:
    sizes = {tuple(target.masks.shape[1:]) for target in targets if target.masks is not None and len(target)}
    if not sizes:
        return None
    if len(sizes) > 1:
        raise ShapeError(f"masks of one batch must share one canvas size, got {sorted(sizes)}")
    size_hw = sizes.pop()
    rows = []
    for target in targets:
        if target.masks is None:
            rows.append(torch.zeros(len(target), *size_hw, dtype=torch.uint8, device=device))
        elif len(target):
            rows.append(target.masks.to(device).to(torch.uint8))
    return torch.cat(rows)
