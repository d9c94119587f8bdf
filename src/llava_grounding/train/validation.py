"""Quick looks at a model while it trains: held-out scenes, teacher-forced. The report is `benchmark/quality.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llava_grounding.data.sample import Sample
from llava_grounding.geometry import box_cxcywh_to_xyxy, box_iou
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.selection import keep_queries
from llava_grounding.train.batches import chat_batch, class_batch, encode_sample_image
from llava_grounding.train.class_losses import ClassPhrases, ground_classes

_NMS_IOU = 0.7
_THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


@dataclass(frozen=True)
class Tally:
    """Counts of phrase and region pairs at IoU 0.5."""

    found: int
    predicted: int
    wanted: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 when both are empty."""
        return 2 * self.found / max(1, self.predicted + self.wanted)


def tally(
    scores: np.ndarray, boxes_cxcywh: np.ndarray, truth: np.ndarray, wanted: np.ndarray, threshold: float
) -> Tally:
    """Greedy one-to-one matches of each phrase's kept boxes with its instances.

    Args:
        scores: (Q, G).
        boxes_cxcywh: (Q, 4).
        truth: (n, 4) cxcywh.
        wanted: (n, G) bool.
    """
    corners, truth_corners = box_cxcywh_to_xyxy(boxes_cxcywh), box_cxcywh_to_xyxy(truth)
    found = predicted = 0
    for phrase in range(scores.shape[1]):
        kept = keep_queries(scores[:, phrase], corners, threshold, _NMS_IOU)
        rows = np.flatnonzero(wanted[:, phrase])
        predicted += len(kept)
        if len(kept) and len(rows):
            overlap = box_iou(corners[kept], truth_corners[rows])
            for row in overlap:
                best = int(row.argmax())
                if row[best] >= 0.5:
                    found += 1
                    overlap[:, best] = -1
    return Tally(found, predicted, int(wanted.sum()))


def _best(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], prefix: str) -> dict[str, float]:
    results = {}
    for threshold in _THRESHOLDS:
        counts = [tally(*row, threshold) for row in rows]
        results[threshold] = Tally(*(sum(getattr(c, f) for c in counts) for f in ("found", "predicted", "wanted"))).f1
    threshold = max(results, key=lambda key: results[key])
    return {f"{prefix}_f1": results[threshold], f"{prefix}_threshold": threshold}


@torch.no_grad()
def validate_classes(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases,
    processor: LlavaGroundingProcessor,
    samples: Sequence[Sample],
) -> dict[str, float]:
    """F1 of class names as phrases at the best threshold."""
    rows = []
    for start in range(0, len(samples), 16):
        part = samples[start : start + 16]
        images = [encode_sample_image(processor, sample) for sample in part]
        batch = class_batch(part, images, processor, phrases.index)
        memory = model.grounder.encode_image(batch.images["grounder_pixel_values"].to(phrases.embeds.device))
        output = ground_classes(model, phrases, memory, batch.phrase_mask.to(phrases.embeds.device))
        scores = output.phrase_logits[:, :, 1:].float().sigmoid().cpu().numpy()
        boxes = output.boxes_cxcywh.float().cpu().numpy()
        for index, target in enumerate(batch.targets):
            wanted = target.phrase_map[:, 1:].numpy()
            rows.append((scores[index], boxes[index], target.boxes_cxcywh.numpy(), wanted))
    return _best(rows, "class")


@torch.no_grad()
def validate_chat(
    model: LlavaGroundingForConditionalGeneration,
    phrases: ClassPhrases,
    processor: LlavaGroundingProcessor,
    samples: Sequence[Sample],
) -> dict[str, float]:
    """Language loss and F1 of the true answers' phrases at the best threshold."""
    rows, losses = [], []
    rng = np.random.default_rng(0)
    device = phrases.embeds.device
    for start in range(0, len(samples), 16):
        batch = chat_batch(samples[start : start + 16], processor, phrases.index, 4, rng)
        features = model.encode_image(**{name: value.to(device) for name, value in batch.images.items()})
        texts = {name: value.to(device) for name, value in batch.texts.items()}
        output = model(
            input_ids=texts["input_ids"],
            grounder_pixel_values=batch.images["grounder_pixel_values"].to(device),
            attention_mask=texts["attention_mask"],
            labels=texts["labels"],
            region_prompts=None if batch.prompts is None else batch.prompts.to(device),
            image_features=features,
            use_cache=False,
        )
        losses.append(float(output.loss))
        embeds, found = model.phrase_states(output.last_hidden_state, texts["input_ids"])
        grounding = model.ground(features.memory, embeds, found)
        scores = grounding.phrase_logits.float().sigmoid().cpu().numpy()
        boxes = grounding.boxes_cxcywh.float().cpu().numpy()
        for index, target in enumerate(batch.targets):
            known = batch.phrase_mask[index, : target.phrase_map.shape[1]].numpy()
            wanted = target.phrase_map.numpy()[:, known]
            shown = scores[index][:, : len(known)][:, known]
            rows.append((shown, boxes[index], target.boxes_cxcywh.numpy(), wanted))
    return {"language_loss": float(np.mean(losses)), **_best(rows, "phrase")}
