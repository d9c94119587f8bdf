"""`train` refuses in one sentence what cannot be meant, before anything is opened or written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_engine import Result

from llava_grounding.cli import main
from llava_grounding.data.readers.coco import PACK_VARIABLE

Call = Callable[..., Result]
SCENES = "stage: pretrain_grounder\ndata: [{kind: scenes}]\nreport_to: []\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe; a run would fail the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PACK_VARIABLE, raising=False)
    (tmp_path / "r.yaml").write_text(SCENES)
    put_in_place_of_the_run(monkeypatch, lambda *_: pytest.fail("it ran"))
    return tmp_path


def put_in_place_of_the_run(monkeypatch: pytest.MonkeyPatch, train: Callable[..., object]) -> None:
    stand_in = SimpleNamespace(train=train, check_trackers=lambda _: None)
    monkeypatch.setitem(sys.modules, "llava_grounding.train.run", stand_in)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["r.yaml", "--device", "banana"], 2, "device must be cpu, cuda, cuda:N or mps, got `banana`"),
        (["r.yaml", "--device", "cuda:77"], 2, "device `cuda:77` is not there: this machine has"),
        (["r.yaml", "--device", "", "--check"], 2, "device must be cpu, cuda, cuda:N or mps, got ``"),
        (["custom_dat"], 2, "there is no recipe `custom_dat`; did you mean `custom_data`?"),
        (["configs/custom_data.yaml"], 2, "`custom_data` ships with the package and is found by that name"),
        (["."], 2, "cannot read the recipe `.`: Is a directory"),
        (["r.yaml", "steps"], 2, "an override must be key=value, got `steps`"),
        (["r.yaml", "--data", "nowhere"], 2, "--data `nowhere` is no folder"),
        (["r.yaml", "--data", ""], 2, "a path must not be empty"),
        (["r.yaml", "--out", ""], 2, "a path must not be empty"),
        (["r.yaml", "--out", "r.yaml"], 2, "--out must be a folder, but `r.yaml` is none"),
        (["custom_data", "--check"], 1, "give the folder that the files of the recipe are in: --data FOLDER"),
        (["custom_data", "--dry-run"], 1, "give the folder that the files of the recipe are in: --data FOLDER"),
        (["r.yaml", "--check", "data=[{kind: photos}]"], 1, "--data FOLDER"),
        (["r.yaml", f"data=[{{kind: custom, images: {'x' * 5000}}}]", "--dry-run"], 2, "must say `instances`"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    call: Call, place: Path, arguments: list[str], code: int, words: str
) -> None:
    result = call("train", *arguments)
    assert result.code == code
    assert result.out == "" or "--check" in arguments
    assert words in result.err
    assert result.err.count("\n") == 1
    assert len(result.err) < 700
    assert [path.name for path in place.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("run/recipe.json", [], "the recipe"),
        ("r.yaml", ["start_from=run/best"], "the model to start from"),
        ("r.yaml", ["start_from=run/checkpoint-5/model"], "the model to start from"),
        ("r.yaml", ["data=[{kind: custom, instances: run/log.jsonl, images: run}]"], "the data"),
    ],
)
def test_a_run_is_not_written_over_what_it_reads(
    call: Call, place: Path, recipe: str, overrides: list[str], words: str
) -> None:
    for folder in ("run/best", "run/checkpoint-5/model"):
        (place / folder).mkdir(parents=True)
    (place / "run/recipe.json").write_text('{"stage": "pretrain_grounder", "data": [{"kind": "scenes"}]}')
    (place / "run/log.jsonl").touch()
    (place / "link").symlink_to("run")
    for out in ("run", "./link/", "link"):
        result = call("train", recipe, *overrides, "--out", out)
        assert result.code == 2
        assert f"would overwrite {words} " in result.err


def test_a_recipe_that_ships_runs_from_any_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[object, ...]] = []
    put_in_place_of_the_run(monkeypatch, lambda *given: ran.append(given))
    assert main.run(["train", "nano_pretrain", "steps=3", "--data", "."]) == 0
    ((recipe, folder, root, device),) = ran
    assert (recipe.steps, folder, root, device) == (3, Path("runs/nano_pretrain"), Path(), None)
