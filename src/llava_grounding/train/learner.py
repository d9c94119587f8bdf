"""The model in training: what passes through it in a step are the losses by name, whatever wraps it around.

One module, so that distributed wrappers of any kind see every parameter and every use of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.batches import ChatBatch, ClassBatch
from llava_grounding.train.class_losses import ClassPhrases
from llava_grounding.train.plan import StagePlan
from llava_grounding.train.recipe import Recipe
from llava_grounding.train.stages import Criteria, LossWeights, Shares, chat_losses, pretrain_losses


@dataclass(frozen=True)
class Lesson:
    """What a learner computes in each step."""

    plan: StagePlan
    weights: LossWeights
    num_points: int | None

    @classmethod
    def of(cls, recipe: Recipe, plan: StagePlan) -> Lesson:
        """As the recipe says."""
        weights = LossWeights(recipe.grounding_weight, recipe.word_weight, recipe.prompt_weight, recipe.denoising)
        return cls(plan, weights, recipe.num_points or None)


class Learner(nn.Module):
    """Model and class phrases; called with a batch it gives the losses.

    Args:
        phrases: of the class names, where class names are a task.
    """

    def __init__(
        self, model: LlavaGroundingForConditionalGeneration, phrases: ClassPhrases | None, lesson: Lesson
    ) -> None:
        super().__init__()
        self.model = model
        self.class_phrases = phrases
        self.lesson = lesson
        self._criteria = Criteria.of(len(phrases.names) if phrases else 0, lesson.num_points)
        # What sharding keeps whole; asked for by the name transformers' models have for it.
        self._no_split_modules = list(model._no_split_modules or [])

    def forward(self, batch: ChatBatch | ClassBatch, totals: Tensor | None = None) -> dict[str, Tensor]:
        """Losses by name; `loss` is what to minimise.

        Args:
            totals: counts of the whole step, over all its batches on all devices; None if this batch is the step.
        """
        shares = Shares.of(batch, totals)
        if isinstance(batch, ClassBatch):
            assert self.class_phrases is not None
            return pretrain_losses(self.model, self.class_phrases, self._criteria, batch, self.lesson.weights, shares)
        return chat_losses(
            self.model,
            self.class_phrases,
            self._criteria,
            batch,
            self.lesson.weights,
            shares,
            ground="phrases" in self.lesson.plan.tasks,
        )
