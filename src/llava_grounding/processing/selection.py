"""Which object queries a phrase keeps as its regions: scores, threshold, suppression of doubles. Tensors in, numpy out.

Knows not how the grounder came to these queries; that is `QuerySelection` in `model/grounder.py`.

Source: the original keeps queries whose softmax over all queries exceeds a threshold; our own checkpoints score each
query by itself (sigmoid), so that two equal things do not halve each other's score.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llava_grounding.errors import ConfigError, LlavaGroundingError
from llava_grounding.geometry import Letterbox, box_area, box_cxcywh_to_xyxy, box_iou, clip_boxes_xyxy
from llava_grounding.model.outputs import GrounderOutput, mask_logits_from
from llava_grounding.typed_values import is_number


@dataclass(frozen=True)
class SelectionSettings:
    """How the regions of a phrase are selected from the object queries; see LlavaGroundingConfig for the fields."""

    score_function: str = "softmax"
    """`softmax` over all queries, or `sigmoid` of each."""
    score_threshold: float = 0.05
    nms_iou: float | None = None
    doubt_threshold: float | None = None
    """A phrase whose best score is below it is doubtful: about every second such phrase is wrong. None doubts none."""

    def __post_init__(self) -> None:
        if self.score_function not in ("softmax", "sigmoid"):
            raise ConfigError(f"score_function must be softmax or sigmoid, got `{self.score_function!s:.80}`")
        for name, value in [
            ("score_threshold", self.score_threshold),
            ("nms_iou", self.nms_iou),
            ("doubt_threshold", self.doubt_threshold),
        ]:
            number = is_number(value) and math.isfinite(value)
            if not number and (value is not None or name == "score_threshold"):
                raise ConfigError(f"{name} must be a number, got {value!r:.80}")

    def doubts(self, best_score: float) -> bool:
        """Whether a phrase with this best score is doubtful."""
        return self.doubt_threshold is not None and best_score < self.doubt_threshold

    def to_dict(self) -> dict[str, str | float | None]:
        """Plain values for a JSON file; without a threshold of doubt as before there was one."""
        values = dict(vars(self))
        if self.doubt_threshold is None:
            del values["doubt_threshold"]
        return values


@dataclass(frozen=True)
class PhraseSelection:
    """What one phrase keeps, best first, in the model's frame."""

    query_index: np.ndarray
    """(n,) int."""
    boxes_cxcywh_norm: np.ndarray
    """(n, 4) in [0, 1] of the canvas."""
    scores: np.ndarray
    """(n,) in [0, 1]."""
    mask_logits: np.ndarray
    """(n, h, w) float32 at stride 4 of the canvas."""
    best_score: float
    """Highest score of any query that lies in the image, kept or not; 0 without one."""

    def only(self, row: int) -> "PhraseSelection":
        """One of the queries by itself."""
        place = slice(row, row + 1)
        return PhraseSelection(
            self.query_index[place],
            self.boxes_cxcywh_norm[place],
            self.scores[place],
            self.mask_logits[place],
            self.best_score,
        )


def query_scores(phrase_logits: Tensor, score_function: str) -> Tensor:
    """Scores in [0, 1], same shape `[..., Q, G]`."""
    logits = phrase_logits.float()
    return logits.softmax(dim=-2) if score_function == "softmax" else logits.sigmoid()


def keep_queries(
    scores: np.ndarray,
    boxes_xyxy: np.ndarray,
    score_threshold: float,
    nms_iou: float | None,
    absent: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of the queries above the threshold, best first, without doubles.

    Args:
        scores: (Q,).
        boxes_xyxy: (Q, 4), any unit.
        absent: (Q,) bool, queries that are not kept whatever their score, nor make another a double.
    """
    candidates = scores > score_threshold
    kept = np.flatnonzero(candidates if absent is None else candidates & ~absent)
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
    output: GrounderOutput,
    row: int,
    num_phrases: int,
    settings: SelectionSettings,
    letterbox: Letterbox | None = None,
) -> list[PhraseSelection]:
    """What each of the first `num_phrases` phrases of one image keeps.

    Args:
        letterbox: where the image lies on the canvas; a query whose mask or box has nothing in it is none, and another
            may take its place. None lets every query count.

    Raises:
        LlavaGroundingError: if a score, a box or a mask is not made of finite numbers.
    """
    logits = _finite(output.phrase_logits[row, :, :num_phrases], "scores")
    scores = query_scores(logits, settings.score_function).numpy()
    boxes = _finite(output.boxes_cxcywh_norm[row], "boxes").numpy()
    corners = box_cxcywh_to_xyxy(boxes)
    wanted = np.flatnonzero((scores > settings.score_threshold).any(axis=1))
    index = torch.as_tensor(wanted, dtype=torch.long, device=output.boxes_cxcywh_norm.device)
    embeds = output.mask_embeds[row, index].float()
    image = row if output.mask_features.shape[0] > 1 else 0
    features = output.mask_features[image : image + 1].float()
    with torch.autocast(embeds.device.type, enabled=False):  # or the product would be bfloat16, which numpy has not
        masks = _finite(mask_logits_from(embeds[None], features)[0], "masks").numpy()
    absent = np.zeros(len(boxes), dtype=bool)
    if letterbox is not None:
        absent[wanted] = ~_in_image(boxes[wanted], masks, letterbox)
    selections = []
    for column in scores.T:
        queries = keep_queries(column, corners, settings.score_threshold, settings.nms_iou, absent)
        selections.append(
            PhraseSelection(
                query_index=queries,
                boxes_cxcywh_norm=boxes[queries],
                scores=column[queries],
                mask_logits=masks[np.searchsorted(wanted, queries)],
                best_score=float(column[~absent].max(initial=0)),
            )
        )
    return selections


def _in_image(boxes_cxcywh_norm: np.ndarray, mask_logits: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Which of n queries have a box with an area and a mask with a pixel in the image, (n,) bool."""
    boxes = clip_boxes_xyxy(letterbox.norm_cxcywh_to_image(boxes_cxcywh_norm), letterbox.image_size_wh)
    return (box_area(boxes) > 0) & _has_pixel(mask_logits, letterbox)


def _has_pixel(mask_logits: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Which of (n, h, w) masks have a pixel in the image, (n,) bool.

    Most are known to by four neighbouring cells; only the others are brought to the size of the image.
    """
    (width, height), (columns, rows) = letterbox.image_size_wh, letterbox.covered_cells(mask_logits.shape[:0:-1])
    inside = mask_logits > 0
    found: np.ndarray = np.asarray(inside[:, : math.ceil(rows), : math.ceil(columns)].any(axis=(1, 2)))
    if width >= columns and height >= rows:  # then a pixel lies amid any four neighbours, and has a share in them only
        inside = inside[:, : math.floor(rows), : math.floor(columns)]
        blocks = inside[:, 1:, 1:] & inside[:, 1:, :-1] & inside[:, :-1, 1:] & inside[:, :-1, :-1]
        unsure = found & ~blocks.any(axis=(1, 2))
    else:
        unsure = found
    found[unsure] = letterbox.mask_to_image(mask_logits[unsure]).any(axis=(1, 2))
    return found


def _finite(values: Tensor, what: str) -> Tensor:
    """The values as float32 on the CPU.

    Raises:
        LlavaGroundingError: if one of them is not finite.
    """
    values = values.detach().float().cpu()
    if not bool(values.isfinite().all()):
        raise LlavaGroundingError(
            f"the grounder gave {what} that are not finite numbers: its weights or its input hold values that are "
            "none, or the dtype is too narrow for them (try float32)"
        )
    return values
