"""`--check`: what a recipe's sources hold, lack and have broken, told source by source."""

import json
from pathlib import Path

import pytest
import yaml
from data_sets import SOURCES, source, write_source

from llava_grounding.cli.main import main
from llava_grounding.data.readers.custom import CustomData
from llava_grounding.data.readers.registry import READERS
from llava_grounding.errors import ConfigError
from llava_grounding.train.batching.sources import check_sources


def test_it_tells_what_there_is_of_everything_that_has_files(tmp_path: Path) -> None:
    for kind in ("refcoco", "custom"):
        write_source(source(kind), tmp_path)
    lines: list[str] = []
    assert check_sources([{"kind": "scenes"}, source("refcoco"), source("custom")], tmp_path, lines.append)
    assert {"r_train: ok", "own data: ok", "  records: 1", "  records: 2", "  expressions: 2"} <= set(lines)


def test_a_broken_picture_is_told_and_the_rest_still_looked_at(tmp_path: Path) -> None:
    for kind in ("refcoco", "custom"):
        write_source(source(kind), tmp_path)
    (tmp_path / "r/images/1.png").write_bytes(b"broken")
    lines: list[str] = []
    assert not check_sources([source("refcoco"), source("custom")], tmp_path, lines.append)
    assert {"r_train: not ok", "own data: ok", "  broken images: 1"} <= set(lines)


def test_files_that_are_not_there_are_reported_and_the_rest_still_looked_at(tmp_path: Path) -> None:
    write_source(source("custom"), tmp_path)
    lines: list[str] = []
    assert not check_sources([source("llava"), source("custom")], tmp_path, lines.append)
    assert lines[0].startswith("llava: not ok: ")
    assert "talk.json" in lines[0]
    assert "own data: ok" in lines


@pytest.mark.parametrize("kind", SOURCES)
def test_missing_pictures_are_never_ok(kind: str, tmp_path: Path) -> None:
    write_source(source(kind), tmp_path)
    lines: list[str] = []
    assert check_sources([source(kind)], tmp_path, lines.append)
    picture = sorted((tmp_path / SOURCES[kind]["images"]).rglob("*.[jp][pn]g"))[0]
    picture.unlink()
    lines.clear()
    assert not check_sources([source(kind)], tmp_path, lines.append)
    assert lines[0].endswith(": not ok")
    assert any("missing" in line and line.endswith(": 1") for line in lines)
    assert any(picture.name in line for line in lines)


def test_all_that_is_wrong_with_own_data_is_counted_and_told_with_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(source("custom"), tmp_path)
    path = tmp_path / "o/instances.json"
    labels = json.loads(path.read_text())
    labels["annotations"] += [
        {**labels["annotations"][0], "id": 100 + n, "bbox": [0, 0, 0, 4], "segmentation": []} for n in range(30)
    ]
    labels["annotations"].append({**labels["annotations"][0], "id": 200, "category_id": 99})
    path.write_text(json.dumps(labels))
    turn = {"question": "What?", "answer": "[A dog](999)."}
    (tmp_path / "o/talk.json").write_text(json.dumps([{"image": "1.png", "turns": [turn]}]))
    values = source("custom", dialogues="o/talk.json")
    lines: list[str] = []
    assert not check_sources([values], tmp_path, lines.append)
    assert lines[0] == "own data: not ok"
    assert {
        "  records: 2",
        "  left out, bbox without area: 30",
        "    annotation 100: bbox must have an area, got corners (0.0, 0.0, 0.0, 4.0)",
        "    annotation 200: category_id 99 is no category of the file that can be used",
        "    entry 1: turn 1: a phrase names annotation 999, which is not there or unusable",
    } <= {line.replace("      ", "    ") for line in lines}
    again: list[str] = []
    monkeypatch.setitem(READERS, "mine", type("Mine", (CustomData,), {"may_be_mirrored": False}))
    assert not check_sources([{**values, "kind": "mine"}], tmp_path, again.append)
    assert again == lines
    lines.clear()
    assert check_sources([{**values, "strict": False}], tmp_path, lines.append)
    assert "  left out, bbox without area: 30" in lines


def test_own_data_of_which_nothing_is_left_is_counted_too(tmp_path: Path) -> None:
    write_source(source("custom"), tmp_path)
    path = tmp_path / "o/instances.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": []}))
    values = {key: value for key, value in source("custom").items() if key != "captions"}
    lines: list[str] = []
    assert not check_sources([values], tmp_path, lines.append)
    assert any(line.startswith("  left out, annotation of an unknown category: ") for line in lines)
    assert lines[-1].startswith("custom: not ok: nothing in custom can be talked about")


def test_the_command_ends_with_1_where_a_picture_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(source("gvc"), tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"stage": "chat", "steps": 1, "data": [source("gvc")]}))
    for code in (0, 1):
        with pytest.raises(SystemExit) as ended:
            main(["train", str(recipe), "--data", str(tmp_path), "--check"])
        assert (ended.value.code or 0) == code, capsys.readouterr()
        (tmp_path / "g/images/1.png").unlink(missing_ok=True)
    assert "left out, image missing: 1" in capsys.readouterr().out


def test_optional_files_need_not_be_there_and_a_wrong_key_is_an_error(tmp_path: Path) -> None:
    write_source(source("custom"), tmp_path)
    lines: list[str] = []
    assert check_sources([source("llava", optional=True), source("custom")], tmp_path, lines.append)
    assert lines[0].startswith("llava: left out: ")
    with pytest.raises(ConfigError, match="has no key"):
        check_sources([source("custom", imges="x")], tmp_path, lines.append)


def test_photos_of_the_pack_are_looked_at(mini_pack_root: Path) -> None:
    lines: list[str] = []
    assert check_sources([{"kind": "photos", "split": "val"}], mini_pack_root, lines.append)
    assert "  records: 4" in lines
