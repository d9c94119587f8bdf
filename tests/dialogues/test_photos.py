"""Dialogue turns made from photo labels."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava_grounding.data.grounded_captions import ground_caption, tidy_caption
from llava_grounding.data.readers.coco import PhotoPack
from llava_grounding.data.record import Annotation, AnnotationKind, Record
from llava_grounding.data.sample import Turn
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.language.nouns import plural, spoken_name
from llava_grounding.markup import parse_strict, strip_markup


@pytest.fixture(scope="module")
def records(mini_pack_root: Path) -> dict[str, Record]:
    return {record.id: record for record in PhotoPack(mini_pack_root).split("val")}


def turns_of(record: Record, kind: str, seeds: int = 60) -> list[Turn]:
    """Turns of one kind over several seeds, those with markup unless the kind has none."""
    samples = [photo_sample(record, np.random.default_rng(seed)) for seed in range(seeds)]
    found = [turn for sample in samples for turn in sample.turns if turn.kind == kind]
    return found if kind == "describe_plain" else [turn for turn in found if turn.grounded]


def thing(category: str, *box: float, kind: AnnotationKind = "thing") -> Annotation:
    x0, y0, x1, y1 = box
    return Annotation(category, (x0, y0, x1, y1), None, kind)


DOGS = [thing("dog", 0, 0, 10, 10), thing("dog", 20, 0, 30, 10), thing("person", 40, 0, 50, 30)]


@pytest.mark.parametrize(
    ("caption", "raw", "targets"),
    [
        ("two dogs and a man", "<g_s> Two dogs <g_e> <seg> and <g_s> a man <g_e> <seg>.", ((0, 1), (2,))),
        ("Three dogs.", "<g_s> Three dogs <g_e> <seg>.", (None,)),
        ("Dogs run .", "<g_s> Dogs <g_e> <seg> run.", ((0, 1),)),
        ("A dog runs", "<g_s> A dog <g_e> <seg> runs.", (None,)),
        ("A man and a woman", "<g_s> A man <g_e> <seg> and <g_s> a woman <g_e> <seg>.", (None, None)),
        ("A cat on a hot dog", "A cat on a hot dog.", ()),
        ("A group of puppies", "<g_s> A group of puppies <g_e> <seg>.", ((0, 1),)),
    ],
)
def test_caption_phrases_get_the_instances_they_name(
    caption: str, raw: str, targets: tuple[tuple[int, ...] | None, ...]
) -> None:
    assert ground_caption(caption, DOGS) == (raw, targets)


@pytest.mark.parametrize(
    ("caption", "there", "targets"),
    [
        ("A dog runs as the dog barks.", DOGS[1:], ((0,), (0,))),
        ("A dog runs as a dog barks.", DOGS[1:], (None, None)),
        ("The left dog sleeps.", DOGS, ((0,),)),
        ("The dog on the right sleeps.", DOGS, (None,)),
        ("Dogs run.", DOGS[1:], (None,)),
    ],
)
def test_second_mentions_sides_and_plurals_are_read_as_annotate_reads_them(
    caption: str, there: list[Annotation], targets: tuple[tuple[int, ...] | None, ...]
) -> None:
    assert ground_caption(caption, there, image_size_wh=(60, 40))[1] == targets


def test_a_singular_means_the_one_that_dominates() -> None:
    large = [thing("dog", 0, 0, 30, 30), thing("dog", 40, 0, 50, 10)]
    assert ground_caption("The dog sleeps.", large)[1] == ((0,),)


def test_a_word_for_two_present_categories_stays_open() -> None:
    both = [thing("bicycle", 0, 0, 9, 9), thing("motorcycle", 20, 0, 29, 9)]
    assert ground_caption("A bike.", both)[1] == (None,)
    assert ground_caption("A bike.", both[1:])[1] == ((0,),)


def test_captions_become_sentences() -> None:
    assert tidy_caption(" a dog  runs . ") == "A dog runs."
    assert tidy_caption("Really?") == "Really?"
    assert tidy_caption("<g_s> a dog <g_e> <seg>") == "A dog."


def test_the_sample_is_the_same_for_the_same_seed(records: dict[str, Record]) -> None:
    record = records["yard/dogs.jpg"]
    first, second = (photo_sample(record, np.random.default_rng(5)) for _ in range(2))
    assert first == second
    others = [photo_sample(record, np.random.default_rng(seed)).turns for seed in range(4)]
    assert any(turns != first.turns for turns in others)


def test_every_grounded_answer_parses_and_its_targets_fit(records: dict[str, Record]) -> None:
    for record in records.values():
        for seed in range(10):
            sample = photo_sample(record, np.random.default_rng(seed))
            for turn in sample.turns:
                assert turn.kind
                assert len(parse_strict(turn.answer).phrases) == len(turn.targets)
                for prompt in turn.prompts:
                    prompt.validate(sample.image_size_wh)


def test_labels_without_captions_are_listed(records: dict[str, Record]) -> None:
    assert {t.answer for t in turns_of(records["yard/cat.jpg"], "describe")} == {"There is <g_s> a cat <g_e> <seg>."}
    street = turns_of(records["street/cars.jpg"], "describe")[0]
    assert street.answer == "There is <g_s> the sky <g_e> <seg> and <g_s> cars <g_e> <seg>."


def test_a_caption_is_the_description_and_labels_are_a_list(records: dict[str, Record]) -> None:
    record = records["yard/dogs.jpg"]
    described = turns_of(record, "describe")
    assert {t.answer for t in described} == {"<g_s> Two dogs <g_e> <seg> next to <g_s> a man <g_e> <seg>."}
    assert described[0].targets == ((0, 1), (2,))
    assert turns_of(record, "list")[0].targets == ((0, 1), (2,))
    plain = turns_of(record, "describe_plain")
    assert {t.answer for t in plain} == {"Two dogs next to a man.", "A photo of the yard."}
    assert not any(t.grounded for t in plain)


def test_what_a_caption_leaves_out_is_listed_behind_it(records: dict[str, Record]) -> None:
    def described(*captions: str) -> tuple[str, object]:
        (turn,) = turns_of(replace(records["yard/dogs.jpg"], captions=captions), "describe")[:1]
        return turn.answer, turn.targets

    answer, targets = described("A man in the sun.")
    assert answer == "<g_s> A man <g_e> <seg> in the sun. There are <g_s> two dogs <g_e> <seg>."
    assert targets == ((2,), (0, 1))
    answer, targets = described("A dog runs to a man.")
    assert answer.endswith(". There are <g_s> two dogs <g_e> <seg>.")
    assert targets == ((1,), (2,), (0, 1))  # the one is the larger of two
    answer, targets = described("What a day.")
    assert answer == "What a day. There are <g_s> two dogs <g_e> <seg> and <g_s> a person <g_e> <seg>."
    assert targets == ((0, 1), (2,))


def test_counts_are_asked_only_where_labels_are_complete(records: dict[str, Record]) -> None:
    record = records["yard/dogs.jpg"]
    answers = {t.answer for t in turns_of(record, "count")}
    assert answers == {"There are <g_s> two dogs <g_e> <seg>.", "There is <g_s> one person <g_e> <seg>."}
    assert turns_of(replace(record, exhaustive=frozenset()), "count") == []
    assert turns_of(records["street/cars.jpg"], "count") == []


def test_absence_is_claimed_only_of_exhaustive_classes(records: dict[str, Record]) -> None:
    record = records["yard/dogs.jpg"]
    only_dogs = turns_of(replace(record, exhaustive=frozenset({"dog"})), "absent")
    assert not any(turn.answer.startswith("No") for turn in only_dogs)
    answers = {turn.answer for turn in turns_of(record, "absent")}
    assert {a for a in answers if a.startswith("Yes")} == {
        "Yes, there are <g_s> two dogs <g_e> <seg>.",
        "Yes, there is <g_s> a person <g_e> <seg>.",
    }
    denied = answers & {f"No, there is no {name} in the picture." for name in ("bicycle", "car", "cat", "hot dog")}
    assert len(denied) == 4
    assert not answers & {f"No, there is no {name} in the picture." for name in ("dog", "person")}


def test_find_phrases_mean_exactly_their_targets(records: dict[str, Record]) -> None:
    turns = turns_of(records["yard/dogs.jpg"], "find")
    assert {t.answer for t in turns} == {f"<g_s> {parse_strict(t.answer).phrases[0].text} <g_e> <seg>." for t in turns}
    said = {parse_strict(t.answer).phrases[0].text: t.targets[0] for t in turns}
    assert said == {
        "The dog on the left": (0,),
        "The dog on the right": (1,),
        "The dog at the bottom": (0,),
        "The dog at the top": (1,),
        "The smallest dog": (0,),
        "The largest dog": (1,),
        "The person": (2,),
        "The dogs": (0, 1),
    }


def test_places_and_sides_are_true(records: dict[str, Record]) -> None:
    answers = {parse_strict(t.answer).text for t in turns_of(records["yard/dogs.jpg"], "where")}
    assert answers == {
        "The smallest dog is in the bottom left, to the left of the person.",
        "The largest dog is on the right, to the right of the person.",
        "The person is in the middle, to the right of the smallest dog.",
    }


def test_regions_point_at_the_thing_they_ask_about(records: dict[str, Record]) -> None:
    record = records["yard/dogs.jpg"]
    turns = turns_of(record, "region")
    assert {t.prompts[0].kind for t in turns} == {"box", "click", "scribble", "mask"}
    for turn in turns:
        (target,) = turn.targets
        assert target is not None
        mask = record.load_mask(target[0])
        assert mask is not None
        prompt = turn.prompts[0]
        if prompt.points_xy is not None:
            columns, rows = np.floor(prompt.points_xy).astype(int).T
            assert mask[rows, columns].all()
        assert record.instances[target[0]].category in turn.answer
    assert {t.prompts[0].kind for t in turns_of(records["yard/cat.jpg"], "region")} == {"box"}


def test_statements_become_yes_no_questions(records: dict[str, Record]) -> None:
    (no,) = {t.answer for t in turns_of(records["yard/dogs.jpg"], "relation")}
    assert no == "No, that is not true."
    yes = turns_of(records["yard/cat.jpg"], "relation")[0]
    assert yes.answer == "Yes, <g_s> the cat <g_e> <seg> is alone."
    assert yes.targets == ((0,),)
    assert "the cat is alone" in yes.question


def test_short_answers_are_sometimes_plain_whether_yes_or_no(records: dict[str, Record]) -> None:
    samples = [photo_sample(records["yard/dogs.jpg"], np.random.default_rng(seed)) for seed in range(60)]
    answers = [turn for sample in samples for turn in sample.turns if turn.kind == "absent"]
    for start in ("Yes", "No"):
        share = np.mean([turn.grounded for turn in answers if turn.answer.startswith(start)])
        assert 0.5 < share < 0.95
    assert all(turn.targets == () for turn in answers if not turn.grounded)


def test_a_photo_without_labels_whose_caption_names_nothing_known_is_described_plainly(
    records: dict[str, Record],
) -> None:
    record = replace(records["words/only.jpg"], captions=("a quietness reigns",))
    sample = photo_sample(record, np.random.default_rng(0))
    assert [(t.kind, t.grounded, t.answer) for t in sample.turns] == [("describe_plain", False, "A quietness reigns.")]
    assert sample.masks.shape == (0, 60, 80)


def test_of_a_photo_without_labels_phrases_are_marked_with_no_match_known(records: dict[str, Record]) -> None:
    record = replace(records["words/only.jpg"], captions=("Two dogs chase a red ball",))
    (grounded,) = [turn for turn in photo_sample(record, np.random.default_rng(0)).turns if turn.grounded]
    assert grounded.kind == "describe"
    assert grounded.answer.startswith("<g_s> Two dogs <g_e> <seg> chase")
    assert set(grounded.targets) == {None}


def test_crowds_are_dropped(records: dict[str, Record]) -> None:
    record = records["yard/dogs.jpg"]
    crowd = replace(record.instances[0], kind="crowd")
    sample = photo_sample(replace(record, instances=(crowd, *record.instances[1:])), np.random.default_rng(0))
    assert [i.category for i in sample.instances] == ["dog", "person"]


@pytest.mark.pack
def test_captions_of_the_real_pack_mostly_find_their_instances(photo_pack_root: Path) -> None:
    located = total = 0
    for record in PhotoPack(photo_pack_root).split("val"):
        for caption in record.captions if record.instances else ():
            _, targets = ground_caption(caption, record.instances)
            located += sum(target is not None for target in targets)
            total += len(targets)
    assert total > 1000
    assert located / total > 0.6


def test_who_denies_a_thing_gets_a_description_without_it_and_with_everything_else(
    records: dict[str, Record],
) -> None:
    seen = set()
    for record in records.values():
        names = {annotation.category for annotation in record.instances}
        for turn in turns_of(record, "corrected", 20):
            denied = re.match(r"There (?:is|are) no (.*?)\. ", turn.question)
            assert denied
            spoken = {words for name in names for words in (spoken_name(name), plural(spoken_name(name)))}
            seen.add(denied[1] in spoken)
            assert not re.search(rf"\b{denied[1]}\b", strip_markup(turn.answer))
            assert turn.targets
    assert seen == {True, False}
