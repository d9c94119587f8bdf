"""The values every room speaks: prompts and messages going in, regions, phrases and answers coming out.

Plain frozen data in pixels of the original image, equal by content and checked when made. Knows no model, no tokenizer
and no files; drawing is left to `render`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from llava_grounding.errors import DataError, LlavaGroundingError, ShapeError, UsageError
from llava_grounding.geometry import box_area, box_xyxy_to_xywh
from llava_grounding.masks import decode_rle, encode_rle, mask_area
from llava_grounding.visual_prompts import (
    MAX_COORDINATE,
    PromptKind,
    SizeWH,
    VisualPrompt,
    are_coordinates,
    array_key,
    frozen_copy,
    name_list,
    same_array,
    shown,
)

__all__ = [
    "ANSWER_VERSION",
    "MAX_COORDINATE",
    "GroundedAnswer",
    "GroundedPhrase",
    "Message",
    "PromptKind",
    "Region",
    "Role",
    "SizeWH",
    "VisualPrompt",
    "category_name",
]

ANSWER_VERSION = 1
"""Version of the JSON that `GroundedAnswer.to_dict` writes."""

Role = Literal["user", "assistant", "system"]

_ARTICLE = re.compile(r"(?:an?|the)\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue; the k-th `<region>` of `text` stands for the k-th of `prompts`."""

    role: Role
    text: str
    prompts: tuple[VisualPrompt, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise UsageError(f"role of a message must be one of {name_list(get_args(Role))}, got {self.role!r}")
        object.__setattr__(self, "prompts", tuple(self.prompts))


@dataclass(frozen=True, eq=False)
class Region:
    """One thing found in the image.

    Args:
        box_xyxy: (4,) float64, pixels of the original image, half-open.
        score: how sure the model is, in [0, 1].
        mask: (H, W) bool, of the size of the original image; None where only the box is known.
    """

    box_xyxy: np.ndarray
    score: float
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        box = np.array(self.box_xyxy, dtype=np.float64)
        if box.shape != (4,) or not are_coordinates(box) or (box[2:] < box[:2]).any():
            raise ShapeError(f"box_xyxy must be four finite numbers, x0 <= x1 and y0 <= y1, got {shown(box)}")
        object.__setattr__(self, "box_xyxy", frozen_copy(box))
        object.__setattr__(self, "score", _score(self.score))
        if self.mask is not None:
            mask = np.asarray(self.mask)
            if mask.ndim != 2 or mask.dtype != np.bool_:
                raise ShapeError(f"mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
            object.__setattr__(self, "mask", frozen_copy(mask))

    @property
    def area(self) -> int:
        """Pixels of the mask, or of the box where there is none."""
        return mask_area(self.mask) if self.mask is not None else round(float(box_area(self.box_xyxy)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region):
            return NotImplemented
        return (
            self.score == other.score
            and same_array(self.box_xyxy, other.box_xyxy)
            and same_array(self.mask, other.mask)
        )

    def __hash__(self) -> int:
        return hash((self.score, array_key(self.box_xyxy), array_key(self.mask)))


@dataclass(frozen=True)
class GroundedPhrase:
    """A noun phrase of an answer and what it names in the image.

    Args:
        id: unique within the answer.
        text: the phrase.
        span: where it stands in the answer's text, half-open, in Unicode code points.
        regions: what was found, best first; empty if nothing was.
        score: the best score found, in [0, 1], also where it was too low to keep a region.
    """

    id: int
    text: str
    span: tuple[int, int]
    regions: tuple[Region, ...]
    score: float

    def __post_init__(self) -> None:
        start, end = self.span
        object.__setattr__(self, "span", (int(start), int(end)))
        object.__setattr__(self, "regions", tuple(self.regions))
        object.__setattr__(self, "score", _score(self.score))


@dataclass(frozen=True)
class GroundedAnswer:
    """An answer about an image, with its phrases tied to boxes and masks.

    Args:
        text: plain text without special tokens.
        phrases: in reading order.
        image_size_wh: size of the original image after EXIF orientation, in pixels.
        raw: the text as the model wrote it, with markup.
        model: name of the model.
        prompt_tokens: length of what the model read.
        completion_tokens: length of what it wrote.
        image: the picture, for drawing; not compared and not written by `to_dict`.
    """

    text: str
    phrases: tuple[GroundedPhrase, ...]
    image_size_wh: SizeWH
    raw: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    image: Image.Image | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        width, height = _size_wh(self.image_size_wh)
        object.__setattr__(self, "image_size_wh", (width, height))
        object.__setattr__(self, "phrases", tuple(self.phrases))
        for phrase in self.phrases:
            start, end = phrase.span
            if not 0 <= start < end <= len(self.text) or self.text[start:end] != phrase.text:
                raise DataError(f"span of phrase {phrase.id} must cover {phrase.text!r} in the text, got {phrase.span}")
            for region in phrase.regions:
                if region.mask is not None and region.mask.shape != (height, width):
                    raise ShapeError(f"masks must be ({height}, {width}) like the image, got {region.mask.shape}")

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain data for JSON, version 1 of the format; `from_dict` reads it back."""
        width, height = self.image_size_wh
        return {
            "version": ANSWER_VERSION,
            "text": self.text,
            "image_size": [width, height],
            "phrases": [_phrase_to_dict(phrase) for phrase in self.phrases],
            "raw": self.raw,
            "model": self.model,
            "usage": {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GroundedAnswer:
        """Read what `to_dict` wrote, without the image.

        Raises:
            DataError: if the version is not known, something is missing, or a value does not fit.
        """
        version = data.get("version") if isinstance(data, Mapping) else None
        if version != ANSWER_VERSION or isinstance(version, bool):
            raise DataError(f"an answer must have version {ANSWER_VERSION}, got {version!r}")
        try:
            image_size_wh = _size_wh(data["image_size"])
            return cls(
                text=_text(data["text"]),
                phrases=tuple(_phrase_from_dict(phrase, image_size_wh) for phrase in data["phrases"]),
                image_size_wh=image_size_wh,
                raw=_text(data["raw"]),
                model=_text(data["model"]),
                prompt_tokens=int(data["usage"]["prompt_tokens"]),
                completion_tokens=int(data["usage"]["completion_tokens"]),
            )
        except DataError:
            raise
        except KeyError as error:
            raise DataError(f"an answer must have `{error.args[0]}`, it is missing") from error
        except (LlavaGroundingError, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"an answer has a value that does not fit: {error}") from error

    def to_coco(self, file_name: str = "", image_id: int = 1) -> dict[str, list[dict[str, Any]]]:
        """Image, annotations and categories as COCO lists them; each category is named by `category_name`."""
        width, height = self.image_size_wh
        category_ids: dict[str, int] = {}
        annotations: list[dict[str, Any]] = []
        for phrase in self.phrases:
            category_id = category_ids.setdefault(category_name(phrase.text), len(category_ids) + 1)
            for region in phrase.regions:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box_xyxy_to_xywh(region.box_xyxy).tolist(),
                        "area": region.area,
                        "segmentation": encode_rle(region.mask) if region.mask is not None else [],
                        "iscrowd": 0,
                        "score": region.score,
                    }
                )
        return {
            "images": [{"id": image_id, "file_name": file_name, "width": width, "height": height}],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
        }

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """The picture with the answer's boxes, masks and phrases drawn into it.

        Args:
            image: drawn on instead of the answer's own; needed for an answer that was read from JSON.
        """
        from llava_grounding import render

        return render.draw_answer(self._image_or(image), self)

    def to_html(self, image: Image.Image | None = None) -> str:
        """A self-contained page with picture, text and regions; `image` as in `draw`."""
        from llava_grounding import render

        return render.answer_to_html(self._image_or(image), self)

    def _image_or(self, image: Image.Image | None) -> Image.Image:
        image = image if image is not None else self.image
        if image is None:
            raise UsageError("this answer carries no image; give it one, as in `answer.draw(image)`")
        return image


def category_name(phrase: str) -> str:
    """The phrase as a category: in lower case, without its leading article, white space made single."""
    name = " ".join(phrase.lower().split())
    return _ARTICLE.sub("", name, count=1) if _ARTICLE.match(name) else name


def _phrase_to_dict(phrase: GroundedPhrase) -> dict[str, Any]:
    return {
        "id": phrase.id,
        "text": phrase.text,
        "span": list(phrase.span),
        "regions": [
            {
                "box": region.box_xyxy.tolist(),
                "score": region.score,
                "area": region.area,
                "mask": encode_rle(region.mask) if region.mask is not None else None,
            }
            for region in phrase.regions
        ],
        "score": phrase.score,
    }


def _phrase_from_dict(data: Mapping[str, Any], image_size_wh: SizeWH) -> GroundedPhrase:
    start, end = data["span"]
    regions = tuple(_region_from_dict(region, image_size_wh) for region in data["regions"])
    return GroundedPhrase(
        id=int(data["id"]),
        text=_text(data["text"]),
        span=(int(start), int(end)),
        regions=regions,
        score=float(data.get("score", max((region.score for region in regions), default=0.0))),
    )


def _region_from_dict(data: Mapping[str, Any], image_size_wh: SizeWH) -> Region:
    rle = data.get("mask")
    # Compared before it is unpacked, so that a damaged file cannot ask for more memory than its image takes.
    if rle is not None and list(rle["size"]) != [image_size_wh[1], image_size_wh[0]]:
        raise DataError(f"masks must have the size of the image, {list(image_size_wh[::-1])}, got {list(rle['size'])}")
    box = np.array(data["box"], dtype=np.float64)
    return Region(box, float(data["score"]), None if rle is None else decode_rle(rle))


def _size_wh(value: Any) -> SizeWH:
    width, height = (int(side) for side in value)
    if width < 1 or height < 1:
        raise ShapeError(f"image_size_wh must be at least (1, 1) pixels, got ({width}, {height})")
    return width, height


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"an answer must have text where {value!r} stands")
    return value


def _score(value: Any) -> float:
    score = float(value)
    if not 0 <= score <= 1:
        raise DataError(f"score must be in [0, 1], got {score}")
    return score
