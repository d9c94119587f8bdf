"""How the server bears many clients, against one at a time: `python measure_load.py [CLIENTS] [QUESTIONS]`.

Starts a server of the embedded model, asks mixed questions one by one, then the same by many clients at once, and
prints rates, times to the first word and their ratios. Every answer is compared with the one that was given alone.
"""

from __future__ import annotations

import base64
import io
import json
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
from PIL import Image

from llava_grounding.scenes.synthetic import draw_scene

QUESTIONS = ("Describe the image.", "How many things are there?", "What is on the left?", "List everything you see.")
POINTED = "What is <region>?"
NUM_IMAGES = 4
MARKS = 2  # tokens from a phrase's last word to where it closes, `<g_e> <seg>`


@dataclass(frozen=True)
class Timed:
    """An answer and when it came, in seconds from its question."""

    text: str
    first: float
    last: float
    lag: float
    """From the end of a phrase's words to its masks, the longest of the answer."""
    tokens: int
    """That were written, markup included."""

    @property
    def per_token(self) -> float:
        return (self.last - self.first) / max(self.tokens - 1, 1)


def image_url(number: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(10**9 + number).image).resize((640, 640)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def ask(client: httpx2.Client, url: str, question: str, box: bool) -> Timed:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    if box:
        parts.append({"type": "region", "box": [100, 100, 400, 500]})
    body = {"model": "nano", "messages": [{"role": "user", "content": parts}], "stream": True}
    body["stream_options"] = {"include_usage": True}
    began, first, text, lag, words_at, tokens = time.perf_counter(), 0.0, "", 0.0, 0.0, 0
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if not chunk["choices"]:
                tokens = chunk["usage"]["completion_tokens"]
                continue
            delta = chunk["choices"][0]["delta"]
            now = time.perf_counter()
            if delta.get("content"):
                first, words_at = first or now - began, now
                text += delta["content"]
            if "phrase" in delta.get("grounding", {}):
                lag = max(lag, now - words_at)
    return Timed(text, first, time.perf_counter() - began, lag, tokens)


def main() -> None:
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 48
    command = [sys.executable, "-m", "llava_grounding", "serve", "--port", "0", "--queue-size", str(count)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = re.search(r"http://\S+", server.stderr.readline())
        assert address is not None
        try:
            measure(address[0], clients, count)
        finally:
            server.terminate()
            server.communicate()


def measure(address: str, clients: int, count: int) -> None:
    asked = [(POINTED, True) if n % 5 == 4 else (QUESTIONS[n % 4], False) for n in range(count)]
    cases = [(image_url(n % NUM_IMAGES), *one) for n, one in enumerate(asked)]
    with httpx2.Client(base_url=address, timeout=300, trust_env=False) as client:
        ask(client, image_url(90), QUESTIONS[0], False)  # warm
        new = [ask(client, image_url(100 + n), "Is it red?", False).first for n in range(6)]
        for number in range(NUM_IMAGES):
            ask(client, image_url(number), POINTED, True)
        again = [ask(client, image_url(n % NUM_IMAGES), "Is it red?", False).first for n in range(8)]
        began = time.perf_counter()
        alone = [ask(client, *case) for case in cases]
        alone_rate = count / (time.perf_counter() - began)
        with ThreadPoolExecutor(clients) as threads:
            began = time.perf_counter()
            together = list(threads.map(lambda case: ask(client, *case), cases))
            together_rate = count / (time.perf_counter() - began)
    same = sum(one.text == other.text for one, other in zip(alone, together, strict=True))
    idle_first, busy_first = (statistics.median(one.first for one in group) for group in (alone, together))
    print(f"answers a second: alone {alone_rate:.2f}, {clients} clients {together_rate:.2f}")
    print(f"  ratio {together_rate / alone_rate:.2f}")
    print(f"first word, median: alone {1000 * idle_first:.0f} ms, {clients} clients {1000 * busy_first:.0f} ms")
    print(f"  ratio {busy_first / idle_first:.2f}")
    new_first, known_first = statistics.median(new), statistics.median(again)
    print(f"first word, median: new image {1000 * new_first:.0f} ms, known {1000 * known_first:.0f} ms")
    print(f"  ratio {new_first / known_first:.2f}")
    per_token = statistics.median(one.per_token for one in alone)
    closed = statistics.median(one.lag - MARKS * one.per_token for one in alone if one.lag)
    print(f"masks after their phrase closes, median of the slowest, alone {1000 * closed:.0f} ms")
    print(f"  a token {1000 * per_token:.0f} ms, ratio {closed / per_token:.2f}")
    print(f"same text as alone: {same} of {count}")


if __name__ == "__main__":
    main()
