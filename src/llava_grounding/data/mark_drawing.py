"""Numbers drawn onto the things of a picture, as in Set-of-Mark prompting: a pure function of pixels and masks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion, distance_transform_edt, maximum_filter

from llava_grounding.colours import RGB, luminance
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError, ShapeError

DEFAULT_ALPHA = 0.1
"""How opaque the overlay is, as in the paper of LLaVA-Grounding."""

# Told apart with any kind of colour vision (Okabe and Ito, "Color universal design", 2008).
_INKS: tuple[RGB, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (230, 159, 0),
    (204, 121, 167),
    (240, 228, 66),
    (86, 180, 233),
)
_FONT_SHARE = 1 / 21  # of the picture's shorter side: the paper's 20 pixels at 427, the height of most COCO photos
_FONT_LIMITS = (12, 48)  # pixels
_PADDING_SHARE = 0.18  # around a number, of its height
_RING_SHARE = 3.0  # how far beside its thing a label may stand, in label heights
_HIDING_SHARE = 0.3  # of a label's height: things that are less deep would be hidden by their number


@dataclass(frozen=True)
class MarkedPicture:
    """Reads a picture and draws its marks: PNG bytes, upright.

    Args:
        record: with the picture without marks in `read_bytes`.
        alpha: how opaque the overlay is.
    """

    record: Record
    alpha: float = DEFAULT_ALPHA

    def __call__(self) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(self.pixels()).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    def pixels(self) -> np.ndarray:
        """The same, not encoded: (H, W, 3) uint8 RGB."""
        image, record = self.record.load_image(), self.record
        size_wh = (image.shape[1], image.shape[0])
        masks = [record.load_mask(index, size_wh) for index in record.marks]
        boxes = np.array([record.instances[index].box_xyxy for index in record.marks]).reshape(-1, 4)
        return draw_marks(image, masks, boxes, range(1, len(masks) + 1), self.alpha)


def draw_marks(
    image: np.ndarray,
    masks: Sequence[np.ndarray | None],
    boxes: np.ndarray,
    numbers: Sequence[int],
    alpha: float = DEFAULT_ALPHA,
) -> np.ndarray:
    """The picture with a tinted mask, an outline and a number for each thing.

    A number stands at the point of its thing that is farthest from the thing's border and from smaller things on it,
    beside the thing where it is too small, and apart from other numbers while there is room.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        masks: (H, W) bool each; None where only the box is known, which is then outlined.
        boxes: (n, 4) xyxy in pixels, half-open.
        numbers: one per thing.
        alpha: how opaque the tint is, in [0, 1].

    Source: Set-of-Mark prompting (arXiv:2310.11441), section 3.
    """
    check_alpha(alpha)
    height, width = image.shape[:2]
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not len(masks) == len(boxes) == len(numbers):
        raise ShapeError(f"masks, boxes and numbers must be as many, got {len(masks)}, {len(boxes)} and {len(numbers)}")
    shapes = [_shape(mask, box, (height, width)) for mask, box in zip(masks, boxes, strict=True)]
    tinted = image.astype(np.float64)
    # Large things first, so that a small one on a large one keeps its colour.
    order = sorted(range(len(shapes)), key=lambda index: -int(shapes[index].sum()))
    thickness = max(1, round(min(height, width) / 300))
    for index in order:
        ink = np.array(_ink(index), dtype=np.float64)
        if masks[index] is not None:
            tinted[shapes[index]] = (1 - alpha) * tinted[shapes[index]] + alpha * ink
        tinted[_outline(shapes[index], thickness)] = ink
    canvas = Image.fromarray(tinted.round().astype(np.uint8))
    font = _font(min(height, width))
    for index, place in _label_places(shapes, [str(number) for number in numbers], font, order[::-1]).items():
        _draw_label(canvas, str(numbers[index]), place, font, _ink(index))
    return np.asarray(canvas).copy()


def check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise DataError(f"alpha must be in [0, 1], got {alpha}")


def _ink(index: int) -> RGB:
    return _INKS[index % len(_INKS)]


def _shape(mask: np.ndarray | None, box: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """What a thing covers, its box where it has no mask: (H, W) bool."""
    if mask is not None and mask.any():
        if mask.shape != size_hw:
            raise ShapeError(f"masks must have the size of the image, {size_hw}, got {mask.shape}")
        return mask.astype(bool)
    x0, y0 = np.floor(np.clip(box[:2], 0, None)).astype(int)
    x1, y1 = np.ceil(np.clip(box[2:], 0, size_hw[::-1])).astype(int)
    shape = np.zeros(size_hw, dtype=bool)
    shape[y0:y1, x0:x1] = True
    return shape


def _window(shape: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns around what is set, `margin` pixels wider, within the array."""
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    (top, bottom), (left, right) = ((int(line[0]), int(line[-1]) + 1) for line in (rows, columns))
    return slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)


def _outline(shape: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels along the border of what is set, on its inside."""
    line = np.zeros_like(shape)
    if shape.any():
        window = _window(shape, 1)
        inner = shape[window]
        line[window] = inner & ~binary_erosion(inner, iterations=thickness)
    return line


def _font(short_side: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    low, high = _FONT_LIMITS
    return ImageFont.load_default(size=min(max(round(short_side * _FONT_SHARE), low), high))


def _label_size(text: str, font: Any) -> tuple[int, int]:
    """Width and height of a label, with its padding, in pixels."""
    x0, y0, x1, y1 = font.getbbox(text, anchor="lt")
    padding = 2 * max(2, round(_PADDING_SHARE * (y1 - y0)))
    high = int(y1 - y0) + padding
    return max(int(x1 - x0) + padding + 2, high), high


def _label_places(
    shapes: Sequence[np.ndarray], texts: Sequence[str], font: Any, order: Iterable[int]
) -> dict[int, tuple[int, int, int, int]]:
    """Corners of each label, x0, y0, x1, y1; the smallest things choose first."""
    places: dict[int, tuple[int, int, int, int]] = {}
    smaller: np.ndarray | None = None
    for index in order:
        shape = shapes[index]
        if not shape.any():
            continue
        free = shape if smaller is None else shape & ~smaller
        places[index] = _place(free if free.any() else shape, _label_size(texts[index], font), list(places.values()))
        smaller = shape if smaller is None else smaller | shape
    return places


def _place(
    shape: np.ndarray, size_wh: tuple[int, int], taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """A place for one label: deep inside the shape, beside it where the label would hide it, clear of those taken.

    Where there is no room left near the shape, it is deep inside all the same.
    """
    (width, height), (high, wide) = size_wh, shape.shape
    window = _window(shape, round(_RING_SHARE * height))
    top, left = window[0].start, window[1].start
    inside = shape[window]
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    clear = np.ones_like(inside)
    for x0, y0, x1, y1 in taken:
        # Centres from which this label would touch that one.
        rows = slice(max(y0 - height // 2 - 1 - top, 0), max(y1 + height // 2 + 1 - top, 0))
        clear[rows, max(x0 - width // 2 - 1 - left, 0) : max(x1 + width // 2 + 1 - left, 0)] = False
    # Centres from which a label would be cut by the edge of the picture, and has to be moved.
    clear &= _within(window, inside.shape, (width, height), (wide, high))
    fits = clear & (depth >= max(_HIDING_SHARE * height, 0.6 * depth.max()))
    beside = clear & ~maximum_filter(inside, size=(height + 1, width + 1))
    if fits.any():
        score = np.where(fits, depth, -1.0)
    elif (beside if beside.any() else clear).any():
        score = np.where(beside if beside.any() else clear, -distance_transform_edt(~inside), -np.inf)
    else:
        score = depth
    row, column = np.unravel_index(int(np.argmax(score)), score.shape)
    x0 = min(max(left + int(column) - width // 2, 0), max(wide - width, 0))
    y0 = min(max(top + int(row) - height // 2, 0), max(high - height, 0))
    return x0, y0, x0 + width, y0 + height


def _within(
    window: tuple[slice, slice], shape: tuple[int, ...], label_wh: tuple[int, int], size_wh: tuple[int, int]
) -> np.ndarray:
    """Which centres of a window keep a label within the picture: (h, w) bool."""
    fine = []
    for axis, length, limit in ((0, label_wh[1], size_wh[1]), (1, label_wh[0], size_wh[0])):
        centres = window[axis].start + np.arange(shape[axis])
        fine.append((centres >= length // 2) & (centres - length // 2 + length <= limit))
    return fine[0][:, None] & fine[1][None]


def _draw_label(canvas: Image.Image, text: str, place: tuple[int, int, int, int], font: Any, ink: RGB) -> None:
    draw = ImageDraw.Draw(canvas)
    x0, y0, x1, y1 = place
    draw.rounded_rectangle([x0, y0, x1 - 1, y1 - 1], radius=max(2, (y1 - y0) // 6), fill=ink, outline=(255, 255, 255))
    words = (20, 20, 20) if luminance(ink) > 0.55 else (255, 255, 255)
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), text, fill=words, font=font, anchor="mm")
