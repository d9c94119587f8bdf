"""The arguments of transformers' Trainer: device, precision, sharding and trackers, as a recipe says or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import recipe

from llava_grounding.errors import ConfigError, MissingExtraError
from llava_grounding.train import run
from llava_grounding.train.run import training_arguments


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_they_build_without_warnings(sharding: str, tmp_path: Path) -> None:
    arguments = training_arguments(recipe(sharding=sharding), tmp_path, "cpu")
    assert bool(arguments.fsdp) == (sharding == "fsdp")
    assert sharding == "none" or arguments.fsdp_config["version"] == 2


@pytest.mark.parametrize("bf16", [True, False])
def test_a_run_is_where_it_was_told_to_be_or_nowhere(bf16: bool, tmp_path: Path) -> None:
    quick = recipe(bf16=bf16)
    for device in ("cpu", *(() if torch.cuda.is_available() else (None,))):
        assert training_arguments(quick, tmp_path, device).device == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device must be cpu, cuda, cuda:N or mps, got .banana."):
        training_arguments(quick, tmp_path, "banana")
    for device in ("cuda:7", "cuda", "mps"):
        if torch.cuda.is_available() or torch.backends.mps.is_available():
            continue
        with pytest.raises(ConfigError, match=rf"device `{device}` is not there"):
            training_arguments(quick, tmp_path, device)


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cuda:1", r"choose `cuda:1` by CUDA_VISIBLE_DEVICES=1 and the device `cuda`"),
        ("mps", "where `mps` is meant"),
    ],
)
def test_a_device_that_the_trainer_would_not_take_is_refused(
    device: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "choose_device", torch.device)  # as if it were there
    if torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(ConfigError, match=told):
        training_arguments(recipe(bf16=False), tmp_path, device)


@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_deepspeed_is_asked_for_by_name_where_it_is_missing(
    sharding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)

    def missing(**values: Any) -> None:
        assert values["deepspeed"]["zero_optimization"]["stage"] == int(sharding[-1])
        raise ImportError("deepspeed")

    monkeypatch.setattr(run, "TrainingArguments", missing)
    with pytest.raises(MissingExtraError) as caught:
        training_arguments(recipe(sharding=sharding), tmp_path, "cpu")
    line = 'pip install "llava-grounding[deepspeed]"'
    assert str(caught.value) == f"`sharding` {sharding} needs packages that are not installed; type `{line}`"


def test_trackers_that_do_not_exist_or_are_not_installed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"`report_to` names no tracker: `wandbb`; did you mean `wandb`\?"):
        training_arguments(recipe(report_to=["wandbb"]), tmp_path, "cpu")
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="`report_to` tensorboard needs packages"):
        training_arguments(recipe(report_to=["tensorboard"]), tmp_path, "cpu")
