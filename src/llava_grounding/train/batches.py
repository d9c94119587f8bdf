"""Samples to the tensors of a training step, through the processor's doors.

One function per stage: class names as phrases, or dialogues with `<seg>` and `<region>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava_grounding.data.sample import Sample, Turn
from llava_grounding.errors import DataError
from llava_grounding.geometry import Letterbox
from llava_grounding.model.llava_grounding import RegionPrompts
from llava_grounding.processing.processor import EncodedImage, EncodedText, LlavaGroundingProcessor
from llava_grounding.structures import Message
from llava_grounding.train.targets import GroundingTarget
from llava_grounding.train.word_loss import thing_words

ANYTHING = 0
"""Column of the phrase that names every instance."""
_KIND_WEIGHTS = {"describe": 4.0, "describe_plain": 1.5, "list": 2.0}
_MANY_CLASSES = 20
"""From so many exhaustively labelled classes on, what has no label counts as nothing."""


@dataclass
class ClassBatch:
    """Images with every class name as a phrase."""

    images: dict[str, Tensor]
    targets: list[GroundingTarget]
    phrase_mask: Tensor
    """[B, 1 + classes] bool: classes that are judged in that image, being labelled exhaustively or seen in it; column 0
    stands for anything and is judged where (nearly) everything is labelled."""


@dataclass
class ChatBatch:
    """Images with a dialogue each."""

    images: dict[str, Tensor]
    texts: dict[str, Tensor]
    prompts: RegionPrompts | None
    targets: list[GroundingTarget]
    """phrase_map over the `<seg>` tokens of the whole dialogue."""
    phrase_mask: Tensor
    """[B, G] bool: phrases whose instances are known."""
    classes: ClassBatch
    """The same images with class names as phrases."""
    words: Tensor
    """[N, W] token ids that describe each instance, image after image; see `word_loss.py`."""


def encode_sample_image(processor: LlavaGroundingProcessor, sample: Sample) -> EncodedImage:
    """The sample's image, ready for the model."""
    return processor.encode_image(Image.fromarray(sample.image))


def grounding_target(sample: Sample, letterbox: Letterbox, phrase_map: np.ndarray) -> GroundingTarget:
    """The sample's instances in the canvas frame; masks at half the canvas resolution."""
    count = len(sample.instances)
    boxes = np.array([instance.box_xyxy for instance in sample.instances], dtype=np.float64).reshape(count, 4)
    norm = np.clip(letterbox.image_to_norm_cxcywh(boxes), 0, 1).astype(np.float32)
    masks = _canvas_masks(sample.masks, letterbox)
    # A thing too small for a single cell has no mask to learn from, rather than an empty one.
    has_mask = np.array([instance.has_mask for instance in sample.instances], dtype=bool) & masks.any(axis=(1, 2))
    return GroundingTarget(
        boxes_cxcywh=torch.from_numpy(norm),
        masks=torch.from_numpy(masks) if has_mask.any() else None,
        has_mask=torch.from_numpy(has_mask),
        phrase_map=torch.from_numpy(phrase_map),
    )


def _canvas_masks(masks: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Nearest-neighbour masks on the canvas grid at half resolution, (n, S/2, S/2) uint8."""
    (width, height), (wide, high) = letterbox.content_size_wh, letterbox.canvas_size_wh
    result = np.zeros((len(masks), high // 2, wide // 2), dtype=np.uint8)
    rows = np.minimum((np.arange(0.5, height / 2) * 2 * masks.shape[1] / height).astype(int), masks.shape[1] - 1)
    columns = np.minimum((np.arange(0.5, width / 2) * 2 * masks.shape[2] / width).astype(int), masks.shape[2] - 1)
    rows, columns = rows[: high // 2], columns[: wide // 2]
    result[:, : len(rows), : len(columns)] = masks[:, rows[:, None], columns[None]]
    return result


def class_batch(
    samples: Sequence[Sample],
    images: Sequence[EncodedImage],
    processor: LlavaGroundingProcessor,
    class_index: Mapping[str, int],
) -> ClassBatch:
    """Class names as phrases.

    Args:
        class_index: class name -> column, from 1 on.
    """
    width = 1 + len(class_index)
    targets, masks = [], torch.zeros(len(samples), width, dtype=torch.bool)
    for row, (sample, image) in enumerate(zip(samples, images, strict=True)):
        phrase_map = np.zeros((len(sample.instances), width), dtype=bool)
        for number, instance in enumerate(sample.instances):
            phrase_map[number, class_index[instance.category]] = True
        if sample.exhaustive is None:
            phrase_map[:, ANYTHING] = True
            masks[row] = True
        else:
            known = {class_index[name] for name in sample.exhaustive if name in class_index}
            known |= {class_index[instance.category] for instance in sample.instances}
            masks[row, sorted(known)] = True
            masks[row, ANYTHING] = len(sample.exhaustive) >= _MANY_CLASSES
            phrase_map[:, ANYTHING] = True
        targets.append(grounding_target(sample, image.letterbox, phrase_map & masks[row].numpy()))
    return ClassBatch(processor.collate_images(images), targets, masks)


def choose_turns(sample: Sample, max_turns: int, rng: np.random.Generator) -> list[Turn]:
    """A few turns in random order, every kind of question as likely as any other, descriptions more so.

    Most questions can be answered from their own words; a description cannot, it is what makes a model look. A
    follow-up stays behind the turn it refers to.
    """
    groups: list[list[Turn]] = []
    for turn in sample.turns:
        if turn.kind == "followup" and groups:
            groups[-1].append(turn)
        else:
            groups.append([turn])
    if not groups:
        return []
    kinds = Counter(group[0].kind for group in groups)
    weights = np.array([_KIND_WEIGHTS.get(group[0].kind, 1.0) / kinds[group[0].kind] for group in groups])
    order = rng.choice(len(groups), size=len(groups), replace=False, p=weights / weights.sum())
    chosen: list[Turn] = []
    for index in order:
        if len(chosen) >= max_turns:
            break
        chosen += groups[index]
    return chosen


def encode_dialogue(turns: Sequence[Turn], processor: LlavaGroundingProcessor, letterbox: Letterbox) -> EncodedText:
    """The turns as one conversation."""
    messages: list[Message] = []
    for turn in turns:
        messages += [Message("user", turn.question, turn.prompts), Message("assistant", turn.answer)]
    return processor.encode_conversation(messages, [turn.grounded for turn in turns], letterbox)


def dialogue_phrase_map(turns: Sequence[Turn], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which instance each `<seg>` of the dialogue names: (n, G) bool, and which phrases are known, (G,) bool."""
    targets = [target for turn in turns for target in turn.targets]
    phrase_map = np.zeros((count, len(targets)), dtype=bool)
    for column, target in enumerate(targets):
        phrase_map[list(target or ()), column] = True
    return phrase_map, np.array([target is not None for target in targets], dtype=bool)


def chat_batch(
    samples: Sequence[Sample],
    processor: LlavaGroundingProcessor,
    class_index: Mapping[str, int],
    max_turns: int,
    rng: np.random.Generator,
) -> ChatBatch:
    """Dialogues about images, with the class batch of the same images.

    Raises:
        DataError: if a sample has no turns.
    """
    mute = next((sample.id for sample in samples if not sample.turns), None)
    if mute is not None:
        raise DataError(f"sample `{mute}` has no turns, so there is no dialogue to learn from")
    images = [encode_sample_image(processor, sample) for sample in samples]
    texts, targets, known = [], [], []
    for sample, image in zip(samples, images, strict=True):
        turns = choose_turns(sample, max_turns, rng)
        texts.append(encode_dialogue(turns, processor, image.letterbox))
        phrase_map, is_known = dialogue_phrase_map(turns, len(sample.instances))
        targets.append(grounding_target(sample, image.letterbox, phrase_map))
        known.append(is_known)
    longest = max(len(row) for row in known)
    phrase_mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, is_known in enumerate(known):
        phrase_mask[row, : len(is_known)] = torch.from_numpy(is_known)
    return ChatBatch(
        images=processor.collate_images(images),
        texts=processor.collate_texts(texts),
        prompts=processor.collate_prompts([text.prompts for text in texts]),
        targets=targets,
        phrase_mask=phrase_mask,
        classes=class_batch(samples, images, processor, class_index),
        words=thing_words(samples, processor.tokens),
    )
