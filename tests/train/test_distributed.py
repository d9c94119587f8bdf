"""Several processes are one: equal steps however a batch is split, and none waits for another for ever."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from hand_made import four_samples
from running import UNEQUAL, AtStep, Listed, differences, finish, finish_with, in_children, log_of, weights
from safetensors.torch import load_file, save_file
from small_training import training_setup
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

import whole_models
from llava_grounding.errors import ConfigError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.checkpoint import load_training_module, save_training_module, save_whole
from llava_grounding.train.losses.step_losses import Shares
from llava_grounding.train.run import run_stage
from llava_grounding.train.training_setup import TrainingSetup
from llava_grounding.train.validation import Validation

SETTINGS: dict[str, Any] = {
    "stage": "grounded_chat",
    "flavour": "official",  # no batch norm, whose statistics are those of one process
    "batch_size": 4,
    "steps": 2,
    "max_grad_norm": 0.0,
    "learning_rate": 1e-4,
}


@pytest.fixture(scope="module", autouse=True)
def without_dropout() -> Iterator[None]:
    """Processes throw their own."""
    with mock.patch.dict(whole_models.SWIN, {"drop_path_rate": 0.0}):
        yield


@pytest.fixture(scope="class")
def plain_descent() -> Iterator[None]:
    """AdamW makes a whole step of a gradient of rounding errors; plain descent shows gradients as they are."""
    with mock.patch("torch.optim.AdamW", lambda groups, lr, betas: torch.optim.SGD(groups, lr=lr)):
        yield


def unequal(folder: Path, **values: Any) -> TrainingSetup:
    return training_setup(folder, source=Listed(UNEQUAL), **{**SETTINGS, **values})


def way(folder: Path, **values: Any) -> dict[str, Tensor]:
    """How far a run in one process takes each weight."""
    start = {name: value.clone() for name, value in weights(unequal(folder)).items()}
    setup, _ = finish(folder, source=Listed(UNEQUAL), **{**SETTINGS, **values})
    return {name: value - start[name] for name, value in weights(setup).items()}


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Of two ways, as a share of their length."""
    lengths = [
        torch.cat([value.float().flatten() for value in one.values()]).norm()
        for one in ({name: ours[name] - value for name, value in theirs.items()}, theirs)
    ]
    return float(lengths[0] / lengths[1])


@dataclass(frozen=True)
class Run:
    """How far one process takes each weight with whole batches, and what it logs."""

    way: dict[str, Tensor]
    log: list[dict[str, float]]


@pytest.fixture(scope="class")
def alone(plain_descent: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nobody may change it."""
    folder = tmp_path_factory.mktemp("whole")
    return Run(way(folder), log_of(folder))


@pytest.mark.usefixtures("plain_descent")
class TestStepsAreEqual:
    @pytest.mark.slow
    def test_however_they_are_split_within_a_process(
        self, alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = alone.way
        assert distance(way(tmp_path / "split", micro_batch_size=1), whole) < 1e-4
        for row, other in zip(alone.log, log_of(tmp_path / "split"), strict=True):
            names = [name for name in row if "loss" in name or name in ("language", "grad_norm")]
            assert [other[name] for name in names] == pytest.approx([row[name] for name in names], rel=1e-3)
        monkeypatch.setattr(Shares, "of", lambda batch, totals: Shares(0.25, 0.25, 0.25))
        assert distance(way(tmp_path / "naive", micro_batch_size=1), whole) > 0.1  # a mean of means would be seen

    @pytest.mark.parametrize("values", [{}, {"micro_batch_size": 1}], ids=["at once", "in micro-batches"])
    def test_however_many_processes_take_them(self, values: dict[str, Any], alone: Run, tmp_path: Path) -> None:
        whole = alone.way
        start = weights(unequal(tmp_path))
        assert in_children(2, lambda: finish(tmp_path / "two", source=Listed(UNEQUAL), **SETTINGS, **values)) == [0, 0]
        end = load_file(tmp_path / "two/checkpoint-2/model.safetensors")
        two = {f"model.{name}": value - start[f"model.{name}"] for name, value in end.items()}
        assert distance(two, {name: whole[name] for name in two}) < 1e-4
        for row, other in zip(alone.log, log_of(tmp_path / "two"), strict=True):
            names = [name for name in row if name not in ("time", "samples_s")]
            assert [other[name] for name in names] == pytest.approx([row[name] for name in names], rel=1e-3)


@pytest.mark.slow
def test_processes_without_a_phrase_or_an_own_sample_to_validate_do_not_make_others_wait(tmp_path: Path) -> None:
    values = {**SETTINGS, "batch_size": 2, "eval_steps": 1, "num_points": 16}
    mute, telling = UNEQUAL[1], UNEQUAL[0]

    def job() -> None:
        setup = training_setup(tmp_path, source=Listed([mute, telling]), **values)
        setup.held_out = setup.held_out[:1]
        run_stage(setup, "cpu")

    assert in_children(2, job) == [0, 0]
    rows = [row for row in log_of(tmp_path) if "loss" in row]
    assert all({"language", "phrase_loss"} <= row.keys() for row in rows)
    assert all("phrase_f1" in row for row in log_of(tmp_path) if "loss" not in row)


@pytest.mark.slow
def test_one_process_that_is_asked_to_stop_stops_all_of_them(tmp_path: Path) -> None:
    def job() -> None:
        def ask() -> None:
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)

        assert finish_with(AtStep(2, ask), tmp_path, source=Listed(UNEQUAL), **{**SETTINGS, "steps": 4})[1] == {}

    assert in_children(2, job) == [0, 0]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_more_processes_than_samples_are_reported(tmp_path: Path) -> None:
    def job() -> None:
        with pytest.raises(ConfigError, match="batch_size must be at least the number of processes, 2, got 1"):
            finish(tmp_path, **{**SETTINGS, "batch_size": 1})

    assert in_children(2, job) == [0, 0]


class TestSharedWeights:
    """FSDP2 by torch's own calls: accelerate makes plain copies of it where there is no accelerator."""

    @pytest.mark.slow
    @pytest.mark.parametrize("stage", ["grounded_chat", "chat"])
    def test_losses_gradients_and_what_is_kept_are_those_of_whole_weights(self, stage: str, tmp_path: Path) -> None:
        setup = unequal(tmp_path, stage=stage)
        setup.training_module.train()
        batch = setup.stream().batch(0).batch
        losses = setup.training_module(batch)
        losses["loss"].backward()
        found = {name: one.grad for name, one in setup.training_module.named_parameters() if one.grad is not None}
        save_file({name: value.contiguous() for name, value in found.items()}, tmp_path / "gradients")
        save_training_module(setup.training_module, setup.processor, tmp_path / "kept")

        def job() -> None:
            dist.init_process_group("gloo")
            ours = unequal(tmp_path, stage=stage, seed=3)  # loaded weights must replace these
            training_module = ours.training_module
            assert training_module._no_split_modules
            for part in list(training_module.modules()):
                if type(part).__name__ in training_module._no_split_modules:
                    fully_shard(part)
            training_module.lengthen_scalars()
            fully_shard(training_module)
            load_training_module(training_module, tmp_path / "kept")
            training_module.train()
            shared = training_module(batch)
            torch.testing.assert_close(shared["loss"], losses["loss"].detach(), rtol=1e-4, atol=1e-4)
            shared["loss"].backward()
            wanted = load_file(tmp_path / "gradients")
            gradients = {n: p.grad.full_tensor() for n, p in training_module.named_parameters() if p.grad is not None}
            assert wanted.keys() <= gradients.keys()
            assert distance({name: gradients[name] for name in wanted}, wanted) < 1e-4
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state = get_model_state_dict(training_module, options=options)
            if dist.get_rank() == 0:
                save_whole(training_module, ours.processor, tmp_path / "whole", state)

        assert in_children(2, job) == [0, 0]
        save_whole(setup.training_module, setup.processor, tmp_path / "wanted")
        for name in ("model.safetensors", *(["class_phrases.safetensors"] if stage == "chat" else [])):
            assert differences(load_file(tmp_path / "whole" / name), load_file(tmp_path / "wanted" / name)) == []

    @pytest.mark.slow
    def test_they_can_be_looked_at_and_learn_in_half_precision(self, tmp_path: Path) -> None:
        validation = Validation(four_samples()[:1], unequal(tmp_path).processor, chat=True)

        def job() -> None:
            dist.init_process_group("gloo")
            training_module = unequal(tmp_path, stage="chat", bf16=True).training_module
            training_module.lengthen_scalars()
            for part in list(training_module.modules()):
                if type(part).__name__ in training_module._no_split_modules:
                    fully_shard(part)
            fully_shard(training_module)
            batch = unequal(tmp_path, stage="chat").stream().batch(0).batch
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    assert "phrase_f1" in training_module.eval()(validation)  # before anything was learnt, too
                    losses = training_module.train()(batch)
                losses["loss"].backward()
                assert all(bool(one.isfinite()) for one in losses.values())

        assert in_children(2, job) == [0, 0]

    @pytest.mark.gpu
    def test_a_run_with_fsdp_leaves_a_model_that_loads_and_goes_on(self, tmp_path: Path) -> None:
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        count = min(torch.cuda.device_count(), 2)
        script = Path(__file__).with_name("fsdp_run.py")
        for steps in (2, 4):
            line = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", str(script)]
            place = {"PYTHONPATH": os.pathsep.join(sys.path)}
            subprocess.run([*line, str(tmp_path), str(steps)], check=True, timeout=280, env=os.environ | place)
        assert [row["step"] for row in log_of(tmp_path) if "language" in row] == [1, 2, 3, 4]
        LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path / "last")
