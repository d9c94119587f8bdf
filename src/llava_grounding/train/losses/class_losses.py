"""Class names as a task of their own: sets of queries, which class a matched query is, and what every cell shows.

The set loss alone finds things long before it can name them: each image names three or four queries, but shows hundreds
of cells. The two cross-entropies are what makes a small backbone learn 100 kinds in an hour (docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.outputs import (
    IGNORE_INDEX,
    PADDED_PHRASE_LOGIT,
    GrounderOutput,
    GrounderPrediction,
    ImageMemory,
)
from llava_grounding.model.pixel_decoder import cell_centres
from llava_grounding.model.shared_tower import SharedVisionTower
from llava_grounding.train.batching.batches import ANYTHING, ClassBatch
from llava_grounding.train.batching.targets import TargetBatch
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.denoising import denoising_losses
from llava_grounding.train.losses.set_criterion import CriterionResult, named_predictions
from llava_grounding.train.losses.settings import CellTargets

_TOUCHING = 1e-6  # a shared border is no overlap
Prediction = TypeVar("Prediction", bound=GrounderPrediction)


class ClassPhrases(nn.Module):
    """A learned phrase embedding per class name: stands in for a language model while the grounder is young.

    Args:
        names: class names; column 0 of every class batch stands for anything, the names follow.
        phrase_size: width of a phrase embedding.
        hidden_size: width of memory cells.
    """

    def __init__(self, names: list[str], phrase_size: int, hidden_size: int) -> None:
        super().__init__()
        self.names = list(names)
        self.embeds = nn.Parameter(torch.randn(len(names), phrase_size) * phrase_size**-0.5)
        self.cell_head = nn.Linear(hidden_size, 1 + len(names))

    def extended(self, names: list[str]) -> ClassPhrases:
        """The same with further classes, whose weights start fresh."""
        if not names:
            return self
        classes, size = self.embeds.shape
        longer = ClassPhrases([*self.names, *names], size, self.cell_head.in_features)
        with torch.no_grad():
            longer.embeds[:classes] = self.embeds
            longer.cell_head.weight[: 1 + classes] = self.cell_head.weight
            longer.cell_head.bias[: 1 + classes] = self.cell_head.bias
        return longer

    def scored(self, mask: Tensor) -> dict[str, Tensor]:
        """What `encode_image` scores its queries against: the names' embeddings, and which a class batch judges."""
        return {"class_embeds": self.embeds.expand(mask.shape[0], -1, -1), "class_mask": mask[:, ANYTHING + 1 :]}

    @property
    def index(self) -> dict[str, int]:
        """Column of each class."""
        return {name: column for column, name in enumerate(self.names, start=1)}


def ground_classes(
    model: LlavaGroundingForConditionalGeneration, phrases: ClassPhrases, memory: ImageMemory, mask: Tensor
) -> GrounderOutput:
    """One look at the images with "anything" and every class name as phrases.

    With the shared tower it is the look whose queries the language model is shown: "anything" alone picks them, though
    the mask may say that it is not judged, and class names are scored on them. Otherwise the mask's phrases pick them.
    """
    embeds: Tensor = phrases.embeds
    tower = model.vision_tower
    if isinstance(tower, SharedVisionTower):
        scored = phrases.scored(mask)
        return tower.propose(model.grounder, memory, scored["class_embeds"], scored["class_mask"], with_aux=True)
    embeds = torch.cat([embeds.mean(dim=0)[None], embeds])
    return model.grounder.ground(memory, embeds.expand(mask.shape[0], -1, -1), mask, with_aux=True)


@dataclass(frozen=True)
class ClassTaskOutput:
    """What the task of class names found in the images, what was matched in it, and its losses."""

    grounding: GrounderOutput
    matched: CriterionResult
    losses: dict[str, Tensor]
    """Losses by name; `loss` is their weighted sum."""


def class_losses(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases,
    criteria: Criteria,
    memory: ImageMemory,
    batch: ClassBatch,
    denoising: int = 0,
    output: GrounderOutput | None = None,
) -> ClassTaskOutput:
    """Losses of class names as phrases.

    With `denoising`, so many disturbed copies of each object learn to be put right as well.

    "Anything" is judged only where `phrase_mask` says so, though the shared tower looks for it in every image.

    Args:
        output: of `ground_classes`, where the image's features have it already.
    """
    if output is None:
        output = ground_classes(model, phrases, memory, batch.phrase_mask)
    judged = hide_phrases(output, batch.phrase_mask)
    targets = TargetBatch.join(batch.targets, batch.phrase_mask.shape[1], memory.memory.device)
    criterion, weights = criteria.classes, criteria.weights
    result = criterion.unweighted(judged, targets, batch.phrase_mask, partly_labelled=batch.partly_labelled)
    losses = criterion.weigh(result.losses)
    naming = naming_loss(judged, targets, result)
    cells = cell_loss(phrases.cell_head, memory, targets, batch.phrase_mask, criteria.cells)
    total = losses["loss"] + weights.naming * naming + weights.cells * cells
    losses |= {"naming": naming, "cells": cells}
    if denoising:
        embeds = torch.cat([phrases.embeds[:1].detach() * 0.0, phrases.embeds])
        disturbed = denoising_losses(
            model.grounder, embeds, criterion, memory, targets, batch.phrase_mask, denoising, criteria.noise
        )
        losses["denoising"] = disturbed["loss"]
        total = total + weights.denoising * disturbed["loss"]
    return ClassTaskOutput(output, result, losses | {"loss": total})


def hide_phrases(output: GrounderOutput, phrase_mask: Tensor) -> GrounderOutput:
    """The same output in all its layers, with the logits of masked phrases as those of padding."""
    hidden = ~phrase_mask[:, None, :]

    def without(prediction: Prediction) -> Prediction:
        logits = prediction.phrase_logits.masked_fill(hidden, PADDED_PHRASE_LOGIT)
        return replace(prediction, phrase_logits=logits)

    return replace(
        without(output),
        aux_outputs=tuple(without(aux) for aux in output.aux_outputs),
        interm=None if output.interm is None else without(output.interm),
    )


def naming_loss(output: GrounderOutput, targets: TargetBatch, result: CriterionResult) -> Tensor:
    """Cross-entropy over the image's class columns of every matched query, mean over pairs and layers.

    Things without a class do not count.
    """
    pairs, classes = result.pairs, object_classes(targets)
    if not len(pairs.image_index):
        return output.phrase_logits.sum() * 0.0
    losses = []
    for layer, prediction in enumerate(named_predictions(output).values()):
        logits = prediction.phrase_logits.float()[pairs.image_index, pairs.queries[layer], ANYTHING + 1 :]
        target = classes[pairs.targets[layer]]
        total = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum")
        losses.append(total / (target != IGNORE_INDEX).sum().clamp(min=1))
    return torch.stack(losses).mean()


def object_classes(targets: TargetBatch) -> Tensor:
    """Class of every object, counted from 0, [N]; -100 for things without one."""
    classes = targets.phrase_map[:, ANYTHING + 1 :]
    return torch.where(classes.any(1), classes.argmax(1), IGNORE_INDEX)


def cell_loss(
    head: nn.Linear,
    memory: ImageMemory,
    targets: TargetBatch,
    phrase_mask: Tensor,
    settings: CellTargets = CellTargets(),
) -> Tensor:
    """Cross-entropy of what each cell of the finest level shows: a class, or column 0 for nothing.

    Cells partly covered do not count, nor do cells outside of all things where labels are not exhaustive. Of a thing
    without a mask the middle of its box counts, and no more of it.
    """
    size_hw = memory.level_sizes_hw[-1]
    cells = memory.memory[:, -size_hw[0] * size_hw[1] :]
    logits = head(cells)  # [B, n, 1 + classes]
    if targets.longest == 0:
        return logits.sum() * 0.0
    labels = cell_labels(targets, phrase_mask, size_hw, settings).flatten()
    if not bool((labels != IGNORE_INDEX).any()):
        return logits.sum() * 0.0
    weight = torch.ones(logits.shape[2], device=logits.device)
    weight[0] = settings.background_weight
    return F.cross_entropy(logits.float().flatten(0, 1), labels, weight=weight, ignore_index=IGNORE_INDEX)


def cell_labels(
    targets: TargetBatch, phrase_mask: Tensor, size_hw: tuple[int, int], settings: CellTargets = CellTargets()
) -> Tensor:
    """What each cell shows, [B, h * w]: a class column, 0 for nothing, -100 for cells that do not count."""
    middle, touched = _box_cells(targets, size_hw, settings)
    known = targets.has_mask[:, None]
    if targets.masks is not None:
        coverage = targets.coverage(size_hw)
        middle, touched = torch.lerp(middle, coverage, known), torch.lerp(touched, coverage, known)
    classes = object_classes(targets)
    classes = targets.padded(torch.where(classes == IGNORE_INDEX, IGNORE_INDEX, classes + 1))  # [B, M]
    most, owner = targets.padded(middle).max(dim=1)
    labels = torch.full_like(owner, IGNORE_INDEX)
    exhaustive = phrase_mask[:, ANYTHING, None]
    untouched = targets.padded(touched).amax(dim=1) <= settings.max_background_coverage
    labels = labels.masked_fill(untouched & exhaustive, 0)
    return torch.where(most >= settings.min_coverage, classes.gather(1, owner), labels)


def _box_cells(targets: TargetBatch, size_hw: tuple[int, int], settings: CellTargets) -> tuple[Tensor, Tensor]:
    """Cells of each object's box as coverages [N, h * w]: those in its middle, and those that it touches.

    Of two boxes the smaller owns a cell, being in front more often; a mask, whose coverage is 1, owns it before both.
    """
    centres = cell_centres(size_hw, targets.boxes_cxcywh_norm.device).flatten(0, 1)  # [n, 2]
    cell = centres.new_tensor([1 / size_hw[1], 1 / size_hw[0]])
    middles, sides = targets.boxes_cxcywh_norm[:, None, :2], targets.boxes_cxcywh_norm[:, None, 2:]
    distance = (centres - middles).abs()  # [N, n, 2]
    inside = (distance <= torch.maximum(sides * settings.box_middle, cell) / 2).all(-1)
    touched = (distance < (sides + cell) / 2 - _TOUCHING).all(-1)
    rank = 1.0 - (1.0 - settings.min_coverage) * sides.prod(-1).sqrt().clamp(max=1.0)
    return inside * rank, touched.float()
