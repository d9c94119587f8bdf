"""The values every room speaks: prompts and messages going in, regions, phrases and answers coming out.

Plain frozen data in pixels of the original image, equal by content and checked when made. Knows no model, no tokenizer
and no files; drawing is left to `render`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from llava_grounding.errors import DataError, LlavaGroundingError, PromptError, ShapeError, UsageError, shown
from llava_grounding.geometry import box_xyxy_to_xywh
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits, ImageSource
from llava_grounding.masks import check_rle
from llava_grounding.regions import PackedRegion, Region, checked_score
from llava_grounding.visual_prompts import (
    MAX_COORDINATE,
    PromptKind,
    SizeWH,
    VisualPrompt,
    name_list,
)

__all__ = [
    "ANSWER_VERSION",
    "MAX_COORDINATE",
    "MAX_MASK_PIXELS",
    "MAX_REGIONS",
    "GroundedAnswer",
    "GroundedPhrase",
    "Message",
    "PackedRegion",
    "PromptKind",
    "Region",
    "Role",
    "SizeWH",
    "VisualPrompt",
    "category_name",
]

ANSWER_VERSION = 1
"""Version of the JSON that `GroundedAnswer.to_dict` writes."""

MAX_REGIONS = 10_000
"""Regions of an answer that is read at most, and phrases."""

MAX_MASK_PIXELS = 5 * 10**9
"""Pixels of all masks of an answer that is read: drawing them takes time in proportion, however few bytes they have."""

Role = Literal["user", "assistant", "system"]

_MAX_WHOLE = 2**53  # beyond it JSON's numbers are not exact
_ARTICLE = re.compile(r"(?:an?|the)\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue; the k-th `<region>` of `text` stands for the k-th of `prompts`."""

    role: Role
    text: str
    prompts: tuple[VisualPrompt, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise UsageError(f"role of a message must be one of {name_list(get_args(Role))}, got {shown(self.role)}")
        prompts = tuple(islice(self.prompts, MAX_REGIONS + 1))  # it may have no end
        if len(prompts) > MAX_REGIONS:
            raise PromptError(f"a message must have at most {MAX_REGIONS} prompts, got more")
        object.__setattr__(self, "prompts", prompts)


@dataclass(frozen=True)
class GroundedPhrase:
    """A noun phrase of an answer and what it names in the image.

    Args:
        id: unique within the answer.
        text: the phrase.
        span: where it stands in the answer's text, half-open, in Unicode code points.
        regions: what was found, best first; empty if nothing was.
        score: the best score found, in [0, 1], also where it was too low to keep a region.
        doubtful: the score is below the model's threshold of doubt, under which about every second phrase is wrong;
            False for a model without one.
    """

    id: int
    text: str
    span: tuple[int, int]
    regions: tuple[Region, ...]
    score: float
    doubtful: bool = False

    def __post_init__(self) -> None:
        start, end = self.span
        object.__setattr__(self, "span", (_whole(start, "span"), _whole(end, "span")))
        object.__setattr__(self, "regions", tuple(self.regions))
        object.__setattr__(self, "score", checked_score(self.score))

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(n, 4) float64, a box per region, in pixels of the original image."""
        return np.array([region.box_xyxy for region in self.regions]).reshape(-1, 4)

    @property
    def scores(self) -> np.ndarray:
        """(n,) float64, how sure the model is of each region."""
        return np.array([region.score for region in self.regions], dtype=np.float64)

    @property
    def masks(self) -> np.ndarray | None:
        """(n, H, W) bool, a mask per region, of the size of the original image; None where one has a box alone.

        Without regions (0, 0, 0): a phrase does not know the size of the image.
        """
        masks = [region.mask for region in self.regions]
        if not masks:
            return np.zeros((0, 0, 0), dtype=np.bool_)
        known = [mask for mask in masks if mask is not None]
        return np.stack(known) if len(known) == len(masks) else None


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
                raise DataError(
                    f"span of phrase {phrase.id} must cover {shown(phrase.text)} in the text, got {phrase.span}"
                )
            for region in phrase.regions:
                if region.mask_size_hw not in (None, (height, width)):
                    raise ShapeError(f"masks must be ({height}, {width}) like the image, got {region.mask_size_hw}")

    @property
    def doubtful(self) -> bool:
        """Whether it names things and none of them was surely found, as of an image unlike those the model knows."""
        return bool(self.phrases) and not any(phrase.regions and not phrase.doubtful for phrase in self.phrases)

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain data for JSON, version 1 of the format; `from_dict` reads it back."""
        width, height = self.image_size_wh
        return {
            "version": ANSWER_VERSION,
            "text": self.text,
            "image_size": [width, height],
            "phrases": [phrase_to_dict(phrase) for phrase in self.phrases],
            "raw": self.raw,
            "model": self.model,
            "usage": {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], limits: ImageLimits = DEFAULT_LIMITS) -> GroundedAnswer:
        """Read what `to_dict` wrote, without the image; its masks stay packed until they are asked for.

        Args:
            limits: how many pixels the image may have. All masks together have at most `MAX_MASK_PIXELS`.

        Raises:
            DataError: if the version is not known, something is missing, a value does not fit or is over a limit.
        """
        version = data.get("version") if isinstance(data, Mapping) else None
        if version != ANSWER_VERSION or isinstance(version, bool):
            raise DataError(f"an answer must have version {ANSWER_VERSION}, got {shown(version)}")
        try:
            image_size_wh = _size_wh(_list_of(data["image_size"], "image_size"))
            phrases = _list_of(data["phrases"], "phrases")
            _check_cost(phrases, image_size_wh, limits)
            return cls(
                text=_text(data["text"]),
                phrases=tuple(_phrase_from_dict(phrase, image_size_wh) for phrase in phrases),
                image_size_wh=image_size_wh,
                raw=_text(data["raw"]),
                model=_text(data["model"]),
                prompt_tokens=_whole(data["usage"]["prompt_tokens"], "prompt_tokens", 0),
                completion_tokens=_whole(data["usage"]["completion_tokens"], "completion_tokens", 0),
            )
        except DataError:
            raise
        except KeyError as error:
            raise DataError(f"an answer must have `{error.args[0]}`, it is missing") from error
        except (LlavaGroundingError, AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
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
                        "segmentation": region.mask_rle or [],
                        "iscrowd": 0,
                        "score": region.score,
                    }
                )
        return {
            "images": [{"id": image_id, "file_name": file_name, "width": width, "height": height}],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
        }

    def to_supervision(self) -> Any:
        """All regions as one `supervision.Detections`; see `detections.to_supervision`, whose errors it raises."""
        from llava_grounding.detections import to_supervision

        return to_supervision(self)

    def draw(self, image: ImageSource | None = None) -> Image.Image:
        """The picture with the answer's boxes, masks and phrases drawn into it.

        Args:
            image: drawn on instead of the answer's own, and read as `GroundedChat.ask` reads it; needed for an answer
                that was read from JSON.

        Raises:
            ImageError: if it cannot be read.
            ShapeError: if it does not have the size the answer states.
        """
        from llava_grounding import render

        return render.draw_answer(self._image_or(image), self)

    def to_html(self, image: ImageSource | None = None) -> str:
        """A self-contained page with picture, text and regions; `image` and errors as in `draw`."""
        from llava_grounding import render

        return render.answer_to_html(self._image_or(image), self)

    def _image_or(self, image: ImageSource | None) -> ImageSource:
        image = image if image is not None else self.image
        if image is None:
            raise UsageError("this answer carries no image; give it one, as in `answer.draw(image)`")
        return image


def category_name(phrase: str) -> str:
    """The phrase as a category: in lower case, without its leading article, white space made single."""
    name = " ".join(phrase.lower().split())
    return _ARTICLE.sub("", name, count=1) if _ARTICLE.match(name) else name


def phrase_to_dict(phrase: GroundedPhrase, masks: bool = True) -> dict[str, Any]:
    """A phrase as `GroundedAnswer.to_dict` writes it; `masks=False` leaves out and does not code those of regions."""
    regions = []
    for region in phrase.regions:
        value: dict[str, Any] = {"box": region.box_xyxy.tolist(), "score": region.score, "area": region.area}
        regions.append({**value, "mask": region.mask_rle} if masks else value)
    return {
        "id": phrase.id,
        "text": phrase.text,
        "span": list(phrase.span),
        "regions": regions,
        "score": phrase.score,
        **({"doubtful": True} if phrase.doubtful else {}),
    }


def _check_cost(phrases: Sequence[Any], image_size_wh: SizeWH, limits: ImageLimits) -> None:
    """Refuse what would take far more time or memory than the few bytes it is written in."""
    width, height = image_size_wh
    if width * height > limits.max_pixels:
        allowed = f"{limits.max_pixels / 1e6:.4g} megapixels"
        raise DataError(f"an answer must be about an image of at most {allowed}, got one of {width} x {height} pixels")
    found = [_list_of(phrase.get("regions", ()), "regions") for phrase in phrases[: MAX_REGIONS + 1]]
    regions = sum(map(len, found))
    if max(len(phrases), regions) > MAX_REGIONS:
        counts = f"{len(phrases)} phrases and {regions} regions"
        raise DataError(f"an answer must have at most {MAX_REGIONS} phrases and as many regions, got {counts}")
    masks = sum(region.get("mask") is not None for group in found for region in group)
    if masks * width * height > MAX_MASK_PIXELS:
        most = MAX_MASK_PIXELS // (width * height)
        raise DataError(f"an answer about {width} x {height} pixels must have at most {most} masks, got {masks}")


def _phrase_from_dict(data: Mapping[str, Any], image_size_wh: SizeWH) -> GroundedPhrase:
    start, end = data["span"]
    regions = tuple(_region_from_dict(region, image_size_wh) for region in data["regions"])
    best = max((region.score for region in regions), default=0.0)
    return GroundedPhrase(
        id=_whole(data["id"], "id"),
        text=_text(data["text"]),
        span=(start, end),
        regions=regions,
        score=_number(data.get("score", best), "score"),
        doubtful=_flag(data.get("doubtful", False), "doubtful"),
    )


def _region_from_dict(data: Mapping[str, Any], image_size_wh: SizeWH) -> Region:
    box = np.array([_number(value, "box") for value in _list_of(data["box"], "box")])
    score, rle = _number(data["score"], "score"), data.get("mask")
    if rle is None:
        return Region(box, score)
    size_hw = image_size_wh[::-1]
    if _list_of(rle["size"], "size") != list(size_hw):
        raise DataError(f"masks must have the size of the image, {list(size_hw)}, got {shown(rle['size'])}")
    return PackedRegion(box, score, check_rle(rle, size_hw))


def _list_of(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"`{name}` must be a list, got {shown(value)}")
    return list(value)


def _size_wh(value: Sequence[Any]) -> SizeWH:
    width, height = (_whole(side, "image_size") for side in value)
    if width < 1 or height < 1:
        raise ShapeError(f"image_size_wh must be at least (1, 1) pixels, got ({width}, {height})")
    return width, height


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"an answer must have text where {shown(value)} stands")
    return value


def _number(value: Any, name: str) -> float:
    """A number and not the text of one; not yet whether it fits."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise DataError(f"`{name}` of an answer must be numbers, got {shown(value)}")
    return float(value)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"`{name}` of an answer must be true or false, got {shown(value)}")
    return value


def _whole(value: Any, name: str, least: int = -_MAX_WHOLE) -> int:
    number = _number(value, name)
    if not math.isfinite(number) or not number.is_integer() or not least <= number <= _MAX_WHOLE:
        raise DataError(f"`{name}` of an answer must be whole numbers, got {shown(value)}")
    return int(value)
