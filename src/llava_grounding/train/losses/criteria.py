"""The criteria of a step, built from one set of weights, so that no two of them are weighed by different ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llava_grounding.train.losses.matcher import HungarianMatcher
from llava_grounding.train.losses.prompt_losses import PromptCriterion
from llava_grounding.train.losses.set_criterion import CLASS_LOSS_SCALE, SetCriterion
from llava_grounding.train.losses.weights import LossWeights, MatchingCosts

_MATCHING_CELLS = 16  # a side: matching whole masks of 56 x 56 cells was a quarter of a step


@dataclass(frozen=True)
class Criteria:
    """One criterion for class names, one for phrases, one for what is pointed at; and the weights of all losses."""

    classes: SetCriterion
    phrases: SetCriterion
    prompts: PromptCriterion
    weights: LossWeights

    @classmethod
    def of(
        cls,
        num_classes: int,
        num_points: int | None,
        weights: LossWeights = LossWeights(),
        costs: MatchingCosts = MatchingCosts(),
    ) -> Criteria:
        """The criteria of a recipe; with `num_points=None` masks are judged on every cell."""
        of_masks_and_boxes: dict[str, Any] = {**weights.of_masks_and_boxes(), "num_points": num_points}
        matcher = HungarianMatcher(weights=costs, num_points=num_points, max_cells=_MATCHING_CELLS)
        # The class loss is the mean over columns times a scale: with this, `focal` weighs their sum; see `LossWeights`.
        of_columns = weights.focal / CLASS_LOSS_SCALE * (1 + num_classes)
        return cls(
            SetCriterion(matcher, of_columns, **of_masks_and_boxes),
            SetCriterion(matcher, weights.focal, **of_masks_and_boxes, phrase_normalisation="valid"),
            PromptCriterion(**of_masks_and_boxes, loss_score_weight=weights.score, score_target="iou"),
            weights,
        )
