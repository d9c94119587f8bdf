"""A model on its device: pictures, texts and phrase states in, features, embeddings and regions out.

Everything runs in inference mode and in the chosen precision. Knows no dialogue and no decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from llava_grounding.geometry import Letterbox
from llava_grounding.model.llava_grounding import ImageFeatures, LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import EncodedImage, EncodedText, LlavaGroundingProcessor
from llava_grounding.processing.selection import PhraseSelection

PHRASES_PER_PASS = 32  # read or grounded apart in one pass; bounds the memory it takes


@dataclass
class ImageContext:
    """An image as the model has encoded it: what questions about it start from."""

    picture: Image.Image | None
    """The picture to draw into; None where nobody draws."""
    encoded: EncodedImage
    features: ImageFeatures
    """Features of this one image; what the visual prompt encoder reads is added when the first prompt needs it."""

    @property
    def letterbox(self) -> Letterbox:
        """Maps between the picture and the model's canvas."""
        return self.encoded.letterbox


class Runtime:
    """Runs the parts of a model.

    Args:
        model: on its device, in evaluation mode.
        processor: of the same checkpoint.
        autocast: precision of the vision modules' products, whose weights stay in float32; None computes in float32.
    """

    def __init__(
        self,
        model: LlavaGroundingForConditionalGeneration,
        processor: LlavaGroundingProcessor,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self._autocast = autocast

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the language model is made for; None where its config does not say."""
        return getattr(self.model.config.text_config, "max_position_embeddings", None)

    def encode_images(self, pictures: Sequence[Image.Image]) -> list[ImageContext]:
        """Encode upright RGB pictures in one pass."""
        return self.encode_prepared([self.processor.encode_image(picture) for picture in pictures], pictures)

    @torch.inference_mode()
    def encode_prepared(
        self, encoded: Sequence[EncodedImage], pictures: Sequence[Image.Image | None]
    ) -> list[ImageContext]:
        """The same for pictures that the processor has prepared; they may be gone by now."""
        pixels = {name: value.to(self.device) for name, value in self.processor.collate_images(encoded).items()}
        with self._vision_precision():
            features = self.model.encode_image(**pixels)
        if len(encoded) == 1:
            return [ImageContext(pictures[0], encoded[0], features)]
        rows = torch.arange(len(encoded), device=self.device).split(1)
        return [
            ImageContext(picture, image, features.rows(row))
            for picture, image, row in zip(pictures, encoded, rows, strict=True)
        ]

    @torch.inference_mode()
    def embed(self, text: EncodedText, image: ImageContext) -> Tensor:
        """Embeddings `[1, T, D]` of a text, with the image and its visual prompts in their slots."""
        ids = torch.tensor([text.input_ids], device=self.device)
        prompts = self.processor.collate_prompts([text.prompts])
        with self._vision_precision():
            if prompts is not None and image.features.prompt_memory is None:
                pixels = self.processor.collate_images([image.encoded])["grounder_pixel_values"].to(self.device)
                image.features = self.model.with_prompt_memory(image.features, pixels)
            # What a dialogue goes on with has no image in it: the one before it has.
            return self.model.embed_prompt(ids, image.features, prompts, has_past=True)[0]

    @torch.inference_mode()
    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        """Embeddings `[1, T, D]` of what the model itself has written: nothing in it is a placeholder."""
        return self.model.get_input_embeddings()(torch.tensor([list(ids)], dtype=torch.long, device=self.device))

    @torch.inference_mode()
    def ground_together(
        self, image: ImageContext, states: Sequence[Tensor], score_threshold: float | None = None
    ) -> list[PhraseSelection]:
        """Regions of the phrases of one answer, grounded in one pass as in training.

        Args:
            score_threshold: above which a region is kept; None is the model's own.
        """
        if not states:
            return []
        return self._ground(image, torch.stack(list(states))[None], score_threshold)[0]

    @torch.inference_mode()
    def ground_apart(
        self, image: ImageContext, states: Tensor, score_threshold: float | None = None
    ) -> list[PhraseSelection]:
        """Regions of phrases `[G, D]` that have nothing to do with each other; `score_threshold` as above."""
        parts = states[:, None].split(PHRASES_PER_PASS)
        return [selection for part in parts for (selection,) in self._ground(image, part, score_threshold)]

    def _ground(
        self, image: ImageContext, embeds: Tensor, score_threshold: float | None
    ) -> list[list[PhraseSelection]]:
        """Per row of phrases `[B, G, D]`, all about the one image."""
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        with self._vision_precision():
            output = self.model.ground(image.features.memory, embeds, mask, proposals=image.features.proposals)
        return [
            self.processor.select(output, row, embeds.shape[1], image.letterbox, score_threshold)
            for row in range(len(embeds))
        ]

    def _vision_precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self._autocast is None else torch.autocast(self.device.type, self._autocast)
