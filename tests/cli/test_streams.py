"""Standard streams: closed, full, unread, in any encoding; lines of a dialogue that are no text."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Result
from PIL import Image

import llava_grounding
from llava_grounding.cli import lines as lines_module
from llava_grounding.cli.common import ANSWER_FILES
from llava_grounding.structures import VisualPrompt

Call = Callable[..., Result]
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(llava_grounding.__file__).parents[1]), str(HERE)])}
# The command with the fake engine in place of a model. `slow` in a question takes a while to be answered.
COMMAND = """
import sys, time
from fake_engine import FakeEngine, FakeTalk
from llava_grounding.cli import common, main
stream = FakeTalk.stream
def slow(self, question, *given, **settings):
    for event in stream(self, question, *given, **settings):
        yield event
        if "slow" in question:
            time.sleep(30)
FakeTalk.stream = slow
common.load_engine = lambda *_: FakeEngine()
main.main(sys.argv[1:])
"""


def command(*arguments: object, redirect: str = "", stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, with streams as a shell redirects them."""
    words = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    line = ["sh", "-c", f'exec "$@" {redirect}', "sh", *words]
    return subprocess.run(line, input=stdin, capture_output=True, env=ENVIRONMENT, timeout=60)


def test_with_stdout_closed_the_answer_is_written_all_the_same(photo: Path, tmp_path: Path) -> None:
    done = command("chat", photo, "What?", "--out", tmp_path / "out", redirect=">&-")
    assert (done.returncode, done.stdout) == (0, b"")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(ANSWER_FILES)
    assert command("--help", redirect=">&-").returncode == 0


def test_with_stderr_closed_exit_codes_are_those_that_are_documented(photo: Path, tmp_path: Path) -> None:
    assert command("chat", tmp_path / "missing.png", "What?", redirect="2>&-").returncode == 2
    assert command("chat", photo, "What?", "--model", redirect="2>&- >&- <&-").returncode == 2


def test_without_stdin_there_is_no_dialogue(photo: Path) -> None:
    done = command("chat", photo, redirect="<&-")
    assert done.returncode == 2
    assert done.stderr == b"Error: a dialogue needs standard input, which is closed; give a QUESTION\n"
    assert command("render", "-", photo, photo.with_name("out.png"), redirect="<&-").returncode == 1


def test_streams_of_a_program_without_any_are_the_null_device(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert call("chat", photo, "What?") == Result(0, "", "")
    assert call("chat", photo) == Result(2, "", "")
    assert sys.stdout is None


@pytest.mark.parametrize("stream", [">", "2>"])
def test_a_full_disk_behind_a_stream_is_one_sentence_or_nothing(photo: Path, stream: str) -> None:
    done = command("chat", photo, "What?", redirect=f"{stream}/dev/full")
    assert (done.returncode, done.stderr) == ((1, b"Error: No space left on device\n") if stream == ">" else (0, b""))
    assert command("chta", redirect=f"{stream}/dev/full").returncode == 2


def test_a_reader_that_stops_early_ends_a_dialogue_quietly(photo: Path) -> None:
    words = [sys.executable, "-c", COMMAND, "chat", str(photo)]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"One?\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"A disc, no birds.\n"
        process.stdout.close()
        process.stdin.write(b"Two?\n" * 50)
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 1)


def dialogue(call: Call, monkeypatch: pytest.MonkeyPatch, text: bytes, encoding: str, *arguments: object) -> Result:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding=encoding, errors="strict"))
    return call("chat", *arguments)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "euc-jp"])
def test_a_line_that_is_no_text_costs_that_line(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    text = b"What is it?\ncaf\xe9?\nAnd caf\xc3\xa9?\n\xff\xfe\n\x80\nHow many?"
    result = dialogue(call, monkeypatch, text, encoding, photo)
    assert [question for question, *_ in engine.asked] == ["What is it?", "And café?", "How many?"]
    assert result.err == "Error: the line is not UTF-8 text; it is left out\n" * 3
    assert result.code == 2


def test_a_line_in_the_encoding_of_the_locale_is_text(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dialogue(call, monkeypatch, b"caf\xe9?\ncaf\xc3\xa9?\n", "latin-1", photo).code == 0
    assert [question for question, *_ in engine.asked] == ["café?", "café?"]


def test_a_byte_order_mark_is_no_part_of_the_first_line(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"\xef\xbb\xbf/click 4,5\nWhat is <region>?\n"
    assert dialogue(call, monkeypatch, text, "ascii", photo).code == 0
    assert len(engine.asked[0][1]) == 1


def test_a_line_without_end_costs_that_line(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "MAX_BYTES", 2**16)
    text = b"One?\n" + b"x" * (5 * 2**16 + 7) + b"\nTwo?\n" + b"y" * 2**17
    result = dialogue(call, monkeypatch, text, "utf-8", photo)
    assert [question for question, *_ in engine.asked] == ["One?", "Two?"]
    assert result.err.count("Error: a line must have at most") == 2


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self.process, self.master = pty.fork()
        if self.process == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and so would we
            os.execve(sys.executable, [sys.executable, "-c", COMMAND, *map(str, arguments)], ENVIRONMENT)
        self.seen = b""

    def wait_for(self, words: bytes) -> None:
        """Read until the words come, and forget what came before."""
        while words not in self.seen:
            ready, _, _ = select.select([self.master], [], [], 60)
            assert ready, self.seen
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(words)[2]

    def type(self, words: bytes) -> None:
        os.write(self.master, words)

    def interrupt_until(self, words: bytes) -> None:
        """Press Ctrl-C until the words come.

        CPython's `input()` writes its prompt a moment before it waits for keys; a signal in between is noticed at the
        next one only.
        """
        for _ in range(20):
            self.type(b"\x03")
            if select.select([self.master], [], [], 3)[0]:
                break
        self.wait_for(words)

    def exit_code(self) -> int:
        try:
            while os.read(self.master, 4096):
                pass
        except OSError:  # how a terminal says that nobody is there any more
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self.master)
        return code


def test_ctrl_c_during_an_answer_loses_that_line_and_at_the_prompt_it_ends(photo: Path) -> None:
    terminal = Terminal("chat", photo)
    terminal.wait_for(b"> ")
    terminal.type(b"a slow one?\n")
    terminal.wait_for(b"A ")
    terminal.type(b"\x03")
    terminal.wait_for(b"Stopped; this question is not part of the dialogue.")
    terminal.wait_for(b"> ")
    terminal.type(b"a quick one?\n")
    terminal.wait_for(b"A disc, no birds.")
    terminal.wait_for(b"> ")
    terminal.interrupt_until(b"Interrupted")
    assert terminal.exit_code() == 130


def test_ctrl_c_in_a_piped_dialogue_ends_it(photo: Path) -> None:
    words = [sys.executable, "-c", COMMAND, "chat", str(photo)]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"slow?\nnever\n")
        process.stdin.flush()
        assert process.stdout.read(2) == b"A "
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().strip() == b"Interrupted"


def test_nothing_is_on_stdout_before_an_error(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.error = RuntimeError("no")
    monkeypatch.setattr("fake_engine.FakeTalk.stream", lambda self, *_, **__: iter([self.engine.ask(self.image, "")]))
    assert call("chat", photo, "What?").out == ""


def test_help_has_a_short_name_everywhere(call: Call) -> None:
    commands = [[], ["chat"], ["ground"], ["render"], ["doctor"], ["benchmark"], ["train"], ["convert"]]
    for words in [*commands, ["convert", "official"], ["convert", "llava"], ["convert", "vision"]]:
        assert call(*words, "-h") == call(*words, "--help")
        assert call(*words, "-h").code == 0


@pytest.mark.parametrize(
    ("option", "value", "prompt"),
    [
        ("--box", "1, 2, 30, 30", VisualPrompt.box(1, 2, 30, 30)),
        ("--box", " 1 ,2 , 30,30 ", VisualPrompt.box(1, 2, 30, 30)),
        ("--click", "1, 2", VisualPrompt.click(1, 2)),
        ("--scribble", "1, 2 30, 30", VisualPrompt.scribble([(1, 2), (30, 30)])),
        ("--scribble", "1 ,2   30 , 30", VisualPrompt.scribble([(1, 2), (30, 30)])),
        ("--scribble", "1,2 30,30", VisualPrompt.scribble([(1, 2), (30, 30)])),
    ],
)
def test_blanks_around_commas_are_no_matter(
    call: Call, engine: FakeEngine, photo: Path, option: str, value: str, prompt: VisualPrompt
) -> None:
    assert call("chat", photo, "What is <region>?", option, value).code == 0
    assert engine.asked[0][1] == (prompt,)


def test_pictures_of_any_name_are_answered(call: Call, engine: FakeEngine, tmp_path: Path) -> None:
    for name in ("-photo.png", "снимок 照片 🌞.png", "a\x1b[31m\nb.png", "with space'quote\".png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
        assert call("ground", tmp_path / name, "a sun").code == 0
