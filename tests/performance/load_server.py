"""Many clients for minutes, hostile requests among them: `python load_server.py --clients 32 --minutes 10`.

Starts a server of the embedded model. Each client asks mixed questions, at once or streamed, and compares every answer
with the one that the same question got when it was alone. So many hostile requests are spread evenly over the time: no
client should send them, and each must get a 4xx, or a 503 that says when to come again, without any internals. Prints
a table in Markdown, and exits with 1 if an answer was lost or mixed up, a status was none of those that are meant, the
memory of the server grew in the second half of the time, or the server was not the same process in the end.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from llava_grounding.scenes.synthetic import draw_scene

QUESTIONS = ("Describe the image.", "How many things are there?", "What is on the left?", "List everything you see.")
NUM_IMAGES = 3
MAX_TOKENS = 40
MEANT = {200, 429, 503}
_CHAT = "/v1/chat/completions"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


IMAGES = [data_url(png(Image.fromarray(draw_scene(10**9 + number).image))) for number in range(NUM_IMAGES)]


def asking(url: str, question: object, **others: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"model": "nano", "messages": [{"role": "user", "content": content}], "max_tokens": MAX_TOKENS, **others}


def bomb() -> str:
    data = bytearray(png(Image.new("RGB", (8, 8))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return data_url(bytes(data))


def hostile(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """A body that nobody should send, and its headers."""
    image, headers = IMAGES[0], {"Content-Type": "application/json"}
    region = {"type": "region", "box": [1, 1, 9, 9]}
    many = asking(image, "What?")
    many["messages"][0]["content"] += [region] * 3000
    bodies: list[Any] = [
        b"",
        b"{",
        b"[" * 50_000,
        b"\xff\xfe" * 500,
        b'{"model": "nano", "messages": ' + b"1" * 100_000 + b"}",
        asking(bomb(), "What?"),
        asking("data:image/png;base64,!!!!", "What?"),
        asking("data:image/png;base64," + "A" * 200_000, "What?"),
        asking("http://169.254.169.254/latest/meta-data", "What?"),
        asking("file:///etc/passwd", "What?"),
        asking(image, {"$ne": None}),
        asking(image, "What?", max_tokens=10**9),
        asking(image, "What?", temperature=float("1e308")),
        asking(image, "What?", n=10**6),
        asking(image, "x" * 200_000),
        {"model": "nano", "messages": [{"role": "system", "content": "<seg>" * 1000}] * 500},
        {"model": "nano", "messages": "x"},
        many,
    ]
    body = rng.choice([*bodies, None])
    if body is None:
        return json.dumps(asking(image, "What?")).encode(), {"Content-Type": "text/plain", "Host": "evil.example"}
    return body if isinstance(body, bytes) else json.dumps(body).encode(), headers


class Load:
    """Clients and what they have met."""

    def __init__(self, address: str, hostile: int) -> None:
        self._address = address
        self._hostile = hostile
        self._lock = threading.Lock()
        self._attacks = 0
        self.statuses: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seconds: list[float] = []
        self.firsts: list[float] = []
        self.expected: dict[tuple[int, str], Any] = {}

    def learn(self) -> None:
        """Ask every question alone."""
        with httpx2.Client(base_url=self._address, timeout=120, trust_env=False) as client:
            for number, url in enumerate(IMAGES):
                for question in QUESTIONS:
                    answer = client.post(_CHAT, json=asking(url, question)).json()
                    self.expected[number, question] = self._gist(answer["choices"][0]["message"])

    @staticmethod
    def _gist(message: dict[str, Any]) -> Any:
        """What must be the same whoever asks beside: the words, and the phrases with how much each names."""
        phrases = message["grounding"]["phrases"]
        return message["content"], [(phrase["text"], len(phrase["regions"])) for phrase in phrases]

    def run(self, seed: int, begin: float, until: float) -> None:
        """Be one client from one time to another."""
        rng = random.Random(seed)
        with httpx2.Client(base_url=self._address, timeout=150, trust_env=False) as client:
            while time.monotonic() < until:
                try:
                    if self._attack_is_due((time.monotonic() - begin) / (until - begin)):
                        self._attack(client, rng)
                    else:
                        self._ask(client, rng)
                except Exception as error:  # noqa: BLE001  whatever a client meets is counted
                    self._fault(f"{type(error).__name__}: {error}")

    def _attack_is_due(self, elapsed: float) -> bool:
        """Whether fewer hostile requests were sent than are meant for this share of the time; one is then taken."""
        with self._lock:
            due = self._attacks < self._hostile * elapsed
            self._attacks += due
        return due

    def _attack(self, client: httpx2.Client, rng: random.Random) -> None:
        body, headers = hostile(rng)
        response = client.post(_CHAT, content=body, headers=headers)
        self._count("hostile", response.status_code)
        if not (400 <= response.status_code < 500 or response.status_code == 503):
            self._fault(f"a hostile request got {response.status_code}")
        if "Traceback" in response.text or "site-packages" in response.text:
            self._fault("a hostile request was shown internals")

    def _ask(self, client: httpx2.Client, rng: random.Random) -> None:
        number, question, stream = rng.randrange(NUM_IMAGES), rng.choice(QUESTIONS), rng.random() < 0.5
        began, first = time.perf_counter(), 0.0
        body = asking(IMAGES[number], question, stream=stream)
        message: dict[str, Any] = {"content": ""}
        with client.stream("POST", _CHAT, json=body) as response:
            self._count("asked", response.status_code)
            if response.status_code not in MEANT:
                self._fault(f"a question got {response.status_code}")
            if response.status_code != 200:
                response.read()
                time.sleep(float(response.headers["retry-after"]) * rng.random())
                return
            if not stream:
                message = json.loads(response.read())["choices"][0]["message"]
            for line in response.iter_lines() if stream else ():
                if line.startswith("data: {"):
                    delta = json.loads(line[6:])["choices"][0]["delta"]
                    if delta.get("content"):
                        first = first or time.perf_counter() - began
                        message["content"] += delta["content"]
                    message["grounding"] = delta.get("grounding", {}).get("answer")
        with self._lock:
            self.seconds.append(time.perf_counter() - began)
            if first:
                self.firsts.append(first)
        if self._gist(message) != self.expected[number, question]:
            self._fault(f"another answer than alone to {question!r}: {message['content']!r}")

    def _count(self, kind: str, status: int) -> None:
        with self._lock:
            self.statuses[f"{kind} {status}"] += 1

    def _fault(self, text: str) -> None:
        with self._lock:
            self.faults.append(text)


def memory_mb(process: int) -> float:
    """Resident memory of a process on Linux."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1000 if found else 0.0


def growth(memory: list[float]) -> float:
    """By what share the memory at the end exceeds the most of the first half."""
    return memory[-1] / max(memory[: len(memory) // 2 + 1]) - 1


def table(load: Load, clients: int, minutes: float, memory: list[float]) -> str:
    """What came of it, for the docs."""
    statuses = load.statuses
    asked = sum(count for name, count in statuses.items() if name.startswith("asked"))
    hostile = sum(count for name, count in statuses.items() if name.startswith("hostile"))
    refused = ", ".join(f"{name.split()[1]}: {n:,}" for name, n in sorted(statuses.items()) if name[0] == "h")
    rows = [
        ("clients, minutes", f"{clients}, {minutes:g}"),
        (
            "questions, answered, told to come again",
            f"{asked:,}, {len(load.seconds):,}, {asked - statuses['asked 200']:,}",
        ),
        ("hostile requests, their statuses", f"{hostile:,} ({refused or 'none'})"),
        ("answers a second", f"{len(load.seconds) / (60 * minutes):.2f}"),
    ]
    for name, values in (("whole answer", load.seconds), ("first word of a stream", load.firsts)):
        if len(values) > 1:
            cuts = statistics.quantiles(values, n=100)
            rows.append((f"{name}, 50 / 95 / 99 %", f"{cuts[49]:.2f} / {cuts[94]:.2f} / {cuts[98]:.2f} s"))
    half = max(memory[: len(memory) // 2 + 1])
    rows.append(
        (
            "memory of the server: begin, most of the first half, end",
            f"{memory[0]:.0f}, {half:.0f}, {memory[-1]:.0f} MB",
        )
    )
    rows.append(("faults", str(len(load.faults))))
    return "\n".join(["| What | Measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many clients of one server for minutes, hostile requests among them.")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hostile", type=int, default=10_000, help="hostile requests in all; 0 sends none")
    parser.add_argument("--growth", type=float, default=0.1, help="share by which memory may grow in the second half")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    command = [sys.executable, "-m", "llava_grounding", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        log = server.stderr
        address = re.search(r"http://\S+", log.readline())
        assert address is not None
        threading.Thread(target=lambda: [None for _ in log], daemon=True).start()  # or it would wait for a reader
        try:
            load = Load(address[0], options.hostile)
            load.learn()
            begin = time.monotonic()
            until = begin + 60 * options.minutes
            threads = [threading.Thread(target=load.run, args=(n, begin, until)) for n in range(options.clients)]
            for thread in threads:
                thread.start()
            memory = [memory_mb(server.pid)]
            for _ in range(10):
                time.sleep(6 * options.minutes)
                memory.append(memory_mb(server.pid))
            for thread in threads:
                thread.join()
            if server.poll() is not None:
                load.faults.append(f"the server ended with {server.returncode}")
            if growth(memory) > options.growth:
                load.faults.append(f"the memory of the server grew by {growth(memory):.0%}: {list(map(round, memory))}")
            print(table(load, options.clients, options.minutes, memory))
            for text, count in Counter(load.faults).most_common(10):
                print(f"{count} x {text}")
        finally:
            server.terminate()
            server.wait(60)
    return 1 if load.faults else 0


if __name__ == "__main__":
    sys.exit(main())
