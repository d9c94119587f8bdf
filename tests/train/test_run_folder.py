"""The folder of a run: held by one run at a time, never somebody else's, and only whole things in it are visible."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from running import finish, in_children
from small_training import recipe, training_setup

from llava_grounding.errors import CheckpointError, UsageError
from llava_grounding.train import run, run_folder
from llava_grounding.train.checkpoint import CLASS_PHRASE_FILES, CONTENTS_FILE, discard, last_checkpoint, remove_old
from llava_grounding.train.run_folder import held
from llava_grounding.train.training_setup import _earlier_phrases

QUICK: dict[str, Any] = {"stage": "pretrain_grounder", "batch_size": 1, "save_steps": 1, "validation_samples": 1}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints; to be copied."""
    folder = tmp_path_factory.mktemp("run")
    finish(folder, **QUICK, steps=2)
    return folder


def wait_for(sign: Path) -> None:
    end = time.monotonic() + 60
    while not sign.exists():
        assert time.monotonic() < end, f"{sign} never came"
        time.sleep(0.01)


class Elsewhere:
    """Another process that does a job until it is killed."""

    def __init__(self, job: Callable[[], None]) -> None:
        self.number = os.fork()
        if self.number == 0:
            try:
                job()
            finally:
                os._exit(1)

    def kill(self) -> None:
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestOneRunAtATime:
    def test_a_second_run_is_refused_while_the_first_lives_and_welcome_once_it_was_killed(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"

        def first() -> None:
            with held(folder):
                (tmp_path / "held").touch()
                signal.pause()

        other = Elsewhere(first)
        try:
            wait_for(tmp_path / "held")
            before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
            with pytest.raises(UsageError) as caught:
                run.run_stage(training_setup(folder, **QUICK), "cpu")
            assert str(caught.value).startswith(f"another run (process {other.number} on ")
            assert str(caught.value).endswith(
                f" writes to `{folder}`; wait for its end, or give another folder with --out"
            )
            with (
                mock.patch.object(run, "build_training_setup") as loading,
                pytest.raises(UsageError, match="another run"),
            ):
                run.train(recipe(**QUICK), folder)
            assert not loading.called
            assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        finally:
            other.kill()
        assert (folder / ".lock").exists()
        with held(folder):
            pass
        assert not list(folder.iterdir())

    def test_a_worker_that_outlives_its_run_does_not_hold_the_folder(self, tmp_path: Path) -> None:
        def with_worker() -> None:
            with held(tmp_path):
                worker = os.fork()
                if worker == 0:
                    (tmp_path / "forked").touch()
                    signal.pause()
                (tmp_path / "aside").write_text(str(worker))
                (tmp_path / "aside").replace(tmp_path / "worker")
                signal.pause()

        other = Elsewhere(with_worker)
        wait_for(tmp_path / "forked")
        wait_for(tmp_path / "worker")
        other.kill()
        worker = int((tmp_path / "worker").read_text())
        try:
            with held(tmp_path):
                os.kill(worker, 0)  # is still there
        finally:
            os.kill(worker, signal.SIGKILL)

    def test_two_threads_of_one_process_are_two_runs(self, tmp_path: Path) -> None:
        told: list[str] = []

        def second() -> None:
            try:
                with held(tmp_path):
                    told.append("held twice")
            except UsageError as error:
                told.append(str(error))

        with held(tmp_path):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        assert len(told) == 1
        assert told[0].startswith("another run (process ")
        with held(tmp_path):
            pass

    def test_a_lock_that_was_removed_by_its_holder_is_not_taken_for_the_folders(self, tmp_path: Path) -> None:
        honest, locks = run_folder.fcntl.flock, []

        def late(handle: int, how: int) -> None:
            if not locks:  # the holder ends between our opening of the file and our locking it
                (tmp_path / ".lock").unlink()
            locks.append(handle)
            honest(handle, how)

        with mock.patch.object(run_folder.fcntl, "flock", late), held(tmp_path):
            assert len(locks) == 2
            with pytest.raises(UsageError), held(tmp_path):
                pass

    def test_where_files_cannot_be_locked_a_run_goes_on(self, tmp_path: Path) -> None:
        refusing = mock.Mock(side_effect=OSError(95, "Operation not supported"))
        with mock.patch.object(run_folder.fcntl, "flock", refusing), held(tmp_path / "a"):
            pass
        with mock.patch.object(run_folder, "fcntl", None), held(tmp_path / "b"):
            pass
        assert not (tmp_path / "b" / ".lock").exists()

    def test_a_run_that_fails_gives_the_folder_back(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), held(tmp_path):
            raise ZeroDivisionError
        assert not list(tmp_path.iterdir())
        with held(tmp_path):
            pass


class TestWhatIsThere:
    @pytest.mark.parametrize("name", ["best", "last", "pictures", "log.jsonl", "checkpoint-7"])
    def test_a_folder_of_something_else_is_left_alone(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
        with pytest.raises(UsageError) as caught, held(tmp_path):
            pass
        assert str(caught.value) == (
            f"`{tmp_path}` has {name} in it that no run wrote there, and a run would write over it; "
            f"give an empty folder with --out"
        )
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_a_recipe_that_is_none_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.json").write_text('{"soup": "two carrots"}')
        with pytest.raises(UsageError, match=r"has recipe\.json in it that no run wrote there"), held(tmp_path):
            pass

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("mine")
        with pytest.raises(UsageError, match=r"a run needs a folder for its results, and `.*run` is a file"):
            run.run_stage(training_setup(tmp_path / "run", **QUICK), "cpu")
        assert (tmp_path / "run").read_text() == "mine"

    def test_other_things_beside_are_no_hindrance(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with held(tmp_path):
            pass
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_leftovers_of_a_killed_run_go_and_half_a_line_of_its_log(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.json").write_text("{")  # a damaged note is no loss
        (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
        for name in (".checkpoint-1.removed", ".writing", ".best.writing", ".best.old"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "half").touch()
        with held(tmp_path):
            assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "best", "log.jsonl", "recipe.json"]
        assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


class TestWholeCheckpoints:
    def copied(self, two_steps: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(two_steps, tmp_path / "run"))

    @pytest.mark.parametrize(
        "lost",
        [
            ["optimizer.pt", "scheduler.pt"],
            ["scheduler.pt"],
            ["rng_state.pth"],
            ["trainer_state.json"],
            [*CLASS_PHRASE_FILES],
            ["model.safetensors"],
            ["tokenizer.json"],
        ],
    )
    def test_one_that_lacks_a_part_is_refused_by_name(self, lost: list[str], two_steps: Path, tmp_path: Path) -> None:
        folder = self.copied(two_steps, tmp_path)
        for name in lost:
            (folder / "checkpoint-2" / name).unlink()
        with pytest.raises(CheckpointError) as caught:
            finish(folder, **QUICK, steps=3)
        assert str(caught.value) == (
            f"the checkpoint `{folder}/checkpoint-2` lacks {', '.join(sorted(lost))}: put back what lacks, or remove "
            f"the folder to resume from an earlier one"
        )

    def test_one_that_was_cut_short_is_refused_by_name(self, two_steps: Path, tmp_path: Path) -> None:
        folder = self.copied(two_steps, tmp_path)
        optimizer = folder / "checkpoint-2" / "optimizer.pt"
        size = optimizer.stat().st_size
        optimizer.write_bytes(optimizer.read_bytes()[:-100])
        with pytest.raises(CheckpointError) as caught:
            finish(folder, **QUICK, steps=3)
        assert f"checkpoint-2` is damaged: optimizer.pt has {size - 100} bytes of {size}; remove the" in str(
            caught.value
        )

    def test_one_of_an_earlier_version_must_have_its_optimizer(self, two_steps: Path, tmp_path: Path) -> None:
        folder = self.copied(two_steps, tmp_path)
        (folder / "checkpoint-2" / CONTENTS_FILE).unlink()
        finish(folder, **QUICK, steps=2)
        (folder / "checkpoint-2" / "optimizer.pt").unlink()
        with pytest.raises(CheckpointError, match=r"checkpoint-2` lacks optimizer\.pt:"):
            finish(folder, **QUICK, steps=3)

    @pytest.mark.parametrize("text", ["{", "[]", '{"optimizer.pt": "much"}'])
    def test_contents_that_say_nothing_are_named(self, text: str, two_steps: Path, tmp_path: Path) -> None:
        folder = self.copied(two_steps, tmp_path)
        (folder / "checkpoint-2" / CONTENTS_FILE).write_text(text)
        with pytest.raises(CheckpointError, match=rf"checkpoint-2/{CONTENTS_FILE}`"):
            finish(folder, **QUICK, steps=3)

    @pytest.mark.parametrize("lost", [CLASS_PHRASE_FILES, CLASS_PHRASE_FILES[:1], CLASS_PHRASE_FILES[1:]])
    def test_no_stage_starts_from_one_whose_class_phrases_are_gone(
        self, lost: tuple[str, ...], two_steps: Path, tmp_path: Path
    ) -> None:
        start = self.copied(two_steps, tmp_path) / "checkpoint-2"
        assert _earlier_phrases(start) is not None
        for name in lost:
            (start / name).unlink()
        with pytest.raises(CheckpointError, match="holds no class phrases of an earlier stage"):
            _earlier_phrases(start)

    def test_whenever_a_removal_is_killed_only_whole_ones_are_visible(self, two_steps: Path, tmp_path: Path) -> None:
        parts = {path.name for path in (two_steps / "checkpoint-1").iterdir()}
        for moment in range(0, 2 + len(parts), 2):
            folder = Path(shutil.copytree(two_steps, tmp_path / str(moment)))
            in_children(1, lambda folder=folder, moment=moment: killed_at(moment, lambda: remove_old(folder, 1)))
            for path in folder.glob("checkpoint-*"):
                assert {one.name for one in path.iterdir()} == parts, moment
            assert last_checkpoint(folder) == folder / "checkpoint-2"
            with held(folder):
                assert not list(folder.glob(".checkpoint*"))

    def test_one_that_is_written_again_is_never_half_there(self, two_steps: Path, tmp_path: Path) -> None:
        folder = self.copied(two_steps, tmp_path)
        seen: list[list[str]] = []
        honest = shutil.rmtree

        def watched(path: Any, **options: Any) -> None:
            seen.append(sorted(one.name for one in folder.glob("checkpoint-*")))
            honest(path, **options)

        with mock.patch.object(shutil, "rmtree", watched):
            discard(folder / "checkpoint-1")
        assert seen[-1] == ["checkpoint-2"]
        discard(folder / "checkpoint-1")  # there is none any more

    def test_it_says_what_it_holds(self, two_steps: Path) -> None:
        checkpoint = two_steps / "checkpoint-2"
        sizes = json.loads((checkpoint / CONTENTS_FILE).read_text())
        assert sizes == {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != CONTENTS_FILE}
        assert sizes.keys() >= {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"}


def killed_at(moment: int, job: Callable[[], None]) -> None:
    """Do a job until so many files have been removed."""
    honest, removed = os.unlink, []

    def unlink(*arguments: Any, **options: Any) -> None:
        if len(removed) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        removed.append(None)
        honest(*arguments, **options)

    with mock.patch.object(os, "unlink", unlink):
        job()
