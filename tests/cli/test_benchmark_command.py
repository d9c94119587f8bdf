"""The benchmark command, with a blind baseline in place of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_engine import Result
from typer.testing import CliRunner

from llava_grounding.benchmark import quality
from llava_grounding.benchmark.baselines import MostFrequentAnswerBaseline
from llava_grounding.cli.benchmark_tasks import _spec, benchmarks
from llava_grounding.errors import ConfigError, DataError, UsageError
from llava_grounding.scenes.synthetic import draw_scene


@pytest.fixture
def blind_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with weights that loads as a blind baseline."""
    folder = tmp_path / "blind"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    baseline = MostFrequentAnswerBaseline([draw_scene(seed) for seed in range(3)])
    place = "llava_grounding.inference.engine.GroundedChat.from_pretrained"
    monkeypatch.setattr(place, lambda *_args, **_kwargs: baseline)
    return folder


def run(*arguments: Any) -> Any:
    return CliRunner(env={"COLUMNS": "200", "LLAVA_GROUNDING_DATA": ""}).invoke(benchmarks, [str(a) for a in arguments])


def test_scenes_print_a_table_and_write_the_report(
    blind_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(quality.evaluate_scenes, baseline_scenes=5)  # to copy from; drawing 200 takes seconds
    monkeypatch.setattr(quality, "evaluate_scenes", few)
    file = tmp_path / "reports" / "scenes.json"
    result = run("scenes", "--model", blind_model, "--limit", 2, "--report", file)
    assert result.exit_code == 0, result.output
    assert "grounded F1 (box IoU 0.5)" in result.stdout
    assert "centre box" in result.stdout
    report = json.loads(file.read_text(encoding="utf-8"))
    assert (report["task"], report["num_images"], report["model"]) == ("scenes", 2, "blind")
    assert len(report["model_hash"]) == 64
    assert [path.name for path in file.parent.iterdir()] == ["scenes.json"]
    page, pictures = tmp_path / "scenes.md", tmp_path / "pictures"
    others = ("--report", page, "--pictures", pictures)
    printed = run("scenes", "--model", blind_model, "--limit", 2, "--json", *others)
    assert json.loads(printed.stdout)["num_images"] == 2
    assert "| metric | blind |" in page.read_text(encoding="utf-8")
    assert [path.name for path in sorted(pictures.iterdir())] == ["1001000000.png", "1001000001.png"]


def test_scenes_go_in_steps_as_well_and_need_no_place_of_pictures(
    blind_model: Path, tmp_path: Path, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = MostFrequentAnswerBaseline.ask_batch
    monkeypatch.setattr(MostFrequentAnswerBaseline, "ask_batch", lambda chat, asked, **_limits: answer(chat, asked))
    file, out = tmp_path / "set.jsonl", tmp_path / "results"
    for step in (
        ["build", "--limit", 1, "--out", file],
        ["run", "--set", file, "--out", out, "--model", blind_model],
        ["score", "--set", file, "--out", out],
    ):
        assert call("benchmark", "scenes", *step).err.count("Error") == 0
    report = json.loads((out / "report.json").read_text())
    (result,) = report["results"]
    assert (report["task"], result["counts"]["failed"], result["counts"]["images"]) == ("scenes", 0, 1)
    assert result["metrics"][0]["name"] == "grounded precision (box IoU 0.5)"


def test_a_report_replaces_no_file_of_the_model_or_the_data(
    blind_model: Path, mini_pack_root: Path, tmp_path: Path
) -> None:
    before = (blind_model / "model.safetensors").read_bytes()
    result = run("scenes", "--model", blind_model, "--limit", 2, "--report", blind_model / "model.safetensors")
    assert "would overwrite a file of the model" in str(result.exception)
    assert (blind_model / "model.safetensors").read_bytes() == before
    (tmp_path / "pack").symlink_to(mini_pack_root)
    place = tmp_path / "pack" / "instances_val.json"
    result = run("photos", "--model", blind_model, "--data", mini_pack_root, "--report", place)
    assert "would overwrite a file of the data" in str(result.exception)
    for json_file, words in ((tmp_path, "is a folder"), ("", "must not be empty"), (place / "x.json", "is none")):
        result = run("scenes", "--model", blind_model, "--report", json_file)
        assert words in str(result.exception)
    assert "device must be" in str(run("scenes", "--model", blind_model, "--device", "banana").exception)
    assert "give its folder with --data" in str(run("photos", "--model", blind_model).exception)


def test_usage_names_no_command_that_nobody_types(call: Callable[..., Result]) -> None:
    for arguments in (["scenes", "--help"], ["scenes", "build", "--help"], ["--help"]):
        said = call("benchmark", *arguments)
        assert said.code == 0
        assert "quality" not in said.out
    assert "(see `llava-grounding benchmark scenes --help`)" in call("benchmark", "scenes", "--limit", 0).err


def test_options_in_front_of_a_step_are_refused(call: Callable[..., Result], tmp_path: Path) -> None:
    said = call("benchmark", "scenes", "--limit", 3, "build", "--out", tmp_path / "set.jsonl")
    assert (said.code, said.err) == (2, "Error: --limit must stand after build, if that step takes it\n")
    assert not any(tmp_path.iterdir())


def test_a_run_says_how_many_queries_the_grounder_shall_pick(tmp_path: Path) -> None:
    place = str(tmp_path)
    spec = _spec(None, place, None, None, 8, 50)
    assert spec.num_queries == spec.about()["num_queries"] == 50
    assert "num_queries" not in _spec(None, place, None, None, 8, None).about()
    with pytest.raises(UsageError, match="a server decides by itself how many object queries it has"):
        _spec("m", place, None, "http://127.0.0.1:1/v1", 8, 50)


def test_photos_need_no_training_split(blind_model: Path, mini_pack_root: Path) -> None:
    result = run("photos", "--model", blind_model, "--data", mini_pack_root)
    assert result.exit_code == 0, result.output
    assert "POPE accuracy" in result.stdout
    assert "Photos: the photo pack's val split" in result.stdout


def test_wrong_use_is_found_before_anything_is_asked(blind_model: Path, tmp_path: Path) -> None:
    assert isinstance(run("photos", "--model", blind_model).exception, DataError)
    assert isinstance(run("scenes", "--model", tmp_path / "nothing").exception, ConfigError)
    assert isinstance(run("sounds").exception, UsageError)
    assert run("scenes", "--limit", 0).exit_code == 2
