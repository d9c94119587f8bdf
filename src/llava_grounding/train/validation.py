"""Validation while a model trains: held-out samples, teacher-forced. The report is `benchmark/quality.py`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist

from llava_grounding.data.sample import Sample
from llava_grounding.errors import DataError
from llava_grounding.geometry import box_cxcywh_to_xyxy, box_iou
from llava_grounding.matching import GroundingCounts, match_one_to_one
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.selection import SelectionSettings, keep_queries, query_scores
from llava_grounding.train.batching.batches import (
    ChatItem,
    chat_item,
    class_batch,
    collate_chat,
    encode_sample_image,
    longest_dialogue,
)
from llava_grounding.train.losses.class_losses import ClassPhrases, ground_classes
from llava_grounding.train.losses.step_losses import forward_dialogues
from llava_grounding.train.recipe import Recipe

logger = logging.getLogger(__name__)

_THRESHOLDS = {  # a softmax over all queries shares one among the instances, a sigmoid gives each its own
    "sigmoid": (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5),
    "softmax": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
}


def count_matches(
    scores: np.ndarray,
    boxes_cxcywh_norm: np.ndarray,
    truth: np.ndarray,
    wanted: np.ndarray,
    threshold: float,
    nms_iou: float | None,
) -> GroundingCounts:
    """One-to-one matches of each phrase's kept boxes with its instances, at IoU 0.5.

    Args:
        scores: (Q, G).
        boxes_cxcywh_norm: (Q, 4).
        truth: (n, 4) cxcywh.
        wanted: (n, G) bool.
        nms_iou: overlap from which the weaker of two boxes is a double; None keeps both.
    """
    corners, truth_corners = box_cxcywh_to_xyxy(boxes_cxcywh_norm), box_cxcywh_to_xyxy(truth)
    found = predicted = 0
    for phrase in range(scores.shape[1]):
        kept = keep_queries(scores[:, phrase], corners, threshold, nms_iou)
        rows = np.flatnonzero(wanted[:, phrase])
        predicted += len(kept)
        found += len(match_one_to_one(box_iou(corners[kept], truth_corners[rows])))
    return GroundingCounts(predicted, int(wanted.sum()), found, found)


Row = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""One image's scores, boxes, true boxes and truth, as `count_matches` takes them."""


def best_f1(rows: Sequence[Row], selection: SelectionSettings, prefix: str) -> dict[str, float]:
    """F1 at the threshold that suits it best, and that threshold; doubles are dropped as the checkpoint drops them."""
    results = {}
    for threshold in _THRESHOLDS[selection.score_function]:
        counts = (count_matches(*row, threshold, selection.nms_iou) for row in rows)
        results[threshold] = sum(counts, GroundingCounts()).f1
    threshold = max(results, key=lambda key: results[key])
    return {f"{prefix}_f1": results[threshold], f"{prefix}_threshold": threshold}


@dataclass
class ValidationRows:
    """What a pass over samples gave; of several processes, to be joined."""

    class_rows: list[Row] = field(default_factory=list)
    phrase_rows: list[Row] = field(default_factory=list)
    losses: list[tuple[float, int]] = field(default_factory=list)
    """Language losses with the number of tokens each is a mean over."""

    def join(self, other: ValidationRows) -> None:
        """Add those of another process."""
        self.class_rows += other.class_rows
        self.phrase_rows += other.phrase_rows
        self.losses += other.losses

    def metrics(self, selection: SelectionSettings) -> dict[str, float]:
        """The numbers of a validation, queries chosen as these settings choose them."""
        result = best_f1(self.class_rows, selection, "class") if self.class_rows else {}
        tokens = sum(count for _, count in self.losses)
        if tokens:
            result["language_loss"] = sum(loss * count for loss, count in self.losses) / tokens
        return result | (best_f1(self.phrase_rows, selection, "phrase") if self.phrase_rows else {})


@dataclass
class Validation:
    """Runs a model over held-out samples, each process over its part of them.

    Args:
        chat: whether dialogues are validated.
        batch_size: samples that pass through the model at once.
        max_turns, max_tokens: of a dialogue, as in training; see `Recipe`.
    """

    samples: Sequence[Sample]
    processor: LlavaGroundingProcessor
    chat: bool
    batch_size: int = 16
    rank: int = 0
    world_size: int = 1
    max_turns: int = Recipe.max_turns
    max_tokens: int | None = None
    _left_out: set[str] = field(default_factory=set)

    @torch.no_grad()
    def __call__(self, model: LlavaGroundingForConditionalGeneration, phrases: ClassPhrases | None) -> dict[str, float]:
        """Metrics of the model, the same on every process."""
        rows = ValidationRows()
        mine = self.samples[self.rank :: self.world_size]
        if phrases is not None:
            rows.class_rows = class_rows(model, phrases, self.processor, mine, self.batch_size)
        if self.chat:
            with_dialogues = [sample for sample in mine if sample.turns]
            rows.phrase_rows, rows.losses = phrase_rows(
                model, self.processor, with_dialogues, self.batch_size, self.max_turns, self.max_tokens, self._left_out
            )
        if self.world_size > 1:
            parts: list[ValidationRows | None] = [None] * self.world_size
            dist.all_gather_object(parts, rows)
            rows = ValidationRows()
            for one in parts:
                assert one is not None
                rows.join(one)
        return rows.metrics(self.processor.settings.selection)


@torch.no_grad()
def class_rows(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases,
    processor: LlavaGroundingProcessor,
    samples: Sequence[Sample],
    batch_size: int = 16,
) -> list[Row]:
    """Class names looked for in every sample."""
    rows = []
    device, score_function = phrases.embeds.device, processor.settings.selection.score_function
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        images = [encode_sample_image(processor, sample) for sample in part]
        batch = class_batch(part, images, processor, phrases.index)
        memory = model.image_memory(batch.images["grounder_pixel_values"].to(device))
        output = ground_classes(model, phrases, memory, batch.phrase_mask.to(device))
        scores = query_scores(output.phrase_logits[:, :, 1:], score_function).cpu().numpy()
        boxes = output.boxes_cxcywh_norm.float().cpu().numpy()
        for index, target in enumerate(batch.targets):
            wanted = target.phrase_map[:, 1:].numpy()
            rows.append((scores[index], boxes[index], target.boxes_cxcywh_norm.numpy(), wanted))
    return rows


@torch.no_grad()
def phrase_rows(
    model: LlavaGroundingForConditionalGeneration,
    processor: LlavaGroundingProcessor,
    samples: Sequence[Sample],
    batch_size: int = 16,
    max_turns: int = Recipe.max_turns,
    max_tokens: int | None = None,
    left_out: set[str] | None = None,
) -> tuple[list[Row], list[tuple[float, int]]]:
    """The phrases of true answers looked for in every sample, and language losses with their numbers of tokens.

    Args:
        max_turns, max_tokens: of a dialogue, cut as in training; never more tokens than the model has positions.
        left_out: ids of samples that were said to be left out, none of whose dialogue fits; new ones are added.
    """
    rows, losses = [], []
    rng = np.random.default_rng(0)
    device = model.lm_head.weight.device
    left_out = set() if left_out is None else left_out
    longest = longest_dialogue(model.config, max_tokens)
    score_function = processor.settings.selection.score_function
    for start in range(0, len(samples), batch_size):
        items: list[ChatItem] = []
        for sample in samples[start : start + batch_size]:
            try:
                items.append(chat_item(sample, processor, max_turns, rng, longest))
            except DataError as error:
                if sample.id not in left_out:
                    logger.warning("left out of the validation: %s", error)
                    left_out.add(sample.id)
        if not items:
            continue
        batch = collate_chat(items, processor).to(device)
        features = model.encode_image(**batch.images)
        output = forward_dialogues(model, batch, features)
        losses.append((float(output.loss), int(batch.counts[0])))
        grounding, found = model.ground_phrases(features, output.last_hidden_state, batch.texts["input_ids"])
        if not found.shape[1]:
            continue
        scores = query_scores(grounding.phrase_logits, score_function).cpu().numpy()
        boxes = grounding.boxes_cxcywh_norm.float().cpu().numpy()
        for index, target in enumerate(batch.targets):
            known = batch.phrase_mask[index, : target.phrase_map.shape[1]].cpu().numpy()
            wanted = target.phrase_map.cpu().numpy()[:, known]
            shown = scores[index][:, : len(known)][:, known]
            rows.append((shown, boxes[index], target.boxes_cxcywh_norm.cpu().numpy(), wanted))
    return rows, losses
