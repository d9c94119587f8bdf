"""Many clients for minutes, hostile requests among them: `python load_server.py [CLIENTS] [MINUTES] [HOSTILE]`.

Starts a server of the embedded model. Each client asks mixed questions, at once or streamed, and compares every answer
with the one that the same question got when it was alone; one request in `HOSTILE` (3; 0 sends none) is one that no
client should send, and must get a 4xx. Prints counts, percentiles and the memory of the server, and exits with 1 if an
answer was lost or mixed up, a status was none of those that are meant, or the server was another process in the end.
"""

from __future__ import annotations

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

    def __init__(self, address: str, share: int) -> None:
        self._address = address
        self._share = share
        self._lock = threading.Lock()
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

    def run(self, seed: int, until: float) -> None:
        """Be one client."""
        rng = random.Random(seed)
        with httpx2.Client(base_url=self._address, timeout=150, trust_env=False) as client:
            while time.monotonic() < until:
                try:
                    if self._share and rng.randrange(self._share) == 0:
                        self._attack(client, rng)
                    else:
                        self._ask(client, rng)
                except Exception as error:  # noqa: BLE001  whatever a client meets is counted
                    self._fault(f"{type(error).__name__}: {error}")

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


def tell(load: Load, minutes: float, memory: list[float]) -> None:
    print(f"{len(load.seconds)} answers in {minutes:g} minutes: {dict(sorted(load.statuses.items()))}")
    for name, values in (("whole answer", load.seconds), ("first word", load.firsts)):
        if len(values) > 1:
            cuts = statistics.quantiles(values, n=100)
            print(f"{name}: median {cuts[49]:.2f} s, 95 % {cuts[94]:.2f} s, 99 % {cuts[98]:.2f} s")
    print(f"memory of the server in MB, every tenth of the time: {[round(one) for one in memory]}")
    print(f"{len(load.faults)} faults")
    for text, count in Counter(load.faults).most_common(10):
        print(f"  {count} x {text}")


def main() -> int:
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 10
    share = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    command = [sys.executable, "-m", "llava_grounding", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        log = server.stderr
        address = re.search(r"http://\S+", log.readline())
        assert address is not None
        threading.Thread(target=lambda: [None for _ in log], daemon=True).start()  # or it would wait for a reader
        try:
            load = Load(address[0], share)
            load.learn()
            until = time.monotonic() + 60 * minutes
            threads = [threading.Thread(target=load.run, args=(seed, until)) for seed in range(clients)]
            for thread in threads:
                thread.start()
            memory = [memory_mb(server.pid)]
            for _ in range(10):
                time.sleep(6 * minutes)
                memory.append(memory_mb(server.pid))
            for thread in threads:
                thread.join()
            if server.poll() is not None:
                load.faults.append(f"the server ended with {server.returncode}")
            tell(load, minutes, memory)
        finally:
            server.terminate()
            server.wait(60)
    return 1 if load.faults else 0


if __name__ == "__main__":
    sys.exit(main())
