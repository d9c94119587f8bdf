"""Plans without doing: every recipe we ship says what would learn, from what, and how much memory it takes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import source, write_source
from small_training import recipe

from llava_grounding.errors import ConfigError, DataError, LlavaGroundingError
from llava_grounding.model.presets import preset
from llava_grounding.model.sizes import meta_model
from llava_grounding.train import training_setup
from llava_grounding.train.batching.sources import open_source
from llava_grounding.train.dry_run import Memory, dry_run, estimate_memory
from llava_grounding.train.plan import PartPlan
from llava_grounding.train.recipe import Recipe, load_recipe

DRAWN = tuple(f"nano{kind}_{stage}" for kind in ("", "_lite") for stage in ("pretrain", "chat", "read", "joint", "gpu"))
LARGE = ("7b_stage1", "7b_stage2", "7b_stage3", "7b_lora")
GIB = 2**30
PARTS = [
    PartPlan("language_model", trainable=7 * GIB, frozen=0, rates=(1e-3,), whole=7 * GIB),
    PartPlan("vision_tower", trainable=0, frozen=GIB, rates=()),
    PartPlan("grounder", trainable=0, frozen=GIB, rates=()),
]


def lines_of(name: str, root: Path, processes: int = 1, **overrides: str) -> list[str]:
    return dry_run(load_recipe(name, {"start_from": "null", **overrides}), root, processes)


def write_sources(loaded: Recipe, root: Path) -> None:
    """Miniatures of all that a recipe reads."""
    for values in (*loaded.data, *loaded.validation):
        write_source(values, root)


def total_gib(lines: list[str]) -> float:
    (line,) = [line for line in lines if line.startswith("memory of each device")]
    return float(re.search(r"about ([\d.]+) GiB", line)[1])


@pytest.mark.parametrize("name", DRAWN)
def test_recipes_of_drawn_scenes_have_a_plan_wherever_they_are(name: str, tmp_path: Path) -> None:
    lines = lines_of(name, tmp_path)
    loaded = load_recipe(name)
    assert lines[0].startswith(f"stage {loaded.stage}: ")
    total = sum(one.numel() for one in meta_model(preset(loaded.preset)).parameters())
    (counted,) = [
        re.fullmatch(r"  ([\d,]+) of ([\d,]+) parameters are trainable", line)
        for line in lines
        if line.endswith("trainable")
    ]
    learnt, phrases = int(counted[1].replace(",", "")), int(counted[2].replace(",", "")) - total
    assert 0 < learnt <= total + phrases
    assert (phrases > 0) == ("classes" in lines[0])
    assert f"{loaded.steps:,d} steps of {loaded.batch_size} samples on 1 device, in 1 micro-batch each" in lines
    drawn = [re.fullmatch(r"  .*: (\d+) of the first step; without end", line) for line in lines]
    assert sum(int(one[1]) for one in drawn if one) == loaded.batch_size  # no photos here
    assert 0 < total_gib(lines) < 8


def test_photos_take_their_part_where_they_are(mini_pack_root: Path) -> None:
    values = {"data.0.split": "val", "data.0.only": "null"}  # the other photos are optional, and not there
    lines = lines_of("nano_pretrain", mini_pack_root, **values)
    (photos,) = [line for line in lines if line.startswith("  coco")]
    assert re.fullmatch(r"  coco: (9|10) of the first step; 4 samples, gone through 19200.00 times", photos)


def test_own_data_have_a_plan(tmp_path: Path) -> None:
    write_source(source("custom") | {"instances": "instances.json", "images": "images"}, tmp_path)
    lines = lines_of("custom_data", tmp_path)
    assert lines[0] == "stage chat: language, phrases"
    assert "  custom: 8 of the first step; 2 samples, gone through 1200.00 times" in lines


@pytest.mark.slow
class TestLarge:
    @pytest.mark.parametrize("name", LARGE)
    def test_every_recipe_has_a_plan_from_files_where_it_says(self, name: str, tmp_path: Path) -> None:
        loaded = load_recipe(name, {"start_from": "null", "preset": "official_7b"})
        write_sources(loaded, tmp_path)
        lines = dry_run(loaded, tmp_path, processes=8)
        parts = {line.split()[0]: line for line in lines if "parameters  " in line}
        assert parts["vision_tower"].endswith("frozen")
        learning = {part for part, line in parts.items() if " trainable " in line}
        assert (
            learning
            == {
                "7b_stage1": {"multi_modal_projector", "phrase_projector", "grounder", "language_model", "lm_head"},
                "7b_stage2": {"multi_modal_projector", "phrase_projector", "grounder", "language_model", "lm_head"},
                "7b_stage3": {"visual_prompt_encoder"},
                "7b_lora": {"multi_modal_projector", "phrase_projector", "grounder", "language_model", "lm_head"},
            }[name]
            & parts.keys()
        )
        if name != "7b_stage2":
            assert "language_model" not in learning or "frozen" in parts["language_model"].partition("trainable")[2]
        for values in loaded.data:
            assert any(line.startswith(f"  {values['kind']}: ") for line in lines)
        shares = [int(line.split()[1]) for line in lines if " of the first step; " in line]
        assert sum(shares) == loaded.batch_size
        assert 5 < total_gib(lines) < 200

    def test_whole_parts_are_those_of_the_recipe(self, tmp_path: Path) -> None:
        loaded = load_recipe("7b_stage1", {"start_from": "null", "preset": "official_7b"})
        write_sources(loaded, tmp_path)
        counts = [int(line.split()[1]) for line in dry_run(loaded, tmp_path) if " of the first step; " in line]
        assert counts == [64, 16, 16, 8, 8, 8, 8]

    @pytest.mark.parametrize("name", LARGE)
    def test_each_source_gives_what_the_stage_learns_from(self, name: str, tmp_path: Path) -> None:
        loaded = load_recipe(name, {"start_from": "null", "preset": "official_7b"})
        write_sources(loaded, tmp_path)
        for values in (*loaded.data, *loaded.validation):
            opened, kind = open_source(values, tmp_path), values["kind"]
            for seed in range(12):
                turns = opened.sample(seed % opened.size, np.random.default_rng(seed)).turns
                pointing = any(turn.prompts for turn in turns)
                grounded = any(turn.targets for turn in turns)
                if name == "7b_stage3":
                    assert kind == "gvc" or pointing, (kind, turns)
                else:
                    assert kind == "gvc" or not pointing, (kind, turns)
                    assert kind in ("gvc", "llava") or grounded, (kind, turns)

    def test_files_that_are_not_there_and_models_that_are_not_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"blip_laion_cc_sbu_558k\.json"):
            lines_of("7b_stage1", tmp_path, preset="official_7b")
        for values in load_recipe("7b_lora").data:
            write_source(values, tmp_path)
        with pytest.raises(DataError, match="flickr30k_entities"):  # it is validated with
            lines_of("7b_lora", tmp_path, preset="official_7b")
        with pytest.raises(ConfigError, match="unknown model `runs/7b_stage1/none`"):
            dry_run(Recipe("chat", start_from="runs/7b_stage1/none"), tmp_path)


class TestSteps:
    def test_processes_and_micro_batches_are_reported(self) -> None:
        lines = dry_run(recipe("chat", preset="nano", batch_size=12, micro_batch_size=2, steps=7), processes=3)
        assert "7 steps of 12 samples on 3 devices, in 2 micro-batches each" in lines

    def test_fewer_samples_than_processes_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="batch_size must be at least the number of processes, 8, got 4"):
            dry_run(recipe("chat", preset="nano", batch_size=4), processes=8)

    def test_frozen_stages_of_the_backbone_are_counted_as_frozen(self) -> None:
        grounder = [
            next(line for line in dry_run(recipe("chat", preset="nano", frozen_stages=count)) if "grounder" in line)
            for count in (0, 3)
        ]
        trainable = [int(line.split("trainable")[1].split()[0].replace(",", "")) for line in grounder]
        assert trainable[1] < trainable[0]

    def test_what_would_stop_the_run_stops_the_plan(self) -> None:
        for wrong, told in (
            ({"freeze": ["groundr"]}, "groundr"),
            ({"data": [{"kind": "scnes"}]}, "scnes"),
            ({"validation": [{"kind": "scnes"}]}, "scnes"),
            ({"lora": {"targets": ["c_attn"]}}, "c_attn"),
            ({"report_to": ["wandbb"]}, "wandbb"),
            ({"metric": "phrase_f"}, "phrase_f1"),
            ({"frozen_stages": 9}, "frozen_stages"),
        ):
            with pytest.raises(ConfigError, match=told):
                dry_run(recipe("chat", preset="nano", **wrong))


class TestMemory:
    def memory(self, processes: int = 1, **values: Any) -> Memory:
        return estimate_memory(PARTS, recipe("grounded_chat", batch_size=64, **values), processes, 4096, 32)

    def test_each_learnt_parameter_takes_sixteen_bytes_and_a_resting_one_its_weight(self) -> None:
        memory = self.memory()
        assert memory.weights == (7 * 4 + 4 + 4) * GIB
        assert memory.gradients == 7 * 4 * GIB
        assert memory.optimizer == 7 * 8 * GIB
        assert memory.total == sum((memory.weights, memory.gradients, memory.optimizer, memory.activations))
        narrow = self.memory(weights="bfloat16")
        assert narrow.weights == (7 * 4 + 2 + 4) * GIB  # the grounder stays as it is
        small = self.memory(weights="int4", lora={})
        assert small.weights < narrow.weights

    @pytest.mark.parametrize("sharding", ["zero2", "zero3", "fsdp"])
    def test_sharing_takes_less_of_each_the_more_there_are(self, sharding: str) -> None:
        one, two, eight = (self.memory(count, sharding=sharding, micro_batch_size=1) for count in (1, 2, 8))
        assert eight.optimizer == two.optimizer / 4 == one.optimizer / 8
        assert eight.gradients == one.gradients / 8
        assert eight.weights == (one.weights if sharding == "zero2" else one.weights / 8)
        assert one.activations == two.activations == eight.activations
        assert eight.total < two.total < one.total

    def test_without_sharding_all_have_all(self) -> None:
        one, eight = self.memory(1, micro_batch_size=1), self.memory(8, micro_batch_size=1)
        assert one == eight
        assert self.memory(8).activations < self.memory(1).activations  # of a smaller share of the batch

    def test_activations_grow_with_samples_and_tokens_and_shrink_by_checkpointing(self) -> None:
        base = self.memory(micro_batch_size=2, max_tokens=1000)
        assert self.memory(micro_batch_size=4, max_tokens=1000).activations == 2 * base.activations
        assert self.memory(micro_batch_size=2, max_tokens=3000).activations == 3 * base.activations
        checkpointed = self.memory(micro_batch_size=2, max_tokens=1000, gradient_checkpointing=True)
        assert checkpointed.activations < base.activations / 5
        exact = estimate_memory(PARTS, replace(recipe("chat", micro_batch_size=2, max_tokens=1000), bf16=True), 1, 9, 2)
        assert self.memory(micro_batch_size=2, max_tokens=1000, bf16=True).activations == base.activations / 2
        assert exact.activations == 2 * 1000 * 9 * 2 * 34

    def test_single_rows_that_learn_take_the_room_of_their_table(self) -> None:
        rows = [PartPlan("language_model", trainable=3, frozen=7, rates=(1e-3,), whole=10)]
        memory = estimate_memory(rows, recipe("align"), 1, 9, 2)
        assert (memory.gradients, memory.optimizer) == (10 * 4, 10 * 8)


@pytest.mark.parametrize("name", ["missing/nanodet.json", "efficientnet_lite9", f"{'a' * 5000}.json"])
def test_backbone_weights_that_are_not_there_are_told_before_anything_is_built(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe("pretrain_grounder", preset="nano", backbone_weights=name)
    with pytest.raises(LlavaGroundingError, match="pretrained backbone"):
        dry_run(asked)
    monkeypatch.setattr(training_setup, "open_sources", lambda *_, **__: pytest.fail("something was opened"))
    with pytest.raises(LlavaGroundingError, match="pretrained backbone"):
        training_setup.build_training_setup(asked, tmp_path)
