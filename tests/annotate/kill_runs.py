"""Kills `annotate run` at random moments, starts it again, and tells what came of it, as JSON.

    python tests/annotate/kill_runs.py FOLDER KILLS IMAGES

Without kills it is one run, two captions an image, against a server that also leaves 1 in 100 requests hanging.

A script of its own, and not a test, since it forks: the server is one child, each run another.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import miniature
from fake_model import FakeModel, hostile

from llava_grounding.cli import annotate_run
from llava_grounding.cli.main import run

# What runs would import one by one is imported before the first fork.
for module in ("openai", "rich.progress", "llava_grounding.endpoints.asking", "llava_grounding.annotate.batch_files"):
    __import__(module)


def in_child(work: Any) -> int:
    """Run something in a fork; gives its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return child


def hanging(prompt: str, attempt: int) -> str:
    """As `hostile`, but one prompt in 100 gets no answer at first."""
    return "hang" if attempt == 0 and int(prompt[8:16], 16) % 100 == 0 else hostile(prompt, attempt)


def serve(counts: Path, ready: int, hangs: bool) -> None:
    """Answer until told to stop, and write down how often each request was answered."""
    model = FakeModel(hanging if hangs else hostile, delay=0.01)

    async def main() -> None:
        server = await asyncio.start_server(model.serve, "127.0.0.1", 0, limit=2**24)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        os.write(ready, str(server.sockets[0].getsockname()[1]).encode())
        await stop.wait()

    asyncio.run(main())
    counts.write_text(json.dumps({"answered": model.answered, "did": model.did}))


def annotate(paths: dict[str, Path], out: Path, url: str, quiet: bool = True) -> int:
    """One run of the command."""
    if quiet:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    files = ["--instances", str(paths["instances"]), "--captions", str(paths["captions"]), "--out", str(out)]
    return run(["annotate", "run", *files, "--model", "m", "--base-url", url, "--concurrency", "8", "--timeout", "5"])


def hashes(out: Path) -> str:
    """Of the finished folder: its manifest, which holds the hashes of all files."""
    path = out / "manifest.json"
    return path.read_text() if path.exists() else ""


def finished_run(paths: dict[str, Path], out: Path, url: str) -> tuple[float, float, int]:
    """Run to the end; gives its seconds, those of the processor, and the peak of its memory in MiB."""
    start = time.monotonic()
    _, status, used = os.wait4(in_child(lambda: annotate(paths, out, url)), 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"the run ended with {status}"
    return time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def main() -> None:
    folder, kills, images = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    paths = miniature.write(folder / "in", images)
    counts = folder / "counts.json"
    reading, writing = os.pipe()
    server = in_child(lambda: serve(counts, writing, hangs=not kills))
    url = f"http://127.0.0.1:{os.read(reading, 10).decode()}/v1"
    lasts, seconds, peak = finished_run(paths, folder / "straight", url)
    straight, chance, late = hashes(folder / "straight"), random.Random(7), 0
    out, hash_kinds = folder / "killed", set()
    for _ in range(kills):
        child = in_child(lambda: annotate(paths, out, url))
        time.sleep(chance.uniform(0, 2.5 * lasts / kills))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        late += os.waitstatus_to_exitcode(status) == 0
        if hashes(out):
            hash_kinds.add(hashes(out))
    if kills:
        finished_run(paths, out, url)
        hash_kinds.add(hashes(out))
    os.kill(server, signal.SIGTERM)
    os.waitpid(server, 0)
    told = json.loads(counts.read_text())
    once = 2 if kills else 1
    over = sum(times - once for times in told["answered"].values() if times > once)
    manifest = json.loads(straight)
    print(
        json.dumps(
            {
                "kills": kills,
                "runs_that_were_done_before": late,
                "same_as_straight": hash_kinds <= {straight},
                "requests": len(told["answered"]),
                "answered_again": over,  # beyond once for each folder
                "under_way_when_killed_at_most": kills * 8,
                "seconds_of_a_straight_run": round(lasts, 2),
                "processor_seconds_of_it": round(seconds, 2),
                "mib_at_its_peak": peak,
                "gave": {key: manifest[key] for key in ("counts", "rejections", "dropped_phrases", "repairs", "usage")},
                "server_did": told["did"],
            }
        )
    )


if __name__ == "__main__":
    assert annotate_run
    main()
