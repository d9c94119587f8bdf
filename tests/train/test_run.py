"""Whole runs: one that was killed or stopped is the one that was not; what they keep, and what moves in them."""

import json
import logging
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hand_made import NAMES
from running import AtStep, differences, finish, finish_with, in_children, log_of, run_until, weights
from small_training import recipe, training_setup
from torch import Tensor

from llava_grounding.errors import CheckpointError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train import run
from llava_grounding.train.checkpoint import (
    last_checkpoint,
    load_class_phrases,
    load_training_module,
    save_phrases,
    save_whole,
)
from llava_grounding.train.run import run_stage, training_arguments

RUNS: dict[str, dict[str, Any]] = {
    "class names": {"stage": "pretrain_grounder"},
    "dialogues": {"stage": "chat", "num_points": 16},
    "micro-batches": {"stage": "chat", "num_points": 16, "micro_batch_size": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in forked children: sums are the same to the last bit only where as many threads make them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Straight = Callable[[str], dict[str, Tensor]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """What each of these runs ends with when nobody disturbs it; run when first asked for."""
    return cache(lambda name: weights(finish(tmp_path_factory.mktemp("straight"), **RUNS[name])[0]))


QUICK: dict[str, Any] = {"stage": "pretrain_grounder", "batch_size": 1, "save_steps": 1, "eval_steps": 1}


@pytest.fixture(scope="module")
def of_one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run that is over; to be copied."""
    folder = tmp_path_factory.mktemp("quick")
    finish(folder, **QUICK, steps=1)
    return folder


class TestGoingOn:
    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "step"), [("class names", 3), ("dialogues", 1), ("micro-batches", 3)])
    def test_a_run_that_died_goes_on_as_if_it_had_not(
        self, name: str, step: int, straight: Straight, tmp_path: Path
    ) -> None:
        run_until(step, tmp_path, **RUNS[name])
        assert (tmp_path / "checkpoint-2").exists() == (step > 2)
        resumed, _ = finish(tmp_path, seed=5 if step > 2 else 0, **RUNS[name])  # fresh weights must not matter then
        assert differences(weights(resumed), straight(name)) == []
        fresh = weights(training_setup(tmp_path / "unused", **RUNS[name]))
        assert differences(fresh, straight(name))

    @pytest.mark.parametrize("flavour", ["official", "siglip"])  # whose Swin has other names in files than in memory
    def test_every_kind_of_model_goes_on(self, flavour: str, tmp_path: Path) -> None:
        values = {"stage": "grounded_chat", "flavour": flavour, "batch_size": 1, "num_points": 16}
        first, _ = finish(tmp_path, **values, steps=1)
        again, _ = finish(tmp_path, **values, steps=1, seed=5)
        assert differences(weights(again), weights(first)) == []

    @pytest.mark.parametrize("moment", ["at the end of a step", "while a checkpoint is written"])
    def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
        self, moment: str, straight: Straight, tmp_path: Path
    ) -> None:
        values = {**RUNS["dialogues"], "save_steps": 1}

        def kill() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def doomed() -> None:
            if moment == "at the end of a step":
                finish_with(AtStep(3, kill), tmp_path, **values)
            honest, saved = torch.save, []

            def save(*arguments: Any) -> None:
                saved.append(None)
                if len(saved) == 7:  # optimiser, scheduler, random states of each checkpoint: amid the third
                    kill()
                honest(*arguments)

            with mock.patch.object(torch, "save", save):
                finish(tmp_path, **values)

        assert in_children(1, doomed) == [-signal.SIGKILL]
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
        assert (tmp_path / ".writing").exists() == (moment != "at the end of a step")
        resumed, _ = finish(tmp_path, seed=5, **values)
        assert differences(weights(resumed), straight("dialogues")) == []
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]

    @pytest.mark.slow
    def test_a_run_killed_at_random_moments_ends_as_if_it_had_not(self, straight: Straight, tmp_path: Path) -> None:
        values = {**RUNS["dialogues"], "save_steps": 1}
        begin = time.monotonic()
        assert in_children(1, lambda: bool(finish(tmp_path / "whole", **values))) == [0]
        whole = time.monotonic() - begin
        moments, checkpoints = [], []
        for _ in range(4):
            moments.append(random.uniform(0.2, 0.8) * whole)  # others in each run of this test
            seed = 0 if last_checkpoint(tmp_path / "cut") is None else 5
            in_children(1, lambda seed=seed: bool(finish(tmp_path / "cut", seed=seed, **values)), moments[-1])
            checkpoints.append(last_checkpoint(tmp_path / "cut"))
        seed = 0 if last_checkpoint(tmp_path / "cut") is None else 5
        resumed, _ = finish(tmp_path / "cut", seed=seed, **values)
        assert differences(weights(resumed), straight("dialogues")) == [], (moments, checkpoints)
        assert not [path.name for path in (tmp_path / "cut").iterdir() if path.name.startswith(".")]

    def test_a_run_asked_to_stop_saves_and_goes_on_when_told_to(
        self, straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        values = {**RUNS["micro-batches"], "save_steps": 100}
        before = signal.getsignal(signal.SIGTERM)
        with caplog.at_level(logging.INFO, logger="llava_grounding"):
            asked = AtStep(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert finish_with(asked, tmp_path, **values)[1] == {}
        assert "stopped at step 3; the same command resumes from there" in caplog.text
        assert signal.getsignal(signal.SIGTERM) is before
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
        assert not (tmp_path / "last").exists()
        resumed, metrics = finish(tmp_path, seed=5, **values)
        assert differences(weights(resumed), straight("micro-batches")) == []
        assert metrics
        assert [row["step"] for row in log_of(tmp_path) if "loss" in row] == [1, 2, 3, 4]

    def test_a_finished_stage_run_again_only_validates(self, tmp_path: Path) -> None:
        values = {"stage": "pretrain_grounder", "steps": 2, "batch_size": 1}
        first, result = finish(tmp_path, **values)
        again, repeated = finish(tmp_path, seed=7, **values)
        assert repeated == result
        assert differences(weights(again), weights(first)) == []
        assert [row["step"] for row in log_of(tmp_path) if "loss" in row] == [1, 2]

    def test_values_that_changed_meanwhile_are_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        values = {"stage": "pretrain_grounder", "batch_size": 1, "save_steps": 1}
        with caplog.at_level(logging.WARNING, logger="llava_grounding"):
            run_until(2, tmp_path, **values)
            finish(tmp_path, **values)
            assert "going on with another" not in caplog.text
            finish(tmp_path, **{**values, "learning_rate": 0.5})
        told = [line for line in caplog.messages if line.startswith("going on with another")]
        assert told == [f"going on with another `learning_rate`: 0.5, until now {recipe('chat').learning_rate}"]
        (tmp_path / "recipe.json").write_text("[1]")
        finish(tmp_path, **values)  # a damaged note of it stops nobody

    @pytest.mark.parametrize(
        ("values", "repeated"),
        [
            ({"seed": 3}, "scenes"),
            ({"seed": 4}, None),
            ({"seed": 3, "data": [{"kind": "scenes", "weight": 7, "name": "others"}]}, None),
            ({"seed": 3, "data": [{"kind": "photos"}, {"kind": "scenes"}]}, None),
        ],
    )
    def test_a_start_that_learnt_the_same_samples_first_is_warned_of(
        self, values: dict[str, Any], repeated: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "first" / "last").mkdir(parents=True)
        (tmp_path / "second").mkdir()
        start = str(tmp_path / "first" / "last")
        with caplog.at_level(logging.WARNING, logger="llava_grounding"):
            run._write_recipe(recipe("chat", seed=3, data=[{"kind": "scenes", "weight": 2}]), tmp_path / "first")
            run._write_recipe(recipe("chat", start_from=start, **values), tmp_path / "second")
            run._write_recipe(recipe("chat", start_from="nano", **values), tmp_path / "second")
            (tmp_path / "first" / "recipe.json").write_text('{"seed": 3, "data": [1]}')
            run._write_recipe(recipe("chat", start_from=start, **values), tmp_path / "second")
        told = [line for line in caplog.messages if line.endswith("another seed orders and draws them anew")]
        assert len(told) == (repeated is not None)
        assert repeated is None or f"samples of {repeated} that it began with" in told[0]

    def test_the_same_seed_gives_the_same_weights_and_others_give_others(
        self, straight: Straight, tmp_path: Path
    ) -> None:
        again, _ = finish(tmp_path / "again", **RUNS["class names"])
        assert differences(weights(again), straight("class names")) == []
        other, _ = finish(tmp_path / "other", data_seed=1, **RUNS["class names"])
        assert "class_phrases.embeds" in differences(weights(other), straight("class names"))

    @pytest.mark.slow
    def test_worker_processes_change_nothing(self, straight: Straight, tmp_path: Path) -> None:
        setup, _ = finish(tmp_path, **RUNS["micro-batches"], workers=2)
        assert differences(weights(setup), straight("micro-batches")) == []

    def test_a_checkpoint_of_another_model_or_a_damaged_one_is_named(self, tmp_path: Path) -> None:
        values = {"stage": "pretrain_grounder", "steps": 1, "batch_size": 1}
        finish(tmp_path, **values)
        checkpoint = tmp_path / "checkpoint-1"
        with pytest.raises(CheckpointError, match=r"`.*checkpoint-1` is damaged.*(other parameters|another model)"):
            finish(tmp_path, flavour="siglip", **{**values, "stage": "chat"})
        (checkpoint / "model.safetensors").write_bytes(b"x" * 100)
        with pytest.raises(CheckpointError, match=r"the checkpoint `.*checkpoint-1` is damaged"):
            finish(tmp_path, **values)
        (checkpoint / "trainer_state.json").unlink()
        with pytest.raises(CheckpointError, match=r"`.*checkpoint-1` lacks trainer_state\.json"):
            finish(tmp_path, **values)


class TestWhatIsKept:
    def test_only_the_newest_checkpoints_are_kept(self, tmp_path: Path) -> None:
        finish(tmp_path, **QUICK, save_total_limit=2)
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]

    @pytest.mark.parametrize("victim", ["optimizer", "model", "best"])
    def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_what_was_there_whole(
        self, victim: str, of_one_step: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(of_one_step, tmp_path, dirs_exist_ok=True)
        kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "log.jsonl"}
        with self.full_disk(victim), pytest.raises(CheckpointError) as caught:
            finish(tmp_path, **QUICK)
        what = "best" if victim == "best" else "checkpoint-2"
        assert str(caught.value) == f"cannot write `{what}` in `{tmp_path}`: [Errno 28] No space left on device"
        after = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != "log.jsonl"}
        assert kept.keys() <= after
        best = {path for path in kept if path.parent.name == "best"}
        changed = {path for path in kept if path.read_bytes() != kept[path]} - {tmp_path / "recipe.json"}
        assert changed <= (set() if victim == "best" else best)
        assert not list(tmp_path.glob(".*"))  # the room is given back
        finish(tmp_path, **{**QUICK, "steps": 2})
        assert (tmp_path / "last").exists()

    def full_disk(self, victim: str) -> Any:
        """Something that writes half of a file and then fails."""
        if victim == "optimizer":
            owner, name = torch, "save"
        else:
            owner, name = LlavaGroundingForConditionalGeneration, "save_pretrained"
        honest = getattr(owner, name)

        def fail(first: Any, place: Any, *arguments: Any, **keywords: Any) -> None:
            if (Path(place).name == ".best.writing") == (victim == "best"):
                target = Path(place) if name == "save" else Path(place) / "model.safetensors"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"half")
                raise OSError(28, "No space left on device")
            honest(first, place, *arguments, **keywords)

        return mock.patch.object(owner, name, fail)

    def test_the_best_validation_survives_a_stop(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scores = iter([0.3, 0.9, 0.5, 0.4])
        monkeypatch.setattr("llava_grounding.train.run.Validation.__call__", lambda *_: {"class_f1": next(scores)})
        run_until(3, tmp_path, **QUICK)
        best = (tmp_path / "best/model.safetensors").read_bytes()
        assert finish(tmp_path, **QUICK)[1] == {"class_f1": 0.4}
        assert (tmp_path / "best/model.safetensors").read_bytes() == best
        assert (tmp_path / "last/model.safetensors").read_bytes() != best
        assert json.loads((tmp_path / "best/validation.json").read_text()) == {"class_f1": 0.9}
        assert [row["class_f1"] for row in log_of(tmp_path) if "class_f1" in row] == [0.3, 0.9, 0.5, 0.4]

    def test_a_best_that_was_moved_aside_when_the_run_was_killed_comes_back(self, tmp_path: Path) -> None:
        finish(tmp_path, **QUICK)
        kept = (tmp_path / "best/model.safetensors").read_bytes()
        (tmp_path / "best").rename(tmp_path / ".best.old")
        (tmp_path / ".best.writing").mkdir()
        (tmp_path / ".best.old/validation.json").write_text('{"class_f1": 2.0}')
        finish(tmp_path, **{**QUICK, "steps": 5})
        assert (tmp_path / "best/model.safetensors").read_bytes() == kept
        assert not list(tmp_path.glob(".*"))

    def test_a_run_leaves_its_recipe_its_log_and_folders_that_load(self, tmp_path: Path) -> None:
        setup, result = finish(tmp_path, steps=2, eval_steps=2)
        assert {"class_f1", "phrase_f1", "language_loss"} <= result.keys()
        assert json.loads((tmp_path / "recipe.json").read_text())["steps"] == 2
        for folder in (tmp_path / "best", tmp_path / "last"):
            model = LlavaGroundingForConditionalGeneration.from_pretrained(folder)
            assert differences(model.state_dict(), setup.model.state_dict()) == []
            assert LlavaGroundingProcessor.from_pretrained(folder).settings == setup.processor.settings
            phrases = load_class_phrases(folder)
            assert phrases.names == NAMES
            assert setup.phrases is not None
            assert differences(phrases.state_dict(), setup.phrases.state_dict()) == []

    def test_class_phrases_come_back_and_a_folder_without_them_is_named(self, tmp_path: Path) -> None:
        setup = training_setup(tmp_path)
        assert setup.phrases is not None
        save_whole(setup.training_module, setup.processor, tmp_path / "last")
        again = load_class_phrases(tmp_path / "last")
        assert again.index == {"cat": 1, "dog": 2, "tree": 3}
        assert torch.equal(again.embeds, setup.phrases.embeds)
        with pytest.raises(CheckpointError) as caught:
            load_class_phrases(tmp_path)
        assert str(caught.value) == f"`{tmp_path}` holds no class phrases of an earlier stage"
        (tmp_path / "last/class_phrases.json").write_text("[")
        with pytest.raises(CheckpointError, match="holds no class phrases"):
            load_class_phrases(tmp_path / "last")
        save_phrases(again, tmp_path)
        assert torch.equal(load_class_phrases(tmp_path).embeds, setup.phrases.embeds)


class TestWhatMoves:
    def moved(self, folder: Path, **values: Any) -> set[str]:
        setup = training_setup(folder, **values)
        before = {name: value.clone() for name, value in weights(setup).items()}
        run_stage(setup, "cpu")
        return set(differences(weights(setup), before))

    def test_vision_pretraining_leaves_the_language_model_alone(self, tmp_path: Path) -> None:
        moved = self.moved(tmp_path, stage="pretrain_grounder", steps=2, weight_decay=0.5)
        language = ("language_model", "lm_head", "phrase_projector", "multi_modal_projector", "visual_prompt_encoder")
        assert not {name for name in moved if name.split(".")[1] in language}
        assert {"model.grounder.query_selection.projection.weight", "model.vision_tower.anything"} <= moved
        assert "class_phrases.embeds" in moved

    def test_a_frozen_grounder_stays_with_its_statistics_while_the_language_side_learns(self, tmp_path: Path) -> None:
        moved = self.moved(tmp_path, steps=2, freeze=["grounder"])
        assert not {name for name in moved if name.startswith("model.grounder.")}
        for part in ("language_model", "multi_modal_projector", "phrase_projector"):
            assert any(name.startswith(f"model.{part}.") for name in moved), part
        names = log_of(tmp_path)[0].keys()
        assert {"language", "phrase_loss"} <= names
        assert not {name for name in names if name.startswith("class_")}

    def test_the_first_step_moves_already_and_bfloat16_products_leave_float32_weights(self, tmp_path: Path) -> None:
        setup = training_setup(tmp_path, steps=1, bf16=True)
        before = {name: value.clone() for name, value in weights(setup).items()}
        result = run_stage(setup, "cpu")
        assert all(math.isfinite(value) for value in [*result.values(), *log_of(tmp_path)[0].values()])
        assert {parameter.dtype for parameter in setup.training_module.parameters()} == {torch.float32}
        assert "model.lm_head.weight" in differences(weights(setup), before)

    def test_each_learning_weight_is_in_one_group_of_the_optimiser_with_its_rate(self, tmp_path: Path) -> None:
        setup = training_setup(
            tmp_path, learning_rate=0.1, vision_lr_multiplier=0.5, weight_decay=0.02, freeze=["visual_prompt_encoder"]
        )
        trainer = run._trainer(setup, training_arguments(setup.recipe, tmp_path, "cpu"), 0)
        found: dict[int, tuple[float, float]] = {}
        for group in trainer.create_optimizer().param_groups:
            for parameter in group["params"]:
                assert id(parameter) not in found
                found[id(parameter)] = (group["lr"], group["weight_decay"])
        assert found.keys() == {id(one) for one in setup.training_module.parameters() if one.requires_grad}
        assert setup.phrases is not None
        for part, rate in (
            (setup.model.grounder, 0.05),
            (setup.model.vision_tower, 0.05),
            (setup.phrases, 0.05),
            (setup.model.language_model, 0.1),
            (setup.model.multi_modal_projector, 0.1),
        ):
            for parameter in part.parameters():
                assert found[id(parameter)] == (rate, 0.02 if parameter.ndim > 1 else 0.0)


def test_a_damaged_checkpoint_leaves_nothing_half_loaded_unsaid(tmp_path: Path) -> None:
    setup = training_setup(tmp_path, stage="pretrain_grounder", steps=1, batch_size=1)
    run_stage(setup, "cpu")
    shutil.copyfile(tmp_path / "last/class_phrases.safetensors", tmp_path / "checkpoint-1/model.safetensors")
    with pytest.raises(CheckpointError, match="is of another model: model"):
        load_training_module(setup.training_module, tmp_path / "checkpoint-1")
