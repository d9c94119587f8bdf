"""COCO's text of run lengths: numbers in digits of five bits, and back, many texts at once.

Knows no masks: what the runs are of is the business of `masks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava_grounding.errors import DataError

_DIGIT_BITS = 5
_DIGIT_MASK, _SIGN_BIT, _MORE_BIT = 0x1F, 0x10, 0x20
_FIRST_CHARACTER = 48
_MAX_DIGITS = 7  # the difference of two 32-bit counts


def counts_to_text(counts: np.ndarray) -> str:
    """Each count, from the fourth on less the one two before, in digits of five bits, the lowest first."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    digits, used = (
        np.zeros((len(values), _MAX_DIGITS), dtype=np.uint8),
        np.zeros((len(values), _MAX_DIGITS), dtype=bool),
    )
    going = np.ones(len(values), dtype=bool)
    for place in range(_MAX_DIGITS):
        digit = values & _DIGIT_MASK
        values >>= _DIGIT_BITS
        more = values != np.where(digit & _SIGN_BIT, -1, 0)
        digits[:, place] = digit + np.where(more, _MORE_BIT, 0) + _FIRST_CHARACTER
        used[:, place] = going
        going &= more
        if not going.any():
            break
    return digits[used].tobytes().decode("ascii")


def text_to_counts(text: str | bytes) -> np.ndarray:
    """The run lengths of a text, int64.

    Raises:
        DataError: if it is no such text.
    """
    try:
        encoded = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise DataError(
            f"run-length code must be ASCII, got {text[error.start]!r} at character {error.start}"
        ) from error
    digits = np.frombuffer(encoded, dtype=np.uint8) - np.uint8(_FIRST_CHARACTER)  # those below wrap to high numbers
    wrong = np.flatnonzero(digits > (_DIGIT_MASK | _MORE_BIT))
    if len(wrong):
        raise DataError(
            f"run-length code must use the characters `0` to `o`, got {encoded[wrong[0]]:#04x} at character {wrong[0]}"
        )
    if not len(digits):
        return digits.astype(np.int64)
    if digits[-1] & _MORE_BIT:
        raise DataError(f"run-length code is cut off in the middle of a number, after {len(digits)} characters")
    values = _numbers(digits)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _numbers(digits: np.ndarray) -> np.ndarray:
    """The numbers that digits (uint8) spell, int64; each from the fourth on is less the one two before it."""
    signed = ((digits & _DIGIT_MASK) ^ _SIGN_BIT).view(np.int8) - np.int8(_SIGN_BIT)
    is_last = digits <= _DIGIT_MASK
    values = signed[is_last].astype(np.int64)  # of the last digit, which has the sign: few numbers have another
    others = np.flatnonzero(~is_last)
    if len(others):
        number = others - np.arange(len(others))
        begin = np.flatnonzero(np.diff(number, prepend=-1))
        lengths = np.diff(begin, append=len(others))
        if lengths.max() >= _MAX_DIGITS:
            got = lengths.max() + 1
            raise DataError(f"run-length code must have numbers of at most {_MAX_DIGITS} characters, got {got}")
        place = np.arange(len(others)) - np.repeat(begin, lengths)
        low = np.add.reduceat((digits[others] & _DIGIT_MASK).astype(np.int64) << (_DIGIT_BITS * place), begin)
        number = number[begin]
        values[number] = (values[number] << (_DIGIT_BITS * lengths)) + low
    return values


def read_texts(texts: Sequence[str], num_pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Texts of ASCII, none empty, as pairs of an unset and a set run, the last of which may have no length.

    Returns:
        Where the pairs of each text begin (n,), and the lengths of all unset and all set runs; None if a text is
        damaged or is not of so many pixels.
    """
    digits, ends = _digits_of(texts)
    if (digits > (_DIGIT_MASK | _MORE_BIT)).any() or (digits[ends - 1] > _DIGIT_MASK).any():
        return None
    num_values = np.diff(ends - np.searchsorted(np.flatnonzero(digits > _DIGIT_MASK), ends), prepend=0)
    is_odd = num_values % 2 == 1
    values = _numbers(np.insert(digits, ends[is_odd], 0))
    pairs = (num_values + 1) // 2
    begin = np.cumsum(pairs) - pairs
    unset, is_set = values[0::2].copy(), running_sums(values[1::2].copy(), begin)
    is_set[(begin + pairs - 1)[is_odd]] = 0
    first = unset[begin]
    unset[begin] = 0  # the second is no difference from the first
    unset = running_sums(unset, begin)
    unset[begin] = first
    if unset.min() < 0 or is_set.min() < 0 or (np.add.reduceat(unset + is_set, begin) != num_pixels).any():
        return None
    return begin, unset, is_set


def are_as_written(texts: Sequence[str], runs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bool:
    """Whether `counts_to_text` would write the same: no run but a first one is without length, no number has a digit
    more than it needs.

    Args:
        runs: what `read_texts` gave for the texts.
    """
    begin, unset, is_set = runs
    last = np.append(begin[1:], len(unset)) - 1
    digits, ends = _digits_of(texts)
    ends_unset = np.diff(np.searchsorted(np.flatnonzero(digits <= _DIGIT_MASK), ends), prepend=0) % 2 == 1
    inner, filled = np.ones(len(unset), dtype=bool), is_set > 0
    inner[begin] = False
    filled[last[ends_unset]] = True
    if not (filled.all() and (unset[inner] > 0).all()):
        return False
    before = digits[:-1]
    higher = digits[1:][before > _DIGIT_MASK]  # a number's last digit adds nothing where it repeats the sign before it
    sign = before[before > _DIGIT_MASK] & _SIGN_BIT
    return not bool((higher == np.where(sign, _DIGIT_MASK, 0)).any())


def _digits_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All characters (uint8), those that are no digits being high numbers, and where each text ends."""
    digits = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8) - np.uint8(_FIRST_CHARACTER)
    return digits, np.cumsum([len(text) for text in texts])


def running_sums(values: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Sums of all values so far, anew from each of `begin` on; changes `values`."""
    sums = np.add.reduceat(values, begin)
    values[begin[1:]] -= sums[:-1]
    return np.cumsum(values, out=values)
