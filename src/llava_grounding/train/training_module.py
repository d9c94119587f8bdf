"""The model in training: what passes through it in a step are the losses by name, whatever wraps it around.

One module, so that distributed wrappers of any kind see every parameter and every use of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.batching.batches import ChatBatch, ClassBatch
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.settings import CellTargets, DenoisingNoise, FocalSettings
from llava_grounding.train.losses.step_losses import Shares, chat_losses, pretrain_losses
from llava_grounding.train.losses.weights import LossWeights, MatchingCosts
from llava_grounding.train.plan import StagePlan
from llava_grounding.train.recipe import Recipe

ModelFunction = Callable[[LlavaGroundingForConditionalGeneration, ClassPhrases | None], dict[str, Any]]


@dataclass(frozen=True)
class LossConfig:
    """What the training module computes in each step."""

    plan: StagePlan
    weights: LossWeights
    num_points: int | None
    freeze_batch_norm: bool = False
    denoising: int = 0
    costs: MatchingCosts = MatchingCosts()
    focal: FocalSettings = FocalSettings()
    noise: DenoisingNoise = DenoisingNoise()
    cells: CellTargets = CellTargets()

    @classmethod
    def of(cls, recipe: Recipe, plan: StagePlan) -> LossConfig:
        """The module that a recipe trains."""
        return cls(
            plan,
            recipe.loss_weights,
            recipe.num_points or None,
            freeze_batch_norm=recipe.freeze_batch_norm,
            denoising=recipe.denoising,
            costs=recipe.matching_costs,
            focal=recipe.focal,
            noise=recipe.denoising_noise,
            cells=recipe.cell_targets,
        )


class TrainingModule(nn.Module):
    """Model and class phrases; called with a batch it gives the losses.

    Args:
        phrases: of the class names, where class names are a task.
        token_weights: [V], factors on the cross-entropy of tokens in the language loss; None for 1.
        stored_dtypes: types in which a whole folder keeps weights of the model, where they are wider while they learn.
        criteria: in place of those that `loss_config` says, with weights of their own.
    """

    def __init__(
        self,
        model: LlavaGroundingForConditionalGeneration,
        phrases: ClassPhrases | None,
        loss_config: LossConfig,
        stored_dtypes: Mapping[str, torch.dtype] | None = None,
        criteria: Criteria | None = None,
        token_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.class_phrases = phrases
        self.loss_config = loss_config
        self.stored_dtypes = dict(stored_dtypes or {})
        self._criteria = criteria or Criteria.of(
            loss_config.num_points,
            weights=loss_config.weights,
            costs=loss_config.costs,
            focal=loss_config.focal,
            noise=loss_config.noise,
            cells=loss_config.cells,
        )
        self.token_weights: Tensor | None
        self.register_buffer("token_weights", token_weights, persistent=False)
        self.scalars: set[str] = set()
        # What sharding makes a unit of, under the name it asks for: layers that are only ever called. It would not see
        # that somebody enters a vision module by another method than `forward`; these belong to the unit of the whole.
        self._no_split_modules = list(model.language_model._no_split_modules or [])

    def train(self, mode: bool = True) -> TrainingModule:
        """Training mode; batch statistics of the backbone stay as they are where the recipe says so."""
        super().train(mode)
        if self.loss_config.freeze_batch_norm:
            for module in self.model.grounder.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def lengthen_scalars(self) -> None:
        """Make vectors of length 1 of scalar parameters, which FSDP2 cannot share; what is saved has scalars still."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 0:
                parameter.data = parameter.data.reshape(1)
                self.scalars.add(name)

    def forward(self, batch: ChatBatch | ClassBatch | ModelFunction, totals: Tensor | None = None) -> dict[str, Any]:
        """Losses by name; `loss` is what to minimise.

        Args:
            batch: or something to do with model and class phrases, where weights are only whole inside of a forward.
            totals: counts of the whole step, over all its batches on all devices; None if this batch is the step.
        """
        if not isinstance(batch, ChatBatch | ClassBatch):
            return batch(self.model, self.class_phrases)
        shares = Shares.of(batch, totals)
        denoising = self.loss_config.denoising
        if isinstance(batch, ClassBatch):
            assert self.class_phrases is not None
            return pretrain_losses(self.model, self.class_phrases, self._criteria, batch, shares, denoising=denoising)
        return chat_losses(
            self.model,
            self.class_phrases,
            self._criteria,
            batch,
            shares,
            ground="phrases" in self.loss_config.plan.tasks,
            denoising=denoising,
            token_weights=self.token_weights,
        )
