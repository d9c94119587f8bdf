"""Nothing that a file or a model says steers the terminal: titles, colours, directions, markup, false lines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import warnings
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from llava_grounding.benchmark.about import About, AboutSet
from llava_grounding.benchmark.results import Results, SystemResult
from llava_grounding.cli import main
from llava_grounding.cli.common import answer_json, print_json
from llava_grounding.cli.report import note, phrase_lines, say
from llava_grounding.cli.terminal import MAX_LINE, escape_json, guarded, printable
from llava_grounding.structures import GroundedAnswer, GroundedPhrase

STEERING = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, 0x2028, 0x2029)))
STEERING += "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
HOSTILE = "\x1b]0;pwned\x07\x1b[31mred\x9b2J\u202egnp.exe\r\u2066"
FORGED = f"{HOSTILE}\n2030-01-01 00:00:00,000 all is well"


def steers(text: str) -> list[str]:
    """Characters of a text that a terminal would obey; line ends are ours."""
    return [character for character in text if character in STEERING and character != "\n"]


def test_every_control_and_every_direction_has_a_stand_in() -> None:
    assert steers(printable(STEERING)) == []
    assert printable("\x1b\x7f\x9b\u202e\u2066\ud800") == "\ufffd" * 6
    assert printable("a\tb\rc") == "a b c"
    assert printable("Käse\n日本 😀 עברית 👩\u200d🚀") == "Käse\n日本 😀 עברית 👩\u200d🚀"


def test_what_is_said_and_noted_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    note(HOSTILE)
    answer = GroundedAnswer(HOSTILE, (GroundedPhrase(0, HOSTILE, (0, len(HOSTILE)), (), 0.1),), (1, 1), "", "m", 0, 0)
    for line in phrase_lines(answer):
        say(line)
    captured = capsys.readouterr()
    assert steers(captured.out + captured.err) == []


def test_json_holds_the_same_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{STEERING}\ud800 café 日本"
    for given in (text, text.replace("\ud800", "")):
        written = answer_json(GroundedAnswer(given, (), (1, 1), "", "m", 0, 0))
        assert steers(written) == []
        assert json.loads(written)["text"] == given
        print_json(json.dumps({"text": given}, ensure_ascii=False))
        printed = capsys.readouterr().out
        assert steers(printed) == []
        assert json.loads(printed)["text"] == given
    assert escape_json('{"a": "é 日本"}') == '{"a": "é 日本"}'


@pytest.mark.parametrize("name", ["llava_grounding.train.trainer", "transformers", "huggingface_hub", "", "anything"])
def test_a_log_record_is_one_printable_line_whoever_writes_it(name: str) -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)  # as a library would make it
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        with guarded():
            logger.error("left out number %d of %s: %s", 3, FORGED, "x" * 10**6)
            logger.error(FORGED)
            logger.error({"a": FORGED})
    finally:
        logger.removeHandler(handler)
    written = stream.getvalue()
    assert steers(written) == []
    assert written.count("\n") == 3
    assert len(written) < 4 * MAX_LINE


def test_a_traceback_in_the_log_is_printable() -> None:
    stream = StringIO()
    logger = logging.getLogger("anything")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        with guarded():
            try:
                raise ValueError(HOSTILE)
            except ValueError:
                logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    assert "Traceback (most recent call last)" in stream.getvalue()
    assert steers(stream.getvalue()) == []


def test_warnings_and_tracebacks_of_threads_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError(HOSTILE)

    with guarded():
        sys.stderr.write(warnings.formatwarning(UserWarning(FORGED), UserWarning, "file.py", 1))
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    written = capsys.readouterr().err
    assert "UserWarning" in written
    assert "ValueError" in written
    assert steers(written) == []


def test_outside_of_a_command_nothing_is_changed() -> None:
    before = logging.getLogRecordFactory(), sys.excepthook, threading.excepthook, warnings.formatwarning
    with guarded():
        pass
    assert before == (logging.getLogRecordFactory(), sys.excepthook, threading.excepthook, warnings.formatwarning)


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_printable_and_short_even_with_its_traceback(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(HOSTILE + "x" * 10**7)

    monkeypatch.setattr(main, "app", fail)
    assert main.run(["chat"], debug) == 1
    written = capsys.readouterr().err
    assert steers(written) == []
    assert ("Traceback" in written) == debug
    assert len(written) < 60_000
    assert written.rstrip("\n").rpartition("\n")[2].startswith("Error: unexpected RuntimeError: ")


def test_wrong_use_that_names_what_was_typed_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([HOSTILE], ["chat", f"--{HOSTILE}"], ["doctor", HOSTILE], ["render", HOSTILE, HOSTILE, HOSTILE]):
        assert main.run(arguments) == 2
        written = capsys.readouterr()
        assert steers(written.out + written.err) == []


def test_brackets_in_the_name_of_a_model_are_no_markup() -> None:
    asked = AboutSet("data", {}, {}, "", 1, "")
    about = About("", "data [bold]", "[b]rules", "1", asked, ("note [blink]x",), {}, {}, {})
    report = Results(about, (SystemResult("[red]m[/red][/nope]", 1, 1, 0, ()),))
    stream = StringIO()
    Console(file=stream, width=200).print(report.to_table())
    shown = "".join(stream.getvalue().split())
    for words in ("[red]m[/red][/nope]", "data[bold]", "note[blink]x"):
        assert words in shown


def test_a_panic_of_a_library_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class PanicException(BaseException):
        """What code in Rust raises, which is no Exception."""

    def fail(*_: object, **__: object) -> None:
        raise PanicException("called `Result::unwrap()` on an `Err` value")

    monkeypatch.setattr(main, "app", fail)
    assert main.run(["chat"]) == 1
    assert capsys.readouterr().err.startswith("Error: unexpected PanicException: called `Result::unwrap()`")


def test_a_log_that_nobody_can_read_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    code = (
        "import logging, sys\nfrom llava_grounding.cli import main\n"
        "def app(*a, **k):\n    logging.basicConfig(); [logging.error('x' * 5000) for _ in range(9)]\n"
        "main.app = app\nmain.main(['doctor'])"
    )
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stderr=full, stdout=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"")
