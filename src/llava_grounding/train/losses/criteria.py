"""The criteria of a step, built from one set of weights, so that no two of them are weighed by different ones."""

from __future__ import annotations

from dataclasses import dataclass

from llava_grounding.train.losses.matcher import HungarianMatcher
from llava_grounding.train.losses.prompt_losses import PromptCriterion
from llava_grounding.train.losses.set_criterion import SetCriterion
from llava_grounding.train.losses.settings import CellTargets, DenoisingNoise, FocalSettings
from llava_grounding.train.losses.weights import LossWeights, MatchingCosts

_MATCHING_CELLS = 16  # a side: matching whole masks of 56 x 56 cells was a quarter of a step


@dataclass(frozen=True)
class Criteria:
    """One criterion for class names, one for phrases, one for what is pointed at; and what other losses need."""

    classes: SetCriterion
    phrases: SetCriterion
    prompts: PromptCriterion
    weights: LossWeights
    noise: DenoisingNoise = DenoisingNoise()
    cells: CellTargets = CellTargets()

    @classmethod
    def of(
        cls,
        num_points: int | None,
        weights: LossWeights = LossWeights(),
        costs: MatchingCosts = MatchingCosts(),
        focal: FocalSettings = FocalSettings(),
        noise: DenoisingNoise = DenoisingNoise(),
        cells: CellTargets = CellTargets(),
    ) -> Criteria:
        """The criteria of a recipe; with `num_points=None` masks are judged on every cell."""
        matcher = HungarianMatcher(weights=costs, num_points=num_points, max_cells=_MATCHING_CELLS, focal=focal)
        return cls(
            SetCriterion(matcher, weights.of_classes, num_points, phrase_reduction="sum", focal=focal),
            SetCriterion(matcher, weights.of_phrases, num_points, phrase_reduction="valid_mean", focal=focal),
            PromptCriterion(weights.of_prompts, num_points, score_target="iou"),
            weights,
            noise,
            cells,
        )
