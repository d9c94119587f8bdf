"""Samples to the tensors of a training step, by the processor's own methods.

One function per stage: class names as phrases, or dialogues with `<seg>` and `<region>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava_grounding.data.sample import Sample, Turn
from llava_grounding.dialogues.settings import DEFAULT_QUESTION_WEIGHTS, PromptSettings
from llava_grounding.dialogues.templates import DESCRIBE_WORDINGS
from llava_grounding.errors import DataError
from llava_grounding.geometry import Letterbox
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import RegionPrompts
from llava_grounding.model.outputs import IGNORE_INDEX
from llava_grounding.processing.processor import EncodedImage, EncodedText, LlavaGroundingProcessor
from llava_grounding.processing.regions import EncodedPrompts
from llava_grounding.processing.tokens import MarkupTokenizer
from llava_grounding.structures import Message
from llava_grounding.train.batching.independent_turns import Branches, collate_branches, join_texts
from llava_grounding.train.batching.instance_prompts import instance_prompts, promptable
from llava_grounding.train.batching.targets import GroundingTarget

ANYTHING = 0
"""Column of the phrase that names every instance."""
_AS_WRITTEN = 0.5  # share of descriptions that are asked for in the words of the sample
_MANY_CLASSES = 20
"""From so many exhaustively labelled classes on, what has no label counts as nothing; no recipe has needed another."""
_MOST_POINTED = 24
"""Things of one image that are pointed at in one step; bounds its memory."""


@dataclass
class ClassBatch:
    """Images with every class name as a phrase."""

    images: dict[str, Tensor]
    targets: list[GroundingTarget]
    phrase_mask: Tensor
    """[B, 1 + classes] bool: classes that are judged in that image, being labelled exhaustively or seen in it; column 0
    stands for anything and is judged where (nearly) everything is labelled."""
    partly_labelled: Tensor
    """[B, 1 + classes] bool: those of them that are only seen, so that other things of the class may have no label."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def to(self, device: torch.device) -> ClassBatch:
        """The same batch on another device."""
        return ClassBatch(
            _to(self.images, device),
            [one.to(device) for one in self.targets],
            _to(self.phrase_mask, device),
            _to(self.partly_labelled, device),
        )

    @property
    def counts(self) -> Tensor:
        """What the losses of a step are divided by: target tokens, objects, objects that are pointed at; [3]."""
        return torch.tensor([0, sum(map(len, self.targets)), 0], dtype=torch.float64)


@dataclass
class PointedBatch:
    """Things that are pointed at: prompt i of an image belongs to its target i."""

    prompts: RegionPrompts
    targets: list[GroundingTarget]

    def to(self, device: torch.device) -> PointedBatch:
        """The same batch on another device."""
        return PointedBatch(self.prompts.to(device), [target.to(device) for target in self.targets])


@dataclass
class ChatBatch:
    """Images with a dialogue each."""

    images: dict[str, Tensor]
    texts: dict[str, Tensor]
    """`input_ids`, `attention_mask` and `labels`, [B, T]; where turns do not see each other, `branches` and
    `position_ids` as well."""
    prompts: RegionPrompts | None
    targets: list[GroundingTarget]
    """phrase_map over the `<seg>` tokens of the whole dialogue."""
    phrase_mask: Tensor
    """[B, G] bool: phrases whose instances are known."""
    classes: ClassBatch | None = None
    """The same images with class names as phrases."""
    words: Tensor | None = None
    """[N, W] token ids that describe each instance, image after image; see `word_loss.py`."""
    pointed: PointedBatch | None = None
    """Things of the same images with a prompt each."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def to(self, device: torch.device) -> ChatBatch:
        """The same batch on another device."""
        return ChatBatch(
            images=_to(self.images, device),
            texts=_to(self.texts, device),
            prompts=None if self.prompts is None else self.prompts.to(device),
            targets=[target.to(device) for target in self.targets],
            phrase_mask=_to(self.phrase_mask, device),
            classes=None if self.classes is None else self.classes.to(device),
            words=None if self.words is None else _to(self.words, device),
            pointed=None if self.pointed is None else self.pointed.to(device),
        )

    @property
    def counts(self) -> Tensor:
        """What is counted, as in a `ClassBatch`."""
        tokens = int((self.texts["labels"][:, 1:] != IGNORE_INDEX).sum())
        pointed = 0 if self.pointed is None else sum(map(len, self.pointed.targets))
        return torch.tensor([tokens, sum(map(len, self.targets)), pointed], dtype=torch.float64)


@dataclass(frozen=True)
class ChatItem:
    """One image with its dialogue, on its way into a batch."""

    sample: Sample
    image: EncodedImage
    text: EncodedText
    phrase_map: np.ndarray
    """(n, G) bool."""
    known: np.ndarray
    """(G,) bool: phrases whose instances are known."""
    branches: Branches | None = None
    """Where the text's positions belong, if its dialogues do not see each other."""
    pointed: tuple[list[int], EncodedPrompts] | None = None
    """Rows of instances, and a prompt for each."""


def _to(value: Any, device: torch.device) -> Any:
    """A tensor, or each of a mapping, on another device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in value.items()}


def encode_sample_image(processor: LlavaGroundingProcessor, sample: Sample) -> EncodedImage:
    """The sample's image, ready for the model."""
    return processor.encode_image(Image.fromarray(sample.image))


def grounding_target(sample: Sample, letterbox: Letterbox, phrase_map: np.ndarray) -> GroundingTarget:
    """The sample's instances in the canvas frame; masks at half the canvas resolution."""
    count = len(sample.instances)
    boxes = np.array([instance.box_xyxy for instance in sample.instances], dtype=np.float64).reshape(count, 4)
    norm = np.clip(letterbox.image_to_norm_cxcywh(boxes), 0, 1).astype(np.float32)
    wide, high = letterbox.canvas_size_wh
    masks = letterbox.masks_at_cells(sample.masks, (wide // 2, high // 2))
    # A thing too small for a single cell has no mask to learn from, rather than an empty one.
    has_mask = np.array([instance.has_mask for instance in sample.instances], dtype=bool) & masks.any(axis=(1, 2))
    return GroundingTarget(
        boxes_cxcywh_norm=torch.from_numpy(norm),
        masks=torch.from_numpy(masks) if has_mask.any() else None,
        has_mask=torch.from_numpy(has_mask),
        phrase_map=torch.from_numpy(phrase_map),
    )


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
    partly = torch.zeros_like(masks)
    for row, (sample, image) in enumerate(zip(samples, images, strict=True)):
        phrase_map = np.zeros((len(sample.instances), width), dtype=bool)
        for number, instance in enumerate(sample.instances):
            if instance.category in class_index:
                phrase_map[number, class_index[instance.category]] = True
        if sample.exhaustive is None:
            phrase_map[:, ANYTHING] = True
            masks[row] = True
        else:
            known = {class_index[name] for name in sample.exhaustive if name in class_index}
            seen = {class_index[one.category] for one in sample.instances if one.category in class_index}
            masks[row, sorted(known | seen)] = True
            partly[row, sorted(seen - known)] = True
            masks[row, ANYTHING] = len(sample.exhaustive) >= _MANY_CLASSES
            phrase_map[:, ANYTHING] = True
        targets.append(grounding_target(sample, image.letterbox, phrase_map & masks[row].numpy()))
    return ClassBatch(processor.collate_images(images), targets, masks, partly)


def choose_turns(
    sample: Sample,
    max_turns: int,
    rng: np.random.Generator,
    question_weights: Mapping[str, float] = DEFAULT_QUESTION_WEIGHTS,
) -> list[list[Turn]]:
    """A few turns in random order, by kind of question.

    Args:
        question_weights: how likely a kind of question is, 1 for kinds that are not named.

    Returns:
        Turns that belong together: a follow-up stays behind the turn it refers to, and a dialogue that has its order
        stays whole.
    """
    if sample.ordered:
        return [list(sample.turns)] if sample.turns else []
    groups: list[list[Turn]] = []
    for turn in sample.turns:
        if turn.kind == "followup" and groups:
            groups[-1].append(turn)
        else:
            groups.append([turn])
    if not groups:
        return []
    kinds = Counter(group[0].kind for group in groups)
    weights = np.array([question_weights.get(group[0].kind, 1.0) / kinds[group[0].kind] for group in groups])
    order = rng.choice(len(groups), size=len(groups), replace=False, p=weights / weights.sum())
    chosen: list[list[Turn]] = []
    for index in order:
        if sum(map(len, chosen)) >= max_turns:
            break
        chosen.append([_reworded(turn, rng) for turn in groups[index]])
    return chosen


def _reworded(turn: Turn, rng: np.random.Generator) -> Turn:
    """A description asked for as people do, every other time; else as the sample has it."""
    if turn.kind not in ("describe", "describe_plain") or rng.random() < _AS_WRITTEN:
        return turn
    return replace(turn, question=DESCRIBE_WORDINGS[int(rng.integers(len(DESCRIBE_WORDINGS)))])


def encode_dialogue(turns: Sequence[Turn], processor: LlavaGroundingProcessor, letterbox: Letterbox) -> EncodedText:
    """The turns as one conversation."""
    messages: list[Message] = []
    for turn in turns:
        messages += [Message("user", turn.question, turn.prompts), Message("assistant", turn.answer)]
    grounded, in_loss = [turn.grounded for turn in turns], [turn.in_loss for turn in turns]
    return processor.encode_conversation(messages, grounded, letterbox, in_loss=in_loss)


def dialogue_phrase_map(turns: Sequence[Turn], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which instance each `<seg>` of the dialogue names: (n, G) bool, and which phrases are known, (G,) bool.

    What an answer names that does not count in the loss is unknown.
    """
    targets = [target if turn.in_loss else None for turn in turns for target in turn.targets]
    phrase_map = np.zeros((count, len(targets)), dtype=bool)
    for column, target in enumerate(targets):
        phrase_map[list(target or ()), column] = True
    return phrase_map, np.array([target is not None for target in targets], dtype=bool)


def longest_dialogue(config: LlavaGroundingConfig, max_tokens: int | None) -> int | None:
    """Tokens of a dialogue at most: what a recipe says, and never more than the model has positions; None: no limit."""
    limits = max_tokens, getattr(config.text_config, "max_position_embeddings", None)
    return min((limit for limit in limits if limit is not None), default=None)


def thing_words(samples: Sequence[Sample], tokenizer: MarkupTokenizer) -> Tensor:
    """Token ids of every instance's name and attributes, `[N, W]`, image after image; -100 where a row is shorter."""
    rows = [
        [
            token
            for word in (instance.category, *instance.attributes)
            for token in (tokenizer.encode_plain(f" {word}") if word else [])
        ]
        for sample in samples
        for instance in sample.instances
    ]
    words = torch.full((len(rows), max(map(len, rows), default=0)), IGNORE_INDEX)
    for row, tokens in enumerate(rows):
        words[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return words


def chat_item(
    sample: Sample,
    processor: LlavaGroundingProcessor,
    max_turns: int,
    rng: np.random.Generator,
    max_tokens: int | None = None,
    independent: bool = False,
    question_weights: Mapping[str, float] = DEFAULT_QUESTION_WEIGHTS,
) -> ChatItem:
    """A few turns about an image, ready for a batch; turns that would make the dialogue too long are left out.

    Args:
        independent: turns do not see each other, except those that belong together.
        question_weights: see `choose_turns`.

    Raises:
        DataError: if the sample has no turns, the first is too long by itself, or no answer that fits is to be learnt.
    """
    if not sample.turns:
        raise DataError(f"sample `{sample.id}` has no turns, so there is no dialogue to learn from")
    image = encode_sample_image(processor, sample)
    chosen = choose_turns(sample, max_turns, rng, question_weights)
    dialogues = chosen if independent else [[turn for group in chosen for turn in group]]

    def first(count: int) -> tuple[list[list[Turn]], EncodedText, Branches | None]:
        kept = _first_turns(dialogues, count)
        return kept, *_encode_together(kept, processor, image.letterbox)

    too_many = sum(map(len, dialogues))
    kept, text, branches = first(too_many)
    if max_tokens is not None and len(text.input_ids) > max_tokens:
        fitting = 0
        while too_many - fitting > 1:  # by halves: a recorded dialogue may have thousands of turns
            count = (fitting + too_many) // 2
            shorter = first(count)
            if len(shorter[1].input_ids) <= max_tokens:
                fitting, (kept, text, branches) = count, shorter
            else:
                too_many = count
        if not fitting:
            length = len(first(1)[1].input_ids)
            raise DataError(f"the dialogue of `{sample.id}` takes {length} tokens of {max_tokens} allowed")
    if not any(text.loss_mask):
        fits = "" if max_tokens is None else f" that fits into {max_tokens} tokens"
        raise DataError(f"no answer of `{sample.id}`{fits} is to be learnt")
    phrase_map, known = dialogue_phrase_map([turn for part in kept for turn in part], len(sample.instances))
    return ChatItem(sample, image, text, phrase_map, known, branches)


def _first_turns(dialogues: Sequence[list[Turn]], count: int) -> list[list[Turn]]:
    """The first so many turns of several dialogues."""
    kept: list[list[Turn]] = []
    for turns in dialogues:
        part = turns[: count - sum(map(len, kept))]
        if part:
            kept.append(part)
    return kept


def _encode_together(
    dialogues: Sequence[list[Turn]], processor: LlavaGroundingProcessor, letterbox: Letterbox
) -> tuple[EncodedText, Branches | None]:
    """Dialogues about one image as one text, and where its positions belong if they are several."""
    texts = [encode_dialogue(turns, processor, letterbox) for turns in dialogues]
    return join_texts(texts, processor.tokens.ids.image) if len(texts) > 1 else (texts[0], None)


def with_pointed(item: ChatItem, rng: np.random.Generator, settings: PromptSettings | None = None) -> ChatItem:
    """The item with a prompt for each thing that can be pointed at; of crowded images for some of them."""
    rows = promptable(item.sample)
    if len(rows) > _MOST_POINTED:
        rows = sorted(int(row) for row in rng.choice(rows, size=_MOST_POINTED, replace=False))
    return replace(item, pointed=(rows, instance_prompts(item.sample, rows, item.image.letterbox, rng, settings)))


def collate_chat(
    items: Sequence[ChatItem], processor: LlavaGroundingProcessor, class_index: Mapping[str, int] | None = None
) -> ChatBatch:
    """Items as one batch.

    Args:
        class_index: adds class names as phrases, by class name -> column; None leaves that task out.
    """
    samples, images = [item.sample for item in items], [item.image for item in items]
    phrase_mask = torch.zeros(len(items), max(len(item.known) for item in items), dtype=torch.bool)
    for row, item in enumerate(items):
        phrase_mask[row, : len(item.known)] = torch.from_numpy(item.known)
    texts = processor.collate_texts([item.text for item in items])
    if any(item.branches is not None for item in items):
        alone = [item.branches or Branches.of_one(len(item.text.input_ids)) for item in items]
        texts |= collate_branches(alone, texts["input_ids"].shape[1])
    return ChatBatch(
        images=processor.collate_images(images),
        texts=texts,
        prompts=processor.collate_prompts([item.text.prompts for item in items]),
        targets=[grounding_target(item.sample, item.image.letterbox, item.phrase_map) for item in items],
        phrase_mask=phrase_mask,
        classes=None if class_index is None else class_batch(samples, images, processor, class_index),
        words=None if class_index is None else thing_words(samples, processor.tokens),
        pointed=_collate_pointed(items, processor),
    )


def _collate_pointed(items: Sequence[ChatItem], processor: LlavaGroundingProcessor) -> PointedBatch | None:
    pointed = [item.pointed for item in items]
    prompts = processor.collate_prompts([one[1] for one in pointed if one is not None])
    if prompts is None or any(one is None for one in pointed):
        return None
    targets = [
        _rows_of(grounding_target(item.sample, item.image.letterbox, item.phrase_map[:, :0]), item.pointed[0])
        for item in items
        if item.pointed is not None
    ]
    return PointedBatch(prompts, targets)


def _rows_of(target: GroundingTarget, rows: list[int]) -> GroundingTarget:
    masks = None if target.masks is None else target.masks[rows]
    has_mask = target.has_mask[rows]
    return GroundingTarget(
        target.boxes_cxcywh_norm[rows], masks if bool(has_mask.any()) else None, has_mask, target.phrase_map[rows]
    )
