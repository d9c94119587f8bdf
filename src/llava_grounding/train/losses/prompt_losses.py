"""Losses of the visual prompt encoder: what every decoder layer loses on the thing each prompt points at.

Prompt i belongs to object i, so nothing is matched. The first mask token is supervised, the one that gives the region
embedding; the others serve it in attention. Knows nothing of datasets or of the language loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_grounding.errors import ShapeError
from llava_grounding.model.outputs import VisualPromptOutput, VisualPromptPrediction, mask_logits_from
from llava_grounding.train.batching.targets import GroundingTarget, TargetBatch
from llava_grounding.train.losses.points import PointDraws, PointPlan, PointSource
from llava_grounding.train.losses.set_criterion import (
    WeightedLosses,
    bce_and_dice,
    box_losses,
    loss_key,
    mask_logits_and_targets,
)
from llava_grounding.train.losses.weights import LossWeights

PROMPT_LOSS_NAMES = ("loss_mask", "loss_dice", "loss_box", "loss_giou", "loss_score")


def named_prompt_predictions(output: VisualPromptOutput) -> dict[str, VisualPromptPrediction]:
    """The supervised predictions: `final`, `aux0` (the first layer) and so on."""
    return {"final": output} | {f"aux{index}": aux for index, aux in enumerate(output.aux_outputs)}


@dataclass(frozen=True)
class PromptCriterion(WeightedLosses):
    """Losses of a visual prompt encoder's output, by name; all layers count alike.

    Args:
        weights: what each kind of loss (mask, dice, box, giou, score) is multiplied with in the total.
        num_points: points at which a mask is judged; None judges all cells of the mask features against the part of
            each that the object covers, without any random draw.
        oversample_ratio: candidates per point, of which the most uncertain are taken.
        importance_ratio: share of points taken by uncertainty; the rest is random.
        score_target: the target of a mask's predicted score. `official` is what the original calls its IoU: one minus
            the dice loss at the points; `iou` is the IoU of the whole mask.

    Source: LLaVA-Grounding (arXiv:2312.02949); Semantic-SAM (arXiv:2307.04767).
    """

    weights: Mapping[str, float] = field(default_factory=lambda: LossWeights().of_prompts)
    num_points: int | None = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    score_target: Literal["official", "iou"] = "official"

    def __call__(
        self,
        output: VisualPromptOutput,
        targets: Sequence[GroundingTarget],
        points: PointSource | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses by name, and their sum as `loss`; arguments as for `unweighted`."""
        return self.weigh(self.unweighted(output, targets, points, generator))

    def unweighted(
        self,
        output: VisualPromptOutput,
        targets: Sequence[GroundingTarget],
        points: PointSource | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses before weights, by `loss_key`: means over all objects of the batch. Masks only where objects have one.

        Args:
            targets: one per image; its object i is what prompt i of that image points at. Prompts past the objects of
                an image are padding; `phrase_map` means nothing here.
            points: recorded random points instead of fresh ones, one row per object.
            generator: draws the random points; None takes torch's global one.

        Raises:
            ShapeError: if an image has more objects than prompts.
        """
        device = output.boxes_cxcywh_norm.device
        with torch.autocast(device.type, enabled=False):
            batch = _join(targets, output)
            layers = _FirstTokens.of(output, batch)
            sums = box_losses(layers.boxes_cxcywh_norm, batch.boxes_cxcywh_norm)
            if batch.masks is None:
                # Distributed training wants a gradient for every parameter, here one of zero.
                nothing = 0.0 * (layers.mask_logits.sum() + layers.scores.sum())
                sums["loss_box"] = sums["loss_box"] + nothing
            else:
                sums |= self._mask_sums(layers, batch, self._draw(layers, batch, points, generator))
        count = max(sum(batch.counts), 1)
        return {
            loss_key(name, prediction): value / count
            for name in PROMPT_LOSS_NAMES
            if name in sums
            for prediction, value in zip(layers.names, sums[name].unbind(), strict=True)
        }

    def _draw(
        self,
        layers: "_FirstTokens",
        batch: TargetBatch,
        points: PointSource | None,
        generator: torch.Generator | None,
    ) -> PointDraws:
        plan = PointPlan.of_masks(self.num_points, self.oversample_ratio, self.importance_ratio)
        device = layers.boxes_cxcywh_norm.device
        return plan.draw(layers.names, len(batch.counts), sum(batch.counts), device, points, generator)

    def _mask_sums(self, layers: "_FirstTokens", batch: TargetBatch, draws: PointDraws) -> dict[str, Tensor]:
        """Cross-entropy, dice, and the error of the predicted score, summed over objects: [D] each."""
        depth, total = layers.scores.shape
        masks = layers.mask_logits.flatten(0, 1).unsqueeze(1)  # [D * N, 1, h, w]
        rows = torch.arange(total, device=masks.device).repeat(depth)
        bce, dice = bce_and_dice(*mask_logits_and_targets(masks, batch, rows, draws, self.num_points))
        if self.score_target == "official":
            score = 1.0 - dice
        else:
            score = _iou(masks.flatten(1), batch.coverage((masks.shape[2], masks.shape[3]))[rows])
        error = F.mse_loss(layers.scores.flatten(), score.detach(), reduction="none")
        has_mask = batch.has_mask[rows]
        sums = {"loss_mask": bce, "loss_dice": dice, "loss_score": error}
        return {name: (value * has_mask).view(depth, total).sum(1) for name, value in sums.items()}


@dataclass(frozen=True)
class _FirstTokens:
    """What D layers say of the first token of N prompts, those that point at an object, in single precision."""

    names: tuple[str, ...]
    boxes_cxcywh_norm: Tensor
    """[D, N, 4]"""
    mask_logits: Tensor
    """[D, N, h, w]"""
    scores: Tensor
    """[D, N]"""

    @classmethod
    def of(cls, output: VisualPromptOutput, batch: TargetBatch) -> "_FirstTokens":
        predictions = named_prompt_predictions(output)
        values = predictions.values()
        prompts = batch.longest
        slots = batch.slot_index  # of a layout that is padded to the most objects of an image
        boxes = torch.stack([value.boxes_cxcywh_norm[:, :prompts, 0] for value in values]).float()
        scores = torch.stack([value.ious[:, :prompts, 0] for value in values]).float()
        embeds = torch.stack([value.mask_embeds[:, :prompts, 0] for value in values], dim=1).float()  # [B, D, M, C]
        logits = mask_logits_from(embeds.flatten(1, 2), output.mask_features.float())
        logits = logits.unflatten(1, (len(predictions), prompts)).transpose(0, 1)
        return cls(
            names=tuple(predictions),
            boxes_cxcywh_norm=boxes.flatten(1, 2).index_select(1, slots),
            mask_logits=logits.flatten(1, 2).index_select(1, slots),
            scores=scores.flatten(1, 2).index_select(1, slots),
        )


def _join(targets: Sequence[GroundingTarget], output: VisualPromptOutput) -> TargetBatch:
    images, prompts = output.boxes_cxcywh_norm.shape[:2]
    most = max((len(target) for target in targets), default=0)
    if len(targets) != images or most > prompts:
        raise ShapeError(
            f"every object needs a prompt: expected {images} targets of at most {prompts} objects, "
            f"got {len(targets)} of up to {most}"
        )
    phrases = max((target.phrase_map.shape[1] for target in targets), default=0)
    return TargetBatch.join(targets, phrases, output.boxes_cxcywh_norm.device)


def _iou(logits: Tensor, covered: Tensor) -> Tensor:
    """IoU of masks with logits [n, K] and of cells covered by half or more, [n]; 0 where both are empty."""
    ours, target = logits > 0, covered >= 0.5
    union = (ours | target).sum(1)
    return (ours & target).sum(1) / union.clamp(min=1)
