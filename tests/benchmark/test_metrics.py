"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_grounding.benchmark.captions import cider_d
from llava_grounding.benchmark.metrics import (
    YesNoCounts,
    bootstrap_interval,
    box_hits_at_50,
    exact_match,
    first_number,
    grounding_statistics,
    overlap_iou,
    parse_yes_no,
    share_statistic,
    words_among,
    yes_no_row,
)
from llava_grounding.benchmark.referring import joined_pixels
from llava_grounding.benchmark.scores import SampleScore, metrics_of, yes_no
from llava_grounding.masks import encode_rle
from llava_grounding.matching import GroundingCounts, harmonic_mean, match_one_to_one


def test_the_worked_example_of_the_paper() -> None:
    counts = GroundingCounts(num_predicted=7, num_truths=12, tp_predicted=4, tp_truths=3)
    assert counts.precision == pytest.approx(0.57, abs=0.005)
    assert counts.recall == pytest.approx(0.25)
    assert counts.f1 == pytest.approx(0.35, abs=0.005)


def test_counts_are_added_before_ratios_are_taken() -> None:
    total = GroundingCounts(1, 2, 1, 1) + GroundingCounts(3, 2, 0, 0)
    assert (total.precision, total.recall) == (0.25, 0.25)


def test_silence_has_no_precision_and_scores_zero() -> None:
    silent = GroundingCounts(0, 5, 0, 0)
    assert silent.precision is None
    assert silent.recall == 0.0
    assert silent.f1 == 0.0
    assert GroundingCounts().recall is None
    assert harmonic_mean(None, None) == 0.0


def test_matching_prefers_more_pairs_to_a_better_one() -> None:
    overlaps = np.array([[0.9, 0.6], [0.7, 0.0]])
    assert sorted(match_one_to_one(overlaps)) == [(0, 1), (1, 0)]


def test_matching_prefers_the_larger_overlap_among_equal_numbers() -> None:
    assert match_one_to_one(np.array([[0.6], [0.8]])) == [(1, 0)]


def test_matching_keeps_the_threshold_and_takes_nothing() -> None:
    assert match_one_to_one(np.array([[0.5, 0.49]])) == [(0, 0)]
    assert match_one_to_one(np.array([[0.49]])) == []
    assert match_one_to_one(np.zeros((0, 3))) == []
    assert match_one_to_one(np.zeros((2, 0))) == []


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**31))
def test_matching_is_one_to_one_and_as_large_as_possible(n: int, m: int, seed: int) -> None:
    overlaps = np.random.default_rng(seed).random((n, m))
    pairs = match_one_to_one(overlaps)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    assert all(overlaps[r, c] >= 0.5 for r, c in pairs)
    assert len(pairs) == _largest_matching(overlaps >= 0.5)


def _largest_matching(allowed: np.ndarray) -> int:
    """By augmenting paths, as an independent check."""
    owner: dict[int, int] = {}

    def augment(row: int, seen: set[int]) -> bool:
        for column in np.flatnonzero(allowed[row]).tolist():
            if column not in seen:
                seen.add(column)
                if column not in owner or augment(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return sum(augment(row, set()) for row in range(len(allowed)))


def test_a_box_hits_any_of_the_true_boxes() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]])
    hit, other, half, none = (
        np.array(b, dtype=float) for b in ([20, 20, 30, 29], [50, 50, 60, 60], [0, 0, 10, 5], [0] * 4)
    )
    assert box_hits_at_50([hit, other, half, none, None], [truth] * 5) == [True, False, False, False, False]
    assert box_hits_at_50([hit], [np.zeros((0, 4))]) == [False]


def test_mean_and_cumulative_mask_overlap_weigh_differently() -> None:
    small, large = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    small[0, :2] = True
    large[:, :8] = True
    one, two, turned = (encode_rle(mask) for mask in (small, large, large[:, ::-1]))
    overlaps = [joined_pixels([one], [one]), joined_pixels([turned], [two]), joined_pixels([], [one])]
    assert overlaps == [(2, 2), (60, 100), (0, 2)]
    assert [overlap_iou(*one) for one in (*overlaps, (0, 0))] == [1.0, 0.6, 0.0, 1.0]


def test_yes_and_no_are_read_from_sentences() -> None:
    assert parse_yes_no("Yes, there is a dog.") is True
    assert parse_yes_no("There are no dogs, I say no.") is False
    assert parse_yes_no("Nothing known.") is None
    assert parse_yes_no("") is None


def test_yes_no_counts_by_hand() -> None:
    answers = ["Yes.", "yes", "No.", "no", "Maybe.", "Yes!"]
    truths = [True, False, False, True, True, True]
    rows = [yes_no_row(parse_yes_no(said), truth) for said, truth in zip(answers, truths, strict=True)]
    assert YesNoCounts(*np.sum(rows, axis=0)) == YesNoCounts(
        true_yes=2, false_yes=1, true_no=1, false_no=1, unparsable_no=0, unparsable_yes=1
    )
    scores = [SampleScore(str(number), str(number), rows={"all": row}) for number, row in enumerate(rows)]
    values = {metric.name: metric.value for metric in metrics_of(scores, yes_no("test", "all"))}
    assert values == pytest.approx(
        {
            "test accuracy": 3 / 6,
            "test precision": 2 / 3,
            "test recall": 2 / 4,
            "test F1": 4 / 7,
            "test share of yes": 3 / 6,
        }
    )


def test_short_answers_match_whatever_their_case_articles_and_punctuation() -> None:
    assert exact_match("It is a Dog.", "it is the dog")
    assert not exact_match("It is a dog.", "It is a cat.")
    assert exact_match("", "")


@pytest.mark.parametrize(
    ("text", "number"),
    [("There are three dogs.", 3), ("12", 12), ("There are no dogs.", 0), ("None.", 0), ("Dogs.", None), ("", None)],
)
def test_the_first_number_of_an_answer(text: str, number: int | None) -> None:
    assert first_number(text) == number


def test_words_of_a_vocabulary() -> None:
    assert words_among("The car is Red and blue.", frozenset({"red", "blue", "green"})) == {"red", "blue"}


def test_cider_of_tiny_cases_by_hand() -> None:
    # Two images, one reference each, no shared words: every n-gram has idf log 2; two words have two orders of n-grams.
    references = [["red dog"], ["blue cat"]]
    same, half, other = "red dog", "red cat", "green sky"
    assert cider_d([same, same], references) == pytest.approx([10 * 2 / 4, 0.0])
    # One of two unigrams shared: clipped product 1 over norms sqrt 2 * sqrt 2; no bigram.
    assert cider_d([half, half], references) == pytest.approx([10 * 0.5 / 4, 10 * 0.5 / 4])
    assert cider_d([other, ""], references) == [0.0, 0.0]


def test_cider_punishes_repetition_and_length() -> None:
    references = [["red dog"], ["blue cat"]]
    # Unigrams "red" x3, "dog" x1, clipped to the reference's (1, 1): (1 + 1) / (sqrt(10) * sqrt(2)).
    # Bigrams "red red" x2 and "red dog": 1 / (sqrt(5) * 1). Length difference 2.
    expected = 10 / 4 * (2 / math.sqrt(20) + 1 / math.sqrt(5)) * math.exp(-4 / 72)
    assert cider_d(["red red red dog", ""], references)[0] == pytest.approx(expected)


def test_cider_ignores_what_every_image_says_and_takes_the_mean_of_references() -> None:
    assert cider_d(["a", "a"], [["a"], ["a"]]) == [0.0, 0.0]
    assert cider_d(["red dog", "x"], [["red dog", "blue cow"], ["cat"]])[0] == pytest.approx(10 * 2 / 4 / 2)
    assert cider_d(["red dog"], [["red dog"]]) == [0.0]
    assert cider_d([], []) == []


def test_the_bootstrap_is_seeded_and_covers_the_value() -> None:
    rows = np.stack([np.arange(50) % 2, np.ones(50)], axis=1)
    first, second = (bootstrap_interval(rows, share_statistic, seed=3) for _ in range(2))
    assert first == second
    assert first is not None
    assert first.low < 0.5 < first.high
    # The standard error of a share of one half in 50 is 0.0707.
    assert first.high - first.low == pytest.approx(2 * 1.96 * 0.0707, rel=0.15)
    assert bootstrap_interval(rows, share_statistic, seed=4) != first


def test_a_paired_difference_of_equal_systems_is_exactly_zero() -> None:
    rng = np.random.default_rng(0)
    hits = rng.integers(0, 2, 40)
    rows = np.stack([hits, hits, np.ones(40)], axis=1)
    interval = bootstrap_interval(rows, lambda sums: (sums[:, 0] - sums[:, 1]) / sums[:, 2])
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_the_bootstrap_of_nothing_is_none() -> None:
    assert bootstrap_interval(np.zeros((0, 2)), share_statistic) is None
    assert bootstrap_interval(np.zeros((3, 2)), share_statistic) is None


def test_summed_counts_give_the_same_ratios_as_the_counts() -> None:
    counts = [GroundingCounts(7, 12, 4, 3), GroundingCounts(0, 3, 0, 0)]
    sums = np.array([c.row() for c in counts], dtype=float)
    precision, recall, f1 = grounding_statistics(sums)
    assert precision[0] == counts[0].precision
    assert math.isnan(precision[1])
    assert recall.tolist() == [c.recall for c in counts]
    assert f1.tolist() == pytest.approx([c.f1 for c in counts])
