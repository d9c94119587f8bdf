"""Batches against hand-made samples: which instance each phrase means, what is learnt, where prompts point."""

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hand_made import DOG, LEFT_CAT, NAMES, RIGHT_CAT, SIZE_WH, TURNS, sample, thing
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import chat_batch, training_config, training_processor, training_setup
from torch import Tensor

from llava_grounding.data.sample import Sample, Turn
from llava_grounding.dialogues.templates import DESCRIBE_WORDINGS
from llava_grounding.errors import DataError
from llava_grounding.geometry import Letterbox
from llava_grounding.structures import VisualPrompt
from llava_grounding.train.batching.batches import (
    ANYTHING,
    ChatBatch,
    ClassBatch,
    choose_turns,
    class_batch,
    encode_sample_image,
    grounding_target,
)

INDEX = {name: column for column, name in enumerate(NAMES, start=1)}
CAT, DOG_COLUMN, TREE = 1, 2, 3


def classes_of(*samples: Sample) -> ClassBatch:
    processor = training_processor()
    return class_batch(samples, [encode_sample_image(processor, one) for one in samples], processor, INDEX)


def chat_of(*samples: Sample, max_turns: int = 10, seed: int = 0) -> ChatBatch:
    return chat_batch(samples, training_processor(), INDEX, max_turns, np.random.default_rng(seed))


def chosen_turns(*samples: Sample, max_turns: int = 10, seed: int = 0) -> list[list[Turn]]:
    rng = np.random.default_rng(seed)
    return [[turn for group in choose_turns(one, max_turns, rng) for turn in group] for one in samples]


def test_an_answer_that_is_not_learnt_is_read_and_has_no_labels() -> None:
    turns = (replace(TURNS[0], in_loss=False), TURNS[1])
    read, all_learnt = (chat_of(replace(sample(turns=one), ordered=True)) for one in (turns, TURNS[:2]))
    assert torch.equal(read.texts["input_ids"], all_learnt.texts["input_ids"])
    labels, usual = read.texts["labels"][0], all_learnt.texts["labels"][0]
    learnt = usual != -100
    first = int(learnt.nonzero()[0]) + int((~learnt[int(learnt.nonzero()[0]) :]).nonzero()[0])
    assert (labels[:first] == -100).all()
    assert torch.equal(labels[first:], usual[first:])
    assert all_learnt.phrase_mask.tolist() == [[True, True]]
    assert read.phrase_mask.tolist() == [[False, False]]


def test_a_dialogue_of_which_nothing_is_learnt_is_refused() -> None:
    with pytest.raises(DataError, match=r"^no answer of `.*` is to be learnt$"):
        chat_of(sample(turns=(replace(TURNS[1], in_loss=False),)))


class TestClasses:
    def test_images_targets_and_masks_have_their_shapes(self) -> None:
        batch = classes_of(sample(), sample((DOG,), ()))
        assert batch.images["grounder_pixel_values"].shape == (2, 3, 64, 64)
        assert batch.phrase_mask.shape == (2, 4)
        assert [tuple(target.phrase_map.shape) for target in batch.targets] == [(3, 4), (1, 4)]
        assert batch.targets[0].masks.shape == (3, 32, 32)

    def test_boxes_and_masks_are_in_the_frame_of_the_canvas(self) -> None:
        target = classes_of(sample()).targets[0]
        # 80 x 60 pixels become 64 x 48 of 64 x 64: the dog's box is 6.4, 6.4, 25.6, 32.
        assert target.boxes_cxcywh_norm[0].tolist() == pytest.approx([0.25, 0.3, 0.3, 0.4], abs=1e-6)
        assert int(target.masks[0].sum()) == pytest.approx(0.3 * 32 * 0.4 * 32, rel=0.15)
        assert target.masks[0, 4:15, 4:12].all()

    def test_every_instance_is_its_class_and_anything_when_all_is_labelled(self) -> None:
        batch = classes_of(sample())
        assert batch.phrase_mask.tolist() == [[True] * 4]
        expected = [[True, False, True, False], [True, True, False, False], [True, True, False, False]]
        assert batch.targets[0].phrase_map.tolist() == expected

    def test_only_labelled_classes_are_judged_when_labels_have_gaps(self) -> None:
        batch = classes_of(
            sample(exhaustive=frozenset({"dog", "horse"})),
            sample((DOG,), (), frozenset({"tree"})),
            sample((), (), frozenset()),
        )
        # Of a class that is only seen, other things may have no label.
        assert batch.partly_labelled.nonzero().tolist() == [[0, CAT], [1, DOG_COLUMN]]
        # Exhaustive classes, and those seen in the image; "anything" needs more labels than that.
        assert batch.phrase_mask.tolist() == [
            [False, True, True, False],
            [False, False, True, True],
            [False, False, False, False],
        ]
        assert not any(target.phrase_map[:, ANYTHING].any() for target in batch.targets)
        assert batch.targets[0].phrase_map[:, CAT].tolist() == [False, True, True]

    def test_many_exhaustive_classes_are_as_good_as_all(self) -> None:
        many = frozenset({"dog", "cat", *(f"kind {number}" for number in range(18))})
        batch = classes_of(sample(exhaustive=many), sample(exhaustive=many - {"kind 3"}))
        assert batch.phrase_mask[:, ANYTHING].tolist() == [True, False]
        assert batch.targets[0].phrase_map[:, ANYTHING].all()
        assert not batch.phrase_mask[:, TREE].any()

    def test_images_without_instances_or_without_masks_are_fine(self) -> None:
        boxes_only = thing("dog", (8, 8, 32, 40), has_mask=False)
        batch = classes_of(sample((), ()), sample((boxes_only,), ()), sample((boxes_only, LEFT_CAT), ()))
        assert batch.targets[0].phrase_map.shape == (0, 4)
        assert batch.targets[0].boxes_cxcywh_norm.shape == (0, 4)
        assert batch.targets[1].masks is None
        assert batch.targets[2].has_mask.tolist() == [False, True]


sizes = st.tuples(st.integers(1, 150), st.integers(1, 150))


class TestCanvasMasks:
    @given(size_wh=sizes, canvas=st.sampled_from([32, 64]), corners=st.lists(st.floats(0, 1), min_size=4, max_size=4))
    @settings(max_examples=60)
    def test_they_agree_with_the_letterbox_within_a_cell(
        self, size_wh: tuple[int, int], canvas: int, corners: list[float]
    ) -> None:
        (width, height), (a, b, c, d) = size_wh, corners
        x0, x1 = sorted(min(int(share * width), width - 1) for share in (a, c))
        y0, y1 = sorted(min(int(share * height), height - 1) for share in (b, d))
        mask = np.zeros((1, height, width), dtype=bool)
        mask[0, y0 : y1 + 1, x0 : x1 + 1] = True
        letterbox = Letterbox.fit(size_wh, (canvas, canvas))
        target = grounding_target(one_thing(mask), letterbox, np.ones((1, 1), dtype=bool))
        coverage = torch.from_numpy(letterbox.mask_to_canvas(mask[0], (canvas // 2, canvas // 2)))[None].float()
        cells = target.masks if target.masks is not None else torch.zeros(1, canvas // 2, canvas // 2)
        surely_in = -F.max_pool2d(-coverage, 3, 1, 1) > 0.99
        surely_out = F.max_pool2d(coverage, 3, 1, 1) < 0.01
        assert cells[surely_in].bool().all()
        assert not cells[surely_out].any()

    @given(size_wh=sizes, place=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)))
    @settings(max_examples=40)
    def test_a_thing_too_small_for_a_cell_has_no_mask_rather_than_an_empty_one(
        self, size_wh: tuple[int, int], place: tuple[float, float]
    ) -> None:
        mask = np.zeros((1, size_wh[1], size_wh[0]), dtype=bool)
        mask[0, int(place[1] * size_wh[1]), int(place[0] * size_wh[0])] = True
        target = grounding_target(one_thing(mask), Letterbox.fit(size_wh, (32, 32)), np.ones((1, 1), dtype=bool))
        drawn = target.masks is not None and bool(target.masks.any())
        assert bool(target.has_mask[0]) == drawn


def one_thing(mask: np.ndarray) -> Sample:
    """A sample of one instance with this mask, (1, H, W)."""
    rows, columns = np.flatnonzero(mask[0].any(1)), np.flatnonzero(mask[0].any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    image = np.zeros((*mask.shape[1:], 3), dtype=np.uint8)
    return Sample("one", image, (thing("dog", box),), mask, (), None, "tests")


class TestChoosingTurns:
    def test_a_follow_up_stays_behind_its_antecedent(self) -> None:
        orders = set()
        for seed in range(20):
            (turns,) = chosen_turns(sample(), seed=seed)
            assert sorted(turn.kind for turn in turns) == sorted(turn.kind for turn in TURNS)
            kinds = [turn.kind for turn in turns]
            assert kinds.index("followup") == kinds.index("region") + 1
            orders.add(tuple(kinds))
        assert len(orders) > 5

    def test_few_turns_are_chosen_but_never_a_follow_up_alone(self) -> None:
        seen = set()
        for seed in range(20):
            (turns,) = chosen_turns(sample(), max_turns=1, seed=seed)
            kinds = tuple(turn.kind for turn in turns)
            assert kinds in {("describe",), ("count",), ("region", "followup"), ("absent",)}
            seen.add(kinds)
        assert len(seen) == 4

    def test_descriptions_come_first_more_often_and_many_questions_of_one_kind_count_as_one(self) -> None:
        counts = [replace(TURNS[1], question=f"How many cats of {number}?") for number in range(8)]
        one = sample(turns=(TURNS[0], *counts, TURNS[4]))
        rng = np.random.default_rng(0)
        firsts = [choose_turns(one, 1, rng)[0][0].kind for _ in range(300)]
        shares = {kind: firsts.count(kind) / len(firsts) for kind in ("describe", "count", "absent")}
        assert shares["describe"] == pytest.approx(4 / 9, abs=0.09)
        assert shares["count"] == pytest.approx(2 / 9, abs=0.07)
        assert shares["absent"] == pytest.approx(3 / 9, abs=0.08)

    def test_half_of_the_descriptions_are_asked_for_in_the_words_of_the_sample(self) -> None:
        one, rng = sample(turns=TURNS[:2]), np.random.default_rng(0)
        turns = [turn for _ in range(400) for group in choose_turns(one, 2, rng) for turn in group]
        asked = [turn.question for turn in turns if turn.kind == "describe"]
        assert len(asked) == 400
        assert asked.count(TURNS[0].question) / 400 == pytest.approx(0.5 + 0.5 / len(DESCRIBE_WORDINGS), abs=0.08)
        assert set(asked) == {*DESCRIBE_WORDINGS, TURNS[0].question}
        assert {turn.answer for turn in turns} == {TURNS[0].answer, TURNS[1].answer}
        assert {turn.question for turn in turns if turn.kind != "describe"} == {TURNS[1].question}

    def test_a_leading_follow_up_is_a_turn_like_others(self) -> None:
        lone = replace(TURNS[0], kind="followup")
        assert chosen_turns(sample(turns=(lone,))) == [[lone]]


class TestDialogues:
    def test_labels_are_the_answers_and_their_end_tokens_and_nothing_else(self) -> None:
        processor, samples = training_processor(), (sample(), sample((DOG,), TURNS[1:2]), sample(turns=TURNS[3:]))
        tokens, template = processor.tokens, processor.settings.template
        for seed in range(4):
            labels = chat_of(*samples, max_turns=3, seed=seed).texts["labels"]
            for row, turns in enumerate(chosen_turns(*samples, max_turns=3, seed=seed)):
                learnt = labels[row][labels[row] != -100].tolist()
                assert learnt[-1] == tokens.ids.eos
                answers, rest = [], learnt
                while rest:
                    end = rest.index(tokens.ids.eos)
                    answers.append(tokens.decode(rest[:end]))
                    rest = rest[end + 1 :]
                assert answers == [template.answer_prefix + turn.answer for turn in turns]

    def test_learnt_tokens_are_those_of_the_input_at_the_same_place(self) -> None:
        texts = chat_of(sample(), sample(turns=TURNS[1:2])).texts
        learnt = texts["labels"] != -100
        assert torch.equal(texts["labels"][learnt], texts["input_ids"][learnt])
        assert texts["attention_mask"][learnt].all()
        assert not texts["attention_mask"].all()
        assert (texts["input_ids"][texts["attention_mask"] == 0] == training_processor().tokens.ids.pad).all()

    def test_each_dialogue_shows_its_image_once_and_says_which_answers_are_grounded(self) -> None:
        processor = training_processor()
        batch = chat_of(sample(), sample(turns=TURNS[1:2]))
        count = training_config().image_sequence_length
        assert (batch.texts["input_ids"] == processor.tokens.ids.image).sum(1).tolist() == [count, count]
        text = processor.tokens.decode(batch.texts["input_ids"][1][batch.texts["attention_mask"][1].bool()].tolist())
        assert text == "USER: \nHow many cats are there? ASSISTANT: Two."
        text = processor.tokens.decode(batch.texts["input_ids"][0].tolist())
        assert text.count("(with grounding)") == 4
        assert "How many cats are there? ASSISTANT:" in text

    def test_phrases_are_mapped_to_the_instances_they_name(self) -> None:
        samples = (sample(), sample((DOG, RIGHT_CAT), TURNS[1:2]))
        for seed in range(6):
            batch = chat_of(*samples, seed=seed)
            (turns, _) = chosen_turns(*samples, seed=seed)
            targets = [target for turn in turns for target in turn.targets]
            expected = [[number in (target or ()) for target in targets] for number in range(3)]
            assert batch.targets[0].phrase_map.tolist() == expected
            assert batch.phrase_mask.tolist() == [[target is not None for target in targets], [False] * 4]
            assert batch.targets[1].phrase_map.shape == (2, 0)
            segs = (batch.texts["input_ids"] == training_processor().tokens.ids.seg).sum(1)
            assert segs.tolist() == [4, 0]

    def test_region_prompts_come_in_the_order_of_their_placeholders(self) -> None:
        def asking(*clicks: int) -> Turn:
            words = " and ".join(f"region {x} <region>" for x in clicks)
            return Turn(f"What is {words}?", "Nothing.", (), tuple(VisualPrompt.click(x, 30) for x in clicks))

        processor, asked = training_processor(), (asking(10, 70), asking(40), TURNS[1], asking(60, 20))
        for seed in range(6):
            batch = chat_of(sample(turns=TURNS[1:2]), sample(turns=asked), seed=seed)
            said = processor.tokens.decode(batch.texts["input_ids"][1].tolist())
            order = [int(found) for found in re.findall(r"region (\d+) <region>", said)]
            assert sorted(order) == [10, 20, 40, 60, 70]
            assert batch.prompts.valid.tolist() == [[False] * 5, [True] * 5]
            assert (batch.prompts.boxes_cxcywh_norm[1, :, 0] * SIZE_WH[0]).tolist() == pytest.approx(order, abs=1e-3)

    def test_prompts_of_every_kind_are_encoded(self) -> None:
        stroke = VisualPrompt.scribble([(8, 8), (32, 40)])
        drawn = np.zeros((60, 80), dtype=bool)
        drawn[30:56, 56:76] = True
        turn = Turn("<region> <region>", "Yes.", (), (stroke, VisualPrompt.mask_of(drawn)))
        prompts = chat_of(sample(turns=(turn,)), sample(turns=TURNS[2:3])).prompts
        assert prompts.types.tolist() == [[0, 1], [1, 0]]
        assert prompts.coverage.flatten(2).amax(-1).gt(0).tolist() == [[True, True], [False, False]]
        assert prompts.boxes_cxcywh_norm[1, 0].tolist() == pytest.approx([0.25, 0.3, 0.3, 0.4], abs=1e-6)
        assert prompts.boxes_cxcywh_norm[1, 1].tolist() == pytest.approx([0.75, 0.625, 0.006, 0.006], abs=1e-6)

    def test_dialogues_without_prompts_or_phrases_are_fine(self) -> None:
        batch = chat_of(sample(turns=TURNS[1:2]), sample(turns=TURNS[4:]))
        assert batch.prompts is None
        assert batch.phrase_mask.shape == (2, 0)

    def test_the_class_batch_is_of_the_same_images(self) -> None:
        batch = chat_of(sample(), sample((DOG,), TURNS[1:2]))
        assert torch.equal(batch.classes.images["grounder_pixel_values"], batch.images["grounder_pixel_values"])
        assert torch.equal(batch.classes.targets[0].boxes_cxcywh_norm, batch.targets[0].boxes_cxcywh_norm)

    def test_a_sample_without_turns_is_refused_by_name(self) -> None:
        with pytest.raises(DataError) as caught:
            chat_of(sample(), replace(sample(turns=()), id="mute"))
        assert str(caught.value) == "sample `mute` has no turns, so there is no dialogue to learn from"

    def test_the_same_seed_give_the_same_batch(self) -> None:
        first, second, other = (chat_of(sample(), max_turns=2, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.texts["input_ids"], second.texts["input_ids"])
        assert first.texts["input_ids"].tolist() != other.texts["input_ids"].tolist()


@pytest.mark.parametrize("stage", ["chat", "pretrain_grounder"])
def test_a_batch_moves_to_another_device_whole(stage: str, tmp_path: Path) -> None:
    batch = training_setup(tmp_path, stage=stage).stream().batch(0).batch
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch)
    for field in fields(moved):
        assert devices(getattr(moved, field.name)) <= {"meta"}, field.name


def devices(value: object) -> set[str]:
    if isinstance(value, Tensor):
        return {value.device.type}
    if isinstance(value, dict | list | tuple):
        return {kind for part in (value.values() if isinstance(value, dict) else value) for kind in devices(part)}
    if hasattr(value, "__dataclass_fields__"):
        return {kind for field in fields(value) for kind in devices(getattr(value, field.name))}  # type: ignore[arg-type]
    return set()
