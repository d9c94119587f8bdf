"""Images as transformers knows them: the batch that a model takes, and `processor.image_processor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import BatchFeature

from llava_grounding.errors import PromptError
from llava_grounding.processing.transformers_options import read_options

if TYPE_CHECKING:
    from llava_grounding.processing.processor import EncodedImage, ProcessorSettings

IMAGE_INPUT_NAMES = ("grounder_pixel_values", "pixel_values", "image_sizes")


class GroundingBatch(BatchFeature):
    """Inputs of the model. `.to(dtype)` changes the vision tower's pixels only.

    The vision modules keep their precision, and places in the image would move by pixels in 16 bits.
    """

    def to(self, *args: Any, **kwargs: Any) -> GroundingBatch:
        """Move to a device, a type, or both."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device=device, dtype=dtype if name == "pixel_values" else None)
        return self


class GroundingImageProcessor:
    """The half of a processor that prepares images. What it does is part of the checkpoint and is not chosen by a call.

    Args:
        settings: of the processor.
        encode: images as they come to the tensors of a batch.
    """

    def __init__(self, settings: ProcessorSettings, encode: Callable[[Sequence[Any]], dict[str, torch.Tensor]]) -> None:
        self.settings = settings
        self._encode = encode
        self.size = {"height": settings.canvas.size, "width": settings.canvas.size}
        """Size in pixels of the canvas on which an image is letterboxed."""
        self.image_mean = [value / 255 for value in settings.canvas.mean]
        """Per channel, of 0..1, as transformers has it."""
        self.image_std = [value / 255 for value in settings.canvas.std]
        """Per channel, of 0..1."""

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that it may give."""
        return list(IMAGE_INPUT_NAMES)

    def __call__(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> GroundingBatch:
        """Prepare images: a path, bytes, PIL image or array, or a list of them.

        Returns:
            `grounder_pixel_values` [B, 3, S, S], `pixel_values` if the model has a tower of its own, and `image_sizes`
            [B, 2] (height, width).

        Raises:
            ImageError: if an image cannot be used.
            UsageError: if an argument is not known, or would prepare them in another way.
        """
        read_options({**kwargs, "return_tensors": return_tensors}, "image_processor(...)")
        rows = list(unwrapped(images if isinstance(images, (list, tuple)) else [images]))
        if not rows:
            raise PromptError("there must be at least one image, got none")
        return GroundingBatch(self._encode(rows))

    preprocess = __call__

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        tower = self.settings.tower
        return {
            "image_processor_type": type(self).__name__,
            "size": self.size,
            "canvas": self.settings.canvas.to_dict(),
            "tower": None if tower is None else tower.to_dict(),
        }


def unwrapped(rows: Sequence[Any]) -> Iterator[Any]:
    """Images that may stand each in a list of its own.

    Raises:
        PromptError: if such a list has not one image.
    """
    for row in rows:
        if not isinstance(row, (list, tuple)):
            yield row
        elif len(row) == 1:
            yield row[0]
        else:
            raise PromptError(f"a text must be about one image, got {len(row)}")


def image_tensors(
    images: Sequence[EncodedImage], collate: Callable[[Sequence[EncodedImage]], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """A batch of images with the sizes of the originals."""
    sizes = [image.letterbox.image_size_wh[::-1] for image in images]
    return {**collate(images), "image_sizes": torch.tensor(sizes)}
