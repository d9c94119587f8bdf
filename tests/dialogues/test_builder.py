"""Records become dialogues: what is said is true of the labels, whatever is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hand_record import BARE, GRASS, LEFT_CUP, MAN, RECORD, RIGHT_CUP, thing
from llava_grounding.data.record import Record, RecordedTurn
from llava_grounding.data.sample import Sample, Turn, mirror_sample
from llava_grounding.dialogues.builder import build_sample, may_be_mirrored
from llava_grounding.dialogues.settings import DIALOGUE_KINDS, DialogueSettings, PromptSettings
from llava_grounding.dialogues.templates import FAMILIES
from llava_grounding.dialogues.turns import MAKERS, possible_kinds
from llava_grounding.errors import ConfigError
from llava_grounding.language.nouns import spoken_name
from llava_grounding.markup import parse_strict
from llava_grounding.processing.conversation import referring_turn

ROW = {MAN: 0, LEFT_CUP: 1, RIGHT_CUP: 2, GRASS: 3}
ALL = DialogueSettings(**dict.fromkeys(DIALOGUE_KINDS, 1.0), max_kinds=3)  # type: ignore[arg-type]


def only(kind: str, **settings: object) -> DialogueSettings:
    return DialogueSettings(**dict.fromkeys(DIALOGUE_KINDS, 0.0) | {kind: 1.0} | settings)  # type: ignore[arg-type]


def samples(talk: DialogueSettings, record: Record = RECORD, seeds: int = 60) -> list[Sample]:
    return [build_sample(record, np.random.default_rng(seed), talk) for seed in range(seeds)]


def turns(talk: DialogueSettings, record: Record = RECORD) -> list[Turn]:
    return [turn for sample in samples(talk, record) for turn in sample.turns]


def answers(talk: DialogueSettings, record: Record = RECORD) -> dict[str, Turn]:
    return {turn.answer: turn for turn in turns(talk, record)}


def test_every_kind_has_a_weight_and_a_maker() -> None:
    assert MAKERS.keys() == set(DIALOGUE_KINDS)
    assert set(possible_kinds(RECORD, ALL)) == set(DIALOGUE_KINDS)
    assert possible_kinds(BARE, ALL) == ()
    assert possible_kinds(RECORD, only("referring")) == ("referring",)


def test_the_same_generator_gives_the_same_sample_and_another_another() -> None:
    talk = replace(ALL, mirror=0.5)
    assert samples(talk, seeds=8) == samples(talk, seeds=8)
    assert len({sample.turns for sample in samples(talk, seeds=8) if not sample.turns[0].prompts}) > 1


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_whatever_is_drawn_targets_are_rows_markup_parses_and_prompts_fit(mirror: float) -> None:
    for sample in samples(replace(ALL, mirror=mirror), seeds=150):
        made_up = [turn for turn in sample.turns if turn.kind not in ("dialogue", "followup")]
        assert sample.turns
        assert len(made_up) <= ALL.max_turns
        for turn in sample.turns:
            phrases = parse_strict(turn.answer).phrases
            assert len(phrases) == len(turn.targets)
            assert turn.grounded or not phrases
            for target in turn.targets:
                assert target is None or all(0 <= row < len(sample.instances) for row in target)
            for prompt in turn.prompts:
                prompt.validate(sample.image_size_wh)


def test_crowds_are_nobody_s_target_and_make_nothing_exhaustive() -> None:
    for sample in samples(ALL):
        assert [thing.category for thing in sample.instances] == ["person", "cup", "cup", "grass-merged"]
        assert sample.exhaustive == {"cup", "grass-merged", "zebra", "skis"}


def test_a_caption_is_plain_and_tidy() -> None:
    said = answers(only("captions"))
    assert said.keys() == {"A man with two cups.", "Somebody is out on the lawn."}
    assert not any(turn.grounded or turn.targets for turn in said.values())


def test_a_grounded_caption_keeps_phrases_without_a_match() -> None:
    (said,) = answers(only("grounded_captions")).values()
    assert said.answer == RECORD.grounded_captions[0].text
    assert said.targets == ((0,), None, (1, 2), None)
    assert said.grounded


@pytest.mark.parametrize(("share", "longest"), [(0.0, 0), (1.0, 1)])
def test_grounding_is_asked_for_in_words_as_often_as_wanted(share: float, longest: int) -> None:
    talk = only("grounded_captions", suffix_share=share)
    suffixes = FAMILIES["grounding suffixes"]
    assert {sum(turn.question.endswith(suffix) for suffix in suffixes) for turn in turns(talk)} == {longest}


def test_expressions_are_asked_for_in_lower_case_and_said_as_the_engine_has_them_said() -> None:
    said = answers(only("referring"))
    assert {answer: turn.targets for answer, turn in said.items()} == {
        "<g_s> Left cup <g_e> <seg>.": ((1,),),
        "<g_s> The cup on the right <g_e> <seg>.": ((2,),),
        "<g_s> Both cups <g_e> <seg>.": ((1, 2),),
        "There is nothing like that in the image.": (),
    }
    assert said["<g_s> Left cup <g_e> <seg>."].answer == referring_turn("left cup")[1].text
    assert any("left cup" in turn.question for turn in turns(only("referring")))


def test_one_to_four_expressions_are_asked_for_in_a_row() -> None:
    counts = {len(sample.turns) for sample in samples(only("referring"))}
    assert counts == {1, 2, 3, 4}
    assert {len(sample.turns) for sample in samples(only("referring", max_turns=2))} == {1, 2}


def test_without_expressions_complete_categories_are_asked_for() -> None:
    said = answers(only("referring"), replace(RECORD, expressions=()))
    assert {answer: turn.targets for answer, turn in said.items()} == {
        "<g_s> The cups <g_e> <seg>.": ((1, 2),),
        "<g_s> The grass <g_e> <seg>.": ((3,),),
    }
    unknown = replace(RECORD, expressions=(), exhaustive=frozenset())
    assert possible_kinds(unknown, only("referring")) == ()
    assert build_sample(unknown, np.random.default_rng(0), only("referring")).turns == ()


def test_only_what_is_certainly_not_there_is_said_to_be_absent() -> None:
    assert answers(only("absent")).keys() == {"There is no zebra in the picture.", "There are no skis in the picture."}
    assert possible_kinds(replace(RECORD, exhaustive=frozenset({"cup"})), only("absent")) == ()


def test_categories_are_listed_with_all_of_their_things_largest_first() -> None:
    (said,) = answers(only("categories")).values()
    assert said.answer == "There is <g_s> the grass <g_e> <seg> and <g_s> two cups <g_e> <seg>."
    assert said.targets == ((3,), (1, 2))
    (short,) = answers(only("categories", max_listed=1)).values()
    assert short.targets == ((3,),)


def test_regions_of_stuff_are_not_counted() -> None:
    trees = tuple(thing("tree-merged", x, 20, 8, kind="stuff") for x in (12, 40))
    record = replace(RECORD, instances=trees, exhaustive=frozenset({"tree-merged"}), expressions=(), dialogues=())
    assert answers(only("categories"), record).keys() == {"There are <g_s> trees <g_e> <seg>."}
    assert answers(only("referring"), record).keys() == {"<g_s> The trees <g_e> <seg>."}
    assert "It is a tree." in answers(only("region_names"), record)
    (one,) = answers(only("categories"), replace(record, instances=trees[:1])).values()
    assert one.answer == "There is <g_s> a tree <g_e> <seg>."


def test_a_region_is_described_by_expressions_that_mean_it_alone() -> None:
    assert answers(only("region_captions")).keys() == {"LEFT cup.", "The cup on the right.", "Cup."}


def test_a_region_is_named_with_or_without_its_mask() -> None:
    said = answers(only("region_names"))
    assert "It is a person." in said
    assert "It is the grass." in said
    assert said["It is <g_s> a cup <g_e> <seg>."].targets in (((1,),), ((2,),))
    assert not any(turn.grounded for turn in turns(only("region_names", grounded_names=0.0)))


@pytest.mark.parametrize("max_turns", [1, 6])
def test_a_recorded_dialogue_keeps_all_its_turns(max_turns: int) -> None:
    talk = tuple(RecordedTurn(f"What is {number}?", "A number.") for number in range(20))
    record = replace(RECORD, dialogues=(talk,))
    for sample in samples(only("dialogues", max_turns=max_turns), record, seeds=3):
        assert [turn.question for turn in sample.turns] == [turn.question for turn in talk]
    for sample in samples(replace(ALL, max_turns=max_turns), record):
        assert sum(turn.question.startswith("What is ") and turn.answer == "A number." for turn in sample.turns) in (
            0,
            20,
        )


def test_a_recorded_dialogue_ends_before_a_region_that_is_a_crowd() -> None:
    for sample in samples(only("dialogues", suffix_share=0.0), seeds=5):
        first, second = sample.turns
        assert (first.question, first.answer, first.kind) == (
            "What does <region> hold near <region>?",
            "A hat.",
            "dialogue",
        )
        assert (second.question, second.targets, second.kind) == ("Who is it?", ((0,),), "followup")


PROMPTS = {
    "click": "clicks",
    "scribble": "scribbles",
    "mask": "masks",
    "box": "boxes",
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_lie_in_the_mask_of_what_they_point_at(kind: str) -> None:
    weights = dict.fromkeys(("clicks", "boxes", "jittered_boxes", "scribbles", "masks"), 0.0)
    talk = only("dialogues", prompts=PromptSettings(**weights | {PROMPTS[kind]: 1.0}))
    for sample in samples(talk, seeds=10):
        for prompt, row in zip(sample.turns[0].prompts, (0, 1), strict=True):
            mask = sample.masks[row]
            assert prompt.kind == kind
            if prompt.points_xy is not None:
                assert all(mask[int(y), int(x)] for x, y in prompt.points_xy)
            elif prompt.mask is not None:
                assert np.array_equal(prompt.mask, mask)
            else:
                assert np.array_equal(prompt.box_xyxy, sample.instances[row].box_xyxy)  # type: ignore[arg-type]


def test_mirroring_twice_gives_the_sample_back_and_words_change_sides() -> None:
    for sample in samples(replace(ALL, suffix_share=0.0), seeds=40):
        assert mirror_sample(mirror_sample(sample)) == sample
    said = answers(only("referring", mirror=1.0))
    assert said["<g_s> Right cup <g_e> <seg>."].targets == ((1,),)


@pytest.mark.parametrize(
    "answer",
    [
        "A sign that says stop.",
        "There is food left over.",
        "It reads east.",
        'He said "yes".',
        "All right.",
        "He has left.",
    ],
)
def test_what_mirroring_would_make_untrue_is_not_mirrored(answer: str) -> None:
    record = replace(RECORD, captions=(answer,))
    assert [turn.answer for turn in turns(only("captions", mirror=1.0), record)] == [answer] * 60
    plain = build_sample(record, np.random.default_rng(0), only("captions"))
    assert np.array_equal(
        build_sample(record, np.random.default_rng(0), only("captions", mirror=1.0)).image, plain.image
    )


def test_no_template_forbids_mirroring() -> None:
    questions = [text for family in FAMILIES.values() for text in family]
    assert may_be_mirrored([Turn(text.replace("<region>", "it"), "Yes.", grounded=False) for text in questions])


class Marker:
    """Remembers what it was to draw."""

    def __call__(
        self, image: np.ndarray, masks: Sequence[np.ndarray | None], boxes: np.ndarray, numbers: Sequence[int]
    ) -> np.ndarray:
        self.masks, self.boxes, self.numbers = masks, boxes, list(numbers)
        return np.zeros_like(image)


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_marks_stand_for_prompts_and_are_drawn_where_the_things_are(mirror: float) -> None:
    orders = set()
    talk = only("dialogues", marks=1.0, mirror=mirror)
    for seed in range(20):
        marker = Marker()
        sample = build_sample(RECORD, np.random.default_rng(seed), talk, marker)
        found = re.fullmatch(r"What does <(\d)> hold near <(\d)>\?", sample.turns[0].question)
        assert found
        assert not sample.turns[0].prompts
        assert not sample.image.any()
        assert marker.numbers == [1, 2, 3, 4]
        for number, row in ((int(found[1]), 0), (int(found[2]), 1)):
            assert np.array_equal(marker.masks[number - 1], sample.masks[row])  # type: ignore[arg-type]
            assert np.array_equal(marker.boxes[number - 1], sample.instances[row].box_xyxy)
        assert sum(mask is None for mask in marker.masks) == 1  # of the right cup only the box is known
        orders.add(found[0])
    assert len(orders) > 1
    with pytest.raises(ConfigError, match="`marks` above 0 needs"):
        build_sample(RECORD, np.random.default_rng(0), talk)


def test_as_many_marks_are_drawn_as_the_dialogue_needs_and_no_more_than_wanted() -> None:
    for most, drawn in ((1, 2), (3, 3), (12, 4)):
        marker = Marker()
        build_sample(RECORD, np.random.default_rng(0), only("dialogues", marks=1.0, max_marks=most), marker)
        assert len(marker.numbers) == len(marker.masks) == len(marker.boxes) == drawn


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("wall-other-merged", "wall"),
        ("alarm_clock", "alarm clock"),
        ("mask_(disguise)", "mask"),
        ("Cabinet/shelf", "cabinet"),
    ],
)
def test_names_are_said_as_people_say_them(category: str, name: str) -> None:
    assert spoken_name(category) == name
