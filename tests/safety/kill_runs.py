"""Kills training and conversion at random moments, and looks at what is left: nothing half may be taken for whole.

    PYTHONPATH=tests:tests/train:tests/golden python tests/safety/kill_runs.py FOLDER [KILLS] [SEED]

Training: every checkpoint that is visible can be loaded, and the run that is begun anew after each kill ends with the
weights of one that nobody killed, bit for bit. Conversion: the folder is whole or not there. Children are forked from
one process, since importing torch takes longer than the work.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from joined import joined_state, released_settings, write_released
from running import UNEQUAL, Listed, finish, weights
from small_training import training_setup

from llava_grounding.checkpoints import load_checkpoint
from llava_grounding.convert.official import convert_official
from llava_grounding.train.checkpoint import checkpoints, load_training_module, require_whole

RECORDED = Path(__file__).parents[1] / "golden" / "C_inference"
VALUES = {"stage": "grounded_chat", "flavour": "official", "batch_size": 4, "steps": 8, "save_steps": 1}


def killed(job: Callable[[], object], seconds: float) -> bool:
    """Whether a forked child that does the job was still at it after so many seconds, when it is killed."""
    child = os.fork()
    if not child:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        torch.set_num_threads(1)
        code = 1
        try:
            job()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"a run that nobody killed ended with {status}"
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def hashes(folder: Path) -> dict[str, str]:
    """Of every file of a folder, by its path; reports of the time left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kill_training(folder: Path, kills: int, rng: random.Random) -> str:
    def run(place: Path) -> dict[str, torch.Tensor]:
        return weights(finish(place, source=Listed(UNEQUAL), **VALUES)[0])

    begin = time.monotonic()
    expected = run(folder / "whole")
    whole = time.monotonic() - begin
    done = runs = 0
    while done < kills:
        runs += 1
        place = folder / f"run-{runs}"
        while done < kills and killed(lambda place=place: run(place), rng.uniform(0.05, 0.9) * whole):
            done += 1
            for checkpoint in checkpoints(place):
                require_whole(checkpoint)
                load_training_module(training_setup(folder, **VALUES).training_module, checkpoint)
            for name in ("best", "last"):
                if (place / name).exists():
                    load_checkpoint(str(place / name), "cpu", "float32")
        ended = run(place)
        assert all(torch.equal(value, ended[name]) for name, value in expected.items()), f"run {runs} ended elsewhere"
        assert not [path for path in place.iterdir() if path.name.startswith(".")], "something was left behind"
        shutil.rmtree(place)
    return f"train: {done} kills in {runs} runs, each with the weights of a run that nobody killed"


def kill_conversion(folder: Path, kills: int, rng: random.Random) -> str:
    settings, source = (
        released_settings(RECORDED),
        write_released(RECORDED, folder / "released", joined_state(RECORDED)),
    )
    begin = time.monotonic()
    convert_official(source, folder / "whole", settings)
    whole, expected = time.monotonic() - begin, hashes(folder / "whole")
    done = there = 0
    place = folder / "ours"
    while done < kills:
        if killed(lambda: convert_official(source, place, settings), rng.uniform(0.02, 1.1) * whole):
            done += 1
        if place.exists():
            there += 1
            assert hashes(place) == expected, "half a model was taken for a whole one"
            shutil.rmtree(place)
    convert_official(source, place, settings)
    assert hashes(place) == expected
    left = [path.name for path in folder.iterdir() if path.name not in ("released", "whole", "ours")]
    assert not left, f"something was left behind: {left}"
    return f"convert: {done} kills, the folder whole {there} times and else not there"


def main(folder: str, kills: str = "100", seed: str = "0") -> None:
    for job, name in ((kill_training, "train"), (kill_conversion, "convert")):
        place = Path(folder) / name
        place.mkdir(parents=True)
        print(job(place, int(kills), random.Random(int(seed))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
