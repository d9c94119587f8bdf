"""`doctor` tells what is there and what is not, and exits with 1 where chat does not run."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import Result

from llava_grounding.cli import doctor
from llava_grounding.model.presets import preset

Call = Callable[..., Result]


@pytest.fixture
def with_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "nano"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(2_500_000))
    monkeypatch.setattr(doctor, "_embedded_model", lambda: folder)
    return folder


def test_a_healthy_machine_is_described_one_line_each(call: Call, with_model: Path) -> None:
    result = call("doctor")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    starts = ["llava-grounding ", "python 3.", "torch 2.", "cpu: ", "processor: ", "embedded model nano: 2.5 MB in "]
    for start in starts:
        assert any(line.startswith(start) for line in lines), start
    assert any(re.match(r"chat, ground with the embedded model: yes, on (cpu|cuda:0|mps)$", line) for line in lines)
    assert any(line.startswith("a 7B model in bfloat16: ") for line in lines)


def test_the_json_has_it_all(call: Call, with_model: Path) -> None:
    report = json.loads(call("doctor", "--json").out)
    assert report["embedded_model_bytes"] == 2_500_000
    assert set(report["packages"]) == set(doctor.required_packages()[None])
    assert report["devices"][-1]["name"] == "cpu"
    assert report["cores"] >= 1
    assert report["problems"] == []


def test_what_is_missing_is_named_with_what_to_do(
    call: Call, with_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("scipy", "peft") else real(name))
    monkeypatch.setattr(doctor, "_embedded_model", lambda: None)
    result = call("doctor")
    assert result.code == 1
    assert "scipy MISSING" in result.out
    assert "PROBLEM: missing packages: scipy; install them with `pip install llava-grounding`" in result.out
    assert 'extra train: missing peft; install with `pip install "llava-grounding[train]"`' in result.out
    assert "embedded model nano: MISSING" in result.out
    assert "PROBLEM: the embedded model is not in this installation" in result.out
    assert "chat, ground with the embedded model: no, see below" in result.out


def test_a_torch_that_cannot_be_imported_is_a_problem_and_no_crash(
    call: Call, with_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    result = call("doctor")
    assert result.code == 1
    assert "PROBLEM: torch cannot be used: ModuleNotFoundError" in result.out


def test_seven_billion_weights_go_where_they_fit() -> None:
    gpu = doctor.Device("cuda:0", "a GPU", 80 * 2**30, 70 * 2**30)
    full = doctor.Device("cuda:0", "a GPU", 80 * 2**30, 2**30)
    cpu = doctor.Device("cpu", "x86_64", 64 * 2**30, 32 * 2**30)
    small = doctor.Device("cpu", "x86_64", 8 * 2**30, 4 * 2**30)
    assert doctor._seven_billion([gpu, cpu]) == "yes, on cuda:0"
    assert doctor._seven_billion([full, cpu]) == "yes, on cpu, slowly"
    assert doctor._seven_billion([full, small]) == "no, it takes about 17 GiB of free memory"


def test_the_packages_looked_for_are_those_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[2] / "pyproject.toml"
    core = tomllib.loads(path.read_text())["project"]["dependencies"]
    assert {re.split(r"[<>= ]", one)[0] for one in core} == set(doctor.required_packages()[None])
    lines = [
        "torch>=2.11",
        'peft>=0.17; extra == "train"',
        "ruff ; extra == 'dev'",
        'llava-grounding[train]; extra == "all"',
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert doctor.required_packages() == {None: ("torch",), "train": ("peft",)}


def test_a_model_is_counted_part_by_part(call: Call, with_model: Path) -> None:
    result = call("doctor", "--model", "official_7b")
    lines = result.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model official_7b: 7,"))
    assert lines[start].endswith(" parameters, 256 positions per image")
    assert "  vision_tower: 303,179,776" in lines[start:]
    assert any(re.match(r"  weights in bfloat16: 13\.\d GiB, fits ", line) for line in lines[start:])
    assert any(re.match(r"  weights in int4: \d\.\d GiB, fits ", line) for line in lines[start:])
    assert lines[-1] == "  and for every 1,000 positions of a dialogue, in bfloat16: 0.5 GiB"
    report = json.loads(call("doctor", "--json", "--model", "nano").out)
    assert report["model"]["name"] == "nano"
    assert report["model"]["parameters"] == sum(report["model"]["parts"].values())


def test_a_folder_is_counted_by_its_configuration_alone(call: Call, with_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    preset("nano").save_pretrained(folder)
    assert "model mine: " in call("doctor", "--model", str(folder)).out
    result = call("doctor", "--model", str(tmp_path))
    assert (result.code, result.out) == (1, "")
    assert "has no config.json" in result.err


def test_an_unknown_model_gets_the_nearest_name(call: Call, with_model: Path) -> None:
    result = call("doctor", "--model", "oficial_7b")
    assert (result.code, result.out) == (2, "")
    assert "unknown model `oficial_7b`; did you mean `official_7b`?; expected `official_7b`, `nano`" in result.err


def test_memory_that_no_device_has_is_said() -> None:
    model = doctor.Model("big", 10, {"grounder": 10}, {"float32": 40 * 2**30, "int4": 5 * 2**30}, 2**20, 256)
    devices = [doctor.Device("cuda:0", "a GPU", 24 * 2**30, 20 * 2**30), doctor.Device("cpu", "x", 8 * 2**30, 2**30)]
    assert doctor.describe_model(model, devices)[2:4] == [
        "  weights in float32: 40.0 GiB, fits no device here",
        "  weights in int4: 5.0 GiB, fits cuda:0",
    ]
