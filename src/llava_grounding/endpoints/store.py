"""What was asked and answered: SQLite in WAL mode, one row per request, keyed by the hash of its content.

A row is written before a request is sent and again when it is answered, so whatever ends the process, nothing that was
answered is asked again. A file of zeros keeps room for the answers under way, and is removed for them when the disk is
full. Knows no endpoints and no tasks; one process at a time opens it (`locking`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_grounding.errors import DataError
from llava_grounding.own_files import is_own

STORE_FILE = "requests.sqlite"
STORE_VERSION = "1"
_ROOM_PER_ANSWER = 2**15  # bytes: 1,500 tokens, and the pages of the database that change with them
State = Literal["new", "sent", "batch", "answered", "refused", "failed"]
"""`sent`: no answer yet; `batch`: written to a batch file; `refused`: the endpoint will not take it; `failed`: it was
tried as often as allowed, and may be tried again."""
_SCHEMA = """
create table if not exists about(key text primary key, value text);
create table if not exists request(
  key text primary key, state text not null, model text not null, attempts integer not null default 0,
  answer text, error text, prompt_tokens integer, completion_tokens integer, batch text
) without rowid;
create index if not exists request_by_state on request(state);
"""


def request_key(settings: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Under which a request is kept: SHA-256 of its content, in hex.

    Args:
        settings: all that is the same in every request: versions of the prompt, model, sampling parameters.
        messages: all that is not.
    """
    digest = hashlib.sha256(settings.encode("utf-8", "surrogatepass"))
    for message in messages:
        for text in (message["role"], message["content"]):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()


def _as_text(text: str) -> str:
    """What a server or a file says, as the database can hold it: half of a surrogate pair is no character."""
    return text.encode("utf-8", "replace").decode()


def _check_own(path: Path) -> None:
    """Refuse a link, by which the store would be written over what it leads to."""
    with suppress(FileNotFoundError):
        if not is_own(path.lstat()):
            raise DataError(
                f"{path} is no store of requests: it is a link, or no file; remove it, or give another --out"
            )


@dataclass(frozen=True)
class Row:
    """What is known of a request.

    Args:
        answer: the model's text.
        error: what the endpoint said instead.
        batch: name of the batch file it was written to last.
    """

    key: str
    state: State
    attempts: int
    answer: str | None
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    batch: str | None


@dataclass(frozen=True)
class Usage:
    """Tokens and requests of all that a model answered."""

    requests: int
    prompt_tokens: int
    completion_tokens: int


class Store:
    """An open store.

    Raises:
        DataError: if the file is no store, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STORE_FILE
        for name in (STORE_FILE, *(f"{STORE_FILE}-{one}" for one in ("wal", "shm", "journal"))):
            _check_own(folder / name)
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute(
                "pragma synchronous = normal"
            )  # outlasts the process; after a power cut it may lack the last rows
            self._db.executescript(_SCHEMA)
            self._db.execute("insert or ignore into about values ('version', ?)", (STORE_VERSION,))
            version = self.about("version")
        except sqlite3.Error as error:
            raise DataError(f"{self.path} is no store of requests: {error}; give another --out") from error
        self._spare = folder / f"{STORE_FILE}-spare"
        self._is_full = False
        if version != STORE_VERSION:
            raise DataError(
                f"{self.path} must be a store of version {STORE_VERSION}, got {version}; finish it with the release "
                "that began it, or give another --out"
            )

    def close(self) -> None:
        """Close the file; what was committed is in it."""
        self._db.close()

    def about(self, key: str) -> str | None:
        """A fact about the store."""
        row = self._db.execute("select value from about where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, key: str, value: str) -> None:
        """Keep a fact about the store."""
        self._keep("insert or replace into about values (?, ?)", (key, value))

    def keep_room(self, answers: int) -> None:
        """Keep room on the disk for so many answers to requests that are under way.

        Raises:
            DataError: if there is none.
        """
        self._is_full = False
        try:
            self._spare.unlink(missing_ok=True)  # of a process that was killed, or a link
            with self._spare.open("xb") as file:
                for _ in range(answers):
                    file.write(bytes(_ROOM_PER_ANSWER))
        except OSError as error:
            self.give_up_room()
            raise DataError(
                f"cannot keep room for {answers} answers beside {self.path}: {error.strerror or error}; free "
                f"{answers * _ROOM_PER_ANSWER // 2**10} KiB, or ask fewer at once"
            ) from error

    def give_up_room(self) -> bool:
        """Remove what `keep_room` keeps; whether there was any."""
        try:
            self._spare.unlink()
        except OSError:
            return False
        return True

    def get(self, key: str) -> Row | None:
        """What is known of a request; None if it was never made."""
        found = self._db.execute(
            "select key, state, attempts, answer, error, coalesce(prompt_tokens, 0), coalesce(completion_tokens, 0), "
            "batch from request where key = ?",
            (_as_text(key),),
        ).fetchone()
        return None if found is None else Row(*found)

    def sending(self, key: str, model: str) -> None:
        """Note that a request is about to be sent.

        Raises:
            DataError: if the disk is full, also where the room that was kept for answers is not.
        """
        with self._writing():
            if self._is_full:
                raise sqlite3.OperationalError("database or disk is full")
            self._db.execute(
                "insert into request(key, state, model, attempts) values (?, 'sent', ?, 1) "
                "on conflict(key) do update set state = 'sent', attempts = attempts + 1 where state != 'answered'",
                (key, model),
            )

    def answered(self, key: str, model: str, answer: str, prompt_tokens: int, completion_tokens: int) -> bool:
        """Note an answer; whether it is the first, as a later one is not kept."""
        done = self._keep(
            "insert into request(key, state, model, answer, prompt_tokens, completion_tokens) "
            "values (?, 'answered', ?, ?, ?, ?) on conflict(key) do update set state = 'answered', "
            "answer = excluded.answer, prompt_tokens = excluded.prompt_tokens, "
            "completion_tokens = excluded.completion_tokens, error = null where state != 'answered'",
            (key, model, answer, prompt_tokens, completion_tokens),
        )
        return done.rowcount == 1

    def failed(self, key: str, state: Literal["refused", "failed"], error: str) -> None:
        """Note that a request came to nothing."""
        self._keep(
            "update request set state = ?, error = ? where key = ? and state != 'answered'",
            (state, _as_text(error[:500]), key),
        )

    def exported(self, rows: Mapping[str, str], model: str) -> None:
        """Note that requests were written to batch files: key -> name of the file."""
        with self._writing():
            self._db.executemany(
                "insert into request(key, state, model, batch) values (?, 'batch', ?, ?) "
                "on conflict(key) do update set state = 'batch', batch = excluded.batch where state != 'answered'",
                [(key, model, batch) for key, batch in rows.items()],
            )

    def usage(self, model: str) -> Usage:
        """Usage of all answered requests of a model."""
        found = self._db.execute(
            "select count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) "
            "from request where model = ? and state = 'answered'",
            (model,),
        ).fetchone()
        return Usage(*map(int, found))

    def states(self) -> dict[str, int]:
        """How many requests there are in each state."""
        return dict(self._db.execute("select state, count(*) from request group by state order by state"))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Many look-ups in one transaction, which is several times faster; nothing may be written meanwhile."""
        self._db.execute("begin")
        try:
            yield
        finally:
            self._db.execute("rollback")

    def _keep(self, statement: str, values: Sequence[object]) -> sqlite3.Cursor:
        """Write what came of a request, into the room that was kept for it if there is no other."""
        with self._writing():
            try:
                return self._db.execute(statement, values)
            except sqlite3.OperationalError:
                if not self.give_up_room():
                    raise
                self._is_full = True
                return self._db.execute(statement, values)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:  # a full disk, above all
            raise DataError(f"cannot write {self.path}: {error}; nothing that was answered is lost") from error
