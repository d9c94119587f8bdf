"""Requests as files for batch services, and their results back: in any order, partial, repeated or with errors.

The format is OpenAI's: a line per request with `custom_id`, which is the request's key, so that importing is idempotent
and a file of another run is recognised. Knows no endpoint.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_grounding.annotate.json_stream import iter_rows
from llava_grounding.annotate.rounds import ModelSettings, next_step
from llava_grounding.annotate.samples import Unusable
from llava_grounding.annotate.tasks import AnnotationTask
from llava_grounding.aside import file_aside
from llava_grounding.endpoints.asking import Pending
from llava_grounding.endpoints.limits import guess_tokens
from llava_grounding.endpoints.store import Store
from llava_grounding.errors import DataError, quoted, shown

MAX_REQUESTS = 50_000
"""Requests of one file at most, as the services allow."""
MAX_BYTES = 190_000_000
ENDPOINT = "/v1/chat/completions"
_MOST_TOKENS = 10_000_000  # that are believed of one answer


def iter_batch_lines(
    tasks: Iterable[AnnotationTask | Unusable], settings: ModelSettings, store: Store, again: bool = False
) -> Iterator[tuple[str, str]]:
    """Key and line of every request that is not answered, each once.

    Args:
        again: also those that are in an earlier batch file and have not come back.
    """
    seen: dict[bytes, None] = {}
    for task in tasks:
        if isinstance(task, Unusable):
            continue
        step = next_step(task, settings, store.get)
        if not isinstance(step, Pending) or step.is_refused:
            continue
        if step.row is not None and step.row.state == "batch" and not again:
            continue
        key = step.request.key
        if (short := bytes.fromhex(key[:32])) in seen:
            continue
        seen[short] = None
        if len(seen) > MAX_REQUESTS + 1 and not again:  # those of earlier files are in the store
            del seen[next(iter(seen))]
        line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": step.request.body}
        yield key, json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def write_batches(lines: Iterable[tuple[str, str]], folder: Path, model: str, store: Store) -> list[tuple[Path, int]]:
    """Write requests into files `batch-0001.jsonl` and so on after those that are there, and note them in the store.

    Each file is written aside and renamed before its requests are noted: a request that is noted is in a file.

    Raises:
        OSError: if one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Path, int]] = []
    iterator = iter(lines)
    following = next(iterator, None)
    while following is not None:
        path = _free_name(folder)
        keys: dict[str, str] = {}
        size = 0
        with file_aside(path) as aside, aside.open("wb") as file:
            while following is not None and len(keys) < MAX_REQUESTS:
                data = f"{following[1]}\n".encode()
                if keys and size + len(data) > MAX_BYTES:
                    break
                file.write(data)
                size += len(data)
                keys[following[0]] = path.name
                following = next(iterator, None)
        store.exported(keys, model)
        written.append((path, len(keys)))
    return written


def _free_name(folder: Path) -> Path:
    number = 1
    while (path := folder / f"batch-{number:04d}.jsonl").exists():
        number += 1
    return path


@dataclass(frozen=True)
class Imported:
    """What a file of results gave: new answers, those that were known, requests that failed there, by reason."""

    new: int
    known: int
    failed: Counter[str]


def import_batch(path: Path, store: Store, model: str) -> Imported:
    """Take the answers of a file of results.

    The whole file is looked at before anything is taken.

    Raises:
        DataError: if it is no such file, or a line answers no request of this store; nothing is taken then.
    """
    count = 0
    for row in iter_rows(path):
        key = _key_of(path, row.number, row.value)
        if store.get(key) is None:
            raise DataError(
                f"{path}, line {row.number} answers request {quoted(key, 60)}, which was never written from this "
                "store; it is of another run, or --out is another folder"
            )
        count += 1
    if not count:
        raise DataError(f"{path} holds no results")
    new = known = 0
    failed: Counter[str] = Counter()
    for row in iter_rows(path):
        key = _key_of(path, row.number, row.value)
        try:
            text, prompt, said = _answer_of(row.value)
        except _FailedThere as error:
            failed[str(error)] += 1
            store.failed(key, "failed", str(error))
            continue
        if store.answered(key, model, text, prompt, said):
            new += 1
        else:
            known += 1
    return Imported(new, known, failed)


class _FailedThere(Exception):  # noqa: N818  never leaves this file
    """The service has no answer to a request."""


def _key_of(path: Path, number: int, value: Any) -> str:
    key = value.get("custom_id") if isinstance(value, Mapping) else None
    if not isinstance(key, str):
        raise DataError(f"{path}, line {number} must be a result with `custom_id`, got {shown(value)}")
    return key


def _answer_of(value: Mapping[str, Any]) -> tuple[str, int, int]:
    """Text and token counts of a result."""
    response = value.get("response")
    if value.get("error") or not isinstance(response, Mapping):
        error = value.get("error")
        code = error.get("code") if isinstance(error, Mapping) else error
        raise _FailedThere(shown(code) if code else "no response")
    status, body = response.get("status_code", 200), response.get("body")
    if status != 200:
        raise _FailedThere(f"status {shown(status)}")
    try:
        text = body["choices"][0]["message"]["content"]  # type: ignore[index]
    except (LookupError, TypeError) as error:
        raise _FailedThere("no message") from error
    if not isinstance(text, str | None):
        raise _FailedThere("no message")
    text = (text or "").encode("utf-8", "replace").decode()
    usage = body.get("usage") if isinstance(body, Mapping) else None
    counts = [
        usage.get(name) if isinstance(usage, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
    ]
    prompt, said = (one if isinstance(one, int) and 0 <= one <= _MOST_TOKENS else None for one in counts)
    return text, 0 if prompt is None else prompt, guess_tokens(len(text)) if said is None else said
