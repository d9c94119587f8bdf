"""The convert command, on the small release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.joined import released_settings, write_released
from llava_grounding.cli.main import run
from public_parts import openseed_state_dict, save, semantic_sam_state_dict, write_llava, write_tower

RECORDED = Path(__file__).parents[1] / "golden" / "C_inference"


def test_a_conversion_is_reported_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_released(RECORDED, tmp_path / "released")
    tower = tmp_path / "tower.json"
    tower.write_text(json.dumps({"vision_config": dict(released_settings(RECORDED).vision_tower)}))
    sizes = ["--image-size", "160", "--queries", "30", "--tower", str(tower)]
    assert run(["convert", "official", str(source), str(tmp_path / "ours"), *sizes, "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "language_model            20 keys        184,320 parameters  bfloat16" in printed
    assert f"1 weight file in {tmp_path / 'ours'}" in printed
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["vision_config"]["num_attention_heads"] == 4
    assert not json.loads((tmp_path / "ours" / "processor_config.json").read_text())["demo_quirks"]


def test_what_goes_wrong_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["convert", "official", str(tmp_path / "empty"), str(tmp_path / "ours")]) == 1
    assert capsys.readouterr().err.startswith(f"Error: `{tmp_path / 'empty'}` has no weights: expected ")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    assert run(["convert", "official", str(tmp_path / "empty"), str(tmp_path / "full")]) == 2
    assert run(["convert", "official", str(tmp_path / "empty"), str(tmp_path / "ours"), "--tower", "nothing"]) == 1
    assert "is no configuration of a vision tower" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_public_parts_become_one_model_and_its_vision_modules_can_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, ours = write_llava(tmp_path / "llava", "llava"), tmp_path / "ours"
    openseed = str(save(openseed_state_dict(), tmp_path / "openseed.pt"))
    sam = str(save(semantic_sam_state_dict(), tmp_path / "sam.pth"))
    given = ["--openseed", openseed, "--semantic-sam", sam, "--vision-tower", str(write_tower(tmp_path / "clip"))]
    sizes = ["--image-size", "128", "--queries", "30", "--dtype", "float16"]
    assert run(["convert", "llava", str(source), str(ours), *given, *sizes]) == 0
    printed = capsys.readouterr().out
    assert "starts fresh: grounder.similarity_head, 2,049 parameters" in printed
    assert "4 keys left out: what they hold is a text encoder, whose place the language model takes" in printed
    assert "language_model            20 keys         62,464 parameters  float16" in printed
    again = ["convert", "vision", str(ours), str(tmp_path / "again"), "--semantic-sam", sam, "--prompt-tokens", "3"]
    assert run(again) == 0
    assert "3 of 6 queries per visual prompt kept" in capsys.readouterr().out
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["visual_prompt_config"]["num_mask_tokens"] == 3
    assert config["grounder_config"]["num_queries"] == 30
    assert run(["convert", "llava", str(source), str(tmp_path / "blind")]) == 1
    assert "has no vision tower: give the folder of a CLIP checkpoint" in capsys.readouterr().err
