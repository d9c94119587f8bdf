"""The values every room speaks: prompts and messages going in, regions, phrases and answers coming out.

Plain frozen data in pixels of the original image, equal by content and checked when made. Knows no model, no tokenizer
and no files; drawing is left to `render`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from llava_grounding.errors import DataError, LlavaGroundingError, PromptError, ShapeError, UsageError
from llava_grounding.geometry import box_area, box_xyxy_to_xywh, clip_boxes_xyxy
from llava_grounding.masks import decode_rle, encode_rle, mask_area, mask_to_box

ANSWER_VERSION = 1
"""Version of the JSON that `GroundedAnswer.to_dict` writes."""

MAX_COORDINATE = 1e9
"""Pixels. Whatever is farther out is no place in an image, and its area would overflow."""

PromptKind = Literal["click", "box", "scribble", "mask"]
Role = Literal["user", "assistant", "system"]
SizeWH = tuple[int, int]

_SHOWN_LENGTH = 80  # of a wrong value, in a message
_ARTICLE = re.compile(r"(?:an?|the)\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class VisualPrompt:
    """A place in the image that the user points at, in pixels of the original image.

    Make one with `click`, `box`, `scribble` or `mask_of`; of the three arrays exactly the one of its kind is set.

    Args:
        kind: how it was pointed at.
        points_xy: (1, 2) float64 for a click, (n, 2) for a scribble.
        box_xyxy: (4,) float64.
        mask: (H, W) bool, of the size of the image.

    Raises:
        PromptError: if a coordinate is missing or not a finite number. See also `validate`.
    """

    kind: PromptKind
    points_xy: np.ndarray | None = None
    box_xyxy: np.ndarray | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(PromptKind):
            raise PromptError(
                f"kind of a visual prompt must be one of {_list(get_args(PromptKind))}, got {self.kind!r}"
            )
        wanted = {"box": "box_xyxy", "mask": "mask"}.get(self.kind, "points_xy")
        given = [name for name in ("points_xy", "box_xyxy", "mask") if getattr(self, name) is not None]
        if given != [wanted]:
            raise PromptError(f"a {self.kind} must have {wanted} and nothing else, got {_list(given) or 'nothing'}")
        value = getattr(self, wanted)
        object.__setattr__(self, wanted, _prompt_mask(value) if wanted == "mask" else self._coordinates(value))

    def _coordinates(self, value: Any) -> np.ndarray:
        try:
            numbers = np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        expected, fits = {
            "click": ("one point (x, y)", numbers.shape == (1, 2)),
            "box": ("four numbers x0, y0, x1, y1", numbers.shape == (4,)),
            "scribble": ("one or more points (x, y)", numbers.ndim == 2 and numbers.shape[1] == 2 and len(numbers) > 0),
        }[self.kind]
        if not fits:
            raise PromptError(f"a {self.kind} must be {expected}, got {_shown(value)}")
        if not _are_coordinates(numbers):
            raise PromptError(f"a {self.kind} must have finite coordinates in pixels, got {_shown(numbers)}")
        return _frozen(numbers)

    @classmethod
    def click(cls, x: float, y: float) -> VisualPrompt:
        """A single point."""
        return cls("click", points_xy=np.array([[x, y]], dtype=object))

    @classmethod
    def box(cls, x0: float, y0: float, x1: float, y1: float) -> VisualPrompt:
        """A rectangle from its left, upper to its right, lower corner."""
        return cls("box", box_xyxy=np.array([x0, y0, x1, y1], dtype=object))

    @classmethod
    def scribble(cls, points_xy: Iterable[tuple[float, float]]) -> VisualPrompt:
        """A stroke through the points, in order."""
        return cls("scribble", points_xy=np.array(list(points_xy), dtype=object))

    @classmethod
    def mask_of(cls, mask: np.ndarray) -> VisualPrompt:
        """The pixels that are not zero in a (H, W) array of the size of the image."""
        return cls("mask", mask=mask)

    def bounds(self, image_size_wh: SizeWH) -> np.ndarray:
        """The box around the prompt, xyxy, cut to the image.

        A click or a stroke along one axis has no extent there and gets one pixel, half on either side.
        """
        if self.kind == "mask":
            assert self.mask is not None
            box = mask_to_box(self.mask)
            return clip_boxes_xyxy(np.zeros(4) if box is None else box, image_size_wh)
        if self.kind == "box":
            assert self.box_xyxy is not None
            return clip_boxes_xyxy(self.box_xyxy, image_size_wh)
        assert self.points_xy is not None
        low, high = self.points_xy.min(axis=0), self.points_xy.max(axis=0)
        half_missing = np.maximum(1 - (high - low), 0) / 2
        return clip_boxes_xyxy(np.concatenate((low - half_missing, high + half_missing)), image_size_wh)

    def validate(self, image_size_wh: SizeWH) -> None:
        """Check that the prompt names a part of an image of this size.

        Raises:
            PromptError: if it lies outside, has no area, or its mask has another size.
        """
        width, height = image_size_wh
        where = f"the image of {width} x {height} pixels"
        if self.kind == "mask":
            assert self.mask is not None
            if self.mask.shape != (height, width):
                shape = f"{self.mask.shape[1]} x {self.mask.shape[0]}"
                raise PromptError(f"a mask must have the size of {where}, got {shape} pixels")
            if not self.mask.any():
                raise PromptError("a mask must have at least one pixel set, got an empty one")
        elif self.kind == "box":
            assert self.box_xyxy is not None
            x0, y0, x1, y1 = self.box_xyxy
            if x1 <= x0 or y1 <= y0:
                raise PromptError(f"a box must have x0 < x1 and y0 < y1, got {_numbers(self.box_xyxy)}")
            if box_area(self.bounds(image_size_wh)) <= 0:
                raise PromptError(f"a box must overlap {where}, got {_numbers(self.box_xyxy)}")
        else:
            assert self.points_xy is not None
            inside = ((self.points_xy >= 0) & (self.points_xy < (width, height))).all(axis=1)
            if not inside.any():
                raise PromptError(f"a {self.kind} must lie inside {where}, got {_numbers(self.points_xy[0])}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VisualPrompt):
            return NotImplemented
        return (
            self.kind == other.kind
            and _same(self.points_xy, other.points_xy)
            and _same(self.box_xyxy, other.box_xyxy)
            and _same(self.mask, other.mask)
        )

    def __hash__(self) -> int:
        return hash((self.kind, _key(self.points_xy), _key(self.box_xyxy), _key(self.mask)))


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue; the k-th `<region>` of `text` stands for the k-th of `prompts`."""

    role: Role
    text: str
    prompts: tuple[VisualPrompt, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise UsageError(f"role of a message must be one of {_list(get_args(Role))}, got {self.role!r}")
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
        if box.shape != (4,) or not _are_coordinates(box) or (box[2:] < box[:2]).any():
            raise ShapeError(f"box_xyxy must be four finite numbers, x0 <= x1 and y0 <= y1, got {_shown(box)}")
        object.__setattr__(self, "box_xyxy", _frozen(box))
        object.__setattr__(self, "score", _score(self.score))
        if self.mask is not None:
            mask = np.asarray(self.mask)
            if mask.ndim != 2 or mask.dtype != np.bool_:
                raise ShapeError(f"mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
            object.__setattr__(self, "mask", _frozen(mask))

    @property
    def area(self) -> int:
        """Pixels of the mask, or of the box where there is none."""
        return mask_area(self.mask) if self.mask is not None else round(float(box_area(self.box_xyxy)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region):
            return NotImplemented
        return self.score == other.score and _same(self.box_xyxy, other.box_xyxy) and _same(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.score, _key(self.box_xyxy), _key(self.mask)))


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


def _prompt_mask(value: Any) -> np.ndarray:
    mask = np.asarray(value)
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise PromptError(f"a mask must be a (H, W) array of numbers, got {mask.shape} {mask.dtype}")
    return _frozen(mask != 0)


def _are_coordinates(numbers: np.ndarray) -> bool:
    return bool((np.abs(numbers) <= MAX_COORDINATE).all())


def _frozen(array: np.ndarray) -> np.ndarray:
    """A copy that cannot be written to."""
    array = array.copy()
    array.setflags(write=False)
    return array


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _key(array: np.ndarray | None) -> object:
    """Something to hash: equal for equal arrays. A mask counts by its pixels, numbers by value (0.0 is -0.0)."""
    if array is None:
        return None
    return (array.shape, array.tobytes()) if array.dtype == np.bool_ else tuple(array.reshape(-1).tolist())


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _numbers(array: np.ndarray) -> str:
    return "(" + ", ".join(f"{number:g}" for number in array) + ")"


def _shown(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
