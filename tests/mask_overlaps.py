"""How far masks overlap, counted pixel by pixel: an oracle for what the package counts from runs."""

from __future__ import annotations

import numpy as np


def mask_iou(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each of (n, H, W) masks with each of (m, H, W) others, (n, m); two empty ones: 0."""
    rows, columns = (np.asarray(part).reshape(len(part), -1) != 0 for part in (masks, others))
    intersection = np.count_nonzero(rows[:, None] & columns[None], axis=2)
    union = np.count_nonzero(rows[:, None] | columns[None], axis=2)
    return intersection / np.maximum(union, 1)
