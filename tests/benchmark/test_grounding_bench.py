"""Grounding-Bench from predictions to report: the paper's example, the rules, judges, other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from llava_grounding.benchmark.calibration import calibration
from llava_grounding.benchmark.grounding import IOU_LEVELS, box_overlaps, mask_overlaps, match_answer
from llava_grounding.benchmark.grounding_bench import GroundingBench
from llava_grounding.benchmark.judging import DeterministicJudge, RecordedJudge, judgement_lines
from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance
from llava_grounding.benchmark.scores import compare, metrics_of
from llava_grounding.geometry import box_iou
from llava_grounding.masks import encode_rle
from llava_grounding.matching import GroundingCounts

TASK = GroundingBench()


def boxed(category: str, *box: float, mask: np.ndarray | None = None) -> LabelledInstance:
    return LabelledInstance(category, box, None if mask is None else encode_rle(mask))


def sample(*instances: LabelledInstance, key: str = "1", size: tuple[int, int] = (400, 400)) -> BenchmarkSample:
    return BenchmarkSample(key, f"{key}.jpg", size, "detail", "Describe.", instances=instances)


def answer(*phrases: tuple[str, list[tuple[float, ...]]], key: str = "1") -> Prediction:
    found = [PredictedPhrase(words, tuple(PredictedRegion(box, 0.9) for box in boxes)) for words, boxes in phrases]
    return Prediction(key, " ".join(words for words, _ in phrases), tuple(found))


def value_of(metrics, name: str) -> float:
    return next(one.value for one in metrics if one.name == name)


def test_the_worked_example_of_the_paper_comes_from_a_recorded_judgement(tmp_path: Path) -> None:
    # Twelve people in a row; seven regions, of which six lie on somebody and four are said to be right, about three.
    people = [boxed("person", 30 * k, 10, 30 * k + 25, 90) for k in range(12)]
    places = [0, 1, 2, 2, 3, 4, None]
    boxes = [(300.0, 200.0, 390.0, 390.0) if place is None else people[place].box_xyxy for place in places]
    said = answer(*((f"person {number}", [box]) for number, box in enumerate(boxes)))
    file = tmp_path / "judgements.jsonl"
    right = [[0, 0], [1, 1], [2, 2], [3, 2]]
    file.write_text(json.dumps({"sample": "1", "kind": "match", "verdict": {"right": right}}) + "\n")
    scored = TASK.score_all([sample(*people)], [said], RecordedJudge(file))
    assert scored.scores[0].rows["box_at_50"] == (7, 12, 4, 3)
    metrics = metrics_of(scored.scores, TASK.statistics(scored.scores[0].rows))
    numbers = [round(value_of(metrics, f"grounded {what} (box IoU 0.5)"), 2) for what in ("precision", "recall", "F1")]
    assert numbers == [0.57, 0.25, 0.35]
    # Recorded with their keys they give the identical number again; of another answer they are no judgement.
    file.write_bytes(judgement_lines(scored.questions, scored.verdicts))
    again = TASK.score_all([sample(*people)], [said], RecordedJudge(file))
    assert again.scores == scored.scores
    other = TASK.score_all([sample(*people)], [answer(("a man", [people[0].box_xyxy]))], RecordedJudge(file))
    assert (other.scores[0].state, other.scores[0].rows) == ("not_judged", {})


def test_a_phrase_may_be_right_about_many_and_a_second_box_on_one_thing_is_wrong() -> None:
    dogs = [boxed("dog", 0, 0, 100, 100), boxed("dog", 200, 0, 300, 100), boxed("cat", 0, 200, 100, 300)]
    both, twice = [one.box_xyxy for one in dogs[:2]], [dogs[0].box_xyxy] * 2
    cases = {
        "two dogs": (answer(("two dogs", both)), (2, 3, 2, 2)),
        "twice": (answer(("two dogs", twice)), (2, 3, 1, 1)),
        "said again": (answer(("a dog", twice[:1]), ("the puppy", twice[:1])), (2, 3, 2, 1)),
        "wrong word": (answer(("a cat", both[:1]), ("a mouse", both[1:])), (2, 3, 0, 0)),
        "nothing": (answer(), (0, 3, 0, 0)),
        "far": (answer(("a dog", [(60.0, 0.0, 160.0, 100.0)])), (1, 3, 0, 0)),
    }
    for name, (said, counts) in cases.items():
        (score,) = TASK.score_all([sample(*dogs)], [said], DeterministicJudge()).scores
        assert score.rows["box_at_50"] == counts, name
    assert score.state == "answered"
    assert TASK.score_all([sample(*dogs)], [answer()], DeterministicJudge()).scores[0].state == "empty"
    missing, failed = TASK.score_all(
        [sample(*dogs), sample(*dogs, key="2")], [None, Prediction("2", error="out of memory")], DeterministicJudge()
    ).scores
    assert [missing.state, failed.state] == ["missing", "failed"]
    assert missing.rows == failed.rows == {}


def test_the_curve_falls_with_the_threshold_and_boxes_at_exactly_half_count() -> None:
    dog = boxed("dog", 0, 0, 100, 100)
    half = answer(("a dog", [(0.0, 0.0, 100.0, 50.0)]))
    verdict = [(0, 0)]
    levels = match_answer(sample(dog), half, box_overlaps(sample(dog), half), verdict).levels
    assert [one.tp_predicted for one in levels] == [1] + [0] * 9
    most = answer(("a dog", [(0.0, 0.0, 100.0, 82.0)]))
    levels = match_answer(sample(dog), most, box_overlaps(sample(dog), most), verdict).levels
    assert [one.tp_predicted for one in levels] == [level <= 0.82 for level in IOU_LEVELS]


def test_what_nobody_labelled_is_not_judged_and_an_attribute_is_for_the_judge() -> None:
    dog = boxed("dog", 0, 0, 100, 100)
    place = BenchmarkSample("1", "1.jpg", (400, 400), "detail", "?", instances=(dog,), exhaustive=("dog", "cat"))
    said = answer(("a dog", [dog.box_xyxy]), ("a lamp", [(0.0, 0.0, 9.0, 9.0)]), ("a cat", [(5.0, 5.0, 9.0, 9.0)]))
    (score,) = TASK.score_all([place], [said], DeterministicJudge()).scores
    # "lamp" is in no table: it counts; were it a known category that is not labelled, it would not.
    assert score.rows["box_at_50"][0] in (2, 3)
    said = answer(("a dog", [dog.box_xyxy]), ("a bus", [(0.0, 0.0, 9.0, 9.0)]))
    (score,) = TASK.score_all([place], [said], DeterministicJudge()).scores
    assert score.rows["box_at_50"] == (1, 1, 1, 1)
    assert score.regions == ((0.9, True),)


WORDS = ("dog", "cat")
CORNERS = st.tuples(*[st.integers(0, 3)] * 2)
BOXES = st.builds(
    lambda a, b: (a[0] * 9.0, a[1] * 9.0, a[0] * 9.0 + b[0] * 9 + 9, a[1] * 9.0 + b[1] * 9 + 9), CORNERS, CORNERS
)
TRUTHS = st.lists(st.tuples(st.sampled_from(WORDS), BOXES), max_size=5)
PHRASES = st.lists(st.tuples(st.sampled_from(WORDS), st.lists(BOXES, max_size=3)), max_size=4)


@settings(max_examples=60)
@given(TRUTHS, PHRASES, st.randoms(use_true_random=False))
def test_order_and_scale_change_no_count_and_every_count_is_in_its_range(truths, phrases, random) -> None:
    instances = [boxed(word, *box) for word, box in truths]
    (score,) = TASK.score_all([sample(*instances)], [answer(*phrases)], DeterministicJudge()).scores
    shuffled = [(word, random.sample(boxes, len(boxes))) for word, boxes in random.sample(phrases, len(phrases))]
    mixed = random.sample(instances, len(instances))
    (other,) = TASK.score_all([sample(*mixed)], [answer(*shuffled)], DeterministicJudge()).scores
    assert score.rows == other.rows
    larger = [boxed(word, *(3 * side for side in box)) for word, box in truths]
    tripled = [(word, [tuple(3 * side for side in box) for box in boxes]) for word, boxes in phrases]
    (scaled,) = TASK.score_all([sample(*larger, size=(1200, 1200))], [answer(*tripled)], DeterministicJudge()).scores
    assert score.rows == scaled.rows
    for row in score.rows.values():
        counts = GroundingCounts(*map(int, row))
        assert 0 <= counts.tp_truths <= counts.tp_predicted <= counts.num_predicted
        assert counts.tp_truths <= counts.num_truths
        assert 0 <= counts.f1 <= 1
    if instances:
        tp = [score.rows[f"box_at_{100 * level:.0f}"][2] for level in IOU_LEVELS]
        assert tp == sorted(tp, reverse=True)
        # Within a phrase as many matches as scipy finds on the allowed pairs.
        best = 0
        for word, boxes in phrases:
            own = [box for kind, box in truths if kind == word]
            if own and boxes:
                hits = np.asarray(box_iou(np.array(boxes), np.array(own))) >= 0.5
                best += int(hits[linear_sum_assignment(hits, maximize=True)].sum())
        assert tp[0] == best


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_overlaps_of_masks_are_those_of_pycocotools_and_a_system_of_boxes_gets_no_mask_numbers() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 50)) < 0.02 + 0.9 * (np.arange(50) // 10 == k % 5)[None] for k in range(8)]
    truths = [boxed("dog", 0, 0, 50, 40, mask=mask) for mask in masks[:5]]
    regions = tuple(PredictedRegion((0, 0, 50, 40), 0.5, encode_rle(mask)) for mask in masks[3:])
    said = Prediction("1", "dogs", (PredictedPhrase("dogs", regions), PredictedPhrase("none")))
    place = sample(*truths, size=(50, 40))
    (found,) = mask_overlaps([(place, said)], least=0.0)
    wanted = coco_mask.iou([r.mask for r in regions], [t.mask for t in truths], [0] * 5)
    assert np.abs(found.table - wanted).max() < 1e-12
    (pruned,) = mask_overlaps([(place, said)])
    assert np.array_equal(pruned.table >= 0.5, wanted >= 0.5)
    (score,) = TASK.score_all([place], [said], DeterministicJudge()).scores
    assert score.rows["mask_at_50"][:3] == (5, 5, 5)
    (boxes,) = TASK.score_all([place], [answer(("dogs", [(0.0, 0.0, 50.0, 40.0)]))], DeterministicJudge()).scores
    assert "mask_at_50" not in boxes.rows


def test_numbers_of_one_image_of_none_and_of_pairs() -> None:
    assert metrics_of([], TASK.statistics(())) == []
    dog = boxed("dog", 0, 0, 100, 100)
    places = [sample(dog, key=str(number)) for number in range(20)]
    good = [answer(("a dog", [dog.box_xyxy]), key=str(number)) for number in range(20)]
    bad = [one if number % 2 else answer(key=str(number)) for number, one in enumerate(good)]
    first, second = (TASK.score_all(places, one, DeterministicJudge()).scores for one in (bad, good))
    (single,) = [one for one in metrics_of(second[:1], TASK.statistics(())) if one.name == "grounded F1 (box IoU 0.5)"]
    assert (single.value, single.count, single.interval.low, single.interval.high) == (1.0, 1, 1.0, 1.0)
    found = {one.name: one for one in compare(first, second, TASK.statistics(()))}
    recall = found["grounded recall (box IoU 0.5)"]
    assert (recall.first, recall.second, recall.images) == (0.5, 1.0, 20)
    assert 0 < recall.low < 0.5 < recall.high
    assert recall.share_better == 1.0
    same = {one.name: one for one in compare(first, first, TASK.statistics(()))}["grounded recall (box IoU 0.5)"]
    assert (same.difference, same.share_better) == (0.0, 0.5)
    curve = calibration(pair for one in (*first, *second) for pair in one.regions)
    assert (curve.regions, curve.bins, curve.error) == (30, ((pytest.approx(0.9), 1.0, 30),), pytest.approx(0.1))
    assert curve.risk[-1] == (1.0, 0.0)


def test_many_random_answers_stay_in_range() -> None:
    rng = np.random.default_rng(1)
    places, answers = [], []
    for number in range(300):
        corners = rng.uniform(0, 300, (rng.integers(0, 30), 4)).round(1)
        boxes = np.concatenate((corners[:, :2], corners[:, :2] + corners[:, 2:]), axis=1)
        count = int(rng.integers(0, len(boxes) + 1))
        truths = [boxed(WORDS[k % 2], *row) for k, row in enumerate(boxes[:count])]
        places.append(sample(*truths, key=str(number), size=(600, 600)))
        rest = [tuple(box) for box in boxes[count:].tolist()]
        parts = [rest[start : start + 2] for start in range(0, len(rest), 2)]
        answers.append(answer(*((WORDS[k % 2], part) for k, part in enumerate(parts)), key=str(number)))
    scored = TASK.score_all(places, answers, DeterministicJudge())
    assert len(scored.scores) == 300
    for metric in metrics_of(scored.scores, TASK.statistics(())):
        assert metric.value is None or 0 <= metric.value <= 1
        assert metric.interval is None or 0 <= metric.interval.low <= metric.interval.high <= 1
