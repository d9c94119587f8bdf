"""Puts a run together from its recipe: model, processor, class phrases, data, plan. Runs nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llava_grounding.checkpoints import find_checkpoint, load_checkpoint, read_config
from llava_grounding.data.readers.coco import PACK_VARIABLE
from llava_grounding.data.sample import Sample
from llava_grounding.errors import ConfigError, DataError
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG, strip_markup
from llava_grounding.model.builders import set_num_queries
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.presets import preset
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings
from llava_grounding.processing.tokens import IMAGE
from llava_grounding.scenes.synthetic import SceneConfig
from llava_grounding.train.adapters import add_adapters
from llava_grounding.train.batching.batches import longest_dialogue
from llava_grounding.train.batching.mixture import Mixture, SampleSource
from llava_grounding.train.batching.sources import held_out_samples, open_sources, scenes_without_dialogues
from llava_grounding.train.batching.stream import BatchMaker, BatchStream, Portion
from llava_grounding.train.checkpoint import CLASS_PHRASE_FILES, load_class_phrases, lost_phrases
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.losses.token_weights import answer_word_weights
from llava_grounding.train.plan import StagePlan, apply_plan, stage_plan
from llava_grounding.train.precision import keep_precise
from llava_grounding.train.pretrained_backbone import check_pretrained, load_pretrained_backbone
from llava_grounding.train.recipe import Recipe
from llava_grounding.train.tokenizer import SPECIAL_TOKENS, train_tokenizer
from llava_grounding.train.training_module import LossConfig, TrainingModule

logger = logging.getLogger(__name__)

_TOKENIZER_SAMPLES = 3000
Sources = Sequence[tuple[SampleSource, float]]


@dataclass
class TrainingSetup:
    """Everything one stage works with."""

    recipe: Recipe
    plan: StagePlan
    training_module: TrainingModule
    processor: LlavaGroundingProcessor
    mixture: Mixture
    held_out: list[Sample]
    folder: Path
    earlier_phrases: ClassPhrases | None = None
    """Class names of an earlier stage that this one has no use for, but a later one may."""

    @property
    def model(self) -> LlavaGroundingForConditionalGeneration:
        """The model that is trained."""
        return self.training_module.model

    @property
    def phrases(self) -> ClassPhrases | None:
        """Class names as phrases, where they are a task."""
        return self.training_module.class_phrases

    def stream(self, first_step: int = 0, portion: Portion | None = None) -> BatchStream:
        """The batches of a process from a step on; of the only process by default."""
        recipe = self.recipe
        chat = "language" in self.plan.tasks
        maker = BatchMaker(
            processor=self.processor,
            class_index=self.phrases.index if self.phrases is not None else None,
            chat=chat,
            max_turns=recipe.max_turns,
            max_tokens=longest_dialogue(self.model.config, recipe.max_tokens),
            seed=recipe.seed,
            point="prompts" in self.plan.tasks,
            independent_turns=recipe.independent_turns,
            question_weights=recipe.question_weights,
        )
        portion = portion or Portion.of(recipe.batch_size, recipe.micro_batch_size)
        return BatchStream(self.mixture, maker, portion, recipe.steps, first_step)


def build_training_setup(
    recipe: Recipe, folder: Path, root: Path | None = None, device: str | None = None
) -> TrainingSetup:
    """Load or build everything a stage needs; the same seed gives the same weights.

    Args:
        folder: where logs, checkpoints and results go.
        root: what relative paths of sources are relative to, and the photo pack.
        device: where quantised weights go; others are moved later.

    Raises:
        UsageError: if the recipe asks for what is not there, or what does not fit together.
    """
    plan = stage_plan(recipe)
    if recipe.backbone_weights is not None:
        check_pretrained(recipe.backbone_weights)
    torch.manual_seed(recipe.seed)
    # Class names need no dialogues, and drawing is faster without.
    drawn = SceneConfig if "language" in plan.tasks else scenes_without_dialogues
    sources = open_sources(
        recipe.data, root, drawn, "language" in plan.tasks, recipe.commercial_use, recipe.augmentation
    )
    if not sources:
        kinds = ", ".join(dict.fromkeys(str(one["kind"]) for one in recipe.data))
        raise DataError(f"none of the sources is there: {kinds}; --data FOLDER or {PACK_VARIABLE} says where they are")
    held_out = held_out_samples(open_sources(recipe.validation, root), recipe.validation_samples)
    if not held_out:
        logger.warning("there is nothing to validate with, so no best weights will be kept, only the last")
    first = recipe.init_from if recipe.start_from is None else recipe.start_from
    start = None if first is None else find_checkpoint(first)[1]
    corpus = sources
    if start is None and drawn is not SceneConfig:  # a tokenizer needs dialogues
        corpus = open_sources(recipe.data, root, commercial_use=recipe.commercial_use)
    model, processor = _model_and_processor(recipe, start, corpus, device)
    earlier = _earlier_phrases(start)
    phrases = _class_phrases(model.config, sources, earlier, start) if "classes" in plan.tasks else None
    if recipe.lora is not None:
        add_adapters(model, recipe.lora)
    if recipe.backbone_weights is not None:
        load_pretrained_backbone(model.grounder.backbone, recipe.backbone_weights)
    apply_plan(model, plan, recipe, _new_tokens(processor))
    stored_dtypes = keep_precise(model)
    token_weights = answer_word_weights(
        processor.tokens, model.config.text_config.vocab_size, recipe.loss_weights.answer_words
    )
    training_module = TrainingModule(
        model, phrases, LossConfig.of(recipe, plan), stored_dtypes, token_weights=token_weights
    )
    mixture = Mixture(sources, recipe.batch_size, recipe.seed)
    return TrainingSetup(
        recipe=recipe,
        plan=plan,
        training_module=training_module,
        processor=processor,
        mixture=mixture,
        held_out=held_out,
        folder=folder,
        earlier_phrases=earlier if phrases is None else None,
    )


def model_config(recipe: Recipe) -> LlavaGroundingConfig:
    """Configuration of the model that a recipe trains; reads no weights."""
    config = preset(recipe.preset) if recipe.start_from is None else read_config(find_checkpoint(recipe.start_from)[1])
    if recipe.num_queries is not None:
        config.grounder_config.num_queries = recipe.num_queries
    config.detach_grounding = recipe.detach_grounding
    return config


def _model_and_processor(
    recipe: Recipe, start: Path | None, sources: Sources, device: str | None
) -> tuple[LlavaGroundingForConditionalGeneration, LlavaGroundingProcessor]:
    if start is None:
        return _from_nothing(recipe, sources)
    return _from_fitting(recipe, start) if recipe.start_from is None else _from_checkpoint(recipe, start, device)


def _from_nothing(
    recipe: Recipe, sources: Sources
) -> tuple[LlavaGroundingForConditionalGeneration, LlavaGroundingProcessor]:
    config = model_config(recipe)
    ids = (config.image_token_id, config.seg_token_id, config.region_token_id)
    if config.vision_config is not None or ids != tuple(map(SPECIAL_TOKENS.index, (IMAGE, SEG, REGION))):
        raise ConfigError(f"preset `{recipe.preset}` has a tower or tokenizer of its own, so it needs start_from")
    processor = new_processor(config, Mixture(sources, 1, recipe.seed))
    return LlavaGroundingForConditionalGeneration(config), processor


def _from_fitting(
    recipe: Recipe, start: Path
) -> tuple[LlavaGroundingForConditionalGeneration, LlavaGroundingProcessor]:
    """The preset's model with those weights of another that fit it, and that one's tokenizer."""
    loaded = load_checkpoint(start, "cpu", "float32")
    config = model_config(recipe)
    tokens = ("image_token_id", "seg_token_id", "region_token_id", "eos_token_id", "pad_token_id")
    wrong = [name for name in tokens if getattr(config, name) != getattr(loaded.model.config, name)]
    if wrong:
        raise ConfigError(f"preset `{recipe.preset}` and `{recipe.init_from}` differ in {', '.join(wrong)}")
    model = LlavaGroundingForConditionalGeneration(config)
    own, theirs = model.state_dict(), loaded.model.state_dict()
    fitting = {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    fresh = Counter(".".join(name.split(".")[:3]) for name in own if name not in fitting)
    logger.info("%d of %d tensors taken from %s; fresh: %s", len(fitting), len(own), recipe.init_from, dict(fresh))
    return model, LlavaGroundingProcessor(loaded.processor.tokenizer, ProcessorSettings.of(config))


def _from_checkpoint(
    recipe: Recipe, start: Path, device: str | None
) -> tuple[LlavaGroundingForConditionalGeneration, LlavaGroundingProcessor]:
    quantization = recipe.weights if recipe.weights in ("int8", "int4") else None
    dtype = "bfloat16" if recipe.weights != "float32" else "float32"
    place = device if quantization is not None else "cpu"
    loaded = load_checkpoint(start, place, dtype, quantization)
    config, wanted = loaded.model.config, model_config(recipe)
    config.detach_grounding = wanted.detach_grounding
    if wanted.grounder_config.num_queries != config.grounder_config.num_queries:
        set_num_queries(loaded.model.grounder, config, wanted.grounder_config.num_queries)
    return loaded.model, loaded.processor


def _earlier_phrases(start: Path | None) -> ClassPhrases | None:
    """Class phrases of the stage this one starts from, if it had any."""
    if start is None or not (lost_phrases(start) or any((start / name).is_file() for name in CLASS_PHRASE_FILES)):
        return None
    return load_class_phrases(start)


def _class_phrases(
    config: LlavaGroundingConfig, sources: Sources, earlier: ClassPhrases | None, start: Path | None
) -> ClassPhrases:
    """Class phrases of an earlier stage where it had any; else new ones of the sources' classes."""
    names = class_names(sources)
    if earlier is not None:
        new = sorted(names - set(earlier.names))
        if new:
            logger.info("starting fresh: phrases of %d classes that `%s` does not know", len(new), start)
        return earlier.extended(new)
    if not names:
        raise DataError("class names are a task of this stage, but none of its sources has any")
    logger.info("starting fresh: phrases of %d classes", len(names))
    return ClassPhrases(sorted(names), config.grounder_config.phrase_size, config.grounder_config.hidden_size)


def class_names(sources: Sources) -> set[str]:
    """Every class that a sample of the sources may show."""
    return {name for source, _ in sources for name in source.class_names()}


def _new_tokens(processor: LlavaGroundingProcessor) -> list[int]:
    ids = [processor.tokenizer.convert_tokens_to_ids(token) for token in (PHRASE_START, PHRASE_END, SEG)]
    return [number for number in ids if isinstance(number, int)]


def new_processor(config: LlavaGroundingConfig, mixture: Mixture) -> LlavaGroundingProcessor:
    """A processor for a model that starts from nothing, with a tokenizer trained on the mixture's dialogues."""
    settings = ProcessorSettings.of(config)
    tokenizer = train_tokenizer(_dialogue_texts(mixture, settings.template), config.text_config.vocab_size)
    return LlavaGroundingProcessor(tokenizer, settings)


def _dialogue_texts(mixture: Mixture, template: ChatTemplate) -> Iterator[str]:
    # A seed of its own, so that the corpus is no subset of the first steps.
    corpus = Mixture([(source, 1.0) for source in mixture.sources], 1, mixture.seed + 1)
    for step in range(_TOKENIZER_SAMPLES):
        for slot in corpus.slots(step):
            sample, _ = corpus.fill(slot, lambda sample: sample)
            for turn in sample.turns:
                pieces = template.question(turn.question, 0, turn.grounded, first=False)
                yield "".join(piece.text for piece in pieces) + template.answer(strip_markup(turn.answer)).text
