"""The folder of a run that somebody has filled: nothing that its names lead to is written over, cut or waited for."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_grounding.errors import UsageError
from llava_grounding.train.checkpoint import checkpoints, discard, last_checkpoint, recover
from llava_grounding.train.run_folder import held, write_recipe

TEXT = '[{"id": 1}]\n[{"id'
STAGE = '{"stage": "chat"}'
LINKS = [os.link, lambda target, path: path.symlink_to(Path("..", target.name))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file that a run is to leave alone, beside the folder of the run."""
    path = tmp_path / "instances.json"
    path.write_text(TEXT)
    (tmp_path / "run").mkdir()
    return path


def hold(folder: Path) -> None:
    with held(folder):
        pass


@pytest.mark.parametrize("link", LINKS, ids=["hard", "symbolic"])
@pytest.mark.parametrize("name", [".lock", "recipe.json", "log.jsonl"])
def test_no_file_of_a_run_is_another_one(name: str, link: Callable[[Path, Path], None], data: Path) -> None:
    folder = data.parent / "run"
    link(data, folder / name)
    with pytest.raises(UsageError, match=rf"{name}"):
        hold(folder)
    assert (data.read_text(), (folder / name).read_text()) == (TEXT, TEXT)


@pytest.mark.parametrize("link", LINKS, ids=["hard", "symbolic"])
def test_a_recipe_is_not_written_through_a_link(link: Callable[[Path, Path], None], data: Path) -> None:
    folder = data.parent / "run"
    link(data, folder / "recipe.json")
    write_recipe(folder, STAGE)
    assert ((folder / "recipe.json").read_text(), data.read_text()) == (STAGE, TEXT)
    link(data, folder / ".best.removed")
    (folder / ".writing").symlink_to(data.parent)
    hold(folder)
    assert ([path.name for path in folder.iterdir()], data.read_text()) == (["recipe.json"], TEXT)


@pytest.mark.parametrize("name", ["best", "last", "pictures", "checkpoint-2"])
def test_no_folder_of_a_run_is_a_link_or_a_file(name: str, data: Path) -> None:
    folder, elsewhere = data.parent / "run", data.parent / "elsewhere"
    elsewhere.mkdir()
    write_recipe(folder, STAGE)
    for make in (lambda path: path.symlink_to("../elsewhere"), lambda path: path.symlink_to("nowhere"), Path.touch):
        make(folder / name)
        with pytest.raises(UsageError, match=f"has {name} in it that no run wrote there"):
            hold(folder)
        (folder / name).unlink()


@pytest.mark.parametrize("name", [".best.writing", ".best.old", ".last.old", ".checkpoint-1.removed", ".writing"])
def test_nothing_is_removed_or_put_in_place_through_a_link(name: str, data: Path) -> None:
    folder = data.parent / "run"
    write_recipe(folder, STAGE)
    (folder / name).symlink_to("..")
    recover(folder / "best")
    hold(folder)
    (folder / "checkpoint-1").mkdir()
    (folder / ".checkpoint-1.removed").symlink_to("..")
    discard(folder / "checkpoint-1")
    assert [path.name for path in folder.iterdir()] == ["recipe.json"]
    assert data.read_text() == TEXT


@pytest.mark.parametrize("name", [".lock", "recipe.json", "log.jsonl"])
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")],
    ids=["pipe", "folder", "dangling link"],
)
def test_what_is_no_file_is_named(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(UsageError, match=rf"{name}"):
        hold(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_somebody_elses_lock_stays(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("mine")
    with pytest.raises(UsageError, match=r"has \.lock in it that no run wrote there"):
        hold(tmp_path)
    assert (tmp_path / ".lock").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"a run needs a folder for its results, and `.*run` cannot be made"):
        hold(tmp_path / "run")


def test_a_recipe_nested_too_deep_is_damaged_and_no_loss(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("[" * 100_000)
    hold(tmp_path)


def test_only_folders_with_a_plain_number_are_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-\N{ARABIC-INDIC DIGIT THREE}0", "checkpoint-011"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    (tmp_path / "checkpoint-99").write_text("mine")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "recipe.json").write_text(STAGE)
    with pytest.raises(UsageError, match="has checkpoint-99 in it that no run wrote there"):
        hold(tmp_path)
    assert (tmp_path / "checkpoint-99").read_text() == "mine"
