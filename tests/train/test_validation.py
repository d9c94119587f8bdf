"""Quick looks at a model: counts by hand, and both validations on a tiny model that was told the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_made import NAMES, four_samples, sample, thing
from small_training import chat_batch, class_phrases, training_model, training_processor

from llava_grounding.data.sample import Sample, Turn
from llava_grounding.geometry import box_xyxy_to_cxcywh
from llava_grounding.matching import GroundingCounts
from llava_grounding.model.outputs import GrounderOutput
from llava_grounding.processing.selection import SelectionSettings
from llava_grounding.train import validation
from llava_grounding.train.batching.batches import chat_item, longest_dialogue
from llava_grounding.train.validation import (
    Validation,
    best_f1,
    count_matches,
    phrase_rows,
)

TRUTH = box_xyxy_to_cxcywh(np.array([[0.1, 0.1, 0.3, 0.5], [0.5, 0.1, 0.9, 0.5], [0.5, 0.6, 0.9, 0.9]]))
WANTED = np.array([[True, False], [False, True], [False, True]])
MISS = np.array([[0.0, 0.8, 0.1, 0.1]])


def scores(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows)


def counts(found: int, predicted: int, wanted: int) -> GroundingCounts:
    return GroundingCounts(predicted, wanted, found, found)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    assert counts(2, 4, 3).f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert counts(0, 0, 0).f1 == 0
    assert counts(3, 3, 3).f1 == 1


def test_exact_boxes_are_all_found() -> None:
    assert count_matches(scores((0.9, 0), (0, 0.8), (0, 0.7)), TRUTH, TRUTH, WANTED, 0.5, 0.7) == counts(3, 3, 3)


def test_what_is_not_above_the_threshold_is_not_predicted() -> None:
    assert count_matches(scores((0.9, 0), (0, 0.8), (0, 0.5)), TRUTH, TRUTH, WANTED, 0.5, 0.7) == counts(2, 2, 3)


def test_the_right_box_for_the_wrong_phrase_counts_against() -> None:
    assert count_matches(scores((0, 0.9), (0, 0), (0, 0)), TRUTH, TRUTH, WANTED, 0.5, 0.7) == counts(0, 1, 3)


def test_one_thing_is_found_once_only() -> None:
    near = TRUTH[1:2] * [1, 1, 0.82, 0.82]  # IoU 0.67: no double, and good enough alone
    boxes = np.concatenate([TRUTH[1:2], near])
    assert count_matches(scores((0, 0.9), (0, 0.8)), boxes, TRUTH, WANTED, 0.5, 0.7) == counts(1, 2, 3)


def test_doubles_are_dropped_before_they_are_counted() -> None:
    boxes = np.concatenate([TRUTH[1:2], TRUTH[1:2] * [1, 1, 0.95, 0.95]])
    assert count_matches(scores((0, 0.9), (0, 0.8)), boxes, TRUTH, WANTED, 0.5, 0.7) == counts(1, 1, 3)
    assert count_matches(scores((0, 0.9), (0, 0.8)), boxes, TRUTH, WANTED, 0.5, None) == counts(1, 2, 3)


def test_a_second_box_takes_the_thing_the_first_has_left() -> None:
    # Both boxes fit the first thing better; the worse one fits the second thing well enough.
    truth = box_xyxy_to_cxcywh(np.array([[0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4]]))
    boxes = box_xyxy_to_cxcywh(np.array([[0.0, 0.0, 0.4, 0.4], [0.04, 0.0, 0.44, 0.4]]))
    both = np.array([[True], [True]])
    assert (
        count_matches(np.array([[0.9], [0.8]]), boxes, truth, both, 0.5, 0.7).num_predicted == 1
    )  # IoU 0.82 makes it a double
    apart = box_xyxy_to_cxcywh(np.array([[0.0, 0.0, 0.4, 0.4], [0.045, 0.07, 0.445, 0.4]]))
    assert count_matches(np.array([[0.9], [0.8]]), apart, truth, both, 0.5, 0.7) == counts(2, 2, 2)


def test_nothing_wanted_and_nothing_there_are_fine() -> None:
    assert count_matches(np.zeros((2, 0)), TRUTH[:2], TRUTH, np.zeros((3, 0), bool), 0.3, 0.7) == counts(0, 0, 0)
    assert count_matches(np.full((1, 1), 0.9), MISS, np.zeros((0, 4)), np.zeros((0, 1), bool), 0.3, 0.7) == counts(
        0, 1, 0
    )


def told(output: GrounderOutput, boxes: torch.Tensor, phrase_map: torch.Tensor) -> GrounderOutput:
    """The output of a grounder that knows: its first queries are the instances."""
    count = len(boxes)
    logits, found = torch.full_like(output.phrase_logits, -9.0), output.boxes_cxcywh_norm.clone()
    logits[0, :count, : phrase_map.shape[1]] = torch.where(phrase_map, 3.0, -9.0)
    found[0, :count] = boxes
    return replace(output, phrase_logits=logits, boxes_cxcywh_norm=found)


@torch.no_grad()
def test_class_names_of_a_knowing_grounder_score_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, phrases, processor = training_model().eval(), class_phrases(), training_processor()
    (one,) = four_samples()[:1]
    blind = Validation([one], processor, chat=False)(model, phrases)
    assert 0 <= blind["class_f1"] < 1
    honest = validation.ground_classes

    def knowing(*arguments: object) -> GrounderOutput:
        column = 1 + NAMES.index("dog")
        phrase_map = torch.zeros(1, 1 + len(NAMES), dtype=torch.bool)
        phrase_map[0, [0, column]] = True
        boxes = torch.tensor([[0.25, 0.375, 0.35, 0.5]])  # 6, 10, 34, 50 of 80 x 60 on the square canvas
        return told(honest(*arguments), boxes, phrase_map)

    monkeypatch.setattr(validation, "ground_classes", knowing)
    assert Validation([one], processor, chat=False)(model, phrases)["class_f1"] == 1


def test_dialogues_give_a_loss_and_a_score_whether_or_not_they_hold_phrases() -> None:
    model, processor = training_model().eval(), training_processor()
    result = Validation(four_samples(), processor, chat=True)(model, None)
    assert result["language_loss"] == pytest.approx(np.log(320), rel=0.2)  # it has learnt nothing yet
    assert 0 <= result["phrase_f1"] <= 1
    assert result["phrase_threshold"] in (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
    plain = Validation([sample(turns=sample().turns[1:2])], processor, chat=True)(model, None)
    assert plain.keys() == {"language_loss"}
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_phrases_without_known_instances_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = training_model().eval(), training_processor()
    turn = sample().turns[2]  # "A dog" is known, "grass" is not
    seen: list[tuple[np.ndarray, ...]] = []
    monkeypatch.setattr(validation, "count_matches", lambda *row: seen.append(row) or counts(0, 0, 0))
    other = sample((thing("cat", (8, 8, 20, 20)),), sample().turns[1:2])
    Validation([sample(turns=(turn,)), other], processor, chat=True)(model, None)
    found, _, truth, wanted, *_ = seen[0]
    assert found.shape == (8, 1)
    assert wanted.tolist() == [[True], [False], [False]]
    assert truth.shape == (3, 4)
    assert seen[1][0].shape == (8, 0)
    assert seen[1][3].shape == (1, 0)


def test_queries_are_chosen_as_the_checkpoint_chooses_them() -> None:
    # Two equal dogs: a softmax over the queries gives each half a share, and these settings drop no doubles.
    processor, model = training_processor(), training_model().eval()
    softmax = SelectionSettings("softmax", 0.05, None)
    processor.settings = replace(processor.settings, selection=softmax)
    result = Validation(four_samples(), processor, chat=True)(model, None)
    assert result["phrase_threshold"] in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    rows, _ = phrase_rows(model, processor, four_samples())
    assert all(np.allclose(row[0].sum(axis=0), 1) for row in rows)
    shares = np.array([[0.45], [0.45], [0.05], [0.05]])
    twins = np.concatenate([TRUTH[1:2], TRUTH[1:2] * [1, 1, 0.95, 0.95], MISS, MISS])
    row = (shares, twins, TRUTH[1:2], np.array([[True]]))
    assert best_f1([row], softmax, "phrase") == {"phrase_f1": pytest.approx(2 / 3), "phrase_threshold": 0.05}
    assert best_f1([row], SelectionSettings("softmax", 0.05, 0.7), "phrase")["phrase_f1"] == 1


def test_validation_draws_the_same_dialogues_each_time() -> None:
    rng = np.random.default_rng
    first, second = (
        chat_batch([sample()], training_processor(), class_phrases().index, 4, rng(0)).texts for _ in range(2)
    )
    assert torch.equal(first["input_ids"], second["input_ids"])
    model = training_model().eval()
    results = [Validation([sample()], training_processor(), chat=True)(model, None) for _ in range(2)]
    assert results[0] == results[1]


def long_dialogue(turns: int = 40) -> Sample:
    told = tuple(Turn(f"Question {n}, what is it?", f"It is answer number {n}.", grounded=False) for n in range(turns))
    return replace(sample(turns=told), ordered=True, id="a long one")


@pytest.mark.parametrize(("max_tokens", "limit"), [(None, 512), (120, 120), (9999, 512)])
def test_dialogues_are_as_long_as_in_training(max_tokens: int | None, limit: int) -> None:
    model, processor, widths = training_model().eval(), training_processor(), []
    model.language_model.register_forward_pre_hook(
        lambda part, given, named: widths.append(named["inputs_embeds"].shape[1]), with_kwargs=True
    )
    phrase_rows(model, processor, [long_dialogue()], max_tokens=max_tokens)
    assert longest_dialogue(model.config, max_tokens) == limit
    item = chat_item(long_dialogue(), processor, 4, np.random.default_rng(0), limit)
    assert widths == [len(item.text.input_ids)]
    assert limit / 2 < widths[0] <= limit


def test_a_dialogue_of_which_nothing_fits_is_left_out_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    look = Validation([long_dialogue(), *four_samples()], training_processor(), chat=True, batch_size=1, max_tokens=70)
    short = Validation(four_samples(), training_processor(), chat=True, batch_size=1, max_tokens=70)
    first = replace(long_dialogue().turns[0], question="word " * 200)
    look.samples[0] = replace(long_dialogue(), turns=(first,))
    model = training_model().eval()
    assert look(model, None) == look(model, None) == short(model, None)
    told = [record.message for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith("left out of the validation: the dialogue of `a long one` takes ")
    assert told[0].endswith("tokens of 70 allowed")


def test_turns_are_as_many_as_the_recipe_says() -> None:
    model, losses = training_model().eval(), []
    for turns in (1, 3):
        _, seen = phrase_rows(model, training_processor(), [long_dialogue(), sample()], max_turns=turns)
        losses += seen
    assert losses[0][1] < losses[1][1]


def test_only_learnt_positions_are_scored_though_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor, scored = training_model().eval(), training_processor(), []
    honest = model.logits

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        scored.append(hidden.shape[:-1].numel())
        return honest(hidden)

    monkeypatch.setattr(model, "logits", counted)
    batch = chat_batch(four_samples(), processor, None, 4, np.random.default_rng(0))
    phrase_rows(model, processor, four_samples())
    learnt = int(batch.counts[0])
    assert sum(scored) <= learnt + len(batch.targets)  # and the last position of each row, for the output's sake
    assert learnt < batch.texts["input_ids"].numel() / 2
