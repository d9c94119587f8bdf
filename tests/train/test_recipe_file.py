"""Files of recipes: found by name from any folder, plain YAML of bounded size, whatever is in them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llava_grounding.errors import ConfigError
from llava_grounding.train.recipe import load_recipe
from llava_grounding.train.recipe_file import MAX_BYTES, MAX_DEPTH, find_recipe, shipped_recipes

LIST_BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}\n" for n in range(1, 10)
)


def message(folder: Path, content: str | bytes, overrides: dict[str, str] | None = None) -> str:
    """What is said of a recipe with this content; it takes no time worth mentioning."""
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    assert time.process_time() - start < 5
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    assert all(character.isprintable() for character in text)
    return text.replace(str(path), "FILE")


def test_a_recipe_that_ships_is_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"custom_data", "nano_pretrain", "nano_chat", "nano_read", "nano_joint"} <= shipped_recipes().keys()
    assert load_recipe("custom_data").start_from == "nano"
    (tmp_path / "custom_data").mkdir()
    assert load_recipe("custom_data").start_from == "nano"
    assert load_recipe("custom_data", {"steps": "7"}).steps == 7


def test_a_file_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("custom_data.yaml", "mine", "a.yml"):
        (tmp_path / name).write_text("stage: align\n")
        assert load_recipe(name).stage == "align"
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbfstage: align\n")
    assert load_recipe("mark.yaml").stage == "align"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("custom_dat", "there is no recipe `custom_dat`; did you mean `custom_data`?; those that ship are 7b_lora, "),
        ("zebra", "there is no recipe `zebra`; those that ship are 7b_lora, "),
        ("", "there is no recipe ``; those that ship"),
        (
            "configs/custom_data.yaml",
            "No such file or directory; `custom_data` ships with the package and is found",
        ),
        (
            "custom_data.yaml",
            "cannot read the recipe `custom_data.yaml`: No such file or directory; `custom_data`",
        ),
        ("no/zebra.yaml", "cannot read the recipe `no/zebra.yaml`: No such file or directory"),
        ("a\0b", "there is no recipe `a\\x00b`"),
        ("x" * 100_000, "there is no recipe `xxx"),
    ],
)
def test_an_unknown_recipe_is_answered_with_those_there_are(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_recipe(name)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"steps: [{'1,' * 120_000}]", "is not valid YAML: more than 20,000 values; is it a recipe?, line 1"),
        ("- 1\n" * 60_000, "more than 20,000 values; is it a recipe?, line 20000"),
        (f"{LIST_BOMB}stage: chat\nsteps: *a11\n", "anchors and aliases are not read; write the value out, line 1"),
        (f"{MERGE_BOMB}stage: chat\n", "anchors and aliases are not read; write the value out, line 1"),
        ("stage: chat\nsteps: *a\n", "anchors and aliases are not read; write the value out, line 2"),
        ("stage: chat\nlora: {<<: {rank: 8}}\n", "merge keys (`<<`) are not read; write the values out, line 2"),
        (f"stage: chat\nsteps: {'[' * 2000}", f"more than {MAX_DEPTH} lists and mappings in each other, line 2"),
        (f"stage: chat\nsteps: {'{a: ' * 2000}", f"more than {MAX_DEPTH} lists and mappings in each other, line 2"),
        ("".join(f"{' ' * n}a:\n" for n in range(400)), f"more than {MAX_DEPTH} lists and mappings in each other"),
        ("stage: chat\nsteps: 1\nsteps: 2\n", "the key `steps` stands there twice, line 3"),
        ("stage: chat\ndata: [{kind: custom, kind: photos}]\n", "the key `kind` stands there twice, line 2"),
        (f"stage: chat\nseed: {'1' * 100_000}\n", "a number is written in at most 300 characters, line 2"),
        (f"stage: chat\nseed: {'1:' * 100_000}1\n", "a number is written in at most 300 characters, line 2"),
        (f"stage: chat\nclip: {'1:' * 100_000}1.0\n", "a number is written in at most 300 characters, line 2"),
        ("stage: chat\nseed: !!int many\n", "`many` is no int, line 2"),
        ("stage: chat\nseed: !!bool many\n", "`many` is no bool, line 2"),
        ("stage: chat\nseed: !!timestamp many\n", "`many` is no timestamp, line 2"),
        ("stage: chat\nseed: 2020-99-99\n", "`2020-99-99` is no timestamp, line 2"),
        ("stage: chat\nseed: !!python/object/apply:os.system [ls]\n", "could not determine a constructor for the tag"),
        ("stage: chat\n? [a]\n: b\n", "a key must be text, line 2"),
        ("stage: chat\n---\nstage: chat\n", "is not valid YAML: but found another document, line 2"),
        ("stage: \x07\n", "is not valid YAML: special characters are not allowed"),
        ("a" * (MAX_BYTES + 1), "has more than 256 KiB; is it a recipe?"),
        ("stage: chat\nstage\n", "is not valid YAML: could not find expected ':', line 3"),
    ],
    ids=range(24),
)
def test_what_is_no_plain_yaml_is_one_sentence_with_file_and_line(content: str, words: str, tmp_path: Path) -> None:
    text = message(tmp_path, content)
    assert text.startswith("the recipe `FILE` ")
    assert words in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (f"steps: [{'x, ' * 10_000}]", "`steps` must be a whole number, got `['x', 'x', "),
        (f"stage: {'x' * 100_000}", "`stage` must be one of pretrain_grounder, chat, "),
        (f"{'x' * 1000}: 1", "unknown key `xxx"),
        ("seed: 99999999999999999999", "`seed` must be at most 4294967295, got `99999999999999999999`"),
        (f"seed: {'9' * 300}", "`seed` must be at most 4294967295, got `999999"),
        ("learning_rate: [9]", "`learning_rate` must be a number, got `[9]`"),
        ("learning_rate: .inf", "`learning_rate` must be a finite number, got `inf`"),
        ('stage: "\\x1b]0;x\\x07"', "got `\\x1b]0;x\\x07`"),
    ],
    ids=range(8),
)
def test_a_wrong_value_is_shown_cut_short(values: str, words: str, tmp_path: Path) -> None:
    stage = "" if values.startswith("stage") else "stage: chat\n"
    assert words in message(tmp_path, f"{stage}{values}\n")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("steps", "*a", "`steps` must be written in YAML, got `*a`: anchors and aliases are not read"),
        ("data", "[" * 2000, "more than 32 lists and mappings in each other"),
        ("lora", "{rank: 1, rank: 2}", "the key `rank` stands there twice"),
        ("seed", "1" * 5000, "a number is written in at most 300 characters"),
        ("a." * 100_000 + "b", "1", "unknown key `a`"),
    ],
    ids=range(5),
)
def test_overrides_go_through_the_same(key: str, value: str, words: str, tmp_path: Path) -> None:
    assert words in message(tmp_path, "stage: chat\n", {key: value})


def test_a_recipe_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        with pytest.raises(ConfigError, match=f"{name}` is no file, but a device or a pipe; give a file"):
            load_recipe(tmp_path / name)
