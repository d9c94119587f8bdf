"""Object tokens say what they are: the image token of a matched query predicts the words of its thing.

Stands where LLaVA aligns its projector on captions. The language model's own output layer reads the token as if it were
a final state, so that an image token lies near the words that describe it before any attention has been learnt.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from llava_grounding.model.language import final_norm
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.outputs import IGNORE_INDEX, GrounderOutput
from llava_grounding.model.shared_tower import SharedVisionTower
from llava_grounding.train.losses.set_criterion import CriterionResult


def word_loss(
    model: LlavaGroundingForConditionalGeneration, output: GrounderOutput, result: CriterionResult, words: Tensor
) -> Tensor:
    """Cross-entropy of each matched query's image token against the words of its thing, mean over words."""
    tower, pairs = model.vision_tower, result.pairs
    if not isinstance(tower, SharedVisionTower) or not len(pairs.image_index) or not words.shape[1]:
        return output.queries.sum() * 0.0
    tokens = model.multi_modal_projector(tower.object_tokens(output))  # [B, Q, D]
    matched = tokens[pairs.image_index, pairs.queries[0]]
    logits = model.logits(final_norm(model.language_model)(matched)).float()
    target = words[pairs.targets[0]]
    real = target != IGNORE_INDEX
    chosen = F.log_softmax(logits, dim=-1).gather(1, target.clamp(min=0))
    return -(chosen * real).sum() / real.sum().clamp(min=1)
