"""The weight of every loss and of every cost of matching, in one place and reachable from a recipe. Knows no tensors.

Criteria and matcher have their defaults from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossWeights:
    """Factors of a step's losses; the language loss has 1."""

    answer_words: float = 1.0
    """Weight of yes, no, numbers and colours in the language loss, wherever they stand in an answer: they decide it,
    few among many words that follow from the question alone."""
    grounding: float = 1.0
    """Factor of the grounder's losses beside the language loss, phrases and class names alike; 0.1 in the original's
    second stage."""
    words: float = 1.0
    """Factor of the loss that makes object tokens say the words of their thing; small once the model reads them."""
    prompts: float = 0.2
    """Factor of the prompt encoder's losses."""
    phrase_focal: float = 4.0
    """Factor of the focal loss of queries over the phrases of an answer, inside the grounder's: ten times its mean over
    the phrases of an image, with few or many. Those from here on as in the original."""
    class_focal: float = 4.0
    """Factor of the focal loss of queries over class names, "anything" among them: its sum, since the mean over many
    names of which few are right would vanish."""
    mask: float = 5.0
    """Factor of the cross-entropy of masks."""
    dice: float = 5.0
    """Factor of the dice loss of masks."""
    box: float = 5.0
    """Factor of the absolute difference of boxes."""
    giou: float = 2.0
    """Factor of the generalised IoU of boxes."""
    score: float = 1.0
    """Factor of the error of a visual prompt's predicted score."""
    naming: float = 2.0
    """Factor of the cross-entropy of matched queries over class names."""
    cells: float = 4.0
    """Factor of the cross-entropy of memory cells over class names."""
    denoising: float = 1.0
    """Factor of the losses of disturbed copies."""

    @property
    def of_masks_and_boxes(self) -> dict[str, float]:
        """Weights that all criteria share, by the kind of their loss."""
        return {"mask": self.mask, "dice": self.dice, "box": self.box, "giou": self.giou}

    @property
    def of_phrases(self) -> dict[str, float]:
        """Weights of the phrases' criterion, by the kind of their loss."""
        return {"class": self.phrase_focal, **self.of_masks_and_boxes}

    @property
    def of_classes(self) -> dict[str, float]:
        """Weights of the class names' criterion, by the kind of their loss."""
        return {"class": self.class_focal, **self.of_masks_and_boxes}

    @property
    def of_prompts(self) -> dict[str, float]:
        """Weights of the visual prompts' criterion, by the kind of their loss."""
        return {**self.of_masks_and_boxes, "score": self.score}


@dataclass(frozen=True)
class MatchingCosts:
    """Factors of what makes an object query fit an object; as in the original."""

    focal: float = 4.0
    """Factor of the focal cost of the object's phrases."""
    mask: float = 5.0
    """Factor of the cross-entropy of masks."""
    dice: float = 5.0
    """Factor of the dice cost of masks."""
    box: float = 5.0
    """Factor of the absolute difference of boxes."""
    giou: float = 2.0
    """Factor of the negated generalised IoU of boxes."""
