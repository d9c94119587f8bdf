"""Puts a stage together from its recipe: model, processor, class phrases, data. `llava-grounding train` calls it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from llava_grounding.data.coco import PhotoPack
from llava_grounding.data.kinds import KINDS
from llava_grounding.data.photo_dialogues import photo_sample
from llava_grounding.data.sample import Sample
from llava_grounding.data.synthetic import SceneConfig
from llava_grounding.errors import CheckpointError, ConfigError, did_you_mean
from llava_grounding.markup import REGION, SEG, strip_markup
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.presets import preset
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.image import CanvasSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings
from llava_grounding.processing.selection import SelectionSettings
from llava_grounding.processing.tokens import IMAGE
from llava_grounding.train.class_losses import ClassPhrases
from llava_grounding.train.loop import Workshop, load_class_phrases, run_stage
from llava_grounding.train.recipe import Recipe
from llava_grounding.train.stream import SampleStream, validation_scenes
from llava_grounding.train.tokenizer import SPECIAL_TOKENS, train_tokenizer

logger = logging.getLogger(__name__)

STAGES = ("pretrain_grounder", "chat")
_TOKENIZER_SAMPLES = 3000


class PackPhotos:
    """The training photos of a pack as samples, by index; picklable for workers."""

    def __init__(self, root: Path | None) -> None:
        self.photos = PhotoPack(root).split("train")

    def __call__(self, index: int, rng: np.random.Generator) -> Sample:
        return photo_sample(self.photos[index % len(self.photos)], rng)

    @property
    def categories(self) -> set[str]:
        """Every category of the pack."""
        return set(self.photos.categories.values())


def train(recipe: Recipe, folder: Path, data: Path | None = None, device: str | None = None) -> dict[str, float]:
    """Run one stage.

    Args:
        folder: where logs, checkpoints and the result go.
        data: place of the photo pack; None reads LLAVA_GROUNDING_DATA.

    Raises:
        ConfigError: if the stage is unknown.
    """
    if recipe.stage not in STAGES:
        raise ConfigError(
            f"stage must be one of {', '.join(STAGES)}, got `{recipe.stage}`{did_you_mean(recipe.stage, STAGES)}"
        )
    shop = open_workshop(recipe, folder, data, torch.device(device or "cpu"))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in shop.model.named_children()}
    logger.info("learning: %s", ", ".join(f"{name} {size / 1e6:.2f}M" for name, size in sizes.items()))
    return run_stage(shop)


def open_workshop(recipe: Recipe, folder: Path, data: Path | None, device: torch.device) -> Workshop:
    """Load or build everything a stage needs; the same seed gives the same weights."""
    torch.manual_seed(recipe.seed)
    photos = PackPhotos(data) if recipe.photo_share > 0 else None
    # Class names need no dialogues, and drawing is faster without.
    scenes = SceneConfig(questions=()) if recipe.stage == "pretrain_grounder" else SceneConfig()
    stream = SampleStream(recipe.seed, recipe.photo_share, photos, scenes)
    if recipe.start_from is None:
        names = sorted(set(KINDS) | (photos.categories if photos else set()))
        config = preset(recipe.preset)
        ids = (config.image_token_id, config.seg_token_id, config.region_token_id)
        if config.vision_config is not None or ids != tuple(map(SPECIAL_TOKENS.index, (IMAGE, SEG, REGION))):
            raise ConfigError(f"preset `{recipe.preset}` has a tower or tokenizer of its own, so it needs start_from")
        processor = new_processor(config, SampleStream(recipe.seed, recipe.photo_share, photos))
        model = LlavaGroundingForConditionalGeneration(config)
        phrases = ClassPhrases(names, config.grounder_config.phrase_size, config.grounder_config.hidden_size)
    else:
        start = Path(recipe.start_from)
        model = LlavaGroundingForConditionalGeneration(preset(recipe.preset))
        load_start(model, start)
        processor = LlavaGroundingProcessor.from_pretrained(start)
        phrases = load_class_phrases(start)
        _check_names(phrases, set(KINDS) | (photos.categories if photos else set()), start)
    return Workshop(
        model=model,
        phrases=phrases,
        processor=processor,
        recipe=recipe,
        stream=stream,
        held_out=list(validation_scenes(recipe.validation_samples)),
        folder=folder,
        device=device,
    )


def _check_names(phrases: ClassPhrases, needed: set[str], start: Path) -> None:
    nameless = sorted(needed - set(phrases.names))
    if nameless:
        shown = ", ".join(nameless[:5]) + (", ..." if len(nameless) > 5 else "")
        raise ConfigError(
            f"`{start}` does not know the classes {shown} of this stage's samples; "
            f"train it with the same data, or this stage with photo_share=0"
        )


def load_start(model: LlavaGroundingForConditionalGeneration, folder: Path) -> None:
    """Load an earlier stage's weights; parts that stage did not have start fresh and are named in the log.

    Raises:
        CheckpointError: if the file is missing, or holds tensors the model has no place for.
    """
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"`{path}` is missing or damaged") from error
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"`{path}` does not fit the model: {str(error).splitlines()[-1].strip()}") from error
    if unexpected:
        raise CheckpointError(f"`{path}` holds tensors the model has no place for: {', '.join(unexpected[:5])}")
    fresh = [name for name in missing if not (name == "lm_head.weight" and model.config.tie_word_embeddings)]
    if fresh:
        logger.info("starting fresh: %s", ", ".join(fresh))


def new_processor(config: LlavaGroundingConfig, stream: SampleStream) -> LlavaGroundingProcessor:
    """A processor for a model that starts from nothing, with a tokenizer trained on the stream's dialogues."""
    grounder = config.grounder_config
    settings = ProcessorSettings(
        image_sequence_length=config.image_sequence_length,
        canvas=CanvasSettings(
            grounder.image_size, tuple(grounder.image_mean), tuple(grounder.image_std), grounder.pad_value
        ),
        selection=SelectionSettings(config.query_selection, config.score_threshold, config.nms_iou),
    )
    tokenizer = train_tokenizer(_dialogue_texts(stream, settings.template), config.text_config.vocab_size)
    return LlavaGroundingProcessor(tokenizer, settings)


def _dialogue_texts(stream: SampleStream, template: ChatTemplate) -> Iterator[str]:
    # Indices far above any training step's, so that the corpus is no subset of the first epoch.
    for index in range(10**8, 10**8 + _TOKENIZER_SAMPLES):
        for turn in stream[index].turns:
            pieces = template.question(turn.question, 0, turn.grounded, first=False)
            yield "".join(piece.text for piece in pieces) + template.answer(strip_markup(turn.answer)).text
