"""The grounder (OpenSeeD without its text encoder): image + phrase embeddings -> boxes, masks and phrase logits.

Two halves: `encode_image` sees no phrase and can be cached, `ground` sees no pixel. Nothing is thresholded here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llava_grounding.errors import ConfigError, ShapeError
from llava_grounding.model.heads import MLP, PhraseSimilarityHead
from llava_grounding.model.outputs import GrounderOutput, GrounderPrediction, ImageMemory
from llava_grounding.model.pixel_decoder import cell_centres
from llava_grounding.model.query_decoder import DecoderStep, QueryDecoder

PROPOSAL_ORDERS = ("official", "fine_small")
_BORDER = 0.01  # a proposal is valid if all its numbers keep this distance from 0 and 1


@dataclass
class SelectedQueries:
    """The memory cells that become object queries."""

    states: Float[Tensor, "B Q C"]
    """Projected content of the queries."""
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]
    """Their boxes in [0, 1]."""
    indices: Int[Tensor, "B Q"]
    """Which memory cells they are, best first."""


class QuerySelection(nn.Module):
    """First stage: scores every memory cell against the phrases and keeps the best as object queries.

    Source: two-stage Deformable DETR (arXiv:2010.04159), with phrases in place of classes.
    """

    def __init__(self, hidden_size: int, num_queries: int, proposal_scale: float, proposal_order: str) -> None:
        super().__init__()
        if proposal_order not in PROPOSAL_ORDERS:
            raise ConfigError(f"proposal_order must be one of {', '.join(PROPOSAL_ORDERS)}, got `{proposal_order}`")
        self.num_queries = num_queries
        self.proposal_scale = proposal_scale
        self.proposal_order = proposal_order
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(
        self,
        image: ImageMemory,
        phrase_embeds: Float[Tensor, "B G D"],
        phrase_mask: Bool[Tensor, "B G"],
        similarity: Callable[[Tensor, Tensor, Tensor], Tensor],
        box_head: Callable[[Tensor], Tensor],
    ) -> SelectedQueries:
        """Select min(num_queries, N) cells per image; without any phrase, valid cells from coarse to fine.

        Args:
            similarity: logits of states, given phrases and which are real.
            box_head: change of a box in logit space, given states.
        """
        proposals, valid = self.proposals(image.level_sizes_hw, image.memory.device)
        memory = image.memory.masked_fill(~valid[:, None], 0.0)
        with torch.no_grad():  # only the chosen cells learn, and they are projected again below
            scores = self._scores(similarity(self._project(memory), phrase_embeds, phrase_mask), phrase_mask)
            scores = scores.masked_fill(~valid, -torch.inf)
            indices = scores.topk(min(self.num_queries, memory.shape[1]), dim=1).indices
        chosen = memory.expand(len(indices), -1, -1).gather(1, indices[..., None].expand(-1, -1, memory.shape[2]))
        states = self._project(chosen)
        boxes = (box_head(states).float() + proposals[indices]).sigmoid()
        return SelectedQueries(states, boxes, indices)

    def _project(self, cells: Tensor) -> Tensor:
        return self.norm(self.projection(cells))

    def proposals(
        self, level_sizes_hw: tuple[tuple[int, int], ...], device: torch.device
    ) -> tuple[Float[Tensor, "N 4"], Bool[Tensor, " N"]]:
        """Anchor of every memory cell as cxcywh logits, +inf where it is too near the border; and which are valid."""
        boxes = []
        for level, size_hw in enumerate(level_sizes_hw):
            step = level if self.proposal_order == "official" else len(level_sizes_hw) - 1 - level
            centres = cell_centres(size_hw, device).flatten(0, 1)
            sides = torch.full_like(centres, self.proposal_scale * 2**step)
            boxes.append(torch.cat([centres, sides], dim=-1))
        anchors = torch.cat(boxes)
        valid = ((anchors > _BORDER) & (anchors < 1 - _BORDER)).all(-1)
        logits = (anchors / (1 - anchors)).log()
        return logits.masked_fill(~valid[:, None], torch.inf), valid

    @staticmethod
    def _scores(phrase_logits: Tensor, phrase_mask: Tensor) -> Tensor:
        order = -torch.arange(phrase_logits.shape[1], dtype=torch.float32, device=phrase_logits.device)
        if phrase_logits.shape[2] == 0:
            return order.expand(phrase_logits.shape[:2])
        best = phrase_logits.masked_fill(~phrase_mask[:, None, :], -torch.inf).amax(-1)
        return torch.where(phrase_mask.any(1, keepdim=True), best, order)


class Grounder(nn.Module):
    """Finds the regions that phrases point at.

    Args:
        backbone: pixels -> maps at strides 4, 8, 16, 32.
        pixel_decoder: maps -> `ImageMemory`.
        hidden_size, mask_size: must be the pixel decoder's.
        phrase_size: width of a phrase embedding.
        num_queries: object queries selected from memory.
        proposal_scale: side of the smallest anchor, share of the image; it doubles with each level.
        initial_logit_bias: see `PhraseSimilarityHead`; None as the original.
        proposal_order: which level has the smallest anchor: the coarsest ("official", a quirk) or the finest.

    Source: LLaVA-Grounding (arXiv:2312.02949); OpenSeeD (arXiv:2303.08131); MaskDINO (arXiv:2206.02777).
    """

    def __init__(
        self,
        backbone: nn.Module,
        pixel_decoder: nn.Module,
        hidden_size: int = 256,
        mask_size: int = 256,
        phrase_size: int = 4096,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        decoder_layers: int = 9,
        decoder_ffn_size: int = 2048,
        num_queries: int = 300,
        proposal_scale: float = 0.05,
        proposal_order: str = "official",
        initial_logit_bias: float | None = None,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.phrase_size = phrase_size
        self.query_selection = QuerySelection(hidden_size, num_queries, proposal_scale, proposal_order)
        self.query_decoder = QueryDecoder(
            hidden_size, num_heads, num_levels, num_points, decoder_layers, decoder_ffn_size, implementation
        )
        self.similarity_head = PhraseSimilarityHead(hidden_size, phrase_size, initial_logit_bias)
        self.mask_head = MLP(hidden_size, hidden_size, hidden_size, mask_size)

    def encode_image(self, pixel_values: Float[Tensor, "B 3 H W"]) -> ImageMemory:
        """The phrase-independent half.

        Args:
            pixel_values: RGB, normalised, padded so that both sides are multiples of 32.

        Raises:
            ShapeError: if H or W is not a multiple of 32.
        """
        return self.pixel_decoder(self.backbone(pixel_values))

    def ground(
        self,
        memory: ImageMemory,
        phrase_embeds: Float[Tensor, "B G D"],
        phrase_mask: Bool[Tensor, "B G"],
        with_aux: bool | None = None,
        selection_embeds: Float[Tensor, "B S D"] | None = None,
    ) -> GrounderOutput:
        """Find the regions each phrase points at.

        Args:
            memory: from `encode_image`; of batch B, or of batch 1 to share one image among all rows.
            phrase_embeds: `<seg>` hidden states, as they leave the language model; G may be 0.
            phrase_mask: False where a phrase is padding; such phrases influence nothing.
            with_aux: also predict from every earlier layer, as the losses need; None: in training mode.
            selection_embeds: phrases that select the queries in place of those that are looked for; None: the same.

        Returns:
            Every query's prediction, not thresholded. Queries are fewer than `num_queries` if memory has fewer cells.
        """
        batch = phrase_embeds.shape[0]
        if memory.memory.shape[0] not in (1, batch):
            raise ShapeError(
                f"memory of {memory.memory.shape[0]} images does not fit phrases of {batch}; "
                f"give one image or as many images as rows of phrases"
            )
        with_aux = self.training if with_aux is None else with_aux
        phrases = phrase_embeds, phrase_mask
        selecting = phrases
        if selection_embeds is not None:
            selecting = selection_embeds, phrase_mask.new_ones(selection_embeds.shape[:2])
        # The calls of the heads and not the heads: offloading, which brings weights in for a call, would move a module
        # given as an argument as if it were a tensor.
        heads = self.similarity_head.__call__, self.query_decoder.box_head.__call__
        selected = self.query_selection(memory, *selecting, *heads)
        states, boxes = selected.states.detach(), selected.boxes_cxcywh_norm.detach()
        output = self.refine(memory, states, boxes, *phrases, with_aux=with_aux)
        interm = None
        if with_aux:
            interm = self._predict(self.query_decoder.norm(selected.states), selected.boxes_cxcywh_norm, *phrases)
        return replace(output, topk_indices=selected.indices, interm=interm)

    def refine(
        self,
        memory: ImageMemory,
        states: Float[Tensor, "B Q C"],
        boxes: Float[Tensor, "B Q 4"],
        phrase_embeds: Float[Tensor, "B G D"],
        phrase_mask: Bool[Tensor, "B G"],
        with_aux: bool = True,
        group_size: int | None = None,
        query_mask: Bool[Tensor, "B Q"] | None = None,
    ) -> GrounderOutput:
        """Refine queries that begin with these states and boxes, and predict from them.

        Args:
            with_aux: also predict from every earlier layer.
            group_size, query_mask: which queries see each other; see `QueryDecoder`.

        Returns:
            Predictions of the queries; `topk_indices` is their order, since nothing was selected.
        """
        phrases = phrase_embeds, phrase_mask
        steps = self.query_decoder(states, boxes, memory, group_size, query_mask)
        aux: tuple[GrounderPrediction, ...] = ()
        if with_aux:
            initial = self._predict(self.query_decoder.norm(states), boxes, *phrases)
            aux = (initial, *(self._predict(*self._read(step), *phrases) for step in steps[:-1]))
        queries, boxes = self._read(steps[-1])
        final = self._predict(queries, boxes, *phrases)
        return GrounderOutput(
            phrase_logits=final.phrase_logits,
            boxes_cxcywh_norm=final.boxes_cxcywh_norm,
            mask_embeds=final.mask_embeds,
            queries=queries,
            mask_features=memory.mask_features.expand(len(states), -1, -1, -1),
            topk_indices=torch.arange(states.shape[1], device=states.device).expand(len(states), -1),
            aux_outputs=aux,
        )

    def rescore(
        self,
        output: GrounderOutput,
        phrase_embeds: Float[Tensor, "B G D"],
        phrase_mask: Bool[Tensor, "B G"],
    ) -> GrounderOutput:
        """Score queries found earlier against other phrases: same boxes and masks, new logits, no decoder pass.

        Args:
            output: of batch B, or of batch 1 to share one image among all rows.
        """
        batch = phrase_embeds.shape[0]
        return GrounderOutput(
            phrase_logits=self.similarity_head(output.queries, phrase_embeds, phrase_mask),
            boxes_cxcywh_norm=output.boxes_cxcywh_norm.expand(batch, -1, -1),
            mask_embeds=output.mask_embeds.expand(batch, -1, -1),
            queries=output.queries.expand(batch, -1, -1),
            mask_features=output.mask_features.expand(batch, -1, -1, -1),
            topk_indices=output.topk_indices.expand(batch, -1),
        )

    def forward(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        phrase_embeds: Float[Tensor, "B G D"],
        phrase_mask: Bool[Tensor, "B G"],
    ) -> GrounderOutput:
        """Both halves, one after the other."""
        return self.ground(self.encode_image(pixel_values), phrase_embeds, phrase_mask)

    def _read(self, step: DecoderStep) -> tuple[Tensor, Tensor]:
        # The box head reads the state normalised once, the other heads normalise it again: so it was trained.
        boxes = self.query_decoder.boxes_of(step.states, step.references_in)
        return self.query_decoder.norm(step.states), boxes

    def _predict(self, states: Tensor, boxes: Tensor, phrase_embeds: Tensor, phrase_mask: Tensor) -> GrounderPrediction:
        return GrounderPrediction(
            phrase_logits=self.similarity_head(states, phrase_embeds, phrase_mask),
            boxes_cxcywh_norm=boxes,
            mask_embeds=self.mask_head(states),
        )
