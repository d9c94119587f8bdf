"""What each vision part returns, field by field, with shapes; plus the few operations on those values.

Knows nothing of how they are computed. Axis letters used in all of `model/`: B batch, T text tokens, P patches,
Q object queries, K visual prompts, G grounded phrases, C channels, D phrase width, E region-embedding width,
M matched pairs, H W pixels, h w feature cells, N memory cells. Boxes are cxcywh in [0, 1] of the padded image.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.utils import ModelOutput

from llava_grounding.errors import PromptError, UsageError

IGNORE_INDEX = -100
"""Label of a position that is no target of the loss, as transformers and torch mark it."""

PADDED_PHRASE_LOGIT = -100.0


def mask_logits_from(mask_embeds: Float[Tensor, "B Q C"], mask_features: Float[Tensor, "B C *places"]) -> Tensor:
    """Mask logits [B, Q, *places]: the product of each mask embedding with each feature of its image.

    The places are the cells of the stride-4 map, or some of them, or points between them. One `bmm` for the batch:
    indexing the features image by image would make backward fill a full-size tensor with zeros for every image.
    """
    return torch.bmm(mask_embeds, mask_features.flatten(2)).unflatten(2, mask_features.shape[2:])


@dataclass
class FeatureMaps:
    """What our own backbones return, in the form of transformers' backbones."""

    feature_maps: tuple[Tensor, ...]
    """Fine to coarse, at strides 4, 8, 16, 32."""


@dataclass
class ImageMemory:
    """What the grounder keeps of one image batch: independent of any phrase, so it can be cached per image."""

    memory: Float[Tensor, "B N C"]
    """Multi-scale features, levels flattened row by row and joined COARSE TO FINE (stride 64, 32, 16, 8)."""
    level_sizes_hw: tuple[tuple[int, int], ...]
    """(height, width) of each level, in the same order; their areas add up to N."""
    mask_features: Float[Tensor, "B Cm h w"]
    """Stride-4 map that mask embeddings are multiplied with."""

    def level(self, index: int) -> Float[Tensor, "B C h w"]:
        """One level as a feature map; 0 is the coarsest."""
        areas = [height * width for height, width in self.level_sizes_hw]
        cells = self.memory.split(areas, dim=1)[index]
        return cells.transpose(1, 2).unflatten(2, self.level_sizes_hw[index])

    def index(self, rows: Int[Tensor, " n"]) -> "ImageMemory":
        """The memory of the chosen images, in the chosen order; an image may be chosen several times."""
        return ImageMemory(self.memory[rows], self.level_sizes_hw, self.mask_features[rows])

    def repeat(self, times: int) -> "ImageMemory":
        """Each image `times` times in a row, for several dialogues about one image."""
        return ImageMemory(
            self.memory.repeat_interleave(times, dim=0),
            self.level_sizes_hw,
            self.mask_features.repeat_interleave(times, dim=0),
        )

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> "ImageMemory":
        """The same memory on another device or in another type; None leaves either as it is."""
        memory, features = (part.to(device=device, dtype=dtype) for part in (self.memory, self.mask_features))
        return ImageMemory(memory, self.level_sizes_hw, features)


@dataclass
class ImageFeatures:
    """Everything about a batch of images that no question changes; kept and reused between questions."""

    tokens: Float[Tensor, "B P D"]
    """Image tokens in the language model's width."""
    memory: ImageMemory
    """What the grounder reads."""
    prompt_memory: ImageMemory | None = None
    """What the visual prompt encoder reads; None until a prompt needs it. The grounder's when shared."""
    proposals: "GrounderOutput | None" = None
    """The shared tower's object queries, which its tokens show; None with a tower of its own."""

    @property
    def nbytes(self) -> int:
        """Memory they take; what is shared counts once."""
        memories = [self.memory] if self.prompt_memory is None else [self.memory, self.prompt_memory]
        parts = [self.tokens, *(part for one in memories for part in (one.memory, one.mask_features))]
        found = self.proposals
        if found is not None:
            parts += [
                found.phrase_logits,
                found.boxes_cxcywh_norm,
                found.mask_embeds,
                found.queries,
                found.mask_features,
            ]
        return sum(part.numel() * part.element_size() for part in {part.data_ptr(): part for part in parts}.values())

    def rows(self, index: Int[Tensor, " R"]) -> "ImageFeatures":
        """The features of some images, repeated or reordered."""
        return ImageFeatures(
            tokens=self.tokens[index],
            memory=self.memory.index(index),
            prompt_memory=None if self.prompt_memory is None else self.prompt_memory.index(index),
            proposals=None if self.proposals is None else self.proposals.index(index),
        )

    def repeat(self, times: int) -> "ImageFeatures":
        """The features of each image `times` times in a row, for several answers about one image."""
        rows = torch.arange(len(self.tokens), device=self.tokens.device)
        return self.rows(rows.repeat_interleave(times))


@dataclass
class RegionPrompts:
    """Visual prompts of a batch, in the model's frame."""

    boxes_cxcywh_norm: Float[Tensor, "B K 4"]
    """Bounds in [0, 1] of the canvas; a click is a small box."""
    types: Int[Tensor, "B K"]
    """0 point-like (click, scribble), 1 box-like (box, mask)."""
    valid: Bool[Tensor, "B K"]
    """False where a row has fewer prompts than the longest."""
    coverage: Float[Tensor, "B K h w"] | None = None
    """Share of each coarse cell a scribble or free mask covers; zero rows for clicks and boxes."""

    @classmethod
    def given(
        cls,
        region_prompts: "RegionPrompts | None" = None,
        region_boxes_cxcywh_norm: Tensor | None = None,
        region_types: Tensor | None = None,
        region_valid: Tensor | None = None,
        region_coverage: Tensor | None = None,
    ) -> "RegionPrompts | None":
        """The visual prompts of a call, in whichever of the two spellings they came; None if it has none.

        Args:
            region_prompts: as one value.
            region_boxes_cxcywh_norm, region_types, region_valid, region_coverage: as a processor's batch has them.

        Raises:
            UsageError: if they came in both, or a part of the second is missing.
            PromptError: if a box is not made of finite numbers.
        """
        needed = {
            "region_boxes_cxcywh_norm": region_boxes_cxcywh_norm,
            "region_types": region_types,
            "region_valid": region_valid,
        }
        missing = [name for name, value in needed.items() if value is None]
        if region_coverage is None and len(missing) == len(needed):
            prompts = region_prompts
        elif region_prompts is not None:
            raise UsageError(
                "visual prompts must come as region_prompts or as region_boxes_cxcywh_norm and so on, got both"
            )
        elif missing:
            raise UsageError(f"{', '.join(needed)} belong together, {' and '.join(missing)} is missing")
        else:
            assert region_boxes_cxcywh_norm is not None
            assert region_types is not None
            assert region_valid is not None
            prompts = cls(region_boxes_cxcywh_norm.float(), region_types, region_valid.bool(), region_coverage)
        if prompts is not None and not bool(prompts.boxes_cxcywh_norm[prompts.valid].isfinite().all()):
            raise PromptError("visual prompts must have finite coordinates, got a box with one that is no number")
        return prompts

    def to(self, device: torch.device | str) -> "RegionPrompts":
        """The same prompts on another device."""
        coverage = None if self.coverage is None else self.coverage.to(device)
        return RegionPrompts(self.boxes_cxcywh_norm.to(device), self.types.to(device), self.valid.to(device), coverage)


@dataclass
class GrounderPrediction:
    """What one decoder layer says about every query."""

    phrase_logits: Float[Tensor, "B Q G"]
    """Similarity of query and phrase; padded phrases hold -100."""
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]
    """Boxes in [0, 1] of the padded image."""
    mask_embeds: Float[Tensor, "B Q Cm"]
    """Multiplied with the mask features they give mask logits."""


@dataclass
class GrounderOutput(GrounderPrediction):
    """The last layer's prediction and what losses and callers need beside it."""

    queries: Float[Tensor, "B Q C"]
    """Final state of each query, as the class and mask heads see it."""
    mask_features: Float[Tensor, "B Cm h w"]
    """The image memory's, shared, not copied."""
    topk_indices: Int[Tensor, "B Q"]
    """Memory cell that each query started from, best first."""
    aux_outputs: tuple[GrounderPrediction, ...] = field(default=())
    """The initial prediction, then layers 1 to L-1; empty when not asked for."""
    interm: GrounderPrediction | None = None
    """First-stage prediction of the selected cells, with gradients into the selection; for the loss only."""

    def index(self, rows: Int[Tensor, " n"]) -> "GrounderOutput":
        """The last layer's prediction of the chosen images, in the chosen order."""
        return GrounderOutput(
            phrase_logits=self.phrase_logits[rows],
            boxes_cxcywh_norm=self.boxes_cxcywh_norm[rows],
            mask_embeds=self.mask_embeds[rows],
            queries=self.queries[rows],
            mask_features=self.mask_features[rows],
            topk_indices=self.topk_indices[rows],
        )

    @property
    def mask_logits(self) -> Float[Tensor, "B Q h w"]:
        """Stride-4 mask logits of all queries, computed on every access."""
        return mask_logits_from(self.mask_embeds, self.mask_features)


@dataclass
class VisualPromptPrediction:
    """What one decoder layer says about every prompt; each prompt has T mask tokens."""

    boxes_cxcywh_norm: Float[Tensor, "B K T 4"]
    """Boxes in [0, 1] of the padded image."""
    mask_embeds: Float[Tensor, "B K T Cm"]
    """Multiplied with the mask features they give mask logits."""
    ious: Float[Tensor, "B K T"]
    """How good each token's mask is thought to be."""


@dataclass
class VisualPromptOutput(VisualPromptPrediction):
    """The last layer's prediction and the vectors handed to the language model."""

    region_embeds: Float[Tensor, "B K E"]
    """First token's final state, projected to the language model's width; padded prompts hold zeros."""
    queries: Float[Tensor, "B K T C"]
    """Final state of every token, before the projection."""
    mask_features: Float[Tensor, "B Cm h w"]
    """The image memory's, shared, not copied."""
    aux_outputs: tuple[VisualPromptPrediction, ...] = field(default=())
    """Layers 1 to L-1; empty when not asked for."""

    @property
    def mask_logits(self) -> Float[Tensor, "B K h w"]:
        """Stride-4 mask logits of each prompt's first token, computed on every access."""
        return mask_logits_from(self.mask_embeds[:, :, 0], self.mask_features)


@dataclass
class LlavaGroundingOutput(ModelOutput):
    """What the whole model gives: the language model's output, and what was grounded."""

    # Checkers of argument types read a signature that does not show that it may be made of a dict, as accelerate does.
    __no_type_check__: ClassVar[bool] = True

    loss: Tensor | None = None
    """Language-model loss, mean over the target tokens."""
    logits: Tensor | None = None
    """[B, T, vocabulary]; None when training with labels, where only the target positions are scored."""
    past_key_values: Any = None
    last_hidden_state: Tensor | None = None
    """[B, T, D], after the final norm."""
    hidden_states: tuple[Tensor, ...] | None = None
    """The last one alone, and only if `output_hidden_states` asks for it: `generate` then collects it step by step."""
    attentions: tuple[Tensor, ...] | None = None
    """Per layer [B, heads, T, S], only if `output_attentions` asks for them."""
    image_features: ImageFeatures | None = None
    prompt_output: VisualPromptOutput | None = None
