"""Visual prompt encoder (Semantic-SAM style): click, box, scribble or mask -> one region embedding each.

Same two halves as the grounder: `encode_image` sees no prompt, `encode_prompts` no pixel. Knows no language model, only
the width of its embeddings.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llava_grounding.errors import ConfigError, ShapeError
from llava_grounding.model.heads import MLP, inverse_sigmoid
from llava_grounding.model.outputs import ImageMemory, VisualPromptOutput, VisualPromptPrediction
from llava_grounding.model.query_decoder import DecoderStep, QueryDecoder


class VisualPromptEncoder(nn.Module):
    """Turns prompts into region embeddings, with a mask and a box of what each is thought to mean.

    Every prompt becomes `num_mask_tokens` queries that start at its box; the first gives the embedding.

    Args:
        backbone, pixel_decoder: its own image side, or None for both when it reads the grounder's memory.
        output_size: width of a region embedding.

    Source: LLaVA-Grounding (arXiv:2312.02949); Semantic-SAM (arXiv:2307.04767).
    """

    def __init__(
        self,
        backbone: nn.Module | None = None,
        pixel_decoder: nn.Module | None = None,
        hidden_size: int = 256,
        mask_size: int = 256,
        output_size: int = 4096,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        decoder_layers: int = 9,
        decoder_ffn_size: int = 2048,
        num_mask_tokens: int = 3,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        if (backbone is None) != (pixel_decoder is None):
            raise ConfigError("give both backbone and pixel_decoder, or neither to read the grounder's memory")
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.label_embed = nn.Embedding(2, hidden_size)  # only row 0 is used; the original has a second one
        self.type_embed = nn.Embedding(2, hidden_size)
        self.mask_tokens = nn.Embedding(num_mask_tokens, hidden_size)
        # Starts at zero: weights trained without it keep their outputs, and bounds alone are the starting point.
        self.coverage_projection = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.zeros_(self.coverage_projection.weight)
        self.query_decoder = QueryDecoder(
            hidden_size, num_heads, num_levels, num_points, decoder_layers, decoder_ffn_size, implementation
        )
        self.mask_head = MLP(hidden_size, hidden_size, hidden_size, mask_size)
        self.iou_head = MLP(hidden_size, hidden_size, hidden_size, 1)
        self.region_projection = nn.Linear(hidden_size, output_size)

    def encode_image(self, pixel_values: Float[Tensor, "B 3 H W"]) -> ImageMemory:
        """The prompt-independent half.

        Raises:
            ShapeError: if H or W is not a multiple of 32.
            ConfigError: if this encoder has no image side.
        """
        if self.backbone is None or self.pixel_decoder is None:
            raise ConfigError("this visual prompt encoder has no backbone: give it the grounder's image memory")
        return self.pixel_decoder(self.backbone(pixel_values))

    def encode_prompts(
        self,
        memory: ImageMemory,
        boxes_cxcywh_norm: Float[Tensor, "B K 4"],
        prompt_types: Int[Tensor, "B K"],
        prompt_mask: Bool[Tensor, "B K"],
        isolate: bool = True,
        region_coverage: Float[Tensor, "B K h w"] | None = None,
        with_aux: bool | None = None,
    ) -> VisualPromptOutput:
        """Encode the prompts of each image.

        Args:
            memory: from `encode_image`; of batch B, or of batch 1 to share one image.
            boxes_cxcywh_norm: bounds of each prompt in [0, 1] of the padded image; a click is a small box around it.
            prompt_types: 0 click or scribble, 1 box or mask.
            prompt_mask: False where a prompt is padding; such prompts influence nothing.
            isolate: prompts of one image do not see each other. The original isolates in training only.
            region_coverage: share of each cell of any grid over the padded image that a scribble or free mask covers;
                all zero for clicks and boxes.
            with_aux: also predict from every earlier layer, as the losses need; None: in training mode.
        """
        batch, prompts = boxes_cxcywh_norm.shape[:2]
        if memory.memory.shape[0] not in (1, batch):
            raise ShapeError(f"memory of {memory.memory.shape[0]} images does not fit prompts of {batch} images")
        with_aux = self.training if with_aux is None else with_aux
        tokens = self.mask_tokens.num_embeddings
        content = self.prompt_content(memory, prompt_types, region_coverage)
        references = inverse_sigmoid(boxes_cxcywh_norm.float()).sigmoid()[:, :, None].expand(-1, -1, tokens, -1)
        steps = self.query_decoder(
            content.flatten(1, 2),
            references.flatten(1, 2),
            memory,
            group_size=tokens if isolate else None,
            query_mask=None if isolate else prompt_mask.repeat_interleave(tokens, dim=1),
        )
        final = self._predict(steps[-1])
        queries = self.query_decoder.norm(steps[-1].states).unflatten(1, (prompts, tokens))
        region_embeds = self.region_projection(queries[:, :, 0]) * prompt_mask[..., None]
        return VisualPromptOutput(
            boxes_cxcywh_norm=final.boxes_cxcywh_norm,
            mask_embeds=final.mask_embeds,
            ious=final.ious,
            region_embeds=region_embeds,
            queries=queries,
            mask_features=memory.mask_features.expand(batch, -1, -1, -1),
            aux_outputs=tuple(self._predict(step) for step in steps[:-1]) if with_aux else (),
        )

    def prompt_content(
        self,
        memory: ImageMemory,
        prompt_types: Int[Tensor, "B K"],
        region_coverage: Float[Tensor, "B K h w"] | None = None,
    ) -> Float[Tensor, "B K T C"]:
        """What each prompt's queries start from: what it is, and what the image shows where it was drawn."""
        content = self.label_embed(torch.zeros_like(prompt_types)) + self.type_embed(prompt_types)
        if region_coverage is not None:
            content = content + self.coverage_projection(pool_by_coverage(memory, region_coverage))
        tokens = torch.arange(self.mask_tokens.num_embeddings, device=content.device)
        return content[:, :, None] + self.mask_tokens(tokens)

    def _predict(self, step: DecoderStep) -> VisualPromptPrediction:
        # All heads, the box head too, read the state normalised a second time (unlike the grounder's box head).
        states = self.query_decoder.norm(step.states)
        boxes = self.query_decoder.boxes_of(states, step.references_in)
        per_prompt = (-1, self.mask_tokens.num_embeddings)
        return VisualPromptPrediction(
            boxes_cxcywh_norm=boxes.unflatten(1, per_prompt),
            mask_embeds=self.mask_head(states).unflatten(1, per_prompt),
            ious=self.iou_head(states)[..., 0].unflatten(1, per_prompt),
        )


def pool_by_coverage(memory: ImageMemory, region_coverage: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K C"]:
    """Mean memory under each region, weighted by coverage; levels count alike; zeros where nothing is covered."""
    shares = []
    for size_hw in memory.level_sizes_hw:
        rows = area_resize_matrix(region_coverage.shape[2], size_hw[0], region_coverage.device)
        columns = area_resize_matrix(region_coverage.shape[3], size_hw[1], region_coverage.device)
        coverage = (rows @ region_coverage.float() @ columns.T).flatten(2)
        shares.append(coverage / coverage.sum(-1, keepdim=True).clamp(min=1e-6))
    weights = torch.cat(shares, dim=-1).to(memory.memory.dtype) / len(shares)
    return weights @ memory.memory


def area_resize_matrix(size_in: int, size_out: int, device: torch.device) -> Float[Tensor, "size_out size_in"]:
    """Row i says how much of output cell i each input cell fills, so that `matrix @ x` averages x over the cells."""
    edges_in = torch.arange(size_in + 1, dtype=torch.float32, device=device) / size_in
    edges_out = torch.arange(size_out + 1, dtype=torch.float32, device=device) / size_out
    right = torch.minimum(edges_out[1:, None], edges_in[None, 1:])
    left = torch.maximum(edges_out[:-1, None], edges_in[None, :-1])
    return (right - left).clamp(min=0) * size_out
