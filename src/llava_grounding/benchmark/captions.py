"""How good a description is as text: CIDEr-D and METEOR against sentences by people, which labelled things it names.

Knows no images; categories are found in text by `language/nouns.py`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llava_grounding.language.nouns import plural
from llava_grounding.matching import harmonic_mean, ratio

MAX_N = 4
_SIGMA = 6.0
_SCALE = 10.0
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

Ngrams = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class ObjectCounts:
    """Categories a text speaks of against those that are there; 1 - precision is CHAIR (arXiv:1809.02156)."""

    num_mentioned: int = 0
    num_present: int = 0
    num_right: int = 0

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(
            self.num_mentioned + other.num_mentioned,
            self.num_present + other.num_present,
            self.num_right + other.num_right,
        )

    @property
    def precision(self) -> float | None:
        return ratio(self.num_right, self.num_mentioned)

    @property
    def recall(self) -> float | None:
        return ratio(self.num_right, self.num_present)

    @property
    def f1(self) -> float:
        return harmonic_mean(self.precision, self.recall)


def count_objects(mentioned: frozenset[str], present: frozenset[str]) -> ObjectCounts:
    """Counts of one text."""
    return ObjectCounts(len(mentioned), len(present), len(mentioned & present))


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each evaluator, 0 to 10; weights come from all references given, one group per image.

    With a single image every n-gram is in every image, so all weights and the score are 0.

    Source: Vedantam et al. 2015 (arXiv:1411.5726), section 6: clipped counts, Gaussian length penalty with sigma 6.
    """
    groups = [[_ngrams(text) for text in group] for group in references]
    document_frequency: Counter[tuple[str, ...]] = Counter()
    for group in groups:
        document_frequency.update({ngram for counts in group for ngram in counts})
    log_images = math.log(max(len(groups), 1))
    weights = {ngram: log_images - math.log(count) for ngram, count in document_frequency.items()}
    scores = []
    for text, group in zip(candidates, groups, strict=True):
        own = _ngrams(text)
        similar = [_similarity(own, other, weights, log_images) for other in group]
        scores.append(_SCALE * sum(similar) / len(similar) if similar else 0.0)
    return scores


def meteor(text: str, references: Sequence[str]) -> float:
    """METEOR of a text, 0 to 1, the best over the references; words match exactly, or as singular and plural.

    Without WordNet's synonyms and without a stemmer, so it is lower than the program's.

    Source: Banerjee and Lavie 2005: ten times the weight on recall, penalty 0.5 (chunks / matches)^3.
    """
    own = _words(text)
    return max((_meteor(own, _words(reference)) for reference in references), default=0.0)


def _meteor(own: Sequence[str], other: Sequence[str]) -> float:
    places = _aligned(own, other)
    if not places:
        return 0.0
    precision, recall = len(places) / len(own), len(places) / len(other)
    mean = 10 * precision * recall / (recall + 9 * precision)
    pairs = sorted(places.items())
    chunks = 1 + sum((mine + 1, theirs + 1) != following for (mine, theirs), following in pairwise(pairs))
    return mean * (1 - 0.5 * (chunks / len(places)) ** 3)


def _aligned(own: Sequence[str], other: Sequence[str]) -> dict[int, int]:
    """Place of each matched word -> place of its match: exact ones first, each where it continues the one before."""
    found: dict[int, int] = {}
    free = set(range(len(other)))
    for same in (str.__eq__, lambda a, b: plural(a) == b or a == plural(b)):
        for place, word in enumerate(own):
            if place in found:
                continue
            options = [one for one in sorted(free) if same(word, other[one])]
            if options:
                following = found.get(place - 1, -2) + 1
                found[place] = following if following in options else options[0]
                free.discard(found[place])
    return found


def _words(text: str) -> list[str]:
    return [match.group(0).lower() for match in _WORD.finditer(text)]


def _similarity(own: Ngrams, other: Ngrams, weights: dict[tuple[str, ...], float], unseen: float) -> float:
    """Mean over n of the clipped cosine of weighted counts, times the length penalty."""
    total = 0.0
    for n in range(1, MAX_N + 1):
        mine = {gram: count * weights.get(gram, unseen) for gram, count in own.items() if len(gram) == n}
        theirs = {gram: count * weights.get(gram, unseen) for gram, count in other.items() if len(gram) == n}
        norm = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        if norm:
            total += (
                sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs) / norm
            )
    lengths = [sum(count for gram, count in grams.items() if len(gram) == 1) for grams in (own, other)]
    return total / MAX_N * math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * _SIGMA**2))


def _ngrams(text: str) -> Ngrams:
    words = _words(text)
    return Counter(tuple(words[start : start + n]) for n in range(1, MAX_N + 1) for start in range(len(words) - n + 1))
