"""What each stage learns, from what: the losses of one step.

`pretrain_grounder` teaches the vision part with class names as phrases, before there is any language. `chat` trains
language, grounding and visual prompts together, the class names staying on as a second task.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava_grounding.model.llava_grounding import ImageFeatures, LlavaGroundingForConditionalGeneration
from llava_grounding.model.outputs import GrounderOutput
from llava_grounding.model.shared_tower import SharedVisionTower
from llava_grounding.train.batches import ChatBatch, ClassBatch
from llava_grounding.train.class_losses import ClassPhrases, class_losses
from llava_grounding.train.losses import SetCriterion
from llava_grounding.train.matcher import HungarianMatcher
from llava_grounding.train.word_loss import word_loss


@dataclass(frozen=True)
class Criteria:
    """One criterion for class names, one for phrases."""

    classes: SetCriterion
    phrases: SetCriterion

    @classmethod
    def of(cls, num_classes: int, num_points: int | None) -> Criteria:
        """With `num_points=None` masks are judged on every cell."""
        # The class loss is a mean over columns; 0.4 per column is a weight of 4 on their sum, as with few phrases.
        return cls(
            SetCriterion(
                loss_class_weight=0.4 * (1 + num_classes), num_points=num_points, matcher=_matcher(num_points)
            ),
            SetCriterion(num_points=num_points, phrase_normalisation="valid", matcher=_matcher(num_points)),
        )


def _matcher(num_points: int | None) -> HungarianMatcher:
    return HungarianMatcher(num_points=num_points)


def pretrain_losses(
    model: LlavaGroundingForConditionalGeneration, phrases: ClassPhrases, criteria: Criteria, batch: ClassBatch
) -> dict[str, Tensor]:
    """Losses of class names as phrases; `loss` is their weighted sum."""
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    return class_losses(model, phrases, criteria.classes, memory, batch)[2]


def chat_losses(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases,
    criteria: Criteria,
    batch: ChatBatch,
    grounding_weight: float,
    word_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Language loss, grounding loss of the `<seg>` phrases and of the class names; `loss` is their weighted sum."""
    features, proposals, named = _look(model, phrases, criteria, batch)
    pixels = batch.images["grounder_pixel_values"]

    texts = batch.texts
    output = model(
        input_ids=texts["input_ids"],
        grounder_pixel_values=pixels,
        attention_mask=texts["attention_mask"],
        labels=texts["labels"],
        region_prompts=batch.prompts,
        image_features=features,
        use_cache=False,
    )
    losses = {"language": output.loss} | {f"class_{name}": value for name, value in named.items()}
    total = output.loss
    if named:
        total = total + word_weight * named["words"] + grounding_weight * named["loss"]
    embeds, found = model.phrase_states(output.last_hidden_state, texts["input_ids"])
    if embeds.shape[1]:
        mask = batch.phrase_mask[:, : embeds.shape[1]] & found
        projected = model.phrase_projector(embeds)
        if proposals is not None and model.config.phrase_queries == "image":
            grounding = model.grounder.rescore(proposals, projected, mask)
        else:
            grounding = model.grounder.ground(features.memory, projected, mask, with_aux=True)
        phrase_losses = criteria.phrases(grounding, batch.targets, mask)
        total = total + grounding_weight * phrase_losses["loss"]
        losses |= {f"phrase_{name}": value for name, value in phrase_losses.items()}
    return losses | {"loss": total}


def _look(
    model: LlavaGroundingForConditionalGeneration, phrases: ClassPhrases, criteria: Criteria, batch: ChatBatch
) -> tuple[ImageFeatures, GrounderOutput | None, dict[str, Tensor]]:
    """Image features, the queries found, and the losses of class names; none of these while the grounder is frozen."""
    pixels, tower = batch.images["grounder_pixel_values"], model.vision_tower
    frozen = not any(parameter.requires_grad for parameter in model.grounder.parameters())
    if not isinstance(tower, SharedVisionTower):
        features = model.encode_image(pixels, batch.images["pixel_values"])
        if frozen:
            return features, None, {}
        proposals, result, named = class_losses(model, phrases, criteria.classes, features.memory, batch.classes)
        return features, proposals, named | {"words": word_loss(model, proposals, result, batch.words)}
    named = {}
    if frozen:
        with torch.no_grad():
            memory = model.grounder.encode_image(pixels)
            proposals = tower.propose(model.grounder, memory)
    else:
        memory = model.grounder.encode_image(pixels)
        proposals, result, named = class_losses(model, phrases, criteria.classes, memory, batch.classes)
        named["words"] = word_loss(model, proposals, result, batch.words)
    features = model.features_from(model.multi_modal_projector(tower(memory, proposals)), memory)
    return features, proposals, named
