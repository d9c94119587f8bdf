"""Visual prompts: a place in the image that somebody points at, by a click, a box, a scribble or a mask.

Plain frozen data in pixels of the original image, equal by content and checked when made and against an image. Knows no
model and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np

from llava_grounding.errors import DataError, PromptError, shown
from llava_grounding.geometry import box_area, clip_boxes_xyxy
from llava_grounding.masks import (
    MAX_UNPACKED_PIXELS,
    check_rle,
    decode_rle,
    encode_rle,
    mask_to_box,
    rle_area,
    rle_to_box,
)

MAX_COORDINATE = 1e9
"""Pixels. Whatever is farther out is no place in an image, and its area would overflow."""

MAX_POINTS = 10_000
"""Points of a scribble at most: more are an hour of drawing, or a program gone wrong."""

PromptKind = Literal["click", "box", "scribble", "mask"]
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
_KEYS: tuple[PromptKind, ...] = ("box", "click", "scribble", "mask")
SizeWH = tuple[int, int]


@dataclass(frozen=True, eq=False)
class VisualPrompt:
    """A place in the image that the user points at, in pixels of the original image.

    Make one with `click`, `box`, `scribble` or `mask_of`; of the first three arrays exactly the one of its kind is set.

    Args:
        kind: how it was pointed at.
        points_xy: (1, 2) float64 for a click, (n, 2) for a scribble.
        box_xyxy: (4,) float64.
        mask: (H, W) bool, of the size of the image.
        mask_logits: (h, w) float32, of a mask that the model itself gave: how sure it is of each cell of its canvas.

    Raises:
        PromptError: if a coordinate is missing or not a finite number. See also `validate`.
    """

    kind: PromptKind
    points_xy: np.ndarray | None = None
    box_xyxy: np.ndarray | None = None
    mask: np.ndarray | None = None
    mask_logits: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.kind not in PROMPT_KINDS:
            raise PromptError(
                f"kind of a visual prompt must be one of {name_list(PROMPT_KINDS)}, got {shown(self.kind)}"
            )
        wanted = {"box": "box_xyxy", "mask": "mask"}.get(self.kind, "points_xy")
        given = [name for name in ("points_xy", "box_xyxy", "mask") if getattr(self, name) is not None]
        if given != [wanted]:
            raise PromptError(f"a {self.kind} must have {wanted} and nothing else, got {name_list(given) or 'nothing'}")
        value = getattr(self, wanted)
        object.__setattr__(self, wanted, _prompt_mask(value) if wanted == "mask" else self._coordinates(value))
        if self.mask_logits is not None:
            if wanted != "mask":
                raise PromptError(f"a {self.kind} has no mask, and thus no mask_logits")
            object.__setattr__(self, "mask_logits", _prompt_logits(self.mask_logits))

    def _coordinates(self, value: Any) -> np.ndarray:
        if isinstance(value, np.ndarray) and value.size > 2 * MAX_POINTS:  # repeated rows take no memory until copied
            raise PromptError(f"a {self.kind} must have at most {MAX_POINTS} points, got more")
        numbers = as_numbers(value)
        expected, fits = {
            "click": ("one point (x, y)", numbers.shape == (1, 2)),
            "box": ("four numbers x0, y0, x1, y1", numbers.shape == (4,)),
            "scribble": ("one or more points (x, y)", numbers.ndim == 2 and numbers.shape[1] == 2 and len(numbers) > 0),
        }[self.kind]
        if not fits:
            raise PromptError(f"a {self.kind} must be {expected}, got {shown(value)}")
        if len(numbers) > MAX_POINTS:
            raise PromptError(f"a {self.kind} must have at most {MAX_POINTS} points, got more")
        if not are_coordinates(numbers):
            raise PromptError(f"a {self.kind} must have finite coordinates in pixels, got {shown(numbers)}")
        return frozen_copy(numbers)

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
        if not isinstance(points_xy, Iterable):
            raise PromptError(f"a scribble must be one or more points (x, y), got {shown(points_xy)}")
        points = list(islice(points_xy, MAX_POINTS + 1))  # it may have no end
        try:
            array = np.array(points, dtype=object)
        except ValueError as error:  # arrays of several shapes
            raise PromptError(f"a scribble must be one or more points (x, y), got {shown(points)}") from error
        return cls("scribble", points_xy=array)

    @classmethod
    def mask_of(cls, mask: np.ndarray, mask_logits: np.ndarray | None = None) -> VisualPrompt:
        """The pixels that are not zero in a (H, W) array of the size of the image.

        Args:
            mask_logits: `Region.mask_logits` of the region that the mask is of, by the same model on the same image;
                the model then reads how sure it was of each cell, and not only which pixels it had set. JSON has the
                mask alone.
        """
        return cls("mask", mask=mask, mask_logits=mask_logits)

    @classmethod
    def mask_from_rle(cls, rle: Mapping[str, Any]) -> VisualPrompt:
        """The pixels of a COCO run-length code, unpacked only where an image of its size is at hand.

        Raises:
            DataError: if it is no code, or the code is damaged.
        """
        if not isinstance(rle, Mapping):
            raise DataError(f'a mask must be a run-length code {{"size": [h, w], "counts": ...}}, got {shown(rle)}')
        return _PackedMask("mask", mask=rle)

    @property
    def mask_size_hw(self) -> tuple[int, int] | None:
        """Height and width of the mask; None where there is none."""
        return None if self.mask is None else (self.mask.shape[0], self.mask.shape[1])

    def _has_pixels(self) -> bool:
        return self.mask is not None and bool(self.mask.any())

    def _mask_box(self) -> np.ndarray | None:
        return None if self.mask is None else mask_to_box(self.mask)

    def _mask_code(self) -> tuple[object, ...] | None:
        """The same for the same mask, packed or not."""
        return None if self.mask is None else tuple(encode_rle(self.mask).items())

    def bounds(self, image_size_wh: SizeWH) -> np.ndarray:
        """The box around the prompt, xyxy, cut to the image.

        A click or a stroke along one axis has no extent there and gets one pixel, half on either side.
        """
        if self.kind == "mask":
            box = self._mask_box()
            return clip_boxes_xyxy(np.zeros(4) if box is None else box, image_size_wh)
        if self.kind == "box":
            assert self.box_xyxy is not None
            return clip_boxes_xyxy(self.box_xyxy, image_size_wh)
        assert self.points_xy is not None
        inside = self.points_xy.clip(0, image_size_wh)  # or what lies outside could be the whole extent
        low, high = inside.min(axis=0), inside.max(axis=0)
        half_missing = np.maximum(1 - (high - low), 0) / 2
        return clip_boxes_xyxy(np.concatenate((low - half_missing, high + half_missing)), image_size_wh)

    def validate(self, image_size_wh: SizeWH) -> None:
        """Check that the prompt names a part of an image of this size.

        Raises:
            PromptError: if it lies outside, has no area, its mask has another size, or it is a box or a stroke within
                the first pixel, as one in shares of the image is.
        """
        width, height = image_size_wh
        where = f"the image of {width} x {height} pixels"
        if self.kind == "mask":
            assert self.mask_size_hw is not None
            if self.mask_size_hw != (height, width):
                shape = f"{self.mask_size_hw[1]} x {self.mask_size_hw[0]}"
                raise PromptError(f"a mask must have the size of {where}, got {shape} pixels")
            if not self._has_pixels():
                raise PromptError("a mask must have at least one pixel set, got an empty one")
        elif self.kind == "box":
            assert self.box_xyxy is not None
            x0, y0, x1, y1 = self.box_xyxy
            if x1 <= x0 or y1 <= y0:
                raise PromptError(f"a box must have x0 < x1 and y0 < y1, got {_numbers(self.box_xyxy)}")
            self._refuse_shares(self.box_xyxy, image_size_wh)
            if box_area(self.bounds(image_size_wh)) <= 0:
                raise PromptError(f"a box must overlap {where}, got {_numbers(self.box_xyxy)}")
        else:
            assert self.points_xy is not None
            inside = ((self.points_xy >= 0) & (self.points_xy < (width, height))).all(axis=1)
            if not inside.any():
                raise PromptError(f"a {self.kind} must lie inside {where}, got {_numbers(self.points_xy[0])}")
            if (self.points_xy != self.points_xy[0]).any():  # one place may well be meant within the first pixel
                self._refuse_shares(self.points_xy, image_size_wh)

    def _refuse_shares(self, coordinates: np.ndarray, image_size_wh: SizeWH) -> None:
        if coordinates.min() >= 0 and coordinates.max() <= 1 < min(image_size_wh):
            numbers = _numbers(coordinates.ravel()[:4])
            raise PromptError(f"a {self.kind} must be in pixels, not shares of the image, got {numbers}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VisualPrompt):
            return NotImplemented
        return (
            self.kind == other.kind
            and same_array(self.points_xy, other.points_xy)
            and same_array(self.box_xyxy, other.box_xyxy)
            and self._mask_code() == other._mask_code()
            and same_array(self.mask_logits, other.mask_logits)
        )

    def __hash__(self) -> int:
        numbers = array_key(self.points_xy), array_key(self.box_xyxy), array_key(self.mask_logits)
        return hash((self.kind, numbers, str(self._mask_code())))


class _PackedMask(VisualPrompt):
    """A mask that is kept as its run-length code: a message of a few bytes can name one of gigabytes."""

    _rle: dict[str, Any]

    def __init__(
        self,
        kind: PromptKind,
        points_xy: None = None,
        box_xyxy: None = None,
        mask: Any = None,
        mask_logits: np.ndarray | None = None,
    ) -> None:
        logits = None if mask_logits is None else _prompt_logits(mask_logits)
        for name, value in (("kind", kind), ("points_xy", points_xy), ("box_xyxy", box_xyxy), ("mask_logits", logits)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_rle", check_rle(mask if isinstance(mask, Mapping) else encode_rle(mask)))

    @property
    def mask(self) -> np.ndarray:  # nobody may set that of a `VisualPrompt` either
        """(H, W) bool, unpacked anew."""
        return decode_rle(self._rle, self.mask_size_hw)

    @property
    def mask_size_hw(self) -> tuple[int, int]:
        """Height and width of the mask."""
        height, width = self._rle["size"]
        return height, width

    def _has_pixels(self) -> bool:
        return rle_area(self._rle) > 0

    def _mask_box(self) -> np.ndarray | None:
        return rle_to_box(self._rle)

    def _mask_code(self) -> tuple[object, ...]:
        return tuple(self._rle.items())


def prompt_to_dict(prompt: VisualPrompt, digits: int | None = None) -> dict[str, Any]:
    """A visual prompt as plain data: `{"click": [x, y]}`, `{"box": ...}`, `{"scribble": ...}` or `{"mask": RLE}`.

    Args:
        digits: behind the point that coordinates are rounded to; None keeps them as they are.
    """
    if prompt.kind == "mask":
        mask = prompt.mask
        assert mask is not None
        return {"mask": encode_rle(mask)}
    numbers = prompt.box_xyxy if prompt.kind == "box" else prompt.points_xy
    assert numbers is not None
    values = (numbers if digits is None else _rounded(numbers, digits)).tolist()
    return {prompt.kind: values[0] if prompt.kind == "click" else values}


def prompt_from_dict(
    value: Mapping[str, Any], read_mask: Callable[[Any], VisualPrompt] = VisualPrompt.mask_from_rle
) -> VisualPrompt:
    """Read what `prompt_to_dict` wrote; keys that are None or belong to something else count for nothing.

    Args:
        read_mask: makes the prompt of what `mask` holds, where that may be more than a run-length code.

    Raises:
        PromptError: if it has none of the four kinds, or several, or the numbers do not fit.
        DataError: if the run-length code of a mask is damaged.
    """
    if not isinstance(value, Mapping):
        raise PromptError(f"a region must be an object with one of {', '.join(_KEYS)}, got {shown(value)}")
    given = [kind for kind in _KEYS if value.get(kind) is not None]
    if len(given) != 1:
        raise PromptError(f"a region must have exactly one of {', '.join(_KEYS)}, got {given or 'none'}")
    kind = given[0]
    if kind == "mask":
        return read_mask(value[kind])
    numbers = as_numbers(value[kind])
    if not numbers.size:
        raise PromptError(f"a {kind} must be numbers, got {shown(value[kind])}")
    if kind == "box":
        return VisualPrompt(kind, box_xyxy=numbers)
    return VisualPrompt(kind, points_xy=numbers[None] if kind == "click" else numbers)


def _rounded(numbers: np.ndarray, digits: int) -> np.ndarray:
    """The numbers as Python rounds each of them; NumPy multiplies first, and so differs halfway between two."""
    return np.array([round(number, digits) for number in numbers.ravel().tolist()]).reshape(numbers.shape)


def _prompt_mask(value: Any) -> np.ndarray:
    """What a masked array hides is not set."""
    try:
        mask = value.filled(0) if _hides(value) else np.asarray(value)
    except Exception as error:  # of whatever turns itself into an array, such as tensors with a gradient
        raise PromptError(
            f"a mask must be a (H, W) array of numbers, and a value of the type {type(value).__name__} is none; "
            "give a NumPy array of bool"
        ) from error
    if not _is_mask(mask):
        raise PromptError(f"a mask must be a (H, W) array of numbers, got {mask.shape} {mask.dtype}")
    if mask.size > MAX_UNPACKED_PIXELS:  # repeated rows take no memory before they are copied
        raise PromptError(f"a mask must have at most {MAX_UNPACKED_PIXELS:,} pixels, got {mask.shape}")
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise PromptError("a mask must be a (H, W) array of numbers, and some of it are NaN")
    return frozen_copy(mask != 0)


def _prompt_logits(value: Any) -> np.ndarray:
    logits = np.asarray(value) if isinstance(value, np.ndarray | list | tuple) else np.empty(0)
    if logits.ndim != 2 or logits.dtype.kind != "f" or not logits.size or not np.isfinite(logits).all():
        raise PromptError(f"mask_logits must be a (h, w) array of finite floats, got {shown(value)}")
    return frozen_copy(logits.astype(np.float32))


def _hides(value: Any) -> bool:
    return isinstance(value, np.ma.MaskedArray) and _is_mask(value) and value.size <= MAX_UNPACKED_PIXELS


def _is_mask(array: np.ndarray) -> bool:
    return array.ndim == 2 and array.dtype.kind in "biuf"


def as_numbers(value: Any) -> np.ndarray:
    """A value of a message as float64; an array of no numbers where it holds anything else, such as their text."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and all(isinstance(one, int | float | np.number) for one in array.flat):
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return np.empty(0)
    return array.astype(np.float64) if array.dtype.kind in "iuf" else np.empty(0)


def are_coordinates(numbers: np.ndarray) -> bool:
    """Whether all are finite and no farther out than `MAX_COORDINATE`."""
    return bool((np.abs(numbers) <= MAX_COORDINATE).all())


def frozen_copy(array: np.ndarray) -> np.ndarray:
    """A copy that cannot be written to."""
    array = array.copy()
    array.setflags(write=False)
    return array


def same_array(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    """Whether both are missing, or equal."""
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def array_key(array: np.ndarray | None) -> object:
    """Something to hash: equal for equal arrays. A mask counts by its pixels, numbers by value (0.0 is -0.0)."""
    if array is None:
        return None
    return (array.shape, array.tobytes()) if array.dtype == np.bool_ else tuple(array.reshape(-1).tolist())


def name_list(names: Iterable[str]) -> str:
    """The names for a message: "`click`, `box`"."""
    return ", ".join(f"`{name}`" for name in names)


def _numbers(array: np.ndarray) -> str:
    return "(" + ", ".join(f"{number:g}" for number in array) + ")"
