"""Damaged files of a checkpoint that a run would resume from: one error that names them, before anything is trained."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from running import finish
from small_training import training_setup

from llava_grounding.errors import CheckpointError
from llava_grounding.train.checkpoint import CONTENTS_FILE, kept_metrics, require_whole
from llava_grounding.train.plan import parameter_groups
from llava_grounding.train.resume import check_resumable, needed_files, seconds_done, steps_done

QUICK: dict[str, Any] = {"stage": "pretrain_grounder", "batch_size": 1, "save_steps": 1, "validation_samples": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step whose checkpoint does not say what it holds; to be copied."""
    folder = tmp_path_factory.mktemp("run")
    finish(folder, **QUICK, steps=1)
    (folder / "checkpoint-1" / CONTENTS_FILE).unlink()
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The parameters of the same run."""
    setup = training_setup(tmp_path_factory.mktemp("other"), **QUICK)
    return parameter_groups(setup.training_module.named_parameters(), setup.recipe)


@pytest.fixture
def checkpoint(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "checkpoint-1", tmp_path / "checkpoint-1"))


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_what_torch_saved_is_named_where_it_is_damaged(
    name: str, checkpoint: Path, groups: list[dict[str, Any]]
) -> None:
    path = checkpoint / name
    whole = path.read_bytes()
    check_resumable(checkpoint, groups)
    others = [saved(value) for value in ([1], {}, {"a": torch.ones(2)}, None, {"state": {}, "param_groups": [{}]})]
    for data in (
        b"",
        whole[:-100],
        whole[: len(whole) // 2],
        b"PK",
        pickle.dumps({"a": 1}),
        pickle.dumps(os.getcwd),
        *others,
    ):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"checkpoint-1` is damaged: {name} cannot be read: "):
            check_resumable(checkpoint, groups)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=name):
        check_resumable(checkpoint, groups)


def test_an_optimizer_of_other_sizes_is_named(checkpoint: Path, groups: list[dict[str, Any]]) -> None:
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    number = next(iter(state["state"]))
    state["state"][number]["exp_avg"] = torch.ones(1, 2, 3)
    torch.save(state, checkpoint / "optimizer.pt")
    with pytest.raises(
        CheckpointError, match=r"optimizer\.pt cannot be read: it is of an optimizer of other parameters"
    ):
        check_resumable(checkpoint, groups)


def test_a_run_refuses_it_before_it_trains(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "checkpoint-1" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoint-1` is damaged: optimizer\.pt"):
        finish(folder, **QUICK, steps=2)


@pytest.mark.parametrize("change", [
    {"global_step": float("inf")}, {"global_step": -3}, {"global_step": 1e30}, {"global_step": 10**400},
    {"global_step": "1"}, {"global_step": True}, {"global_step": None}, {"soup": 1}, {"log_history": [1]},
    {"log_history": [{}]}, {"max_steps": []}, {"is_local_process_zero": 1}, {"stateful_callbacks": [1]},
    {"best_model_checkpoint": 0},
])  # fmt: skip
def test_a_state_that_no_trainer_writes_is_named(change: dict[str, Any], checkpoint: Path) -> None:
    path = checkpoint / "trainer_state.json"
    assert steps_done(checkpoint) == 1
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=r"checkpoint-1` is damaged: trainer_state\.json cannot be read: "):
        steps_done(checkpoint)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "{", "{}", "\udc80"], ids=range(5))
def test_json_that_is_none_of_ours_is_named(text: str, checkpoint: Path) -> None:
    data = text.encode("utf-8", "surrogateescape")
    for name in ("trainer_state.json", "seconds.json", "validation.json"):
        (checkpoint / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"trainer_state\.json"):
        steps_done(checkpoint)
    with pytest.raises(CheckpointError, match=r"seconds\.json"):
        seconds_done(checkpoint, "seconds.json")
    if text != "{}":
        with pytest.raises(CheckpointError, match=r"validation\.json` cannot be read: "):
            kept_metrics(checkpoint)


@pytest.mark.parametrize("seconds", [-1, "3", None, True, float("nan"), float("inf"), 10**400], ids=range(7))
def test_a_time_that_is_none_is_named(seconds: object, checkpoint: Path) -> None:
    (checkpoint / "seconds.json").write_text(json.dumps({"seconds": seconds}))
    with pytest.raises(CheckpointError, match=r"does not say in seconds\.json how long the run had taken"):
        seconds_done(checkpoint, "seconds.json")


@pytest.mark.parametrize("values", [{"phrase_f1": "high"}, {"phrase_f1": [1]}, {"phrase_f1": 10**400}], ids=range(3))
def test_a_validation_of_other_than_numbers_is_named(values: object, tmp_path: Path) -> None:
    (tmp_path / "validation.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"validation\.json` cannot be read: "):
        kept_metrics(tmp_path)


ELSEWHERE = ("a" * 5000, "../../etc/passwd", "/etc/passwd", "a/../b", "", "a\0b")


@pytest.mark.parametrize(
    "contents",
    ["[" * 100_000, '{"optimizer.pt": true}', '{"optimizer.pt": -1}', *(json.dumps({name: 1}) for name in ELSEWHERE)],
    ids=range(3 + len(ELSEWHERE)),
)
def test_contents_name_files_of_their_own_folder(contents: str, checkpoint: Path) -> None:
    (checkpoint / CONTENTS_FILE).write_text(contents)
    with pytest.raises(CheckpointError, match=rf"checkpoint-1/{CONTENTS_FILE}`"):
        require_whole(checkpoint)


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "rng_state.pth"])
def test_contents_that_are_empty_do_not_make_a_checkpoint_whole(name: str, checkpoint: Path) -> None:
    (checkpoint / CONTENTS_FILE).write_text("{}")
    require_whole(checkpoint, needed_files(checkpoint, sharded=False))
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {name}:"):
        require_whole(checkpoint, needed_files(checkpoint, sharded=False))
