"""Label Studio's run-length code of a brushed mask, which is that of the JavaScript library @thi.ng/rle-pack.

A stream of bits: the number of values (32), bits of a value less one (5), four lengths of run counters less one (4
each); then packets, here runs only: a one, which of the four lengths (2), the count less one, the value. Values are
those of an RGBA picture, so every pixel counts four times.
"""

from __future__ import annotations

import numpy as np

from llava_grounding.errors import DataError

_CHANNELS = 4
_VALUE_BITS = 8
_COUNTER_BITS = (3, 4, 8, 16)
_MOST_VALUES = 2**32 - 1
_HEADER = (32, 5, *(4,) * len(_COUNTER_BITS))


def encode_brush(mask: np.ndarray) -> list[int]:
    """The code of a (H, W) bool mask, as the list of bytes that `rle` of a `brushlabels` result holds.

    Raises:
        DataError: if the mask has more pixels than the code can count.
    """
    pixels = np.asarray(mask, dtype=bool).reshape(-1)
    if len(pixels) * _CHANNELS > _MOST_VALUES:
        raise DataError(
            f"a mask for Label Studio must have at most {_MOST_VALUES // _CHANNELS} pixels, got {len(pixels)}"
        )
    starts = np.flatnonzero(np.diff(pixels, prepend=~pixels[:1]))
    counts = np.diff(starts, append=len(pixels)) * _CHANNELS
    values = np.where(pixels[starts], 255, 0)
    counts, values = _split(counts, values)
    lengths = np.array(_COUNTER_BITS)
    kind = np.searchsorted(2**lengths, counts)
    widths = 1 + 2 + lengths[kind] + _VALUE_BITS
    codes = (((0b100 | kind) << lengths[kind] | (counts - 1)) << _VALUE_BITS) | values
    header = [len(pixels) * _CHANNELS, _VALUE_BITS - 1, *(one - 1 for one in _COUNTER_BITS)]
    bits = _bits(np.array([*header, *codes], dtype=np.int64), np.array([*_HEADER, *widths], dtype=np.int64))
    return np.packbits(bits).tolist()


def _split(counts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs that are longer than the longest counter, as several."""
    longest = 2 ** max(_COUNTER_BITS)
    pieces = (counts + longest - 1) // longest
    split = np.full(int(pieces.sum()), longest, dtype=np.int64)
    split[np.cumsum(pieces) - 1] = counts - (pieces - 1) * longest
    return split, np.repeat(values, pieces)


def _bits(codes: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Numbers in so many bits each, one behind the other, the highest bit first."""
    ends = np.cumsum(widths)
    shifts = np.repeat(ends, widths) - 1 - np.arange(ends[-1])
    return ((np.repeat(codes, widths) >> shifts) & 1).astype(np.uint8)
