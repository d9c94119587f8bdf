"""A model with random weights, small enough to build in a moment, and a way to put words into its mouth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from llava_grounding.inference import batching
from llava_grounding.inference.decoding import Decoding, TokenSampler
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.image import CanvasSettings, TowerSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings
from llava_grounding.processing.selection import SelectionSettings
from llava_grounding.train.tokenizer import train_tokenizer

WORDS = (
    "USER: Describe the image. (with grounding) ASSISTANT: There is a red dog to the left of two white cats.",
    "USER: What colour is the dog? ASSISTANT: The dog is red. USER: Where are the cats? ASSISTANT: They are here.",
    "USER: Find the big dog. ASSISTANT: The big dog. No, there is no horse. Yes, it is.",
)
_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 16, 16, 24],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_VISION = {"hidden_size": 32, "mask_size": 16, "num_levels": 3, "decoder_layers": 2, "decoder_ffn_size": 32}
_SHARED: dict[str, Any] = {
    "text_config": {
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "grounder_config": {
        "backbone_config": _BACKBONE,
        "pixel_decoder": "feature_pyramid",
        "image_size": 64,
        "phrase_size": 48,
        "encoder_layers": 0,
        "num_queries": 12,
        "proposal_order": "fine_small",
        **_VISION,
    },
    "visual_prompt_config": {"share_image_features": True, **_VISION},
    "projector": "mlp",
    "shared_tower_objects": 4,
    "image_token_id": 5,
    "seg_token_id": 8,
    "region_token_id": 9,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "phrase_state": "at_seg",
    "score_function": "sigmoid",
    "score_threshold": 0.5,
    "nms_iou": 0.7,
    "phrase_queries": "image",
    "tie_word_embeddings": True,
}
_SEPARATE: dict[str, Any] = {
    **_SHARED,
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "visual_prompt_config": {
        "backbone_config": _BACKBONE,
        "pixel_decoder": "feature_pyramid",
        "isolate_prompts": False,
        **_VISION,
    },
    "projector": "linear",
    "phrase_state": "before_seg",
    "score_function": "softmax",
    "score_threshold": 0.09,
    "nms_iou": None,
    "phrase_queries": "phrases",
    "tie_word_embeddings": False,
}
KINDS = {"shared": _SHARED, "separate": _SEPARATE}
"""`shared`: one vision module for everything, as `nano`. `separate`: three, and the settings of the original."""


def tiny_config(kind: str = "shared", **overrides: Any) -> LlavaGroundingConfig:
    """Configuration of a tiny model."""
    return LlavaGroundingConfig(**{**KINDS[kind], **overrides})


def tiny_processor(config: LlavaGroundingConfig) -> LlavaGroundingProcessor:
    """A processor for it, with a tokenizer that knows a few words."""
    settings = ProcessorSettings(
        image_sequence_length=config.image_sequence_length,
        canvas=CanvasSettings(size=config.grounder_config.image_size),
        tower=None if config.vision_config is None else TowerSettings(size=config.vision_config.image_size),
        selection=SelectionSettings(config.score_function, config.score_threshold, config.nms_iou),
    )
    return LlavaGroundingProcessor(train_tokenizer(WORDS, config.text_config.vocab_size), settings)


def tiny_weights(config: LlavaGroundingConfig, seed: int = 1) -> LlavaGroundingForConditionalGeneration:
    """A model with random weights in evaluation mode; unlike freshly built ones its boxes and prompts do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaGroundingForConditionalGeneration(config)
        for part in (model.grounder, model.visual_prompt_encoder):
            torch.nn.init.normal_(part.query_decoder.box_head.layers[-1].weight, std=0.5)
        torch.nn.init.normal_(model.visual_prompt_encoder.coverage_projection.weight, std=0.5)
        torch.nn.init.normal_(model.get_input_embeddings().weight)
        for name, weight in model.language_model.layers.named_parameters():
            if name.endswith("proj.weight"):  # strong enough that what came before changes a state a lot
                torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


@cache
def tiny_parts(kind: str) -> tuple[LlavaGroundingForConditionalGeneration, LlavaGroundingProcessor]:
    """Model and processor, built once; nobody may change them."""
    config = tiny_config(kind)
    return tiny_weights(config), tiny_processor(config)


def tiny_chat(kind: str = "shared") -> GroundedChat:
    """A chat with a random model of this kind."""
    return GroundedChat(*tiny_parts(kind), name=f"tiny-{kind}")


def picture(seed: int = 0, size_wh: tuple[int, int] = (90, 60)) -> Image.Image:
    """Noise in blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size_wh, Image.Resampling.NEAREST)


@contextmanager
def saying(chat: GroundedChat, *raws: str | Sequence[int]) -> Iterator[None]:
    """Make the model answer with these raw texts (or ids), one per answer in the order they are begun, and then end."""
    tokens, prefix = chat.processor.tokens, chat.processor.settings.template.answer_prefix
    scripts = [
        [*tokens.encode_answer(prefix + raw), tokens.ids.eos] if isinstance(raw, str) else list(raw) for raw in raws
    ]
    waiting = iter(scripts)

    class ScriptedSampler(TokenSampler):
        def __init__(self, settings: Decoding) -> None:
            super().__init__(settings)
            self._script = iter(next(waiting))

        def sample(self, logits: torch.Tensor) -> int:
            super().sample(logits)
            return next(self._script)

    with mock.patch.object(batching, "TokenSampler", ScriptedSampler):
        yield
