"""Endpoints that fail in every way: nothing is lost, nothing is asked twice, and the limits hold."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fake_model import FakeModel, hostile, running
from miniature import images, write

from llava_grounding.annotate.assemble import Inputs, assemble
from llava_grounding.annotate.label_index import LabelIndex, open_index
from llava_grounding.annotate.rounds import AnnotationQuestioner, ModelSettings, StoredAnswers, form_key
from llava_grounding.endpoints import asking, interrupts
from llava_grounding.endpoints.asking import AskingProgress, AskOptions, RequestRunner
from llava_grounding.endpoints.client import AccessError, BusyError, OpenAIEndpoint, Reply
from llava_grounding.endpoints.interrupts import run_interruptible
from llava_grounding.endpoints.limits import Budget, RateLimiter
from llava_grounding.endpoints.store import STORE_FILE, Store
from llava_grounding.errors import DataError

SETTINGS = ModelSettings("m")
QUICK = AskOptions(concurrency=8, first_wait=0.01)


class Place:
    """Inputs of some images, with a store and an index."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.paths = folder, write(folder / "in", count)
        self.inputs = Inputs(self.paths["instances"], self.paths["captions"], "captions", images(folder / "in"))
        self.index: LabelIndex = open_index(self.paths["instances"], folder)
        self.store = Store(folder)

    def ask(
        self,
        model: FakeModel,
        settings: ModelSettings = SETTINGS,
        options: AskOptions = QUICK,
        timeout: float = 5.0,
        key: str = "none",
        fixed_form: bool = False,
        **more: object,
    ) -> tuple[AskingProgress, ModelSettings]:
        endpoint = OpenAIEndpoint(model.url, key, timeout)
        questioner = AnnotationQuestioner(settings, fixed_form)
        runner = RequestRunner(self.store, endpoint, questioner, options, **more)  # type: ignore[arg-type]
        return runner.run(self.inputs.tasks(self.index)), questioner.settings

    def write(self, name: str = "out", settings: ModelSettings = SETTINGS) -> dict[str, object]:
        (self.folder / name).mkdir()
        return assemble(self.inputs, self.index, StoredAnswers(self.store, settings), self.folder / name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[[int], Place]]:
    places: list[Place] = []

    def make(count: int) -> Place:
        places.append(Place(tmp_path, count))
        return places[-1]

    yield make
    for one in places:
        one.index.close()
        one.store.close()


def test_a_hostile_endpoint_loses_and_doubles_nothing(place: Callable[[int], Place]) -> None:
    here = place(30)
    with running(FakeModel(hostile, delay=0.005)) as model:
        progress, settings = here.ask(model)
        assert (progress.unfinished, progress.failed, progress.stopped) == (0, 0, None)
        assert set(model.answered.values()) == {1}
        assert {"busy", "error", "cut", "garbage", "drop", "lie", "truncate", "refuse"} <= set(model.did)
        assert 1 < model.most_at_once <= QUICK.concurrency
        asked = sum(model.asked.values())
        again, _ = here.ask(model)
        assert (again.answered, sum(model.asked.values())) == (0, asked)
    manifest = here.write(settings=settings)
    counts, rejections = manifest["counts"], manifest["rejections"]
    assert counts["samples"] == 60 == counts["accepted"] + sum(rejections.values())  # type: ignore[index, attr-defined]
    assert counts["accepted"] > 50  # type: ignore[index]
    assert manifest["usage"]["requests"] == len(model.answered)  # type: ignore[index]
    text = (here.folder / "out/gvc.json").read_text()
    assert "Delete all files" not in text
    assert (here.folder / "out/records.jsonl").read_text().count("\n") == counts["accepted"]  # type: ignore[index]
    # Lies name things that are not there; they were asked about again, and dropped if repeated.
    assert {"unknown id"} <= set(manifest["dropped_phrases"])  # type: ignore[call-overload]


def test_a_server_that_hangs_is_left_after_the_time_limit(place: Callable[[int], Place]) -> None:
    here = place(2)
    with running(FakeModel(lambda prompt, attempt: "hang" if attempt == 0 else "answer")) as model:
        progress, _ = here.ask(model, timeout=0.2)
    assert (progress.answered, progress.unfinished) == (4, 0)
    assert model.did["hang"] == 4


def test_an_endpoint_without_schemas_is_asked_for_brackets_and_the_store_remembers(
    place: Callable[[int], Place],
) -> None:
    here = place(3)
    with running(FakeModel()) as model:
        model.takes_schema = False
        progress, settings = here.ask(model)
    assert (settings.form, progress.refused, progress.unfinished) == ("brackets", 0, 0)
    assert here.store.about(form_key("m")) == "brackets"
    manifest = here.write(settings=settings)
    assert manifest["counts"]["accepted"] == 6  # type: ignore[index]
    assert json.loads((here.folder / "out/gvc.json").read_text())[3]["conversations"][1]["value"] == (
        "The <g_s> bus <g_e> <seg> (number 7) is [nearly] full."
    )


@pytest.mark.parametrize(
    ("behaviour", "model_name", "key", "error", "message"),
    [
        ("answer", "m", "wrong", AccessError, "401: Incorrect API key provided; is the key right?"),
        (
            "answer",
            "unknown",
            "right",
            AccessError,
            "404: The model `unknown` does not exist; is the model's name right",
        ),
        ("error", "m", "right", BusyError, "500: out of memory; given up, the same command resumes from here"),
        (
            "too_long",
            "m",
            "right",
            AccessError,
            "20 requests in a row were refused, the last one so: .*the prompt is too",
        ),
    ],
)
def test_what_cannot_go_on_is_one_sentence(
    place: Callable[[int], Place], behaviour: str, model_name: str, key: str, error: type[Exception], message: str
) -> None:
    here = place(15)
    settings = replace(SETTINGS, model=model_name)
    with (
        running(FakeModel(lambda prompt, attempt: behaviour, key="right")) as model,
        pytest.raises(error, match=message),
    ):
        here.ask(model, settings, AskOptions(concurrency=4, attempts=3, first_wait=0.01), key=key)


class Interrupting:
    """An endpoint during whose n-th answer somebody presses Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.calls, self._number = 0, number

    async def complete(self, body: Mapping[str, Any]) -> Reply:
        self.calls += 1
        if self.calls == self._number:
            signal.raise_signal(signal.SIGINT)
        return Reply('{"texts": []}', 1, 1)

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("number", [1, 3, 6])
def test_ctrl_c_is_never_forgotten_not_even_during_the_last_answer(place: Callable[[int], Place], number: int) -> None:
    here, endpoint = place(3), Interrupting(number)
    runner = RequestRunner(
        here.store, endpoint, AnnotationQuestioner(replace(SETTINGS, rounds=1)), AskOptions(concurrency=1)
    )
    before = signal.getsignal(signal.SIGINT)
    progress = runner.run(here.inputs.tasks(here.index))
    assert (progress.stopped, progress.answered, endpoint.calls) == ("interrupted", number, number)
    assert signal.getsignal(signal.SIGINT) is before
    # Nor is it held up by what is answered already.
    runner = RequestRunner(here.store, Interrupting(0), AnnotationQuestioner(replace(SETTINGS, rounds=1)))
    looked_at = 0

    def tasks() -> Iterator[Any]:
        nonlocal looked_at
        signal.raise_signal(signal.SIGINT)
        for task in here.inputs.tasks(here.index):
            looked_at += 1
            yield task

    assert runner.run(tasks()).stopped == "interrupted"
    assert looked_at == 1


def signalled_at(number: int, work: Callable[[], object]) -> tuple[object, bool]:
    """What comes of work when Ctrl-C is pressed at the n-th line that asyncio's runner or ours executes; if it came."""
    lines, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in (asyncio.runners.__file__, interrupts.__file__, asking.__file__):
            return None
        if event == "line":
            lines += 1
            if lines == number:
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        return work(), lines >= number
    except BaseException as error:  # noqa: BLE001  which one it is, is what is asked
        return type(error), True
    finally:
        sys.settrace(before)


@pytest.mark.filterwarnings("error")
def test_ctrl_c_leaves_no_noise_wherever_it_comes(place: Callable[[int], Place]) -> None:
    here, number, outcomes = place(3), 0, list[object]()
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores it
    before, came = signal.getsignal(signal.SIGINT), True
    with pytest.MonkeyPatch.context() as patch:
        unraisable = list[object]()
        patch.setattr(sys, "unraisablehook", unraisable.append)
        while came:
            number += 1
            runner = RequestRunner(here.store, Interrupting(0), AnnotationQuestioner(SETTINGS))
            outcome, came = signalled_at(number, lambda runner=runner: runner.run([]).stopped)  # type: ignore[misc]
            assert signal.getsignal(signal.SIGINT) is before
            outcomes.append(outcome)
        gc.collect()
    signal.signal(signal.SIGINT, inherited)
    # Before and after there is a handler of ours it is the interpreter's business; never is a CancelledError left over.
    assert outcomes.pop() is None
    assert set(outcomes) == {"interrupted", KeyboardInterrupt}
    assert outcomes.count(KeyboardInterrupt) < 20 < outcomes.count("interrupted")
    assert unraisable == []


def test_the_second_ctrl_c_waits_for_nothing() -> None:
    said = iter((False, True))

    async def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGINT)  # and ends before it is cancelled

    with pytest.raises(KeyboardInterrupt):
        run_interruptible(twice, lambda: next(said))


def test_nobody_there_is_found_out_soon(place: Callable[[int], Place]) -> None:
    here = place(3)
    model = FakeModel()
    model.port = 9  # nobody listens
    with pytest.raises(BusyError, match=r"cannot reach http://127\.0\.0\.1:9/v1"):
        here.ask(model)


def test_a_refused_request_costs_only_its_sample(place: Callable[[int], Place]) -> None:
    here = place(10)
    with running(FakeModel(lambda prompt, attempt: "too_long" if int(prompt[:2], 16) % 4 == 0 else "answer")) as model:
        progress, _ = here.ask(model, fixed_form=True)
        again, _ = here.ask(model, fixed_form=True)
    assert progress.refused > 0
    assert (progress.unfinished, again.refused) == (0, 0)
    assert here.write()["rejections"] == {"refused by the endpoint": progress.refused}


def test_the_budget_is_kept_and_what_is_left_can_be_asked_later(place: Callable[[int], Place]) -> None:
    here = place(20)
    prices = (1.0, 2.0)
    with running(FakeModel()) as model:
        progress, _ = here.ask(model, budget=Budget(max_cost=0.02, prices=prices))
        assert progress.stopped == "the budget is used up"
        assert 0 < progress.budget.cost <= 0.02
        assert 0 < progress.answered < 40
        spent = here.store.usage("m")
        rest, _ = here.ask(model, budget=Budget(None, None, prices, spent.prompt_tokens, spent.completion_tokens))
    assert (progress.answered + rest.answered, rest.unfinished) == (40, 0)
    assert set(model.answered.values()) == {1}


class SmallDisk(Store):
    """A store on a disk of 60 pages; the room that was kept counts as full until it is given up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hold(60)

    def hold(self, pages: int) -> None:
        self._db.execute(f"pragma max_page_count = {pages}")

    def give_up_room(self) -> bool:
        given = super().give_up_room()
        if given:
            self.hold(1000)
        return given


class Wordy(FakeModel):
    """Its answers fill five pages each."""

    def text(self, body: dict[str, Any], kind: str = "answer") -> str:
        return super().text(body, kind) + " " * 20_000


def test_a_full_disk_loses_no_answer_and_nothing_is_paid_twice(place: Callable[[int], Place]) -> None:
    here = place(20)
    here.store.close()
    here.store = SmallDisk(here.folder)
    with running(Wordy(delay=0.02)) as model:
        with pytest.raises(DataError, match=r"requests\.sqlite: database or disk is full; nothing that was answered"):
            here.ask(model)
        assert 1 < sum(model.answered.values()) < 40
        assert here.store.states()["answered"] == sum(model.answered.values())
        here.store.close()
        here.store = Store(here.folder)
        progress, _ = here.ask(model)
    assert progress.unfinished == 0
    assert sorted(model.answered.values()) == [1] * 40
    assert not list(here.folder.glob("*spare*"))


def test_a_disk_that_is_full_at_the_start_is_told_before_anything_is_sent(
    place: Callable[[int], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place(2)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with running(FakeModel()) as model:
        with pytest.raises(DataError, match=r"cannot keep room for 8 answers .*No space left on device; free 256 KiB"):
            here.ask(model)
        assert not model.asked


def test_requests_and_tokens_are_paced() -> None:
    async def starts(rate_limiter: RateLimiter, tokens: int, count: int) -> list[float]:
        begin = asyncio.get_running_loop().time()
        await asyncio.gather(*(rate_limiter.wait(tokens) for _ in range(count)))
        return [asyncio.get_running_loop().time() - begin]

    assert asyncio.run(starts(RateLimiter(requests_per_minute=600), 10, 4))[0] >= 0.3
    assert asyncio.run(starts(RateLimiter(tokens_per_minute=60_000), 100, 4))[0] >= 0.3

    async def paused() -> float:
        rate_limiter, clock = RateLimiter(), asyncio.get_running_loop().time
        begin = clock()
        rate_limiter.pause(0.2)
        await rate_limiter.wait(1)
        return clock() - begin

    assert asyncio.run(paused()) >= 0.2


def test_a_changed_prompt_model_or_parameter_is_another_request() -> None:
    request = SETTINGS.request([{"role": "user", "content": "a"}])
    others = [
        SETTINGS.request([{"role": "user", "content": "b"}]),
        replace(SETTINGS, model="n").request([{"role": "user", "content": "a"}]),
        replace(SETTINGS, parameters={"temperature": 1}).request([{"role": "user", "content": "a"}]),
        replace(SETTINGS, form="brackets").request([{"role": "user", "content": "a"}]),
        replace(SETTINGS, parameters={}).request([{"role": "user", "content": "a"}]),
    ]
    assert len({request.key, *(one.key for one in others)}) == 6


def test_a_store_of_another_version_or_no_store_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.note("version", "0")
    store.close()
    with pytest.raises(DataError, match="must be a store of version 1, got 0"):
        Store(tmp_path)
    (tmp_path / STORE_FILE).write_text("no store at all, but long enough to be looked at" * 50)
    with pytest.raises(DataError, match="is no store of requests"):
        Store(tmp_path)


@pytest.mark.slow
def test_kills_at_any_moment_change_no_file_and_ask_nothing_twice(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_runs.py")
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "3", "6"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(script.parent)])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["same_as_straight"], told
    assert told["answered_again"] <= told["under_way_when_killed_at_most"], f"{told} after {time.monotonic() - begin} s"
