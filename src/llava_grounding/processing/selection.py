"""Which object queries a phrase keeps: scores, threshold, suppression of doubles. Tensors in, numpy out.

Source: the original keeps queries whose softmax over all queries exceeds a threshold; our own checkpoints score each
query by itself (sigmoid), so that two equal things do not halve each other's score.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llava_grounding.errors import ConfigError
from llava_grounding.geometry import box_cxcywh_to_xyxy, box_iou
from llava_grounding.model.outputs import GrounderOutput


@dataclass(frozen=True)
class SelectionSettings:
    """How queries are chosen; see LlavaGroundingConfig for the fields."""

    query_selection: str = "softmax"
    score_threshold: float = 0.05
    nms_iou: float | None = None

    def __post_init__(self) -> None:
        if self.query_selection not in ("softmax", "sigmoid"):
            raise ConfigError(f"query_selection must be softmax or sigmoid, got `{self.query_selection!s:.80}`")
        for name, value in [("score_threshold", self.score_threshold), ("nms_iou", self.nms_iou)]:
            number = type(value) in (int, float) and value is not None and math.isfinite(value)
            if not number and (value is not None or name == "score_threshold"):
                raise ConfigError(f"{name} must be a number, got {value!r:.80}")


@dataclass(frozen=True)
class PhraseSelection:
    """What one phrase keeps, best first, in the model's frame."""

    query_index: np.ndarray
    """(n,) int."""
    boxes_cxcywh: np.ndarray
    """(n, 4) in [0, 1] of the canvas."""
    scores: np.ndarray
    """(n,) in [0, 1]."""
    mask_logits: np.ndarray
    """(n, h, w) float32 at stride 4 of the canvas."""
    best_score: float
    """Highest score of any query, kept or not; 0 without queries."""


def query_scores(phrase_logits: Tensor, query_selection: str) -> Tensor:
    """Scores in [0, 1], same shape `[..., Q, G]`."""
    logits = phrase_logits.float()
    return logits.softmax(dim=-2) if query_selection == "softmax" else logits.sigmoid()


def keep_queries(
    scores: np.ndarray, boxes_xyxy: np.ndarray, score_threshold: float, nms_iou: float | None
) -> np.ndarray:
    """Indices of the queries above the threshold, best first, without doubles.

    Args:
        scores: (Q,).
        boxes_xyxy: (Q, 4), any unit.
    """
    kept = np.flatnonzero(scores > score_threshold)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    if nms_iou is None or len(kept) < 2:
        return kept
    overlap = box_iou(boxes_xyxy[kept], boxes_xyxy[kept]) > nms_iou
    alive = np.ones(len(kept), dtype=bool)
    for row in range(len(kept)):
        if alive[row]:
            alive[row + 1 :] &= ~overlap[row, row + 1 :]
    return kept[alive]


@torch.no_grad()
def select_regions(
    output: GrounderOutput, row: int, num_phrases: int, settings: SelectionSettings
) -> list[PhraseSelection]:
    """What each of the first `num_phrases` phrases of one image keeps."""
    scores = query_scores(output.phrase_logits[row], settings.query_selection).cpu().numpy()
    boxes = output.boxes_cxcywh[row].float().cpu().numpy()
    corners = box_cxcywh_to_xyxy(boxes)
    kept = [
        keep_queries(scores[:, phrase], corners, settings.score_threshold, settings.nms_iou)
        for phrase in range(num_phrases)
    ]
    wanted = np.unique(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)
    index = torch.as_tensor(wanted, dtype=torch.long, device=output.boxes_cxcywh.device)
    embeds = output.mask_embeds[row, index].float()
    features = output.mask_features[row if output.mask_features.shape[0] > 1 else 0].float()
    masks = torch.einsum("qc,chw->qhw", embeds, features).cpu().numpy()
    selections = []
    for phrase, queries in enumerate(kept):
        column = scores[:, phrase]
        selections.append(
            PhraseSelection(
                query_index=queries,
                boxes_cxcywh=boxes[queries],
                scores=column[queries],
                mask_logits=masks[np.searchsorted(wanted, queries)],
                best_score=float(column.max()) if len(column) else 0.0,
            )
        )
    return selections
