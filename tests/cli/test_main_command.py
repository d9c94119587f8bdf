"""The command as a whole: quick help, version, exit codes, one sentence for whatever goes wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from fake_engine import Result

import llava_grounding
from llava_grounding.benchmark.tasks import TASKS
from llava_grounding.cli import main
from llava_grounding.cli.outputs import write_files

Call = Callable[..., Result]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(llava_grounding.__file__).parents[1])}


def python(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter."""
    variables = {**ENVIRONMENT, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True, timeout=120
    )
    return done.stdout


def test_the_command_line_imports_neither_torch_nor_anything_else_that_is_slow() -> None:
    code = "import sys, llava_grounding.cli.main; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in python(code).split()}
    assert "llava_grounding" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "numpy", "PIL", "scipy", "rich", "pydantic", "safetensors"})


def test_a_question_that_does_not_fit_is_refused_before_anything_slow_is_loaded(photo: Path) -> None:
    code = (
        "import sys\nfrom llava_grounding.cli.main import run\n"
        f"assert run(['chat', {str(photo)!r}, '<region> or <region>?', '--click', '1,1']) == 2\nprint(*sys.modules)"
    )
    assert {name.split(".")[0] for name in python(code).split()}.isdisjoint({"torch", "transformers", "scipy"})


def test_help_takes_less_than_half_a_second(tmp_path: Path) -> None:
    spent = []
    for _ in range(4):  # processor time, for busy machines; the first one compiles, as installing does
        code = "import resource, subprocess, sys\n" + (
            "subprocess.run([sys.executable, '-m', 'llava_grounding.cli.main', '--help'], check=True,"
            " stdout=subprocess.DEVNULL)\n"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(used.ru_utime + used.ru_stime)"
        )
        spent.append(float(python(code, PYTHONPYCACHEPREFIX=str(tmp_path), PYTHONDONTWRITEBYTECODE="")))
    assert min(spent) < 0.5


def test_help_names_every_command(call: Call) -> None:
    result = call("--help")
    assert result.code == 0
    for name in ("chat", "ground", "render", "doctor"):
        assert f"\n  {name} " in result.out
    for name in ("chat", "ground", "render", "doctor"):
        assert call(name, "--help").code == 0


def test_nothing_at_all_shows_the_help_and_is_wrong_use(call: Call) -> None:
    result = call()
    assert result.code == 2
    assert "Commands:" in result.out


def test_version(call: Call) -> None:
    assert call("--version") == Result(0, f"llava-grounding {llava_grounding.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chta"], "No such command 'chta'"),
        (["--nope"], "No such option: --nope"),
        (["chat"], "Missing argument 'IMAGE'"),
        (["ground", "x.png"], "Missing argument 'PHRASE...'"),
        (["render", "a.json", "x.png"], "Missing argument 'OUT"),
    ],
)
def test_wrong_use_is_one_sentence_that_names_the_help(call: Call, arguments: list[str], words: str) -> None:
    result = call(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert words in result.err
    assert "--help`)" in result.err


def test_a_task_registered_after_the_first_command_is_there_until_it_is_not(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("benchmark", "brevity", "--help").code == 2
    with monkeypatch.context() as patched:
        patched.setitem(TASKS, "brevity", next(iter(TASKS.values())))
        assert "llava-grounding benchmark brevity" in call("benchmark", "brevity", "--help").out
        assert call("benchmark", "brevity", "build", "--help").code == 0
    assert call("benchmark", "brevity", "--help").code == 2


def test_debug_is_taken_from_anywhere_but_after_two_dashes() -> None:
    assert main._take_debug(["chat", "--debug", "a"]) == (True, ["chat", "a"])
    assert main._take_debug(["chat", "a"]) == (False, ["chat", "a"])
    assert main._take_debug(["chat", "--", "--debug"]) == (False, ["chat", "--", "--debug"])
    assert main._take_debug(["--debug", "--", "--debug"]) == (True, ["--", "--debug"])


def test_a_reader_that_stops_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from llava_grounding.cli.main import main; main(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=120
    )
    os.close(write)
    assert done.returncode in (0, 1)
    assert done.stderr == b""


def test_json_can_be_written_in_any_encoding() -> None:
    code = 'from llava_grounding.cli.common import print_json; print_json(\'{"text": "caf\\u00e9 \\U0001f600"}\')'
    for encoding in ("utf-8", "ascii", "latin-1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            env={**ENVIRONMENT, "PYTHONIOENCODING": encoding},
            check=True,
            timeout=120,
        )
        assert json.loads(done.stdout.decode(encoding)) == {"text": "café 😀"}


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(TypeError):
        write_files(folder, {"one": b"1", "two": "not bytes"})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
    write_files(folder, {"one": b"1", "two": b"2"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"one": b"1", "two": b"2"}
    with pytest.raises(TypeError):
        write_files(folder, {"one": b"new", "two": None})  # type: ignore[dict-item]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"one": b"1", "two": b"2"}


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_files(tmp_path, {"one": b"1"})
    (tmp_path / "other").touch()
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_disk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_files(tmp_path / "new", {"one": b"1"})
    assert list(tmp_path.iterdir()) == []


def test_the_schema_ships_with_the_package() -> None:
    assert (files("llava_grounding") / "schemas" / "answer.schema.json").is_file()
