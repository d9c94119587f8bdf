"""The drawn world: determinism, exact masks and boxes, mirroring, configuration."""

import random
from functools import cache

import numpy as np
import pytest

from llava_grounding.colours import COLOURS
from llava_grounding.data.sample import Sample, Turn, mirror_sample, swap_left_right
from llava_grounding.errors import ConfigError, DataError
from llava_grounding.masks import mask_to_box
from llava_grounding.scenes.categories import CATEGORIES, category_named, confusable
from llava_grounding.scenes.pen import vary_colour
from llava_grounding.scenes.sprites import EMOJI, drawn_sprite, emoji_sprite, num_variants, posed
from llava_grounding.scenes.synthetic import QUESTION_KINDS, SceneConfig, draw_scene, scene_phrases

COCO_CATEGORIES = {
    "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "stop sign",
    "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack",
    "umbrella", "suitcase", "kite", "bottle", "cup", "bowl", "banana", "apple", "carrot", "pizza", "donut", "cake",
    "chair", "bed", "laptop", "book", "clock", "vase", "scissors",
}  # fmt: skip


@cache
def scenes() -> list[Sample]:
    """Drawn when first asked for, not when tests are gathered."""
    return [draw_scene(seed) for seed in range(200)]


def test_there_are_enough_kinds_and_most_coco_names_among_them():
    assert len(CATEGORIES) >= 100
    assert len(COCO_CATEGORIES & set(CATEGORIES)) >= 40
    assert set(EMOJI) <= set(CATEGORIES)


@pytest.mark.parametrize("name", CATEGORIES)
def test_every_kind_draws_something_in_each_of_its_colours(name):
    kind = CATEGORIES[name]
    assert set(kind.colours) <= set(COLOURS)
    for colour in kind.colours or (None,):
        sprite = drawn_sprite(name, colour, num_variants(name) - 1)
        alpha = np.asarray(sprite)[..., 3]
        assert max(sprite.size) > 60
        assert (alpha >= 128).mean() > 0.12


@pytest.mark.parametrize("name", ["car", "apple", "star", "ball", "heart", "fish", "book", "cup"])
@pytest.mark.parametrize("colour", ["red", "blue", "yellow"])
def test_a_named_colour_is_what_most_of_the_drawing_shows(name, colour):
    if colour not in CATEGORIES[name].colours:
        pytest.skip("never drawn so")
    pixels = [np.asarray(drawn_sprite(name, colour, k)).reshape(-1, 4) for k in range(num_variants(name))]
    mean = np.concatenate([p[p[:, 3] > 200] for p in pixels])[:, :3].mean(axis=0)
    gaps = {other: np.abs(mean - np.array(COLOURS[other])).sum() for other in ("red", "green", "blue", "yellow")}
    assert min(gaps, key=gaps.get) == colour


def test_shades_of_different_colour_names_do_not_meet():
    rng = random.Random(0)
    shades = {name: np.array([vary_colour(name, rng) for _ in range(60)]) for name in COLOURS}
    for first in COLOURS:
        for second in COLOURS:
            if first < second:
                gaps = np.abs(shades[first][:, None].astype(int) - shades[second][None]).sum(axis=2)
                assert gaps.min() > 25, (first, second)


def test_the_same_seed_gives_the_same_scene_whatever_was_drawn_before():
    for seed in (0, 7, 123456789):
        first = draw_scene(seed)
        draw_scene(seed + 1)
        assert draw_scene(seed) == first
    assert draw_scene(0) != draw_scene(1)


def test_masks_are_disjoint_and_boxes_tight_around_them():
    for sample in scenes():
        assert sample.masks.sum(axis=0).max() <= 1
        for instance, mask in zip(sample.instances, sample.masks, strict=True):
            assert instance.has_mask
            assert np.array_equal(mask_to_box(mask), instance.box_xyxy)


def test_a_mask_is_where_the_thing_covers_more_than_half_of_the_background():
    def scene(seed: int, level: int) -> Sample:
        photo = np.full((50, 50, 3), level, np.uint8)
        return draw_scene(seed, SceneConfig(photos=[photo], photo_share=1.0, num_objects=(1, 1), questions=()))

    for seed in range(60):
        dark, bright = scene(seed, 20), scene(seed, 220)
        cover = 1 - (bright.image.astype(float) - dark.image).mean(axis=2) / 200
        certain = np.abs(cover - 0.5) > 0.01
        assert np.array_equal(bright.masks, dark.masks)
        assert np.array_equal(dark.masks[0][certain], (cover > 0.5)[certain])


def test_a_thing_drawn_later_takes_the_pixels_of_those_it_covers():
    inks = {"box": (220, 0, 220), "slab": (0, 220, 220), "tile": (220, 220, 0)}
    cutouts = [(name, np.full((30, 40, 4), (*ink, 255), np.uint8)) for name, ink in inks.items()]
    config = SceneConfig(cutouts=cutouts, cutout_share=1.0, num_objects=(5, 6), object_scale=(0.4, 0.5), questions=())
    covered = 0
    for seed in range(40):
        sample = draw_scene(seed, config)
        for instance, mask in zip(sample.instances, sample.masks, strict=True):
            shown = sample.image[mask].astype(int)
            near = np.abs(shown - inks[instance.category]).sum(axis=1) < 90
            assert near.mean() > 0.97
            x0, y0, x1, y1 = instance.box_xyxy
            covered += mask.sum() < 0.85 * (x1 - x0) * (y1 - y0)
    assert covered > 15


def test_every_thing_keeps_the_promised_part_visible():
    crowded = SceneConfig(num_objects=(6, 6), short_side=(120, 120), questions=(), min_visible=0.45)
    covered = 0
    for seed in range(60):
        sample = draw_scene(seed, crowded)
        areas = sample.masks.sum(axis=(1, 2))
        assert areas.min() >= 5
        covered += len(sample.instances)
    assert covered > 4.5 * 60


def test_size_and_number_of_things_follow_the_configuration():
    config = SceneConfig(
        num_objects=(2, 3), short_side=(128, 140), aspect=(1.0, 1.5), categories=("car", "dog", "apple")
    )
    for seed in range(40):
        sample = draw_scene(seed, config)
        width, height = sample.image_size_wh
        assert 128 <= height <= 140
        assert 0.99 <= width / height <= 1.51
        assert 1 <= len(sample.instances) <= 3
        assert {instance.category for instance in sample.instances} <= set(config.categories)
        assert sample.exhaustive is None


def test_all_numbers_of_things_and_most_kinds_occur():
    counts = {len(sample.instances) for sample in scenes()}
    assert counts >= {1, 2, 3, 4, 5, 6}
    seen = {instance.category for sample in scenes() for instance in sample.instances}
    assert len(seen) > 0.85 * len(CATEGORIES)


def test_a_scene_can_hold_many_things_of_one_kind():
    sample = draw_scene(3, SceneConfig(categories=("apple",), num_objects=(6, 6), object_scale=(0.15, 0.2)))
    assert {instance.category for instance in sample.instances} == {"apple"}
    assert len(sample.instances) >= 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": ("cat", "dgo")}, "unknown category `dgo`; did you mean `dog`?"),
        ({"questions": ("descrbe",)}, "unknown question `descrbe`; did you mean `describe`?"),
        ({"categories": ()}, "categories must name at least one category"),
        ({"num_objects": (0, 3)}, "num_objects must be ordered and at least 1"),
        ({"short_side": (240, 120)}, "short_side must be ordered"),
        ({"aspect": (0.0, 1.0)}, "aspect must be ordered and positive"),
        ({"object_scale": (0.5, 1.5)}, "object_scale must be ordered"),
        ({"min_visible": 0.0}, "min_visible must be in"),
    ],
)
def test_a_wrong_configuration_is_refused_in_a_sentence(changes, message):
    with pytest.raises(ConfigError) as error:
        SceneConfig(**changes)
    assert message in str(error.value)


def test_cutouts_and_photos_are_used_when_given():
    cutout = np.zeros((40, 30, 4), np.uint8)
    cutout[5:35, 5:25] = (255, 0, 255, 255)
    photo = np.full((90, 70, 3), 77, np.uint8)
    config = SceneConfig(cutouts=[("box", cutout)], cutout_share=1.0, photos=lambda rng: photo, photo_share=1.0)
    sample = draw_scene(5, config)
    assert {instance.category for instance in sample.instances} == {"box"}
    assert sample.instances[0].attributes == ()
    assert (sample.image[~sample.masks.any(axis=0)] == 77).mean() > 0.9
    inside = sample.image[sample.masks[0]].mean(axis=0)
    assert inside[0] > 200
    assert inside[1] < 60
    describe = next(turn for turn in sample.turns if turn.kind == "describe")
    assert "box" in describe.answer
    assert "background" not in describe.answer


def test_a_missing_emoji_font_changes_nothing():
    assert emoji_sprite("/no/such/font.ttf", "cat") is None
    with_font = draw_scene(4, SceneConfig(emoji_font="/no/such/font.ttf", emoji_share=0.0))
    assert with_font == draw_scene(4, SceneConfig(emoji_font="/no/such/font.ttf", emoji_share=0.0))
    assert draw_scene(4, SceneConfig(emoji_font="/no/such/font.ttf", emoji_share=1.0)).instances


def test_posing_keeps_the_size_asked_for():
    sprite = drawn_sprite("car", "red", 0)
    assert abs(max(posed(sprite, 50, 0.0, False, 1.0).size) - 50) <= 2
    mirrored = np.asarray(posed(sprite, 50, 0.0, True, 1.0))[:, ::-1].astype(int)
    assert np.abs(mirrored - np.asarray(posed(sprite, 50, 0.0, False, 1.0))).mean() < 6


def test_mirroring_twice_gives_the_scene_back():
    for sample in scenes()[:60]:
        mirrored = mirror_sample(sample)
        assert np.array_equal(mirrored.image, sample.image[:, ::-1])
        for instance, mask in zip(mirrored.instances, mirrored.masks, strict=True):
            assert np.array_equal(mask_to_box(mask), instance.box_xyxy)
        assert mirror_sample(mirrored) == sample


def test_mirrored_prompts_point_at_the_mirrored_things():
    kinds = set()
    for sample in scenes()[:60]:
        mirrored = mirror_sample(sample)
        for turn in mirrored.turns:
            if turn.kind != "region" or not turn.grounded or not turn.answer.startswith(("It is", "They are")):
                continue
            for prompt, (index,) in zip(turn.prompts, turn.targets, strict=True):
                mask = mirrored.masks[index]
                kinds.add(prompt.kind)
                if prompt.kind == "box":
                    assert np.array_equal(prompt.box_xyxy, mirrored.instances[index].box_xyxy)
                elif prompt.kind == "mask":
                    assert np.array_equal(prompt.mask, mask)
                else:
                    assert all(mask[int(y), int(x)] for x, y in prompt.points_xy)
    assert kinds == {"click", "box", "scribble", "mask"}


def test_mirrored_referring_phrases_are_those_of_the_mirrored_scene():
    for sample in scenes()[:100]:
        expected = {(swap_left_right(words), indices) for words, indices in scene_phrases(sample)}
        assert set(scene_phrases(mirror_sample(sample))) == expected


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("The cat is to the left of the dog.", "The cat is to the right of the dog."),
        ("Right: a car. LEFT: a bus.", "Left: a car. RIGHT: a bus."),
        ("the leftmost cup on the right side", "the rightmost cup on the left side"),
        ("Is the cat on the right behind the dog?", "Is the cat on the left behind the dog?"),
        ("a bright light, right behind the copyright", "a bright light, right behind the copyright"),
    ],
)
def test_left_and_right_are_exchanged_as_whole_words(text, mirrored):
    assert swap_left_right(text) == mirrored
    assert swap_left_right(mirrored) == text


def test_a_turn_without_a_target_for_each_seg_is_refused():
    with pytest.raises(DataError, match="one entry per `<seg>`"):
        Turn("Where?", "<g_s> a dog <g_e> <seg>")
    with pytest.raises(DataError, match="one entry per `<region>`"):
        Turn("What is <region>?", "A dog.")
    image, masks = np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4), bool)
    turn = Turn("Where?", "<g_s> a dog <g_e> <seg>", ((0,),))
    with pytest.raises(DataError, match="targets of `x` must be below 0"):
        Sample("x", image, (), masks, (turn,), None, "test")


def test_kinds_unknown_to_us_still_have_a_plural():
    assert category_named("box").plural == "boxes"
    assert category_named("toy").plural == "toys"
    assert confusable("vase", "flower")
    assert not confusable("dog", "cat")


def test_no_questions_are_asked_when_none_are_wanted():
    assert draw_scene(0, SceneConfig(questions=())).turns == ()
    only = draw_scene(0, SceneConfig(questions=("count", "find")))
    assert {turn.kind for turn in only.turns} == {"count", "find"}
    assert "followup" in QUESTION_KINDS
