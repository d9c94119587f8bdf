"""Answers and regions for tests: one written by hand, and any that hypothesis comes up with."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region

SCORES = st.floats(0, 1)


@st.composite
def regions(draw, size_wh):
    (x0, x1), (y0, y1) = (sorted(draw(st.tuples(st.floats(0, side), st.floats(0, side)))) for side in size_wh)
    mask = draw(st.none() | npst.arrays(bool, size_wh[::-1]))
    return Region(np.array([x0, y0, x1, y1]), draw(SCORES), mask)


@st.composite
def answers(draw):
    size_wh = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    words = draw(st.lists(st.text(min_size=1, max_size=5), max_size=6))
    phrases, start = [], 0
    for number, word in enumerate(words):
        found = tuple(draw(st.lists(regions(size_wh), max_size=2)))
        phrases.append(GroundedPhrase(number, word, (start, start + len(word)), found, draw(SCORES)))
        start += len(word) + 1
    return GroundedAnswer(" ".join(words), tuple(phrases), size_wh, draw(st.text(max_size=5)), "nano", 3, 5)


def a_mask():
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    return mask


def an_answer(**changes):
    dog = GroundedPhrase(0, "A dog", (0, 5), (Region(np.array([1.0, 1, 3, 2]), 0.75, a_mask()),), 0.75)
    cat = GroundedPhrase(1, "the cat", (11, 18), (), 0.125)
    fields = {
        "text": "A dog sees the cat.",
        "phrases": (dog, cat),
        "image_size_wh": (4, 3),
        "raw": "<g_s> A dog <g_e> <seg> sees <g_s> the cat <g_e> <seg>.",
        "model": "nano",
        "prompt_tokens": 190,
        "completion_tokens": 21,
    }
    return GroundedAnswer(**{**fields, **changes})
