"""How much each token of the vocabulary counts in the language loss.

A short answer is decided by one word; the rest follows from the question. Without more weight that word is lost among
them, and a small model answers "yes" or "no" without a look at the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_grounding.colours import COLOURS
from llava_grounding.language.synonyms import NUMBER_WORDS
from llava_grounding.processing.tokens import MarkupTokenizer

ANSWER_WORDS = ("Yes", "No", *NUMBER_WORDS, *COLOURS)


def answer_word_weights(tokens: MarkupTokenizer, vocab_size: int, weight: float) -> Tensor | None:
    """[V]: `weight` for words of `ANSWER_WORDS` that are one token, 1 for all others; None if all are 1."""
    if weight == 1:
        return None
    weights = torch.ones(vocab_size)
    for word in ANSWER_WORDS:
        for ids in (tokens.encode_plain(word), tokens.encode_plain(f" {word}")):
            if len(ids) == 1:
                weights[ids[0]] = weight
    return weights
