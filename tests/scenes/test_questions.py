"""Dialogues of drawn scenes: whatever an answer says is true of the instances it names."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from llava_grounding.data.sample import Instance, Sample, Turn, mirror_sample
from llava_grounding.dialogues.layout import Layout
from llava_grounding.dialogues.prompts import EXACT_PROMPTS, sample_prompt
from llava_grounding.language.nouns import listed, number_word, parse_number, with_article
from llava_grounding.markup import parse_strict, strip_markup
from llava_grounding.scenes.categories import CATEGORIES, GROUP_PLURALS, category_named
from llava_grounding.scenes.synthetic import QUESTION_KINDS, SceneConfig, draw_scene, scene_phrases

NOUNS = {word: kind.name for kind in CATEGORIES.values() for word in (kind.name, kind.plural)}
NOUN = re.compile(rf"\b({'|'.join(sorted(NOUNS, key=len, reverse=True))})\b")
WIDER = {**{plural: group for group, plural in GROUP_PLURALS.items()}, **{group: group for group in GROUP_PLURALS}}


AXES = {"to the left of": (0, 1), "to the right of": (0, -1), "above": (1, 1), "below": (1, -1)}


@cache
def scenes() -> list[Sample]:
    """Drawn when first asked for, not when tests are gathered."""
    return [draw_scene(seed) for seed in range(1000, 1250)]


def every_turn():
    return [(sample, turn) for sample in scenes() for turn in sample.turns]


def kind_in(phrase: str) -> str | None:
    match = NOUN.search(phrase)
    return NOUNS[match[0]] if match else None


def test_every_answer_is_strict_markup_with_one_target_per_seg():
    for sample, turn in every_turn():
        parsed = parse_strict(turn.answer)
        assert parsed.num_segs == len(turn.targets) == len(parsed.phrases)
        assert all(target and max(target) < len(sample.instances) for target in turn.targets)
        assert "{" not in turn.answer + turn.question
        if not turn.grounded:
            assert parsed.num_segs == 0


def test_answers_are_whole_sentences_with_capitals_and_points():
    for _, turn in every_turn():
        text = strip_markup(turn.answer)
        assert text[0].isupper()
        assert text.endswith(".")
        assert "  " not in text
        assert not re.search(r"\ba (?=[aeio])|\ban (?=[^aeiou])", text), text
        assert turn.question[0].isupper()
        assert turn.question.endswith(("?", "."))


def test_a_phrase_names_the_kind_of_the_things_it_points_at():
    for sample, turn in every_turn():
        for phrase, target in zip(parse_strict(turn.answer).phrases, turn.targets, strict=True):
            categories = {sample.instances[index].category for index in target}
            wider = next((group for word, group in WIDER.items() if re.search(rf"\b{word}\b", phrase.text)), None)
            if re.search(r"\bthings?\b", phrase.text):
                assert len(target) == len(sample.instances)
            elif wider:
                assert {CATEGORIES[category].group for category in categories} == {wider}
            else:
                assert categories == {kind_in(phrase.text)}


def test_a_colour_in_a_phrase_is_that_of_the_things_it_points_at():
    colours = {colour for kind in CATEGORIES.values() for colour in kind.colours}
    for sample, turn in every_turn():
        for phrase, target in zip(parse_strict(turn.answer).phrases, turn.targets, strict=True):
            said = colours & set(phrase.text.lower().split())
            if said:
                assert {sample.instances[index].attributes[0] for index in target} == said


def test_numbers_in_phrases_equal_the_number_of_targets():
    for _, turn in every_turn():
        for phrase, target in zip(parse_strict(turn.answer).phrases, turn.targets, strict=True):
            number = next((n for w in phrase.text.split() if (n := parse_number(w)) is not None), None)
            if number is not None:
                assert number == len(target)
            elif phrase.text.lower().startswith(("a ", "an ")):
                assert len(target) == 1


def test_a_description_names_every_thing_once_and_from_left_to_right():
    for sample in scenes():
        turn = next(turn for turn in sample.turns if turn.kind == "describe")
        first_sentence = turn.answer.split(". ")[0].count("<seg>")
        named = [index for target in turn.targets[:first_sentence] for index in target]
        assert sorted(named) == list(range(len(sample.instances)))
        centres = [np.mean([sample.instances[i].box_xyxy[[0, 2]].mean() for i in target]) for target in turn.targets]
        assert centres[:first_sentence] == sorted(centres[:first_sentence])


def test_counts_equal_the_truth_for_kinds():
    for sample, turn in every_turn():
        if turn.kind != "count":
            continue
        asked = kind_in(turn.question)
        if asked is None:
            continue
        matching = [i for i in sample.instances if i.category == asked]
        colour = next((c for c in CATEGORIES[asked].colours if re.search(rf"\b{c}\b", turn.question)), None)
        if colour:
            matching = [i for i in matching if i.attributes == (colour,)]
        said = number_word(len(matching)) if matching else "no"
        assert said in strip_markup(turn.answer).lower().split(), (turn, matching)


def test_yes_and_no_are_true():
    verdicts = Counter()
    for sample, turn in every_turn():
        if turn.kind != "absent":
            continue
        asked = kind_in(turn.question)
        if asked is None:
            group = next(group for word, group in WIDER.items() if word in turn.question)
            there = any(CATEGORIES[i.category].group == group for i in sample.instances)
        else:
            colour = next((c for c in CATEGORIES[asked].colours if re.search(rf"\b{c}\b", turn.question)), None)
            there = any(i.category == asked and colour in (None, *i.attributes) for i in sample.instances)
        assert turn.answer.startswith("Yes" if there else "No"), turn
        verdicts[there] += 1
    share = verdicts[True] / verdicts.total()
    assert 0.35 < share < 0.65


def test_left_and_right_above_and_below_are_true():
    seen = Counter()
    for sample, turn in every_turn():
        for relation in ("to the left of", "to the right of", "above", "below"):
            match = re.search(rf"<g_e> <seg> (?:is )?(?:[a-z ]+, )?{relation} <g_s>", turn.answer)
            if not match:
                continue
            k = turn.answer[: match.start()].count("<seg>")
            (first,), (second,) = turn.targets[k], turn.targets[k + 1]
            a, b = sample.instances[first].box_xyxy, sample.instances[second].box_xyxy
            axis, sign = AXES[relation]
            assert sign * ((b[axis] + b[axis + 2]) - (a[axis] + a[axis + 2])) >= 0
            seen[relation] += 1
    assert min(seen.values()) > 50


def test_places_are_those_of_the_box_centres():
    for sample, turn in every_turn():
        match = re.match(r"<g_s> [^<]* <g_e> <seg> is (in|on|at) the (.*?)[.,]", turn.answer)
        if turn.kind != "where" or not match:
            continue
        x0, y0, x1, y1 = sample.instances[turn.targets[0][0]].box_xyxy
        x, y = (x0 + x1) / 2 / sample.image_size_wh[0], (y0 + y1) / 2 / sample.image_size_wh[1]
        words = match[2].split()
        assert ("left" in words) == (x < 1 / 3)
        assert ("right" in words) == (x >= 2 / 3)
        assert ("top" in words) == (y < 1 / 3)
        assert ("bottom" in words) == (y >= 2 / 3)


def test_bigger_and_smaller_are_true():
    seen = 0
    for sample, turn in every_turn():
        match = re.search(r"is (bigger|smaller) than", turn.answer)
        if match:
            areas = [sample.masks[target[0]].sum() for target in turn.targets]
            assert (areas[0] > areas[1]) == (match[1] == "bigger")
            seen += 1
    assert seen > 50


def test_region_prompts_lie_inside_the_things_they_point_at():
    kinds = Counter()
    for sample, turn in every_turn():
        for number, prompt in enumerate(turn.prompts):
            prompt.validate(sample.image_size_wh)
            kinds[prompt.kind] += 1
            inside = []
            for mask, instance in zip(sample.masks, sample.instances, strict=True):
                if prompt.kind == "box":
                    inside.append(np.array_equal(prompt.box_xyxy, instance.box_xyxy))
                elif prompt.kind == "mask":
                    inside.append(np.array_equal(prompt.mask, mask))
                else:
                    inside.append(all(mask[int(y), int(x)] for x, y in prompt.points_xy))
            assert sum(inside) >= 1
            if turn.answer.startswith(("It is", "They are")) and turn.grounded:
                assert inside[turn.targets[number][0]]
    assert set(kinds) == {"click", "box", "scribble", "mask"}


def test_a_follow_up_comes_right_after_what_it_refers_to():
    for sample in scenes():
        for before, turn in zip(sample.turns, sample.turns[1:], strict=False):
            if turn.kind != "followup":
                continue
            assert before.kind in ("find", "where", "region")
            subject = before.targets[0]
            assert subject in turn.targets
        assert sample.turns[0].kind != "followup"


def test_who_denies_a_thing_gets_a_description_without_it_and_with_everything_else():
    seen = Counter()
    for sample, turn in every_turn():
        if turn.kind != "corrected":
            continue
        denied = re.match(r"There (is|are) no (.*?)\. ", turn.question)
        assert denied
        named = {index for rows in turn.targets for index in rows}
        left_out = set(range(len(sample.instances))) - named
        kind = kind_in(denied[2])
        assert {sample.instances[index].category for index in left_out} <= {kind}
        seen["there" if left_out else "absent"] += 1
        if left_out:
            assert len(left_out) == 1 if denied[1] == "is" else len(left_out) > 1
            assert not re.search(rf"\b{denied[2]}\b", strip_markup(turn.answer))
        else:
            assert all(instance.category != kind for instance in sample.instances)
    assert min(seen["there"], seen["absent"]) > 10


def test_denials_leave_every_other_question_and_prompt_as_it_is():
    others = SceneConfig(questions=tuple(kind for kind in QUESTION_KINDS if kind != "corrected"))
    for sample in scenes()[:20]:
        without = draw_scene(int(sample.id.rpartition("-")[2]), others)
        assert tuple(turn for turn in sample.turns if turn.kind != "corrected") == without.turns


def test_all_kinds_of_questions_occur_grounded_and_plain():
    kinds = Counter(turn.kind for _, turn in every_turn())
    assert set(kinds) == set(QUESTION_KINDS)
    plain = {turn.kind for _, turn in every_turn() if not turn.grounded}
    assert plain >= {"describe_plain", "count", "colour", "where", "region", "absent"}


def test_referring_phrases_fit_their_targets_and_nothing_else():
    for sample in scenes():
        phrases = scene_phrases(sample)
        assert len({words for words, _ in phrases}) == len(phrases)
        for words, indices in phrases:
            name = kind_in(words)
            group = next((g for word, g in WIDER.items() if words == word), None)
            fits = [
                index
                for index, instance in enumerate(sample.instances)
                if (CATEGORIES[instance.category].group == group if group else instance.category == name)
                and all(c in words.split() for c in instance.attributes if _tells_colour(words))
            ]
            assert set(indices) <= set(fits)
            if not re.search(r"left|right|top|bottom|largest|smallest", words):
                assert set(indices) == set(fits)


def _tells_colour(words: str) -> bool:
    return bool({colour for kind in CATEGORIES.values() for colour in kind.colours} & set(words.split()))


def test_places_in_referring_phrases_are_extremes():
    seen = 0
    for sample in scenes():
        for words, (index, *_) in scene_phrases(sample):
            if words.endswith("on the left"):
                head = words.removeprefix("the ").removesuffix(" on the left")
                rivals = [
                    i.box_xyxy[[0, 2]].sum()
                    for i in sample.instances
                    if i.category == kind_in(head) and (not _tells_colour(head) or i.attributes[0] in head.split())
                ]
                assert sample.instances[index].box_xyxy[[0, 2]].sum() == min(rivals)
                seen += 1
    assert seen > 30


def test_mirrored_answers_stay_true_on_the_left_and_right():
    for sample in scenes()[:150]:
        mirrored = mirror_sample(sample)
        for turn in mirrored.turns:
            match = re.match(r"<g_s> [^<]* <g_e> <seg> is to the (left|right) of <g_s>", turn.answer)
            if match:
                first, second = (mirrored.instances[target[0]].box_xyxy for target in turn.targets[:2])
                assert (first[[0, 2]].sum() <= second[[0, 2]].sum()) == (match[1] == "left")


def test_standing_on_and_being_in_front_come_before_left_and_right():
    boxes = [(10, 40, 90, 90), (30, 20, 50, 45), (0, 50, 40, 99)]
    names = ["table", "cup", "dog"]
    instances = [Instance(n, np.array(b, float), True) for n, b in zip(names, boxes, strict=True)]
    layout = Layout.of_instances(
        instances, [100.0, 20.0, 50.0], (100, 100), category_named, stands_on={1: 0}, in_front=[(2, 0)]
    )
    table, cup, dog = layout.things
    assert layout.relation(cup, table) == "on"
    assert layout.relation(table, cup) == "under"
    assert layout.relation(dog, table) == "in front of"
    assert layout.relation(table, dog) == "behind"
    assert layout.relation(dog, cup) == "below"
    assert layout.nearest(cup) is table


def test_two_things_too_close_to_tell_apart_have_no_name_of_their_own():
    instances = [Instance("apple", np.array([x, 50, x + 10, 60.0]), True, ("red",)) for x in (40, 45)]
    layout = Layout.of_instances(instances, [50.0, 50.0], (100, 100), category_named)
    assert layout.name(layout.things[0]) is None
    assert [(r.words, r.indices) for r in layout.plural_references()] == [
        ("apples", (0, 1)),
        ("red apples", (0, 1)),
        ("fruits", (0, 1)),
    ]


@pytest.mark.parametrize(("items", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_lists_are_joined_as_in_english(items, text):
    assert listed(items) == text


def test_articles_follow_the_sound():
    assert with_article("orange car") == "an orange car"
    assert with_article("red apple") == "a red apple"


def test_a_prompt_on_a_single_pixel_still_points_at_it():
    mask = np.zeros((5, 5), bool)
    mask[3, 2] = True
    for seed in range(30):
        prompt = sample_prompt(mask, np.array([2.0, 3, 3, 4]), np.random.default_rng(seed), EXACT_PROMPTS)
        prompt.validate((5, 5))
        assert isinstance(Turn("What is <region>?", "A dot.", (), (prompt,), False), Turn)
