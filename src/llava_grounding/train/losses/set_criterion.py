"""Set criterion of the grounder: what every decoder layer loses on its matched queries.

Classes by focal loss on all queries, masks by cross-entropy and dice at few points, boxes by L1 and generalised IoU.
All layers are computed together, masks only for matched queries. Knows nothing of datasets or of the language loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_grounding.geometry import box_cxcywh_to_xyxy, generalized_iou
from llava_grounding.model.outputs import GrounderOutput, GrounderPrediction, mask_logits_from
from llava_grounding.train.batching.targets import GroundingTarget, TargetBatch, as_batch
from llava_grounding.train.losses.matcher import (
    HungarianMatcher,
    Pairs,
    StackedPredictions,
)
from llava_grounding.train.losses.points import (
    PointDraws,
    PointPlan,
    PointSource,
    keep_uncertain,
    sample_maps,
    sample_masks,
)
from llava_grounding.train.losses.settings import FocalSettings
from llava_grounding.train.losses.weights import LossWeights

_MEAN_SCALE = 10.0  # the original multiplies the mean over phrases by ten before weights


def named_predictions(output: GrounderOutput) -> dict[str, GrounderPrediction]:
    """The supervised predictions of a grounder: `final`, `aux0` (before the first layer) ..., `interm`."""
    predictions: dict[str, GrounderPrediction] = {"final": output}
    predictions |= {f"aux{index}": aux for index, aux in enumerate(output.aux_outputs)}
    if output.interm is not None:
        predictions["interm"] = output.interm
    return predictions


def loss_key(loss: str, prediction: str) -> str:
    """Name under which a prediction's loss is returned: `loss_box`, `loss_box_aux0`, `loss_box_interm`."""
    return loss if prediction == "final" else f"{loss}_{prediction}"


@dataclass(frozen=True)
class CriterionResult:
    """Losses before weights, and what they were computed from."""

    losses: dict[str, Tensor]
    """Losses by `loss_key`. Mask losses are absent when no object of the batch has a mask."""
    costs: Tensor
    """[D, B, Q, M] of the matching; columns past an image's objects mean nothing."""
    pairs: Pairs
    """Matched queries and objects of each prediction."""
    num_objects: float
    """N, what sums over pairs were divided by."""


class WeightedLosses:
    """Base of criteria that have a weight for each kind of loss: `box` for `loss_box` and `loss_box_aux0`."""

    weights: Mapping[str, float]

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses by `loss_key` times the weights of their kinds, and the sum of all as `loss`."""
        scaled = {key: self.weights[key.split("_")[1]] * loss for key, loss in losses.items()}
        return scaled | {"loss": torch.stack(list(scaled.values())).sum()}


@dataclass(frozen=True)
class SetCriterion(WeightedLosses):
    """Losses of a grounder's output, by name.

    Args:
        matcher: finds the pairs of query and object.
        weights: what each kind of loss (class, mask, dice, box, giou) is multiplied with in the total.
        num_points: points at which a mask is judged; None judges all cells of the mask features against the part of
            each that the object covers, without any random draw.
        oversample_ratio: candidates per point, of which the most uncertain are taken.
        importance_ratio: share of points taken by uncertainty; the rest is random.
        phrase_reduction: how the class loss is taken over phrases. `official_mean`: ten times the mean over all phrases
            of the batch, padded ones included; `valid_mean`: ten times the mean over the phrases that each image
            really has, so that padding changes nothing; `sum`: the sum.
        focal: of the class loss.

    Source: DETR (arXiv:2005.12872), MaskDINO (arXiv:2206.02777), LLaVA-Grounding (arXiv:2312.02949).
    """

    matcher: HungarianMatcher = field(default_factory=HungarianMatcher)
    weights: Mapping[str, float] = field(default_factory=lambda: LossWeights().of_phrases)
    num_points: int | None = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    phrase_reduction: Literal["official_mean", "valid_mean", "sum"] = "official_mean"
    focal: FocalSettings = FocalSettings()

    def __call__(
        self,
        output: GrounderOutput,
        targets: Sequence[GroundingTarget] | TargetBatch,
        phrase_mask: Tensor | None = None,
        points: PointSource | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses by name, and their sum as `loss`.

        Args:
            targets: one per image.
            phrase_mask: [B, G] bool, True for real phrases; None when no phrase is padding.
            points: recorded random points instead of fresh ones.
            generator: draws the random points; None takes torch's global one.
        """
        return self.weigh(self.unweighted(output, targets, phrase_mask, points, generator).losses)

    def unweighted(
        self,
        output: GrounderOutput,
        targets: Sequence[GroundingTarget] | TargetBatch,
        phrase_mask: Tensor | None = None,
        points: PointSource | None = None,
        generator: torch.Generator | None = None,
        pairs: Pairs | None = None,
        partly_labelled: Tensor | None = None,
    ) -> CriterionResult:
        """Losses before weights, with the pairs they come from; arguments as for the call.

        Args:
            pairs: queries and objects that belong together, instead of matching them; an object may have several.
            partly_labelled: [B, G] bool, phrases that may name objects without a label: a query that matches nothing
                is not judged by them.
        """
        device = output.boxes_cxcywh_norm.device
        with torch.autocast(device.type, enabled=False):
            stacked = StackedPredictions.of(named_predictions(output), output.mask_features)
            batch = as_batch(targets, stacked.phrase_logits.shape[3], device)
            draws = self._draw(stacked, batch, points, generator, pairs)
            if pairs is None:
                costs = self.matcher.costs(stacked, batch, draws.matcher)
                pairs = self.matcher.assign(costs, batch)
            else:
                costs = stacked.boxes_cxcywh_norm.new_zeros(0)
            num_objects = float(max(sum(batch.counts), 1))
            sums = {"loss_class": self._class_sums(stacked, batch, pairs, phrase_mask, partly_labelled)}
            if batch.masks is None:
                # Distributed training wants a gradient for every parameter, here one of zero.
                sums["loss_class"] = sums["loss_class"] + 0.0 * (
                    stacked.mask_embeds.sum() + stacked.mask_features.sum()
                )
            else:
                sums |= self._mask_sums(stacked, batch, pairs, draws)
            sums |= _box_sums(stacked, batch, pairs)
        losses = {
            loss_key(name, prediction): value / num_objects
            for name, values in sums.items()
            for prediction, value in zip(stacked.names, values.unbind(), strict=True)
        }
        return CriterionResult(losses, costs, pairs, num_objects)

    def _draw(
        self,
        predictions: StackedPredictions,
        targets: TargetBatch,
        points: PointSource | None,
        generator: torch.Generator | None,
        pairs: Pairs | None = None,
    ) -> PointDraws:
        if targets.masks is None:
            return PointDraws(None, None, None)
        plan = PointPlan.of_masks(
            self.num_points, self.oversample_ratio, self.importance_ratio, self.matcher.num_points
        )
        num_queries = predictions.boxes_cxcywh_norm.shape[2]
        num_pairs = sum(min(count, num_queries) for count in targets.counts)
        if pairs is not None:
            num_pairs = pairs.per_prediction
        device = predictions.boxes_cxcywh_norm.device
        return plan.draw(predictions.names, len(targets.counts), num_pairs, device, points, generator)

    def _class_sums(
        self,
        predictions: StackedPredictions,
        targets: TargetBatch,
        pairs: Pairs,
        phrase_mask: Tensor | None,
        partly_labelled: Tensor | None,
    ) -> Tensor:
        """Focal loss of all queries against the phrases of their matched objects, reduced over phrases, summed: [D]."""
        logits = predictions.phrase_logits
        num_queries, num_phrases = logits.shape[2:]
        target = torch.zeros_like(logits).flatten(1, 2)
        rows = (pairs.image_index * num_queries + pairs.queries).unsqueeze(2).expand(-1, -1, num_phrases)
        target = target.scatter(1, rows, targets.phrase_map[pairs.targets]).view_as(logits)
        losses = sigmoid_focal_loss(logits, target, self.focal)
        if partly_labelled is not None:
            matched = torch.zeros_like(logits[..., 0]).flatten(1, 2).scatter(1, rows[..., 0], 1.0)
            unmatched = 1.0 - matched.view_as(logits[..., 0])
            losses = losses * (1.0 - unmatched[..., None] * partly_labelled[:, None].to(losses))
        if self.phrase_reduction == "sum":
            return losses.sum((1, 2, 3))
        if self.phrase_reduction == "official_mean" or phrase_mask is None:
            per_phrase = 1.0 / max(num_phrases, 1)
            return _MEAN_SCALE * per_phrase * losses.sum((1, 2, 3))
        valid = phrase_mask.to(losses.device, losses.dtype)
        share = valid / valid.sum(1, keepdim=True).clamp(min=1.0)
        return _MEAN_SCALE * (losses.sum(2) * share).sum((1, 2))

    def _mask_sums(
        self, predictions: StackedPredictions, targets: TargetBatch, pairs: Pairs, draws: PointDraws
    ) -> dict[str, Tensor]:
        """Cross-entropy and dice of the matched masks, summed over pairs: [D] each."""
        layers, total = pairs.queries.shape
        masks = matched_mask_logits(predictions, pairs).flatten(0, 1).unsqueeze(1)  # [D * P, 1, h, w]
        rows = pairs.targets.flatten()
        bce, dice = bce_and_dice(*mask_logits_and_targets(masks, targets, rows, draws, self.num_points))
        has_mask = targets.has_mask[rows]
        return {
            "loss_mask": (bce * has_mask).view(layers, total).sum(1),
            "loss_dice": (dice * has_mask).view(layers, total).sum(1),
        }


def choose_points(masks: Tensor, oversampled: Tensor, random_tail: Tensor, num_points: int) -> Tensor:
    """Points [n, K, 2] for masks [n, 1, h, w]: the random tail, and as many of the most uncertain candidates."""
    logits = sample_maps(masks, oversampled).squeeze(1)
    uncertain = keep_uncertain(logits, oversampled, num_points - random_tail.shape[1])
    return torch.cat([uncertain, random_tail], dim=1)


def mask_logits_and_targets(
    masks: Tensor, targets: TargetBatch, rows: Tensor, draws: PointDraws, num_points: int | None
) -> tuple[Tensor, Tensor]:
    """What masks say and what they should, [n, K] each: at the points drawn, or in all h * w cells where none are.

    Args:
        masks: logits, [n, 1, h, w].
        targets: of a batch with masks.
        rows: [n], the object of each mask.
        draws: points of D predictions with n / D masks each.
        num_points: how many of the drawn points are kept.
    """
    if draws.oversampled is None or draws.random_tail is None:
        return masks.flatten(1), targets.coverage((masks.shape[2], masks.shape[3]))[rows]
    assert targets.masks is not None
    oversampled, random_tail = draws.oversampled.flatten(0, 1), draws.random_tail.flatten(0, 1)
    points = choose_points(masks.detach(), oversampled, random_tail, num_points or 0)
    return sample_maps(masks, points).squeeze(1), sample_masks(targets.masks, rows, points)


def bce_and_dice(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and dice loss (smoothed by one) of n masks [n, K], each [n]."""
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    prob = logits.sigmoid()
    overlap = 2.0 * (prob * target).sum(1) + 1.0
    return bce, 1.0 - overlap / (prob.sum(1) + target.sum(1) + 1.0)


def matched_mask_logits(predictions: StackedPredictions, pairs: Pairs) -> Tensor:
    """Mask logits of the matched queries, [D, P, h, w]: the pairs of each image padded to the most of any."""
    embeds = predictions.mask_embeds
    layers, batch, num_queries, channels = embeds.shape
    flat = embeds.flatten(1, 2)
    rows = (pairs.image_index * num_queries + pairs.queries).unsqueeze(2).expand(-1, -1, channels)
    matched = flat.gather(1, rows)  # [D, P, C]
    widest = max(pairs.counts, default=0)
    counts = torch.tensor(pairs.counts, device=embeds.device)
    first = counts.cumsum(0) - counts
    place = torch.arange(pairs.per_prediction, device=embeds.device) - first[pairs.image_index]
    slots = pairs.image_index * widest + place
    padded = matched.new_zeros(layers, batch * widest, channels).index_copy(1, slots, matched)
    padded = padded.unflatten(1, (batch, widest)).transpose(0, 1).flatten(1, 2)  # [B, D * widest, C]
    logits = mask_logits_from(padded, predictions.mask_features).unflatten(1, (layers, widest))
    return logits.transpose(0, 1).flatten(1, 2).index_select(1, slots)


def sigmoid_focal_loss(logits: Tensor, target: Tensor, focal: FocalSettings) -> Tensor:
    """Focal loss of each entry."""
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    prob = logits.sigmoid()
    miss = prob + target - 2.0 * prob * target
    alpha = focal.alpha * target + (1.0 - focal.alpha) * (1.0 - target)
    return alpha * bce * miss**focal.gamma


def _box_sums(predictions: StackedPredictions, targets: TargetBatch, pairs: Pairs) -> dict[str, Tensor]:
    """L1 and 1 - generalised IoU of the matched boxes, summed over pairs: [D] each."""
    boxes = predictions.boxes_cxcywh_norm
    rows = (pairs.image_index * boxes.shape[2] + pairs.queries).unsqueeze(2).expand(-1, -1, 4)
    matched = boxes.flatten(1, 2).gather(1, rows)
    return box_losses(matched, targets.boxes_cxcywh_norm[pairs.targets])


def box_losses(found: Tensor, target: Tensor) -> dict[str, Tensor]:
    """L1 and 1 - generalised IoU of boxes cxcywh [D, n, 4] and their targets, [D, n, 4] or [n, 4]: sums over n, [D]."""
    return {
        "loss_box": (found - target).abs().sum((1, 2)),
        "loss_giou": (1.0 - generalized_iou(box_cxcywh_to_xyxy(found), box_cxcywh_to_xyxy(target))).sum(1),
    }
