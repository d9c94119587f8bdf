"""The stream of samples: the same for everybody, mirrored half of the time, and never a held-out scene."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hand_made import SCENES, sample

from llava_grounding.data.coco import PhotoPack
from llava_grounding.data.photo_dialogues import photo_sample
from llava_grounding.data.sample import Sample, mirror_sample
from llava_grounding.data.synthetic import draw_scene
from llava_grounding.markup import parse
from llava_grounding.train.stream import VALIDATION_SEED, SampleStream, validation_scenes

STREAM = SampleStream(3, scene_config=SCENES)


def digest(one: Sample) -> str:
    """Everything that is said and shown, in one number."""
    parts = [one.id, repr(one.turns), repr(one.instances), repr(sorted(one.exhaustive or ()))]
    code = hashlib.sha256("".join(parts).encode())
    code.update(one.image.tobytes() + one.masks.tobytes())
    return code.hexdigest()


class FewPhotos:
    """Photos of the miniature pack, with a note of what was asked for and given."""

    def __init__(self, root: Path) -> None:
        self.photos = PhotoPack(root).split("val")
        self.asked: list[int] = []
        self.given: list[Sample] = []

    def __call__(self, index: int, rng: np.random.Generator) -> Sample:
        self.asked.append(index)
        self.given.append(photo_sample(self.photos[index % len(self.photos)], rng))
        return self.given[-1]


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    forwards = [STREAM[index] for index in range(4)]
    again = SampleStream(3, scene_config=SCENES)
    assert [again[index] for index in (3, 1, 0, 2)] == [forwards[index] for index in (3, 1, 0, 2)]
    assert len({one.id for one in forwards}) == 4
    assert SampleStream(4, scene_config=SCENES)[0] != forwards[0]


def test_a_stream_sent_to_another_process_is_the_same_stream(mini_pack_root: Path) -> None:
    stream = SampleStream(0, 0.5, FewPhotos(mini_pack_root), SCENES)
    sent = pickle.loads(pickle.dumps(stream))
    assert [digest(sent[index]) for index in range(6)] == [digest(stream[index]) for index in range(6)]


def test_a_fresh_interpreter_with_other_hashes_makes_the_same_samples(mini_pack_root: Path) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_stream import FewPhotos, SCENES, SampleStream, digest\n"
        "stream = SampleStream(0, 0.5, FewPhotos(sys.argv[1]), SCENES)\n"
        "print(*[digest(stream[index]) for index in range(8)])"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    command = [sys.executable, "-c", script, str(mini_pack_root), *folders]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    stream = SampleStream(0, 0.5, FewPhotos(mini_pack_root), SCENES)
    assert found == [digest(stream[index]) for index in range(8)]


def test_photos_come_in_their_share_and_any_photo_may_come(mini_pack_root: Path) -> None:
    photos = FewPhotos(mini_pack_root)
    stream = SampleStream(0, 0.5, photos, SCENES)
    drawn = sum(stream[index].source == "drawn" for index in range(40))
    assert 10 < drawn < 30
    assert len(photos.asked) == 40 - drawn
    assert {index % len(photos.photos) for index in photos.asked} == set(range(len(photos.photos)))
    assert all(SampleStream(0, 1.0, photos, SCENES)[index].source != "drawn" for index in range(5))
    assert all(SampleStream(0, 0.0, photos, SCENES)[index].source == "drawn" for index in range(5))


def test_half_of_the_photos_are_mirrored_and_no_scene_is(mini_pack_root: Path) -> None:
    photos = FewPhotos(mini_pack_root)
    stream = SampleStream(0, 1.0, photos, SCENES)
    mirrored = 0
    for index in range(24):
        shown = stream[index]
        if shown != photos.given[-1]:
            assert shown == mirror_sample(photos.given[-1])
            mirrored += 1
    assert 6 <= mirrored <= 18
    for index in range(4):
        scene = STREAM[index]
        assert scene == draw_scene(int(scene.id.removeprefix("scene-")), SCENES)


@pytest.mark.parametrize("mirrored", [False, True])
def test_left_and_right_are_true_whether_mirrored_or_not(mirrored: bool) -> None:
    checked = 0
    for index in range(20):
        one = mirror_sample(STREAM[index]) if mirrored else STREAM[index]
        width = one.image_size_wh[0]
        for turn in (turn for turn in one.turns if turn.kind == "where" and turn.grounded):
            first = parse(turn.answer).phrases[0]
            said = parse(turn.answer).text[first.span[1] :].split(",")[0].rstrip(".")
            if said.endswith(("on the left", "on the right")) and turn.targets[0]:
                x0, _, x1, _ = one.instances[turn.targets[0][0]].box_xyxy
                assert ((x0 + x1) / 2 < width / 2) == said.endswith("left"), (turn, one.id)
                checked += 1
    assert checked > 3


def test_a_mirrored_hand_made_sample_says_and_shows_the_other_side() -> None:
    straight = sample()
    mirrored = mirror_sample(straight)
    assert mirrored.turns[3].question == "And what is right of it?"
    assert np.array_equal(mirrored.image, straight.image[:, ::-1])
    assert mirrored.instances[0].box_xyxy.tolist() == [80 - 32, 8, 80 - 8, 40]
    assert mirrored.turns[2].prompts[0].box_xyxy.tolist() == [80 - 32, 8, 80 - 8, 40]


def test_held_out_scenes_are_always_the_same_and_beyond_all_training_seeds() -> None:
    scenes = validation_scenes(3)
    assert [scene.id for scene in scenes] == [f"scene-{VALIDATION_SEED + index}" for index in range(3)]
    assert list(scenes[:2]) == list(validation_scenes(2))
    seeds = [int(SampleStream(seed, scene_config=SCENES)[0].id.removeprefix("scene-")) for seed in range(10)]
    assert max(seeds) < VALIDATION_SEED
