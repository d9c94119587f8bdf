"""The weight of every loss, in one place and reachable from a recipe. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossWeights:
    """Factors of a step's losses; the language loss has 1."""

    grounding: float = 1.0
    """Of the grounder's losses beside the language loss, phrases and class names alike; 0.1 in the original's second
    stage."""
    words: float = 1.0
    """Of the loss that makes object tokens say the words of their thing; small once the model reads them."""
    prompts: float = 0.2
    """Of the prompt encoder's losses."""
    focal: float = 4.0
    """Of the focal loss of queries and phrases, inside the grounder's; those from here on as in the original."""
    mask: float = 5.0
    """Of the cross-entropy of masks."""
    dice: float = 5.0
    """Of the dice loss of masks."""
    box: float = 5.0
    """Of the absolute difference of boxes."""
    giou: float = 2.0
    """Of the generalised IoU of boxes."""
    score: float = 1.0
    """Of the error of a visual prompt's predicted score."""
    naming: float = 2.0
    """Of the cross-entropy of matched queries over class names."""
    cells: float = 4.0
    """Of the cross-entropy of memory cells over class names."""
    denoising: float = 1.0
    """Of the losses of disturbed copies."""
