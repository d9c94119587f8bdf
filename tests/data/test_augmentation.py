"""Photos seen differently: boxes and masks stay on their things, and nothing unlabelled becomes background."""

import numpy as np
import pytest

from llava_grounding.data.augmentation import augment, change_aspect, change_light, crop, random_crop
from llava_grounding.data.sample import Instance, Sample, Turn


def sample(exhaustive=frozenset({"dog", "cat"})) -> Sample:
    """A dog with a mask at the left, a cat with a box at the right; pixels say which: red and green."""
    image = np.zeros((60, 100, 3), dtype=np.uint8)
    masks = np.zeros((2, 60, 100), dtype=bool)
    masks[0, 10:30, 10:40] = True
    image[10:30, 10:40] = (200, 0, 0)
    image[20:60, 60:100] = (0, 200, 0)
    instances = (
        Instance("dog", np.array([10, 10, 40, 30]), True),
        Instance("cat", np.array([60, 20, 100, 60]), False),
    )
    turns = (Turn("What is there?", "A dog.", (), (), False),)
    return Sample("photo", image, instances, masks, turns, exhaustive, "test")


def test_a_crop_moves_boxes_and_masks_with_their_pixels():
    part = crop(sample(), 20, 5, 60, 40, 0.3)
    assert part.image.shape == (40, 60, 3)
    dog, cat = part.instances
    assert dog.box_xyxy.tolist() == [0, 5, 20, 25]
    assert cat.box_xyxy.tolist() == [40, 15, 60, 40]
    assert (part.image[part.masks[0]] == (200, 0, 0)).all()
    assert part.masks[0].sum() == 20 * 20


def test_a_thing_of_which_too_little_is_left_is_neither_there_nor_absent():
    part = crop(sample(), 0, 0, 64, 60, 0.3)  # four of the cat's forty columns
    assert [one.category for one in part.instances] == ["dog"]
    assert part.exhaustive == {"dog"}


def test_a_thing_wholly_outside_is_known_to_be_absent():
    part = crop(sample(), 0, 0, 50, 60, 0.3)
    assert [one.category for one in part.instances] == ["dog"]
    assert part.exhaustive == {"dog", "cat"}


def test_where_everything_is_labelled_every_visible_part_stays():
    part = crop(sample(exhaustive=None), 0, 0, 64, 60, 0.3)
    assert [one.category for one in part.instances] == ["dog", "cat"]
    assert part.exhaustive is None


def test_the_aspect_ratio_stretches_boxes_masks_and_pixels_alike():
    wide = change_aspect(sample(), 1.5)
    assert wide.image_size_wh == (150, 60)
    assert wide.instances[0].box_xyxy.tolist() == [15, 10, 60, 30]
    assert wide.masks[0].any(axis=0).nonzero()[0][[0, -1]].tolist() == [15, 59]


def test_light_changes_values_and_nothing_else():
    before = sample()
    after = change_light(before, np.random.default_rng(1), 0.25)
    assert after.instances == before.instances
    assert not np.array_equal(after.image, before.image)
    assert len(np.unique(after.image)) <= len(np.unique(before.image))


@pytest.mark.parametrize("change", [augment, random_crop])
def test_the_same_generator_gives_the_same_sample(change):
    assert change(sample(), np.random.default_rng(7)) == change(sample(), np.random.default_rng(7))


def test_many_augmented_samples_are_valid_and_drop_their_words():
    for seed in range(200):
        part = augment(sample(), np.random.default_rng(seed))
        assert not part.turns
        width, height = part.image_size_wh
        for row, one in enumerate(part.instances):
            x0, y0, x1, y1 = one.box_xyxy
            assert 0 <= x0 < x1 <= width + 1e-6
            assert 0 <= y0 < y1 <= height + 1e-6
            assert one.has_mask == bool(part.masks[row].any())


def test_a_tiny_photo_and_one_without_things_can_be_augmented():
    bare = Sample("bare", np.zeros((3, 2, 3), np.uint8), (), np.zeros((0, 3, 2), bool), (), frozenset(), "test")
    for seed in range(20):
        assert augment(bare, np.random.default_rng(seed)).masks.shape[0] == 0
