"""Many requests at once: none is lost, mixed up or left waiting; too many are refused; those who leave are let go."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from live_server import asking, serving

from answer_checks import RAW, assert_same_answers
from llava_grounding.geometry import Letterbox
from llava_grounding.inference.batching import RunningBatch
from llava_grounding.inference.runtime import ImageContext
from llava_grounding.processing.processor import EncodedText
from llava_grounding.serve.continuous_batching import ActiveRequest, ContinuousBatcher, ImageResults
from llava_grounding.serve.jobs import Job
from llava_grounding.serve.server import bind
from llava_grounding.serve.settings import ServeSettings
from llava_grounding.serve.tasks import ChatTask
from llava_grounding.structures import GroundedAnswer, Message, VisualPrompt
from tiny_model import picture, saying, tiny_chat

LETTERBOX = Letterbox.fit((90, 60), (64, 64))
LONG = [20] * 300
"""Tokens of an answer that does not end by itself."""


class Gate:
    """Lets the server write tokens, or not."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.steps = 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A shut one, opened at the end of the test."""
    gate, step = Gate(), RunningBatch.sample_tokens

    def wait_and_step(batch: RunningBatch) -> None:
        assert gate.open.wait(30)
        gate.steps += 1
        step(batch)

    monkeypatch.setattr(RunningBatch, "sample_tokens", wait_and_step)
    yield gate
    gate.open.set()


def wait_until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def several(count: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(count) as threads:
        yield threads


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_mixed_questions_at_once_get_the_answers_of_ask(kind: str) -> None:
    chat = tiny_chat(kind)
    box = {"type": "region", "box": [10, 10, 60, 50]}
    asked = [
        (picture(number % 3), question, number % 4 == 3, 3 + 7 * (number % 5))
        for number, question in enumerate(["Describe the image.", "What colour is the dog?", "Where?"] * 6)
    ]
    expected = [
        chat.ask(
            image,
            question + (" <region>" if pointed else ""),
            [VisualPrompt.box(10, 10, 60, 50)] if pointed else [],
            max_new_tokens=limit,
        )
        for image, question, pointed, limit in asked
    ]

    def ask(case: tuple[Any, str, bool, int]) -> httpx2.Response:
        image, question, pointed, limit = case
        parts = [f"{question} <region>", box] if pointed else [question]
        return live.complete(asking(*parts, image=image), max_tokens=limit)

    with serving(chat, batch_size=5) as live, several(len(asked)) as threads:
        responses = list(threads.map(ask, asked))
        batched = live.number("llava_grounding_image_cache_total")
    for response, wanted in zip(responses, expected, strict=True):
        assert response.status_code == 200
        assert_same_answers(GroundedAnswer.from_dict(response.json()["choices"][0]["message"]["grounding"]), wanted)
    assert batched == len(asked)


def test_more_than_fit_are_refused_with_a_word_on_when_to_come_again(gate: Gate) -> None:
    with serving(batch_size=1, queue_size=1) as live, several(3) as threads:
        accepted = [threads.submit(live.complete, asking("What?"), max_tokens=2)]
        wait_until(lambda: live.app.service.scheduler.load.running == 1)
        accepted.append(threads.submit(live.complete, asking("What?"), max_tokens=2))
        wait_until(lambda: live.app.service.scheduler.load.waiting == 1)
        assert live.number("llava_grounding_queue_depth") == 1
        refused = live.complete(asking("What?"), max_tokens=2)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        gate.open.set()
        assert [one.result(30).status_code for one in accepted] == [200, 200]


def test_one_client_with_too_many_requests_is_told_to_wait_and_others_are_not(gate: Gate) -> None:
    with serving(max_per_client=1) as live, several(1) as threads:
        accepted = threads.submit(live.complete, asking("What?"), max_tokens=2)
        wait_until(lambda: live.app.service.scheduler.load.running == 1)
        refused = live.complete(asking("What?"), max_tokens=2)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) > 0
        assert live.http.get("/v1/models").status_code == 200
        gate.open.set()
        assert accepted.result(30).status_code == 200
        assert live.complete(asking("What?"), max_tokens=2).status_code == 200


def test_words_come_before_they_are_read_and_regions_before_the_words_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, read = threading.Event(), RunningBatch.decode_tokens
    reading.set()

    def wait_and_read(batch: RunningBatch) -> None:
        assert reading.wait(30)
        read(batch)

    monkeypatch.setattr(RunningBatch, "decode_tokens", wait_and_read)
    with serving() as live, saying(live.chat, RAW, RAW):
        body = {"model": live.chat.name, "messages": asking("What?"), "stream": True}
        reading.clear()
        text, ends = "", []
        with live.http.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                delta = json.loads(line[6:])["choices"][0]["delta"]
                text += delta.get("content", "")
                if text:
                    reading.set()  # the first word came although nothing that was written has been read
                if "phrase" in delta.get("grounding", {}):
                    ends.append((delta["grounding"]["phrase"]["span"][1], len(text)))
        answer = live.complete(asking("What?")).json()["choices"][0]["message"]["grounding"]
    assert text == answer["text"]
    assert [end for end, _ in ends] == [phrase["span"][1] for phrase in answer["phrases"]]
    assert all(told == end for end, told in ends)  # not one word more than the phrase


def test_the_first_word_of_an_answer_does_not_wait_for_the_next_question_to_be_read(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    gate.open.set()
    may_begin, begin, held = threading.Event(), ContinuousBatcher.begin, threading.Event()

    def begin_or_wait(batcher: ContinuousBatcher, job: Job, results: ImageResults) -> ActiveRequest:
        assert isinstance(job.task, ChatTask)
        if job.task.question.text == "Later?":
            held.set()
            assert may_begin.wait(30)
        return begin(batcher, job, results)

    monkeypatch.setattr(ContinuousBatcher, "begin", begin_or_wait)
    with serving() as live, saying(live.chat, RAW, RAW, RAW), ThreadPoolExecutor() as threads:
        gate.open.clear()
        before = threads.submit(live.complete, asking("Before?"), max_tokens=4)
        wait_until(lambda: live.app.service.scheduler.load.running == 1)  # it waits to choose, while the others come
        body = {"model": live.chat.name, "messages": asking("What?"), "stream": True}
        first: queue.Queue[str] = queue.Queue()

        def stream() -> None:
            with live.http.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
                for line in response.iter_lines():
                    if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                        first.put(line)

        streamed = threads.submit(stream)
        wait_until(lambda: live.app.service.scheduler.load.waiting == 1)
        later = threads.submit(live.complete, asking("Later?"), max_tokens=4)
        wait_until(lambda: live.app.service.scheduler.load.waiting == 2)  # both join in the same turn
        gate.open.set()
        assert held.wait(30)
        try:
            assert first.get(timeout=30)
        finally:
            may_begin.set()
        assert before.result(60).status_code == later.result(60).status_code == 200
        streamed.result(60)


def test_what_is_sent_does_not_wait_for_acknowledgements() -> None:
    async def delayed() -> bool:
        accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sock = writer.get_extra_info("socket")
            accepted.set_result(not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        bound = bind(ServeSettings(port=0))
        server = await asyncio.start_server(connected, sock=bound)
        async with server:
            _, writer = await asyncio.open_connection(*bound.getsockname())
            result = await asyncio.wait_for(accepted, 30)
            writer.close()
        return result

    assert not asyncio.run(delayed())


def test_a_signal_under_load_leaves_no_accepted_request_without_an_answer() -> None:
    clients = 8
    with serving(grace_seconds=20, batch_size=4, queue_size=3) as live:
        statuses: list[int] = []
        faults: list[Exception] = []
        started = threading.Barrier(clients + 1)

        def keep_asking() -> None:
            body = {"model": live.chat.name, "messages": asking("What?"), "max_tokens": 3}
            started.wait(30)
            while True:
                try:
                    response = httpx2.post(
                        f"{live.url}/v1/chat/completions",
                        json=body,
                        headers={"Connection": "close"},
                        timeout=60,
                        trust_env=False,
                    )
                    if response.status_code == 200:
                        assert response.json()["choices"][0]["finish_reason"] in ("stop", "length")
                    else:
                        assert response.json()["error"]["code"] in ("overloaded", "stopping")
                        assert int(response.headers["retry-after"]) > 0
                    statuses.append(response.status_code)
                except (httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError):
                    return  # nobody listens any more; what was accepted is counted below
                except Exception as error:  # noqa: BLE001  told by the main thread
                    faults.append(error)
                    return

        with several(clients) as threads:
            asked = [threads.submit(keep_asking) for _ in range(clients)]
            started.wait(30)
            wait_until(lambda: statuses.count(200) >= clients, 60)
            live.server.handle_exit(signal.SIGTERM, None)
            for one in asked:
                one.result(60)
        counted = live.app.metrics.requests.collect()[0].samples
    accepted = {
        sample.labels["status"]: int(sample.value)
        for sample in counted
        if sample.name.endswith("_total") and sample.labels["route"] == "/v1/chat/completions"
    }
    assert not faults
    assert {str(status): statuses.count(status) for status in set(statuses)} == accepted
    assert accepted.keys() <= {"200", "503"}


_SERVING = """
from llava_grounding.serve.server import serve
from llava_grounding.serve.settings import ServeSettings
from tiny_model import tiny_chat
serve(tiny_chat(), ServeSettings(port=0), lambda address: print(address, flush=True))
"""


@pytest.mark.slow
def test_a_process_can_be_asked_once_it_says_so_and_ends_well_on_a_real_signal() -> None:
    def ask(_: int) -> int:
        body = {"model": "tiny-shared", "messages": asking("What?"), "max_tokens": 40}
        return httpx2.post(f"{url}v1/chat/completions", json=body, timeout=60, trust_env=False).status_code

    def metrics() -> str:
        return httpx2.get(f"{url}metrics", trust_env=False).text

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _SERVING]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
        several(6) as threads,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            socket.create_connection(("127.0.0.1", int(url.strip("/").rpartition(":")[2])), timeout=10).close()
            assert ask(0) == 200
            asked = [threads.submit(ask, number) for number in range(6)]
            wait_until(lambda: any(one.done() for one in asked) or "llava_grounding_running 0.0" not in metrics())
            process.terminate()
            assert process.wait(60) in (0, -signal.SIGTERM)
        finally:
            process.kill()
        faults = [one.exception() for one in asked]
        assert all(fault is None or isinstance(fault, httpx2.ConnectError) for fault in faults), faults
        assert {one.result() for one, fault in zip(asked, faults, strict=True) if fault is None} <= {200, 503}


def test_a_body_counts_until_its_request_is_over(gate: Gate) -> None:
    body = {"model": "tiny-shared", "messages": asking("What?"), "max_tokens": 2}
    content = json.dumps(body).encode().ljust(60_000)
    with serving(max_bodies_bytes=100_000) as live, several(1) as threads:

        def ask() -> httpx2.Response:
            headers = {"Content-Type": "application/json"}
            return live.http.post("/v1/chat/completions", content=content, headers=headers)

        accepted = threads.submit(ask)
        wait_until(lambda: live.app.service.scheduler.load.running == 1)
        try:
            assert live.http.get("/healthz").status_code == 200
            assert ask().status_code == 503
        finally:
            gate.open.set()
        assert accepted.result(30).status_code == 200
        assert ask().status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_written_for_no_longer(stream: bool, gate: Gate) -> None:
    gate.open.set()
    with serving() as live, saying(live.chat, LONG):
        body = {"model": live.chat.name, "messages": asking("What?"), "max_tokens": 300, "stream": stream}
        if stream:
            with live.http.stream("POST", "/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
                gate.open.clear()
        else:
            gate.open.clear()
            with pytest.raises(httpx2.ReadTimeout), httpx2.Client(base_url=live.url, trust_env=False) as other:
                other.post("/v1/chat/completions", json=body, timeout=1)
        gate.open.set()
        live.wait_until_idle()
        wait_until(lambda: live.number("llava_grounding_cancelled_total") == 1)
        assert gate.steps < 250


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_is_given_up(stream: bool, gate: Gate) -> None:
    with serving(timeout_seconds=0.4) as live, saying(live.chat, LONG), several(1) as threads:
        asked = threads.submit(live.complete, asking("What?"), max_tokens=300, stream=stream)
        time.sleep(0.5)
        gate.open.set()
        response = asked.result(30)
        if response.status_code == 200:  # by then its first word was there
            assert stream
            *_, last, done = response.text.strip().split("\n\n")
            assert done == "data: [DONE]"
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        live.wait_until_idle()
        assert gate.steps < 250


def test_a_server_that_is_stopped_finishes_what_it_has_and_takes_no_more(gate: Gate) -> None:
    with serving() as live, saying(live.chat, RAW), several(1) as threads:
        accepted = threads.submit(live.complete, asking("What?"))
        wait_until(lambda: live.app.service.scheduler.load.running == 1)
        live.app.service.scheduler.drain()
        refused = live.complete(asking("What?"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert live.http.get("/readyz").status_code == 503
        assert live.http.get("/healthz").status_code == 200
        gate.open.set()
        assert accepted.result(30).json()["choices"][0]["message"]["grounding"]["raw"] == RAW


def test_after_the_time_of_grace_what_is_left_is_refused(gate: Gate) -> None:
    with serving(grace_seconds=0.1) as live, saying(live.chat, LONG), several(1) as threads:
        accepted = threads.submit(live.complete, asking("What?"), max_tokens=300)
        wait_until(lambda: live.app.service.scheduler.load.running == 1)
        live.app.service.scheduler.drain()
        time.sleep(0.2)
        gate.open.set()
        response = accepted.result(30)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "stopping")


def test_an_image_is_looked_at_once_for_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat()
    looks: list[int] = []
    encode = chat.model.encode_image

    def counted(**pixels: Any) -> Any:
        looks.append(len(pixels["grounder_pixel_values"]))
        return encode(**pixels)

    monkeypatch.setattr(chat.model, "encode_image", counted)
    embedded: list[int] = []
    embed = chat.runtime.embed

    def noted(text: EncodedText, image: ImageContext) -> Any:
        embedded.append(len(text.input_ids))
        return embed(text, image)

    with serving(chat) as live:
        cached = []
        for question in ("What?", "Where?", "Who?"):
            expected = chat.ask(picture(), question, max_new_tokens=9)
            looks.clear()
            with monkeypatch.context() as patched:
                patched.setattr(chat.runtime, "embed", noted)
                given = live.complete(asking(question), max_tokens=9).json()
            assert given["choices"][0]["message"]["grounding"]["raw"] == expected.raw
            cached.append(given["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert looks == []
        before_image = len(chat.processor.encode_question(Message("user", "Who?"), True, True, LETTERBOX).input_ids)
        assert cached[0] == 0
        assert [length + seen for length, seen in zip(embedded, cached, strict=True)][1:] == [
            given["usage"]["prompt_tokens"]
        ] * 2  # what was read before is not even embedded
        assert chat.processor.settings.image_sequence_length < cached[1] == cached[2] < before_image
        looks[:] = [1]
        assert live.complete(asking("What?", image=picture(4)), max_tokens=2).status_code == 200
        assert looks == [1, 1]
    with serving(chat, image_cache_bytes=0) as live:
        for _ in range(2):
            assert live.complete(asking("What?"), max_tokens=2).status_code == 200
        assert looks == [1, 1, 1, 1]


def test_a_failure_of_the_model_is_told_without_its_words_and_the_next_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = RunningBatch.sample_tokens

    def fail(batch: RunningBatch) -> None:
        monkeypatch.setattr(RunningBatch, "sample_tokens", step)
        raise RuntimeError("secret of a library")

    with serving() as live:
        monkeypatch.setattr(RunningBatch, "sample_tokens", fail)
        response = live.complete(asking("What?"), max_tokens=2)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
        assert "secret" not in response.text
        assert "secret of a library" in caplog.text
        assert live.complete(asking("What?"), max_tokens=2).status_code == 200


def test_the_log_and_the_numbers_say_nothing_of_what_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "llava_grounding.access")
    with serving() as live:
        live.complete(asking("What about my secret?"), max_tokens=2)
        live.http.get("/secret?secret=secret", headers={"user-agent": "secret", "x-request-id": "secret"})
        page = live.http.get("/metrics").text
    records = [record.getMessage() for record in caplog.records if record.name == "llava_grounding.access"]
    assert len(records) == 3
    assert '"route": "/v1/chat/completions", "status": 200' in records[0]
    assert '"completion_tokens": 2' in records[0]
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]  # not the client's
    assert not [line for line in [page, *ours] if "secret" in line]
