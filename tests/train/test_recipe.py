"""Recipes: from YAML with its traps, all problems in one message, and the ones we ship."""

from pathlib import Path
from typing import Any

import pytest

from llava_grounding.errors import ConfigError
from llava_grounding.model.presets import preset
from llava_grounding.train.recipe import Recipe, load_recipe, recipe_of, recipe_to_dict
from llava_grounding.train.workshop import STAGES

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        recipe_of({"stage": "chat", **values})
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_we_ship_can_be_run(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.stage in STAGES
    preset(recipe.preset)
    opening = path.read_text(encoding="utf-8").splitlines()[0]
    assert opening.startswith(f"# llava-grounding train configs/{path.name}")
    assert CONFIGS


def test_values_of_the_file_win_over_defaults_and_overrides_over_both(tmp_path: Path) -> None:
    path = write(tmp_path, "stage: chat\nsteps: 7\nstart_from: runs/first\nbf16: false\n")
    recipe = load_recipe(path, {"steps": "9", "start_from": "null", "photo_share": "0.25"})
    assert recipe == Recipe("chat", steps=9, bf16=False, photo_share=0.25)
    assert load_recipe(path).start_from == "runs/first"


@pytest.mark.parametrize(("written", "value"), [("1", 1.0), ("1e-3", 0.001), ("1.5e-3", 0.0015), ("0.5", 0.5)])
def test_a_rate_may_be_written_in_any_way_numbers_are(written: str, value: float, tmp_path: Path) -> None:
    rate = load_recipe(write(tmp_path, f"stage: chat\nlearning_rate: {written}\n")).learning_rate
    assert rate == value
    assert type(rate) is float
    assert load_recipe(write(tmp_path, "stage: chat\n"), {"clip": written}).clip == value


def test_all_problems_are_told_at_once() -> None:
    wrong = {"stepz": 5, "batch_size": "many", "bf16": 1, "steps": True, "learning_rate": "fast", "start_from": 3}
    assert message({**wrong, "seed": 1.5, "zzz": 0}) == (
        "unknown key `stepz`; did you mean `steps`?; "
        "`batch_size` must be int, got `many`; "
        "`bf16` must be bool, got `1`; "
        "`steps` must be int, got `True`; "
        "`learning_rate` must be float, got `fast`; "
        "`start_from` must be text or null, got `3`; "
        "`seed` must be int, got `1.5`; "
        "unknown key `zzz`"
    )


@pytest.mark.parametrize(
    ("key", "value", "limits"),
    [
        ("steps", 0, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("log_every", 0, "at least 1"),
        ("validation_samples", 0, "at least 1"),
        ("workers", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("photo_share", 1.5, "between 0 and 1"),
        ("learning_rate", "nan", "at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(key: str, value: Any, limits: str) -> None:
    shown = "nan" if value == "nan" else value
    assert message({key: value}) == f"`{key}` must be {limits}, got `{shown}`"


def test_edges_of_the_ranges_are_allowed() -> None:
    recipe_of({"stage": "chat", "photo_share": 1, "warmup": 0, "workers": 0, "num_points": 0, "steps": 1, "seed": 0})


def test_keys_that_are_no_text_and_a_missing_stage_are_problems_like_others() -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_of({1: 2})  # type: ignore[dict-item]
    assert str(caught.value) == "unknown key `1`; `stage` is missing"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- a\n- b\n", "must be a mapping of keys to values"),
        ("", "must be a mapping of keys to values"),
        ("stage: [chat\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(text: str, wanted: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"the recipe `{path}` {wanted}")


def test_a_missing_file_a_folder_and_binary_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*none.yaml`: No such file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*: Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00stage")
    with pytest.raises(ConfigError, match="binary` is not UTF-8 text"):
        load_recipe(tmp_path / "binary")


def test_an_override_that_is_no_yaml_is_told_with_the_other_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, "stage: chat\nstepz: 1\n"), {"steps": "[1"})
    assert str(caught.value) == "`steps` must be written in YAML, got `[1`; unknown key `stepz`; did you mean `steps`?"


def test_a_recipe_comes_back_from_its_dictionary() -> None:
    recipe = Recipe("chat", steps=3, start_from="runs/first", learning_rate=0.5)
    assert recipe_of(recipe_to_dict(recipe)) == recipe
