"""A vision tower without a backbone of its own: it reads the grounder's image memory.

Image tokens are the coarsest feature cells followed by the best object queries of a phrase-free look at the image
(one learned "anything" phrase), as region tokens in Groma (arXiv:2404.13013). One pass over the pixels then serves
grounder, prompt encoder and language model, where the original makes three.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llava_grounding.model.grounder import Grounder
from llava_grounding.model.heads import sine_box_embedding
from llava_grounding.model.outputs import GrounderOutput, ImageMemory

_NUM_FREQS = 16  # sine features per box coordinate


class SharedVisionTower(nn.Module):
    """Image tokens from the grounder's memory.

    Args:
        hidden_size: width of memory cells and queries.
        phrase_size: width of phrase embeddings.
        num_objects: how many object queries become tokens.
    """

    def __init__(self, hidden_size: int, phrase_size: int, num_objects: int) -> None:
        super().__init__()
        self.num_objects = num_objects
        self.anything = nn.Parameter(torch.randn(phrase_size) * phrase_size**-0.5)
        self.cell_norm = nn.LayerNorm(hidden_size)
        self.object_norm = nn.LayerNorm(hidden_size)
        self.cell_in = nn.Linear(hidden_size + 4 * _NUM_FREQS, hidden_size * 2)
        self.object_in = nn.Linear(hidden_size + 4 * _NUM_FREQS + 1, hidden_size * 2)

    @property
    def output_size(self) -> int:
        """Width of the image tokens."""
        return self.cell_in.out_features

    def forward(self, batch_size: int) -> Float[Tensor, "B 1 D"]:
        """The "anything" phrase, once for each image.

        It is all that this module holds itself, so that what brings weights in for a call brings it in as well.
        """
        return self.anything.expand(batch_size, 1, -1)

    def propose(
        self,
        grounder: Grounder,
        memory: ImageMemory,
        phrase_embeds: Float[Tensor, "B G D"] | None = None,
        phrase_mask: Bool[Tensor, "B G"] | None = None,
        with_aux: bool | None = None,
    ) -> GrounderOutput:
        """Look at the image with the "anything" phrase, which alone selects the queries.

        Args:
            phrase_embeds, phrase_mask: phrases that these queries are scored against in every layer; None for none.
            with_aux: see `Grounder.ground`.

        Returns:
            The queries, with the logits of "anything" in column 0 and those of the phrases behind.
        """
        anything = self(memory.memory.shape[0]).to(memory.memory)
        embeds, mask = anything, torch.ones(anything.shape[:2], dtype=torch.bool, device=anything.device)
        if phrase_embeds is not None and phrase_mask is not None:
            embeds = torch.cat([anything, phrase_embeds.to(anything)], dim=1)
            mask = torch.cat([mask, phrase_mask], dim=1)
        return grounder.ground(memory, embeds, mask, with_aux, selection_embeds=anything)

    def tokens(self, memory: ImageMemory, proposals: GrounderOutput) -> Float[Tensor, "B P C"]:
        """Tokens of the coarsest cells, row by row, then of the best objects, best first."""
        return torch.cat([self._cells(memory), self._objects(proposals)], dim=1)

    def _cells(self, memory: ImageMemory) -> Float[Tensor, "B N C"]:
        height, width = memory.level_sizes_hw[0]
        cells = memory.memory[:, : height * width]
        y = (torch.arange(height, device=cells.device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=cells.device, dtype=torch.float32) + 0.5) / width
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        size = torch.ones_like(grid_x)
        boxes = torch.stack([grid_x, grid_y, size / width, size / height], dim=-1).reshape(1, height * width, 4)
        cells = self.cell_norm(cells)
        places = sine_box_embedding(boxes, 4 * _NUM_FREQS).to(cells).expand(cells.shape[0], -1, -1)
        return self.cell_in(torch.cat([cells, places], dim=-1))

    def object_tokens(self, proposals: GrounderOutput) -> Float[Tensor, "B Q C"]:
        """Every query as a token: what it is, where, and how sure."""
        places = sine_box_embedding(proposals.boxes_cxcywh_norm.detach().float(), 4 * _NUM_FREQS)
        queries = self.object_norm(proposals.queries)
        score = proposals.phrase_logits[:, :, :1].detach().float().sigmoid()
        return self.object_in(torch.cat([queries, places.to(queries), score.to(queries)], dim=-1))

    def _objects(self, proposals: GrounderOutput) -> Float[Tensor, "B K C"]:
        scores = proposals.phrase_logits[:, :, 0]  # [B, Q]
        best = scores.topk(min(self.num_objects, scores.shape[1]), dim=1).indices
        tokens = self.object_tokens(proposals)
        tokens = tokens.gather(1, best[:, :, None].expand(-1, -1, tokens.shape[2]).to(tokens.device))
        missing = self.num_objects - tokens.shape[1]
        return nn.functional.pad(tokens, (0, 0, 0, missing)) if missing else tokens
