"""The losses of one step: language, phrases of the dialogue, class names, and what is pointed at.

Each is a sum over tokens or objects, divided by how many of them the whole step holds on all devices, so that it makes
no difference how a step is split. Two are means weighted by objects, and thus nearly so: what cells show, and words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from llava_grounding.model.language import language_loss
from llava_grounding.model.llava_grounding import ImageFeatures, LlavaGroundingForConditionalGeneration
from llava_grounding.model.placement import any_trainable
from llava_grounding.train.batching.batches import ChatBatch, ClassBatch
from llava_grounding.train.batching.independent_turns import branch_attention_mask
from llava_grounding.train.losses.class_losses import ClassPhrases, class_losses, hide_phrases
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.prompt_losses import PromptCriterion
from llava_grounding.train.losses.word_loss import word_loss


@dataclass(frozen=True)
class Shares:
    """How much of a step a micro-batch is: its part of the target tokens, and of the objects."""

    tokens: Tensor | float = 1.0
    objects: Tensor | float = 1.0
    prompts: Tensor | float = 1.0

    @classmethod
    def of(cls, batch: ChatBatch | ClassBatch, totals: Tensor | None) -> Shares:
        """Shares of a batch in a step with these totals; None means that the batch is the step."""
        if totals is None:
            return cls()
        return cls(*(batch.counts.to(totals).clamp(min=1) / totals.clamp(min=1)).unbind())


def pretrain_losses(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases,
    criteria: Criteria,
    batch: ClassBatch,
    shares: Shares = Shares(),
    denoising: int = 0,
) -> dict[str, Tensor]:
    """Losses of class names as phrases; `loss` is their weighted sum."""
    memory = model.image_memory(batch.images["grounder_pixel_values"])
    losses = class_losses(model, phrases, criteria, memory, batch, denoising).losses
    return {name: value * shares.objects for name, value in losses.items()}


def chat_losses(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases | None,
    criteria: Criteria,
    batch: ChatBatch,
    shares: Shares = Shares(),
    ground: bool = True,
    denoising: int = 0,
    token_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Language loss, grounding loss of the `<seg>` phrases and of the class names; `loss` is their weighted sum.

    Args:
        phrases: of the class names; None leaves that task out, as does a batch without them.
        ground: whether the phrases of the dialogue are grounded at all.
        denoising: disturbed copies of each object in the class task.
        token_weights: see `forward_dialogues`.
    """
    if phrases is not None and batch.classes is not None and any_trainable(model.grounder):
        features = model.encode_image(**batch.images, **phrases.scored(batch.classes.phrase_mask))
        named = _class_task(model, phrases, criteria, batch, features, denoising)
    else:
        features, named = model.encode_image(**batch.images), {}
    output = forward_dialogues(model, batch, features, token_weights)
    named = {name: value * shares.objects for name, value in named.items()}
    language = output.loss * shares.tokens
    losses = {"language": language} | {f"class_{name}": value for name, value in named.items()}
    total, weights = language, criteria.weights
    if named:
        total = total + weights.words * named["words"] + weights.grounding * named["loss"]
    if ground:
        states, ids = output.last_hidden_state, batch.texts["input_ids"]
        grounding, found = model.ground_phrases(features, states, ids, with_aux=True)
        judged = F.pad(batch.phrase_mask, (0, 1))[:, : found.shape[1]] & found
        phrase_losses = criteria.phrases(hide_phrases(grounding, judged), batch.targets, judged)
        phrase_losses = {name: value * shares.objects for name, value in phrase_losses.items()}
        total = total + weights.grounding * phrase_losses["loss"]
        losses |= {f"phrase_{name}": value for name, value in phrase_losses.items()}
    if batch.pointed is not None:
        prompt_losses = _point(model, criteria.prompts, batch, output.image_features)
        prompt_losses = {name: value * shares.prompts for name, value in prompt_losses.items()}
        total = total + weights.prompts * prompt_losses["loss"]
        losses |= {f"prompt_{name}": value for name, value in prompt_losses.items()}
    if not total.requires_grad:  # nothing trainable had a part in this batch: a gradient of zero
        total = sum((one.sum() * 0.0 for one in model.parameters() if one.requires_grad), total)
    return losses | {"loss": total}


@dataclass(frozen=True)
class DialogueOutput:
    """The language model's loss and hidden states of true dialogues."""

    loss: Tensor
    """Mean over the target tokens."""
    last_hidden_state: Tensor
    """[B, T, D]"""
    image_features: ImageFeatures
    """Image features, with what the visual prompt encoder reads where it was needed."""


def forward_dialogues(
    model: LlavaGroundingForConditionalGeneration,
    batch: ChatBatch,
    features: ImageFeatures,
    token_weights: Tensor | None = None,
) -> DialogueOutput:
    """The language model's forward pass over true dialogues and its loss, in training and in validation.

    Only target positions are scored: [B, T, vocabulary] logits would be most of the memory, and nobody reads them.

    Args:
        token_weights: [V], factors on the cross-entropy of the vocabulary's tokens; None for 1.
    """
    texts, attention_mask = batch.texts, batch.texts["attention_mask"]
    if "branches" in texts:
        attention_mask = branch_attention_mask(texts["branches"], next(model.language_model.parameters()).dtype)
    output = model(
        input_ids=texts["input_ids"],
        grounder_pixel_values=batch.images["grounder_pixel_values"],
        attention_mask=attention_mask,
        position_ids=texts.get("position_ids"),
        region_prompts=batch.prompts,
        image_features=features,
        use_cache=False,
        logits_to_keep=1,
    )
    hidden = output.last_hidden_state
    loss = language_loss(model.logits, hidden, texts["labels"], token_weights=token_weights)
    return DialogueOutput(loss, hidden, output.image_features or features)


def _point(
    model: LlavaGroundingForConditionalGeneration, criterion: PromptCriterion, batch: ChatBatch, features: ImageFeatures
) -> dict[str, Tensor]:
    """Losses of the prompt encoder on things that are pointed at, each prompt by itself."""
    assert batch.pointed is not None
    memory = model.with_prompt_memory(features, batch.images["grounder_pixel_values"]).prompt_memory
    assert memory is not None
    output = model.encode_regions(memory, batch.pointed.prompts, isolate=True, with_aux=True)
    return criterion(output, batch.pointed.targets)


def _class_task(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases,
    criteria: Criteria,
    batch: ChatBatch,
    features: ImageFeatures,
    denoising: int,
) -> dict[str, Tensor]:
    """Losses of class names on the queries that the language model reads, and of what these tokens say."""
    assert batch.classes is not None
    assert batch.words is not None
    found = class_losses(model, phrases, criteria, features.memory, batch.classes, denoising, features.proposals)
    return found.losses | {"words": word_loss(model, found.grounding, found.matched, batch.words)}
