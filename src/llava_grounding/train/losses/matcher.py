"""Hungarian matching of object queries to ground-truth objects.

Costs of all images and all decoder layers are one tensor, and one transfer brings them to the CPU, where scipy assigns.
Knows predictions and targets only; what is done with the pairs is the business of `set_criterion.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from llava_grounding.geometry import box_cxcywh_to_xyxy, generalized_iou
from llava_grounding.model.outputs import GrounderPrediction, mask_logits_from
from llava_grounding.train.batching.targets import GroundingTarget, TargetBatch, as_batch
from llava_grounding.train.losses.points import PointPlan, PointSource, sample_maps, sample_masks
from llava_grounding.train.losses.settings import FocalSettings
from llava_grounding.train.losses.weights import MatchingCosts

LOG_EPSILON = 1e-6


@dataclass(frozen=True)
class StackedPredictions:
    """D predictions of the same B images, in single precision."""

    names: tuple[str, ...]
    phrase_logits: Tensor
    """[D, B, Q, G]"""
    boxes_cxcywh_norm: Tensor
    """[D, B, Q, 4]"""
    mask_embeds: Tensor
    """[D, B, Q, Cm]"""
    mask_features: Tensor
    """[B, Cm, h, w]"""

    @classmethod
    def of(cls, predictions: dict[str, GrounderPrediction], mask_features: Tensor) -> "StackedPredictions":
        """Stack predictions in the order given."""
        values = predictions.values()
        boxes = torch.stack([value.boxes_cxcywh_norm for value in values]).float()
        return cls(
            names=tuple(predictions),
            phrase_logits=torch.stack([value.phrase_logits for value in values]).float(),
            boxes_cxcywh_norm=boxes,
            mask_embeds=torch.stack([value.mask_embeds for value in values]).float(),
            mask_features=mask_features.float().expand(boxes.shape[1], -1, -1, -1),
        )

    def detach(self) -> "StackedPredictions":
        """The same values outside of the graph."""
        tensors = (self.phrase_logits, self.boxes_cxcywh_norm, self.mask_embeds, self.mask_features)
        return StackedPredictions(self.names, *(tensor.detach() for tensor in tensors))


@dataclass(frozen=True)
class Pairs:
    """P matched pairs of each of D predictions, image after image, in each image by rising query."""

    queries: Tensor
    """[D, P] query within its image."""
    targets: Tensor
    """[D, P] row of the joined targets."""
    image_index: Tensor
    """[P] image of each pair; the same for all predictions."""
    counts: tuple[int, ...]
    """Pairs of each image."""

    @property
    def per_prediction(self) -> int:
        """P."""
        return sum(self.counts)


@dataclass(frozen=True)
class HungarianMatcher:
    """Assigns to every object the query that fits it best, no query twice.

    Args:
        weights: of the focal cost of the object's phrases (their mean; 0 for an object without phrases), the mask's
            mean binary cross-entropy and dice cost, the summed absolute differences of cxcywh, and the negated
            generalised IoU.
        num_points: random points at which masks are compared; None compares cells of the mask features with the
            part of each that the object covers, which is cheaper for small images and draws nothing at random.
        max_cells: with `num_points=None`, cells a side beyond which squares of them are compared by their mean.
        focal: of the focal cost.

    Source: DETR (arXiv:2005.12872) section 3.1; point costs as in Mask2Former (arXiv:2112.01527) section 3.3.
    """

    weights: MatchingCosts = MatchingCosts()
    num_points: int | None = 12544
    max_cells: int | None = None
    focal: FocalSettings = FocalSettings()

    def __call__(
        self,
        prediction: GrounderPrediction,
        mask_features: Tensor,
        targets: Sequence[GroundingTarget] | TargetBatch,
        points: PointSource | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Match one prediction.

        Returns:
            Per image the matched queries, rising, and the objects they belong to, as int64 on the CPU.
        """
        stacked, batch, drawn = self._prepare(prediction, mask_features, targets, points)
        pairs = self.assign(self.costs(stacked, batch, drawn), batch)
        first_rows = np.cumsum([0, *batch.counts[:-1]])
        queries = pairs.queries[0].cpu().split(pairs.counts)
        rows = pairs.targets[0].cpu().split(pairs.counts)
        return [(query, row - int(first)) for query, row, first in zip(queries, rows, first_rows, strict=True)]

    @torch.no_grad()
    def costs(self, predictions: StackedPredictions, targets: TargetBatch, points: Tensor | None) -> Tensor:
        """Costs [D, B, Q, M]; columns past an image's objects mean nothing.

        Args:
            points: [D, B, num_points, 2], or None when masks are compared cell by cell or not at all.
        """
        predictions = predictions.detach()
        with torch.autocast(predictions.boxes_cxcywh_norm.device.type, enabled=False):
            cost = self.weights.focal * _class_costs(predictions.phrase_logits, targets, self.focal)
            boxes = targets.padded(targets.boxes_cxcywh_norm).unsqueeze(1)  # [B, 1, M, 4]
            queries = predictions.boxes_cxcywh_norm.unsqueeze(3)  # [D, B, Q, 1, 4]
            cost += self.weights.box * (queries - boxes).abs().sum(-1)
            cost -= self.weights.giou * generalized_iou(box_cxcywh_to_xyxy(queries), box_cxcywh_to_xyxy(boxes))
            if targets.masks is not None:
                cost += self._mask_costs(predictions, targets, points)
        return cost

    @torch.no_grad()
    def assign(self, costs: Tensor, targets: TargetBatch) -> Pairs:
        """The cheapest assignment of each image for each prediction; costs are [D, B, Q, M]."""
        num_predictions, _, num_queries, _ = costs.shape
        # A diverged model must surface as a loss of NaN, not as an error of the assignment.
        table = torch.nan_to_num(costs, nan=1e9, posinf=1e9, neginf=-1e9).cpu().numpy()
        counts = tuple(min(count, num_queries) for count in targets.counts)
        queries = np.empty((num_predictions, sum(counts)), dtype=np.int64)
        rows = np.empty_like(queries)
        first_pair, first_row = 0, 0
        for image, (count, pairs) in enumerate(zip(targets.counts, counts, strict=True)):
            here = slice(first_pair, first_pair + pairs)
            for layer in range(num_predictions):
                query, target = linear_sum_assignment(table[layer, image, :, :count])
                queries[layer, here], rows[layer, here] = query, target + first_row
            first_pair, first_row = first_pair + pairs, first_row + count
        images = np.repeat(np.arange(len(counts)), counts)
        device = costs.device
        return Pairs(
            torch.from_numpy(queries).to(device),
            torch.from_numpy(rows).to(device),
            torch.from_numpy(images).to(device),
            counts,
        )

    def _prepare(
        self,
        prediction: GrounderPrediction,
        mask_features: Tensor,
        targets: Sequence[GroundingTarget] | TargetBatch,
        points: PointSource | None,
    ) -> tuple[StackedPredictions, TargetBatch, Tensor | None]:
        stacked = StackedPredictions.of({"final": prediction}, mask_features)
        device = mask_features.device
        batch = as_batch(targets, prediction.phrase_logits.shape[2], device)
        plan = PointPlan(self.num_points if batch.masks is not None else None, 0, 0)
        return stacked, batch, plan.draw(("final",), len(batch.counts), 0, device, points).matcher

    def _mask_costs(self, predictions: StackedPredictions, targets: TargetBatch, points: Tensor | None) -> Tensor:
        """Weighted mask costs [D, B, Q, M]; 0 for objects without a mask."""
        embeds, features = predictions.mask_embeds, predictions.mask_features
        has_mask = targets.padded(targets.has_mask).unsqueeze(1)  # [B, 1, M]
        if points is None:
            sides = features.shape[2:]
            stride = -(-max(sides) // (self.max_cells or max(sides)))
            height, width = (-(-side // stride) for side in sides)
            target = targets.padded(targets.coverage((height, width)))
            features = F.adaptive_avg_pool2d(features, (height, width))
            num_queries = embeds.shape[2]
            logits = mask_logits_from(embeds.transpose(0, 1).flatten(1, 2), features)  # [B, D * Q, h, w]
            cost = self._pointwise_costs(logits.flatten(2), target) * has_mask
            return cost.unflatten(1, (-1, num_queries)).transpose(0, 1)
        assert targets.masks is not None
        rows = torch.arange(len(targets.image_index), device=features.device)
        costs = []
        for layer, layer_points in enumerate(points):
            # Sampling features and not masks: as many channels as the query's embedding, but far fewer places.
            logits = mask_logits_from(embeds[layer], sample_maps(features, layer_points))
            target = targets.padded(sample_masks(targets.masks, rows, layer_points[targets.image_index]))
            costs.append(self._pointwise_costs(logits, target) * has_mask)
        return torch.stack(costs)

    def _pointwise_costs(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy and dice of mask logits [B, Q, K] against coverages [B, M, K], as [B, Q, M]."""
        target_t = target.transpose(1, 2)
        bce = (F.softplus(logits).sum(2, keepdim=True) - torch.bmm(logits, target_t)) / logits.shape[2]
        prob = logits.sigmoid()
        total = prob.sum(2, keepdim=True) + target.sum(2).unsqueeze(1)
        dice = 1.0 - (2.0 * torch.bmm(prob, target_t) + 1.0) / (total + 1.0)
        return self.weights.mask * bce + self.weights.dice * dice


def _class_costs(phrase_logits: Tensor, targets: TargetBatch, focal: FocalSettings) -> Tensor:
    """Focal cost of each object's phrases, their mean, [D, B, Q, M]."""
    prob = phrase_logits.sigmoid()
    present = focal.alpha * (1.0 - prob) ** focal.gamma * -(prob + LOG_EPSILON).log()
    absent = (1.0 - focal.alpha) * prob**focal.gamma * -(1.0 - prob + LOG_EPSILON).log()
    share = targets.phrase_map / targets.phrase_map.sum(1, keepdim=True).clamp(min=1.0)
    return (present - absent) @ targets.padded(share).transpose(1, 2)
