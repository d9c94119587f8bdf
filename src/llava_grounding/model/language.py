"""The language side: vision tower, projector, and image and region features put into their slots.

The sequence never changes length here: the processor has already written one placeholder per feature.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from llava_grounding.errors import ConfigError, ShapeError, UsageError
from llava_grounding.model.outputs import IGNORE_INDEX


class FeatureVisionTower(nn.Module):
    """A CLIP or SigLIP image encoder that gives one hidden layer's patch features.

    Args:
        config: of a transformers vision model.
        feature_layer: which entry of its hidden states; -2 skips the last layer as LLaVA does.
        drop_class_token: leave out the first position (CLIP has a class token, SigLIP has none).
    """

    def __init__(self, config: PreTrainedConfig, feature_layer: int, drop_class_token: bool) -> None:
        super().__init__()
        self.vision_model = AutoModel.from_config(config, trust_remote_code=False)
        for part in self.vision_model.modules():
            if getattr(part, "use_head", False):
                part.use_head = False  # SigLIP's: pools what is not read, by attention that knows no offloading
        self.feature_layer = feature_layer
        self.drop_class_token = drop_class_token

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P C"]:
        """Patch features of the chosen layer, not normalised by the tower's last norm."""
        hidden_states = self.vision_model(pixel_values, output_hidden_states=True).hidden_states
        features = hidden_states[self.feature_layer]
        return features[:, 1:] if self.drop_class_token else features


_FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm", "norm_f")


def final_norm(language_model: nn.Module) -> nn.Module:
    """What stands behind a language model's last layer, by the names that families of transformers give it.

    Raises:
        ConfigError: if there is none of them.
    """
    for name in _FINAL_NORMS:
        found = getattr(language_model, name, None)
        if isinstance(found, nn.Module):
            return found
    raise ConfigError(f"a {type(language_model).__name__} has no final norm of a known name: {', '.join(_FINAL_NORMS)}")


def build_projector(kind: str, in_size: int, out_size: int) -> nn.Module:
    """Map image features to the language model's width: `linear` (LLaVA 1.0) or `mlp` (LLaVA 1.5)."""
    if kind == "linear":
        return nn.Linear(in_size, out_size)
    return nn.Sequential(nn.Linear(in_size, out_size), nn.GELU(), nn.Linear(out_size, out_size))


def put_into_slots(
    embeds: Float[Tensor, "B T C"],
    slots: Bool[Tensor, "B T"],
    features: Float[Tensor, "B K C"],
    feature_mask: Bool[Tensor, "B K"],
    name: str,
) -> Float[Tensor, "B T C"]:
    """Write the k-th valid feature of a row over the k-th slot of that row.

    Raises:
        ShapeError: if a row has not as many slots as features.
    """
    slots = slots.to(embeds.device)
    wanted, given = slots.sum(dim=1), feature_mask.to(embeds.device).sum(dim=1)
    if not torch.equal(wanted, given):
        raise ShapeError(
            f"each row must have one {name} feature per {name} placeholder, "
            f"got {given.tolist()} features for {wanted.tolist()} placeholders"
        )
    flat = features.to(embeds)[feature_mask.to(embeds.device)]
    return embeds.masked_scatter(slots.unsqueeze(-1).expand_as(embeds), flat)


def refuse_unfilled(slots: Bool[Tensor, "B T"], name: str, given: object) -> None:
    """Raise a ShapeError for placeholders that nothing was given for."""
    if given is None and bool(slots.any()):
        raise ShapeError(f"the text has {name} placeholders, but no {name} features were given")


def attentions_of(outputs: Any) -> tuple[Tensor, ...]:
    """Attention of every layer; a UsageError where the implementation keeps none."""
    if not outputs.attentions or outputs.attentions[0] is None:
        raise UsageError('output_attentions needs model.language_model.set_attn_implementation("eager")')
    return tuple(outputs.attentions)


def language_loss(
    output_layer: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "B T D"],
    labels: Int[Tensor, "B T"],
    num_items: int | Tensor | None = None,
    token_weights: Float[Tensor, " V"] | None = None,
) -> Tensor:
    """Cross-entropy of the next token, mean over the target positions; 0 if there is none.

    Args:
        output_layer: [N, D] -> [N, V] logits.
        hidden: last hidden states of the whole sequence.
        labels: token ids to learn, -100 elsewhere, unshifted.
        num_items: what the sum is divided by instead, the target positions of all parts of an accumulated step.
        token_weights: factor on the cross-entropy of each token of the vocabulary; None for 1.
    """
    loss_mask = labels[:, 1:] != IGNORE_INDEX  # most are image, question or padding and need no vocabulary
    logits = output_layer(hidden[:, :-1][loss_mask]).float()
    losses = nn.functional.cross_entropy(logits, labels[:, 1:][loss_mask], token_weights, reduction="sum")
    return losses / (loss_mask.sum().clamp(min=1) if num_items is None else num_items)
