"""Recipes: from YAML with its traps, all problems in one message, and the ones we ship."""

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from llava_grounding.errors import ConfigError
from llava_grounding.model.presets import preset
from llava_grounding.train.losses.weights import LossWeights
from llava_grounding.train.plan import STAGES
from llava_grounding.train.recipe import _RANGES, LoraSettings, Recipe, Stage, load_recipe, recipe_of, recipe_to_dict
from llava_grounding.train.recipe_file import shipped_recipes

CONFIGS = sorted(shipped_recipes().values())


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
    command = r"(llava-grounding|torchrun --nproc-per-node \d+ -m llava_grounding)"
    assert re.match(rf"# {command} train {path.stem} --data \w+$", opening)
    assert CONFIGS


def test_every_stage_has_a_plan() -> None:
    assert set(get_args(Stage)) == STAGES.keys()


def test_values_of_the_file_win_over_defaults_and_overrides_over_both(tmp_path: Path) -> None:
    path = write(tmp_path, "stage: chat\nsteps: 7\nstart_from: runs/first\nbf16: false\n")
    recipe = load_recipe(path, {"steps": "9", "start_from": "null", "loss_weights.words": "0.25"})
    assert recipe == Recipe("chat", steps=9, bf16=False, loss_weights=LossWeights(words=0.25))
    assert load_recipe(path).start_from == "runs/first"


@pytest.mark.parametrize(("written", "value"), [("1", 1.0), ("1e-3", 0.001), ("1.5e-3", 0.0015), ("0.5", 0.5)])
def test_a_rate_may_be_written_in_any_way_numbers_are(written: str, value: float, tmp_path: Path) -> None:
    rate = load_recipe(write(tmp_path, f"stage: chat\nlearning_rate: {written}\n")).learning_rate
    assert rate == value
    assert type(rate) is float
    assert load_recipe(write(tmp_path, "stage: chat\n"), {"max_grad_norm": written}).max_grad_norm == value


def test_all_problems_are_reported_at_once() -> None:
    wrong = {"stepz": 5, "batch_size": "many", "bf16": 1, "steps": True, "learning_rate": "fast", "start_from": 3}
    assert message({**wrong, "seed": 1.5, "zzz": 0}) == (
        "unknown key `stepz`; did you mean `steps`?; "
        "`batch_size` must be a whole number, got `many`; "
        "`bf16` must be true or false or auto, got `1`; "
        "`steps` must be a whole number, got `True`; "
        "`learning_rate` must be a number, got `fast`; "
        "`start_from` must be text or null, got `3`; "
        "`seed` must be a whole number, got `1.5`; "
        "unknown key `zzz`"
    )


@pytest.mark.parametrize(
    ("key", "value", "limits"),
    [
        ("steps", 0, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("logging_steps", 0, "at least 1"),
        ("validation_samples", 0, "at least 1"),
        ("workers", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("warmup_ratio", 1.5, "between 0 and 1"),
        ("learning_rate", float("nan"), "a finite number"),
        ("learning_rate", "-inf", "a finite number"),
    ],
)
def test_numbers_out_of_range_are_refused(key: str, value: Any, limits: str) -> None:
    assert message({key: value}) == f"`{key}` must be {limits}, got `{value}`"


@pytest.mark.parametrize("key", _RANGES)
def test_every_range_has_its_limits_and_nothing_is_infinite(key: str) -> None:
    low, high = _RANGES[key]
    part, _, inner = key.partition(".")
    plain = Recipe("chat", lora=LoraSettings())
    group = getattr(plain, part) if inner else plain
    whole = not isinstance(getattr(group, inner or part), float)
    beyond = [low - 1] if whole else [low - 0.001, float("inf"), *([high + 0.001] if high == 1 else [])]
    for value in beyond:
        in_range = "between 0 and 1" if high == 1 else f"at least {low}"
        limits = in_range if math.isfinite(value) else "a finite number"
        told = message({part: {inner: value}} if inner else {key: value})
        assert told == f"`{key}` must be {limits}, got `{value}`"
    recipe_of({"stage": "chat", part: {inner: low} if inner else low})


@pytest.mark.parametrize(
    ("weight", "be"),
    [(0, "above 0"), (-1.5, "above 0"), ("much", "a number"), (None, "a number"), (float("inf"), "a finite number")],
)
def test_a_kind_of_question_must_have_a_weight(weight: object, be: str) -> None:
    shown = 0.0 if weight == 0 else weight
    assert message({"question_weights": {"count": 2, "list": weight}}) == (
        f"`question_weights.list` must be {be}, got `{shown}`"
    )
    assert recipe_of({"stage": "chat", "question_weights": {"count": 2}}).question_weights == {"count": 2.0}


@pytest.mark.parametrize("field", fields(Recipe), ids=lambda field: field.name)
def test_every_field_refuses_what_is_of_another_type(field: Any) -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    assert re.fullmatch(rf"`{field.name}` must be [^,;]+(, [^;]+)*, got `odd`", message({field.name: Odd()}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"stage": "caht"}, "`stage` must be one of .*set_of_mark, got `caht`; did you mean `chat`\\?"),
        ({"stage": ["chat"]}, "`stage` must be one of .*"),
        ({"weights": "int5"}, "`weights` must be one of float32, bfloat16, int8, int4, got `int5`; did you mean .*"),
        (
            {"sharding": "zero"},
            "`sharding` must be one of none, fsdp, zero2, zero3, got `zero`; did you mean `zero2`\\?",
        ),
        ({"sharding": None}, "`sharding` must be one of .*, got `None`"),
        ({"freeze": "grounder"}, "`freeze` must be a list, each text, got `grounder`"),
        ({"freeze": ["grounder", 1]}, "`freeze.1` must be text, got `1`"),
        ({"data": "scenes"}, "`data` must be a list, each a mapping, got `scenes`"),
        ({"data": {"kind": "scenes"}}, "`data` must be a list, each a mapping, got .*"),
        ({"data": ["scenes"]}, "`data.0` must be a mapping, got `scenes`"),
        ({"data": []}, "`data` must name at least one source"),
        ({"data": [{"weight": 1}]}, "every source in `data` must name its `kind`"),
        ({"validation": [{}]}, "every source in `validation` must name its `kind`"),
        ({"lora": 8}, "`lora` must be a mapping or null, got `8`"),
        ({"lora": {"rnak": 8}}, "unknown key `lora.rnak`; did you mean `rank`\\?"),
        (
            {"lora": {"rank": "many", "alpha": 0}},
            "`lora.rank` must be a whole number, got `many`; `lora.alpha` must be at least .*",
        ),
        ({"lora": {"targets": "q_proj"}}, "`lora.targets` must be a list, each text, got `q_proj`"),
        ({"weights": "int4"}, "weights in int4 cannot learn: add `lora`"),
        ({"micro_batch_size": 0}, "`micro_batch_size` must be at least 1, got `0`"),
        ({"class_task": "yes"}, "`class_task` must be true or false or null, got `yes`"),
    ],
)
def test_values_inside_and_of_a_few_kinds_are_refused_in_words(values: dict[str, Any], expected: str) -> None:
    assert re.fullmatch(expected, message(values))


def test_overrides_reach_inside(tmp_path: Path) -> None:
    path = write(tmp_path, "stage: chat\nlora: null\ndata:\n- {kind: scenes}\n- {kind: custom, images: a}\n")
    given = {"lora.rank": "8", "data.0.weight": "2", "data.1.dialogue.mirror": "0.5", "data.1.images": "b"}
    recipe = load_recipe(path, given)
    assert recipe.lora == LoraSettings(rank=8)
    assert recipe.data == (
        {"kind": "scenes", "weight": 2},
        {"kind": "custom", "images": "b", "dialogue": {"mirror": 0.5}},
    )
    assert load_recipe(write(tmp_path, "stage: chat\n"), {"lora.alpha": "64"}).lora == LoraSettings(alpha=64)
    assert load_recipe(path, {"data": "[{kind: photos}]", "lora.rank": "4", "lora.targets": "[c_attn]"}).data == (
        {"kind": "photos"},
    )


@pytest.mark.parametrize("key", ["data.5.weight", "data.x.weight", "stage.x", "steps.0", "data.0.kind.x", "data.-9"])
def test_overrides_that_lead_nowhere_are_named_with_the_other_problems(key: str, tmp_path: Path) -> None:
    path = write(tmp_path, "stage: chat\nsteps: 5\ndata: [{kind: scenes}]\nstepz: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, {key: "1"})
    nowhere = f"unknown key `{key}`: the recipe has nothing there"
    assert str(caught.value) == f"{nowhere}; unknown key `stepz`; did you mean `steps`?"


def test_an_override_of_a_misspelt_setting_inside_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key `lora.rnk`; did you mean `rank`\?"):
        load_recipe(write(tmp_path, "stage: chat\n"), {"lora.rnk": "8"})


def test_edges_of_the_ranges_are_allowed() -> None:
    recipe_of({"stage": "chat", "beta2": 0, "warmup_ratio": 0, "workers": 0, "num_points": 0, "steps": 1, "seed": 0})


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
    assert str(caught.value) == (
        "`steps` must be written in YAML, got `[1`: expected ',' or ']', but got '<stream end>'; "
        "unknown key `stepz`; did you mean `steps`?"
    )


def test_a_recipe_comes_back_from_its_dictionary() -> None:
    recipe = Recipe("chat", steps=3, start_from="runs/first", learning_rate=0.5)
    assert recipe_of(recipe_to_dict(recipe)) == recipe


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipes_come_back_from_yaml(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, {"lora.targets": "[q_proj]", "freeze": "[grounder]", "data.0.dialogue": "{mirror: 0.5}"})
    saved = write(tmp_path, yaml.safe_dump(recipe_to_dict(recipe)))
    assert load_recipe(saved) == recipe
    assert recipe.lora is not None
