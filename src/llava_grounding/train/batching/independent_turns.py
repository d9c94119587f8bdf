"""Several dialogues about one image in one sequence, none of which sees another.

The image is read once, and each dialogue continues from it as if it were alone: positions begin again behind the image,
and attention is cut between the branches. Losses are those of as many separate sequences, at a fraction of the cost;
only where the phrases select the object queries (`phrase_queries: phrases`), those of all branches select together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from llava_grounding.processing.processor import EncodedText
from llava_grounding.processing.regions import EncodedPrompts

PREFIX, PADDING = 0, -1


@dataclass(frozen=True)
class Branches:
    """Where each position of a joined text belongs."""

    numbers: list[int]
    """`PREFIX` up to the image, then 1, 2, ... for each dialogue."""
    positions: list[int]
    """Positions of the tokens as if their dialogue stood alone."""

    @classmethod
    def of_one(cls, length: int) -> Branches:
        """Branches of a text that is one dialogue."""
        return cls([PREFIX] * length, list(range(length)))


def join_texts(texts: Sequence[EncodedText], image_token_id: int) -> tuple[EncodedText, Branches]:
    """The texts of one image as one, with what they begin with, up to the image's last placeholder, only once.

    Texts without an image share nothing.
    """
    first = texts[0]
    shared = max((place + 1 for place, token in enumerate(first.input_ids) if token == image_token_id), default=0)
    ids, loss_mask = first.input_ids[:shared], first.loss_mask[:shared]
    numbers, positions = [PREFIX] * shared, list(range(shared))
    for number, text in enumerate(texts, start=1):
        assert text.input_ids[:shared] == first.input_ids[:shared]
        length = len(text.input_ids)
        ids, loss_mask = ids + text.input_ids[shared:], loss_mask + text.loss_mask[shared:]
        numbers += [number] * (length - shared)
        positions += range(shared, length)
    prompts = EncodedPrompts(
        *(
            np.concatenate([getattr(text.prompts, name) for text in texts])
            for name in ("boxes_cxcywh_norm", "types", "coverage")
        )
    )
    return EncodedText(ids, loss_mask, prompts), Branches(numbers, positions)


def collate_branches(branches: Sequence[Branches], length: int) -> dict[str, Tensor]:
    """`branches` and `position_ids` of a batch of joined texts, both [B, T], padded on the right to T = `length`."""
    numbers = torch.full((len(branches), length), PADDING)
    positions = torch.zeros_like(numbers)
    for row, one in enumerate(branches):
        numbers[row, : len(one.numbers)] = torch.tensor(one.numbers)
        positions[row, : len(one.positions)] = torch.tensor(one.positions)
    return {"branches": numbers, "position_ids": positions}


def branch_attention_mask(branches: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """What is added to attention scores: 0 where a position sees another, else the least number of the type.

    A position sees those before it in the prefix and in its own branch. Padding sees itself alone.
    """
    count = branches.shape[1]
    before = torch.ones(count, count, dtype=torch.bool, device=branches.device).tril()
    seen = (branches[:, None, :] == PREFIX) | (branches[:, None, :] == branches[:, :, None])
    itself = torch.eye(count, dtype=torch.bool, device=branches.device)
    allowed = (before & seen & (branches != PADDING)[:, None, :]) | itself
    mask = torch.zeros(allowed.shape, dtype=dtype, device=branches.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
