"""How good a description is as text: CIDEr-D and METEOR against sentences by people.

Knows no images.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llava_grounding.language.nouns import plural

MAX_N = 4
_SIGMA = 6.0
_SCALE = 10.0
_MOST_ALIGNMENTS = 40  # as METEOR keeps
_MOST_STEPS = 8000  # words of a text times alignments kept
_MOST_PLACES = 8  # at which a repeated word is tried
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

Ngrams = Counter[tuple[str, ...]]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each candidate, 0 to 10; weights come from all references given, one group per image.

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

    Without WordNet's synonyms, paraphrases and a stemmer, so it is lower than the program's with its own settings. Of
    words that match exactly it is that of METEOR 1.5 with `-m exact -w 1.0 -p "0.9 3.0 0.5 0.5"`.

    Source: Banerjee and Lavie 2005: nine times the weight on recall, penalty 0.5 (chunks / matches)^3; none for two
    texts that are the same, as in METEOR 1.5.
    """
    own = _words(text)
    return max((_meteor(own, _words(reference)) for reference in references), default=0.0)


def _meteor(own: Sequence[str], other: Sequence[str]) -> float:
    matches, chunks = _aligned(own, other)
    if not matches:
        return 0.0
    precision, recall = matches / len(own), matches / len(other)
    mean = 10 * precision * recall / (recall + 9 * precision)
    is_same = chunks == 1 and matches == len(own) == len(other)
    return mean if is_same else mean * (1 - 0.5 * (chunks / matches) ** 3)


@dataclass(frozen=True)
class _Alignment:
    """Words matched so far.

    Args:
        matches, chunks, distance: how many, in how many pieces that follow each other in both texts, how far apart.
        used: places in the other text, as bits.
        following: the place that would go on the piece; -1 if the word before is not matched.
    """

    matches: int = 0
    chunks: int = 0
    distance: int = 0
    used: int = 0
    following: int = -1

    @property
    def order(self) -> tuple[int, int, int, int]:
        return -self.matches, self.chunks, self.distance, self.used


def _aligned(own: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """Matched words and the pieces they are in: as many words as possible, then as few pieces.

    Word by word, as METEOR does it, the best `_MOST_ALIGNMENTS` so far are kept: texts of a sentence have fewer. Of
    long texts fewer are kept, and of a word that is repeated many times the nearest places.
    """
    at_most = max(min(_MOST_ALIGNMENTS, _MOST_STEPS // max(len(own), 1)), 1)
    plurals = {word: plural(word) for word in {*own, *other}}
    kept = [_Alignment()]
    for place, word in enumerate(own):
        options = [
            there for there, said in enumerate(other) if word == said or plurals[word] == said or word == plurals[said]
        ]
        best: dict[tuple[int, int], _Alignment] = {}
        for one in kept:
            free = [there for there in options if not one.used >> there & 1]
            if len(free) > _MOST_PLACES:
                free = sorted(free, key=lambda there: (there != one.following, abs(there - place)))[:_MOST_PLACES]
            following = [_with(one, place, there) for there in free]
            for found in (*following, _Alignment(one.matches, one.chunks, one.distance, one.used)):
                state = (found.used, found.following)
                if state not in best or found.order < best[state].order:
                    best[state] = found
        kept = sorted(best.values(), key=lambda one: one.order)[:at_most]
    return kept[0].matches, kept[0].chunks


def _with(one: _Alignment, place: int, there: int) -> _Alignment:
    """The alignment with one more word matched."""
    return _Alignment(
        one.matches + 1,
        one.chunks + (there != one.following),
        one.distance + abs(place - there),
        one.used | 1 << there,
        there + 1,
    )


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
