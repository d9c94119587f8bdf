"""Which hidden state of the language model stands for a phrase, in a whole sequence and while one is being written.

Either that of its `<seg>` (`at_seg`), known when the `<seg>` has been read, or that of the position before it
(`before_seg`), from which the `<seg>` was chosen. Knows no grounder.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PhraseStates:
    """The rule of one model.

    Args:
        seg_token_id: of `<seg>`.
        at_seg: whether a `<seg>`'s own state counts, and not that of the position before.
    """

    seg_token_id: int
    at_seg: bool

    def known_when_chosen(self, token: int | None) -> bool:
        """Whether the state from which a token was chosen stands for a phrase."""
        return token == self.seg_token_id and not self.at_seg

    def known_when_read(self, token: int | None) -> bool:
        """Whether the state of a token itself, once it has been read, stands for a phrase."""
        return token == self.seg_token_id and self.at_seg

    def lacks_last(self, sequences: Int[Tensor, "B T"]) -> bool:
        """Whether a row ends with a `<seg>` whose state is not known as long as the last position is not read."""
        return self.at_seg and bool((sequences[:, -1] == self.seg_token_id).any())

    def collect(
        self, hidden: Float[Tensor, "B T D"], input_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B G D"], Bool[Tensor, "B G"]]:
        """The state of every phrase, padded to the row with most of them, and which are no padding.

        Args:
            hidden: last hidden states of the whole sequence.
            mask: which `<seg>` positions count; None means all.
        """
        found = input_ids == self.seg_token_id
        if mask is not None:
            found = found & mask
        counts = found.sum(dim=1)
        width = int(counts.max()) if counts.numel() else 0
        order = found.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        positions = order if self.at_seg else order - 1
        states = hidden.gather(1, positions.clamp(min=0)[:, :, None].expand(-1, -1, hidden.shape[2]))
        return states, torch.arange(width, device=hidden.device)[None] < counts[:, None]
