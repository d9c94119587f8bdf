"""Sources by their kind: each opens from what a recipe says of it, and says what it lacks."""

import hashlib
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import SOURCES, source, write_source
from hand_made import SCENES, sample

from llava_grounding.data.augmentation import AugmentationSettings
from llava_grounding.data.readers.coco import PhotoPack
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.registry import READERS
from llava_grounding.data.sample import Sample, mirror_sample
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.errors import ConfigError, DataError
from llava_grounding.markup import parse
from llava_grounding.scenes.records import HELD_OUT
from llava_grounding.scenes.synthetic import SceneConfig, draw_scene
from llava_grounding.train.batching.mixture import Mixture
from llava_grounding.train.batching.source_kinds import BUILT_IN, Photos, Records, Scenes, open_dataset
from llava_grounding.train.batching.sources import (
    check_sources,
    held_out_samples,
    open_source,
    open_sources,
    scenes_without_dialogues,
)
from tool_files import TOOLS


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def refused(values: dict[str, Any], root: Path | None = None, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        open_sources([values], root)
    return str(caught.value)


def samples_of(mixture: Mixture, steps: int) -> list[Sample]:
    return [mixture.fill(slot, lambda one: one)[0] for step in range(steps) for slot in mixture.slots(step)]


class TestKinds:
    def test_there_is_a_miniature_of_every_kind_that_has_files(self) -> None:
        assert {"scenes", "photos", *SOURCES, *TOOLS} == {*BUILT_IN, *READERS}

    @pytest.mark.parametrize("kind", TOOLS)
    def test_what_a_tool_wrote_opens_as_a_recipe_says(self, kind: str, tmp_path: Path) -> None:
        write, values = TOOLS[kind]
        write(tmp_path)
        wanted = {"categories": 1.0, "dialogues": 1.0, "grounded_captions": 1.0, "region_names": 1.0}
        lines: list[str] = []
        assert check_sources([{"kind": kind, **values, "dialogue": wanted}], tmp_path, lines.append), lines
        assert len(lines) > 1
        ((opened, _),) = open_sources([{"kind": kind, **values, "dialogue": wanted}], tmp_path)
        assert pickle.loads(pickle.dumps(opened)).sample(0, rng()).turns

    @pytest.mark.parametrize("kind", SOURCES)
    def test_each_opens_as_a_recipe_says_and_gives_dialogues_wherever_it_is_sent(
        self, kind: str, tmp_path: Path
    ) -> None:
        values = source(kind, weight=3, name=f"my {kind}")
        write_source(values, tmp_path)
        ((opened, weight),) = open_sources([values], tmp_path)
        assert weight == 3.0
        assert opened.name == f"my {kind}"
        assert opened.size in (1, 2)
        found = opened.sample(0, rng())
        assert found.turns
        assert found.image.shape == (8, 10, 3)
        sent = pickle.loads(pickle.dumps(opened))
        assert sent.sample(0, rng()) == found

    @pytest.mark.parametrize("kind", SOURCES)
    def test_a_file_that_is_not_there_is_named_and_what_is_optional_left_out(self, kind: str, tmp_path: Path) -> None:
        for key, value in SOURCES[kind].items():
            if key in ("split", "name"):
                continue
            write_source(source(kind), tmp_path / "all")
            values = source(kind, **{key: f"{value}.none"})
            assert str(tmp_path) in refused(values, tmp_path / "all", DataError)
            ((only, _),) = open_sources([values | {"optional": True}, {"kind": "scenes"}], tmp_path / "all")
            assert only.name == "scenes"

    def test_what_is_optional_and_not_there_is_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        values = source("coco", optional=True, name="my photos")
        with caplog.at_level(logging.INFO, logger="llava_grounding"):
            assert open_sources([values], tmp_path) == []
            assert caplog.messages == ["my photos: left out: its files are not there"]
            caplog.clear()
            write_source(values, tmp_path)
            assert len(open_sources([values], tmp_path)) == 1
            assert caplog.messages == []

    @pytest.mark.parametrize("kind", SOURCES)
    def test_unknown_and_missing_keys_are_named(self, kind: str, tmp_path: Path) -> None:
        key = next(iter(SOURCES[kind]))
        assert refused(source(kind, imags="x"), tmp_path) == (
            f"a source of kind `{kind}` has no key `imags`; did you mean `images`?"
        )
        values = source(kind, optional=True)
        del values[key]
        assert refused(values, tmp_path) == f"a source of kind `{kind}` must say `{key}`"

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            (source("coco", instances=3), "`instances` of a source must be text, got `3`"),
            (source("coco", images=["a"]), "`images` of a source must be text, got `['a']`"),
            (source("flickr30k", split=1), "`split` of a source must be text or null, got `1`"),
            (source("llava", name=None), "`name` of a source must be text, got `None`"),
            (source("set_of_mark", alpha="x"), "`alpha` of a source must be a number, got `x`"),
            (source("set_of_mark", alpha=True), "`alpha` of a source must be a number, got `True`"),
        ],
    )
    def test_values_of_another_type_are_named(self, values: dict[str, Any], told: str, tmp_path: Path) -> None:
        assert refused(values, tmp_path) == told

    def test_an_unknown_kind_gets_the_nearest_and_all_there_are(self) -> None:
        told = refused({"kind": "refcocoo", "refs": "x"})
        assert (
            told
            == f"unknown kind of data `refcocoo`; did you mean `refcoco`?; known are {', '.join((*BUILT_IN, *READERS))}"
        )

    @pytest.mark.parametrize("kind", ["scenes", "photos"])
    def test_drawn_scenes_and_photos_know_their_keys_too(self, kind: str, mini_pack_root: Path) -> None:
        assert refused({"kind": kind, "spilt": "val"}, mini_pack_root).startswith(
            f"a source of kind `{kind}` has no key"
        )
        told = refused({"kind": kind, "dialogue": {"mirror": 1.0}}, mini_pack_root)
        assert told == f"a source of kind `{kind}` has no key `dialogue`"

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"kind": "scenes", "held_out": "no"}, "`held_out` of a source must be true or false, got `no`"),
            ({"kind": "scenes", "questions": "count"}, "`questions` of a source must be a list of kinds, got `count`"),
            ({"kind": "scenes", "questions": []}, "`questions` of a source must be a list of kinds, got "),
            ({"kind": "scenes", "questions": ["cuont"]}, "unknown kind of question `cuont`; did you mean `count`\\?"),
            ({"kind": "photos", "mirrored": "half"}, "`mirrored` of a source must be between 0 and 1, got `half`"),
            ({"kind": "photos", "mirrored": 2}, "`mirrored` of a source must be between 0 and 1, got `2`"),
            ({"kind": "scenes", "weight": "2"}, "`weight` of a source must be a number of at least 0, got `2`"),
            ({"kind": "scenes", "weight": -1}, "`weight` of a source must be a number of at least 0, got `-1`"),
            ({"kind": "scenes", "weight": True}, "`weight` of a source must be a number of at least 0, got `True`"),
            ({"kind": "scenes", "weight": float("inf")}, "`weight` of a source must be .*, got `inf`"),
            (
                {"kind": "llava", "dialogue": "much"},
                "`dialogue` of `llava` must be a mapping .*, got `much`",
            ),
            ({"kind": "llava", "dialogue": {"miror": 1}}, "unknown key `miror`; did you mean `mirror`\\?"),
        ],
    )
    def test_values_of_another_kind_are_refused(
        self, values: dict[str, Any], expected: str, mini_pack_root: Path, tmp_path: Path
    ) -> None:
        if values["kind"] == "llava":
            values = source("llava") | values
            write_source(values, tmp_path)
        elif values["kind"] == "photos":
            values = values | {"split": "val"}
        with pytest.raises(ConfigError, match=expected):
            open_sources([values], tmp_path if values["kind"] == "llava" else mini_pack_root)

    def test_a_source_without_weight_is_not_even_opened(self, tmp_path: Path) -> None:
        ((only, weight),) = open_sources([source("llava", weight=0), {"kind": "scenes"}], tmp_path)
        assert (only.name, weight) == ("scenes", 1.0)

    def test_when_nothing_is_there_what_is_optional_leaves_nothing(self, tmp_path: Path) -> None:
        assert open_sources([source("llava", optional=True), source("gvc", optional=True)], tmp_path) == []
        assert open_sources([], tmp_path) == []

    def test_a_damaged_file_is_no_missing_one(self, tmp_path: Path) -> None:
        write_source(source("llava"), tmp_path)
        (tmp_path / "l/talk.json").write_text('[{"id": ')
        assert "talk.json" in refused(source("llava", optional=True), tmp_path, DataError)


class TestPaths:
    def test_they_are_relative_to_the_root_or_the_working_directory_or_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_source(source("llava"), tmp_path / "data")
        assert len(open_dataset(source("llava"), tmp_path / "data")) == 1
        monkeypatch.chdir(tmp_path / "data")
        assert len(open_dataset(source("llava"), None)) == 1
        absolute = {key: str(tmp_path / "data" / value) for key, value in SOURCES["llava"].items()}
        assert len(open_dataset({"kind": "llava", **absolute}, tmp_path / "elsewhere")) == 1

    def test_they_may_hold_variables_and_a_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_source(source("llava"), tmp_path)
        monkeypatch.setenv("TALK_FOLDER", str(tmp_path / "l"))
        monkeypatch.setenv("HOME", str(tmp_path))
        values = {"kind": "llava", "dialogues": "$TALK_FOLDER/talk.json", "images": "~/l/images"}
        assert len(open_dataset(values, Path("nowhere"))) == 1
        with pytest.raises(DataError, match=r"\$NO_SUCH_FOLDER"):
            open_dataset(values | {"dialogues": "$NO_SUCH_FOLDER/talk.json"}, None)

    def test_photos_lie_at_the_root_or_where_the_variable_says(
        self, mini_pack_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = {"kind": "photos", "split": "val"}
        monkeypatch.setenv("LLAVA_GROUNDING_DATA", str(mini_pack_root))
        ((by_root, _),), ((by_variable, _),) = open_sources([values], mini_pack_root), open_sources([values], None)
        assert by_root.size == by_variable.size == 4
        monkeypatch.delenv("LLAVA_GROUNDING_DATA")
        assert "set LLAVA_GROUNDING_DATA" in refused(values, None, DataError)


class TestScenes:
    def test_held_out_scenes_are_always_the_same_and_beyond_all_training_seeds(self) -> None:
        held_out, seen = Scenes(SCENES, held_out=True), Scenes(SCENES)
        scenes = held_out_samples([(held_out, 1.0)], 3)
        assert [scene.id for scene in scenes] == [f"scene-{HELD_OUT + index}" for index in range(3)]
        assert scenes[:2] == held_out_samples([(held_out, 1.0)], 2)
        numbers = (0, HELD_OUT - 1, HELD_OUT, HELD_OUT + 2, 2**31 - 1)
        assert all(int(seen.sample(number, rng()).id.removeprefix("scene-")) < HELD_OUT for number in numbers)
        trained_on = samples_of(Mixture([(seen, 1.0)], 10, 0), 1)
        assert max(int(scene.id.removeprefix("scene-")) for scene in trained_on) < HELD_OUT

    def test_they_have_no_end_whether_held_out_or_not(self) -> None:
        assert Scenes(SCENES).size is None
        assert Scenes(SCENES, held_out=True).size is None

    def test_a_source_may_ask_some_kinds_of_questions_alone(self) -> None:
        ((some, _),) = open_sources([{"kind": "scenes", "questions": ["count", "absent"]}], None)
        kinds = [{turn.kind for turn in some.sample(number, rng()).turns} for number in range(4)]
        assert set().union(*kinds) == {"count", "absent"}
        ((quiet, _),) = open_sources(
            [{"kind": "scenes", "questions": ["count"]}], None, scenes_without_dialogues, questions=False
        )
        assert quiet.sample(0, rng()).turns == ()

    def test_a_scene_is_never_mirrored(self) -> None:
        for number in range(4):
            assert Scenes(SCENES).sample(number, rng()) == draw_scene(number, SCENES)

    def test_quiet_ones_show_the_same_kinds_and_ask_nothing(self) -> None:
        assert scenes_without_dialogues() == SceneConfig(questions=())
        assert Scenes(scenes_without_dialogues()).sample(1, rng()).turns == ()
        source_of = open_source({"kind": "scenes"}, None, lambda: SCENES)
        assert source_of == Scenes(SCENES)


class TestWhichPhotos:
    def names(self, root: Path, **values: Any) -> list[str]:
        opened = open_source({"kind": "photos", "split": "val", "mirrored": 0.0, **values}, root)
        assert opened.size is not None
        return [opened.sample(number, rng()).id for number in range(opened.size)]

    def test_those_of_named_sources_and_those_with_labels(self, mini_pack_root: Path) -> None:
        records = list(PhotoPack(mini_pack_root).split("val"))
        everything = self.names(mini_pack_root)
        assert everything == [record.id for record in records]
        source_of = records[0].source
        assert self.names(mini_pack_root, only=[source_of]) == [one.id for one in records if one.source == source_of]
        assert self.names(mini_pack_root, labelled=True) == [one.id for one in records if one.instances]

    def test_optional_ones_that_the_pack_has_not_are_left_out(self, mini_pack_root: Path) -> None:
        values = {"kind": "photos", "split": "val", "optional": True}
        assert open_sources([{**values, "only": ["kitty"]}], mini_pack_root) == []
        known = next(iter(PhotoPack(mini_pack_root).split("val"))).source
        ((both, _),) = open_sources([{**values, "only": ["kitty", known]}], mini_pack_root)
        assert both.size == open_source({**values, "only": [known]}, mini_pack_root).size

    def test_augmented_ones_differ_each_time_and_ask_nothing(self, mini_pack_root: Path) -> None:
        photos = open_source({"kind": "photos", "split": "val", "augmented": True, "mirrored": 0.0}, mini_pack_root)
        first, second = (photos.sample(0, rng(seed)) for seed in (1, 2))
        assert first != second
        assert first == photos.sample(0, rng(1))
        assert first.turns == second.turns == ()

    def test_without_questions_the_labels_are_the_same(self, mini_pack_root: Path) -> None:
        values = {"kind": "photos", "split": "val", "mirrored": 0.0}
        quiet, asking = (open_source(values, mini_pack_root, questions=asked) for asked in (False, True))
        assert quiet.sample(0, rng()).turns == ()
        assert asking.sample(0, rng()).turns
        assert quiet.sample(0, rng()).instances == asking.sample(0, rng()).instances

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"only": ["kitty"]}, "no photo comes from `kitty`"),
            ({"only": "coco"}, "`only` of a source must be a list of names of photo sources, got `coco`"),
            ({"labelled": 1}, "`labelled` of a source must be true or false, got `1`"),
            ({"augmented": "yes"}, "`augmented` of a source must be true or false, got `yes`"),
        ],
    )
    def test_what_they_cannot_be_is_said(self, values: dict[str, Any], message: str, mini_pack_root: Path) -> None:
        assert message in refused({"kind": "photos", "split": "val", **values}, mini_pack_root)


class TestPhotos:
    def test_half_of_them_are_mirrored_and_any_may_come(self, mini_pack_root: Path) -> None:
        photos = PhotoPack(mini_pack_root).split("val")
        mirrored = 0
        for seed in range(48):  # of the first two photos; the others are their own mirror image
            shown = Photos(photos).sample(seed % 2, rng(seed))
            straight = photo_sample(photos[seed % 2], rng(seed))
            if shown != straight:
                assert shown == mirror_sample(straight)
                mirrored += 1
        assert 12 <= mirrored <= 36
        assert Photos(photos, mirrored=0).sample(0, rng(3)) == photo_sample(photos[0], rng(3))
        assert Photos(photos, mirrored=1).sample(0, rng(3)) == mirror_sample(photo_sample(photos[0], rng(3)))

    def test_they_come_in_their_share_beside_scenes(self, mini_pack_root: Path) -> None:
        sources = open_sources([{"kind": "scenes"}, {"kind": "photos", "split": "val"}], mini_pack_root, lambda: SCENES)
        mixed = Mixture(sources, 4, 0)
        assert [sample.source == "drawn" for sample in samples_of(mixed, 4)].count(True) == 8
        assert mixed.parts(0) == [2, 2]


def test_augmented_photos_are_changed_as_far_as_told(mini_pack_root: Path) -> None:
    still = AugmentationSettings(crop_probability=0.0, max_aspect_change=1.0, max_light_change=0.0)
    values = {"kind": "photos", "split": "val", "augmented": True, "mirrored": 0.0}
    shown = photo_sample(PhotoPack(mini_pack_root).split("val")[0], rng(0), False)
    ((usual, _),) = open_sources([values], mini_pack_root)
    ((same, _),) = open_sources([values], mini_pack_root, augmentation=still)
    assert np.array_equal(same.sample(0, rng(0)).image, shown.image)
    assert any(not np.array_equal(usual.sample(0, rng(seed)).image, shown.image) for seed in range(4))


@pytest.mark.parametrize("mirrored", [False, True])
def test_left_and_right_are_true_whether_mirrored_or_not(mirrored: bool) -> None:
    checked = 0
    for straight in samples_of(Mixture([(Scenes(SCENES), 1.0)], 4, 3), 5):
        one = mirror_sample(straight) if mirrored else straight
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


def digest(samples: list[Sample]) -> list[str]:
    """Everything that is said and shown, in one number each."""
    codes = []
    for one in samples:
        parts = [one.id, repr(one.turns), repr(one.instances), repr(sorted(one.exhaustive or ()))]
        code = hashlib.sha256("".join(parts).encode())
        code.update(one.image.tobytes() + one.masks.tobytes())
        codes.append(code.hexdigest())
    return codes


def some_of_all(pack: str | Path, root: str | Path) -> list[Sample]:
    """Scenes, photos and a data set mixed, a few steps of them."""
    mapped: list[dict[str, Any]] = [{"kind": "scenes"}, {"kind": "photos", "split": "val"}]
    sources = open_sources(mapped, Path(pack), lambda: SCENES)
    own = open_sources([source("custom", dialogue={"mirror": 0.5, "categories": 1.0})], Path(root))
    return samples_of(Mixture([*sources, *own], 3, 1), 4)


def test_a_fresh_interpreter_with_other_hashes_makes_the_same_samples(mini_pack_root: Path, tmp_path: Path) -> None:
    write_source(source("custom"), tmp_path)
    script = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from test_sources import digest, some_of_all\n"
        "assert 'torch' not in sys.modules\n"
        "print(*digest(some_of_all(*sys.argv[1:3])))"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    command = [sys.executable, "-c", script, str(mini_pack_root), str(tmp_path), *folders]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert found == digest(some_of_all(mini_pack_root, tmp_path))


class TestHeldOut:
    def test_they_are_the_first_of_each_source_by_weight_and_the_same_each_time(self, tmp_path: Path) -> None:
        for kind in ("refcoco", "custom"):
            write_source(source(kind), tmp_path)
        values = [source("refcoco", weight=1), source("custom", weight=1), {"kind": "scenes", "held_out": True}]
        sources = open_sources(values, tmp_path, lambda: SCENES)
        first, again = held_out_samples(sources, 9), held_out_samples(sources, 9)
        assert first == again
        assert [one.id.startswith("scene-") for one in first].count(True) == 3
        assert len(first) == 1 + 2 + 3  # one photo with train refs, two own ones, all there are
        assert held_out_samples(sources, 9, seed=1) != first

    def test_a_source_of_small_weight_still_takes_part(self) -> None:
        sources = [(Scenes(SCENES, name="a"), 1000.0), (Scenes(SCENES, held_out=True, name="b"), 0.1)]
        assert [one.id.startswith(f"scene-{10**9}") for one in held_out_samples(sources, 3)] == [False] * 3 + [True]

    def test_what_cannot_be_read_is_passed_over(self, tmp_path: Path) -> None:
        write_source(source("custom"), tmp_path)
        (tmp_path / "o/images/1.png").write_bytes(b"broken")
        ((own, _),) = sources = open_sources([source("custom")], tmp_path)
        assert own.size == 2
        (only,) = held_out_samples(sources, 5)
        assert only.id == "2.png"
        assert held_out_samples([], 5) == []


def test_a_reader_says_whether_its_pictures_may_be_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "mine", type("Mine", (CustomData,), {"may_be_mirrored": False}))
    mirrored = {}
    for kind, like in (("custom", "custom"), ("mine", "custom"), ("set_of_mark", "set_of_mark")):
        write_source(source(like), tmp_path)
        records = open_source({**source(like), "kind": kind, "dialogue": {"mirror": 1.0}}, tmp_path)
        assert isinstance(records, Records)
        mirrored[kind] = records.dialogue.mirror
    assert mirrored == {"custom": 1.0, "mine": 0.0, "set_of_mark": 0.0}
