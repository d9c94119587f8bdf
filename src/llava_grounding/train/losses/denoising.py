"""Denoising: objects with their names and boxes disturbed, as queries that must find the way back (arXiv:2203.01305).

Their pairs are known, so they learn from the first step on, while matching still changes its mind. A query begins with
its class phrase as the similarity head sees it and with a box near its object's; several copies of all objects pass the
query decoder, each copy seeing only itself. Nothing is left of it in the model.

"Anything" is no class here: it names every one of these queries, so that judging it could only teach them to say yes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_grounding.model.grounder import Grounder
from llava_grounding.model.outputs import PADDED_PHRASE_LOGIT, GrounderOutput, ImageMemory
from llava_grounding.train.batching.batches import ANYTHING
from llava_grounding.train.batching.targets import TargetBatch
from llava_grounding.train.losses.matcher import Pairs
from llava_grounding.train.losses.set_criterion import SetCriterion
from llava_grounding.train.losses.settings import DenoisingNoise

_SMALLEST = 1e-3  # side of a disturbed box


def denoising_losses(
    grounder: Grounder,
    class_embeds: Tensor,
    criterion: SetCriterion,
    memory: ImageMemory,
    targets: TargetBatch,
    phrase_mask: Tensor,
    copies: int,
    noise: DenoisingNoise = DenoisingNoise(),
) -> dict[str, Tensor]:
    """Weighted losses of the disturbed queries, and their sum as `loss`; 0 for a batch without objects.

    Args:
        class_embeds: [1 + classes, D]; row 0 is what things without a class begin as, classes follow.
        phrase_mask: [B, 1 + classes] bool, the phrases that are judged in each image; "anything" is not.
        copies: of every object.
    """
    if targets.longest == 0 or copies == 0:
        return {"loss": memory.memory.sum() * 0.0}
    batch = len(targets.counts)
    phrases = class_embeds.expand(batch, -1, -1)
    is_class = torch.arange(len(class_embeds), device=phrase_mask.device) != ANYTHING
    phrase_mask = phrase_mask & is_class
    targets = replace(targets, phrase_map=targets.phrase_map * is_class)
    named = torch.where(targets.phrase_map.any(1), targets.phrase_map.argmax(1), ANYTHING)
    labels = targets.padded(named).repeat(1, copies)  # [B, K * M]
    real = targets.padded(torch.ones_like(targets.has_mask)).bool().repeat(1, copies)
    boxes = targets.padded(targets.boxes_cxcywh_norm).repeat(1, copies, 1)
    wrong = torch.rand(labels.shape, device=labels.device) < noise.label_noise_ratio
    labels = torch.where(wrong, torch.randint_like(labels, ANYTHING + 1, len(class_embeds)), labels)
    states = F.layer_norm(class_embeds @ grounder.similarity_head.projection.T, (memory.memory.shape[2],))
    output = grounder.refine(
        memory,
        states.to(memory.memory.dtype)[labels],
        disturbed(boxes, noise.box_noise_scale),
        phrases,
        phrase_mask,
        group_size=targets.longest,
        query_mask=real,
    )
    pairs = _known_pairs(targets, copies, len(output.aux_outputs))
    losses = criterion.unweighted(_without(output, ~real), targets, phrase_mask, pairs=pairs).losses
    return criterion.weigh({name: value / copies for name, value in losses.items()})


def disturbed(boxes_cxcywh_norm: Tensor, scale: float) -> Tensor:
    """Boxes moved and stretched at random; inside of the canvas."""
    middle, size = boxes_cxcywh_norm[..., :2], boxes_cxcywh_norm[..., 2:]
    noise = 2 * torch.rand_like(boxes_cxcywh_norm) - 1
    middle = (middle + noise[..., :2] * size / 2 * scale).clamp(0, 1)
    size = (size * (1 + noise[..., 2:] * scale)).clamp(_SMALLEST, 1)
    return torch.cat([middle, size], dim=-1)


def _known_pairs(targets: TargetBatch, copies: int, predictions: int) -> Pairs:
    """Query k * M + j of an image belongs to its object j, for every prediction."""
    device = targets.boxes_cxcywh_norm.device
    queries: list[int] = []
    rows: list[int] = []
    images: list[int] = []
    first = 0
    for image, count in enumerate(targets.counts):
        for copy in range(copies):
            queries += range(copy * targets.longest, copy * targets.longest + count)
            rows += range(first, first + count)
        images += [image] * (count * copies)
        first += count
    return Pairs(
        queries=torch.tensor(queries, dtype=torch.long, device=device).expand(predictions, -1),
        targets=torch.tensor(rows, dtype=torch.long, device=device).expand(predictions, -1),
        image_index=torch.tensor(images, dtype=torch.long, device=device),
        counts=tuple(count * copies for count in targets.counts),
    )


def _without(output: GrounderOutput, padding: Tensor) -> GrounderOutput:
    """The refined predictions alone, padded queries without any class: their logits are those of padded phrases."""
    hidden = padding[:, :, None]
    layers = tuple(
        replace(layer, phrase_logits=layer.phrase_logits.masked_fill(hidden, PADDED_PHRASE_LOGIT))
        for layer in output.aux_outputs[1:]  # the first is what was put in
    )
    logits = output.phrase_logits.masked_fill(hidden, PADDED_PHRASE_LOGIT)
    return replace(output, phrase_logits=logits, aux_outputs=layers)
